/*
 * The realtime service on a plain Postgres: what /realtime/v1 does, in SQL. On Supabase its own service does it instead,
 * and nothing here exists.
 *
 * `deskbase migrate` runs this after the migrations, every time: the schema holds no data, so it is made anew. Its
 * functions are for the service's login alone; claims that they are given have been admitted.
 *
 * Changes of rows come from the event log, which holds them whole. Who may see one is asked of the table's policies, with
 * the row from the log in the place of the table: so a row that is gone is judged like any other, and a replay tells
 * what was told at the time.
 */

drop schema if exists realtime_service cascade;
create schema realtime_service authorization supabase_realtime_admin;
comment on schema realtime_service is 'The realtime service''s statements; for the login of the API alone.';
grant usage on schema realtime_service to authenticator;
grant usage on schema realtime, private to supabase_realtime_admin;
grant usage on schema realtime to authenticator, integration;
-- Policies are read anew where a change is told, and name auth.uid() and the like.
grant usage on schema auth to integration;
grant execute on function private.rfc3339(timestamptz) to authenticator;
grant execute on function private.presence_meta(text, jsonb, jsonb), private.rfc3339(timestamptz),
    private.tg_events__bell() to supabase_realtime_admin;
set local role supabase_realtime_admin;

-- What a role may see of a table

create function realtime_service.policy(relation regclass, command "char", role name, is_check boolean) returns text
language sql stable
set search_path = ''
as $$
    select case
        when r.rolsuper or r.rolbypassrls or not c.relrowsecurity
            or (not c.relforcerowsecurity and pg_has_role(r.oid, c.relowner, 'usage')) then 'true'
        else coalesce((
            select '(' || string_agg(p.condition, ' or ') filter (where p.polpermissive) || ')'
                || coalesce(' and ' || string_agg(p.condition, ' and ') filter (where not p.polpermissive), '')
            from (
                select o.polpermissive, '(' || coalesce(
                    pg_get_expr(case when is_check then coalesce(o.polwithcheck, o.polqual) else o.polqual end, o.polrelid),
                    'true') || ')' as condition
                from pg_catalog.pg_policy as o
                where o.polrelid = c.oid and o.polcmd in (command, '*') and exists (
                    select from unnest(o.polroles) as u (oid)
                    where case when u.oid = 0 then true else pg_has_role(r.oid, u.oid, 'usage') end)
            ) as p
        ), 'false')
    end
    from pg_catalog.pg_class as c
    join pg_catalog.pg_roles as r on r.rolname = policy.role
    where c.oid = policy.relation
$$;
comment on function realtime_service.policy(regclass, "char", name, boolean) is
    'What row-level security asks of a row before a role may do something (a pg_policy.polcmd) with it, as an expression over the table''s columns.';

create function realtime_service.is_about_the_person(condition text) returns boolean
language sql immutable
set search_path = ''
-- Only these are known to ask for no more than the claims that all of an audience have in common; a name in quotes is none
-- of them.
return condition ~* '\m(from|current_user|session_user|current_role|user)\M' or condition ~ '"\s*[(.]' or exists (
    select from regexp_matches(condition, '([a-z_][a-z_0-9.]*)\s*\(', 'gi') as f (name)
    where lower(f.name[1]) <> all (array['and', 'or', 'not', 'in', 'any', 'all', 'select', 'when', 'then', 'else',
        'coalesce', 'nullif', 'lower', 'private.organization_id', 'private.contact_id', 'private.token_id',
        'private.member_role', 'private.is_agent', 'private.is_lead', 'private.is_admin', 'private.has_scope']));
comment on function realtime_service.is_about_the_person(text) is
    'Whether a condition may ask who exactly somebody is, and not only whose organization, role, contact or token it is.';

create function realtime_service.readable_columns(relation regclass, role name) returns text[]
language sql stable
set search_path = ''
as $$
    select array_agg(a.attname::text order by a.attnum)
    from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        and has_column_privilege(role, relation, a.attnum, 'select')
        and has_schema_privilege(role, c.relnamespace, 'usage')
$$;
comment on function realtime_service.readable_columns(regclass, name) is 'What of a table a role may read; null if nothing.';

create function realtime_service.key_columns(relation regclass) returns text[]
language sql stable
set search_path = ''
as $$
    select array_agg(a.attname::text order by a.attnum)
    from pg_catalog.pg_index as i
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
    where i.indrelid = relation and i.indisprimary
$$;
comment on function realtime_service.key_columns(regclass) is 'A table''s primary key; null if it has none.';

create function realtime_service.published_tables(schema_name text, table_name text) returns setof regclass
language sql stable
set search_path = ''
as $$
    select c.oid::regclass
    from pg_catalog.pg_publication_tables as p
    join pg_catalog.pg_namespace as n on n.nspname = p.schemaname
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = p.tablename
    where p.pubname = 'supabase_realtime' and published_tables.schema_name in ('*', p.schemaname::text)
        and published_tables.table_name in ('*', p.tablename::text)
$$;
comment on function realtime_service.published_tables(text, text) is 'The tables that a subscription to a name, or to *, hears of.';

-- Filters

create function realtime_service.condition(relation regclass, wanted jsonb) returns text
language sql stable
set search_path = ''
as $$
    select case when (wanted ->> 'is_negated')::boolean then 'not ' else '' end || '(' || case wanted ->> 'op'
        when 'eq' then format('%s = _c.value::%s', n.name, n.type)
        when 'neq' then format('%s <> _c.value::%s', n.name, n.type)
        when 'lt' then format('%s < _c.value::%s', n.name, n.type)
        when 'lte' then format('%s <= _c.value::%s', n.name, n.type)
        when 'gt' then format('%s > _c.value::%s', n.name, n.type)
        when 'gte' then format('%s >= _c.value::%s', n.name, n.type)
        when 'in' then format('%s = any (_c.value::%s[])', n.name, n.type)
        when 'like' then format('%s::text like _c.value', n.name)
        when 'ilike' then format('%s::text ilike _c.value', n.name)
        when 'match' then format('%s::text ~ _c.value', n.name)
        when 'imatch' then format('%s::text ~* _c.value', n.name)
        when 'isdistinct' then format('%s is distinct from _c.value::%s', n.name, n.type)
        when 'is' then case lower(wanted ->> 'value')
            when 'null' then format('%s is null', n.name)
            when 'true' then format('%s is true', n.name)
            when 'false' then format('%s is false', n.name)
            when 'unknown' then format('%s is unknown', n.name)
        end
    end || ')'
    from pg_catalog.pg_attribute as a
    -- Without a length or a precision: a cast to those would cut the value to something else.
    cross join lateral (select format('_row.%I', a.attname) as name, format_type(a.atttypid, -1) as type) as n
    where a.attrelid = relation and a.attname = wanted ->> 'column' and a.attnum > 0 and not a.attisdropped
$$;
comment on function realtime_service.condition(regclass, jsonb) is
    'A filter''s condition as an expression over _row, one of the table''s, and _c.value; null if there is no such column or operator.';

create function realtime_service.value(wanted jsonb) returns text
language sql immutable
set search_path = ''
return case
    when wanted ->> 'op' = 'in' then (
        select coalesce(array_agg(v.value), '{}') from jsonb_array_elements_text(wanted -> 'values') as v)::text
    else wanted ->> 'value'
end;
comment on function realtime_service.value(jsonb) is 'What a condition compares with, as text: of a list, an array''s.';

create function realtime_service.fault_in(binding jsonb, role name) returns text
language plpgsql stable
set search_path = ''
as $$
declare
    v_relation regclass;
    v_columns text[];
    v_wanted jsonb;
begin
    select t.oid into v_relation
    from realtime_service.published_tables(binding ->> 'schema', binding ->> 'table') as t (oid)
    limit 1;
    if not found then
        return format('%s.%s is not in the publication supabase_realtime', binding ->> 'schema', binding ->> 'table');
    end if;
    if '*' in (binding ->> 'schema', binding ->> 'table') then
        if jsonb_array_length(binding -> 'conditions') > 0 or jsonb_typeof(binding -> 'select') = 'array' then
            return 'a filter or a selection needs the name of a table and of its schema';
        end if;
        return null;
    end if;
    v_columns := realtime_service.readable_columns(v_relation, role);
    if v_columns is null then
        return null;
    end if;
    for v_wanted in select e.value from jsonb_array_elements(binding -> 'conditions') as e loop
        if v_wanted ->> 'column' <> all (v_columns) then
            return format('there is no column %s to filter by', v_wanted ->> 'column');
        end if;
        if realtime_service.condition(v_relation, v_wanted) is null then
            return format('%s.%s is no condition', v_wanted ->> 'op', v_wanted ->> 'value');
        end if;
        -- What a null or a short text would let pass, and a row would not.
        if v_wanted ->> 'op' in ('like', 'ilike') and v_wanted ->> 'value' ~ '(^|[^\\])(\\\\)*\\$' then
            return 'a pattern must not end with a backslash';
        end if;
    end loop;
    select e.value into v_wanted
    from jsonb_array_elements(case when jsonb_typeof(binding -> 'select') = 'array' then binding -> 'select' else '[]' end) as e
    where e.value #>> '{}' <> all (v_columns)
    limit 1;
    if found then
        return format('there is no column %s to select', v_wanted #>> '{}');
    end if;
    return null;
end
$$;
comment on function realtime_service.fault_in(jsonb, name) is
    'Why a role cannot subscribe to what a binding asks for; null if it can, as far as names tell.';

create function realtime_service.check_channel(claims jsonb, topic text, is_private boolean, bindings jsonb)
returns table (
    reads_broadcast boolean, writes_broadcast boolean, reads_presence boolean, writes_presence boolean,
    is_personal boolean, fault text
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_role constant name := claims ->> 'role';
    v_tests text[];
    v_values text[];
    v_probe text;
begin
    select max(realtime_service.fault_in(b.value, v_role)),
        coalesce(bool_or(realtime_service.is_about_the_person(realtime_service.policy(t.oid, 'r', v_role, false))), false)
    into fault, is_personal
    from jsonb_array_elements(bindings) as b
    left join lateral realtime_service.published_tables(b.value ->> 'schema', b.value ->> 'table') as t (oid) on true;
    if fault is null then
        -- A policy is read anew where a change is told, so that its names have to be the role's to use; a null shows
        -- whether a value can be read as the column's type, and only a text whether it is a pattern.
        with tables as (
            select b.value -> 'conditions' as conditions, t.oid, c.relname
            from jsonb_array_elements(bindings) as b
            cross join lateral realtime_service.published_tables(b.value ->> 'schema', b.value ->> 'table') as t (oid)
            join pg_catalog.pg_class as c on c.oid = t.oid
            where realtime_service.readable_columns(t.oid, v_role) is not null
        )
        select array_agg(x.statement), array_agg(x.value)
        into v_tests, v_values
        from (
            select distinct format('explain select %s from jsonb_populate_record(null::%s, ''{}'') as %I',
                realtime_service.policy(t.oid, 'r', v_role, false), t.oid, t.relname) as statement, null as value
            from tables as t
            union all
            select format('select %s from jsonb_populate_record(null::%s, ''{}'') as _row, (select $1 as value) as _c',
                    case when c.value ->> 'op' in ('match', 'imatch') then '''''::text ~ _c.value'
                        else realtime_service.condition(t.oid, c.value) end,
                    t.oid),
                realtime_service.value(c.value)
            from tables as t
            cross join lateral jsonb_array_elements(t.conditions) as c
        ) as x;
    end if;
    if is_private then
        v_probe := format($probe$
            select coalesce(bool_or(%1$s) filter (where extension = 'broadcast'), false),
                coalesce(bool_or(%2$s) filter (where extension = 'broadcast'), false),
                coalesce(bool_or(%1$s) filter (where extension = 'presence'), false),
                coalesce(bool_or(%2$s) filter (where extension = 'presence'), false)
            from jsonb_populate_recordset(null::realtime.messages, $1) as messages
            $probe$,
            case when has_table_privilege(v_role, 'realtime.messages', 'select')
                then realtime_service.policy('realtime.messages', 'r', v_role, false) else 'false' end,
            case when has_table_privilege(v_role, 'realtime.messages', 'insert')
                then realtime_service.policy('realtime.messages', 'a', v_role, true) else 'false' end);
    end if;
    perform private.enter(claims), set_config('realtime.topic', topic, true);
    if is_private then
        execute v_probe
        into reads_broadcast, writes_broadcast, reads_presence, writes_presence
        using (
            select jsonb_agg(jsonb_build_object('topic', topic, 'extension', x.name, 'private', true,
                'id', gen_random_uuid(), 'inserted_at', now() at time zone 'UTC', 'updated_at', now() at time zone 'UTC'))
            from unnest(array['broadcast', 'presence']) as x (name));
    else
        reads_broadcast := true;
        writes_broadcast := true;
        reads_presence := true;
        writes_presence := true;
    end if;
    begin
        for v_place in 1 .. coalesce(cardinality(v_tests), 0) loop
            execute v_tests[v_place] using v_values[v_place];
        end loop;
    exception
        when data_exception or integrity_constraint_violation or syntax_error_or_access_rule_violation
            or program_limit_exceeded then
            fault := sqlerrm;
    end;
    return next;
end
$$;
comment on function realtime_service.check_channel(jsonb, text, boolean, jsonb) is
    'What the holder of the claims may do on a channel, and what is wrong with the changes that they ask for. Public channels are everybody''s.';

-- Changes of rows

create function realtime_service.gone(relation regclass, keys text[], events jsonb) returns bigint[]
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_gone bigint[];
begin
    if keys is null then
        return '{}';
    end if;
    execute format($statement$
        select array_agg(_e.id)
        from jsonb_to_recordset($1) as _e (id bigint, record jsonb)
        cross join lateral jsonb_populate_record(null::%1$s, _e.record) as _r
        where _e.record is not null and not exists (select from %1$s as _t where %2$s)
        $statement$,
        relation, (select string_agg(format('_t.%1$I = _r.%1$I', k), ' and ') from unnest(keys) as k))
    into v_gone using events;
    return coalesce(v_gone, '{}');
exception
    -- Of a table that the definer may not read, what is seen no more counts as hidden.
    when insufficient_privilege then
        return '{}';
end
$$;
comment on function realtime_service.gone(regclass, text[], jsonb) is
    'Those of events whose row is there no more. Definer: a row that is only hidden from the reader is another thing.';

create function realtime_service.rendering(relation regclass, role name, wishes jsonb, out statement text, out wanted jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
    v_columns constant text[] := realtime_service.readable_columns(relation, role);
    v_keys constant text[] := realtime_service.key_columns(relation);
    v_table record;
    v_variants jsonb;
    v_conditions jsonb;
    v_cases text;
begin
    select n.nspname, c.relname into v_table
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = relation;
    with bindings as (
        select w.ordinality - 1 as wish, (b.value ->> 'id')::integer as binding, b.value ->> 'event' as event,
            b.value -> 'conditions' as conditions,
            coalesce(nullif(b.value -> 'select', 'null'), 'null') as selection
        from jsonb_array_elements(wishes) with ordinality as w
        cross join lateral jsonb_array_elements(w.value) as b
        where b.value ->> 'schema' in ('*', v_table.nspname) and b.value ->> 'table' in ('*', v_table.relname)
    ), variants as (
        select s.selection, row_number() over () as variant from (select distinct b.selection from bindings as b) as s
    ), conditions as (
        -- A column that is gone by now, or may not be read any more, meets no condition.
        select b.wish, b.binding, b.event, v.variant, realtime_service.value(c.value) as value, case
            when c.value ->> 'column' = any (v_columns) then coalesce(realtime_service.condition(relation, c.value), 'false')
            when c.value is not null then 'false'
        end as expression
        from bindings as b
        join variants as v on v.selection = b.selection
        left join lateral jsonb_array_elements(b.conditions) as c on true
    ), expressions as (
        select x.expression, row_number() over () as place
        from (select distinct c.expression from conditions as c where c.expression is not null) as x
    )
    select (select string_agg(format('when %s then %s', x.place, x.expression), ' ') from expressions as x),
        (
            select jsonb_agg(jsonb_build_object('wish', c.wish, 'binding', c.binding, 'event', c.event,
                'variant', c.variant, 'place', coalesce(x.place, 0), 'value', c.value))
            from conditions as c left join expressions as x on x.expression = c.expression
        ),
        (
            select jsonb_agg(jsonb_build_object('variant', v.variant, 'names', s.names, 'columns', (
                select jsonb_agg(jsonb_build_object('name', a.attname, 'type', t.typname) order by a.attnum)
                from pg_catalog.pg_attribute as a
                join pg_catalog.pg_type as t on t.oid = a.atttypid
                where a.attrelid = relation and s.names ? a.attname)))
            from variants as v
            cross join lateral (
                select jsonb_agg(u.name) as names from unnest(v_columns) as u (name)
                where v.selection = 'null' or v.selection ? u.name or u.name = any (v_keys)
            ) as s
        )
    into v_cases, v_conditions, v_variants;
    if v_columns is null or v_conditions is null then
        return;
    end if;
    wanted := jsonb_build_object('conditions', v_conditions, 'variants', v_variants,
        'keys', (select coalesce(jsonb_agg(k), '[]') from unnest(v_keys) as k where k = any (v_columns)));
    statement := format($statement$
        select _e.id, '{"ids":' || _m.ids || ',"data":' || _d.data::text, _m.wish
        from jsonb_to_recordset($1 -> 'events')
            as _e (id bigint, operation text, record jsonb, old_record jsonb, at text, is_kept boolean)
        cross join lateral (
            select (%1$s) as is_visible
            from jsonb_populate_record(null::%2$s, coalesce(_e.record, _e.old_record)) as %3$I
        ) as _v
        cross join lateral (
            select _b.wish, _b.variant, jsonb_agg(_b.binding order by _b.binding)::text as ids
            from (
                select _c.wish, _c.variant, _c.binding
                from jsonb_populate_record(null::%2$s, coalesce(_e.record, _e.old_record)) as _row
                cross join jsonb_to_recordset($1 -> 'conditions')
                    as _c (wish integer, binding integer, event text, variant integer, place integer, value text)
                where _c.event in ('*', _e.operation)
                group by _c.wish, _c.variant, _c.binding
                having bool_and(coalesce(case _c.place when 0 then true %4$s end, false))
            ) as _b
            group by _b.wish, _b.variant
        ) as _m
        join jsonb_to_recordset($1 -> 'variants') as _s (variant integer, names jsonb, columns jsonb)
            on _s.variant = _m.variant
        cross join lateral (
            select _e.operation = 'UPDATE' and not coalesce((
                    select (%1$s) from jsonb_populate_record(null::%2$s, _e.old_record) as %3$I), false) as was_hidden,
                greatest(pg_column_size(_e.record), pg_column_size(_e.old_record)) > 1048576 as is_large
        ) as _o
        cross join lateral (
            select jsonb_build_object('schema', %5$L, 'table', %6$L, 'commit_timestamp', _e.at, 'type', _e.operation,
                    'columns', _s.columns,
                    'errors', case when _o.is_large then '["Error 413: Payload Too Large"]'::jsonb end)
                || case when _e.record is null then '{}' else jsonb_build_object('record', (
                    select coalesce(jsonb_object_agg(_r.key, _r.value), '{}') from jsonb_each(_e.record) as _r
                    where _s.names ? _r.key and not (_o.is_large and pg_column_size(_r.value) > 80))) end
                || case when _e.old_record is null then '{}' else jsonb_build_object('old_record', (
                    select coalesce(jsonb_object_agg(_r.key, _r.value), '{}') from jsonb_each(_e.old_record) as _r
                    where case when _o.was_hidden then $1 -> 'keys' else _s.names end ? _r.key
                        and not (_o.is_large and pg_column_size(_r.value) > 80))) end as data
        ) as _d
        where _v.is_visible and (not _e.is_kept or %7$s)
        $statement$,
        realtime_service.policy(relation, 'r', role, false), relation, v_table.relname, v_cases, v_table.nspname,
        v_table.relname, case when v_keys <@ v_columns then format(
            'exists (select from jsonb_populate_record(null::%1$s, _e.record) as _p join %1$s as _t on %2$s)', relation,
            (select string_agg(format('_t.%1$I = _p.%1$I', k), ' and ') from unnest(v_keys) as k)) else 'true' end);
end
$$;
comment on function realtime_service.rendering(regclass, name, jsonb) is
    'The statement by which a role turns events of a table into messages for whoever wished for them, and its argument but for the events.';

create function realtime_service.render_changes(claims jsonb, events jsonb, wishes jsonb)
returns table (id bigint, body text, wish integer)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_statements text[];
    v_arguments jsonb[];
begin
    -- What happened a while ago is told as it was, if it may be seen still: whoever comes back has the rights of now.
    select array_agg(r.statement), array_agg(r.wanted || jsonb_build_object('events', case when g.past is null then g.events
        else (
            select jsonb_agg(case when (e.value ->> 'id')::bigint = any (n.gone) then e.value || '{"is_kept": false}'
                else e.value end)
            from realtime_service.gone(t.oid, realtime_service.key_columns(t.oid), g.past) as n (gone)
            cross join jsonb_array_elements(g.events) as e
        ) end))
    into v_statements, v_arguments
    from (
        select e.schema_name, e.table_name, jsonb_agg(jsonb_build_object('id', e.id, 'operation', e.operation,
                'record', e.record, 'old_record', e.old_record, 'at', private.rfc3339(e.at), 'is_kept', o.is_past)) as events,
            jsonb_agg(jsonb_build_object('id', e.id, 'record', e.record)) filter (where o.is_past) as past
        from private.logged_rows(render_changes.events) as e
        cross join lateral (
            select e.operation <> 'DELETE' and e.at < now() - interval '1 second' as is_past
        ) as o
        group by e.schema_name, e.table_name
    ) as g
    cross join lateral realtime_service.published_tables(g.schema_name, g.table_name) as t (oid)
    cross join lateral realtime_service.rendering(t.oid, (claims ->> 'role')::name, wishes) as r
    where g.table_name <> '*' and r.statement is not null;
    perform private.enter(claims);
    for v_place in 1 .. coalesce(cardinality(v_statements), 0) loop
        return query execute v_statements[v_place] using v_arguments[v_place];
    end loop;
end
$$;
comment on function realtime_service.render_changes(jsonb, jsonb, jsonb) is
    'What the holder of the claims is told of events, for each of the wishes (a channel''s bindings) that one meets: the payload up to the end of its data, whose last brace the position takes the place of.';

-- Broadcast and presence, between processes

create function realtime_service.tell_presence(topic text, private boolean, joins jsonb, leaves jsonb) returns void
language sql volatile
set search_path = ''
as $$
    insert into realtime.signals (kind, topic, private, payload)
    values ('presence', topic, private, jsonb_build_object('joins', joins, 'leaves', leaves)::text)
$$;
comment on function realtime_service.tell_presence(text, boolean, jsonb, jsonb) is 'Tells everybody on a topic who came and who went.';

create function realtime_service.seen(presence realtime.presences) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(presence.key, jsonb_build_object('metas', jsonb_build_array(
    presence.meta || jsonb_build_object('phx_ref', presence.ref))));
comment on function realtime_service.seen(realtime.presences) is 'A presence as clients are told of it.';

create function realtime_service.track(operation jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_old realtime.presences;
    v_new realtime.presences;
begin
    v_new.channel := operation ->> 'channel';
    v_new.process := operation ->> 'process';
    v_new.topic := operation ->> 'topic';
    v_new.private := operation ->> 'private';
    v_new.key := operation ->> 'key';
    v_new.ref := operation ->> 'ref';
    v_new.given := operation -> 'meta';
    select p.* into v_old from realtime.presences as p where p.channel = v_new.channel for update;
    if v_old.given = v_new.given and v_old.key = v_new.key then
        return;
    end if;
    v_new.meta := case when v_new.private
        then private.presence_meta(v_new.topic, operation -> 'claims', v_new.given) else v_new.given end;
    -- Who speaks lives: it must not be taken for dead, and this with it, at the same moment.
    insert into realtime.processes as p (id) values (v_new.process)
    on conflict (id) do update set seen_at = excluded.seen_at;
    insert into realtime.presences values (v_new.*)
    on conflict (channel) do update set key = excluded.key, ref = excluded.ref, given = excluded.given, meta = excluded.meta;
    perform realtime_service.tell_presence(v_new.topic, v_new.private,
        jsonb_build_object(v_new.key, jsonb_build_object('metas', jsonb_build_array(v_new.meta || jsonb_strip_nulls(
            jsonb_build_object('phx_ref', v_new.ref, 'phx_ref_prev', v_old.ref))))),
        case when v_old.channel is null then '{}' else realtime_service.seen(v_old) end);
end
$$;
comment on function realtime_service.track(jsonb) is 'Makes a channel present, or present in another way; the same again changes nothing.';

create function realtime_service.untrack(channels uuid[]) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_old realtime.presences;
begin
    for v_old in
        delete from realtime.presences as p
        where p.channel in (
            select l.channel from realtime.presences as l
            where l.channel = any (channels) order by l.channel for update skip locked)
        returning p.*
    loop
        perform realtime_service.tell_presence(v_old.topic, v_old.private, '{}', realtime_service.seen(v_old));
    end loop;
end
$$;
comment on function realtime_service.untrack(uuid[]) is 'Lets channels be present no more.';

create function realtime_service.broadcast(operation jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_binary constant bytea := decode(operation ->> 'binary', 'base64');
begin
    if (operation ->> 'persist')::boolean and (operation ->> 'private')::boolean then
        -- Its own trigger signals it.
        perform set_config('realtime.sender', coalesce(operation ->> 'sender', ''), true);
        insert into realtime.messages (topic, extension, event, private, payload, binary_payload)
        values (operation ->> 'topic', 'broadcast', operation ->> 'event', true, operation -> 'payload', v_binary);
        perform set_config('realtime.sender', '', true);
        return;
    end if;
    insert into realtime.signals (kind, topic, private, event, payload, binary_payload, sender)
    values ('broadcast', operation ->> 'topic', (operation ->> 'private')::boolean, operation ->> 'event',
        (operation -> 'payload')::text, v_binary, (operation ->> 'sender')::uuid);
end
$$;
comment on function realtime_service.broadcast(jsonb) is 'Sends a message to everybody on a topic, and keeps it for replay if asked to.';

create function realtime_service.publish(operations jsonb) returns table (place integer, fault text)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_operation record;
begin
    -- A message that a crash of the server takes back is no loss; waiting for the disk would be one.
    perform set_config('synchronous_commit', 'off', true);
    for v_operation in
        select o.value as wanted, (o.ordinality - 1)::integer as place
        from jsonb_array_elements(operations) with ordinality as o
    loop
        begin
            case v_operation.wanted ->> 'op'
                when 'broadcast' then perform realtime_service.broadcast(v_operation.wanted);
                when 'track' then perform realtime_service.track(v_operation.wanted);
                when 'untrack' then perform realtime_service.untrack(array[(v_operation.wanted ->> 'channel')::uuid]);
            end case;
        exception
            when sqlstate 'PT400' then
                place := v_operation.place;
                get stacked diagnostics fault = pg_exception_detail;
                return next;
        end;
    end loop;
end
$$;
comment on function realtime_service.publish(jsonb) is
    'Does what channels want to be told to others, in order: broadcast, track, untrack. Answers what was refused. Definer: the tables are the service''s alone.';

create function realtime_service.presence_state(topic text, private boolean) returns text
language sql stable security definer
set search_path = ''
as $$
    select coalesce(jsonb_object_agg(k.key, jsonb_build_object('metas', k.metas)), '{}')::text
    from (
        select p.key, jsonb_agg(p.meta || jsonb_build_object('phx_ref', p.ref)) as metas
        from realtime.presences as p
        where p.topic = presence_state.topic and p.private = presence_state.private
        group by p.key
    ) as k
$$;
comment on function realtime_service.presence_state(text, boolean) is
    'Who is present on a topic, by key. Definer: the tables are the service''s alone.';

create function realtime_service.replay(topic text, since_ms bigint, size integer)
returns table (id uuid, event text, payload text, binary_payload text)
language sql stable security definer
set search_path = ''
as $$
    select l.id, l.event, l.payload::text, translate(encode(l.binary_payload, 'base64'), E'\n', '')
    from (
        select m.*
        from realtime.messages as m
        where m.topic = replay.topic and m.private and m.extension = 'broadcast'
            and m.inserted_at >= to_timestamp(least(since_ms, 253402300799000) / 1000.0) at time zone 'UTC'
            and m.inserted_at < (now() + interval '1 minute') at time zone 'UTC'
        order by m.inserted_at desc
        limit least(size, 25)
    ) as l
    order by l.inserted_at
$$;
comment on function realtime_service.replay(text, bigint, integer) is
    'The latest messages of a private channel since a time (Unix milliseconds), oldest first. Definer: the caller has asked whether they may be read.';

create function realtime_service.look(since pg_snapshot, topics text[])
returns table (
    until text, kind text, topic text, private boolean, event text, payload text, binary_payload text, message_id uuid,
    sender uuid
)
language sql stable security definer
set search_path = ''
as $$
    select n.until::text, s.kind, s.topic, s.private, s.event, s.payload,
        translate(encode(s.binary_payload, 'base64'), E'\n', ''), s.message_id, s.sender
    -- A cursor from before a crash may be ahead: what it takes for seen is yet to come. It begins anew.
    from (
        select c.until, case when pg_snapshot_xmax(look.since) <= pg_snapshot_xmax(c.until) then look.since end as since
        from (select pg_current_snapshot() as until) as c
    ) as n
    left join realtime.signals as s
        on s.xid >= pg_snapshot_xmin(n.since) and s.xid < pg_snapshot_xmax(n.until)
            and not pg_visible_in_snapshot(s.xid, n.since) and pg_visible_in_snapshot(s.xid, n.until)
            and (topics is null or s.topic = any (topics))
    order by s.id
$$;
comment on function realtime_service.look(pg_snapshot, text[]) is
    'What was sent since a cursor, and the next cursor; without one that alone. Definer: the tables are the service''s alone.';

create function realtime_service.beat(process uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    insert into realtime.processes as p (id) values (beat.process)
    on conflict (id) do update set seen_at = excluded.seen_at;
    perform realtime_service.untrack(array(
        select r.channel
        from realtime.presences as r
        join realtime.processes as p on p.id = r.process
        where p.seen_at < now() - interval '8 seconds'));
    delete from realtime.processes as p
    where p.id in (
        select d.id from realtime.processes as d
        where d.seen_at < now() - interval '8 seconds'
            and not exists (select from realtime.presences as r where r.process = d.id)
        for update skip locked);
    delete from realtime.signals as s where s.at < now() - interval '1 minute';
end
$$;
comment on function realtime_service.beat(uuid) is
    'Says that a process lives; lets go what processes that do not say so any more have left, and signals that everybody has read. Definer: the tables are the service''s alone.';

create function realtime_service.leave(process uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform realtime_service.untrack(array(select r.channel from realtime.presences as r where r.process = leave.process));
    delete from realtime.processes as p where p.id = leave.process;
end
$$;
comment on function realtime_service.leave(uuid) is
    'Takes back all that a process has made present, because it stops. Definer: the tables are the service''s alone.';

create function realtime_service.tg_messages__signal() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    insert into realtime.signals (kind, topic, private, event, payload, binary_payload, message_id, sender)
    values ('broadcast', new.topic, coalesce(new.private, false), new.event, new.payload::text, new.binary_payload, new.id,
        nullif(current_setting('realtime.sender', true), '')::uuid);
    return null;
end
$$;
comment on function realtime_service.tg_messages__signal() is
    'Sends what is stored. Definer: whoever may store a message may have it sent, and reads nothing here.';

create trigger _900_signal after insert on realtime.messages
    for each row when (new.extension = 'broadcast') execute function realtime_service.tg_messages__signal();
drop trigger if exists _900_bell on realtime.signals;
create trigger _900_bell after insert on realtime.signals
    for each statement execute function private.tg_events__bell();

reset role;

-- Housekeeping, by the owner

create function realtime_service.maintain() returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_day date;
    v_partition record;
begin
    perform set_config('lock_timeout', '1s', true);
    for i in 0 .. 7 loop
        v_day := (now() at time zone 'UTC')::date + i;
        execute format(
            'create table if not exists realtime.messages_%s partition of realtime.messages for values from (%L) to (%L)',
            to_char(v_day, 'YYYY_MM_DD'), v_day::timestamp, (v_day + 1)::timestamp);
        execute format('alter table realtime.messages_%s owner to supabase_realtime_admin', to_char(v_day, 'YYYY_MM_DD'));
        execute format('alter table realtime.messages_%s enable row level security', to_char(v_day, 'YYYY_MM_DD'));
    end loop;
    for v_partition in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = 'realtime.messages'::regclass and c.relname ~ '^messages_\d{4}_\d{2}_\d{2}$'
            and to_date(substr(c.relname, 10), 'YYYY_MM_DD') < (now() at time zone 'UTC')::date - 3
    loop
        execute format('drop table realtime.%I', v_partition.relname);
    end loop;
exception
    when lock_not_available then
        raise warning 'Messages were busy; their partitions are left to the next hour.';
end
$$;
comment on function realtime_service.maintain() is
    'Run on every migration and every hour, by the owner: partitions of messages a week ahead and three days back.';

-- The log of tables of one's own. What is in the publication is logged; the desk's own tables bring their triggers.

create function realtime_service.tg__changes() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_record constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    v_old_record constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    v_organization_id text;
    v_table record;
begin
    -- A partition's change is told as its root's where that is what is published. Whose row it is, an organization_id tells
    -- where it is part of the key, as it is in the desk's own tables; of all others everybody's policies are asked.
    select n.nspname, c.relname, exists (
            select from pg_catalog.pg_index as i
            join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
            where i.indrelid = tg_relid and i.indisprimary and a.attname = 'organization_id') as is_tenants
    into v_table
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.oid = case when tg_nargs = 0 then tg_relid else pg_partition_root(tg_relid) end;
    if v_table.is_tenants then
        v_organization_id := coalesce(v_record, v_old_record) ->> 'organization_id';
    end if;
    insert into private.events (organization_id, type, schema_name, table_name, operation, record, old_record)
    values (case when v_organization_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then v_organization_id::uuid end,
        v_table.relname || case tg_op when 'INSERT' then '.created' when 'UPDATE' then '.updated' else '.deleted' end,
        v_table.nspname, v_table.relname, tg_op, v_record, v_old_record);
    return null;
end
$$;
comment on function realtime_service.tg__changes() is
    'Logs a change of a published table; with an argument, of a root of partitions. Definer: nobody writes the log directly.';
grant usage, create on schema realtime_service to deskbase_definer;
alter function realtime_service.tg__changes() owner to deskbase_definer;
alter function realtime_service.gone(regclass, text[], jsonb) owner to deskbase_definer;

create function realtime_service.follow_publication() returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_table record;
begin
    for v_table in
        select p.relation, p.is_followed, c.relkind = 'p' as is_root
        from (
            select t.relation, bool_or(t.is_published) as is_published, bool_or(t.is_followed) as is_followed,
                bool_or(t.is_logged) as is_logged
            from (
                select c.oid::regclass as relation, true as is_published, false as is_followed, exists (
                    select from pg_catalog.pg_trigger as g where g.tgrelid = c.oid and g.tgname = '_900_events') as is_logged
                from pg_catalog.pg_publication_tables as p
                join pg_catalog.pg_namespace as n on n.nspname = p.schemaname
                join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = p.tablename
                where p.pubname = 'supabase_realtime'
                    and p.schemaname not in ('private', 'realtime', 'auth', 'supabase_migrations')
                union all
                select g.tgrelid::regclass, false, true, false
                from pg_catalog.pg_trigger as g where g.tgname = '_900_realtime' and g.tgparentid = 0
            ) as t
            group by t.relation
        ) as p
        join pg_catalog.pg_class as c on c.oid = p.relation
        where not p.is_logged and p.is_published <> p.is_followed
        order by p.is_followed desc  -- a root and its partitions take turns
    loop
        begin
            if v_table.is_followed then
                execute format('drop trigger _900_realtime on %s', v_table.relation);
                execute format('drop trigger _900_realtime_update on %s', v_table.relation);
                continue;
            end if;
            execute format('create trigger _900_realtime after insert or delete on %s '
                'for each row execute function realtime_service.tg__changes(%s)',
                v_table.relation, case when v_table.is_root then '''root''' end);
            execute format('create trigger _900_realtime_update after update on %s '
                'for each row when (old.* *<> new.*) execute function realtime_service.tg__changes(%s)',
                v_table.relation, case when v_table.is_root then '''root''' end);
        exception
            when insufficient_privilege then
                raise warning 'Changes of % cannot be followed: it is another role''s.', v_table.relation;
        end;
    end loop;
end
$$;
comment on function realtime_service.follow_publication() is
    'Lets the log hold the changes of every table in the publication, and of no other. Definer: whoever publishes a table need not know of the log.';

create function realtime_service.tg__publication() returns event_trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if tg_tag like '% PUBLICATION'
        or exists (select from pg_event_trigger_ddl_commands() as c where c.schema_name is distinct from 'pg_temp') then
        perform realtime_service.follow_publication();
    end if;
end
$$;
comment on function realtime_service.tg__publication() is
    'Follows the publication whenever what is in it changes: by name, or because it has all tables or all partitions. Definer: see follow_publication.';

do $$
begin
    create event trigger deskbase_publication on ddl_command_end
        when tag in ('CREATE PUBLICATION', 'ALTER PUBLICATION', 'DROP PUBLICATION', 'CREATE TABLE', 'CREATE TABLE AS',
            'SELECT INTO', 'ALTER TABLE')
        execute function realtime_service.tg__publication();
exception
    when insufficient_privilege then
        -- Only a superuser may make one. Without it, a table that is published is followed from the next start on.
        raise notice 'Tables that are added to the publication are followed when Deskbase starts the next time.';
end
$$;
select realtime_service.follow_publication();

revoke execute on all functions in schema realtime_service from public;
grant execute on function
    realtime_service.policy(regclass, "char", name, boolean), realtime_service.is_about_the_person(text),
    realtime_service.readable_columns(regclass, name), realtime_service.key_columns(regclass),
    realtime_service.published_tables(text, text), realtime_service.condition(regclass, jsonb),
    realtime_service.value(jsonb), realtime_service.fault_in(jsonb, name),
    realtime_service.check_channel(jsonb, text, boolean, jsonb),
    realtime_service.gone(regclass, text[], jsonb),
    realtime_service.rendering(regclass, name, jsonb), realtime_service.render_changes(jsonb, jsonb, jsonb),
    realtime_service.publish(jsonb), realtime_service.presence_state(text, boolean),
    realtime_service.replay(text, bigint, integer), realtime_service.look(pg_snapshot, text[]),
    realtime_service.beat(uuid), realtime_service.leave(uuid)
    to authenticator;
