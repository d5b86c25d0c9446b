/*
 * What tickets are sorted by: categories (one a ticket), tags (many a ticket), and the service levels that
 * set their clocks.
 */

create table public.categories (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    name text not null check (length(btrim(name)) between 1 and 200),
    description text not null default '' check (length(description) <= 10000),
    color text not null default '#6c757d' check (color ~ '^#[0-9a-fA-F]{6}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number)
);
alter table public.categories enable row level security;
alter table public.categories force row level security;

comment on table public.categories is 'What a ticket is about; one a ticket.';
comment on column public.categories.number is 'The integer that clients with integer ids know the category by.';
comment on column public.categories.color is 'As #rrggbb.';

-- A name is linked whatever its case.
create unique index categories_organization_id_name_idx on public.categories (organization_id, lower(name));

create policy select_member on public.categories for select to authenticated, integration
    using (organization_id = (select private.organization_id()));
create policy insert_agent on public.categories for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy update_agent on public.categories for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_lead on public.categories for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description, color), update (name, description, color)
    on public.categories to authenticated;
grant select on public.categories to integration;

create trigger _100_timestamps before update on public.categories
    for each row execute function private.tg__timestamps();

create table public.tags (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    name text not null check (length(btrim(name)) between 1 and 100),
    description text not null default '' check (length(description) <= 10000),
    color text not null default '#6c757d' check (color ~ '^#[0-9a-fA-F]{6}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number)
);
alter table public.tags enable row level security;
alter table public.tags force row level security;

comment on table public.tags is 'A word that tickets are marked with.';
comment on column public.tags.number is 'The integer that clients with integer ids know the tag by.';
comment on column public.tags.color is 'As #rrggbb.';

create unique index tags_organization_id_name_idx on public.tags (organization_id, lower(name));

create policy select_member on public.tags for select to authenticated, integration
    using (organization_id = (select private.organization_id()));
create policy insert_agent on public.tags for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy update_agent on public.tags for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_lead on public.tags for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description, color), update (name, description, color)
    on public.tags to authenticated;
grant select on public.tags to integration;

create trigger _100_timestamps before update on public.tags
    for each row execute function private.tg__timestamps();

create table public.sla_policies (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    priority public.ticket_priority not null,
    id uuid not null default gen_random_uuid(),
    first_response_minutes integer check (first_response_minutes between 1 and 5256000),
    resolution_minutes integer check (resolution_minutes between 1 and 5256000),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, priority)
);
alter table public.sla_policies enable row level security;
alter table public.sla_policies force row level security;

comment on table public.sla_policies is 'How soon tickets of a priority are to be answered and resolved.';
comment on column public.sla_policies.first_response_minutes is 'Minutes to an agent''s first public reply; empty: no promise.';
comment on column public.sla_policies.resolution_minutes is
    'Minutes to resolution, the time a ticket spends waiting or on hold not counted; empty: no promise.';

create policy select_agent on public.sla_policies for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_admin on public.sla_policies for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.sla_policies for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.sla_policies for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete,
    insert (organization_id, id, priority, first_response_minutes, resolution_minutes),
    update (priority, first_response_minutes, resolution_minutes)
    on public.sla_policies to authenticated;

create trigger _100_timestamps before update on public.sla_policies
    for each row execute function private.tg__timestamps();

create table public.custom_fields (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    key text not null check (key ~ '^[a-z][a-z0-9_]{0,62}$'),
    label text not null check (length(label) between 1 and 200),
    kind text not null check (kind in ('text', 'number', 'boolean', 'date', 'choice')),
    choices text[] not null default '{}',
    is_required boolean not null default false,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, key),
    constraint custom_fields_choice_needs_choices check (kind <> 'choice' or cardinality(choices) > 0)
);
alter table public.custom_fields enable row level security;
alter table public.custom_fields force row level security;

comment on table public.custom_fields is 'The fields that an organization adds to its tickets; values are in tickets.custom_fields by key.';

create policy select_member on public.custom_fields for select to authenticated
    using (organization_id = (select private.organization_id()));
create policy insert_admin on public.custom_fields for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.custom_fields for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.custom_fields for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete, insert (organization_id, id, key, label, kind, choices, is_required),
    update (label, choices, is_required)
    on public.custom_fields to authenticated;
