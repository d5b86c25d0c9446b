/*
 * The event log: what changed, in the transaction that changed it, so that nothing is told that did not happen and
 * nothing that happened goes untold. Readers keep a snapshot as their cursor: an event is new to them if its transaction
 * is visible now and was not then. Ids are handed out before commit and become visible out of order; snapshots do not lie.
 */

create table private.events (
    id bigint not null generated always as identity,
    xid xid8 not null default pg_current_xact_id(),
    organization_id uuid,
    type text not null,
    table_name text not null,
    operation text not null check (operation in ('INSERT', 'UPDATE', 'DELETE')),
    record jsonb,
    old_record jsonb,
    at timestamptz not null default now(),
    schema_name text not null default 'public',
    primary key (xid, id, at)
) partition by range (at);
alter table private.events enable row level security;
alter table private.events force row level security;
create policy select_definer on private.events for select to deskbase_definer using (true);

comment on table private.events is 'Every change of a published table, a row each, by trigger; a partition a day (UTC).';
comment on column private.events.xid is 'The transaction that made the change: what readers'' cursors go by, and so the head of the key.';
comment on column private.events.organization_id is 'Empty for tables of one''s own that have no such column.';
comment on column private.events.type is 'The entity and what happened to it: ticket.created, comment.deleted.';
comment on column private.events.record is 'The row as it is now; empty for a delete.';
comment on column private.events.old_record is 'The row as it was; empty for an insert.';

-- Where a day's partition was not made ahead, nothing is lost.
create table private.events_default partition of private.events default;
alter table private.events_default enable row level security;
alter table private.events_default force row level security;
create policy select_definer on private.events_default for select to deskbase_definer using (true);
comment on table private.events_default is 'Events of days without a partition of their own.';

create function private.tg__events() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_entity constant text := tg_argv[0];
begin
    case coalesce(tg_argv[1], tg_op)
        when 'INSERT' then
            insert into private.events (organization_id, type, table_name, operation, record)
            values (new.organization_id, v_entity || '.created', tg_table_name, tg_op, to_jsonb(new));
        when 'UPDATE' then
            insert into private.events (organization_id, type, table_name, operation, record, old_record)
            values (new.organization_id, v_entity || '.updated', tg_table_name, tg_op, to_jsonb(new), to_jsonb(old));
        when 'DELETE' then
            insert into private.events (organization_id, type, table_name, operation, old_record)
            values (old.organization_id, v_entity || '.deleted', tg_table_name, 'DELETE', to_jsonb(old));
    end case;
    return null;
end
$$;
comment on function private.tg__events() is
    'Logs a change; its arguments are the entity''s name in event types and, if it is another than it looks like, the operation. Definer: nobody writes the log directly.';
alter function private.tg__events() owner to deskbase_definer;

create function private.tg_events__bell() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- NOTIFY takes a lock that serialises commits. One transaction at a time rings; who finds the lock taken relies on
    -- readers looking again shortly after a ring, and while transactions are under way.
    if pg_try_advisory_xact_lock(7310589213) then
        perform pg_notify('deskbase_events', '');
    end if;
    return null;
end
$$;
comment on function private.tg_events__bell() is
    'Rings for the readers of the log, one ringer at a time. Definer: it fires for whoever writes.';
alter function private.tg_events__bell() owner to deskbase_definer;

create trigger _900_bell after insert on private.events
    for each statement execute function private.tg_events__bell();

create trigger _900_events after insert or delete on public.tickets
    for each row execute function private.tg__events('ticket');
create trigger _900_events_update after update on public.tickets
    for each row when (old.* is distinct from new.* and (new.deleted_at is null or old.deleted_at is not null))
    execute function private.tg__events('ticket');
-- Marked as deleted is deleted, for whoever hears of it.
create trigger _900_events_delete after update on public.tickets
    for each row when (old.deleted_at is null and new.deleted_at is not null)
    execute function private.tg__events('ticket', 'DELETE');
create trigger _900_events after insert or delete on public.comments
    for each row execute function private.tg__events('comment');
create trigger _900_events_update after update on public.comments
    for each row when (old.* is distinct from new.*) execute function private.tg__events('comment');
create trigger _900_events after insert or delete on public.notifications
    for each row execute function private.tg__events('notification');
create trigger _900_events_update after update on public.notifications
    for each row when (old.* is distinct from new.*) execute function private.tg__events('notification');

-- What Supabase's realtime clients may subscribe to is what the log holds; a test compares the two.
do $$
begin
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
end
$$;
alter publication supabase_realtime add table public.tickets, public.comments, public.notifications;

create function private.read_events(since pg_snapshot, until pg_snapshot, after_id bigint, batch_size integer)
returns setof private.events
language sql stable security definer
set search_path = ''
begin atomic
    select e.*
    from private.events as e
    where e.xid >= pg_snapshot_xmin(since)
        and e.xid < pg_snapshot_xmax(until)
        and e.id > after_id
        and not pg_visible_in_snapshot(e.xid, since)
        and pg_visible_in_snapshot(e.xid, until)
    order by e.id
    limit batch_size;
end;
comment on function private.read_events(pg_snapshot, pg_snapshot, bigint, integer) is
    'What became visible between two snapshots, by id, a batch at a time: read until a batch is short, giving the last id each time, then go on from until. Definer: the log is for the service alone.';
alter function private.read_events(pg_snapshot, pg_snapshot, bigint, integer) owner to deskbase_definer;
grant execute on function private.read_events(pg_snapshot, pg_snapshot, bigint, integer) to authenticator;

create function private.make_event_partitions(days_ahead integer) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_day date;
begin
    -- Behind a long transaction that wrote an event this would hold up every writer; the next hour does as well.
    perform set_config('lock_timeout', '1s', true);
    for i in 0 .. days_ahead loop
        v_day := (now() at time zone 'UTC')::date + i;
        continue when to_regclass(format('private.events_%s', to_char(v_day, 'YYYYMMDD'))) is not null;
        -- A day that already has rows in the default partition stays there; the next one gets its own.
        continue when exists (
            select from private.events_default as e
            where e.at >= v_day::timestamp at time zone 'UTC' and e.at < (v_day + 1)::timestamp at time zone 'UTC');
        execute format(
            'create table private.events_%s partition of private.events for values from (%L) to (%L)',
            to_char(v_day, 'YYYYMMDD'),
            v_day::timestamp at time zone 'UTC', (v_day + 1)::timestamp at time zone 'UTC');
        execute format('alter table private.events_%s enable row level security', to_char(v_day, 'YYYYMMDD'));
        execute format('alter table private.events_%s force row level security', to_char(v_day, 'YYYYMMDD'));
        execute format('create policy select_definer on private.events_%s for select to deskbase_definer using (true)',
            to_char(v_day, 'YYYYMMDD'));
        execute format('comment on table private.events_%s is %L',
            to_char(v_day, 'YYYYMMDD'), 'Events of ' || v_day || ' (UTC).');
    end loop;
end
$$;
comment on function private.make_event_partitions(integer) is 'Makes the event log''s partitions for today and the days ahead.';

create function private.drop_event_partitions(kept interval) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_partition record;
begin
    perform set_config('lock_timeout', '1s', true);
    for v_partition in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = 'private.events'::regclass
            and c.relname ~ '^events_\d{8}$'
            and (to_date(substr(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' < now() - kept
    loop
        execute format('drop table private.%I', v_partition.relname);
    end loop;
    delete from private.events_default as e where e.at < now() - kept;
end
$$;
comment on function private.drop_event_partitions(interval) is 'Drops what is older than kept, by whole days.';
