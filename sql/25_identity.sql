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
return replace(to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z');
comment on function private.rfc3339(timestamptz) is
    'A moment as every contract writes it: RFC 3339 in UTC, ending in Z; what was given in whole seconds is shown so.';
grant execute on function private.rfc3339(timestamptz)
    to anon, authenticated, service_role, integration, supabase_auth_admin;

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
