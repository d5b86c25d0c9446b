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
