-- The whole schema, generated from sql/ by `make migration`; until the first release it is regenerated, not added to.

-- sql/00_roles.sql
/*
 * Roles and what a new object may do before anyone grants anything: nothing.
 *
 * Supabase brings anon, authenticated, service_role and authenticator. Deskbase adds two:
 *   integration       what a request with an integration token runs as
 *   deskbase_definer  owns the security definer helpers and nothing else; row security is forced on every table, so
 *                     a helper sees behind a policy only because its owner has bypassrls
 */

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'integration') then
        create role integration nologin noinherit;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'deskbase_definer') then
        create role deskbase_definer nologin noinherit bypassrls;
    end if;
    -- Handing a function over to a role takes membership in it; a superuser needs none.
    if not pg_catalog.pg_has_role(current_user, 'deskbase_definer', 'member') then
        execute pg_catalog.format('grant deskbase_definer to %I', current_user);
    end if;
end
$$;

comment on role integration is 'What a request with an integration token runs as.';
comment on role deskbase_definer is 'Owns the security definer helpers; no login, nothing else.';

grant integration to authenticator;

-- Supabase grants everything on new objects of public to the client roles; here every grant is written down.
alter default privileges revoke execute on functions from public;
alter default privileges in schema public revoke all on tables from anon, authenticated;
alter default privileges in schema public revoke all on sequences from anon, authenticated;
alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to service_role;
alter default privileges in schema public grant all on sequences to service_role;

-- sql/10_schemas.sql
/*
 * The schemas that belong to everyone: public, what clients see, and private, what they never do.
 * Each contract makes its own schema in its own file.
 */

create schema if not exists private;

comment on schema public is 'The support desk: its entities, guarded by row level security.';
comment on schema private is 'Secrets, counters, the event log and the helpers of policies; no client reads a table here.';

-- Policies call helpers by name, so the roles they run as must find the schema. Tables in it are granted to nobody.
grant usage on schema private to anon, authenticated, service_role, integration, authenticator;
grant usage on schema public to integration, deskbase_definer;
grant usage, create on schema private to deskbase_definer;
grant usage on schema auth to deskbase_definer;
grant select on auth.users, auth.sessions to deskbase_definer;

alter default privileges in schema public grant select, insert, update, delete on tables to deskbase_definer;
alter default privileges in schema private grant select, insert, update, delete on tables to deskbase_definer;
alter default privileges in schema private grant execute on functions to deskbase_definer;

-- sql/20_types.sql
/*
 * The words of the desk. A contract shows its own words for them; these are the ones that are stored.
 */

-- What tickets are looked for by are domains, not enums: comparing enums is not leakproof, so behind a policy an enum could
-- not be searched by index.
create domain public.ticket_status as text check (value in (
    'new',          -- created, no agent has answered yet
    'open',         -- an agent's first public reply, or a requester's reply to a waiting or resolved ticket
    'in_progress',  -- an agent took it up
    'waiting',      -- an agent waits for the requester
    'on_hold',      -- an agent waits for somebody else
    'resolved',     -- an agent, or the requester, considers it done; a reply reopens it
    'closed'        -- done for good; only an agent or its integration reopens it
));
comment on domain public.ticket_status is 'Where a ticket stands.';

create domain public.ticket_priority as text check (value in ('low', 'medium', 'high', 'urgent'));
comment on domain public.ticket_priority is 'How much a ticket matters.';

create domain public.ticket_type as text check (value in ('question', 'incident', 'problem', 'task'));
comment on domain public.ticket_type is 'What kind of request a ticket is.';

create domain public.channel as text check (value in (
    'web', 'email', 'api', 'phone', 'chatbot', 'facebook', 'whatsapp', 'twitter'
));
comment on domain public.channel is 'The way by which a ticket or a comment came in.';

create type public.member_role as enum ('customer', 'agent', 'senior_agent', 'team_lead', 'admin');
comment on type public.member_role is 'What a member may do; each role may do all that the ones before it may.';

create type public.presence as enum ('online', 'busy', 'away', 'offline');
comment on type public.presence is 'Whether an agent takes work at the moment.';

create type public.content_type as enum ('text', 'image', 'video', 'audio', 'file');
comment on type public.content_type is 'What a comment''s body is.';

create type public.notification_type as enum ('ticket_assigned', 'ticket_updated', 'mention');
comment on type public.notification_type is 'What a member is told of.';

-- sql/25_identity.sql
/*
 * Who is asking. Every helper reads request.jwt.claims, which the entrance of a request (75_requests) has made fresh;
 * app_metadata in it is written by the server alone. Policies call them as (select private.…()), so that each runs
 * once per statement. None calls another to get at the claims: they run on every request.
 */

create function private.claims() returns jsonb
language sql stable
set search_path = ''
return nullif(current_setting('request.jwt.claims', true), '')::jsonb;
comment on function private.claims() is 'The claims of the credential in use; null outside a request.';

create function private.organization_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,organization_id}')::uuid;
comment on function private.organization_id() is 'The organization of the credential in use.';

create function private.member_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,member_id}')::uuid;
comment on function private.member_id() is 'The member who is asking; null for tokens and visitors.';

create function private.contact_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,contact_id}')::uuid;
comment on function private.contact_id() is 'The contact that a customer who is asking writes as; null for everyone else.';

create function private.token_id() returns uuid
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,token_id}')::uuid;
comment on function private.token_id() is 'The integration token that is asking; null for people.';

create function private.member_role() returns public.member_role
language sql stable
set search_path = ''
return (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,role}')::public.member_role;
comment on function private.member_role() is 'The role of the member who is asking.';

create function private.is_agent() returns boolean
language sql stable
set search_path = ''
return coalesce(private.member_role() >= 'agent', false);
comment on function private.is_agent() is 'Whether an agent, or anyone above, is asking.';

create function private.is_lead() returns boolean
language sql stable
set search_path = ''
return coalesce(private.member_role() >= 'team_lead', false);
comment on function private.is_lead() is 'Whether a team lead or an admin is asking.';

create function private.is_admin() returns boolean
language sql stable
set search_path = ''
return coalesce(private.member_role() >= 'admin', false);
comment on function private.is_admin() is 'Whether an admin is asking.';

create function private.has_scope(scope text) returns boolean
language sql stable
set search_path = ''
return coalesce(
    nullif(current_setting('request.jwt.claims', true), '')::jsonb #> '{app_metadata,scopes}' ? scope, false);
comment on function private.has_scope(text) is 'Whether the integration token that is asking carries the scope.';

grant execute on function private.claims(), private.organization_id(), private.member_id(), private.contact_id(),
    private.token_id(), private.member_role(), private.is_agent(), private.is_lead(), private.is_admin(),
    private.has_scope(text)
    to anon, authenticated, service_role, integration;

create function private.rfc3339(moment timestamptz) returns text
language sql stable
set search_path = ''
return to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
comment on function private.rfc3339(timestamptz) is 'A moment as every contract writes it: RFC 3339 in UTC, ending in Z.';
grant execute on function private.rfc3339(timestamptz)
    to anon, authenticated, service_role, integration;

create function private.tg__timestamps() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    new.updated_at := now();
    return new;
end
$$;
comment on function private.tg__timestamps() is 'Keeps updated_at true.';

-- sql/30_organizations.sql
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

-- sql/32_contacts.sql
/*
 * Contacts are the people who ask, whether they can log in or not. A customer who logs in is a member with a contact;
 * a sender on WhatsApp is a contact with an identity on that channel.
 */

create table public.contacts (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    member_id uuid,
    name text check (length(name) <= 200),
    email text check (email = lower(email) and length(email) <= 320),
    phone text check (length(phone) <= 50),
    company text check (length(company) <= 200),
    job_role text check (length(job_role) <= 200),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, member_id) references public.members (organization_id, id)
        on delete set null (member_id)
);
alter table public.contacts enable row level security;
alter table public.contacts force row level security;

comment on table public.contacts is 'A person who asks for help.';
comment on column public.contacts.member_id is 'The member this contact logs in as, if they do.';
comment on column public.contacts.job_role is 'What the person does in their company, in their own words.';

-- Also the way from a member to the contact they write as.
create unique index contacts_organization_id_member_id_idx on public.contacts (organization_id, member_id);
-- Inbound mail and channels match senders by address. Two contacts may share one (a family, a shop).
create index contacts_organization_id_email_idx on public.contacts (organization_id, email);
create index contacts_organization_id_created_at_idx on public.contacts (organization_id, created_at desc, id);

create policy select_member on public.contacts for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or id = (select private.contact_id())));
create policy insert_agent on public.contacts for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
-- Senders are matched by these addresses, so a customer does not write their own.
create policy update_agent on public.contacts for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
-- A member without a contact could not write any more.
create policy delete_agent on public.contacts for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()) and member_id is null);
grant select, delete,
    insert (organization_id, id, name, email, phone, company, job_role),
    update (name, email, phone, company, job_role)
    on public.contacts to authenticated;

create trigger _100_timestamps before update on public.contacts
    for each row execute function private.tg__timestamps();

create table public.contact_identities (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    contact_id uuid not null,
    channel public.channel not null,
    identity text not null check (length(identity) between 1 and 320),
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id) on delete cascade
);
alter table public.contact_identities enable row level security;
alter table public.contact_identities force row level security;

comment on table public.contact_identities is 'What a channel calls a contact: a phone number, a page-scoped id, a chat session.';

create unique index contact_identities_organization_id_channel_identity_idx
    on public.contact_identities (organization_id, channel, identity);
create index contact_identities_organization_id_contact_id_idx
    on public.contact_identities (organization_id, contact_id);

create policy select_agent on public.contact_identities for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy insert_agent on public.contact_identities for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_agent on public.contact_identities for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
grant select, delete, insert (organization_id, id, contact_id, channel, identity)
    on public.contact_identities to authenticated;

create function private.tg_members__contact() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if exists (
        select from public.contacts as c where c.organization_id = new.organization_id and c.member_id = new.id
    ) then
        return null;
    end if;
    -- A contact who already wrote from this address and cannot log in yet becomes this member's.
    update public.contacts as c
    set member_id = new.id
    where c.organization_id = new.organization_id
        and c.id = (
            select k.id from public.contacts as k
            where k.organization_id = new.organization_id and k.email = new.email and k.member_id is null
            order by k.created_at limit 1
        );
    if not found then
        insert into public.contacts (organization_id, member_id, name, email)
        values (new.organization_id, new.id, new.name, new.email);
    end if;
    return null;
end
$$;
comment on function private.tg_members__contact() is
    'Gives a new customer the contact they write as. Definer: customers may not write contacts.';
alter function private.tg_members__contact() owner to deskbase_definer;

create trigger _300_contact after insert or update of role on public.members
    for each row when (new.role = 'customer') execute function private.tg_members__contact();

-- sql/34_groups.sql
/*
 * Groups are teams of agents that tickets are given to.
 */

create table public.groups (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null check (length(name) between 1 and 200),
    description text not null default '' check (length(description) <= 10000),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table public.groups enable row level security;
alter table public.groups force row level security;

comment on table public.groups is 'A team of agents.';

create unique index groups_organization_id_name_idx on public.groups (organization_id, lower(name));

create policy select_agent on public.groups for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_lead on public.groups for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy update_lead on public.groups for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()))
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy delete_lead on public.groups for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description), update (name, description)
    on public.groups to authenticated;

create trigger _100_timestamps before update on public.groups
    for each row execute function private.tg__timestamps();

create table public.group_members (
    organization_id uuid not null default private.organization_id(),
    group_id uuid not null,
    member_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, group_id, member_id),
    foreign key (organization_id, group_id) references public.groups (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.group_members enable row level security;
alter table public.group_members force row level security;

comment on table public.group_members is 'Which agent belongs to which group.';

create index group_members_organization_id_member_id_idx on public.group_members (organization_id, member_id);

create policy select_agent on public.group_members for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_lead on public.group_members for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy delete_lead on public.group_members for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, group_id, member_id) on public.group_members to authenticated;

create function private.tg_group_members__agent() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if not exists (
        select from public.members as m
        where m.organization_id = new.organization_id and m.id = new.member_id and m.role >= 'agent'
    ) then
        raise sqlstate 'PT400' using message = 'not_an_agent', detail = 'Only agents of the organization belong to groups.';
    end if;
    return new;
end
$$;
comment on function private.tg_group_members__agent() is
    'Only agents belong to groups. Definer: the rule must see every member.';
alter function private.tg_group_members__agent() owner to deskbase_definer;

create trigger _250_agent before insert on public.group_members
    for each row execute function private.tg_group_members__agent();

-- sql/36_integration_tokens.sql
/*
 * Integration tokens are principals: a partner's system that holds one works on the tickets it made, within its
 * scopes, under the same policies as people. The token row is its identity and keeps its tickets for life; the secret is a
 * row of its own, so that rotation gives a second secret and takes the first away later.
 */

create table public.integration_tokens (
    organization_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null check (length(btrim(name)) between 1 and 200),
    prefix text not null check (prefix ~ '^stk_'),
    scopes text[] not null
        check (scopes <@ array['tickets:read', 'tickets:write', 'comments:write', 'webhooks:manage']),
    rate_limit integer not null default 1000 check (rate_limit between 1 and 1000000000),
    created_by_member_id uuid,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    rotated_at timestamptz,
    disabled_at timestamptz,
    revoked_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, created_by_member_id) references public.members (organization_id, id)
        on delete set null (created_by_member_id)
);
alter table public.integration_tokens enable row level security;
alter table public.integration_tokens force row level security;

comment on table public.integration_tokens is 'A credential of an outside system; its secret is shown once and never stored.';
comment on column public.integration_tokens.prefix is 'How the current secret begins, to tell tokens apart.';
comment on column public.integration_tokens.scopes is
    'What it may do: tickets:read, tickets:write, comments:write, webhooks:manage.';
comment on column public.integration_tokens.rate_limit is 'Requests an hour, from the top of the hour.';
comment on column public.integration_tokens.last_used_at is 'When it was last used, give or take a second.';
comment on column public.integration_tokens.disabled_at is 'Since when it is switched off; it can be switched on again.';
comment on column public.integration_tokens.revoked_at is 'When it was ended for good.';

-- Commands name a token; a name is free again once its token is revoked.
create unique index integration_tokens_organization_id_name_idx
    on public.integration_tokens (organization_id, lower(name)) where revoked_at is null;
create index integration_tokens_organization_id_created_by_member_id_idx
    on public.integration_tokens (organization_id, created_by_member_id);

create policy select_admin on public.integration_tokens for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.integration_tokens for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, update (name, rate_limit, expires_at) on public.integration_tokens to authenticated;

create table private.integration_token_secrets (
    hash bytea not null primary key check (length(hash) = 32),
    organization_id uuid not null,
    token_id uuid not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    foreign key (organization_id, token_id) references public.integration_tokens (organization_id, id) on delete cascade
);
alter table private.integration_token_secrets enable row level security;
alter table private.integration_token_secrets force row level security;
create policy select_definer on private.integration_token_secrets for select to deskbase_definer using (true);

comment on table private.integration_token_secrets is 'SHA-256 of each live secret of a token; two while a rotation''s grace lasts.';
comment on column private.integration_token_secrets.expires_at is 'When the grace after a rotation ends; empty for the current secret.';

create index integration_token_secrets_organization_id_token_id_idx
    on private.integration_token_secrets (organization_id, token_id);

create table public.token_usage (
    organization_id uuid not null,
    id bigint not null generated always as identity,
    token_id uuid not null,
    operation text not null check (length(operation) <= 200),
    status integer not null,
    duration_ms double precision not null,
    request_id text not null check (length(request_id) <= 200),
    at timestamptz not null,
    primary key (organization_id, id),
    foreign key (organization_id, token_id) references public.integration_tokens (organization_id, id) on delete cascade
);
alter table public.token_usage enable row level security;
alter table public.token_usage force row level security;

comment on table public.token_usage is 'What integration tokens did, a row a request; written in batches, within a second.';
comment on column public.token_usage.duration_ms is 'Time in the service, milliseconds.';

create index token_usage_organization_id_token_id_at_idx on public.token_usage (organization_id, token_id, at desc);
-- Retention takes the oldest rows of everyone.
create index token_usage_at_idx on public.token_usage (at);

create policy select_admin on public.token_usage for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.token_usage to authenticated;

create function private.base62(bytes bytea, width integer) returns text
language plpgsql immutable strict
set search_path = ''
as $$
declare
    c_alphabet constant text := '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
    v_number numeric := 0;
    v_text text := '';
begin
    for i in 0 .. length(bytes) - 1 loop
        v_number := v_number * 256 + get_byte(bytes, i);
    end loop;
    for i in 1 .. width loop
        v_text := substr(c_alphabet, (v_number % 62)::integer + 1, 1) || v_text;
        v_number := div(v_number, 62);
    end loop;
    return v_text;
end
$$;
comment on function private.base62(bytea, integer) is 'Bytes as a big-endian number in base 62, padded with zeros to the width.';

create function private.new_secret(out secret text, out hash bytea)
language plpgsql volatile
set search_path = ''
as $$
begin
    -- Three random UUIDs carry 366 random bits; their hash is 32 bytes of them. Core Postgres has no other strong source.
    secret := 'stk_' || private.base62(sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 43);
    secret := secret || private.base62(substr(sha256(convert_to(secret, 'UTF8')), 1, 4), 6);
    hash := sha256(convert_to(secret, 'UTF8'));
end
$$;
comment on function private.new_secret() is
    'A new token: stk_, 32 random bytes in base 62, and a checksum of six characters that finds typing errors without a query.';

create function private.token_json(token public.integration_tokens, secret text) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
    'id', token.id, 'name', token.name, 'prefix', token.prefix, 'token', secret,
    'scopes', token.scopes, 'rate_limit', token.rate_limit,
    'created_at', private.rfc3339(token.created_at), 'expires_at', private.rfc3339(token.expires_at)
) || case when secret is null then jsonb_build_object(
    'status', case
        when token.revoked_at is not null then 'revoked'
        when token.disabled_at is not null then 'disabled'
        when token.expires_at <= now() then 'expired'
        else 'active' end,
    'last_used_at', private.rfc3339(token.last_used_at)) else '{}' end;
comment on function private.token_json(public.integration_tokens, text) is
    'A token as its admin sees it; with the secret only right after it was made.';

create function private.create_token(
    organization_id uuid, name text, rate_limit integer, expires_at timestamptz, scopes text[]
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_secret record;
    v_token public.integration_tokens;
begin
    if expires_at <= now() then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'expires_at must lie in the future.';
    end if;
    v_secret := private.new_secret();
    insert into public.integration_tokens as t
        (organization_id, name, prefix, scopes, rate_limit, created_by_member_id, expires_at)
    values (
        create_token.organization_id,
        btrim(create_token.name),
        left(v_secret.secret, 12),
        coalesce(create_token.scopes, array['tickets:read', 'tickets:write', 'comments:write', 'webhooks:manage']),
        coalesce(create_token.rate_limit, 1000),
        private.member_id(),
        create_token.expires_at)
    returning t.* into v_token;
    insert into private.integration_token_secrets (hash, organization_id, token_id)
    values (v_secret.hash, v_token.organization_id, v_token.id);
    return private.token_json(v_token, v_secret.secret);
end
$$;
comment on function private.create_token(uuid, text, integer, timestamptz, text[]) is
    'Makes a token and answers it with its secret. Definer: nobody writes tokens or hashes directly.';
alter function private.create_token(uuid, text, integer, timestamptz, text[]) owner to deskbase_definer;

create function private.find_token(organization_id uuid, token_id uuid) returns public.integration_tokens
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens;
begin
    select t.* into v_token from public.integration_tokens as t
    where t.organization_id = find_token.organization_id and t.id = find_token.token_id
    for update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such integration token.';
    end if;
    if v_token.revoked_at is not null then
        raise sqlstate 'PT409' using message = 'token_revoked', detail = 'A revoked token stays revoked; create a new one.';
    end if;
    return v_token;
end
$$;
comment on function private.find_token(uuid, uuid) is 'Locks a token that is not revoked. Definer: it serves the functions below.';
alter function private.find_token(uuid, uuid) owner to deskbase_definer;

create function private.rotate_token(organization_id uuid, token_id uuid, grace_seconds integer) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_secret record;
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    if coalesce(grace_seconds, 0) not between 0 and 30 * 86400 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'grace_seconds must lie between 0 and 2592000.';
    end if;
    v_secret := private.new_secret();
    -- The last secret lives on for the grace; one that was already on its way out is not given more time.
    update private.integration_token_secrets as s
    set expires_at = least(s.expires_at, now() + coalesce(grace_seconds, 0) * interval '1 second')
    where s.organization_id = v_token.organization_id and s.token_id = v_token.id;
    insert into private.integration_token_secrets (hash, organization_id, token_id)
    values (v_secret.hash, v_token.organization_id, v_token.id);
    update public.integration_tokens as t
    set prefix = left(v_secret.secret, 12), rotated_at = now()
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, v_secret.secret);
end
$$;
comment on function private.rotate_token(uuid, uuid, integer) is
    'Gives a token a new secret; the old one works for grace_seconds more. Definer: hashes are nobody''s to write.';
alter function private.rotate_token(uuid, uuid, integer) owner to deskbase_definer;

create function private.disable_token(organization_id uuid, token_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    update public.integration_tokens as t
    set disabled_at = coalesce(t.disabled_at, now())
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, null);
end
$$;
comment on function private.disable_token(uuid, uuid) is 'Switches a token off. Definer: serves admins and commands.';
alter function private.disable_token(uuid, uuid) owner to deskbase_definer;

create function private.enable_token(organization_id uuid, token_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    update public.integration_tokens as t
    set disabled_at = null
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, null);
end
$$;
comment on function private.enable_token(uuid, uuid) is 'Switches a disabled token on. Definer: serves admins and commands.';
alter function private.enable_token(uuid, uuid) owner to deskbase_definer;

create function private.revoke_token(organization_id uuid, token_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token public.integration_tokens := private.find_token(organization_id, token_id);
begin
    delete from private.integration_token_secrets as s
    where s.organization_id = v_token.organization_id and s.token_id = v_token.id;
    update public.integration_tokens as t
    set revoked_at = now()
    where t.organization_id = v_token.organization_id and t.id = v_token.id
    returning t.* into v_token;
    return private.token_json(v_token, null);
end
$$;
comment on function private.revoke_token(uuid, uuid) is 'Ends a token for good and forgets its hashes. Definer: serves admins and commands.';
alter function private.revoke_token(uuid, uuid) owner to deskbase_definer;

create function private.require_admin() returns uuid
language plpgsql stable
set search_path = ''
as $$
begin
    if not private.is_admin() then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'Only an admin of the organization may do this.';
    end if;
    return private.organization_id();
end
$$;
comment on function private.require_admin() is 'The organization of the admin who is asking; anyone else is refused.';
grant execute on function private.require_admin() to authenticated;

/* The same over PostgREST. The functions above take an organization and trust it, so clients reach them only through
   these definers, which take the organization from the admin's own claims. */

create function private.admin_create_token(name text, rate_limit integer, expires_at timestamptz, scopes text[])
returns jsonb
language sql volatile security definer
set search_path = ''
return private.create_token(private.require_admin(), name, rate_limit, expires_at, scopes);
comment on function private.admin_create_token(text, integer, timestamptz, text[]) is
    'create_token for the admin who is asking. Definer: checks the caller and hands on.';
alter function private.admin_create_token(text, integer, timestamptz, text[]) owner to deskbase_definer;
grant execute on function private.admin_create_token(text, integer, timestamptz, text[]) to authenticated;

create function private.admin_change_token(action text, token_id uuid, grace_seconds integer default null) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := private.require_admin();
begin
    return case action
        when 'rotate' then private.rotate_token(v_organization_id, token_id, grace_seconds)
        when 'disable' then private.disable_token(v_organization_id, token_id)
        when 'enable' then private.enable_token(v_organization_id, token_id)
        when 'revoke' then private.revoke_token(v_organization_id, token_id)
    end;
end
$$;
comment on function private.admin_change_token(text, uuid, integer) is
    'rotate, disable, enable or revoke for the admin who is asking. Definer: checks the caller and hands on.';
alter function private.admin_change_token(text, uuid, integer) owner to deskbase_definer;
grant execute on function private.admin_change_token(text, uuid, integer) to authenticated;

create function public.create_integration_token(
    name text, rate_limit integer default null, expires_at timestamptz default null, scopes text[] default null
) returns jsonb
language sql volatile
set search_path = ''
return private.admin_create_token(name, rate_limit, expires_at, scopes);
comment on function public.create_integration_token(text, integer, timestamptz, text[]) is
    E'Create an integration token\n\nAdmins only. Answers {id, name, prefix, token, scopes, rate_limit, created_at, expires_at}; the token is shown this once.';

create function public.rotate_integration_token(id uuid, grace_seconds integer default 0) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('rotate', id, grace_seconds);
comment on function public.rotate_integration_token(uuid, integer) is
    E'Rotate an integration token\n\nAdmins only. Answers the new token once; the old one works for grace_seconds more (30 days at most).';

create function public.disable_integration_token(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('disable', id);
comment on function public.disable_integration_token(uuid) is
    E'Switch an integration token off\n\nAdmins only. It can be enabled again.';

create function public.enable_integration_token(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('enable', id);
comment on function public.enable_integration_token(uuid) is E'Switch a disabled integration token on\n\nAdmins only.';

create function public.revoke_integration_token(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_change_token('revoke', id);
comment on function public.revoke_integration_token(uuid) is E'End an integration token for good\n\nAdmins only.';

grant execute on function
    public.create_integration_token(text, integer, timestamptz, text[]),
    public.rotate_integration_token(uuid, integer),
    public.disable_integration_token(uuid),
    public.enable_integration_token(uuid),
    public.revoke_integration_token(uuid)
    to authenticated;

create function private.record_token_usage(rows jsonb) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    -- Batches of several processes lock tokens in one order.
    with locked as (
        select t.organization_id, t.id
        from public.integration_tokens as t
        where (t.organization_id, t.id) in (
            select k.organization_id, k.token_id
            from jsonb_to_recordset(rows) as k (organization_id uuid, token_id uuid))
        order by t.organization_id, t.id
        for no key update
    ), u as (
        select r.*
        from jsonb_to_recordset(rows) as r (
            organization_id uuid, token_id uuid, operation text, status integer, duration_ms double precision,
            request_id text, at timestamptz)
        join locked as t on t.organization_id = r.organization_id and t.id = r.token_id
    ), used as (
        update public.integration_tokens as t
        set last_used_at = greatest(t.last_used_at, l.at)
        from (select u.organization_id, u.token_id, max(u.at) as at from u group by 1, 2) as l
        where t.organization_id = l.organization_id and t.id = l.token_id
    )
    insert into public.token_usage (organization_id, token_id, operation, status, duration_ms, request_id, at)
    select u.organization_id, u.token_id, u.operation, u.status, u.duration_ms, u.request_id, u.at from u;
end;
comment on function private.record_token_usage(jsonb) is
    'Writes a batch of usage; rows of a token that is gone are dropped. Definer: the service''s login owns nothing.';
alter function private.record_token_usage(jsonb) owner to deskbase_definer;
grant execute on function private.record_token_usage(jsonb) to authenticator;

-- sql/38_categories.sql
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

-- sql/40_tickets.sql
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
    due_at timestamptz,
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
-- Search, which tests the organization and the reader itself: @@ is not leakproof (docs/database.md).
create index tickets_search_idx on public.tickets
    using gin (to_tsvector('simple', subject || ' ' || description));

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

-- sql/42_comments.sql
/*
 * Comments are the conversation of a ticket, and attachments the files in it. Both carry their ticket's requester,
 * integration and deletion, so that their policies test columns of their own and no row is looked up to judge another.
 */

create table public.comments (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    ticket_id uuid not null,
    body text not null check (length(btrim(body)) > 0 and length(body) <= 100000),
    is_internal boolean not null default false,
    content_type public.content_type not null default 'text',
    channel public.channel not null default 'web',
    author_contact_id uuid,
    author_member_id uuid,
    author_token_id uuid,
    ticket_version bigint not null default 1,
    external_message_id text check (length(external_message_id) between 1 and 320),
    ticket_contact_id uuid,
    ticket_token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    constraint comments_one_author check (num_nonnulls(author_contact_id, author_member_id, author_token_id) <= 1),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, author_contact_id) references public.contacts (organization_id, id)
        on delete set null (author_contact_id),
    foreign key (organization_id, author_member_id) references public.members (organization_id, id)
        on delete set null (author_member_id),
    foreign key (organization_id, author_token_id) references public.integration_tokens (organization_id, id)
        on delete set null (author_token_id)
);
alter table public.comments enable row level security;
alter table public.comments force row level security;

comment on table public.comments is
    E'A message on a ticket, public or internal\n\nThe author comes from the credential; without any it is the desk itself.';
comment on column public.comments.number is 'The integer that clients with integer ids know the comment by.';
comment on column public.comments.is_internal is 'Seen by agents alone, and by the integration that wrote it.';
comment on column public.comments.ticket_version is 'The version that its ticket has since this comment.';
comment on column public.comments.external_message_id is 'What its channel calls the message; a second delivery makes no second comment.';
comment on column public.comments.ticket_contact_id is 'The ticket''s requester, for the policy.';
comment on column public.comments.ticket_token_id is 'The ticket''s integration, for the policy.';
comment on column public.comments.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

-- The conversation in order, and the reference.
create index comments_organization_id_ticket_id_idx on public.comments (organization_id, ticket_id, created_at, id);
-- The policy of customers, and the references. Partial: most comments lack most of them.
create index comments_organization_id_ticket_contact_id_idx on public.comments (organization_id, ticket_contact_id)
    where ticket_contact_id is not null;
create index comments_organization_id_ticket_token_id_idx on public.comments (organization_id, ticket_token_id)
    where ticket_token_id is not null;
create index comments_organization_id_author_contact_id_idx on public.comments (organization_id, author_contact_id)
    where author_contact_id is not null;
create index comments_organization_id_author_member_id_idx on public.comments (organization_id, author_member_id)
    where author_member_id is not null;
create index comments_organization_id_author_token_id_idx on public.comments (organization_id, author_token_id)
    where author_token_id is not null;
create unique index comments_organization_id_channel_external_message_id_idx
    on public.comments (organization_id, channel, external_message_id);
-- Search, through definer functions alone.
create index comments_search_idx on public.comments using gin (to_tsvector('simple', body));

create policy select_member on public.comments for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy select_integration on public.comments for select to integration
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ticket_token_id = (select private.token_id()) and (select private.has_scope('tickets:read'))
        and (not is_internal or author_token_id = (select private.token_id())));
create policy insert_member on public.comments for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy insert_integration on public.comments for insert to integration
    with check (organization_id = (select private.organization_id())
        and ticket_token_id = (select private.token_id()) and (select private.has_scope('comments:write')));
-- What was said is its author's to correct as long as they see it; a lead may correct anyone's.
create policy update_author on public.comments for update to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead())
            or ((select private.is_agent()) and author_member_id = (select private.member_id()))
            or (author_contact_id = (select private.contact_id())
                and ticket_contact_id = (select private.contact_id()))))
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or not is_internal));
create policy delete_author on public.comments for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead())
            or ((select private.is_agent()) and author_member_id = (select private.member_id()))
            or (author_contact_id = (select private.contact_id())
                and ticket_contact_id = (select private.contact_id()))));
grant select, delete, insert (organization_id, id, ticket_id, body, is_internal, content_type),
    update (body, is_internal)
    on public.comments to authenticated;
grant select, insert (organization_id, id, ticket_id, body, is_internal, content_type) on public.comments to integration;

create function private.tg_comments__defaults() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_ticket record;
begin
    perform private.refuse_foreign(new.organization_id);
    select t.contact_id, t.integration_token_id, t.deleted_at, t.status, t.version into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    -- The ticket's audience may not change until this comment is part of it; _400_ticket writes the row anyway.
    for no key update;
    if not found or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    new.ticket_contact_id := v_ticket.contact_id;
    new.ticket_token_id := v_ticket.integration_token_id;
    new.ticket_version := v_ticket.version + 1;
    if private.token_id() is not null then
        new.author_token_id := private.token_id();
        new.channel := 'api';
    elsif private.is_agent() then
        new.author_member_id := private.member_id();
    elsif private.contact_id() is not null then
        new.author_contact_id := private.contact_id();
        -- Told only to the requester: to anyone else the policy says no first.
        if v_ticket.status = 'closed' and v_ticket.contact_id = private.contact_id() then
            raise sqlstate 'PT409' using message = 'ticket_closed',
                detail = 'This ticket is closed; open a new one.';
        end if;
    end if;
    return new;
end
$$;
comment on function private.tg_comments__defaults() is
    'Names the author and the ticket''s audience. Definer: the ticket may be hidden from the writer.';
alter function private.tg_comments__defaults() owner to deskbase_definer;

create function private.tg_comments__ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- One update whatever happens: it counts the version, so that a reply to a stale ticket can be told.
    update public.tickets as t
    set first_response_at = case
            when new.author_member_id is not null and not new.is_internal then coalesce(t.first_response_at, now())
            else t.first_response_at end,
        status = case
            when new.is_internal then t.status
            when new.author_member_id is not null and t.status = 'new' then 'open'
            when new.author_contact_id is not null and t.status in ('waiting', 'resolved') then 'open'
            else t.status end
    where t.organization_id = new.organization_id and t.id = new.ticket_id;
    return null;
end
$$;
comment on function private.tg_comments__ticket() is
    'What a reply does to its ticket: the first answer opens it, the requester''s reply reopens it. Definer: repliers may not write all of this.';
alter function private.tg_comments__ticket() owner to deskbase_definer;

create trigger _100_defaults before insert on public.comments
    for each row execute function private.tg_comments__defaults();
create trigger _100_timestamps before update of body, is_internal on public.comments
    for each row execute function private.tg__timestamps();
create trigger _400_ticket after insert on public.comments
    for each row execute function private.tg_comments__ticket();

create table public.attachments (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    ticket_id uuid,
    comment_id uuid,
    uploaded_by_member_id uuid default private.member_id(),
    filename text not null check (length(filename) between 1 and 255),
    mime_type text not null default 'application/octet-stream' check (length(mime_type) between 3 and 255),
    size bigint not null check (size >= 0),
    url text check (url ~ '^https?://' and length(url) <= 2000),
    storage_key text check (length(storage_key) <= 500),
    is_internal boolean not null default false,
    ticket_contact_id uuid,
    ticket_token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, storage_key),
    constraint attachments_one_place check (url is null or storage_key is null),
    foreign key (organization_id) references public.organizations (id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, comment_id) references public.comments (organization_id, id) on delete cascade,
    foreign key (organization_id, uploaded_by_member_id) references public.members (organization_id, id)
        on delete set null (uploaded_by_member_id)
);
alter table public.attachments enable row level security;
alter table public.attachments force row level security;

comment on table public.attachments is 'A file: uploaded and not yet used, or on a ticket, or on a comment of it.';
comment on column public.attachments.size is 'Bytes.';
comment on column public.attachments.url is 'Where it lies if it lies elsewhere.';
comment on column public.attachments.storage_key is 'Where it lies in our own storage.';
comment on column public.attachments.ticket_contact_id is 'The ticket''s requester, for the policy.';
comment on column public.attachments.ticket_token_id is 'The ticket''s integration, for the policy.';
comment on column public.attachments.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index attachments_organization_id_ticket_id_idx on public.attachments (organization_id, ticket_id);
create index attachments_organization_id_comment_id_idx on public.attachments (organization_id, comment_id);
create index attachments_organization_id_uploaded_by_member_id_idx
    on public.attachments (organization_id, uploaded_by_member_id);

create policy select_member on public.attachments for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or uploaded_by_member_id = (select private.member_id())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy insert_member on public.attachments for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and uploaded_by_member_id = (select private.member_id())
        and ((select private.is_agent()) or ticket_id is null
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy delete_member on public.attachments for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead()) or uploaded_by_member_id = (select private.member_id())));
grant select, delete,
    insert (organization_id, id, ticket_id, comment_id, filename, mime_type, size, url)
    on public.attachments to authenticated;

create function private.tg_attachments__of_ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_comment record;
    v_ticket record;
begin
    perform private.refuse_foreign(new.organization_id);
    if new.comment_id is not null then
        select c.ticket_id, c.is_internal into v_comment
        from public.comments as c
        where c.organization_id = new.organization_id and c.id = new.comment_id;
        new.ticket_id := v_comment.ticket_id;
        new.is_internal := coalesce(v_comment.is_internal, false);
    end if;
    if new.ticket_id is null then
        return new;
    end if;
    select t.contact_id, t.integration_token_id, t.deleted_at into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    for share;
    if not found or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    new.ticket_contact_id := v_ticket.contact_id;
    new.ticket_token_id := v_ticket.integration_token_id;
    return new;
end
$$;
comment on function private.tg_attachments__of_ticket() is
    'A file on a comment is on its ticket, with the same audience. Definer: the ticket may be hidden from the writer.';
alter function private.tg_attachments__of_ticket() owner to deskbase_definer;

create trigger _100_of_ticket before insert on public.attachments
    for each row execute function private.tg_attachments__of_ticket();

create function private.tg_comments__attachments() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.attachments as a
    set is_internal = new.is_internal
    where a.organization_id = new.organization_id and a.comment_id = new.id;
    return null;
end
$$;
comment on function private.tg_comments__attachments() is
    'A file is as internal as its comment. Definer: it may be another member''s file.';
alter function private.tg_comments__attachments() owner to deskbase_definer;

create trigger _500_attachments after update on public.comments
    for each row when (old.is_internal is distinct from new.is_internal)
    execute function private.tg_comments__attachments();

-- sql/44_history.sql
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

-- sql/46_notifications.sql
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

-- sql/50_templates.sql
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

-- sql/52_articles.sql
/*
 * The knowledge base: what can be read before anyone asks. Published articles are the one thing that visitors see.
 */

create table public.articles (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    author_id uuid default private.member_id(),
    title text not null check (length(btrim(title)) between 1 and 500),
    content text not null default '' check (length(content) <= 500000),
    category text not null default '' check (length(category) <= 200),
    tags text[] not null default '{}' check (pg_column_size(tags) <= 65536),
    is_published boolean not null default false,
    views bigint not null default 0,
    helpful_votes integer not null default 0,
    unhelpful_votes integer not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, author_id) references public.members (organization_id, id)
        on delete set null (author_id)
);
alter table public.articles enable row level security;
alter table public.articles force row level security;

comment on table public.articles is 'An answer that is there before the question.';
comment on column public.articles.is_published is 'Whether everybody sees it, or the desk alone.';
comment on column public.articles.helpful_votes is 'How many members found it helpful; counted from article_votes.';

create index articles_organization_id_created_at_idx on public.articles (organization_id, created_at desc, id desc);
create index articles_organization_id_author_id_idx on public.articles (organization_id, author_id);
-- Search, through definer functions alone.
create index articles_search_idx on public.articles using gin (to_tsvector('simple', title || ' ' || content));

create policy select_visitor on public.articles for select to anon
    using (is_published and organization_id not in (select private.closed_organization_ids()));
create policy select_member on public.articles for select to authenticated
    using (organization_id = (select private.organization_id()) and (is_published or (select private.is_agent())));
create policy insert_agent on public.articles for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy update_agent on public.articles for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_agent on public.articles for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
grant select on public.articles to anon;
grant select, delete, insert (organization_id, id, title, content, category, tags, is_published),
    update (title, content, category, tags, is_published)
    on public.articles to authenticated;

create trigger _100_timestamps before update on public.articles
    for each row when ((old.title, old.content, old.category, old.tags, old.is_published)
        is distinct from (new.title, new.content, new.category, new.tags, new.is_published))
    execute function private.tg__timestamps();

create table public.article_votes (
    organization_id uuid not null default private.organization_id(),
    article_id uuid not null,
    member_id uuid not null default private.member_id(),
    is_helpful boolean not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, article_id, member_id),
    foreign key (organization_id, article_id) references public.articles (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.article_votes enable row level security;
alter table public.article_votes force row level security;

comment on table public.article_votes is 'Whether an article helped a member; one vote each, which they may change.';

create index article_votes_organization_id_member_id_idx on public.article_votes (organization_id, member_id);

create policy select_self on public.article_votes for select to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
-- Under the articles' own policy: only what the member can read can be voted on.
create policy insert_self on public.article_votes for insert to authenticated
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id())
        and article_id in (select a.id from public.articles as a
            where a.organization_id = (select private.organization_id())));
create policy update_self on public.article_votes for update to authenticated
    using (organization_id = (select private.organization_id()) and member_id = (select private.member_id()))
    with check (organization_id = (select private.organization_id()) and member_id = (select private.member_id()));
grant select, insert (organization_id, article_id, is_helpful), update (is_helpful)
    on public.article_votes to authenticated;

create function private.tg_article_votes__count() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.articles as a
    set helpful_votes = a.helpful_votes
            + coalesce(new.is_helpful, false)::integer - coalesce(old.is_helpful, false)::integer,
        unhelpful_votes = a.unhelpful_votes
            + coalesce(not new.is_helpful, false)::integer - coalesce(not old.is_helpful, false)::integer
    where a.organization_id = coalesce(new.organization_id, old.organization_id)
        and a.id = coalesce(new.article_id, old.article_id);
    return null;
end
$$;
comment on function private.tg_article_votes__count() is
    'Counts votes on the article. Definer: readers may not write articles.';
alter function private.tg_article_votes__count() owner to deskbase_definer;

create trigger _400_count after insert or delete or update of is_helpful on public.article_votes
    for each row execute function private.tg_article_votes__count();

-- sql/54_satisfaction.sql
/*
 * How satisfied the requester was, once a ticket is resolved. Written through a signed link, never by a client.
 */

create table public.satisfaction_ratings (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    ticket_id uuid not null,
    contact_id uuid,
    assignee_id uuid,
    score smallint not null check (score between 1 and 5),
    comment text not null default '' check (length(comment) <= 10000),
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, ticket_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
        on delete set null (contact_id),
    foreign key (organization_id, assignee_id) references public.members (organization_id, id)
        on delete set null (assignee_id)
);
alter table public.satisfaction_ratings enable row level security;
alter table public.satisfaction_ratings force row level security;

comment on table public.satisfaction_ratings is 'What the requester thought of how a ticket was solved; one a ticket.';
comment on column public.satisfaction_ratings.score is 'From 1, bad, to 5, good.';
comment on column public.satisfaction_ratings.assignee_id is 'Who had solved it, so that a later assignment does not move the rating.';
comment on column public.satisfaction_ratings.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index satisfaction_ratings_organization_id_created_at_idx
    on public.satisfaction_ratings (organization_id, created_at);
create index satisfaction_ratings_organization_id_contact_id_idx
    on public.satisfaction_ratings (organization_id, contact_id);
create index satisfaction_ratings_organization_id_assignee_id_idx
    on public.satisfaction_ratings (organization_id, assignee_id);

create policy select_member on public.satisfaction_ratings for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
grant select on public.satisfaction_ratings to authenticated;

-- sql/58_channels.sql
/*
 * Channels: the accounts through which messages come in and go out, and each message as it was delivered.
 */

create table public.channel_accounts (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel public.channel not null,
    external_account_id text check (length(external_account_id) between 1 and 320),
    name text not null default '' check (length(name) <= 200),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table public.channel_accounts enable row level security;
alter table public.channel_accounts force row level security;

comment on table public.channel_accounts is 'An account on a platform that an organization is reached by.';
comment on column public.channel_accounts.external_account_id is
    'What the platform calls it (page, phone number, user); it tells whose a delivery is, so it is unique among all.';

create unique index channel_accounts_channel_external_account_id_idx
    on public.channel_accounts (channel, external_account_id);

create policy select_admin on public.channel_accounts for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy insert_admin on public.channel_accounts for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.channel_accounts for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.channel_accounts for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete, insert (organization_id, id, channel, external_account_id, name, is_active),
    update (name, is_active)
    on public.channel_accounts to authenticated;

create trigger _100_timestamps before update on public.channel_accounts
    for each row execute function private.tg__timestamps();

create table private.channel_secrets (
    organization_id uuid not null,
    channel_account_id uuid not null,
    app_secret text,
    verify_token text,
    access_token text,
    updated_at timestamptz not null default now(),
    primary key (organization_id, channel_account_id),
    foreign key (organization_id, channel_account_id)
        references public.channel_accounts (organization_id, id) on delete cascade
);
alter table private.channel_secrets enable row level security;
alter table private.channel_secrets force row level security;
create policy select_definer on private.channel_secrets for select to deskbase_definer using (true);

comment on table private.channel_secrets is 'What a platform and the desk know each other by.';
comment on column private.channel_secrets.app_secret is 'Signs what comes in.';
comment on column private.channel_secrets.verify_token is 'Answers the platform''s verification request.';
comment on column private.channel_secrets.access_token is 'Lets the desk answer.';

create table public.inbound_messages (
    organization_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel public.channel not null,
    channel_account_id uuid,
    external_message_id text not null check (length(external_message_id) between 1 and 320),
    sender text not null check (length(sender) between 1 and 320),
    payload jsonb not null,
    ticket_id uuid,
    comment_id uuid,
    attempts integer not null default 0,
    failure text,
    received_at timestamptz not null default now(),
    processed_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, channel_account_id) references public.channel_accounts (organization_id, id)
        on delete set null (channel_account_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id)
        on delete set null (ticket_id),
    foreign key (organization_id, comment_id) references public.comments (organization_id, id)
        on delete set null (comment_id)
);
alter table public.inbound_messages enable row level security;
alter table public.inbound_messages force row level security;

comment on table public.inbound_messages is 'A delivery of a platform as it came; a worker makes a ticket or a comment of it.';
comment on column public.inbound_messages.external_message_id is 'The platform''s id; the same one twice is one message.';
comment on column public.inbound_messages.failure is 'Why it could not be processed the last time.';

create unique index inbound_messages_organization_id_channel_external_message_id_idx
    on public.inbound_messages (organization_id, channel, external_message_id);
-- The worker's queue.
create index inbound_messages_received_at_idx on public.inbound_messages (received_at) where processed_at is null;
create index inbound_messages_organization_id_channel_account_id_idx
    on public.inbound_messages (organization_id, channel_account_id);
create index inbound_messages_organization_id_ticket_id_idx on public.inbound_messages (organization_id, ticket_id);
create index inbound_messages_organization_id_comment_id_idx on public.inbound_messages (organization_id, comment_id);

create policy select_admin on public.inbound_messages for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.inbound_messages to authenticated;

-- sql/60_webhooks.sql
/*
 * Outgoing webhooks: where an integration wants to be told of its tickets, and what became of each message.
 */

create table public.webhook_endpoints (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    integration_token_id uuid not null default private.token_id(),
    url text not null check (url ~ '^https?://' and length(url) <= 2000),
    events text[] not null check (cardinality(events) > 0
        and events <@ array['ticket.created', 'ticket.updated', 'ticket.status_changed', 'comment.created']),
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, integration_token_id)
        references public.integration_tokens (organization_id, id) on delete cascade
);
alter table public.webhook_endpoints enable row level security;
alter table public.webhook_endpoints force row level security;

comment on table public.webhook_endpoints is 'An address of an outside system that is told of its tickets.';
comment on column public.webhook_endpoints.disabled_at is 'Since when deliveries are given up, after a day of failures.';

create index webhook_endpoints_organization_id_integration_token_id_idx
    on public.webhook_endpoints (organization_id, integration_token_id);

create policy select_admin on public.webhook_endpoints for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy select_integration on public.webhook_endpoints for select to integration
    using (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('webhooks:manage')));
create policy delete_admin on public.webhook_endpoints for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_integration on public.webhook_endpoints for delete to integration
    using (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('webhooks:manage')));
grant select, delete on public.webhook_endpoints to authenticated, integration;

create table private.webhook_secrets (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    webhook_endpoint_id uuid not null,
    secret text not null check (secret ~ '^whsec_'),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, webhook_endpoint_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade
);
alter table private.webhook_secrets enable row level security;
alter table private.webhook_secrets force row level security;
create policy select_definer on private.webhook_secrets for select to deskbase_definer using (true);

comment on table private.webhook_secrets is 'What deliveries are signed with; two while a rotation lasts.';

create index webhook_secrets_organization_id_webhook_endpoint_id_idx
    on private.webhook_secrets (organization_id, webhook_endpoint_id);

create table public.webhook_deliveries (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    webhook_endpoint_id uuid not null,
    event_id bigint not null,
    type text not null,
    ticket_id uuid,
    payload jsonb not null,
    attempts integer not null default 0,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'dead')),
    response_status integer,
    failure text,
    created_at timestamptz not null default now(),
    next_attempt_at timestamptz default now(),
    delivered_at timestamptz,
    primary key (organization_id, id),
    unique (organization_id, webhook_endpoint_id, event_id, type),
    foreign key (organization_id, webhook_endpoint_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id)
        on delete set null (ticket_id)
);
alter table public.webhook_deliveries enable row level security;
alter table public.webhook_deliveries force row level security;

comment on table public.webhook_deliveries is 'A message to an endpoint and what became of it.';
comment on column public.webhook_deliveries.status is 'pending: tried again with backoff; dead: given up after a day, to be replayed by hand.';
comment on column public.webhook_deliveries.event_id is 'The event it tells of.';

-- Messages of one ticket go out in order.
create index webhook_deliveries_organization_id_ticket_id_idx
    on public.webhook_deliveries (organization_id, ticket_id, event_id);
create index webhook_deliveries_next_attempt_at_idx on public.webhook_deliveries (next_attempt_at)
    where status = 'pending';

create policy select_admin on public.webhook_deliveries for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.webhook_deliveries to authenticated;

-- sql/70_events.sql
/*
 * The event log: what changed, in the transaction that changed it, so that nothing is told that did not happen and
 * nothing that happened goes untold. Readers keep a snapshot as their cursor: an event is new to them if its transaction
 * is visible now and was not then. Ids are handed out before commit and become visible out of order; snapshots do not lie.
 */

create table private.events (
    id bigint not null generated always as identity,
    xid xid8 not null default pg_current_xact_id(),
    organization_id uuid not null,
    type text not null,
    table_name text not null,
    operation text not null check (operation in ('INSERT', 'UPDATE', 'DELETE')),
    record jsonb,
    old_record jsonb,
    at timestamptz not null default now(),
    primary key (xid, id, at)
) partition by range (at);
alter table private.events enable row level security;
alter table private.events force row level security;
create policy select_definer on private.events for select to deskbase_definer using (true);

comment on table private.events is 'Every change of a published table, a row each, by trigger; a partition a day (UTC).';
comment on column private.events.xid is 'The transaction that made the change: what readers'' cursors go by, and so the head of the key.';
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
    case tg_op
        when 'INSERT' then
            insert into private.events (organization_id, type, table_name, operation, record)
            values (new.organization_id, v_entity || '.created', tg_table_name, tg_op, to_jsonb(new));
        when 'UPDATE' then
            insert into private.events (organization_id, type, table_name, operation, record, old_record)
            values (new.organization_id, v_entity || '.updated', tg_table_name, tg_op, to_jsonb(new), to_jsonb(old));
        when 'DELETE' then
            insert into private.events (organization_id, type, table_name, operation, old_record)
            values (old.organization_id, v_entity || '.deleted', tg_table_name, tg_op, to_jsonb(old));
    end case;
    return null;
end
$$;
comment on function private.tg__events() is
    'Logs a change; its argument is the entity''s name in event types. Definer: nobody writes the log directly.';
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
    for each row when (old.* is distinct from new.*) execute function private.tg__events('ticket');
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

-- sql/72_limits.sql
/*
 * The limiter, one for every way in. A window is counted in one row that is updated in place; windows are aligned to the
 * clock and exact: of a limit of N, N requests pass, however many processes ask.
 */

create table private.rate_windows (
    bucket text not null,
    subject text not null,
    window_start timestamptz not null,
    used integer not null,
    last_grant integer not null,
    primary key (bucket, subject)
) with (fillfactor = 50);
alter table private.rate_windows enable row level security;
alter table private.rate_windows force row level security;
create policy select_definer on private.rate_windows for select to deskbase_definer using (true);

comment on table private.rate_windows is 'How much of its current window each subject has used; rows half empty, so that updates stay on their page.';
comment on column private.rate_windows.bucket is 'What is limited: a contract, or rest.';
comment on column private.rate_windows.subject is 'Who is limited: token:…, user:…, organization:…, address:….';
comment on column private.rate_windows.last_grant is 'How many of the requests that were asked for last were granted.';

create function private.take(
    bucket text, subject text, wanted integer, allowed integer, window_seconds integer,
    out granted integer, out remaining integer, out resets_at bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_start bigint := floor(extract(epoch from now()) / window_seconds)::bigint * window_seconds;
begin
    -- A transaction that waited over the turn of the window counts in the window that is there by then.
    insert into private.rate_windows as w (bucket, subject, window_start, used, last_grant)
    values (take.bucket, take.subject, to_timestamp(v_start), least(wanted, allowed), least(wanted, allowed))
    on conflict on constraint rate_windows_pkey do update
    set used = case
            when w.window_start < excluded.window_start then least(wanted, allowed)
            else w.used + greatest(least(wanted, allowed - w.used), 0) end,
        last_grant = case
            when w.window_start < excluded.window_start then least(wanted, allowed)
            else greatest(least(wanted, allowed - w.used), 0) end,
        window_start = greatest(w.window_start, excluded.window_start)
    where w.window_start < excluded.window_start or w.used < allowed
    returning w.last_grant, allowed - w.used, extract(epoch from w.window_start)::bigint + window_seconds
    into granted, remaining, resets_at;
    if not found then
        granted := 0;
        remaining := 0;
        resets_at := v_start + window_seconds;
    end if;
end
$$;
comment on function private.take(text, text, integer, integer, integer) is
    'Takes up to wanted requests from a subject''s window.';
alter function private.take(text, text, integer, integer, integer) owner to deskbase_definer;

create function private.give_back(bucket text, subject text, unused integer) returns void
language sql volatile
set search_path = ''
begin atomic
    update private.rate_windows as w set used = greatest(w.used - unused, 0)
    where w.bucket = give_back.bucket and w.subject = give_back.subject;
end;
comment on function private.give_back(text, text, integer) is
    'Returns what was taken in this transaction and could not be used.';
alter function private.give_back(text, text, integer) owner to deskbase_definer;

-- sql/74_idempotency.sql
/*
 * Doing things once: the first answer to an Idempotency-Key is stored with its effect, in one transaction.
 */

create table private.idempotency_keys (
    principal text not null,
    operation text not null,
    key text not null check (length(key) <= 255),
    fingerprint bytea not null,
    body text,
    version bigint,
    created_at timestamptz not null default now(),
    primary key (principal, operation, key)
);
alter table private.idempotency_keys enable row level security;
alter table private.idempotency_keys force row level security;
create policy select_definer on private.idempotency_keys for select to deskbase_definer using (true);

comment on table private.idempotency_keys is 'The first answer to each key, kept for a day.';
comment on column private.idempotency_keys.principal is 'Whose key it is: token:… or user:….';
comment on column private.idempotency_keys.fingerprint is 'SHA-256 of what was asked.';

-- Retention.
create index idempotency_keys_created_at_idx on private.idempotency_keys (created_at);

create function private.principal() returns text
language sql stable
set search_path = ''
return coalesce('token:' || private.token_id(), 'user:' || (private.claims() ->> 'sub'));
comment on function private.principal() is 'Who is asking, as limits and keys know them.';
grant execute on function private.principal() to authenticated, integration;

create function private.begin_once(
    operation text, key text, request jsonb,
    out is_repeat boolean, out body text, out version bigint
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_fingerprint bytea := sha256(convert_to(request::text, 'UTF8'));
    v_seen private.idempotency_keys;
begin
    -- A repeat that runs at the same time waits here until the first one has committed or failed.
    insert into private.idempotency_keys as k (principal, operation, key, fingerprint)
    values (private.principal(), begin_once.operation, begin_once.key, v_fingerprint)
    on conflict on constraint idempotency_keys_pkey do update
    set fingerprint = excluded.fingerprint, body = null, version = null, created_at = now()
    where k.created_at < now() - interval '24 hours';
    is_repeat := not found;
    if not is_repeat then
        return;
    end if;
    select k.* into v_seen from private.idempotency_keys as k
    where k.principal = private.principal() and k.operation = begin_once.operation and k.key = begin_once.key;
    if v_seen.fingerprint <> v_fingerprint then
        raise sqlstate 'PT409' using message = 'idempotency_conflict',
            detail = 'This Idempotency-Key was used with another request.';
    end if;
    body := v_seen.body;
    version := v_seen.version;
end
$$;
comment on function private.begin_once(text, text, jsonb) is
    'Claims a key for this transaction, or answers what its first use was answered. Definer: keys are nobody''s to read.';
alter function private.begin_once(text, text, jsonb) owner to deskbase_definer;

create function private.finish_once(operation text, key text, body text, version bigint) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    update private.idempotency_keys as k
    set body = finish_once.body, version = finish_once.version
    where k.principal = private.principal() and k.operation = finish_once.operation and k.key = finish_once.key;
end;
comment on function private.finish_once(text, text, text, bigint) is
    'Stores the answer beside its effect. Definer: keys are nobody''s to write.';
alter function private.finish_once(text, text, text, bigint) owner to deskbase_definer;

grant execute on function private.begin_once(text, text, jsonb), private.finish_once(text, text, text, bigint)
    to authenticated, integration;

-- sql/75_requests.sql
/*
 * The entrances. The service admits a request (credential and limit) and then enters as its role; PostgREST enters by itself
 * and calls pre_request. Both get their claims from fresh_claims, so an ended session, a deactivated member or a changed
 * role counts from the next request on, whatever the JWT says.
 */

create function private.fresh_claims(claims jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_user_id uuid;
    v_session_id uuid;
    v_organization_id uuid;
    v_member record;
begin
    v_user_id := (claims ->> 'sub')::uuid;
    v_session_id := (claims ->> 'session_id')::uuid;
    v_organization_id := (claims #>> '{app_metadata,organization_id}')::uuid;
    perform from auth.users as u
    where u.id = v_user_id and (u.banned_until is null or u.banned_until < now()) and u.deleted_at is null;
    if not found then
        return null;
    end if;
    -- A token without a session was signed by whoever holds the secret, for their own use.
    if v_session_id is not null then
        perform from auth.sessions as s
        where s.id = v_session_id and s.user_id = v_user_id and (s.not_after is null or s.not_after > now());
        if not found then
            return null;
        end if;
    end if;
    select m.organization_id, m.id, m.role, m.is_active and o.deleted_at is null as is_active, c.id as contact_id
    into v_member
    from public.members as m
    join public.organizations as o on o.id = m.organization_id
    left join public.contacts as c
        on c.organization_id = m.organization_id and c.member_id = m.id and m.role = 'customer'
    where m.user_id = v_user_id and (v_organization_id is null or m.organization_id = v_organization_id)
    order by m.created_at
    limit 1;
    if v_member.is_active is false then
        return null;
    end if;
    -- Whoever is a member of nothing keeps their name and nothing else.
    return jsonb_set(claims, '{app_metadata}',
        coalesce(claims -> 'app_metadata', '{}')
            - array['organization_id', 'role', 'member_id', 'contact_id', 'token_id', 'scopes']
            || case when v_member.id is null then '{}' else jsonb_build_object(
                'organization_id', v_member.organization_id, 'role', v_member.role,
                'member_id', v_member.id, 'contact_id', v_member.contact_id) end);
exception
    when invalid_text_representation then
        return null;
end
$$;
comment on function private.fresh_claims(jsonb) is
    'A person''s verified claims as they are now; null if the session, the user or the membership has ended. Definer: nobody reads sessions.';
alter function private.fresh_claims(jsonb) owner to deskbase_definer;
grant execute on function private.fresh_claims(jsonb) to authenticated;

create function private.pre_request() returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_claims jsonb := private.claims();
begin
    if v_claims ->> 'role' is distinct from 'authenticated' then
        return;
    end if;
    v_claims := private.fresh_claims(v_claims);
    if v_claims is null then
        raise sqlstate 'PT401' using message = 'session_ended', detail = 'This session has ended; log in again.';
    end if;
    perform set_config('request.jwt.claims', v_claims::text, true);
end
$$;
comment on function private.pre_request() is 'What PostgREST runs before each request: claims are made fresh.';
grant execute on function private.pre_request() to anon, authenticated, service_role, integration;

create function private.identify(token_hash bytea, verified jsonb, address text,
    out claims jsonb, out subject text, out rate_limit integer)
language plpgsql stable security definer
set search_path = ''
as $$
begin
    if token_hash is not null then
        select jsonb_build_object('role', 'integration', 'app_metadata', jsonb_build_object(
                'organization_id', t.organization_id, 'token_id', t.id, 'scopes', t.scopes)),
            'token:' || t.id, t.rate_limit
        into claims, subject, rate_limit
        from private.integration_token_secrets as s
        join public.integration_tokens as t on t.organization_id = s.organization_id and t.id = s.token_id
        join public.organizations as o on o.id = t.organization_id and o.deleted_at is null
        where s.hash = identify.token_hash
            and (s.expires_at is null or s.expires_at > now())
            and (t.expires_at is null or t.expires_at > now())
            and t.disabled_at is null and t.revoked_at is null;
        subject := coalesce(subject, 'token:');
    elsif verified is not null then
        claims := private.fresh_claims(verified);
        subject := 'user:' || (verified ->> 'sub');
    else
        claims := '{"role": "anon"}';
        subject := 'address:' || address;
    end if;
end
$$;
comment on function private.identify(bytea, jsonb, text) is
    'Whose credential it is and what they claim; no claims if it is not, or no longer, valid. Definer: hashes and sessions are nobody''s to read.';
alter function private.identify(bytea, jsonb, text) owner to deskbase_definer;

create function private.admit(
    wanted integer[], bucket text[], token_hash bytea[], verified jsonb[], address text[],
    subject_limit integer[], organization_limit integer[], window_seconds integer[]
) returns table (granted integer, failure text, claims text, rate_limit integer, remaining integer, resets_at bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_group record;
    v_subject record;
    v_organization record;
    v_granted integer[] := wanted;
    v_failure text[];
    v_claims text[];
    v_limit integer[];
    v_remaining integer[];
    v_resets_at bigint[];
    v_subjects text[];
begin
    -- A count that a crash of the server takes back is no loss; waiting for the disk would be one.
    perform set_config('synchronous_commit', 'off', true);
    -- In the order of subjects, then of organizations, so that processes never wait for each other in a circle.
    for v_group in
        select g.ord, g.wanted, g.bucket, i.claims, i.subject,
            coalesce(g.subject_limit, i.rate_limit) as allowed,
            coalesce(g.window_seconds, 3600) as window_seconds
        from unnest(wanted, bucket, token_hash, verified, address, subject_limit, window_seconds) with ordinality
            as g (wanted, bucket, token_hash, verified, address, subject_limit, window_seconds, ord)
        cross join lateral private.identify(g.token_hash, g.verified, g.address) as i
        order by i.subject, g.bucket
    loop
        if v_group.claims is null then
            v_granted[v_group.ord] := 0;
            v_failure[v_group.ord] := case when v_group.subject like 'token:%' then 'invalid_token' else 'session_ended' end;
            continue;
        end if;
        v_claims[v_group.ord] := v_group.claims::text;
        v_subjects[v_group.ord] := v_group.subject;
        continue when v_group.allowed is null;
        v_subject := private.take(
            v_group.bucket, v_group.subject, v_group.wanted, v_group.allowed, v_group.window_seconds);
        v_granted[v_group.ord] := v_subject.granted;
        v_limit[v_group.ord] := v_group.allowed;
        v_remaining[v_group.ord] := v_subject.remaining;
        v_resets_at[v_group.ord] := v_subject.resets_at;
    end loop;
    for v_group in
        select g.ord, g.bucket, g.organization_limit as allowed, coalesce(g.window_seconds, 3600) as window_seconds,
            v_limit[g.ord] is not null as is_counted,
            v_claims[g.ord]::jsonb #>> '{app_metadata,organization_id}' as organization_id
        from unnest(bucket, organization_limit, window_seconds) with ordinality
            as g (bucket, organization_limit, window_seconds, ord)
        where g.organization_limit is not null and v_granted[g.ord] > 0
        order by 6, 2
    loop
        continue when v_group.organization_id is null;
        v_organization := private.take(v_group.bucket, 'organization:' || v_group.organization_id,
            v_granted[v_group.ord], v_group.allowed, v_group.window_seconds);
        if v_organization.granted < v_granted[v_group.ord] then
            if v_group.is_counted then
                perform private.give_back(v_group.bucket, v_subjects[v_group.ord],
                    v_granted[v_group.ord] - v_organization.granted);
            end if;
            v_granted[v_group.ord] := v_organization.granted;
        end if;
        -- The tighter of the two is shown.
        if v_remaining[v_group.ord] is null or v_organization.remaining < v_remaining[v_group.ord] then
            v_limit[v_group.ord] := v_group.allowed;
            v_remaining[v_group.ord] := v_organization.remaining;
            v_resets_at[v_group.ord] := v_organization.resets_at;
        end if;
    end loop;
    return query
    select r.granted, v_failure[r.ord], v_claims[r.ord], v_limit[r.ord], v_remaining[r.ord], v_resets_at[r.ord]
    from unnest(v_granted) with ordinality as r (granted, ord)
    order by r.ord;
end
$$;
comment on function private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[]) is
    E'Admit requests\n\nOne array element is a group of requests with the same credential: a token''s hash, a verified JWT''s claims, or an address. Answers in the same order how many may pass, under which claims, and where their window stands. Definer: it reads credentials and counts.';
alter function private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[])
    owner to deskbase_definer;
grant execute on function
    private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[]) to authenticator;

create function private.enter(claims jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform set_config('request.jwt.claims', claims::text, true), set_config('role', claims ->> 'role', true);
end
$$;
comment on function private.enter(jsonb) is
    'Becomes, for this transaction, the role of admitted claims. For the service''s login alone: it believes what it is given.';
grant execute on function private.enter(jsonb) to authenticator;

create function private.require_scope(scope text) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if not private.has_scope(scope) then
        raise sqlstate 'PT403' using message = 'insufficient_scope',
            detail = format('This token lacks the scope %s.', scope);
    end if;
end
$$;
comment on function private.require_scope(text) is
    'Says which scope a refusal is about; the refusal itself is the policies''.';
grant execute on function private.require_scope(text) to integration;

create function private.lock_ticket(ticket_id uuid, out is_own boolean, out version bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    select coalesce(t.integration_token_id = private.token_id(), false), t.version
    into is_own, version
    from public.tickets as t
    where t.organization_id = private.organization_id() and t.id = lock_ticket.ticket_id and t.deleted_at is null
    for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    if not is_own then
        raise sqlstate 'PT401' using message = 'not_authorized', detail = 'This ticket belongs to another integration.';
    end if;
end
$$;
comment on function private.lock_ticket(uuid) is
    'Locks a ticket that the asking integration made, and answers its version; another''s of its organization is refused. Definer: it must tell a foreign ticket from none.';
alter function private.lock_ticket(uuid) owner to deskbase_definer;
grant execute on function private.lock_ticket(uuid) to integration;

-- sql/76_maintenance.sql
/*
 * What has to be done again and again: partitions ahead, and out with what is past its time.
 */

create function private.maintain() returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    if not pg_try_advisory_xact_lock(7310589215) then
        return;
    end if;
    begin
        perform private.make_event_partitions(7);
        perform private.drop_event_partitions(interval '24 hours');
    exception
        when lock_not_available then
            raise warning 'The event log was busy; its partitions are left to the next hour.';
    end;
    delete from private.idempotency_keys as k where k.created_at < now() - interval '24 hours';
    delete from private.rate_windows as w where w.window_start < now() - interval '2 days';
    delete from private.integration_token_secrets as s where s.expires_at < now();
    delete from public.token_usage as u where u.at < now() - interval '90 days';
end
$$;
comment on function private.maintain() is
    'Run on every migration and every hour, by the owner: event partitions a week ahead and a day back, idempotency keys a day, usage 90 days.';

create function private.create_first_admin(
    email text, password_hash text, name text, organization_name text
) returns boolean
language plpgsql volatile
set search_path = ''
as $$
declare
    v_user_id uuid := gen_random_uuid();
    v_organization_id uuid;
begin
    -- Two processes that start at once make one admin.
    perform pg_advisory_xact_lock(7310589214);
    if exists (select from public.members as m where m.role = 'admin') then
        return false;
    end if;
    insert into public.organizations (name) values (organization_name) returning id into v_organization_id;
    insert into auth.users (id, aud, role, email, encrypted_password, email_confirmed_at, created_at,
        updated_at, raw_app_meta_data, raw_user_meta_data)
    values (v_user_id, 'authenticated', 'authenticated', lower(email), password_hash, now(), now(), now(),
        jsonb_build_object('provider', 'email', 'organization_id', v_organization_id, 'role', 'admin'),
        jsonb_build_object('name', name));
    insert into public.members (organization_id, user_id, username, email, name, role)
    values (v_organization_id, v_user_id, lower(email), lower(email), name, 'admin');
    return true;
end
$$;
comment on function private.create_first_admin(text, text, text, text) is
    'Founds the first organization with its admin; false, and nothing done, if there is an admin already.';

-- sql/80_integration_tickets.sql
/*
 * The integration-tickets contract: its words, and its operations in the order of its document. Each takes the claims that the
 * limiter answered, enters as their role and works under the policies from there on. They are for the service's login
 * alone; who could pass claims of their own could be anybody.
 */

create schema integration_tickets;
comment on schema integration_tickets is 'The integration-tickets contract: what outside systems see of their tickets.';
grant usage on schema integration_tickets to authenticator, integration;

----------------------------------------------------------------------------------------------------------------------
-- Words
----------------------------------------------------------------------------------------------------------------------

create function integration_tickets.status_word(status public.ticket_status) returns text
language sql immutable
set search_path = ''
return case status when 'new' then 'open' when 'on_hold' then 'waiting' else status::text end;
comment on function integration_tickets.status_word(public.ticket_status) is 'What the contract calls a status.';
grant execute on function integration_tickets.status_word(public.ticket_status) to authenticator, integration;

-- The shapes that are answered; row_to_json writes them without the blanks that json_build_object puts in.

create type integration_tickets.created_ticket as (
    id uuid, title text, description text, status text, priority text, category text, metadata jsonb, created_at text
);
comment on type integration_tickets.created_ticket is 'A ticket as creating it answers.';

create type integration_tickets.ticket as (
    id uuid, title text, description text, status text, priority text, category text, metadata jsonb, created_at text,
    updated_at text
);
comment on type integration_tickets.ticket is 'A ticket.';

create type integration_tickets.changed_ticket as (id uuid, status text, updated_at text);
comment on type integration_tickets.changed_ticket is 'What a change of status answers of a ticket.';

create function integration_tickets.require_version(ticket_id uuid, version bigint, if_match bigint) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if if_match is null or if_match = version then
        return;
    end if;
    raise sqlstate 'PT412' using message = 'stale', detail = json_build_object(
        'version', version,
        'comments', (
            select coalesce(json_agg(json_build_object(
                'id', c.id, 'content', c.body, 'is_internal', c.is_internal,
                'created_at', private.rfc3339(c.created_at)) order by c.created_at, c.id), '[]')
            from (
                select k.* from public.comments as k
                where k.ticket_id = require_version.ticket_id and k.ticket_version > if_match
                order by k.created_at, k.id
                limit 50
            ) as c
        ));
end
$$;
comment on function integration_tickets.require_version(uuid, bigint, bigint) is
    'Refuses a write that does not know the ticket as it is; tells the version and up to 50 comments that were missed.';
grant execute on function integration_tickets.require_version(uuid, bigint, bigint) to integration;

----------------------------------------------------------------------------------------------------------------------
-- Operations
----------------------------------------------------------------------------------------------------------------------

create function integration_tickets.create_ticket(
    claims jsonb, title text, description text, priority text, category text, metadata jsonb, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_category_id uuid;
    v_category text := nullif(btrim(category), '');
    v_once record;
begin
    perform private.enter(claims);
    perform private.require_scope('tickets:write');
    if idempotency_key is not null then
        v_once := private.begin_once('integration_tickets.create_ticket', idempotency_key,
            jsonb_build_array(title, description, priority, category, metadata));
        if v_once.is_repeat then
            body := v_once.body;
            version := v_once.version;
            return;
        end if;
    end if;
    if v_category is not null then
        select c.id, c.name into v_category_id, v_category
        from public.categories as c
        where lower(c.name) = lower(v_category);
        if not found then
            v_category := btrim(category);
        end if;
    end if;
    -- Nothing is read back: a token that may only write gets its answer too.
    insert into public.tickets (id, subject, description, priority, channel, category_id, category_label, metadata)
    values (
        v_id,
        title,
        coalesce(create_ticket.description, ''),
        coalesce(create_ticket.priority, 'medium')::public.ticket_priority,
        'api',
        v_category_id,
        case when v_category_id is null then v_category end,
        coalesce(create_ticket.metadata, '{}'));
    version := 1;
    body := '{"ticket":' || row_to_json(row(
        v_id,
        title,
        nullif(create_ticket.description, ''),
        integration_tickets.status_word('new'),
        coalesce(create_ticket.priority, 'medium'),
        v_category,
        coalesce(create_ticket.metadata, '{}'),
        private.rfc3339(now()))::integration_tickets.created_ticket) || '}';
    if idempotency_key is not null then
        perform private.finish_once('integration_tickets.create_ticket', idempotency_key, body, version);
    end if;
end
$$;
comment on function integration_tickets.create_ticket(jsonb, text, text, text, text, jsonb, text) is
    E'POST /tickets\n\nLinks a category of that name, else keeps the name. Raises insufficient_scope, idempotency_conflict.';

create function integration_tickets.get_ticket(claims jsonb, ticket_id uuid, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '{"ticket":' || row_to_json(row(
            t.id,
            t.subject,
            nullif(t.description, ''),
            integration_tickets.status_word(t.status),
            t.priority,
            coalesce(c.name, t.category_label),
            t.metadata,
            private.rfc3339(t.created_at),
            private.rfc3339(t.updated_at))::integration_tickets.ticket) || '}', t.version
    into body, version
    from public.tickets as t
    left join public.categories as c on c.organization_id = t.organization_id and c.id = t.category_id
    where t.id = get_ticket.ticket_id;
    if not found then
        perform private.require_scope('tickets:read');
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function integration_tickets.get_ticket(jsonb, uuid) is
    E'GET /tickets/{ticket_id}\n\nRaises not_found for every ticket that the token did not make, insufficient_scope.';

create function integration_tickets.add_comment(
    claims jsonb, ticket_id uuid, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_once record;
    v_ticket record;
begin
    perform private.enter(claims);
    perform private.require_scope('comments:write');
    if idempotency_key is not null then
        v_once := private.begin_once('integration_tickets.add_comment', idempotency_key,
            jsonb_build_array(ticket_id, content, is_internal));
        if v_once.is_repeat then
            body := v_once.body;
            version := v_once.version;
            return;
        end if;
    end if;
    v_ticket := private.lock_ticket(ticket_id);
    perform integration_tickets.require_version(ticket_id, v_ticket.version, if_match);
    insert into public.comments (id, ticket_id, body, is_internal)
    values (v_id, add_comment.ticket_id, content, coalesce(add_comment.is_internal, false));
    version := v_ticket.version + 1;
    body := '{"comment_id":"' || v_id || '"}';
    if idempotency_key is not null then
        perform private.finish_once('integration_tickets.add_comment', idempotency_key, body, version);
    end if;
end
$$;
comment on function integration_tickets.add_comment(jsonb, uuid, text, boolean, bigint, text) is
    E'POST /tickets/{ticket_id}/comments\n\nRaises not_found, not_authorized, stale, insufficient_scope, idempotency_conflict.';

create function integration_tickets.update_ticket_status(
    claims jsonb, ticket_id uuid, status text, if_match bigint,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_locked record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    perform private.require_scope('tickets:write'), private.require_scope('tickets:read');
    if status not in ('open', 'in_progress', 'waiting', 'resolved', 'closed') then
        raise sqlstate 'PT400' using message = 'invalid_field',
            detail = 'status must be one of open, in_progress, waiting, resolved, closed.';
    end if;
    v_locked := private.lock_ticket(ticket_id);
    perform integration_tickets.require_version(ticket_id, v_locked.version, if_match);
    -- The word that the ticket already shows changes nothing: a client that writes back what it read moves no ticket.
    update public.tickets as t
    set status = update_ticket_status.status::public.ticket_status
    where t.id = update_ticket_status.ticket_id
        and integration_tickets.status_word(t.status) <> update_ticket_status.status;
    select t.* into v_ticket from public.tickets as t where t.id = update_ticket_status.ticket_id;
    version := v_ticket.version;
    body := '{"success":true,"ticket":' || row_to_json(row(
        v_ticket.id,
        integration_tickets.status_word(v_ticket.status),
        private.rfc3339(v_ticket.updated_at))::integration_tickets.changed_ticket) || '}';
end
$$;
comment on function integration_tickets.update_ticket_status(jsonb, uuid, text, bigint) is
    E'PATCH /tickets/{ticket_id}/status\n\nRaises invalid_field, not_found, not_authorized, stale, insufficient_scope.';

grant execute on function
    integration_tickets.create_ticket(jsonb, text, text, text, text, jsonb, text),
    integration_tickets.get_ticket(jsonb, uuid),
    integration_tickets.add_comment(jsonb, uuid, text, boolean, bigint, text),
    integration_tickets.update_ticket_status(jsonb, uuid, text, bigint)
    to authenticator;
