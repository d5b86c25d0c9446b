/*
 * The history of a ticket: who changed what, and when. Written by trigger alone. That a ticket was created, when and by whom,
 * the ticket itself says; a row for it would cost every insert and tell nothing new.
 */

create table public.ticket_history (
    organization_id uuid not null,
    id bigint not null generated always as identity,
    ticket_id uuid not null,
    action text not null check (action in ('updated', 'deleted', 'restored')),
    changes jsonb not null default '{}' check (jsonb_typeof(changes) = 'object'),
    member_id uuid,
    token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id)
        on delete set null (member_id),
    foreign key (organization_id, token_id) references public.integration_tokens (organization_id, id)
        on delete set null (token_id)
);
alter table public.ticket_history enable row level security;
alter table public.ticket_history force row level security;

comment on table public.ticket_history is 'What was done to a ticket; one row a change.';
comment on column public.ticket_history.changes is 'Each changed column: {"status": {"from": "new", "to": "open"}}.';
comment on column public.ticket_history.member_id is 'The member who did it; neither member nor token: the desk itself.';
comment on column public.ticket_history.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index ticket_history_organization_id_ticket_id_idx on public.ticket_history (organization_id, ticket_id, id);
-- The activity feed of an organization.
create index ticket_history_organization_id_created_at_idx on public.ticket_history (organization_id, created_at desc);
create index ticket_history_organization_id_member_id_idx on public.ticket_history (organization_id, member_id)
    where member_id is not null;
create index ticket_history_organization_id_token_id_idx on public.ticket_history (organization_id, token_id)
    where token_id is not null;

create policy select_agent on public.ticket_history for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and (select private.is_agent()));
grant select on public.ticket_history to authenticated;

create function private.ticket_changes(was public.tickets, becomes public.tickets) returns jsonb
language sql immutable
set search_path = ''
return (
    select coalesce(
        jsonb_object_agg(c.name, jsonb_build_object('from', c.was, 'to', c.becomes)) , '{}')
    from (values
        ('subject', to_jsonb(was.subject), to_jsonb(becomes.subject)),
        ('description', to_jsonb(was.description), to_jsonb(becomes.description)),
        ('status', to_jsonb(was.status), to_jsonb(becomes.status)),
        ('priority', to_jsonb(was.priority), to_jsonb(becomes.priority)),
        ('type', to_jsonb(was.type), to_jsonb(becomes.type)),
        ('category_id', to_jsonb(was.category_id), to_jsonb(becomes.category_id)),
        ('category_label', to_jsonb(was.category_label), to_jsonb(becomes.category_label)),
        ('contact_id', to_jsonb(was.contact_id), to_jsonb(becomes.contact_id)),
        ('assignee_id', to_jsonb(was.assignee_id), to_jsonb(becomes.assignee_id)),
        ('group_id', to_jsonb(was.group_id), to_jsonb(becomes.group_id)),
        ('due_at', to_jsonb(was.due_at), to_jsonb(becomes.due_at)),
        ('resolution', to_jsonb(was.resolution), to_jsonb(becomes.resolution)),
        ('custom_fields', was.custom_fields, becomes.custom_fields),
        ('metadata', was.metadata, becomes.metadata)
    ) as c (name, was, becomes)
    where c.was is distinct from c.becomes
);
comment on function private.ticket_changes(public.tickets, public.tickets) is
    'What differs between two states of a ticket, in the columns that people and integrations set.';

create function private.tg_tickets__history() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_changes jsonb := private.ticket_changes(old, new);
    v_action text := case
        when old.deleted_at is null and new.deleted_at is not null then 'deleted'
        when old.deleted_at is not null and new.deleted_at is null then 'restored'
        else 'updated' end;
begin
    if v_action = 'updated' and v_changes = '{}' then
        return null;
    end if;
    insert into public.ticket_history (organization_id, ticket_id, action, changes, member_id, token_id, ticket_deleted_at)
    values (new.organization_id, new.id, v_action, v_changes, private.member_id(), private.token_id(), new.deleted_at);
    return null;
end
$$;
comment on function private.tg_tickets__history() is
    'Writes the history. Definer: nobody writes it directly.';
alter function private.tg_tickets__history() owner to deskbase_definer;

create function private.tg_tickets__audience() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.comments as c
    set ticket_contact_id = new.contact_id, ticket_token_id = new.integration_token_id,
        ticket_deleted_at = new.deleted_at
    where c.organization_id = new.organization_id and c.ticket_id = new.id;
    update public.attachments as a
    set ticket_contact_id = new.contact_id, ticket_token_id = new.integration_token_id,
        ticket_deleted_at = new.deleted_at
    where a.organization_id = new.organization_id and a.ticket_id = new.id;
    if old.deleted_at is distinct from new.deleted_at then
        update public.ticket_tags as g set ticket_deleted_at = new.deleted_at
        where g.organization_id = new.organization_id and g.ticket_id = new.id;
        update public.ticket_history as h set ticket_deleted_at = new.deleted_at
        where h.organization_id = new.organization_id and h.ticket_id = new.id;
        update public.notifications as n set ticket_deleted_at = new.deleted_at
        where n.organization_id = new.organization_id and n.ticket_id = new.id;
        update public.satisfaction_ratings as r set ticket_deleted_at = new.deleted_at
        where r.organization_id = new.organization_id and r.ticket_id = new.id;
    end if;
    return null;
end
$$;
comment on function private.tg_tickets__audience() is
    'Keeps what hangs on a ticket visible to the same people as the ticket. Definer: it writes rows of others.';
alter function private.tg_tickets__audience() owner to deskbase_definer;

create trigger _500_history after update on public.tickets
    for each row when (old.* is distinct from new.*) execute function private.tg_tickets__history();
create trigger _510_audience after update on public.tickets
    for each row when (old.deleted_at is distinct from new.deleted_at
        or old.contact_id is distinct from new.contact_id
        or old.integration_token_id is distinct from new.integration_token_id)
    execute function private.tg_tickets__audience();
