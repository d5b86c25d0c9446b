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
    if pg_catalog.to_regtype('auth.factor_type') is null then
        create type auth.factor_type as enum ('totp', 'webauthn', 'phone');
        create type auth.factor_status as enum ('unverified', 'verified');
        create type auth.code_challenge_method as enum ('s256', 'plain');
        create type auth.one_time_token_type as enum ('confirmation_token', 'reauthentication_token', 'recovery_token',
            'email_change_token_new', 'email_change_token_current', 'phone_change_token');
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
-- What the worker has still to strengthen.
create index if not exists users_weak_password_idx on auth.users (id)
    where encrypted_password like '$pbkdf2-sha512$%' and encrypted_password not like '%$argon2id$%';
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

create table if not exists auth.identities (
    provider_id text not null,
    user_id uuid not null references auth.users (id) on delete cascade,
    identity_data jsonb not null,
    provider text not null,
    last_sign_in_at timestamptz,
    created_at timestamptz,
    updated_at timestamptz,
    email text generated always as (lower(identity_data ->> 'email')) stored,
    id uuid not null primary key default gen_random_uuid(),
    unique (provider_id, provider)
);
comment on table auth.identities is 'The ways in which a user may prove to be one: here by e-mail address.';

create index if not exists identities_user_id_idx on auth.identities (user_id);
alter table auth.identities enable row level security;
alter table auth.identities owner to supabase_auth_admin;

create table if not exists auth.refresh_tokens (
    instance_id uuid,
    id bigint not null generated by default as identity primary key,
    token varchar(255) unique,
    user_id varchar(255),
    revoked boolean,
    created_at timestamptz,
    updated_at timestamptz,
    parent varchar(255),
    session_id uuid references auth.sessions (id) on delete cascade
);
comment on table auth.refresh_tokens is 'A session''s refresh tokens, one after the other; each is used once.';
comment on column auth.refresh_tokens.token is 'The SHA-256 of it, in hex.';
comment on column auth.refresh_tokens.parent is 'The token that it was given for.';

create index if not exists refresh_tokens_session_id_revoked_idx on auth.refresh_tokens (session_id, revoked);
create index if not exists refresh_tokens_updated_at_idx on auth.refresh_tokens (updated_at desc);
alter table auth.refresh_tokens enable row level security;
alter table auth.refresh_tokens owner to supabase_auth_admin;

create table if not exists auth.flow_state (
    id uuid not null primary key,
    user_id uuid,
    auth_code text,
    code_challenge_method auth.code_challenge_method,
    code_challenge text,
    provider_type text not null,
    provider_access_token text,
    provider_refresh_token text,
    created_at timestamptz,
    updated_at timestamptz,
    authentication_method text not null,
    auth_code_issued_at timestamptz
);
comment on table auth.flow_state is 'Log-ins by link that are finished by whoever holds the code verifier (PKCE).';
comment on column auth.flow_state.auth_code is 'The SHA-256, in hex, of the code that the link led to.';

create index if not exists flow_state_auth_code_idx on auth.flow_state (auth_code);
create index if not exists flow_state_created_at_idx on auth.flow_state (created_at desc);
alter table auth.flow_state enable row level security;
alter table auth.flow_state owner to supabase_auth_admin;

create table if not exists auth.one_time_tokens (
    id uuid not null primary key,
    user_id uuid not null references auth.users (id) on delete cascade,
    token_type auth.one_time_token_type not null,
    token_hash text not null check (length(token_hash) > 0),
    relates_to text not null,
    created_at timestamp not null default now(),
    updated_at timestamp not null default now(),
    code_hash text,
    expires_at timestamptz,
    flow_state_id uuid
);
comment on table auth.one_time_tokens is 'What a mail of the auth service lets its reader do, once. The last three columns are Deskbase''s.';
comment on column auth.one_time_tokens.token_hash is 'The SHA-256, in hex, of the token in the link.';
comment on column auth.one_time_tokens.code_hash is 'A keyed hash of the six digits; the key is not in the database.';
comment on column auth.one_time_tokens.relates_to is 'The address that it was sent to.';

create unique index if not exists one_time_tokens_user_id_token_type_key on auth.one_time_tokens (user_id, token_type);
create index if not exists one_time_tokens_token_hash_hash_idx on auth.one_time_tokens using hash (token_hash);
create index if not exists one_time_tokens_relates_to_hash_idx on auth.one_time_tokens using hash (relates_to);
alter table auth.one_time_tokens enable row level security;
alter table auth.one_time_tokens owner to supabase_auth_admin;

create table if not exists auth.mfa_factors (
    id uuid not null primary key,
    user_id uuid not null references auth.users (id) on delete cascade,
    friendly_name text,
    factor_type auth.factor_type not null,
    status auth.factor_status not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    secret text,
    phone text,
    last_challenged_at timestamptz unique,
    web_authn_credential jsonb,
    web_authn_aaguid uuid
);
comment on table auth.mfa_factors is 'Second factors: authenticator apps.';
comment on column auth.mfa_factors.secret is 'The key that the app shares, in base 32.';

create index if not exists mfa_factors_user_id_idx on auth.mfa_factors (user_id);
create unique index if not exists mfa_factors_user_friendly_name_unique
    on auth.mfa_factors (friendly_name, user_id) where trim(friendly_name) <> '';
alter table auth.mfa_factors enable row level security;
alter table auth.mfa_factors owner to supabase_auth_admin;

create table if not exists auth.mfa_challenges (
    id uuid not null primary key,
    factor_id uuid not null references auth.mfa_factors (id) on delete cascade,
    created_at timestamptz not null,
    verified_at timestamptz,
    ip_address inet not null,
    otp_code text,
    web_authn_session_data jsonb
);
comment on table auth.mfa_challenges is 'Questions for a second factor.';
comment on column auth.mfa_challenges.otp_code is 'The time step of the code that answered it, so that no code is taken twice.';

create index if not exists mfa_challenges_factor_id_idx on auth.mfa_challenges (factor_id);
create index if not exists mfa_challenge_created_at_idx on auth.mfa_challenges (created_at desc);
alter table auth.mfa_challenges enable row level security;
alter table auth.mfa_challenges owner to supabase_auth_admin;

create table if not exists auth.mfa_amr_claims (
    session_id uuid not null references auth.sessions (id) on delete cascade,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    authentication_method text not null,
    id uuid not null primary key,
    unique (session_id, authentication_method)
);
comment on table auth.mfa_amr_claims is 'How a session was proved: what becomes the claim amr.';

alter table auth.mfa_amr_claims enable row level security;
alter table auth.mfa_amr_claims owner to supabase_auth_admin;

create table if not exists auth.failed_attempts (
    subject text not null primary key,
    failures integer not null,
    last_failed_at timestamptz not null,
    locked_until timestamptz
);
comment on table auth.failed_attempts is 'Wrong passwords and codes, by account, address and factor; too many lock it for a while. Deskbase''s own.';
comment on column auth.failed_attempts.subject is 'account:, code: (of an e-mail address, hashed), address: or factor:.';

create index if not exists failed_attempts_last_failed_at_idx on auth.failed_attempts (last_failed_at);
alter table auth.failed_attempts enable row level security;
alter table auth.failed_attempts owner to supabase_auth_admin;

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

-- Messages: what Supabase Realtime keeps of broadcasts, and what policies of private channels are written on. The last
-- three tables are Deskbase's.

create table if not exists realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default (now() at time zone 'UTC'),
    inserted_at timestamp not null default (now() at time zone 'UTC'),
    id uuid not null default gen_random_uuid(),
    binary_payload bytea,
    primary key (id, inserted_at)
) partition by range (inserted_at);
comment on table realtime.messages is
    'Broadcasts from the database, and those that are kept for replay; a partition a day (UTC). Policies on it say who may use which private channel.';
comment on column realtime.messages.extension is 'broadcast or presence: what a policy is asked about.';

-- Replay: the latest of a topic.
create index if not exists messages_topic_inserted_at_idx on realtime.messages (topic, inserted_at desc)
    where private and extension = 'broadcast';
alter table realtime.messages enable row level security;
alter table realtime.messages owner to supabase_realtime_admin;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

create table if not exists realtime.signals (
    xid xid8 not null default pg_current_xact_id(),
    id bigint not null generated always as identity,
    kind text not null check (kind in ('broadcast', 'presence')),
    topic text not null,
    private boolean not null,
    event text,
    payload text,
    binary_payload bytea,
    message_id uuid,
    sender uuid,
    at timestamptz not null default clock_timestamp(),
    primary key (xid, id)
);
comment on table realtime.signals is 'Broadcasts and changes of presence on their way between processes, for a minute.';
comment on column realtime.signals.xid is 'What readers'' cursors go by.';
comment on column realtime.signals.payload is 'JSON, as it is handed on.';
comment on column realtime.signals.message_id is 'The row of realtime.messages that it was made from.';
comment on column realtime.signals.sender is 'The channel that it came from, which need not hear of itself.';

create index if not exists signals_at_idx on realtime.signals (at);
alter table realtime.signals enable row level security;
alter table realtime.signals owner to supabase_realtime_admin;

create table if not exists realtime.processes (
    id uuid not null primary key,
    seen_at timestamptz not null default now()
);
comment on table realtime.processes is 'The API processes that hold channels; one that has not been seen for a while has died.';

alter table realtime.processes enable row level security;
alter table realtime.processes owner to supabase_realtime_admin;

create table if not exists realtime.presences (
    channel uuid not null primary key,
    process uuid not null references realtime.processes (id) on delete cascade,
    topic text not null,
    private boolean not null,
    key text not null,
    ref text not null,
    given jsonb not null,
    meta jsonb not null
);
comment on table realtime.presences is 'Who is present on which topic: a row a channel of a socket.';
comment on column realtime.presences.given is 'What the client sent: the same again changes nothing.';
comment on column realtime.presences.meta is 'What others see of it.';

create index if not exists presences_topic_idx on realtime.presences (topic, private);
create index if not exists presences_process_idx on realtime.presences (process);
alter table realtime.presences enable row level security;
alter table realtime.presences owner to supabase_realtime_admin;

create or replace function realtime.topic() returns text
language sql stable
as $$
    select nullif(current_setting('realtime.topic', true), '')
$$;
comment on function realtime.topic() is 'The channel that a policy on realtime.messages is asked about.';

create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id constant uuid := gen_random_uuid();
begin
    perform set_config('realtime.topic', send.topic, true);
    insert into realtime.messages (id, topic, extension, event, private, payload)
    values (v_id, send.topic, 'broadcast', send.event, send.private,
        case when jsonb_typeof(send.payload) = 'object' then jsonb_build_object('id', v_id) || send.payload else send.payload end);
exception
    when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;
comment on function realtime.send(jsonb, text, text, boolean) is
    'Broadcasts to a channel when the transaction commits. What keeps it from doing so is a warning, never an error.';

create or replace function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform set_config('realtime.topic', send_binary.topic, true);
    insert into realtime.messages (topic, extension, event, private, binary_payload)
    values (send_binary.topic, 'broadcast', send_binary.event, send_binary.private, send_binary.payload);
exception
    when others then
        raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;
comment on function realtime.send_binary(bytea, text, text, boolean) is 'As send, of bytes; clients of the old protocol do not hear of it.';

create or replace function realtime.broadcast_changes(
    topic_name text, event_name text, operation text, table_name text, table_schema text,
    new record, old record, level text default 'ROW'
) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    if level = 'STATEMENT' then
        raise exception 'broadcast_changes is for triggers that fire for each row';
    end if;
    perform realtime.send(jsonb_build_object('schema', table_schema, 'table', table_name, 'operation', operation,
        'record', case when operation <> 'DELETE' then to_jsonb(new) end,
        'old_record', case when operation <> 'INSERT' then to_jsonb(old) end), event_name, topic_name);
end
$$;
comment on function realtime.broadcast_changes(text, text, text, text, text, record, record, text) is
    'Broadcasts a row''s change to a private channel; for the triggers of one''s own tables.';

alter function realtime.topic() owner to supabase_realtime_admin;
alter function realtime.send(jsonb, text, text, boolean) owner to supabase_realtime_admin;
alter function realtime.send_binary(bytea, text, text, boolean) owner to supabase_realtime_admin;
alter function realtime.broadcast_changes(text, text, text, text, text, record, record, text)
    owner to supabase_realtime_admin;
grant execute on function realtime.topic(), realtime.send(jsonb, text, text, boolean),
    realtime.send_binary(bytea, text, text, boolean),
    realtime.broadcast_changes(text, text, text, text, text, record, record, text)
    to anon, authenticated, service_role;
