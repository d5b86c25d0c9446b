/*
 * What agents keep to work faster: texts to answer with, and filters to look through.
 */

create table public.templates (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    owner_id uuid not null default private.member_id(),
    title text not null check (length(btrim(title)) between 1 and 200),
    content text not null check (length(content) between 1 and 100000),
    category text not null default '' check (length(category) <= 200),
    variables text[] not null default '{}' check (pg_column_size(variables) <= 65536),
    is_public boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, owner_id) references public.members (organization_id, id) on delete cascade
);
alter table public.templates enable row level security;
alter table public.templates force row level security;

comment on table public.templates is 'A text to answer with; {name} stands for a variable.';
comment on column public.templates.number is 'The integer that clients with integer ids know the template by.';
comment on column public.templates.is_public is 'Whether other agents see it too.';

create index templates_organization_id_owner_id_idx on public.templates (organization_id, owner_id);

create policy select_agent on public.templates for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (is_public or owner_id = (select private.member_id())));
create policy insert_agent on public.templates for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent())
        and owner_id = (select private.member_id()));
create policy update_owner on public.templates for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_lead()))))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_lead()))));
create policy delete_owner on public.templates for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_lead()))));
grant select, delete, insert (organization_id, id, title, content, category, variables, is_public),
    update (title, content, category, variables, is_public)
    on public.templates to authenticated;

create trigger _100_timestamps before update on public.templates
    for each row execute function private.tg__timestamps();

create table public.saved_filters (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    owner_id uuid not null default private.member_id(),
    name text not null check (length(btrim(name)) between 1 and 200),
    params jsonb not null default '{}' check (jsonb_typeof(params) = 'object' and pg_column_size(params) <= 65536),
    is_public boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    foreign key (organization_id, owner_id) references public.members (organization_id, id) on delete cascade
);
alter table public.saved_filters enable row level security;
alter table public.saved_filters force row level security;

comment on table public.saved_filters is 'A question about tickets that a member asks again.';
comment on column public.saved_filters.number is 'The integer that clients with integer ids know the filter by.';
comment on column public.saved_filters.is_public is 'Whether other members see it too.';

create index saved_filters_organization_id_owner_id_idx on public.saved_filters (organization_id, owner_id);

create policy select_member on public.saved_filters for select to authenticated
    using (organization_id = (select private.organization_id())
        and (owner_id = (select private.member_id()) or (is_public and (select private.is_agent()))));
create policy insert_self on public.saved_filters for insert to authenticated
    with check (organization_id = (select private.organization_id()) and owner_id = (select private.member_id())
        and (not is_public or (select private.is_agent())));
create policy update_self on public.saved_filters for update to authenticated
    using (organization_id = (select private.organization_id()) and owner_id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and owner_id = (select private.member_id())
        and (not is_public or (select private.is_agent())));
create policy delete_self on public.saved_filters for delete to authenticated
    using (organization_id = (select private.organization_id()) and owner_id = (select private.member_id()));
grant select, delete, insert (organization_id, id, name, params, is_public), update (name, params, is_public)
    on public.saved_filters to authenticated;

create trigger _100_timestamps before update on public.saved_filters
    for each row execute function private.tg__timestamps();
