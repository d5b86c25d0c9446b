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
        -- An hour more than positions are good for: a transaction may span midnight.
        perform private.drop_event_partitions(interval '25 hours');
    exception
        when lock_not_available then
            raise warning 'The event log was busy; its partitions are left to the next hour.';
    end;
    delete from private.idempotency_keys as k where k.created_at < now() - interval '24 hours';
    delete from private.rate_windows as w where w.window_start < now() - interval '2 days';
    delete from private.integration_token_secrets as s where s.expires_at < now();
    delete from public.token_usage as u where u.at < now() - interval '90 days';
    delete from private.mails as m where m.created_at < now() - interval '7 days' and m.next_attempt_at is null;
end
$$;
comment on function private.maintain() is
    'Run on every migration and every hour, by the owner: event partitions a week ahead and a day back, idempotency keys a day, finished mails a week, usage 90 days.';

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
    -- Its membership follows from app_metadata (77_accounts). The empty texts are what the auth service expects. Whoever
    -- starts the server has chosen the address, which is as good as a link that was followed.
    insert into auth.users (id, instance_id, aud, role, email, encrypted_password, email_confirmed_at,
        confirmation_sent_at, created_at, updated_at, confirmation_token, recovery_token, email_change_token_new,
        email_change, raw_app_meta_data, raw_user_meta_data)
    values (v_user_id, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated', lower(email),
        password_hash, now(), now(), now(), now(), '', '', '', '',
        jsonb_build_object('provider', 'email', 'providers', array['email'],
            'organization_id', v_organization_id, 'role', 'admin'),
        jsonb_build_object('name', name));
    insert into auth.identities (user_id, provider_id, provider, identity_data, created_at, updated_at)
    values (v_user_id, v_user_id::text, 'email',
        jsonb_build_object('sub', v_user_id, 'email', lower(email), 'email_verified', true), now(), now());
    return true;
end
$$;
comment on function private.create_first_admin(text, text, text, text) is
    'Founds the first organization with its admin; false, and nothing done, if there is an admin already.';
