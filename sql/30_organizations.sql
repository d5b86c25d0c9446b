/*
 * Organizations are the tenants: each row of every other table belongs to one, by the first column of its key.
 * Members are the people who log in. Their role lives here and nowhere else; a JWT only carries a copy of it.
 */

create table public.organizations (
    id uuid not null default gen_random_uuid() primary key,
    name text not null check (length(name) between 1 and 200),
    domain text check (domain = lower(domain) and length(domain) <= 253),
    settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object' and pg_column_size(settings) <= 262144),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
alter table public.organizations enable row level security;
alter table public.organizations force row level security;

comment on table public.organizations is 'A tenant: one support desk with its people and tickets.';
comment on column public.organizations.domain is 'The mail domain of its people, lower case.';
comment on column public.organizations.settings is 'Settings of the desk that its admins keep, by name.';
comment on column public.organizations.deleted_at is 'When it was given up; its members can no longer log in.';

-- "The first organization" is the oldest one; see private.first_organization_id.
create index organizations_created_at_idx on public.organizations (created_at, id);

create policy select_member on public.organizations for select to authenticated
    using (id = (select private.organization_id()) and deleted_at is null);
create policy update_admin on public.organizations for update to authenticated
    using (id = (select private.organization_id()) and (select private.is_admin()))
    with check (id = (select private.organization_id()) and (select private.is_admin()));
grant select, update (name, domain, settings) on public.organizations to authenticated;

create trigger _100_timestamps before update on public.organizations
    for each row execute function private.tg__timestamps();

create function private.first_organization_id() returns uuid
language sql stable security definer
set search_path = ''
return (select o.id from public.organizations as o where o.deleted_at is null order by o.created_at, o.id limit 1);
comment on function private.first_organization_id() is
    'The oldest organization: the one that commands and channels without an address mean.';
alter function private.first_organization_id() owner to deskbase_definer;
grant execute on function private.first_organization_id() to authenticator;

create function private.closed_organization_ids() returns setof uuid
language sql stable security definer
set search_path = ''
begin atomic
    select o.id from public.organizations as o where o.deleted_at is not null;
end;
comment on function private.closed_organization_ids() is
    'Organizations that were given up. Definer: visitors may not read organizations.';
alter function private.closed_organization_ids() owner to deskbase_definer;
grant execute on function private.closed_organization_ids() to anon;

create table public.members (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    user_id uuid references auth.users (id) on delete set null,
    username text not null check (length(username) between 1 and 150),
    email text not null check (email = lower(email) and length(email) between 3 and 320),
    name text not null check (length(name) between 1 and 200),
    avatar_url text check (avatar_url ~ '^https?://' and length(avatar_url) <= 2000),
    role public.member_role not null default 'customer',
    department text check (length(department) <= 200),
    presence public.presence not null default 'offline',
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number)
);
alter table public.members enable row level security;
alter table public.members force row level security;

comment on table public.members is 'A person who logs in to an organization, customer or staff.';
comment on column public.members.number is 'The integer that clients with integer ids know the member by.';
comment on column public.members.user_id is 'The login; empty once the account is deleted, so that what the person wrote keeps its author.';
comment on column public.members.username is 'A short name, unique in the organization.';
comment on column public.members.role is 'What the member may do; only an admin''s function writes it.';
comment on column public.members.presence is 'Whether an agent takes work at the moment.';
comment on column public.members.is_active is 'False ends every way in on the next request.';

-- A request looks its member up by login; a login is a member of an organization once.
create unique index members_user_id_organization_id_idx on public.members (user_id, organization_id);
create unique index members_organization_id_email_idx on public.members (organization_id, email);
create unique index members_organization_id_username_idx on public.members (organization_id, lower(username));
-- Inbound credentials of outside issuers name their holder by address; the organization is not known yet.
create index members_email_idx on public.members (email);
-- Log-ins by username, before the organization is known.
create index members_username_idx on public.members (lower(username));
-- Lists of agents.
create index members_organization_id_role_idx on public.members (organization_id, role);

create policy select_colleague on public.members for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or role >= 'agent' or id = (select private.member_id())));
create policy update_self on public.members for update to authenticated
    using (organization_id = (select private.organization_id()) and id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and id = (select private.member_id()));
grant select, update (name, avatar_url, presence) on public.members to authenticated;

create trigger _100_timestamps before update on public.members
    for each row execute function private.tg__timestamps();

create function private.email_of(username text) returns text
language sql stable security definer
set search_path = ''
begin atomic
    select min(m.email)
    from public.members as m
    where lower(m.username) = lower(email_of.username) and m.is_active and m.user_id is not null
    having count(distinct m.email) = 1;
end;
comment on function private.email_of(text) is
    'The address that somebody who gives their username logs in with; null if nobody, or more than one, is called so. Definer: nobody is logged in yet.';
alter function private.email_of(text) owner to deskbase_definer;
grant execute on function private.email_of(text) to authenticator;

create table public.member_settings (
    organization_id uuid not null default private.organization_id(),
    member_id uuid not null default private.member_id(),
    phone text check (length(phone) <= 50),
    email_notifications boolean not null default true,
    desktop_notifications boolean not null default true,
    ticket_updates boolean not null default true,
    ticket_assignments boolean not null default true,
    mentions boolean not null default true,
    updated_at timestamptz not null default now(),
    primary key (organization_id, member_id),
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.member_settings enable row level security;
alter table public.member_settings force row level security;

comment on table public.member_settings is
    'What a member keeps for themselves: a phone number and what they want to be told of. No row means the defaults.';
comment on column public.member_settings.ticket_updates is 'Tell me of replies and changes on my tickets.';
comment on column public.member_settings.ticket_assignments is 'Tell me of tickets that become mine.';
comment on column public.member_settings.mentions is 'Tell me where I am named.';

create policy select_self on public.member_settings for select to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
create policy insert_self on public.member_settings for insert to authenticated
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
create policy update_self on public.member_settings for update to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
grant select,
    insert (organization_id, member_id, phone, email_notifications, desktop_notifications, ticket_updates,
        ticket_assignments, mentions),
    update (phone, email_notifications, desktop_notifications, ticket_updates, ticket_assignments, mentions)
    on public.member_settings to authenticated;

create trigger _100_timestamps before update on public.member_settings
    for each row execute function private.tg__timestamps();
