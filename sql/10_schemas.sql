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
grant select on auth.users, auth.sessions, auth.mfa_factors to deskbase_definer;
-- The auth service asks for claims and queues mail.
grant usage on schema private to supabase_auth_admin;

alter default privileges in schema public grant select, insert, update, delete on tables to deskbase_definer;
alter default privileges in schema private grant select, insert, update, delete on tables to deskbase_definer;
alter default privileges in schema private grant execute on functions to deskbase_definer;
