/*
 * The helpdesk contract: its words, its shapes, and its operations in the order of its document. Its ids are the numbers of
 * rows. An operation that takes claims enters as the person they are of, works under the policies from there on, and is for the
 * service's login alone. Categories, tags, templates and filters are kept in the same way, by the same five operations.
 */

create schema helpdesk;
comment on schema helpdesk is 'The helpdesk contract: tickets and all around them, by number.';
grant usage on schema helpdesk to authenticator, authenticated;

----------------------------------------------------------------------------------------------------------------------
-- Words
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.word(field text, canonical text) returns text
language sql immutable
set search_path = ''
return private.words('helpdesk') #>> array[field, canonical];
comment on function helpdesk.word(text, text) is 'What the contract calls a canonical status or priority.';

create function helpdesk.display(word text) returns text
language sql immutable
set search_path = ''
return initcap(replace(word, '_', ' '));
comment on function helpdesk.display(text) is 'A word as people read it: In Progress.';

create function helpdesk.time_since(moment timestamptz) returns text
language sql stable
set search_path = ''
return coalesce(
    (
        select format('%s %s%s ago', n.count, u.name, case when n.count > 1 then 's' end)
        from (values (31536000, 'year'), (2592000, 'month'), (604800, 'week'), (86400, 'day'), (3600, 'hour'), (60, 'minute'))
            as u (seconds, name)
        cross join lateral (select floor(extract(epoch from now() - moment) / u.seconds)) as n (count)
        where n.count >= 1
        order by u.seconds desc
        limit 1
    ), 'just now');
comment on function helpdesk.time_since(timestamptz) is 'How long ago a moment was, in its largest whole unit: 2 hours ago.';

----------------------------------------------------------------------------------------------------------------------
-- Shapes: a row of a table is shown as the type of the same meaning. row_to_json writes them without needless blanks.
----------------------------------------------------------------------------------------------------------------------

create type helpdesk.person as (id bigint, username text, email text);
comment on type helpdesk.person is 'A user, where something else names them.';

create type helpdesk.label as (id bigint, name text, color text);
comment on type helpdesk.label is 'A category or a tag, where a ticket names it.';

create type helpdesk.listed_ticket as (
    id bigint, title text, status text, status_display text, priority text, priority_display text,
    assigned_to helpdesk.person, category helpdesk.label, tags helpdesk.label[], created_at text, updated_at text,
    due_date text, time_since_created text, comment_count bigint
);
comment on type helpdesk.listed_ticket is 'A ticket in a list.';

create type helpdesk.ticket_details as (description text, created_by helpdesk.person, resolution text);
comment on type helpdesk.ticket_details is 'What a ticket by itself shows beyond that.';

create type helpdesk.comment as (
    id bigint, content text, is_internal boolean, author helpdesk.person, created_at text, updated_at text
);
comment on type helpdesk.comment is 'A comment.';

create type helpdesk.category as (id bigint, name text, description text, color text, created_at text);
comment on type helpdesk.category is 'A category, or a tag.';

create type helpdesk.popular_tag as (id bigint, name text, description text, color text, usage_count bigint);
comment on type helpdesk.popular_tag is 'A tag and how many tickets carry it.';

create type helpdesk.template as (
    id bigint, title text, content text, category text, variables text[], is_public boolean, created_by helpdesk.person,
    created_at text, updated_at text
);
comment on type helpdesk.template is 'A text to answer with.';

create type helpdesk.used_template as (processed_content text, original_content text, variables text[]);
comment on type helpdesk.used_template is 'A template with its variables filled in.';

create type helpdesk.filter as (
    id bigint, name text, filter_params jsonb, is_public boolean, created_by helpdesk.person, created_at text, updated_at text
);
comment on type helpdesk.filter is 'A saved filter.';

create type helpdesk.member as (id bigint, username text, email text, name text, role text, is_active boolean);
comment on type helpdesk.member is 'A user.';

create type helpdesk.stats as (
    total_tickets bigint, open_tickets bigint, in_progress_tickets bigint, resolved_tickets bigint, closed_tickets bigint,
    overdue_tickets bigint, tickets_by_priority json, tickets_by_category json, avg_resolution_time numeric,
    tickets_created_today bigint, tickets_resolved_today bigint
);
comment on type helpdesk.stats is 'The numbers of a dashboard.';

create type helpdesk.notification as (
    id bigint, type text, title text, message text, ticket bigint, is_read boolean, created_at text
);
comment on type helpdesk.notification is 'Something that a user is told of.';

create function helpdesk.person_of(member_id uuid) returns helpdesk.person
language sql stable
set search_path = ''
return (select row(m.number, m.username, m.email)::helpdesk.person from public.members as m where m.id = member_id);
comment on function helpdesk.person_of(uuid) is 'A member, if the one who asks sees them.';

-- Rows are shown together, so that what the policies ask is asked once for all of them.

create function helpdesk.shown(rows public.tickets[]) returns setof helpdesk.listed_ticket
language sql stable
set search_path = ''
begin atomic
    select
        r.number,
        r.subject,
        helpdesk.word('status', r.status),
        helpdesk.display(helpdesk.word('status', r.status)),
        helpdesk.word('priority', r.priority),
        helpdesk.display(helpdesk.word('priority', r.priority)),
        (
            select row(m.number, m.username, m.email)::helpdesk.person
            from public.members as m
            where m.organization_id = r.organization_id and m.id = r.assignee_id
        ),
        (
            select row(c.number, c.name, c.color)::helpdesk.label
            from public.categories as c
            where c.organization_id = r.organization_id and c.id = r.category_id
        ),
        array(
            select row(g.number, g.name, g.color)::helpdesk.label
            from public.ticket_tags as k
            join public.tags as g on g.organization_id = k.organization_id and g.id = k.tag_id
            where k.organization_id = r.organization_id and k.ticket_id = r.id
            order by lower(g.name)
        ),
        private.rfc3339(r.created_at),
        private.rfc3339(r.updated_at),
        private.rfc3339(r.due_at),
        helpdesk.time_since(r.created_at),
        (
            select count(*) from public.comments as c
            where c.organization_id = r.organization_id and c.ticket_id = r.id
        )
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.tickets[]) is
    'Tickets in a list, in their order; counted are the comments that the one who asks may see.';

create function helpdesk.shown(rows public.comments[]) returns setof helpdesk.comment
language sql stable
set search_path = ''
begin atomic
    select r.number, r.body, r.is_internal,
        case when m.id is not null then row(m.number, m.username, m.email)::helpdesk.person end,
        private.rfc3339(r.created_at), private.rfc3339(r.updated_at)
    from unnest(rows) with ordinality as r
    left join public.contacts as c on c.organization_id = r.organization_id and c.id = r.author_contact_id
    left join public.members as m
        on m.organization_id = r.organization_id and m.id = coalesce(r.author_member_id, c.member_id)
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.comments[]) is 'Comments; an author without a login is null.';

create function helpdesk.shown(rows public.categories[]) returns setof helpdesk.category
language sql stable
set search_path = ''
begin atomic
    select r.number, r.name, r.description, r.color, private.rfc3339(r.created_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.categories[]) is 'Categories.';

create function helpdesk.shown(rows public.tags[]) returns setof helpdesk.category
language sql stable
set search_path = ''
begin atomic
    select r.number, r.name, r.description, r.color, private.rfc3339(r.created_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.tags[]) is 'Tags.';

create function helpdesk.shown(rows public.templates[]) returns setof helpdesk.template
language sql stable
set search_path = ''
begin atomic
    select r.number, r.title, r.content, r.category, r.variables, r.is_public, helpdesk.person_of(r.owner_id),
        private.rfc3339(r.created_at), private.rfc3339(r.updated_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.templates[]) is 'Templates.';

create function helpdesk.shown(rows public.saved_filters[]) returns setof helpdesk.filter
language sql stable
set search_path = ''
begin atomic
    select r.number, r.name, r.params, r.is_public, helpdesk.person_of(r.owner_id),
        private.rfc3339(r.created_at), private.rfc3339(r.updated_at)
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.saved_filters[]) is 'Saved filters.';

create function helpdesk.shown(rows public.members[]) returns setof helpdesk.member
language sql stable
set search_path = ''
begin atomic
    select r.number, r.username, r.email, r.name, r.role, r.is_active
    from unnest(rows) with ordinality as r
    order by r.ordinality;
end;
comment on function helpdesk.shown(public.members[]) is 'Users.';

create function helpdesk.comment_json(comment public.comments) returns text
language sql stable
set search_path = ''
return (select row_to_json(s) from helpdesk.shown(array[comment]) as s);
comment on function helpdesk.comment_json(public.comments) is 'A comment by itself.';

create function helpdesk.ticket_json(ticket public.tickets) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return (
        select left(row_to_json(s)::text, -1) || ',' || substr(row_to_json(row(
            ticket.description, helpdesk.person_of(ticket.created_by_member_id), ticket.resolution
        )::helpdesk.ticket_details)::text, 2)
        from helpdesk.shown(array[ticket]) as s);
end
$$;
comment on function helpdesk.ticket_json(public.tickets) is 'A ticket by itself: as in a list, and its details.';

----------------------------------------------------------------------------------------------------------------------
-- Lists
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.order_by(ordering text, expressions jsonb) returns text
language sql immutable
set search_path = ''
return (
    -- The id last, so that pages of equals do not overlap.
    select string_agg(o.expression || o.direction, ', ' order by o.place)
        || ', r.id' || max(case when o.direction = '' then '' else ' desc' end)
    from (
        select coalesce(expressions ->> ltrim(f.name, '-'), format('r.%I', ltrim(f.name, '-'))),
            case when f.name like '-%' then coalesce(expressions ->> f.name, ' desc') else '' end, f.place
        from string_to_table(ordering, ',') with ordinality as f (name, place)
    ) as o (expression, direction, place)
);
comment on function helpdesk.order_by(text, jsonb) is
    'What -created_at,title is in SQL; a field whose column has another name has an expression, and one turned round that is not simply descending has a direction.';

create function helpdesk.page_of(
    entity text, condition text, query jsonb, url text, expressions jsonb default '{}', among uuid[] default null,
    total text default null
) returns text
language plpgsql stable
set search_path = ''
as $$
declare
    v_page bigint := query ->> 'page';
    v_size bigint := query ->> 'page_size';
    v_count bigint;
    v_items text;
begin
    -- Executed, so that it is planned for what is asked. One statement, so that count and page agree.
    execute format($list$
        select
            %6$s,
            array_to_string(array(
                select row_to_json(s) from helpdesk.shown(array(
                    select r from public.%1$I as r where %2$s order by %3$s limit %4$s offset %5$s)) as s
            ), ',')
        $list$, entity, condition, helpdesk.order_by(query ->> 'ordering', expressions), v_size, (v_page - 1) * v_size,
        coalesce(total, format('(select count(*) from public.%I as r where %s)', entity, condition)))
    into v_count, v_items using among;
    return format('{"count":%s,"next":%s,"previous":%s,"results":[%s]}',
        v_count,
        case when v_page * v_size < v_count then to_json(url || v_page + 1) else 'null' end,
        -- Before a page past the end comes the last one.
        case when v_page > 1 then to_json(url || greatest(least(v_page - 1, ceil(v_count / v_size::numeric)), 1)) else 'null' end,
        v_items);
end
$$;
comment on function helpdesk.page_of(text, text, jsonb, text, jsonb, uuid[], text) is
    'A page of the rows of a table, r, that meet a condition, in which $1 is among; url ends where the number of another page belongs; total is an expression for how many there are, if there is a cheaper one than counting them.';

create function helpdesk.own() returns text
language sql stable
set search_path = ''
return case when private.is_agent() then 'true' else format('r.contact_id = %L', private.contact_id()) end;
comment on function helpdesk.own() is
    'A condition that repeats, for a customer, what the policy on tickets says, so that their list goes by its index.';

----------------------------------------------------------------------------------------------------------------------
-- References
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.moment(given text) returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
    v_moment timestamptz;
begin
    v_moment := given::timestamptz;
    -- It is shown in UTC, with four digits for the year.
    if extract(year from v_moment at time zone 'UTC') between 1 and 9999 then
        return v_moment;
    end if;
    return null;
exception
    when data_exception then
        return null;
end
$$;
comment on function helpdesk.moment(text) is 'A moment that can be stored and shown; null for any other.';

create function helpdesk.find_references(
    fields jsonb, for_assignment boolean, assigned_to bigint default null,
    out category_id uuid, out assignee_id uuid, out creator_id uuid, out tag_ids uuid[], out due_at timestamptz,
    out faults jsonb
)
language plpgsql stable
set search_path = ''
as $$
declare
    v_tags bigint[] := array(select n::bigint from jsonb_array_elements_text(
        case jsonb_typeof(fields -> 'tags') when 'array' then fields -> 'tags' when 'number' then jsonb_build_array(fields -> 'tags') else '[]' end) as n);
begin
    select c.id into category_id from public.categories as c where c.number = (fields ->> 'category')::bigint;
    select m.id into assignee_id from public.members as m
    where m.number = (fields ->> 'assigned_to')::bigint
        and (not for_assignment or (m.is_active and m.role >= 'agent') or m.number = find_references.assigned_to);
    select m.id into creator_id from public.members as m where m.number = (fields ->> 'created_by')::bigint;
    tag_ids := array(select g.id from public.tags as g where g.number = any (v_tags));
    select jsonb_object_agg(f.name, f.sentences) into faults
    from (
        select r.name, jsonb_agg(format('Invalid pk "%s" - object does not exist.', r.number))
        from (
            select 'category', fields ->> 'category' where category_id is null
            union all
            select 'assigned_to', fields ->> 'assigned_to' where assignee_id is null
            union all
            select 'created_by', fields ->> 'created_by' where creator_id is null
            union all
            select 'tags', n::text from unnest(v_tags) as n
            where not exists (select from public.tags as g where g.number = n)
        ) as r (name, number)
        where r.number is not null
        group by r.name
    ) as f (name, sentences);
    if fields ->> 'due_date' is not null then
        due_at := helpdesk.moment(fields ->> 'due_date');
        if due_at is null then
            faults := coalesce(faults, '{}') || jsonb_build_object('due_date', jsonb_build_array(
                'Datetime has wrong format. Use YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].'));
        end if;
    end if;
end
$$;
comment on function helpdesk.find_references(jsonb, boolean, bigint) is
    'The rows and the moment that fields or filters name, and per field what is wrong with them: not there, for the one who asks; for an assignment only active agents count, and whom the ticket is assigned to already.';

create function helpdesk.refuse(faults jsonb) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if faults is not null then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = faults;
    end if;
end
$$;
comment on function helpdesk.refuse(jsonb) is 'Refuses what has faults.';

create function helpdesk.reference_faults(claims jsonb, fields jsonb, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select coalesce(f.faults, '{}') into body from helpdesk.find_references(fields, true) as f;
end
$$;
comment on function helpdesk.reference_faults(jsonb, jsonb) is
    'What is wrong with the references in a ticket that is refused anyway, so that all faults are told at once.';

----------------------------------------------------------------------------------------------------------------------
-- Tickets
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.list_tickets(claims jsonb, query jsonb, url text, mine boolean, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_found record;
    v_statuses text[];
    v_priorities text[];
    v_search text := nullif(btrim(query ->> 'search'), '');
    v_mine text;
    v_condition text;
    v_total text;
begin
    perform private.enter(claims);
    -- Of what is not there, there are no tickets.
    v_found := helpdesk.find_references(query, false);
    if query ? 'status' then
        v_statuses := private.canonical('helpdesk', 'status', query ->> 'status');
    end if;
    if query ? 'priority' then
        v_priorities := private.canonical('helpdesk', 'priority', query ->> 'priority');
    end if;
    v_mine := case when mine then format('(r.assignee_id = %1$L or r.created_by_member_id = %1$L)', private.member_id()) end;
    v_condition := concat_ws(' and ',
        helpdesk.own(),
        'r.status = any (' || quote_literal(v_statuses) || '::text[])',
        'r.priority = any (' || quote_literal(v_priorities) || '::text[])',
        case when query ? 'category' then format('r.category_id = %L', v_found.category_id) end,
        case when query ? 'assigned_to' then format('r.assignee_id = %L', v_found.assignee_id) end,
        case when query ? 'created_by' then format('r.created_by_member_id = %L', v_found.creator_id) end,
        case when query ? 'tags' then format(
            'r.id in (select k.ticket_id from public.ticket_tags as k where k.tag_id = %L)', v_found.tag_ids[1]) end,
        case when v_search is not null then 'r.id = any ($1)' end);
    -- A search finds what its reader may see. An agent's totals are kept, but for what only the tickets themselves tell.
    if v_search is not null and not mine
        and not query ?| array['status', 'priority', 'category', 'assigned_to', 'created_by', 'tags'] then
        v_total := 'cardinality($1)';
    elsif private.is_agent() and v_search is null and not query ?| array['created_by', 'tags']
        and not (mine and query ? 'assigned_to')
        and (v_found.category_id is not null or not query ? 'category')
        and (v_found.assignee_id is not null or not query ? 'assigned_to') then
        v_total := format('coalesce(private.count_tickets(%L::text[], %L::text[], %L, %L), 0)', v_statuses, v_priorities,
            v_found.category_id, case when mine then private.member_id() else v_found.assignee_id end);
        if mine then
            v_total := v_total || format(' + (select count(*) from public.tickets as r where %s '
                'and r.created_by_member_id = %2$L and r.assignee_id is distinct from %2$L)', v_condition, private.member_id());
        end if;
    end if;
    body := helpdesk.page_of('tickets', concat_ws(' and ', v_condition, v_mine), query, url,
        -- What is never due comes last, whichever way round.
        '{"priority": "r.priority_rank", "due_date": "r.due_at", "-due_date": " desc nulls last"}',
        array(select private.search_tickets(v_search) where v_search is not null), v_total);
end
$$;
comment on function helpdesk.list_tickets(jsonb, jsonb, text, boolean) is
    E'GET tickets/, GET tickets/my_tickets/\n\nMine are those that are assigned to me or were written by me.';

create function helpdesk.create_ticket(claims jsonb, fields jsonb, idempotency_key text, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
set timezone = 'UTC'
as $$
declare
    v_is_repeat boolean;
    v_found record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.create_ticket', idempotency_key, fields) as o;
    if v_is_repeat then
        return;
    end if;
    v_found := helpdesk.find_references(fields, true);
    perform helpdesk.refuse(v_found.faults);
    insert into public.tickets (subject, description, priority, category_id, assignee_id, due_at)
    values (
        fields ->> 'title', coalesce(fields ->> 'description', ''),
        private.new_canonical('helpdesk', 'priority', coalesce(fields ->> 'priority', 'medium'), 'medium'),
        v_found.category_id, v_found.assignee_id, v_found.due_at)
    returning * into v_ticket;
    insert into public.ticket_tags (ticket_id, tag_id) select v_ticket.id, g from unnest(v_found.tag_ids) as g;
    body := helpdesk.ticket_json(v_ticket);
    version := v_ticket.version;
    perform private.finish_once('helpdesk.create_ticket', idempotency_key, body, version);
end
$$;
comment on function helpdesk.create_ticket(jsonb, jsonb, text) is
    E'POST tickets/\n\nRaises invalid_field, idempotency_conflict.';

create function helpdesk.get_ticket(claims jsonb, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select helpdesk.ticket_json(t), t.version into body, version from public.tickets as t where t.number = get_ticket.number;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket matches the given query.';
    end if;
end
$$;
comment on function helpdesk.get_ticket(jsonb, bigint) is E'GET tickets/{id}/\n\nRaises not_found.';

create function helpdesk.lock_ticket(number bigint, if_match bigint) returns public.tickets
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ticket public.tickets;
begin
    select t.* into v_ticket from public.tickets as t where t.number = lock_ticket.number for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket matches the given query.';
    end if;
    if if_match <> v_ticket.version then
        raise sqlstate 'PT412' using message = 'stale', detail = json_build_object('version', v_ticket.version, 'comments', (
            select coalesce(json_agg(s), '[]')
            from helpdesk.shown(array(
                select c from public.comments as c
                where c.ticket_id = v_ticket.id and c.ticket_version > if_match
                order by c.created_at, c.id
                limit 50)) as s));
    end if;
    return v_ticket;
end
$$;
comment on function helpdesk.lock_ticket(bigint, bigint) is
    'A ticket that nobody else changes until this transaction is over. Raises not_found, stale with the version and up to 50 comments that were missed.';

create function helpdesk.write_ticket(
    number bigint, fields jsonb, is_whole boolean, if_match bigint, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
set timezone = 'UTC'
as $$
declare
    v_was public.tickets := helpdesk.lock_ticket(number, if_match);
    v_new public.tickets;
    v_fields jsonb := fields;
    v_found record;
    v_tags uuid[] := array(select k.tag_id from public.ticket_tags as k where k.ticket_id = v_was.id);
    v_has_new_tags boolean;
begin
    if is_whole then
        -- What is left out is emptied, but for what only the desk may write.
        v_fields := '{"description": "", "priority": "medium"}' || case when private.is_agent()
            then '{"category": null, "assigned_to": null, "due_date": null, "tags": []}' else '{}' end::jsonb || fields;
    end if;
    v_found := helpdesk.find_references(v_fields, true, (
        select m.number from public.members as m where m.id = v_was.assignee_id));
    perform helpdesk.refuse(v_found.faults);
    v_new := jsonb_populate_record(v_was, (
        select jsonb_object_agg(c.name, c.value)
        from (values
            ('title', 'subject', v_fields -> 'title'),
            ('description', 'description', v_fields -> 'description'),
            -- The word that the ticket shows already moves nothing.
            ('status', 'status', to_jsonb(private.new_canonical('helpdesk', 'status', v_fields ->> 'status', v_was.status))),
            ('priority', 'priority',
                to_jsonb(private.new_canonical('helpdesk', 'priority', v_fields ->> 'priority', v_was.priority))),
            ('category', 'category_id', to_jsonb(v_found.category_id)),
            ('assigned_to', 'assignee_id', to_jsonb(v_found.assignee_id)),
            ('due_date', 'due_at', to_jsonb(v_found.due_at)),
            ('resolution', 'resolution', v_fields -> 'resolution')
        ) as c (field, name, value)
        where v_fields ? c.field));
    if v_new.category_id is not null then
        v_new.category_label := null;
    end if;
    v_has_new_tags := v_fields ? 'tags' and not (v_tags @> v_found.tag_ids and v_tags <@ v_found.tag_ids);
    if v_has_new_tags then
        if not private.is_agent() then
            raise sqlstate 'PT403' using message = 'forbidden', detail = 'The tags of a ticket are the desk''s.';
        end if;
        delete from public.ticket_tags as k where k.ticket_id = v_was.id and k.tag_id <> all (v_found.tag_ids);
        insert into public.ticket_tags (ticket_id, tag_id)
        select v_was.id, g from unnest(v_found.tag_ids) as g where g <> all (v_tags);
    end if;
    -- Other tags are another version too.
    if v_has_new_tags or v_new is distinct from v_was then
        update public.tickets as t
        set subject = v_new.subject, description = v_new.description, status = v_new.status, priority = v_new.priority,
            category_id = v_new.category_id, category_label = v_new.category_label, assignee_id = v_new.assignee_id,
            due_at = v_new.due_at, resolution = v_new.resolution
        where t.id = v_was.id
        returning t.* into v_new;
    end if;
    body := helpdesk.ticket_json(v_new);
    version := v_new.version;
end
$$;
comment on function helpdesk.write_ticket(bigint, jsonb, boolean, bigint) is
    'Writes the given fields of a ticket and answers it. A write that changes nothing makes no new version.';

create function helpdesk.update_ticket(
    claims jsonb, number bigint, fields jsonb, is_whole boolean, if_match bigint, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select w.* into body, version from helpdesk.write_ticket(number, fields, is_whole, if_match) as w;
end
$$;
comment on function helpdesk.update_ticket(jsonb, bigint, jsonb, boolean, bigint) is
    E'PUT tickets/{id}/, PATCH tickets/{id}/\n\nThe whole ticket, or some fields. Raises not_found, invalid_field, stale, forbidden.';

create function helpdesk.delete_ticket(claims jsonb, number bigint, if_match bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    v_ticket := helpdesk.lock_ticket(number, if_match);
    delete from public.tickets as t where t.id = v_ticket.id;
    -- Deletes are soft, so nothing tells how many rows there were; whoever still sees the ticket could not delete it.
    perform from public.tickets as t where t.id = v_ticket.id;
    if found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only agents delete tickets.';
    end if;
end
$$;
comment on function helpdesk.delete_ticket(jsonb, bigint, bigint) is
    E'DELETE tickets/{id}/\n\nRaises not_found, stale, forbidden.';

create function helpdesk.assign_ticket(
    claims jsonb, number bigint, user_id bigint, if_match bigint, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
    v_fields jsonb := jsonb_build_object('assigned_to', user_id);
    v_faults jsonb;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.assign_ticket', idempotency_key, jsonb_build_array(number, user_id)) as o;
    if v_is_repeat then
        return;
    end if;
    perform helpdesk.ticket_id(number);
    select f.faults into v_faults from helpdesk.find_references(v_fields, true) as f;
    perform helpdesk.refuse(case when v_faults is not null then jsonb_build_object('user_id', v_faults -> 'assigned_to') end);
    select w.* into body, version from helpdesk.write_ticket(number, v_fields, false, if_match) as w;
    perform private.finish_once('helpdesk.assign_ticket', idempotency_key, body, version);
end
$$;
comment on function helpdesk.assign_ticket(jsonb, bigint, bigint, bigint, text) is
    E'POST tickets/{id}/assign/\n\nTo nobody, without a user. Raises not_found, invalid_field, stale, forbidden, idempotency_conflict.';

create function helpdesk.change_status(
    claims jsonb, number bigint, fields jsonb, if_match bigint, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.change_status', idempotency_key, jsonb_build_array(number, fields)) as o;
    if v_is_repeat then
        return;
    end if;
    select w.* into body, version from helpdesk.write_ticket(number, fields, false, if_match) as w;
    perform private.finish_once('helpdesk.change_status', idempotency_key, body, version);
end
$$;
comment on function helpdesk.change_status(jsonb, bigint, jsonb, bigint, text) is
    E'POST tickets/{id}/change_status/\n\nRaises not_found, stale, forbidden, ticket_closed, idempotency_conflict.';

create function helpdesk.get_stats(claims jsonb, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    -- One row for each status, priority and category that there is: an agent's are kept, a customer's are counted.
    execute format($stats$
        with g as materialized (
            select helpdesk.word('status', k.status) as status, helpdesk.word('priority', k.priority) as priority, k.category_id,
                sum(k.tickets) as tickets, sum(k.resolved) as resolved, sum(k.time_to_resolve) as time_to_resolve
            from %2$s as k
            group by k.status, k.priority, k.category_id
        )
        select row_to_json(row(
            coalesce(sum(g.tickets), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'open'), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'in_progress'), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'resolved'), 0),
            coalesce(sum(g.tickets) filter (where g.status = 'closed'), 0),
            (
                select count(*) from public.tickets as r
                where %1$s and r.due_at < now() and r.status not in ('resolved', 'closed')
            ),
            (
                select ('{' || string_agg(to_json(p.word) || ':' || (
                    select coalesce(sum(s.tickets), 0) from g as s where s.priority = p.word
                ), ',' order by array_position(array['low', 'medium', 'high', 'urgent'], p.canonical)) || '}')
                from jsonb_each_text(private.words('helpdesk') -> 'priority') as p (canonical, word)
            )::json,
            (
                select '{' || coalesce(string_agg(to_json(c.name) || ':' || c.tickets, ',' order by lower(c.name)), '') || '}'
                from (
                    select k.name, sum(s.tickets)
                    from g as s join public.categories as k on k.id = s.category_id
                    group by k.id, k.name
                ) as c (name, tickets)
            )::json,
            coalesce(round(extract(epoch from sum(g.time_to_resolve)) / 3600 / nullif(sum(g.resolved), 0), 1), 0),
            (select count(*) from public.tickets as r where %1$s and r.created_at >= date_trunc('day', now(), 'UTC')),
            (select count(*) from public.tickets as r where %1$s and r.resolved_at >= date_trunc('day', now(), 'UTC'))
        )::helpdesk.stats)
        from g
        $stats$, helpdesk.own(), case when private.is_agent() then 'private.tallies()' else format(
            '(select r.*, 1 as tickets, (r.resolved_at is not null)::integer as resolved, '
            'r.resolved_at - r.created_at as time_to_resolve from public.tickets as r where %s)', helpdesk.own()) end)
    into body;
end
$$;
comment on function helpdesk.get_stats(jsonb) is
    E'GET tickets/stats/\n\nOf all tickets that the one who asks sees. Hours and days are UTC; tickets without a category are in none.';

----------------------------------------------------------------------------------------------------------------------
-- Comments
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.ticket_id(number bigint) returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
    v_id uuid;
begin
    select t.id into v_id from public.tickets as t where t.number = ticket_id.number;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket matches the given query.';
    end if;
    return v_id;
end
$$;
comment on function helpdesk.ticket_id(bigint) is 'A ticket''s key. Raises not_found.';

create function helpdesk.find_comment(ticket bigint, number bigint) returns public.comments
language plpgsql stable
set search_path = ''
as $$
declare
    v_comment public.comments;
begin
    select c.* into v_comment
    from public.comments as c
    where c.number = find_comment.number and c.ticket_id = helpdesk.ticket_id(ticket);
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No comment matches the given query.';
    end if;
    return v_comment;
end
$$;
comment on function helpdesk.find_comment(bigint, bigint) is 'A comment of a ticket. Raises not_found.';

create function helpdesk.list_comments(claims jsonb, ticket bigint, query jsonb, url text, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    body := helpdesk.page_of('comments', format('r.ticket_id = %L', helpdesk.ticket_id(ticket)), query, url);
end
$$;
comment on function helpdesk.list_comments(jsonb, bigint, jsonb, text) is
    E'GET tickets/{ticket_id}/comments/\n\nRaises not_found.';

create function helpdesk.create_comment(
    claims jsonb, ticket bigint, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
    v_ticket public.tickets;
    v_comment public.comments;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version from private.begin_once(
        'helpdesk.create_comment', idempotency_key, jsonb_build_array(ticket, content, is_internal)) as o;
    if v_is_repeat then
        return;
    end if;
    v_ticket := helpdesk.lock_ticket(ticket, if_match);
    insert into public.comments (ticket_id, body, is_internal) values (v_ticket.id, content, create_comment.is_internal)
    returning * into v_comment;
    body := helpdesk.comment_json(v_comment);
    version := v_comment.ticket_version;
    perform private.finish_once('helpdesk.create_comment', idempotency_key, body, version);
end
$$;
comment on function helpdesk.create_comment(jsonb, bigint, text, boolean, bigint, text) is
    E'POST tickets/{ticket_id}/comments/\n\nThe version is the ticket''s. Raises not_found, stale, ticket_closed, idempotency_conflict; the policy refuses a customer''s internal comment.';

create function helpdesk.get_comment(claims jsonb, ticket bigint, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    body := helpdesk.comment_json(helpdesk.find_comment(ticket, number));
end
$$;
comment on function helpdesk.get_comment(jsonb, bigint, bigint) is
    E'GET tickets/{ticket_id}/comments/{id}/\n\nRaises not_found.';

create function helpdesk.update_comment(
    claims jsonb, ticket bigint, number bigint, fields jsonb, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_comment public.comments;
begin
    perform private.enter(claims);
    v_comment := helpdesk.find_comment(ticket, number);
    update public.comments as c
    set body = coalesce(fields ->> 'content', c.body),
        is_internal = coalesce((fields ->> 'is_internal')::boolean, c.is_internal)
    where c.id = v_comment.id
    returning c.* into v_comment;
    if not found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only its author, or a lead, may edit a comment.';
    end if;
    body := helpdesk.comment_json(v_comment);
end
$$;
comment on function helpdesk.update_comment(jsonb, bigint, bigint, jsonb) is
    E'PUT, PATCH tickets/{ticket_id}/comments/{id}/\n\nWhat is left out stays: nobody publishes an internal comment by saying nothing. Raises not_found, forbidden.';

create function helpdesk.delete_comment(claims jsonb, ticket bigint, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_comment public.comments;
begin
    perform private.enter(claims);
    v_comment := helpdesk.find_comment(ticket, number);
    delete from public.comments as c where c.id = v_comment.id;
    if not found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only its author, or a lead, may delete a comment.';
    end if;
end
$$;
comment on function helpdesk.delete_comment(jsonb, bigint, bigint) is
    E'DELETE tickets/{ticket_id}/comments/{id}/\n\nRaises not_found, forbidden.';

----------------------------------------------------------------------------------------------------------------------
-- Categories, tags, templates, filters, users. The service names the table; the policies say who may do what with its rows.
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.list_rows(
    claims jsonb, entity text, searched text[], query jsonb, url text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    body := helpdesk.page_of(entity, case when query ? 'search' then format(
        'strpos(lower(concat_ws('' '', %s)), lower(%L)) > 0',
        (select string_agg(format('r.%I', c), ', ') from unnest(searched) as c), query ->> 'search') else 'true' end, query, url);
end
$$;
comment on function helpdesk.list_rows(jsonb, text, text[], jsonb, text) is
    E'GET categories/, tags/, templates/, users/, filters/\n\nA search looks into the columns named.';

create function helpdesk.refuse_row(entity text, number bigint) returns void
language plpgsql stable
set search_path = ''
as $$
declare
    v_is_there boolean;
begin
    execute format('select exists (select from public.%I as r where r.number = $1)', entity) into v_is_there using number;
    if v_is_there then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'You do not have permission to perform this action.';
    end if;
    raise sqlstate 'PT404' using message = 'not_found', detail = 'Nothing matches the given query.';
end
$$;
comment on function helpdesk.refuse_row(text, bigint) is 'Says why a row could not be touched. Raises forbidden if it is seen, else not_found.';

create function helpdesk.get_row(claims jsonb, entity text, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    execute format(
        'select row_to_json(s) from public.%I as r cross join lateral helpdesk.shown(array[r]) as s where r.number = $1', entity)
    into body using number;
    if body is null then
        perform helpdesk.refuse_row(entity, number);
    end if;
end
$$;
comment on function helpdesk.get_row(jsonb, text, bigint) is E'GET categories/{id}/ and the like\n\nRaises not_found.';

create function helpdesk.create_row(
    claims jsonb, entity text, fields jsonb, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.create_row ' || entity, idempotency_key, fields) as o;
    if v_is_repeat then
        return;
    end if;
    execute format($insert$
        insert into public.%1$I as r (%2$s)
        select %2$s from jsonb_populate_record(null::public.%1$I, $1)
        returning (select row_to_json(s) from helpdesk.shown(array[r]) as s)
        $insert$, entity, (select string_agg(quote_ident(k), ', ') from jsonb_object_keys(fields) as k))
    into body using fields;
    perform private.finish_once('helpdesk.create_row ' || entity, idempotency_key, body, null);
exception
    -- A name is the one thing that has to be unique in any of them.
    when unique_violation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = '{"name": ["This field must be unique."]}';
end
$$;
comment on function helpdesk.create_row(jsonb, text, jsonb, text) is
    E'POST categories/, tags/, templates/, filters/\n\nThe fields are the table''s columns. Raises invalid_field, idempotency_conflict.';

create function helpdesk.update_row(
    claims jsonb, entity text, number bigint, fields jsonb, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_columns text := (select string_agg(quote_ident(k), ', ') from jsonb_object_keys(fields) as k);
begin
    perform private.enter(claims);
    execute format(case when v_columns is null
        then 'select row_to_json(s) from public.%1$I as r cross join lateral helpdesk.shown(array[r]) as s where r.number = $2'
        else $update$
            update public.%1$I as r set (%2$s) = (select %2$s from jsonb_populate_record(r, $1))
            where r.number = $2
            returning (select row_to_json(s) from helpdesk.shown(array[r]) as s)
        $update$ end, entity, v_columns)
    into body using fields, number;
    if body is null then
        perform helpdesk.refuse_row(entity, number);
    end if;
exception
    when unique_violation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = '{"name": ["This field must be unique."]}';
end
$$;
comment on function helpdesk.update_row(jsonb, text, bigint, jsonb) is
    E'PUT, PATCH categories/{id}/ and the like\n\nRaises invalid_field, not_found, forbidden.';

create function helpdesk.delete_row(claims jsonb, entity text, number bigint, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    execute format('delete from public.%I as r where r.number = $1 returning ''''', entity) into body using number;
    if body is null then
        perform helpdesk.refuse_row(entity, number);
    end if;
end
$$;
comment on function helpdesk.delete_row(jsonb, text, bigint) is
    E'DELETE categories/{id}/ and the like\n\nRaises not_found, forbidden.';

create function helpdesk.list_popular_tags(claims jsonb, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '[' || coalesce(string_agg(row_to_json(p)::text, ',' order by p.usage_count desc, lower(p.name)), '') || ']' into body
    from (
        select (row(g.number, g.name, g.description, g.color, coalesce(u.tickets, 0))::helpdesk.popular_tag).*
        from public.tags as g
        left join (select k.tag_id, count(*) from public.ticket_tags as k group by k.tag_id) as u (tag_id, tickets)
            on u.tag_id = g.id
        order by coalesce(u.tickets, 0) desc, lower(g.name)
        limit 20
    ) as p;
end
$$;
comment on function helpdesk.list_popular_tags(jsonb) is
    E'GET tags/popular/\n\nThe twenty tags that most tickets carry, of those that the one who asks sees.';

create function helpdesk.use_template(
    claims jsonb, number bigint, context jsonb, idempotency_key text, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_repeat boolean;
    v_template public.templates;
begin
    perform private.enter(claims);
    select o.* into v_is_repeat, body, version
    from private.begin_once('helpdesk.use_template', idempotency_key, jsonb_build_array(number, context)) as o;
    if v_is_repeat then
        return;
    end if;
    select t.* into v_template from public.templates as t where t.number = use_template.number;
    if not found then
        perform helpdesk.refuse_row('templates', number);
    end if;
    perform helpdesk.refuse((
        select jsonb_object_agg(v, '["This field is required."]'::jsonb)
        from unnest(v_template.variables) as v where context ->> v is null));
    -- In one pass, so that a value in braces stays what it is.
    select row_to_json(row(
        string_agg(p.text || coalesce(context ->> n.found[1], '{' || n.found[1] || '}', ''), '' order by p.place),
        v_template.content, v_template.variables)::helpdesk.used_template)
    into body
    from regexp_split_to_table(v_template.content, '\{[^{}]+\}') with ordinality as p (text, place)
    left join regexp_matches(v_template.content, '\{([^{}]+)\}', 'g') with ordinality as n (found, place) on n.place = p.place;
    perform private.finish_once('helpdesk.use_template', idempotency_key, body, null);
end
$$;
comment on function helpdesk.use_template(jsonb, bigint, jsonb, text) is
    E'POST templates/{id}/use_template/\n\nRaises not_found, invalid_field naming each variable without a value, idempotency_conflict.';

----------------------------------------------------------------------------------------------------------------------
-- Socket
----------------------------------------------------------------------------------------------------------------------

create function helpdesk.render_events(claims jsonb, events jsonb, out id bigint, out body text) returns setof record
language plpgsql volatile
set search_path = ''
as $$
declare
    v_told jsonb := (select jsonb_agg(jsonb_build_object('id', e.id, 'record', e.record)) from private.logged_rows(events) as e);
begin
    perform private.enter(claims);
    return query
    select (e.value -> 'id')::bigint, '{"event":"notification.new","data":' || row_to_json(row(
        n.number, n.type, n.title, n.message, t.number, n.read_at is not null, private.rfc3339(n.created_at)
    )::helpdesk.notification) || '}'
    from jsonb_array_elements(v_told) as e
    -- As it was when it was told, if it may be read now.
    cross join lateral jsonb_populate_record(null::public.notifications, e.value -> 'record') as n
    join public.notifications as r on r.organization_id = n.organization_id and r.id = n.id
    left join public.tickets as t on t.organization_id = n.organization_id and t.id = n.ticket_id;
end
$$;
comment on function helpdesk.render_events(jsonb, jsonb) is
    'The messages that events are to whoever the claims are of: their own new notifications, and nothing of anybody else''s.';

grant execute on function
    helpdesk.word(text, text), helpdesk.display(text), helpdesk.time_since(timestamptz), helpdesk.person_of(uuid),
    helpdesk.shown(public.tickets[]), helpdesk.shown(public.comments[]), helpdesk.shown(public.categories[]),
    helpdesk.shown(public.tags[]), helpdesk.shown(public.templates[]), helpdesk.shown(public.saved_filters[]),
    helpdesk.shown(public.members[]), helpdesk.ticket_json(public.tickets), helpdesk.comment_json(public.comments),
    helpdesk.order_by(text, jsonb),
    helpdesk.page_of(text, text, jsonb, text, jsonb, uuid[], text), helpdesk.own(),
    helpdesk.moment(text), helpdesk.find_references(jsonb, boolean, bigint),
    helpdesk.refuse(jsonb), helpdesk.lock_ticket(bigint, bigint), helpdesk.write_ticket(bigint, jsonb, boolean, bigint),
    helpdesk.ticket_id(bigint), helpdesk.find_comment(bigint, bigint), helpdesk.refuse_row(text, bigint)
    to authenticated;
grant execute on function
    helpdesk.reference_faults(jsonb, jsonb),
    helpdesk.list_tickets(jsonb, jsonb, text, boolean),
    helpdesk.create_ticket(jsonb, jsonb, text),
    helpdesk.get_ticket(jsonb, bigint),
    helpdesk.update_ticket(jsonb, bigint, jsonb, boolean, bigint),
    helpdesk.delete_ticket(jsonb, bigint, bigint),
    helpdesk.assign_ticket(jsonb, bigint, bigint, bigint, text),
    helpdesk.change_status(jsonb, bigint, jsonb, bigint, text),
    helpdesk.get_stats(jsonb),
    helpdesk.list_comments(jsonb, bigint, jsonb, text),
    helpdesk.create_comment(jsonb, bigint, text, boolean, bigint, text),
    helpdesk.get_comment(jsonb, bigint, bigint),
    helpdesk.update_comment(jsonb, bigint, bigint, jsonb),
    helpdesk.delete_comment(jsonb, bigint, bigint),
    helpdesk.list_rows(jsonb, text, text[], jsonb, text),
    helpdesk.get_row(jsonb, text, bigint),
    helpdesk.create_row(jsonb, text, jsonb, text),
    helpdesk.update_row(jsonb, text, bigint, jsonb),
    helpdesk.delete_row(jsonb, text, bigint),
    helpdesk.list_popular_tags(jsonb),
    helpdesk.use_template(jsonb, bigint, jsonb, text),
    helpdesk.render_events(jsonb, jsonb)
    to authenticator;
