/*
 * The auth service on a plain Postgres: what /auth/v1 does, in SQL. On Supabase its own service does it instead, and
 * nothing here exists.
 *
 * `deskbase migrate` runs this after the migrations, every time: the schema holds no data, so it is made anew. Its
 * functions belong to the owner of the auth tables and are for the service's login alone. They are given hashes, never
 * a password, token or code. What must outlast a refusal (a counted failure, a family of tokens that is ended) is
 * answered as `refusal`; anything else that is refused is raised, with Supabase Auth's own error codes as words.
 *
 * Whoever changes what hangs on an account (its sessions, tokens, factors) locks the account's row first, so that two who
 * do so take turns and never wait for each other in a circle. A refresh, which is what there is most of, needs the row
 * of its session alone.
 */

drop schema if exists auth_service cascade;
create schema auth_service authorization supabase_auth_admin;
comment on schema auth_service is 'The auth service''s statements; for the login of the API alone.';
grant usage on schema auth_service to authenticator;
grant usage on schema auth to supabase_auth_admin;
set local role supabase_auth_admin;

-- What clients see of an account, and what their tokens say

create function auth_service.factor_json(factor auth.mfa_factors) returns jsonb
language sql stable
set search_path = ''
as $$
    select jsonb_build_object(
    'id', factor.id, 'friendly_name', coalesce(factor.friendly_name, ''), 'factor_type', factor.factor_type,
    'status', factor.status, 'created_at', private.rfc3339(factor.created_at),
    'updated_at', private.rfc3339(factor.updated_at))
$$;
comment on function auth_service.factor_json(auth.mfa_factors) is 'A second factor, without its secret.';

create function auth_service.own_metadata(metadata jsonb) returns jsonb
language sql immutable
set search_path = ''
as $$
    select coalesce(metadata, '{}')
        - array['organization_id', 'role', 'member_id', 'contact_id', 'token_id', 'scopes', 'lacks_factor']
$$;
comment on function auth_service.own_metadata(jsonb) is 'app_metadata without what public.members says.';

create function auth_service.app_metadata(account auth.users, session_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_said jsonb := private.custom_access_token_hook(jsonb_build_object('claims', jsonb_build_object(
        'sub', account.id, 'session_id', session_id, 'app_metadata', coalesce(account.raw_app_meta_data, '{}'))))
        #> '{claims,app_metadata}';
begin
    if v_said is null or v_said ? 'lacks_factor' then
        -- Whoever may not come in, banned or without their second factor, is a member all the same.
        return auth_service.own_metadata(account.raw_app_meta_data)
            || coalesce(private.membership(account.id, account.raw_app_meta_data ->> 'organization_id'), '{}');
    end if;
    return v_said;
end
$$;
comment on function auth_service.app_metadata(auth.users, uuid) is
    'app_metadata with the membership as it is now: that of the session''s tokens, or, without a session, of the organization chosen.';

create function auth_service.person(user_id uuid, session_id uuid default null) returns jsonb
language sql stable
set search_path = ''
as $$
    select jsonb_strip_nulls(jsonb_build_object(
            'id', u.id, 'aud', u.aud, 'role', u.role, 'email', u.email, 'phone', coalesce(u.phone, ''),
            'email_confirmed_at', private.rfc3339(u.email_confirmed_at),
            'confirmed_at', private.rfc3339(u.confirmed_at),
            'invited_at', private.rfc3339(u.invited_at),
            'confirmation_sent_at', private.rfc3339(u.confirmation_sent_at),
            'recovery_sent_at', private.rfc3339(u.recovery_sent_at),
            'new_email', nullif(u.email_change, ''),
            'email_change_sent_at', private.rfc3339(u.email_change_sent_at),
            'last_sign_in_at', private.rfc3339(u.last_sign_in_at),
            'banned_until', case when u.banned_until > now() then private.rfc3339(u.banned_until) end,
            'deleted_at', private.rfc3339(u.deleted_at),
            'created_at', private.rfc3339(u.created_at), 'updated_at', private.rfc3339(u.updated_at),
            'is_anonymous', u.is_anonymous))
        || jsonb_build_object(
            'app_metadata', auth_service.app_metadata(u, person.session_id),
            'user_metadata', coalesce(u.raw_user_meta_data, '{}'),
            'identities', coalesce((
                select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                    'identity_id', i.id, 'id', i.provider_id, 'user_id', i.user_id, 'identity_data', i.identity_data,
                    'provider', i.provider, 'email', i.email,
                    'last_sign_in_at', private.rfc3339(i.last_sign_in_at),
                    'created_at', private.rfc3339(coalesce(i.created_at, u.created_at)),
                    'updated_at', private.rfc3339(i.updated_at))) order by i.created_at)
                from auth.identities as i where i.user_id = u.id), '[]'),
            'factors', coalesce((
                select jsonb_agg(auth_service.factor_json(f) order by f.created_at)
                from auth.mfa_factors as f where f.user_id = u.id), '[]'))
    from auth.users as u
    where u.id = person.user_id;
$$;
comment on function auth_service.person(uuid, uuid) is 'An account as its holder sees it; the membership is that of now.';

create function auth_service.unconfirmed_person(email text, data jsonb, id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
    select jsonb_build_object(
    'id', id, 'aud', 'authenticated', 'role', 'authenticated', 'email', lower(email), 'phone', '',
    'confirmation_sent_at', private.rfc3339(now()),
    'app_metadata', '{"provider": "email", "providers": ["email"]}'::jsonb, 'user_metadata', data,
    'identities', '[]'::jsonb, 'created_at', private.rfc3339(now()), 'updated_at', private.rfc3339(now()),
    'is_anonymous', false)
$$;
comment on function auth_service.unconfirmed_person(text, jsonb, uuid) is
    'What a sign-up is answered before the address is confirmed: the same whether there was an account or not.';

create function auth_service.session_claims(session_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_claims jsonb;
begin
    select jsonb_build_object(
        'sub', u.id, 'aud', u.aud, 'role', u.role, 'email', coalesce(u.email, ''), 'phone', coalesce(u.phone, ''),
        'app_metadata', coalesce(u.raw_app_meta_data, '{}'), 'user_metadata', coalesce(u.raw_user_meta_data, '{}'),
        'aal', coalesce(s.aal, 'aal1'), 'session_id', s.id, 'is_anonymous', u.is_anonymous,
        'amr', coalesce((
            select jsonb_agg(jsonb_build_object('method', a.authentication_method,
                'timestamp', extract(epoch from a.updated_at)::bigint) order by a.updated_at desc)
            from auth.mfa_amr_claims as a where a.session_id = s.id), '[]'))
    into v_claims
    from auth.sessions as s
    join auth.users as u on u.id = s.user_id
    where s.id = session_claims.session_id;
    v_claims := private.custom_access_token_hook(jsonb_build_object(
        'user_id', v_claims ->> 'sub', 'claims', v_claims, 'authentication_method', v_claims #>> '{amr,0,method}'))
        -> 'claims';
    return v_claims #- '{app_metadata,lacks_factor}';
end
$$;
comment on function auth_service.session_claims(uuid) is
    'What an access token of the session says, times aside; null if its holder may not come in.';

-- Sessions

create function auth_service.open_session(
    user_id uuid, method text, refresh_hash text, visitor jsonb, out claims text, out person text, out refusal text
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_session_id uuid := gen_random_uuid();
begin
    insert into auth.sessions (id, user_id, created_at, updated_at, aal, user_agent, ip)
    values (v_session_id, open_session.user_id, now(), now(), 'aal1', left(visitor ->> 'agent', 255),
        (visitor ->> 'address')::inet);
    insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)
    values (gen_random_uuid(), v_session_id, now(), now(), method);
    claims := auth_service.session_claims(v_session_id);
    if claims is null then
        delete from auth.sessions as s where s.id = v_session_id;
        refusal := 'user_banned';
        return;
    end if;
    insert into auth.refresh_tokens (token, user_id, revoked, created_at, updated_at, session_id)
    values (refresh_hash, open_session.user_id, false, now(), now(), v_session_id);
    update auth.users as u set last_sign_in_at = now(), updated_at = now() where u.id = open_session.user_id;
    update auth.identities as i set last_sign_in_at = now(), updated_at = now()
    where i.user_id = open_session.user_id and i.provider = 'email';
    person := auth_service.person(open_session.user_id, v_session_id);
end
$$;
comment on function auth_service.open_session(uuid, text, text, jsonb) is 'Logs somebody in who has proved to be who they are.';

create function auth_service.refresh(
    token_hash text, next_hash text, visitor jsonb, out claims text, out person text, out refusal text
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_token record;
begin
    -- Whoever changes a session's tokens holds its row.
    select r.id, r.revoked, r.updated_at, r.session_id, s.user_id, s.not_after
    into v_token
    from auth.refresh_tokens as r
    join auth.sessions as s on s.id = r.session_id
    where r.token = token_hash
    for update of s, r;
    if not found then
        refusal := 'refresh_token_not_found';
        return;
    end if;
    if v_token.not_after <= now() then
        delete from auth.sessions as s where s.id = v_token.session_id;
        refusal := 'session_expired';
        return;
    end if;
    if v_token.revoked then
        -- A client that did not hear the answer, or two tabs of it, may ask again for a moment.
        perform from auth.refresh_tokens as n
        where n.token = next_hash and n.parent = token_hash and not n.revoked
            and v_token.updated_at > now() - interval '10 seconds';
        if not found then
            delete from auth.sessions as s where s.id = v_token.session_id;
            refusal := 'refresh_token_already_used';
            return;
        end if;
    else
        update auth.refresh_tokens as r set revoked = true, updated_at = now() where r.id = v_token.id;
        insert into auth.refresh_tokens (token, user_id, revoked, created_at, updated_at, parent, session_id)
        values (next_hash, v_token.user_id, false, now(), now(), token_hash, v_token.session_id);
        update auth.sessions as s
        set refreshed_at = now() at time zone 'UTC', updated_at = now(), user_agent = left(visitor ->> 'agent', 255),
            ip = (visitor ->> 'address')::inet
        where s.id = v_token.session_id;
    end if;
    claims := auth_service.session_claims(v_token.session_id);
    if claims is null then
        delete from auth.sessions as s where s.id = v_token.session_id;
        refusal := 'user_banned';
        return;
    end if;
    person := auth_service.person(v_token.user_id, v_token.session_id);
end
$$;
comment on function auth_service.refresh(text, text, jsonb) is
    'Exchanges a refresh token for the next one, which the caller derives from it, so that a repeat within ten seconds gets the same. A used one that comes later, or after its successor was used, ends the session.';

create function auth_service.caller(claims jsonb, out user_id uuid, out session_id uuid, out aal auth.aal_level)
language plpgsql stable
set search_path = ''
as $$
begin
    user_id := (claims ->> 'sub')::uuid;
    session_id := (claims ->> 'session_id')::uuid;
    perform from auth.users as u where u.id = caller.user_id and u.deleted_at is null;
    if not found then
        raise sqlstate 'PT403' using message = 'user_not_found', detail = 'User from sub claim in JWT does not exist';
    end if;
    if private.fresh_claims(claims) is null then
        raise sqlstate 'PT403' using message = 'session_not_found',
            detail = 'Session from session_id claim in JWT does not exist';
    end if;
    select s.aal into aal from auth.sessions as s where s.id = caller.session_id;
end
$$;
comment on function auth_service.caller(jsonb) is 'Whose access token it is, if the session still stands.';

create function auth_service.lock_account(user_id uuid) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform from auth.users as u where u.id = lock_account.user_id for no key update;
end
$$;
comment on function auth_service.lock_account(uuid) is 'Waits for whoever else is changing the account.';

create function auth_service.log_out(claims jsonb, scope text) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_caller record := auth_service.caller(claims);
begin
    perform auth_service.lock_account(v_caller.user_id);
    delete from auth.sessions as s
    where s.user_id = v_caller.user_id and case scope
        when 'global' then true
        when 'local' then s.id = v_caller.session_id
        when 'others' then s.id is distinct from v_caller.session_id end;
end
$$;
comment on function auth_service.log_out(jsonb, text) is 'Ends sessions of the caller: global, local or others.';

-- Guesses

create function auth_service.allowed(subject text) returns integer
language sql immutable
set search_path = ''
as $$
    select case when subject like 'address:%' then 50 else 5 end
$$;
comment on function auth_service.allowed(text) is 'How many wrong guesses lock a subject.';

create function auth_service.lock_of(subjects text[], out wait_seconds integer, out allowed integer)
language sql stable
set search_path = ''
as $$
    select ceil(extract(epoch from f.locked_until - now()))::integer, auth_service.allowed(f.subject)
    from auth.failed_attempts as f
    where f.subject = any (subjects) and f.locked_until > now()
    order by f.locked_until desc
    limit 1;
$$;
comment on function auth_service.lock_of(text[]) is
    'How long the longest lock on these still lasts, and how many guesses it allows; null if there is none.';

create function auth_service.take_turns(subject text) returns void
language sql volatile
set search_path = ''
as $$
    select pg_advisory_xact_lock(hashtextextended(take_turns.subject, 0));
$$;
comment on function auth_service.take_turns(text) is
    'Lets those who guess at the same time wait for each other, so that a lock stops all the others of them.';

create function auth_service.note_failure(subject text) returns void
language sql volatile
set search_path = ''
as $$
    insert into auth.failed_attempts as f (subject, failures, last_failed_at)
    values (note_failure.subject, 1, now())
    on conflict on constraint failed_attempts_pkey do update
    set failures = case when f.last_failed_at < now() - interval '1 hour' then 1 else f.failures + 1 end,
        last_failed_at = now(),
        locked_until = case
            when f.last_failed_at >= now() - interval '1 hour' and f.failures + 1 >= auth_service.allowed(f.subject)
            then now() + least(30 * 2 ^ least(f.failures + 1 - auth_service.allowed(f.subject), 10), 900)
                * interval '1 second' end;
$$;
comment on function auth_service.note_failure(text) is
    'Counts a wrong guess. From the allowed number on, each locks the subject: 30 s, then twice as long each time, up to 15 minutes; an hour without one forgets them.';

create function auth_service.note_failure_at(address text) returns void
language sql volatile
set search_path = ''
as $$
    insert into auth.failed_attempts as f (subject, failures, last_failed_at)
    values ('address:' || address, 1, now())
    on conflict on constraint failed_attempts_pkey do update
    set (failures, last_failed_at, locked_until) = (
        select n.failures,
            -- What is less than a whole one forgiven counts on.
            case when n.failures = 1 then now() else f.last_failed_at + n.forgiven * interval '6 seconds' end,
            case when n.failures >= auth_service.allowed(f.subject) then now() + interval '1 minute' end
        from (
            select g.forgiven, greatest(f.failures - g.forgiven, 0) + 1
            from (select greatest(floor(extract(epoch from now() - f.last_failed_at) / 6), 0)::bigint) as g (forgiven)
        ) as n (forgiven, failures));
$$;
comment on function auth_service.note_failure_at(text) is
    'Counts a wrong guess from an address, behind which there may be many people: ten a minute are forgiven, and from the allowed number on each locks it for a minute. So somebody who guesses at many accounts gets ten a minute, and those beside them a turn.';

create function auth_service.forgive(account text, address text) returns void
language sql volatile
set search_path = ''
as $$
    with mistyped as (
        delete from auth.failed_attempts as f where f.subject = account returning f.failures
    )
    update auth.failed_attempts as f
    set failures = greatest(f.failures - m.failures, 0)
    from mistyped as m
    where f.subject = 'address:' || address;
$$;
comment on function auth_service.forgive(text, text) is
    'Takes back what was wrong before somebody knew their password: of their account, and so much of their address. What was guessed at other accounts stays, so that an account of one''s own is no way to guess on.';

create function auth_service.subject_of(kind text, email text) returns text
language sql immutable
set search_path = ''
as $$
    select kind || ':' || encode(sha256(convert_to(lower(email), 'UTF8')), 'hex')
$$;
comment on function auth_service.subject_of(text, text) is 'What guesses about an address are counted under; the address itself is not kept.';

create function auth_service.begin_login(
    email text, address text, out user_id uuid, out stored text, out wait_seconds integer, out allowed integer
)
language plpgsql stable security definer
set search_path = ''
as $$
begin
    select l.* into wait_seconds, allowed
    from auth_service.lock_of(array[auth_service.subject_of('account', email), 'address:' || address]) as l;
    if wait_seconds is not null then
        return;
    end if;
    select u.id, nullif(u.encrypted_password, '') into user_id, stored
    from auth.users as u where lower(u.email) = lower(begin_login.email) and u.deleted_at is null;
end
$$;
comment on function auth_service.begin_login(text, text) is
    'The password hash to compare with, if any, unless account or address are locked.';

create function auth_service.finish_login(
    email text, address text, user_id uuid, matches boolean, stored text, rehashed text, refresh_hash text,
    visitor jsonb, out claims text, out person text, out refusal text, out wait_seconds integer, out allowed integer
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_account text := auth_service.subject_of('account', email);
    v_user record;
    v_session record;
begin
    -- Asked again, because those who guess at the same time wait for their hashes at the same time.
    perform auth_service.take_turns(v_account);
    select l.* into wait_seconds, allowed
    from auth_service.lock_of(array[v_account, 'address:' || address]) as l;
    if wait_seconds is not null then
        refusal := 'over_request_rate_limit';
        return;
    end if;
    select u.encrypted_password, u.email_confirmed_at, u.banned_until into v_user
    from auth.users as u where u.id = finish_login.user_id and u.deleted_at is null
    for no key update;
    if found and matches and nullif(stored, '') is not null and v_user.encrypted_password is distinct from stored then
        -- A better hash of the same password, or another password: whoever asks compares again.
        refusal := 'hash_changed';
        return;
    end if;
    if not found or matches is not true or nullif(stored, '') is null then
        perform auth_service.note_failure(v_account), auth_service.note_failure_at(address);
        refusal := 'invalid_credentials';
        return;
    end if;
    perform auth_service.forgive(v_account, address);
    if v_user.banned_until > now() then
        refusal := 'user_banned';
        return;
    end if;
    if v_user.email_confirmed_at is null then
        refusal := 'email_not_confirmed';
        return;
    end if;
    if rehashed is not null then
        update auth.users as u set encrypted_password = rehashed where u.id = finish_login.user_id;
    end if;
    v_session := auth_service.open_session(finish_login.user_id, 'password', refresh_hash, visitor);
    claims := v_session.claims;
    person := v_session.person;
    refusal := v_session.refusal;
end
$$;
comment on function auth_service.finish_login(text, text, uuid, boolean, text, text, text, jsonb) is
    'Logs in after the password was compared, or counts the failure, of the account and of the address; hash_changed if it has to be compared again.';

-- Accounts

create function auth_service.check_metadata(metadata jsonb) returns void
language plpgsql stable
set search_path = ''
as $$
declare
    -- Access tokens spell what is not ASCII with six characters a UTF-16 unit.
    v_spelled text := regexp_replace(
        regexp_replace(metadata::text, '[\U00010000-\U0010ffff]', 'xxxxxxxxxxxx', 'g'), '[^ -~]', 'xxxxxx', 'g');
begin
    if length(v_spelled) > 8192 then
        raise sqlstate 'PT400' using message = 'validation_failed', detail = 'Metadata may have 8192 bytes of JSON at most.';
    end if;
    if jsonb_path_exists(metadata, '$.** ? (@.type() == "number" && @.abs() > 1e308)') then
        raise sqlstate 'PT400' using message = 'validation_failed', detail = 'A number in the metadata is too large.';
    end if;
end
$$;
comment on function auth_service.check_metadata(jsonb) is
    'Refuses metadata that would not fit into access tokens, or that nobody could read there.';

create function auth_service.check_sign_up(data jsonb) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    perform auth_service.check_metadata(data);
    if nullif(btrim(data ->> 'organization_id'), '') is not null
        and not private.is_organization(data ->> 'organization_id') then
        raise sqlstate 'PT400' using message = 'validation_failed', detail = 'There is no such organization.';
    end if;
end
$$;
comment on function auth_service.check_sign_up(jsonb) is
    'Refuses what could make no account before anybody looks whether there is one: the refusal must not tell.';

create function auth_service.add_user(
    email text, password_hash text, app_metadata jsonb, user_metadata jsonb, is_confirmed boolean, is_invited boolean,
    id uuid default null, is_sign_up boolean default true
) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := coalesce(add_user.id, gen_random_uuid());
    v_is_bare boolean := not is_sign_up and coalesce(
        app_metadata ->> 'organization_id', nullif(btrim(user_metadata ->> 'organization_id'), ''),
        nullif(btrim(user_metadata ->> 'organization'), '')) is null;
begin
    perform auth_service.check_metadata(app_metadata), auth_service.check_metadata(user_metadata);
    insert into auth.users (id, instance_id, aud, role, email, encrypted_password, email_confirmed_at, invited_at,
        confirmation_token, recovery_token, email_change_token_new, email_change, created_at, updated_at,
        confirmation_sent_at, raw_app_meta_data, raw_user_meta_data)
    values (v_id, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated', lower(add_user.email),
        coalesce(password_hash, ''), case when is_confirmed then now() end, case when is_invited then now() end,
        '', '', '', '', now(), now(), case when not is_confirmed and not is_invited then now() end,
        '{"provider": "email", "providers": ["email"]}'::jsonb || coalesce(app_metadata, '{}'),
        case when not v_is_bare then coalesce(user_metadata, '{}') end)
    on conflict do nothing;
    if not found then
        return null;
    end if;
    if v_is_bare then
        -- Said afterwards, it founds no organization.
        update auth.users as u set raw_user_meta_data = coalesce(user_metadata, '{}') where u.id = v_id;
    end if;
    insert into auth.identities (id, user_id, provider_id, provider, identity_data, created_at, updated_at)
    values (gen_random_uuid(), v_id, v_id::text, 'email', jsonb_build_object(
        'sub', v_id, 'email', lower(add_user.email), 'email_verified', is_confirmed), now(), now());
    return v_id;
end
$$;
comment on function auth_service.add_user(text, text, jsonb, jsonb, boolean, boolean, uuid, boolean) is
    'Makes an account; null if the address, or the id, has one. Memberships follow by trigger; one that the server makes (no sign-up) and says no organization of is member of nothing.';

create function auth_service.renew_sign_up(user_id uuid, email text, password_hash text, data jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    -- An account that the server itself has made, or invited, stays as it was made.
    perform from auth.users as u
    where u.id = renew_sign_up.user_id and u.email_confirmed_at is null and u.invited_at is null
        and u.raw_app_meta_data ? 'organization_id' is not true;
    if not found then
        return;
    end if;
    perform private.forget_memberships(renew_sign_up.user_id);
    delete from auth.users as u where u.id = renew_sign_up.user_id;
    perform auth_service.add_user(renew_sign_up.email, renew_sign_up.password_hash, null, data, false, false,
        renew_sign_up.user_id);
end
$$;
comment on function auth_service.renew_sign_up(uuid, text, text, jsonb) is
    'Begins a sign-up anew that nobody has confirmed: its last word counts, password, metadata and membership, and its last link alone.';

create function auth_service.sign_up(
    email text, password_hash text, data jsonb, mail jsonb, autoconfirm boolean, refresh_hash text, visitor jsonb,
    out claims text, out person text, out refusal text
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_id uuid;
    v_existing record;
    v_session record;
begin
    perform auth_service.check_sign_up(data);
    if not autoconfirm and not private.take_mail(email) then
        raise sqlstate 'PT429' using message = 'over_email_send_rate_limit', detail = 'Email rate limit exceeded';
    end if;
    v_id := auth_service.add_user(email, password_hash, null, data, autoconfirm, false);
    if v_id is not null and autoconfirm then
        v_session := auth_service.open_session(v_id, 'password', refresh_hash, visitor);
        claims := v_session.claims;
        person := v_session.person;
        refusal := v_session.refusal;
        return;
    end if;
    if v_id is not null then
        perform private.queue_mail('signup', email, null, mail);
    elsif autoconfirm then
        raise sqlstate 'PT422' using message = 'user_already_exists', detail = 'User already registered';
    else
        select u.id, u.email_confirmed_at, u.invited_at into v_existing
        from auth.users as u where lower(u.email) = lower(sign_up.email) and u.deleted_at is null
        for no key update;
        v_id := v_existing.id;
        if v_existing.email_confirmed_at is not null then
            perform private.queue_mail('account_exists', email, null, mail);
        elsif v_existing.invited_at is not null then
            -- The password of an invitation is chosen by whoever got it, never by whoever signs up.
            perform private.queue_mail('invite', email, null, mail);
        else
            perform auth_service.renew_sign_up(v_existing.id, email, password_hash, data);
            perform private.queue_mail('signup', email, null, mail);
        end if;
    end if;
    -- The account's own id, whosever it is: one that is another each time would tell that there was an account.
    person := auth_service.unconfirmed_person(email, data, coalesce(v_id, gen_random_uuid()));
end
$$;
comment on function auth_service.sign_up(text, text, jsonb, jsonb, boolean, text, jsonb) is
    'Makes an account and mails its link; the answer does not tell whether there was one already.';

create function auth_service.password_of(claims jsonb) returns text
language sql stable security definer
set search_path = ''
as $$
    select u.encrypted_password
    from auth_service.caller(password_of.claims) as c
    join auth.users as u on u.id = c.user_id;
$$;
comment on function auth_service.password_of(jsonb) is 'The caller''s password hash, to compare a new password with.';

create function auth_service.merged(metadata jsonb, changes jsonb) returns jsonb
language sql immutable
set search_path = ''
as $$
    select coalesce(jsonb_object_agg(e.key, e.value), '{}')
    from jsonb_each(coalesce(metadata, '{}') || coalesce(changes, '{}')) as e
    where e.value <> 'null';
$$;
comment on function auth_service.merged(jsonb, jsonb) is 'Metadata after a change: null takes a key away.';

create function auth_service.get_user(claims jsonb) returns text
language sql stable security definer
set search_path = ''
as $$
    select auth_service.person(c.user_id, c.session_id)::text from auth_service.caller(get_user.claims) as c;
$$;
comment on function auth_service.get_user(jsonb) is 'The caller''s account.';

create function auth_service.update_user(
    claims jsonb, email text, data jsonb, password_hash text, nonce_hash text, mail jsonb, autoconfirm boolean
) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_caller record := auth_service.caller(claims);
    v_user auth.users;
    v_email text := lower(btrim(update_user.email));
begin
    select u.* into v_user from auth.users as u where u.id = v_caller.user_id for no key update;
    if v_email = lower(v_user.email) then
        v_email := null;
    end if;
    if (v_email is not null or password_hash is not null) and v_caller.aal is distinct from 'aal2' and exists (
        select from auth.mfa_factors as f where f.user_id = v_user.id and f.status = 'verified') then
        raise sqlstate 'PT401' using message = 'insufficient_aal',
            detail = 'AAL2 session is required to update email or password when MFA is enabled.';
    end if;
    if nonce_hash is not null then
        delete from auth.one_time_tokens as t
        where t.user_id = v_user.id and t.token_type = 'reauthentication_token' and t.code_hash = nonce_hash
            and t.expires_at > now();
        if not found then
            raise sqlstate 'PT422' using message = 'reauthentication_not_valid', detail = 'Nonce has expired or is invalid';
        end if;
    end if;
    if data is not null then
        perform auth_service.check_metadata(auth_service.merged(v_user.raw_user_meta_data, data));
        update auth.users as u
        set raw_user_meta_data = auth_service.merged(u.raw_user_meta_data, data), updated_at = now()
        where u.id = v_user.id;
    end if;
    if password_hash is not null then
        -- Chosen by whoever reads the mail, it is nobody else's any more (private.fresh_claims).
        update auth.users as u
        set encrypted_password = password_hash, updated_at = now(),
            confirmation_sent_at = case when exists (
                    select from auth.mfa_amr_claims as a
                    where a.session_id = v_caller.session_id and a.authentication_method = 'otp')
                then coalesce(u.confirmation_sent_at, now()) else u.confirmation_sent_at end
        where u.id = v_user.id;
        delete from auth.sessions as s where s.user_id = v_user.id and s.id is distinct from v_caller.session_id;
        delete from auth.one_time_tokens as t where t.user_id = v_user.id and t.token_type = 'recovery_token';
        perform private.queue_mail('password_changed', v_user.email, null, null);
    end if;
    if v_email is not null then
        perform auth_service.change_email(v_user, v_email, mail, autoconfirm);
    end if;
    return auth_service.person(v_user.id, v_caller.session_id)::text;
end
$$;
comment on function auth_service.update_user(jsonb, text, jsonb, text, text, jsonb, boolean) is
    'Changes the caller''s own account. A new password ends the other sessions; a new address waits for both mails.';

create function auth_service.change_email(account auth.users, email text, mail jsonb, autoconfirm boolean) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_account auth.users;
begin
    if autoconfirm then
        perform auth_service.set_email(account.id, change_email.email, false);
        return;
    end if;
    if not private.take_mail(change_email.email) then
        raise sqlstate 'PT429' using message = 'over_email_send_rate_limit', detail = 'Email rate limit exceeded';
    end if;
    delete from auth.one_time_tokens as t
    where t.user_id = account.id and t.token_type in ('email_change_token_new', 'email_change_token_current');
    update auth.users as u
    set email_change = change_email.email, email_change_sent_at = now(), email_change_confirm_status = 0,
        email_change_token_new = '', email_change_token_current = '', updated_at = now()
    where u.id = account.id
    returning u.* into v_account;
    perform auth_service.queue_email_change(v_account, mail);
end
$$;
comment on function auth_service.change_email(auth.users, text, jsonb, boolean) is
    'Begins the change of an address: both the old and the new one are mailed a link.';

create function auth_service.queue_email_change(account auth.users, mail jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_data jsonb := coalesce(mail, '{}') || jsonb_build_object('user_id', account.id);
    v_is_taken boolean := exists (
        select from auth.users as u where lower(u.email) = account.email_change and u.deleted_at is null);
begin
    if account.email_change_token_new is distinct from 'confirmed' then
        -- The answer is the same for an address that has an account; its owner is told.
        perform private.queue_mail(case when v_is_taken then 'account_exists' else 'email_change' end,
            account.email_change, null, v_data || '{"target": "new"}');
    end if;
    if account.email_change_token_current is distinct from 'confirmed' then
        perform private.queue_mail('email_change', account.email, null, v_data || '{"target": "current"}');
    end if;
end
$$;
comment on function auth_service.queue_email_change(auth.users, jsonb) is
    'Mails a link to both addresses of a change, or to the one that has not agreed yet.';

create function auth_service.set_email(user_id uuid, email text, is_proved boolean) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    update auth.users as u
    set email = set_email.email, email_change = '', email_change_confirm_status = 0, email_change_token_new = '',
        email_change_token_current = '', updated_at = now(),
        email_confirmed_at = coalesce(u.email_confirmed_at, now()),
        confirmation_sent_at = case when is_proved then u.confirmation_sent_at end
    where u.id = set_email.user_id;
    update auth.identities as i
    set identity_data = i.identity_data || jsonb_build_object('email', set_email.email, 'email_verified', true),
        updated_at = now()
    where i.user_id = set_email.user_id and i.provider = 'email';
    delete from auth.one_time_tokens as t
    where t.user_id = set_email.user_id and t.token_type <> 'reauthentication_token';
exception
    when unique_violation then
        raise sqlstate 'PT422' using message = 'email_exists',
            detail = 'A user with this email address has already been registered';
end
$$;
comment on function auth_service.set_email(uuid, text, boolean) is
    'Gives an account its new address, and forgets that its reader had agreed to be there if that is not proved of this one; links to the old one are void.';

-- Mails and what their links do

create function auth_service.request_mail(kind text, email text, mail jsonb, new_user_metadata jsonb default null)
returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_account auth.users;
begin
    perform auth_service.check_sign_up(new_user_metadata);
    if not private.take_mail(request_mail.email) then
        raise sqlstate 'PT429' using message = 'over_email_send_rate_limit', detail = 'Email rate limit exceeded';
    end if;
    if request_mail.kind = 'email_change' then
        select u.* into v_account from auth.users as u
        where lower(u.email) = lower(request_mail.email) and u.deleted_at is null and u.email_change <> '';
        if found and private.take_mail(v_account.email_change) then
            perform auth_service.queue_email_change(v_account, mail);
            return;
        end if;
    end if;
    if new_user_metadata is not null and auth_service.add_user(
        request_mail.email, null, null, new_user_metadata, false, false) is null and new_user_metadata <> '{}' then
        perform auth_service.renew_sign_up(u.id, request_mail.email, null, new_user_metadata)
        from auth.users as u where lower(u.email) = lower(request_mail.email) and u.deleted_at is null;
    end if;
    -- Whether there is anybody to send it to is found out by the worker, so this takes as long either way.
    perform private.queue_mail(request_mail.kind, request_mail.email, null, mail);
end
$$;
comment on function auth_service.request_mail(text, text, jsonb, jsonb) is
    'Queues a mail that somebody asked for who need not be its reader; with metadata, an unknown address gets an account.';

create function auth_service.reauthenticate(claims jsonb) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_caller record := auth_service.caller(claims);
begin
    perform auth_service.request_mail('reauthentication', u.email, '{}') from auth.users as u where u.id = v_caller.user_id;
end
$$;
comment on function auth_service.reauthenticate(jsonb) is 'Mails the caller a code that update_user takes as nonce.';

create function auth_service.store_token(
    user_id uuid, token_type auth.one_time_token_type, email text, token_hash text, code_hash text, minutes integer,
    mail jsonb, asked_at timestamptz default now()
) returns void
language plpgsql volatile
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_flow_id uuid := case when mail ->> 'code_challenge' is not null then gen_random_uuid() end;
begin
    if v_flow_id is not null then
        insert into auth.flow_state (id, user_id, code_challenge_method, code_challenge, provider_type, created_at,
            updated_at, authentication_method)
        values (v_flow_id, store_token.user_id, (mail ->> 'code_challenge_method')::auth.code_challenge_method,
            mail ->> 'code_challenge', 'email', now(), now(), 'otp');
    end if;
    insert into auth.one_time_tokens as t (id, user_id, token_type, token_hash, relates_to, created_at, updated_at,
        code_hash, expires_at, flow_state_id)
    values (gen_random_uuid(), store_token.user_id, store_token.token_type, store_token.token_hash,
        lower(store_token.email), asked_at at time zone 'UTC', now() at time zone 'UTC', store_token.code_hash,
        now() + minutes * interval '1 minute', v_flow_id)
    on conflict (user_id, token_type) do update
    set token_hash = excluded.token_hash, relates_to = excluded.relates_to, created_at = excluded.created_at,
        updated_at = excluded.updated_at, code_hash = excluded.code_hash, expires_at = excluded.expires_at,
        flow_state_id = excluded.flow_state_id
    -- Mails are not sent in the order in which they were asked for; it is the last one's link that works.
    where t.created_at <= excluded.created_at;
end
$$;
comment on function
    auth_service.store_token(uuid, auth.one_time_token_type, text, text, text, integer, jsonb, timestamptz) is
    'Keeps the hashes of a mail''s token and code; those of that type that were asked for before are void.';

create function auth_service.prepare_mail(id uuid, token_hash text, code_hash text) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_mail private.mails := private.read_mail(prepare_mail.id);
    v_user auth.users;
    v_type auth.one_time_token_type;
    v_minutes integer := case v_mail.kind when 'signup' then 1440 when 'invite' then 1440 else 60 end;
begin
    if v_mail.kind = 'email_change' then
        select u.* into v_user from auth.users as u
        where u.id = (v_mail.data ->> 'user_id')::uuid and u.email_change <> '' and v_mail.email = lower(
            case v_mail.data ->> 'target' when 'new' then u.email_change else u.email end)
        for no key update;
        v_type := (case v_mail.data ->> 'target'
            when 'new' then 'email_change_token_new' else 'email_change_token_current' end)::auth.one_time_token_type;
    else
        select u.* into v_user from auth.users as u where lower(u.email) = v_mail.email and u.deleted_at is null
        for no key update;
        v_type := (case v_mail.kind
            when 'signup' then 'confirmation_token' when 'invite' then 'confirmation_token'
            when 'reauthentication' then 'reauthentication_token' else 'recovery_token' end)::auth.one_time_token_type;
        if v_mail.kind in ('signup', 'invite') and v_user.email_confirmed_at is not null then
            return null;
        end if;
    end if;
    if v_user.id is null or v_user.deleted_at is not null or v_user.banned_until > now() then
        return null;
    end if;
    -- Who was invited and asks for a link otherwise still chooses a password.
    perform auth_service.store_token(v_user.id, v_type, v_mail.email, prepare_mail.token_hash, prepare_mail.code_hash,
        v_minutes, v_mail.data, v_mail.created_at);
    update auth.users as u
    set confirmation_sent_at = case when v_type = 'confirmation_token' and v_mail.kind = 'signup'
            then now() else u.confirmation_sent_at end,
        recovery_sent_at = case when v_type = 'recovery_token' then now() else u.recovery_sent_at end,
        reauthentication_sent_at = case when v_type = 'reauthentication_token' then now()
            else u.reauthentication_sent_at end
    where u.id = v_user.id;
    return jsonb_build_object(
        'kind', v_mail.kind, 'email', v_mail.email, 'name', v_user.raw_user_meta_data ->> 'name',
        'organization', v_mail.data ->> 'organization', 'redirect_to', v_mail.data ->> 'redirect_to', 'minutes', v_minutes,
        'new_email', nullif(v_user.email_change, ''))::text;
end
$$;
comment on function auth_service.prepare_mail(uuid, text, text) is
    'Called by the worker while it sends a mail: keeps the hashes of its secrets and answers what its text needs; null if there is nobody to send it to.';

create function auth_service.verify(
    kind text, token_hash text, email text, code_hash text, auth_code_hash text, refresh_hash text, visitor jsonb,
    out claims text, out person text, out refusal text, out wait_seconds integer, out allowed integer,
    out has_code boolean, out is_half_done boolean
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_types auth.one_time_token_type[] := (case kind
        when 'signup' then '{confirmation_token}' when 'invite' then '{confirmation_token}'
        when 'recovery' then '{recovery_token}' when 'magiclink' then '{recovery_token}'
        when 'email' then '{confirmation_token,recovery_token}'
        when 'email_change' then '{email_change_token_new,email_change_token_current}'
        end)::auth.one_time_token_type[];
    v_guess text := case when verify.token_hash is null then auth_service.subject_of('code', email) end;
    v_token auth.one_time_tokens;
    v_user auth.users;
    v_session record;
begin
    if v_guess is null then
        select t.* into v_token from auth.one_time_tokens as t
        where t.token_hash = verify.token_hash and t.token_type = any (v_types) and t.expires_at > now();
    else
        perform auth_service.take_turns(v_guess);
        select l.* into wait_seconds, allowed from auth_service.lock_of(array[v_guess]) as l;
        if wait_seconds is not null then
            refusal := 'over_request_rate_limit';
            return;
        end if;
        select t.* into v_token from auth.one_time_tokens as t
        where t.relates_to = lower(verify.email) and t.code_hash = verify.code_hash
            and t.token_type = any (v_types) and t.expires_at > now();
    end if;
    select u.* into v_user from auth.users as u where u.id = v_token.user_id for no key update;
    -- Of two who come at once, one; and not by a link that another one has replaced meanwhile.
    delete from auth.one_time_tokens as t where t.id = v_token.id and t.token_hash = v_token.token_hash;
    if not found then
        if v_guess is not null then
            perform auth_service.note_failure(v_guess);
        end if;
        refusal := 'otp_expired';
        return;
    end if;
    if v_guess is not null then
        delete from auth.failed_attempts as f where f.subject = v_guess;
    end if;
    if v_user.deleted_at is not null or v_user.banned_until > now() then
        refusal := 'user_banned';
        return;
    end if;
    if kind = 'email_change' then
        is_half_done := not auth_service.confirm_email_change(v_user, v_token);
        if is_half_done then
            return;
        end if;
    else
        -- A password from before anybody proved the address counts only with the mail of its own sign-up.
        update auth.users as u
        set email_confirmed_at = now(), confirmation_sent_at = coalesce(u.confirmation_sent_at, now()), updated_at = now(),
            encrypted_password = case v_token.token_type when 'recovery_token' then '' else u.encrypted_password end
        where u.id = v_user.id and u.email_confirmed_at is null;
        update auth.identities as i
        set identity_data = i.identity_data || '{"email_verified": true}', updated_at = now()
        where i.user_id = v_user.id and i.provider = 'email';
    end if;
    if auth_code_hash is not null and v_token.flow_state_id is not null then
        update auth.flow_state as w
        set auth_code = auth_code_hash, auth_code_issued_at = now(), updated_at = now()
        where w.id = v_token.flow_state_id;
        has_code := found;
        if has_code then
            return;
        end if;
    end if;
    v_session := auth_service.open_session(v_user.id, 'otp', refresh_hash, visitor);
    claims := v_session.claims;
    person := v_session.person;
    refusal := v_session.refusal;
end
$$;
comment on function auth_service.verify(text, text, text, text, text, text, jsonb) is
    'Takes the token of a link, or the code of a mail with its address, once: confirms the address and logs in. With auth_code_hash (a browser followed the link) a flow with a code challenge is given that code instead.';

create function auth_service.confirm_email_change(account auth.users, token auth.one_time_tokens) returns boolean
language plpgsql volatile
set search_path = ''
as $$
declare
    v_is_done boolean;
begin
    update auth.users as u
    set email_change_token_new = case when token.token_type = 'email_change_token_new' then 'confirmed'
            else u.email_change_token_new end,
        email_change_token_current = case when token.token_type = 'email_change_token_current' then 'confirmed'
            else u.email_change_token_current end,
        email_change_confirm_status = 1
    where u.id = account.id
    returning u.email_change_token_new = 'confirmed' and u.email_change_token_current = 'confirmed' into v_is_done;
    if not v_is_done then
        return false;
    end if;
    perform auth_service.set_email(account.id, account.email_change, true);
    return true;
end
$$;
comment on function auth_service.confirm_email_change(auth.users, auth.one_time_tokens) is
    'Notes that one of the two addresses agreed; with the second one the change is made.';

create function auth_service.exchange_code(
    code_hash text, verifier text, refresh_hash text, visitor jsonb, out claims text, out person text, out refusal text,
    out wait_seconds integer, out allowed integer
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_address text := visitor ->> 'address';
    v_flow auth.flow_state;
    v_session record;
begin
    select l.* into wait_seconds, allowed from auth_service.lock_of(array['address:' || v_address]) as l;
    if wait_seconds is not null then
        refusal := 'over_request_rate_limit';
        return;
    end if;
    select w.* into v_flow from auth.flow_state as w
    where w.auth_code = code_hash and w.auth_code_issued_at > now() - interval '5 minutes'
    for update;
    perform from auth.users as u where u.id = v_flow.user_id and u.deleted_at is null for key share;
    if not found then
        refusal := 'flow_state_not_found';
        return;
    end if;
    if v_flow.code_challenge <> (case v_flow.code_challenge_method
        when 'plain' then verifier
        else rtrim(translate(encode(sha256(convert_to(verifier, 'UTF8')), 'base64'), '+/', '-_'), '=') end) then
        -- It counts against whoever tries, not against the code: who only saw that must not spoil the log-in.
        perform auth_service.note_failure_at(v_address);
        refusal := 'bad_code_verifier';
        return;
    end if;
    delete from auth.flow_state as w where w.id = v_flow.id;
    v_session := auth_service.open_session(v_flow.user_id, 'otp', refresh_hash, visitor);
    claims := v_session.claims;
    person := v_session.person;
    refusal := v_session.refusal;
end
$$;
comment on function auth_service.exchange_code(text, text, text, jsonb) is
    'Finishes a log-in by link, once, for whoever holds the verifier of its challenge; a wrong verifier counts as a wrong guess from its address, and leaves the code as it is.';

-- Second factors

create function auth_service.enroll_factor(claims jsonb, friendly_name text, secret text, out id uuid, out email text)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_caller record := auth_service.caller(claims);
begin
    select u.email into email from auth.users as u where u.id = v_caller.user_id for no key update;
    if v_caller.aal is distinct from 'aal2' and exists (
        select from auth.mfa_factors as f where f.user_id = v_caller.user_id and f.status = 'verified') then
        raise sqlstate 'PT403' using message = 'insufficient_aal', detail = 'AAL2 required to enroll a new factor';
    end if;
    if exists (select from auth.mfa_factors as f
        where f.user_id = v_caller.user_id and btrim(f.friendly_name) <> ''
            and f.friendly_name = enroll_factor.friendly_name) then
        raise sqlstate 'PT422' using message = 'mfa_factor_name_conflict',
            detail = 'A factor with this friendly name already exists';
    end if;
    -- Enrolments that nobody finished are not kept for ever.
    delete from auth.mfa_factors as f
    where f.user_id = v_caller.user_id and f.status = 'unverified' and f.created_at < now() - interval '1 day';
    if (select count(*) from auth.mfa_factors as f where f.user_id = v_caller.user_id) >= 10 then
        raise sqlstate 'PT422' using message = 'too_many_enrolled_mfa_factors',
            detail = 'Maximum number of verified factors reached, unenroll to continue';
    end if;
    id := gen_random_uuid();
    insert into auth.mfa_factors (id, user_id, friendly_name, factor_type, status, created_at, updated_at, secret)
    values (enroll_factor.id, v_caller.user_id, enroll_factor.friendly_name, 'totp', 'unverified', now(), now(),
        enroll_factor.secret);
end
$$;
comment on function auth_service.enroll_factor(jsonb, text, text) is 'Adds an authenticator app, not verified yet.';

create function auth_service.factor_of(claims jsonb, factor_id uuid) returns auth.mfa_factors
language plpgsql stable
set search_path = ''
as $$
declare
    v_caller record := auth_service.caller(claims);
    v_factor auth.mfa_factors;
begin
    select f.* into v_factor from auth.mfa_factors as f
    where f.id = factor_of.factor_id and f.user_id = v_caller.user_id;
    if not found then
        raise sqlstate 'PT404' using message = 'mfa_factor_not_found', detail = 'Factor not found';
    end if;
    return v_factor;
end
$$;
comment on function auth_service.factor_of(jsonb, uuid) is 'A factor of the caller''s.';

create function auth_service.challenge_factor(claims jsonb, factor_id uuid, address text) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_factor auth.mfa_factors;
    v_id uuid := gen_random_uuid();
begin
    perform auth_service.lock_account((claims ->> 'sub')::uuid);
    v_factor := auth_service.factor_of(claims, factor_id);
    insert into auth.mfa_challenges (id, factor_id, created_at, ip_address)
    values (v_id, v_factor.id, now(), coalesce(address, '0.0.0.0')::inet);
    return jsonb_build_object('id', v_id, 'type', v_factor.factor_type,
        'expires_at', extract(epoch from now() + interval '5 minutes')::bigint)::text;
end
$$;
comment on function auth_service.challenge_factor(jsonb, uuid, text) is 'Asks for a factor; the answer is awaited for five minutes.';

create function auth_service.begin_verify_factor(
    claims jsonb, factor_id uuid, challenge_id uuid, out secret text, out wait_seconds integer, out allowed integer
)
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_factor auth.mfa_factors := auth_service.factor_of(claims, factor_id);
begin
    perform from auth.mfa_challenges as c
    where c.id = challenge_id and c.factor_id = v_factor.id and c.verified_at is null
        and c.created_at > now() - interval '5 minutes';
    if not found then
        raise sqlstate 'PT422' using message = 'mfa_challenge_expired',
            detail = 'MFA challenge has expired, verify against another challenge or create a new challenge.';
    end if;
    select l.* into wait_seconds, allowed from auth_service.lock_of(array['factor:' || v_factor.id]) as l;
    secret := v_factor.secret;
end
$$;
comment on function auth_service.begin_verify_factor(jsonb, uuid, uuid) is
    'The secret to compare a code with, unless too many were wrong.';

create function auth_service.finish_verify_factor(
    claims jsonb, factor_id uuid, challenge_id uuid, step bigint, refresh_hash text,
    out session_claims text, out person text, out refusal text, out wait_seconds integer, out allowed integer
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_caller record;
    v_factor auth.mfa_factors;
begin
    -- One at a time, so that a code is taken once.
    perform auth_service.lock_account((claims ->> 'sub')::uuid);
    v_caller := auth_service.caller(claims);
    v_factor := auth_service.factor_of(claims, factor_id);
    perform from auth.sessions as s where s.id = v_caller.session_id for no key update;
    if not found then
        refusal := 'session_not_found';
        return;
    end if;
    select l.* into wait_seconds, allowed from auth_service.lock_of(array['factor:' || v_factor.id]) as l;
    if wait_seconds is not null then
        refusal := 'over_request_rate_limit';
        return;
    end if;
    if step is null or exists (
        select from auth.mfa_challenges as c where c.factor_id = v_factor.id and c.otp_code::bigint >= step) then
        perform auth_service.note_failure('factor:' || v_factor.id);
        refusal := 'mfa_verification_failed';
        return;
    end if;
    update auth.mfa_challenges as c
    set verified_at = now(), otp_code = step::text
    where c.id = challenge_id and c.factor_id = v_factor.id and c.verified_at is null
        and c.created_at > now() - interval '5 minutes';
    if not found then
        refusal := 'mfa_challenge_expired';
        return;
    end if;
    delete from auth.failed_attempts as f where f.subject = 'factor:' || v_factor.id;
    update auth.mfa_factors as f
    set status = 'verified', updated_at = now(), last_challenged_at = clock_timestamp()
    where f.id = v_factor.id;
    delete from auth.mfa_factors as f where f.user_id = v_caller.user_id and f.status = 'unverified';
    update auth.sessions as s
    set aal = 'aal2', factor_id = v_factor.id, updated_at = now()
    where s.id = v_caller.session_id;
    delete from auth.sessions as s
    where s.user_id = v_caller.user_id and s.id <> v_caller.session_id and s.aal is distinct from 'aal2';
    insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)
    values (gen_random_uuid(), v_caller.session_id, now(), now(), 'totp')
    on conflict on constraint mfa_amr_claims_session_id_authentication_method_key do update set updated_at = now();
    update auth.refresh_tokens as r set revoked = true, updated_at = now() - interval '1 minute'
    where r.session_id = v_caller.session_id and not r.revoked;
    insert into auth.refresh_tokens (token, user_id, revoked, created_at, updated_at, session_id)
    values (refresh_hash, v_caller.user_id, false, now(), now(), v_caller.session_id);
    session_claims := auth_service.session_claims(v_caller.session_id);
    person := auth_service.person(v_caller.user_id, v_caller.session_id);
end
$$;
comment on function auth_service.finish_verify_factor(jsonb, uuid, uuid, bigint, text) is
    'Takes a code by its time step, never the same one twice: the session is raised to aal2, the account''s other sessions without a second factor end.';

create function auth_service.unenroll_factor(claims jsonb, factor_id uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_caller record;
    v_factor auth.mfa_factors;
begin
    perform auth_service.lock_account((claims ->> 'sub')::uuid);
    v_caller := auth_service.caller(claims);
    v_factor := auth_service.factor_of(claims, factor_id);
    if v_factor.status = 'verified' and v_caller.aal is distinct from 'aal2' then
        raise sqlstate 'PT422' using message = 'insufficient_aal', detail = 'AAL2 required to unenroll verified factor';
    end if;
    perform auth_service.drop_factor(v_factor.id);
end
$$;
comment on function auth_service.unenroll_factor(jsonb, uuid) is 'Takes a factor of the caller''s away; a verified one needs aal2.';

create function auth_service.drop_factor(id uuid) returns void
language sql volatile
set search_path = ''
as $$
    update auth.sessions as s set aal = 'aal1', factor_id = null where s.factor_id = drop_factor.id;
    delete from auth.mfa_factors as f where f.id = drop_factor.id;
$$;
comment on function auth_service.drop_factor(uuid) is 'Takes a factor away; what was proved with it counts no more.';

-- For whoever holds the service role key

create function auth_service.admin_user(id uuid) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
begin
    perform from auth.users as u where u.id = admin_user.id and u.deleted_at is null;
    if not found then
        raise sqlstate 'PT404' using message = 'user_not_found', detail = 'User not found';
    end if;
    return auth_service.person(admin_user.id);
end
$$;
comment on function auth_service.admin_user(uuid) is 'An account.';

create function auth_service.admin_list(page integer, per_page integer, out body text, out total bigint)
language sql stable security definer
set search_path = ''
as $$
    select jsonb_build_object('aud', 'authenticated', 'users', coalesce((
            select jsonb_agg(auth_service.person(p.id) order by p.created_at desc, p.id)
            from (
                select u.id, u.created_at from auth.users as u
                where u.deleted_at is null
                order by u.created_at desc, u.id
                limit per_page offset (page::bigint - 1) * per_page
            ) as p), '[]'))::text,
        (select count(*) from auth.users as u where u.deleted_at is null);
$$;
comment on function auth_service.admin_list(integer, integer) is 'Accounts, newest first, and how many there are.';

create function auth_service.admin_create(attributes jsonb, password_hash text) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_id uuid := auth_service.add_user(attributes ->> 'email', password_hash, attributes -> 'app_metadata',
        attributes -> 'user_metadata', coalesce((attributes ->> 'email_confirm')::boolean, false), false,
        (attributes ->> 'id')::uuid, false);
begin
    if v_id is null then
        raise sqlstate 'PT422' using message = 'email_exists',
            detail = 'A user with this email address has already been registered';
    end if;
    return auth_service.admin_update(v_id, attributes - array['email', 'app_metadata', 'user_metadata', 'id'], null);
end
$$;
comment on function auth_service.admin_create(jsonb, text) is 'Makes an account without a mail.';

create function auth_service.admin_update(id uuid, attributes jsonb, password_hash text) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_user jsonb := auth_service.admin_user(id);
    v_email text := nullif(nullif(lower(attributes ->> 'email'), ''), v_user ->> 'email');
    v_app jsonb := attributes -> 'app_metadata';
    v_organization_id text := coalesce(v_app ->> 'organization_id', v_user #>> '{app_metadata,organization_id}');
begin
    if v_organization_id is not null and coalesce(v_app ->> 'organization_id', v_app ->> 'role') is not null then
        -- Before the account is locked: members are changed under the lock of their organization, which comes first.
        perform private.appoint(admin_update.id, v_organization_id, v_app ->> 'role');
    end if;
    perform auth_service.lock_account(id);
    if v_email is not null then
        perform auth_service.set_email(admin_update.id, v_email, false);
    end if;
    perform auth_service.check_metadata(auth_service.merged(u.raw_app_meta_data, v_app)),
        auth_service.check_metadata(auth_service.merged(u.raw_user_meta_data, attributes -> 'user_metadata'))
    from auth.users as u where u.id = admin_update.id;
    update auth.users as u
    set encrypted_password = coalesce(password_hash, u.encrypted_password),
        email_confirmed_at = case when (attributes ->> 'email_confirm')::boolean
            then coalesce(u.email_confirmed_at, now()) else u.email_confirmed_at end,
        phone = coalesce(nullif(attributes ->> 'phone', ''), u.phone),
        phone_confirmed_at = case when (attributes ->> 'phone_confirm')::boolean
            then coalesce(u.phone_confirmed_at, now()) else u.phone_confirmed_at end,
        -- Which organization somebody has chosen is kept here, and nothing else that members say.
        raw_app_meta_data = auth_service.merged(
                auth_service.own_metadata(u.raw_app_meta_data), auth_service.own_metadata(v_app))
            || jsonb_strip_nulls(jsonb_build_object('organization_id', case when v_app ? 'organization_id'
                then v_app -> 'organization_id' else u.raw_app_meta_data -> 'organization_id' end)),
        raw_user_meta_data = auth_service.merged(u.raw_user_meta_data, attributes -> 'user_metadata'),
        banned_until = case
            when attributes ->> 'ban_seconds' is null then u.banned_until
            when (attributes ->> 'ban_seconds')::double precision = 0 then null
            else now() + (attributes ->> 'ban_seconds')::double precision * interval '1 second' end,
        updated_at = now()
    where u.id = admin_update.id;
    if password_hash is not null then
        delete from auth.sessions as s where s.user_id = admin_update.id;
    end if;
    return auth_service.person(admin_update.id)::text;
exception
    when unique_violation then
        raise sqlstate 'PT422' using message = 'phone_exists', detail = 'A user with this phone number has already been registered';
end
$$;
comment on function auth_service.admin_update(uuid, jsonb, text) is
    'Changes an account; a new password ends its sessions, and so does a ban for as long as it lasts. app_metadata.organization_id and role are a membership: made, or changed.';

create function auth_service.admin_delete(id uuid, is_soft boolean) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform auth_service.admin_user(id);
    perform auth_service.lock_account(id);
    if is_soft then
        -- The row stays for what refers to it; nobody can be recognised in it.
        update auth.users as u
        set deleted_at = now(), updated_at = now(), encrypted_password = '', phone = null,
            email = encode(sha256(convert_to(u.id || coalesce(u.email, ''), 'UTF8')), 'hex'),
            raw_user_meta_data = '{}', raw_app_meta_data = '{}', email_change = ''
        where u.id = admin_delete.id;
        delete from auth.sessions as s where s.user_id = admin_delete.id;
        delete from auth.identities as i where i.user_id = admin_delete.id;
        delete from auth.mfa_factors as f where f.user_id = admin_delete.id;
        delete from auth.one_time_tokens as t where t.user_id = admin_delete.id;
    else
        delete from auth.users as u where u.id = admin_delete.id;
    end if;
end
$$;
comment on function auth_service.admin_delete(uuid, boolean) is
    'Deletes an account, or what makes it recognisable. Memberships end by trigger; what the person wrote stays.';

create function auth_service.admin_invite(email text, data jsonb, mail jsonb) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_id uuid := auth_service.invite(email, data);
begin
    perform private.queue_mail('invite', admin_invite.email, (
        select (auth_service.person(v_id) #>> '{app_metadata,organization_id}')::uuid), mail);
    return auth_service.person(v_id)::text;
end
$$;
comment on function auth_service.admin_invite(text, jsonb, jsonb) is 'Makes an account whose password its reader chooses, and mails the link.';

create function auth_service.invite(email text, data jsonb) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := auth_service.add_user(email, null, null, data, false, true, null, false);
begin
    if v_id is null then
        select u.id into v_id from auth.users as u
        where lower(u.email) = lower(invite.email) and u.deleted_at is null and u.email_confirmed_at is null
        for no key update;
        if not found then
            raise sqlstate 'PT422' using message = 'email_exists',
                detail = 'A user with this email address has already been registered';
        end if;
        -- Whoever signed up with this address, which may be somebody else's, has chosen the password.
        update auth.users as u set encrypted_password = '', invited_at = now(), updated_at = now() where u.id = v_id;
    end if;
    return v_id;
end
$$;
comment on function auth_service.invite(text, jsonb) is 'The account of somebody who is invited, made if need be; not one that is in use.';

create function auth_service.admin_link(
    kind text, email text, new_email text, data jsonb, password_hash text, token_hash text, code_hash text, mail jsonb
) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_id uuid;
    v_address text := lower(email);
    v_type auth.one_time_token_type := (case kind
        when 'signup' then 'confirmation_token' when 'invite' then 'confirmation_token'
        when 'email_change_new' then 'email_change_token_new'
        when 'email_change_current' then 'email_change_token_current' else 'recovery_token'
        end)::auth.one_time_token_type;
begin
    if kind = 'invite' then
        v_id := auth_service.invite(email, data);
    else
        if kind = 'signup' then
            v_id := auth_service.add_user(email, password_hash, null, data, false, false);
        end if;
        if v_id is null then
            select u.id into v_id from auth.users as u
            where lower(u.email) = v_address and u.deleted_at is null
                and (kind <> 'signup' or u.email_confirmed_at is null);
        end if;
        if v_id is null and kind = 'signup' then
            raise sqlstate 'PT422' using message = 'email_exists',
                detail = 'A user with this email address has already been registered';
        end if;
    end if;
    if v_id is null then
        raise sqlstate 'PT404' using message = 'user_not_found', detail = 'User with this email not found';
    end if;
    if kind like 'email_change%' then
        update auth.users as u
        set email_change = lower(new_email), email_change_sent_at = now(), updated_at = now(),
            email_change_token_new = case when u.email_change = lower(new_email) then u.email_change_token_new else '' end,
            email_change_token_current = case
                when u.email_change = lower(new_email) then u.email_change_token_current else '' end
        where u.id = v_id;
        v_address := case kind when 'email_change_new' then lower(new_email) else v_address end;
    end if;
    perform auth_service.store_token(v_id, v_type, v_address, token_hash, code_hash,
        case when v_type = 'confirmation_token' then 1440 else 60 end, mail);
    return auth_service.person(v_id)::text;
end
$$;
comment on function auth_service.admin_link(text, text, text, jsonb, text, text, text, jsonb) is
    'Makes what a mail would hold and mails nothing: whoever asked hands it on.';

create function auth_service.admin_factors(user_id uuid) returns text
language sql stable security definer
set search_path = ''
as $$
    select (auth_service.admin_user(user_id) -> 'factors')::text
$$;
comment on function auth_service.admin_factors(uuid) is 'The second factors of an account.';

create function auth_service.admin_delete_factor(user_id uuid, factor_id uuid) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_factor auth.mfa_factors;
begin
    perform auth_service.lock_account(admin_delete_factor.user_id);
    select f.* into v_factor from auth.mfa_factors as f
    where f.id = factor_id and f.user_id = admin_delete_factor.user_id;
    if not found then
        raise sqlstate 'PT404' using message = 'mfa_factor_not_found', detail = 'Factor not found';
    end if;
    perform auth_service.drop_factor(v_factor.id);
    return auth_service.factor_json(v_factor)::text;
end
$$;
comment on function auth_service.admin_delete_factor(uuid, uuid) is 'Takes a factor away from somebody who lost it.';

-- Housekeeping

create function auth_service.weak_passwords(batch integer) returns table (id uuid, weak text)
language sql stable security definer
set search_path = ''
as $$
    select u.id, u.encrypted_password::text from auth.users as u
    where u.encrypted_password like '$pbkdf2-sha512$%' and u.encrypted_password not like '%$argon2id$%'
    limit batch;
$$;
comment on function auth_service.weak_passwords(integer) is
    'Hashes that Postgres made itself (private.hash_password), for the worker to strengthen.';

create function auth_service.strengthen_password(id uuid, weak text, strong text) returns void
language sql volatile security definer
set search_path = ''
as $$
    update auth.users as u set encrypted_password = strong
    where u.id = strengthen_password.id and u.encrypted_password = weak;
$$;
comment on function auth_service.strengthen_password(uuid, text, text) is 'Replaces such a hash, unless the password has changed meanwhile.';

create function auth_service.maintain() returns void
language sql volatile security definer
set search_path = ''
as $$
    delete from auth.one_time_tokens as t where t.expires_at < now() - interval '1 day';
    delete from auth.flow_state as w where w.created_at < now() - interval '2 days';
    delete from auth.failed_attempts as f
    where f.last_failed_at < now() - interval '1 hour' and (f.locked_until is null or f.locked_until < now());
    delete from auth.mfa_challenges as c where c.created_at < now() - interval '1 day';
    -- A used token is remembered for as long as anybody could come back with it: as long as its session.
    delete from auth.sessions as s
    where s.not_after < now() or greatest(s.created_at, s.refreshed_at at time zone 'UTC') < now() - interval '90 days';
$$;
comment on function auth_service.maintain() is 'Forgets what is past its time; a session that nobody used for 90 days among it.';

revoke execute on all functions in schema auth_service from public;
grant execute on function
    auth_service.refresh(text, text, jsonb),
    auth_service.log_out(jsonb, text),
    auth_service.begin_login(text, text),
    auth_service.finish_login(text, text, uuid, boolean, text, text, text, jsonb),
    auth_service.sign_up(text, text, jsonb, jsonb, boolean, text, jsonb),
    auth_service.password_of(jsonb),
    auth_service.get_user(jsonb),
    auth_service.update_user(jsonb, text, jsonb, text, text, jsonb, boolean),
    auth_service.request_mail(text, text, jsonb, jsonb),
    auth_service.reauthenticate(jsonb),
    auth_service.prepare_mail(uuid, text, text),
    auth_service.verify(text, text, text, text, text, text, jsonb),
    auth_service.exchange_code(text, text, text, jsonb),
    auth_service.enroll_factor(jsonb, text, text),
    auth_service.challenge_factor(jsonb, uuid, text),
    auth_service.begin_verify_factor(jsonb, uuid, uuid),
    auth_service.finish_verify_factor(jsonb, uuid, uuid, bigint, text),
    auth_service.unenroll_factor(jsonb, uuid),
    auth_service.admin_user(uuid),
    auth_service.admin_list(integer, integer),
    auth_service.admin_create(jsonb, text),
    auth_service.admin_update(uuid, jsonb, text),
    auth_service.admin_delete(uuid, boolean),
    auth_service.admin_invite(text, jsonb, jsonb),
    auth_service.admin_link(text, text, text, jsonb, text, text, text, jsonb),
    auth_service.admin_factors(uuid),
    auth_service.admin_delete_factor(uuid, uuid),
    auth_service.weak_passwords(integer),
    auth_service.strengthen_password(uuid, text, text)
    to authenticator;

reset role;
