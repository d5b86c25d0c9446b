/*
 * The entrances. The service admits a request (credential and limit) and then enters as its role; PostgREST enters by itself
 * and calls pre_request. Both get their claims from fresh_claims, so an ended session, a deactivated member or a changed
 * role counts from the next request on, whatever the JWT says.
 */

-- How a session was proved.
grant select on auth.mfa_amr_claims to deskbase_definer;

create function private.fresh_claims(claims jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_user_id uuid;
    v_session_id uuid;
    v_organization_id uuid;
    v_lacks_factor boolean := false;
    v_is_proved boolean;
    v_member record;
begin
    v_user_id := (claims ->> 'sub')::uuid;
    v_session_id := (claims ->> 'session_id')::uuid;
    v_organization_id := (claims #>> '{app_metadata,organization_id}')::uuid;
    select u.email_confirmed_at is not null and u.confirmation_sent_at is not null into v_is_proved
    from auth.users as u
    where u.id = v_user_id and (u.banned_until is null or u.banned_until < now()) and u.deleted_at is null;
    if not found then
        return null;
    end if;
    -- A token without a session was signed by whoever holds the secret, for their own use.
    if v_session_id is null then
        v_is_proved := true;
    else
        select s.aal is distinct from 'aal2' and exists (
                select from auth.mfa_factors as f where f.user_id = v_user_id and f.status = 'verified'),
            v_is_proved or exists (
                select from auth.mfa_amr_claims as a
                where a.session_id = s.id and a.authentication_method in (
                    'otp', 'magiclink', 'recovery', 'invite', 'email/signup', 'email_change', 'oauth', 'sso/saml'))
        into v_lacks_factor, v_is_proved
        from auth.sessions as s
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
        -- Whoever made an account for an address that is not theirs knows its password. So until its reader has followed
        -- a link, it is good for the organization that it was made in and for none that it was added to.
        and (v_is_proved or not exists (
            select from public.members as e
            where e.user_id = m.user_id and (e.created_at, e.id) < (m.created_at, m.id)))
    order by is_active desc, m.created_at, m.id
    limit 1;
    if v_member.is_active is false then
        return null;
    end if;
    -- Whoever is a member of nothing, or has not shown their second factor yet, keeps their name and nothing else.
    return jsonb_set(claims, '{app_metadata}',
        coalesce(claims -> 'app_metadata', '{}')
            - array['organization_id', 'role', 'member_id', 'contact_id', 'token_id', 'scopes', 'lacks_factor']
            || case when v_lacks_factor then '{"lacks_factor": true}'
            when v_member.id is null then '{}' else jsonb_build_object(
                'organization_id', v_member.organization_id, 'role', v_member.role,
                'member_id', v_member.id, 'contact_id', v_member.contact_id) end);
exception
    when invalid_text_representation then
        return null;
end
$$;
comment on function private.fresh_claims(jsonb) is
    'A person''s verified claims as they are now; null if the session, the user or the membership has ended; app_metadata.lacks_factor if the session still owes a second factor. Definer: nobody reads sessions.';
alter function private.fresh_claims(jsonb) owner to deskbase_definer;
grant execute on function private.fresh_claims(jsonb) to authenticated, supabase_auth_admin;

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
    if v_claims #> '{app_metadata,lacks_factor}' is not null then
        raise sqlstate 'PT403' using message = 'second_factor_required',
            detail = 'This account has a second factor; verify it first.';
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
    elsif verified ? 'outside' then
        claims := private.fresh_claims(private.outside_claims(verified -> 'outside'));
        subject := coalesce('user:' || (claims ->> 'sub'), 'token:');
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
    subject_limit integer[], organization_limit integer[], window_seconds integer[],
    organization_window_seconds integer[] default null
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
        if v_group.claims #> '{app_metadata,lacks_factor}' is not null then
            v_granted[v_group.ord] := 0;
            v_failure[v_group.ord] := 'second_factor_required';
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
        select g.ord, g.bucket, g.organization_limit as allowed,
            coalesce(g.organization_window_seconds, g.window_seconds, 3600) as window_seconds,
            v_limit[g.ord] is not null as is_counted,
            v_claims[g.ord]::jsonb #>> '{app_metadata,organization_id}' as organization_id
        from unnest(bucket, organization_limit, window_seconds, organization_window_seconds) with ordinality
            as g (bucket, organization_limit, window_seconds, organization_window_seconds, ord)
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
comment on function private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[], integer[]) is
    E'Admit requests\n\nOne array element is a group of requests with the same credential: a token''s hash, a verified JWT''s claims, or an address. Answers in the same order how many may pass, under which claims, and where their window stands. Definer: it reads credentials and counts.';
alter function private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[], integer[])
    owner to deskbase_definer;
grant execute on function
    private.admit(integer[], text[], bytea[], jsonb[], text[], integer[], integer[], integer[], integer[]) to authenticator;

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

create function private.refuse_ticket(ticket_id uuid) returns void
language plpgsql stable security definer
set search_path = ''
as $$
begin
    if exists (
        select from public.tickets as t
        where t.organization_id = private.organization_id() and t.id = refuse_ticket.ticket_id and t.deleted_at is null
    ) then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'This ticket is somebody else''s.';
    end if;
    raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
end
$$;
comment on function private.refuse_ticket(uuid) is
    'Refuses a ticket that the policies hide, and says whether the organization has it. Definer: it must tell a hidden ticket from none.';
alter function private.refuse_ticket(uuid) owner to deskbase_definer;
grant execute on function private.refuse_ticket(uuid) to authenticated;

create function private.require_version(ticket_id uuid, version bigint, if_match bigint) returns void
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
comment on function private.require_version(uuid, bigint, bigint) is
    'Refuses a write that does not know the ticket as it is; tells the version and up to 50 comments that were missed.';
grant execute on function private.require_version(uuid, bigint, bigint) to authenticated, integration;
