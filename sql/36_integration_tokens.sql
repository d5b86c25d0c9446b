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
