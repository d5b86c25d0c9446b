/*
 * What a plain Postgres lacks of Supabase: its roles, its schemas and the part of auth that SQL refers to.
 *
 * `deskbase migrate` runs this as a superuser before any migration, every time, so each statement may be repeated.
 * It is never run on Supabase, which brings the real things. Column types are Supabase's, so that what is written
 * against this works there. What is done to `public` and to the database is done once: migrations then narrow it.
 */

do $$
declare
    v_role text;
begin
    foreach v_role in array array['anon', 'authenticated', 'service_role', 'authenticator', 'supabase_admin',
        'supabase_auth_admin', 'supabase_storage_admin', 'supabase_realtime_admin', 'dashboard_user'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
            execute pg_catalog.format('create role %I nologin noinherit', v_role);
        end if;
    end loop;
end
$$;

alter role service_role bypassrls;
alter role authenticator login noinherit;
alter role supabase_auth_admin login noinherit;
grant anon, authenticated, service_role to authenticator;

-- Once: `public` as Supabase hands it over.
do $$
begin
    if exists (select from pg_catalog.pg_namespace where nspname = 'auth') then
        return;
    end if;
    execute pg_catalog.format('alter database %I set search_path to "$user", public, extensions', current_database());
    grant usage on schema public to anon, authenticated, service_role;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
    alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
end
$$;

-- The owner matters: `supabase db reset` keeps only what belongs to supabase_admin.
create schema if not exists extensions;
create schema if not exists auth authorization supabase_admin;
create schema if not exists storage authorization supabase_admin;
create schema if not exists realtime authorization supabase_admin;
grant usage on schema extensions, auth, storage, realtime to anon, authenticated, service_role;
grant all on schema auth to supabase_auth_admin;
grant all on schema storage to supabase_storage_admin;
grant all on schema realtime to supabase_realtime_admin;

comment on schema extensions is 'Extensions, out of the way of names in public.';
comment on schema auth is 'Users and sessions, with the columns of Supabase Auth.';
comment on schema storage is 'Files, as in Supabase Storage.';
comment on schema realtime is 'Messages, as in Supabase Realtime.';

-- The embedded server has no contrib extension; elsewhere what Supabase preinstalls is there for everyone's own SQL.
do $$
begin
    if exists (select from pg_catalog.pg_available_extensions where name = 'pgcrypto') then
        create extension if not exists pgcrypto with schema extensions;
    end if;
    if exists (select from pg_catalog.pg_available_extensions where name = 'uuid-ossp') then
        create extension if not exists "uuid-ossp" with schema extensions;
    end if;
    if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
    if pg_catalog.to_regtype('auth.aal_level') is null then
        create type auth.aal_level as enum ('aal1', 'aal2', 'aal3');
    end if;
end
$$;

create table if not exists auth.users (
    instance_id uuid,
    id uuid not null primary key default gen_random_uuid(),
    aud varchar(255) default 'authenticated',
    role varchar(255) default 'authenticated',
    email varchar(255),
    encrypted_password varchar(255),
    email_confirmed_at timestamptz,
    invited_at timestamptz,
    confirmation_token varchar(255),
    confirmation_sent_at timestamptz,
    recovery_token varchar(255),
    recovery_sent_at timestamptz,
    email_change_token_new varchar(255),
    email_change varchar(255),
    email_change_sent_at timestamptz,
    last_sign_in_at timestamptz,
    raw_app_meta_data jsonb,
    raw_user_meta_data jsonb,
    is_super_admin boolean,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    phone text unique,
    phone_confirmed_at timestamptz,
    phone_change text default '',
    phone_change_token varchar(255) default '',
    phone_change_sent_at timestamptz,
    confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
    email_change_token_current varchar(255) default '',
    email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
    banned_until timestamptz,
    reauthentication_token varchar(255) default '',
    reauthentication_sent_at timestamptz,
    is_sso_user boolean not null default false,
    deleted_at timestamptz,
    is_anonymous boolean not null default false
);
comment on table auth.users is 'Who can log in. Only the auth service writes here.';
comment on column auth.users.encrypted_password is 'An argon2id hash.';
comment on column auth.users.raw_app_meta_data is 'Written by the server alone, so policies may trust it.';
comment on column auth.users.raw_user_meta_data is 'Written by the user, so no policy trusts it.';

-- One account an address, however it is spelled; deleted accounts give theirs back.
create unique index if not exists users_email_lower_key on auth.users (lower(email)) where deleted_at is null;
alter table auth.users enable row level security;
alter table auth.users owner to supabase_auth_admin;

create table if not exists auth.sessions (
    id uuid not null primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    factor_id uuid,
    aal auth.aal_level,
    not_after timestamptz,
    refreshed_at timestamp,
    user_agent text,
    ip inet,
    tag text
);
comment on table auth.sessions is 'One login each. A JWT names its session and is worth nothing once the session is gone.';
comment on column auth.sessions.not_after is 'When the session ends whatever happens; null: when its user logs out.';

create index if not exists sessions_user_id_created_at_idx on auth.sessions (user_id, created_at);
alter table auth.sessions enable row level security;
alter table auth.sessions owner to supabase_auth_admin;

create or replace function auth.jwt() returns jsonb
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb
$$;
comment on function auth.jwt() is 'The claims of the JWT in use; null without one.';

create or replace function auth.uid() returns uuid
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
    )::uuid
$$;
comment on function auth.uid() is 'The user whose JWT is in use; null without one.';

create or replace function auth.role() returns text
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
    )
$$;
comment on function auth.role() is 'The role that the JWT in use asks for.';

create or replace function auth.email() returns text
language sql stable
as $$
    select coalesce(
        nullif(current_setting('request.jwt.claim.email', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
    )
$$;
comment on function auth.email() is 'The e-mail address in the JWT in use.';

alter function auth.jwt() owner to supabase_auth_admin;
alter function auth.uid() owner to supabase_auth_admin;
alter function auth.role() owner to supabase_auth_admin;
alter function auth.email() owner to supabase_auth_admin;
grant execute on function auth.jwt(), auth.uid(), auth.role(), auth.email() to public;
