/*
 * The ticket. Its rules are triggers here and hold for every way in: defaults that cannot be forged, what a customer may
 * change, the status machine, the service level clocks, soft delete.
 */

create table public.tickets (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    subject text not null check (length(btrim(subject)) > 0 and length(subject) <= 500),
    description text not null default '' check (length(description) <= 100000),
    status public.ticket_status not null default 'new',
    priority public.ticket_priority not null default 'medium',
    type public.ticket_type not null default 'question',
    channel public.channel not null default 'web',
    category_id uuid,
    category_label text check (length(btrim(category_label)) between 1 and 200),
    contact_id uuid,
    created_by_member_id uuid,
    integration_token_id uuid,
    assignee_id uuid,
    group_id uuid,
    due_at timestamptz check (isfinite(due_at)),
    resolution text check (length(resolution) <= 100000),
    custom_fields jsonb not null default '{}' check (jsonb_typeof(custom_fields) = 'object' and pg_column_size(custom_fields) <= 262144),
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object' and pg_column_size(metadata) <= 262144),
    origin_id text check (length(origin_id) <= 320),
    external_id text check (length(external_id) between 1 and 320),
    is_bot_handoff boolean not null default false,
    version bigint not null default 1,
    first_response_due_at timestamptz,
    resolution_due_at timestamptz,
    clock_stopped_at timestamptz,
    time_stopped interval not null default '0',
    first_response_at timestamptz,
    resolved_at timestamptz,
    closed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    priority_rank integer not null generated always as (array_position(array['low', 'medium', 'high', 'urgent'], priority::text)) stored,
    primary key (organization_id, id),
    unique (organization_id, number),
    constraint tickets_one_category check (category_id is null or category_label is null),
    foreign key (organization_id, category_id) references public.categories (organization_id, id)
        on delete set null (category_id),
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
        on delete set null (contact_id),
    foreign key (organization_id, created_by_member_id) references public.members (organization_id, id)
        on delete set null (created_by_member_id),
    foreign key (organization_id, integration_token_id) references public.integration_tokens (organization_id, id)
        on delete set null (integration_token_id),
    foreign key (organization_id, assignee_id) references public.members (organization_id, id)
        on delete set null (assignee_id),
    foreign key (organization_id, group_id) references public.groups (organization_id, id)
        on delete set null (group_id)
);
alter table public.tickets enable row level security;
alter table public.tickets force row level security;

comment on table public.tickets is
    E'A request for help\n\nDelete is soft. Organization, requester and creator come from the credential.';
comment on column public.tickets.number is 'The integer that clients with integer ids know the ticket by.';
comment on column public.tickets.category_label is 'A category''s name as the client gave it, where the organization has none of that name.';
comment on column public.tickets.contact_id is 'The requester.';
comment on column public.tickets.created_by_member_id is 'The member who wrote it down, customer or agent.';
comment on column public.tickets.integration_token_id is 'The integration that made it, and alone among integrations sees it.';
comment on column public.tickets.metadata is 'What an integration keeps with the ticket, 256 KiB at most; ours to store, theirs to read.';
comment on column public.tickets.origin_id is 'Where on its channel it came from: a number, a page, a session.';
comment on column public.tickets.external_id is 'What another system calls this ticket; unique in the organization.';
comment on column public.tickets.version is 'One more with every change and comment; answered as ETag.';
comment on column public.tickets.clock_stopped_at is 'Since when the resolution clock stands still, the ticket being waiting or on hold.';
comment on column public.tickets.time_stopped is 'How long the resolution clock stood still before that.';
comment on column public.tickets.deleted_at is 'When it was deleted; nobody sees it then, and an admin may restore it.';
comment on column public.tickets.priority_rank is 'What to order by for an order by priority: 1 is low, 4 urgent.';

-- Lists: everything of an organization, newest first, and by status; the keyset (created_at, id) pages both.
create index tickets_organization_id_created_at_idx on public.tickets (organization_id, created_at desc, id desc)
    where deleted_at is null;
create index tickets_organization_id_status_idx on public.tickets (organization_id, status, created_at desc, id desc)
    where deleted_at is null;
-- The policy of customers, and each reference.
create index tickets_organization_id_contact_id_idx on public.tickets (organization_id, contact_id, created_at desc, id desc);
create index tickets_organization_id_assignee_id_idx on public.tickets (organization_id, assignee_id, created_at desc, id desc);
create index tickets_organization_id_group_id_idx on public.tickets (organization_id, group_id);
create index tickets_organization_id_category_id_idx on public.tickets (organization_id, category_id);
create index tickets_organization_id_created_by_member_id_idx on public.tickets (organization_id, created_by_member_id);
create index tickets_organization_id_integration_token_id_idx
    on public.tickets (organization_id, integration_token_id);
create unique index tickets_organization_id_external_id_idx on public.tickets (organization_id, external_id);
-- Lists by priority and by due date, either way; what is overdue; what was resolved lately.
create index tickets_organization_id_priority_rank_idx on public.tickets (organization_id, priority_rank, id)
    where deleted_at is null;
create index tickets_organization_id_due_at_idx on public.tickets (organization_id, due_at, id) where deleted_at is null;
create index tickets_organization_id_due_at_id_idx
    on public.tickets (organization_id, due_at desc nulls last, id desc) where deleted_at is null;
create index tickets_organization_id_due_idx on public.tickets (organization_id, due_at)
    where deleted_at is null and due_at is not null and status not in ('resolved', 'closed');
create index tickets_organization_id_resolved_at_idx on public.tickets (organization_id, resolved_at)
    where deleted_at is null and resolved_at is not null;
-- Search, which tests the organization and the reader itself: @@ is not leakproof (docs/database.md).
create index tickets_search_idx on public.tickets
    using gin (to_tsvector('simple', translate(subject || ' ' || description, '-_/', '   ')));

create policy select_member on public.tickets for select to authenticated
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy select_integration on public.tickets for select to integration
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:read')));
-- A customer asks; whom it is given to, until when, and where replies are sent is the desk's affair.
create policy insert_member on public.tickets for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent())
            or (contact_id = (select private.contact_id()) and assignee_id is null and group_id is null
                and due_at is null and origin_id is null and external_id is null
                and channel in ('web', 'email', 'api', 'phone', 'chatbot'))));
create policy insert_integration on public.tickets for insert to integration
    with check (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:write')));
create policy update_member on public.tickets for update to authenticated
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())))
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy update_integration on public.tickets for update to integration
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:write')))
    with check (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('tickets:write')));
create policy delete_agent on public.tickets for delete to authenticated
    using (organization_id = (select private.organization_id()) and deleted_at is null
        and (select private.is_agent()));

grant select, delete,
    insert (organization_id, id, subject, description, priority, type, channel, category_id, category_label, contact_id,
        assignee_id, group_id, due_at, custom_fields, metadata, origin_id, external_id, is_bot_handoff),
    update (subject, description, status, priority, type, category_id, category_label, contact_id, assignee_id,
        group_id, due_at, resolution, custom_fields, metadata)
    on public.tickets to authenticated;
grant select,
    insert (organization_id, id, subject, description, priority, type, channel, category_id, category_label,
        custom_fields, metadata, external_id),
    update (status, priority, metadata)
    on public.tickets to integration;

create function private.refuse_foreign(organization_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if private.claims() ->> 'role' in ('authenticated', 'integration')
        and organization_id is distinct from private.organization_id() then
        raise insufficient_privilege using message = 'new row violates row-level security policy';
    end if;
end
$$;
comment on function private.refuse_foreign(uuid) is
    'What the policy would say, said before a definer trigger looks anything up in an organization that is not the writer''s.';

create function private.tg_tickets__defaults() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_who jsonb := private.claims() -> 'app_metadata';
begin
    -- A request writes in its own name. Whoever asks without a credential of a person or a token is the desk itself.
    if v_who ->> 'member_id' is not null then
        new.created_by_member_id := (v_who ->> 'member_id')::uuid;
        new.contact_id := coalesce(new.contact_id, (v_who ->> 'contact_id')::uuid);
    elsif v_who ->> 'token_id' is not null then
        new.integration_token_id := (v_who ->> 'token_id')::uuid;
    end if;
    select new.created_at + p.first_response_minutes * interval '1 minute',
           new.created_at + p.resolution_minutes * interval '1 minute'
    into new.first_response_due_at, new.resolution_due_at
    from public.sla_policies as p
    where p.organization_id = new.organization_id and p.priority = new.priority;
    return new;
end
$$;
comment on function private.tg_tickets__defaults() is
    'Names the creator and starts the clocks. Definer: customers and integrations may not read service levels.';
alter function private.tg_tickets__defaults() owner to deskbase_definer;

create function private.tg_tickets__versions() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    new.updated_at := now();
    new.version := old.version + 1;
    return new;
end
$$;
comment on function private.tg_tickets__versions() is 'Counts every change.';

create function private.tg_tickets__customer_rights() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    if old.status = 'closed' then
        raise sqlstate 'PT409' using message = 'ticket_closed',
            detail = 'This ticket is closed; open a new one.';
    end if;
    if (new.category_id, new.category_label, new.contact_id, new.assignee_id, new.group_id, new.due_at, new.type,
            new.resolution, new.custom_fields, new.metadata)
        is distinct from (old.category_id, old.category_label, old.contact_id, old.assignee_id, old.group_id,
            old.due_at, old.type, old.resolution, old.custom_fields, old.metadata) then
        raise sqlstate 'PT403' using message = 'forbidden',
            detail = 'Customers may change the subject, the description and the priority, and resolve, close or reopen.';
    end if;
    if new.status is distinct from old.status and not (
        new.status in ('resolved', 'closed') or (new.status = 'open' and old.status in ('waiting', 'resolved'))
    ) then
        raise sqlstate 'PT403' using message = 'forbidden',
            detail = 'Customers may resolve, close or reopen a ticket; its other states are the desk''s.';
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__customer_rights() is 'What a customer may change on their own ticket.';

create function private.tg_tickets__assignee() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if not exists (
        select from public.members as m
        where m.organization_id = new.organization_id and m.id = new.assignee_id and m.role >= 'agent' and m.is_active
    ) then
        raise sqlstate 'PT400' using message = 'not_an_agent',
            detail = 'A ticket can be assigned to an active agent of its organization only.';
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__assignee() is
    'Only agents get tickets. Definer: the rule must see every member.';
alter function private.tg_tickets__assignee() owner to deskbase_definer;

create function private.tg_tickets__status() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    new.resolved_at := case
        when new.status = 'resolved' then now()
        when new.status = 'closed' then coalesce(old.resolved_at, now()) end;
    new.closed_at := case when new.status = 'closed' then now() end;
    if new.status in ('waiting', 'on_hold') then
        new.clock_stopped_at := coalesce(old.clock_stopped_at, now());
    elsif old.clock_stopped_at is not null then
        new.time_stopped := old.time_stopped + (now() - old.clock_stopped_at);
        new.resolution_due_at := old.resolution_due_at + (now() - old.clock_stopped_at);
        new.clock_stopped_at := null;
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__status() is
    'The moments that go with a status, and the resolution clock, which stands still while a ticket waits.';

create function private.tg_tickets__priority() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    select new.created_at + p.first_response_minutes * interval '1 minute',
           new.created_at + p.resolution_minutes * interval '1 minute' + new.time_stopped
    into new.first_response_due_at, new.resolution_due_at
    from public.sla_policies as p
    where p.organization_id = new.organization_id and p.priority = new.priority;
    if old.first_response_at is not null then
        new.first_response_due_at := old.first_response_due_at;
    end if;
    return new;
end
$$;
comment on function private.tg_tickets__priority() is
    'Another priority is another promise. Definer: customers and integrations may not read service levels.';
alter function private.tg_tickets__priority() owner to deskbase_definer;

create function private.tg_tickets__soft_delete() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.tickets as t
    set deleted_at = now()
    where t.organization_id = old.organization_id and t.id = old.id and t.deleted_at is null;
    return null;
end
$$;
comment on function private.tg_tickets__soft_delete() is
    'Marks instead of deleting. Definer: the mark makes the row invisible to the one who sets it.';
alter function private.tg_tickets__soft_delete() owner to deskbase_definer;

create trigger _100_defaults before insert on public.tickets
    for each row execute function private.tg_tickets__defaults();
create trigger _100_versions before update on public.tickets
    for each row execute function private.tg_tickets__versions();
create trigger _200_customer_rights before update on public.tickets
    for each row when (private.contact_id() is not null and private.member_id() is not null
        and not private.is_agent() and current_user = 'authenticated')
    execute function private.tg_tickets__customer_rights();
create trigger _250_assignee_insert before insert on public.tickets
    for each row when (new.assignee_id is not null) execute function private.tg_tickets__assignee();
create trigger _250_assignee_update before update on public.tickets
    for each row when (new.assignee_id is not null and old.assignee_id is distinct from new.assignee_id)
    execute function private.tg_tickets__assignee();
create trigger _300_status_insert before insert on public.tickets
    for each row when (new.status <> 'new') execute function private.tg_tickets__status();
create trigger _300_status before update on public.tickets
    for each row when (old.status is distinct from new.status) execute function private.tg_tickets__status();
create trigger _310_priority before update on public.tickets
    for each row when (old.priority is distinct from new.priority) execute function private.tg_tickets__priority();
-- Deleting an organization cascades from inside a trigger, and is meant.
create trigger _100_soft_delete before delete on public.tickets
    for each row when (pg_trigger_depth() = 0) execute function private.tg_tickets__soft_delete();

create function private.restore_ticket(id uuid) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := private.require_admin();
begin
    update public.tickets as t
    set deleted_at = null
    where t.organization_id = v_organization_id and t.id = restore_ticket.id and t.deleted_at is not null;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such deleted ticket.';
    end if;
    return true;
end
$$;
comment on function private.restore_ticket(uuid) is 'Undoes a delete. Definer: nobody sees deleted tickets.';
alter function private.restore_ticket(uuid) owner to deskbase_definer;
grant execute on function private.restore_ticket(uuid) to authenticated;

create function public.restore_ticket(id uuid) returns boolean
language sql volatile
set search_path = ''
return private.restore_ticket(id);
comment on function public.restore_ticket(uuid) is E'Restore a deleted ticket\n\nAdmins only; answers true.';
grant execute on function public.restore_ticket(uuid) to authenticated;

create table public.ticket_tags (
    organization_id uuid not null default private.organization_id(),
    ticket_id uuid not null,
    tag_id uuid not null,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, ticket_id, tag_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, tag_id) references public.tags (organization_id, id) on delete cascade
);
alter table public.ticket_tags enable row level security;
alter table public.ticket_tags force row level security;

comment on table public.ticket_tags is 'Which ticket carries which tag.';
comment on column public.ticket_tags.ticket_deleted_at is 'The ticket''s deleted_at, kept here so that the policy need not look.';

-- Tickets by tag, and how often a tag is used.
create index ticket_tags_organization_id_tag_id_idx on public.ticket_tags (organization_id, tag_id, ticket_id);

create policy select_member on public.ticket_tags for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or ticket_id in (
            select t.id from public.tickets as t
            where t.organization_id = (select private.organization_id())
                and t.contact_id = (select private.contact_id()))));
create policy insert_agent on public.ticket_tags for insert to authenticated
    with check (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and (select private.is_agent()));
create policy delete_agent on public.ticket_tags for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and (select private.is_agent()));
grant select, delete, insert (organization_id, ticket_id, tag_id) on public.ticket_tags to authenticated;

create function private.tg__of_ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.refuse_foreign(new.organization_id);
    select t.deleted_at into new.ticket_deleted_at
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    for share;
    if not found or new.ticket_deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    return new;
end
$$;
comment on function private.tg__of_ticket() is
    'A row that belongs to a ticket needs one that is there. Definer: the ticket may be hidden from the writer.';
alter function private.tg__of_ticket() owner to deskbase_definer;

create trigger _100_of_ticket before insert on public.ticket_tags
    for each row execute function private.tg__of_ticket();
