/*
 * How many tickets there are of each kind, so that a total and a dashboard cost the same for a million as for a hundred. A
 * change of a ticket adds rows to what was counted before (+1 here, -1 there): nobody waits for anybody else's count, and
 * whoever reads sums up what their snapshot sees, which agrees with the tickets that it sees. The worker folds the rows.
 */

create table private.ticket_tallies (
    organization_id uuid not null,
    id bigint not null generated always as identity,
    status public.ticket_status not null,
    priority public.ticket_priority not null,
    category_id uuid,
    assignee_id uuid,
    tickets bigint not null,
    resolved bigint not null,
    time_to_resolve interval not null,
    is_folded boolean not null default false,
    -- Whoever counts an organization reads all of its rows, and little else.
    primary key (organization_id, id) include (status, priority, category_id, assignee_id, tickets)
);
alter table private.ticket_tallies enable row level security;
alter table private.ticket_tallies force row level security;
create policy select_definer on private.ticket_tallies for select to deskbase_definer using (true);

comment on table private.ticket_tallies is 'Tickets that are not deleted, counted by kind; the count of a kind is the sum of its rows.';
comment on column private.ticket_tallies.tickets is 'How many more, or fewer.';
comment on column private.ticket_tallies.resolved is 'How many of them have been resolved.';
comment on column private.ticket_tallies.time_to_resolve is 'What that took, all together.';
comment on column private.ticket_tallies.is_folded is 'Whether it is the one row in which the worker gathers its kind.';

-- The worker's: the one row of a kind, and the rows that are to be folded.
create unique index ticket_tallies_organization_id_status_idx on private.ticket_tallies
    (organization_id, status, priority, category_id, assignee_id) nulls not distinct where is_folded;
create index ticket_tallies_is_folded_idx on private.ticket_tallies (is_folded) where not is_folded;

create function private.tg_tickets__tally() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_sign constant integer := tg_argv[0]::integer;
begin
    insert into private.ticket_tallies
        (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve)
    select t.organization_id, t.status, t.priority, t.category_id, t.assignee_id, v_sign * count(*),
        v_sign * count(t.resolved_at), v_sign * coalesce(sum(t.resolved_at - t.created_at), '0')
    from counted as t
    where t.deleted_at is null
    group by t.organization_id, t.status, t.priority, t.category_id, t.assignee_id;
    return null;
end
$$;
comment on function private.tg_tickets__tally() is
    'Counts tickets that are new, or no more those that are gone for good: 1 or -1 is its argument. Definer: nobody else writes counts.';
alter function private.tg_tickets__tally() owner to deskbase_definer;
create trigger _700_tally after insert on public.tickets referencing new table as counted
    for each statement execute function private.tg_tickets__tally('1');
create trigger _700_tally_delete after delete on public.tickets referencing old table as counted
    for each statement execute function private.tg_tickets__tally('-1');

create function private.tg_tickets__tally_moved() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    insert into private.ticket_tallies
        (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve)
    select old.organization_id, old.status, old.priority, old.category_id, old.assignee_id, -1,
        -(old.resolved_at is not null)::integer, -coalesce(old.resolved_at - old.created_at, '0')
    where old.deleted_at is null
    union all
    select new.organization_id, new.status, new.priority, new.category_id, new.assignee_id, 1,
        (new.resolved_at is not null)::integer, coalesce(new.resolved_at - new.created_at, '0')
    where new.deleted_at is null;
    return null;
end
$$;
comment on function private.tg_tickets__tally_moved() is 'Counts a ticket as what it has become. Definer: nobody else writes counts.';
alter function private.tg_tickets__tally_moved() owner to deskbase_definer;
create trigger _700_tally_moved after update on public.tickets
    for each row when (
        (old.status, old.priority, old.category_id, old.assignee_id, old.resolved_at, old.created_at, old.deleted_at)
        is distinct from
        (new.status, new.priority, new.category_id, new.assignee_id, new.resolved_at, new.created_at, new.deleted_at))
    execute function private.tg_tickets__tally_moved();

create function private.tallies() returns setof private.ticket_tallies
language sql stable security definer rows 1000
set search_path = ''
begin atomic
    select t.*
    from private.ticket_tallies as t
    where (select private.is_agent()) and t.organization_id = (select private.organization_id());
end;
comment on function private.tallies() is
    'The counts of an agent''s organization; whoever does not see all of its tickets is told nothing. Definer: the counts are behind no policy.';
alter function private.tallies() owner to deskbase_definer;

create function private.count_tickets(statuses text[], priorities text[], category_id uuid, assignee_id uuid) returns bigint
language sql stable security definer
set search_path = ''
begin atomic
    select sum(t.tickets)::bigint
    from private.ticket_tallies as t
    where (select private.is_agent()) and t.organization_id = (select private.organization_id())
        and (statuses is null or t.status = any (statuses))
        and (priorities is null or t.priority = any (priorities))
        and (count_tickets.category_id is null or t.category_id = count_tickets.category_id)
        and (count_tickets.assignee_id is null or t.assignee_id = count_tickets.assignee_id);
end;
comment on function private.count_tickets(text[], text[], uuid, uuid) is
    'How many tickets of some kind an agent''s organization has, null if it never had one; null as an argument is any. For agents alone: who sees less counts what they see. Definer: the counts are behind no policy.';
alter function private.count_tickets(text[], text[], uuid, uuid) owner to deskbase_definer;
grant execute on function private.tallies(), private.count_tickets(text[], text[], uuid, uuid) to authenticated;

create function private.fold_tallies() returns bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_folded bigint;
begin
    if not pg_try_advisory_xact_lock(7310589216) then
        return 0;
    end if;
    perform set_config('synchronous_commit', 'off', true);
    with taken as (
        delete from private.ticket_tallies as t
        where t.ctid = any (array(select u.ctid from private.ticket_tallies as u where not u.is_folded limit 20000))
        returning t.*
    ), summed as (
        insert into private.ticket_tallies as f
            (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve, is_folded)
        select t.organization_id, t.status, t.priority, t.category_id, t.assignee_id, sum(t.tickets), sum(t.resolved),
            sum(t.time_to_resolve), true
        from taken as t
        group by t.organization_id, t.status, t.priority, t.category_id, t.assignee_id
        having (sum(t.tickets), sum(t.resolved), sum(t.time_to_resolve)) is distinct from (0, 0, interval '0')
        on conflict (organization_id, status, priority, category_id, assignee_id) where is_folded do update
            set tickets = f.tickets + excluded.tickets, resolved = f.resolved + excluded.resolved,
                time_to_resolve = f.time_to_resolve + excluded.time_to_resolve
        returning f.*
    )
    select count(*) into v_folded from taken;
    delete from private.ticket_tallies as t
    where t.is_folded and t.tickets = 0 and t.resolved = 0 and t.time_to_resolve = '0';
    return v_folded;
end
$$;
comment on function private.fold_tallies() is
    'Gathers what was counted lately, a row a kind, and answers how many rows that took away. One at a time; sums stay what they were. Definer: nobody else writes counts.';
alter function private.fold_tallies() owner to deskbase_definer;
grant execute on function private.fold_tallies() to authenticator;
