/*
 * Notifications tell members what concerns them: a ticket became theirs, a ticket of theirs moved, somebody named
 * them. Rows are made by triggers in the transaction of the change; mail and sockets follow from the row.
 */

create table public.notifications (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    member_id uuid not null,
    type public.notification_type not null,
    title text not null check (length(title) <= 600),
    message text not null default '' check (length(message) <= 1000),
    ticket_id uuid,
    ticket_deleted_at timestamptz,
    read_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade
);
alter table public.notifications enable row level security;
alter table public.notifications force row level security;

comment on table public.notifications is 'Something a member is told of.';
comment on column public.notifications.number is 'The integer that clients with integer ids know the notification by.';
comment on column public.notifications.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';
comment on column public.notifications.read_at is 'When the member read it; empty: not yet.';

-- A member's bell, newest first.
create index notifications_organization_id_member_id_idx
    on public.notifications (organization_id, member_id, created_at desc, id desc);
create index notifications_organization_id_ticket_id_idx on public.notifications (organization_id, ticket_id);

create policy select_self on public.notifications for select to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and ticket_deleted_at is null);
create policy update_self on public.notifications for update to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and ticket_deleted_at is null)
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
create policy delete_self on public.notifications for delete to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and ticket_deleted_at is null);
grant select, delete, update (read_at) on public.notifications to authenticated;

create function private.notify(
    organization_id uuid, member_ids uuid[], type public.notification_type, title text, message text, ticket_id uuid,
    agents_only boolean default false
) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    insert into public.notifications (organization_id, member_id, type, title, message, ticket_id)
    select m.organization_id, m.id, notify.type, left(notify.title, 600), left(notify.message, 1000), notify.ticket_id
    from public.members as m
    left join public.member_settings as s on s.organization_id = m.organization_id and s.member_id = m.id
    where m.organization_id = notify.organization_id
        and m.id = any (notify.member_ids)
        and m.is_active
        and (m.role >= 'agent' or not notify.agents_only)
        -- Nobody is told what they did themselves.
        and m.id is distinct from private.member_id()
        and case notify.type
            when 'ticket_assigned' then coalesce(s.ticket_assignments, true)
            when 'ticket_updated' then coalesce(s.ticket_updates, true)
            when 'mention' then coalesce(s.mentions, true) end;
end;
comment on function private.notify(uuid, uuid[], public.notification_type, text, text, uuid, boolean) is
    'Tells active members who want to know, but never the one who acts. Definer: nobody writes notifications directly.';
alter function private.notify(uuid, uuid[], public.notification_type, text, text, uuid, boolean) owner to deskbase_definer;

create function private.requester_member_id(organization_id uuid, contact_id uuid) returns uuid
language sql stable security definer
set search_path = ''
return (select c.member_id from public.contacts as c
    where c.organization_id = requester_member_id.organization_id and c.id = requester_member_id.contact_id);
comment on function private.requester_member_id(uuid, uuid) is
    'The member behind a requester, if they log in. Definer: integrations may not read contacts.';
alter function private.requester_member_id(uuid, uuid) owner to deskbase_definer;

create function private.tg_tickets__notify_assignee() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.notify(new.organization_id, array[new.assignee_id], 'ticket_assigned',
        'Ticket assigned: ' || new.subject, '', new.id);
    return null;
end
$$;
comment on function private.tg_tickets__notify_assignee() is 'Tells an agent that a ticket is theirs now. Definer: see private.notify.';
alter function private.tg_tickets__notify_assignee() owner to deskbase_definer;

create function private.tg_tickets__notify_status() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.notify(new.organization_id,
        array[new.assignee_id, private.requester_member_id(new.organization_id, new.contact_id)],
        'ticket_updated', 'Ticket updated: ' || new.subject,
        'Status changed to ' || replace(new.status::text, '_', ' ') || '.', new.id);
    return null;
end
$$;
comment on function private.tg_tickets__notify_status() is
    'Tells the assignee and the requester that a ticket moved. Definer: see private.notify.';
alter function private.tg_tickets__notify_status() owner to deskbase_definer;

create function private.tg_comments__notify() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_mentioned uuid[];
    v_told uuid[];
    v_ticket record;
begin
    select t.subject, t.assignee_id, t.contact_id into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id;
    if new.body like '%@%' then
        select array_agg(m.id) into v_mentioned
        from public.members as m
        where m.organization_id = new.organization_id and m.role >= 'agent'
            and lower(m.username) in (
                select lower(w.found[1]) from regexp_matches(new.body, '(?:^|[^\w.@-])@([\w.-]*\w)', 'g') as w (found));
        perform private.notify(new.organization_id, v_mentioned, 'mention',
            'You were mentioned: ' || v_ticket.subject, left(new.body, 200), new.ticket_id);
    end if;
    v_told := array[v_ticket.assignee_id];
    if not new.is_internal and new.author_contact_id is null then
        v_told := v_told || private.requester_member_id(new.organization_id, v_ticket.contact_id);
    end if;
    perform private.notify(new.organization_id,
        array(select i.id from unnest(v_told) as i (id) where i.id is not null and i.id <> all (coalesce(v_mentioned, '{}'))),
        'ticket_updated', 'New reply: ' || v_ticket.subject, left(new.body, 200), new.ticket_id, new.is_internal);
    return null;
end
$$;
comment on function private.tg_comments__notify() is
    'Tells the assignee, the requester of a public reply, and every agent that the text names as @username. Definer: see private.notify.';
alter function private.tg_comments__notify() owner to deskbase_definer;

create trigger _600_notify_assignee_insert after insert on public.tickets
    for each row when (new.assignee_id is not null) execute function private.tg_tickets__notify_assignee();
create trigger _600_notify_assignee_update after update on public.tickets
    for each row when (new.assignee_id is not null and old.assignee_id is distinct from new.assignee_id)
    execute function private.tg_tickets__notify_assignee();
create trigger _610_notify_status after update on public.tickets
    for each row when (old.status is distinct from new.status
        and (new.assignee_id is not null or new.contact_id is not null))
    execute function private.tg_tickets__notify_status();
create trigger _600_notify after insert on public.comments
    for each row execute function private.tg_comments__notify();
