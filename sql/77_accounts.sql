/*
 * From accounts to members. The auth service (Supabase's own, or ours on a plain Postgres) writes auth.users; what that
 * means for an organization follows here, in the same transaction: who signs up founds one or joins one, who leaves
 * loses their way in. What admins do with members is here too. Roles live in public.members; a JWT carries a copy.
 */

create function private.display_name(metadata jsonb, email text) returns text
language sql immutable
set search_path = ''
return left(coalesce(
    nullif(btrim(metadata ->> 'name'), ''),
    nullif(btrim(metadata ->> 'full_name'), ''),
    nullif(btrim(concat_ws(' ', metadata ->> 'first_name', metadata ->> 'last_name')), ''),
    split_part(email, '@', 1)), 200);
comment on function private.display_name(jsonb, text) is 'What a new member is called, from what they said at sign-up.';

create function private.username_of(email text) returns text
language sql immutable
set search_path = ''
return case when length(email) <= 150 then lower(email) else left(lower(email), 117) || '-' || md5(lower(email)) end;
comment on function private.username_of(text) is 'The username of somebody who has not chosen one: the address, shortened if need be.';

create function private.is_organization(id text) returns boolean
language plpgsql stable security definer
set search_path = ''
as $$
begin
    return exists (
        select from public.organizations as o where o.id = btrim(is_organization.id)::uuid and o.deleted_at is null);
exception
    when invalid_text_representation then
        return false;
end
$$;
comment on function private.is_organization(text) is
    'Whether anybody can join it. Definer: the owner of accounts may not read organizations.';
alter function private.is_organization(text) owner to deskbase_definer;
grant execute on function private.is_organization(text) to supabase_auth_admin;

create function private.add_member(
    organization_id uuid, user_id uuid, email text, name text, role public.member_role, department text default null
) returns uuid
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_id uuid;
begin
    perform from public.organizations as o
    where o.id = add_member.organization_id and o.deleted_at is null
    for key share;
    if not found then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization.';
    end if;
    insert into public.members (organization_id, user_id, username, email, name, role, department)
    values (add_member.organization_id, add_member.user_id, private.username_of(add_member.email),
        lower(add_member.email), add_member.name, add_member.role, nullif(btrim(add_member.department), ''))
    returning id into v_id;
    return v_id;
exception
    when unique_violation then
        raise sqlstate 'PT409' using message = 'conflict',
            detail = 'Somebody with this e-mail address is a member already.';
end
$$;
comment on function private.add_member(uuid, uuid, text, text, public.member_role, text) is
    'Makes an account a member. Definer: nobody writes members directly.';
alter function private.add_member(uuid, uuid, text, text, public.member_role, text) owner to deskbase_definer;

create function private.tg_users__membership() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid;
    v_name text;
begin
    if new.email is null or new.email = '' or new.raw_user_meta_data is null then
        return null;
    end if;
    v_name := private.display_name(new.raw_user_meta_data, new.email);
    if new.raw_app_meta_data ->> 'organization_id' is not null then
        -- app_metadata is the server's own word, so it may name a role.
        perform private.add_member((new.raw_app_meta_data ->> 'organization_id')::uuid, new.id, new.email, v_name,
            coalesce(new.raw_app_meta_data ->> 'role', 'customer')::public.member_role);
    elsif nullif(btrim(new.raw_user_meta_data ->> 'organization_id'), '') is not null then
        perform private.add_member(btrim(new.raw_user_meta_data ->> 'organization_id')::uuid, new.id, new.email, v_name,
            'customer');
    else
        insert into public.organizations (name)
        values (left(coalesce(nullif(btrim(new.raw_user_meta_data ->> 'organization'), ''), v_name), 200))
        returning id into v_organization_id;
        perform private.add_member(v_organization_id, new.id, new.email, v_name, 'admin');
    end if;
    return null;
exception
    when invalid_text_representation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization or role.';
end
$$;
comment on function private.tg_users__membership() is
    'Makes a new account a member: of the organization that app_metadata names, in its role; of the one that the sign-up names, as a customer; else of a new one, as its admin. A bare row without metadata, as scripts insert it, is left alone. Definer: accounts are made before anybody is somebody.';
alter function private.tg_users__membership() owner to deskbase_definer;

create trigger _500_membership after insert on auth.users
    for each row execute function private.tg_users__membership();

create function private.tg_users__appointed() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_member public.members;
begin
    -- What was made in this very transaction. Later on app_metadata only says which organization a person is in.
    select m.* into v_member from public.members as m where m.user_id = new.id and m.created_at = now();
    if not found or exists (
        select from public.members as m
        where m.user_id = new.id and m.organization_id::text = new.raw_app_meta_data ->> 'organization_id'
            and m.role::text = coalesce(new.raw_app_meta_data ->> 'role', m.role::text)) then
        return null;
    end if;
    delete from public.members as m where m.organization_id = v_member.organization_id and m.id = v_member.id;
    delete from public.organizations as o
    where o.id = v_member.organization_id and v_member.role = 'admin' and o.created_at = now()
        and not exists (select from public.members as m where m.organization_id = o.id);
    perform private.add_member((new.raw_app_meta_data ->> 'organization_id')::uuid, new.id, new.email, v_member.name,
        coalesce(new.raw_app_meta_data ->> 'role', 'customer')::public.member_role);
    return null;
exception
    when invalid_text_representation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization or role.';
end
$$;
comment on function private.tg_users__appointed() is
    'Lets app_metadata decide about a new account also where it is written just after it: Supabase''s auth service makes an account and tells what an admin says of it in the next statement. Definer: the auth service does not know members.';
alter function private.tg_users__appointed() owner to deskbase_definer;

create trigger _505_appointed after update of raw_app_meta_data on auth.users
    for each row when (old.raw_app_meta_data ->> 'organization_id' is null
        and new.raw_app_meta_data ->> 'organization_id' is not null)
    execute function private.tg_users__appointed();

create function private.tg_users__confirmed() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform private.give_contact(m.organization_id, m.id) from public.members as m where m.user_id = new.id;
    return null;
end
$$;
comment on function private.tg_users__confirmed() is
    'Gives customers their contact once their address is confirmed. Definer: the auth service does not know members.';
alter function private.tg_users__confirmed() owner to deskbase_definer;

create trigger _510_confirmed after update of email_confirmed_at on auth.users
    for each row when (old.email_confirmed_at is null and new.email_confirmed_at is not null)
    execute function private.tg_users__confirmed();

create function private.tg_users__email() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.contacts as c
    set email = lower(new.email)
    from public.members as m
    where m.user_id = new.id and c.organization_id = m.organization_id and c.member_id = m.id
        and c.email = lower(old.email);
    update public.members as m
    set email = lower(new.email),
        username = case when m.username = private.username_of(old.email)
            then private.username_of(new.email) else m.username end
    where m.user_id = new.id;
    return null;
end
$$;
comment on function private.tg_users__email() is
    'Takes a changed address over to members and contacts. Definer: the auth service does not know members.';
alter function private.tg_users__email() owner to deskbase_definer;

create trigger _520_email after update of email on auth.users
    for each row when (old.email is distinct from new.email and new.email <> '' and new.deleted_at is null)
    execute function private.tg_users__email();

create function private.tg_users__left() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- What the person wrote keeps its author; the address is free for whoever proves it next.
    update public.contacts as c
    set member_id = null
    from public.members as m
    where m.user_id = old.id and c.organization_id = m.organization_id and c.member_id = m.id;
    delete from public.member_identities as i
    using public.members as m
    where m.user_id = old.id and i.organization_id = m.organization_id and i.member_id = m.id;
    update public.members as m
    set user_id = null, is_active = false, presence = 'offline',
        username = 'deleted-' || m.id, email = 'deleted-' || m.id || '@invalid'
    where m.user_id = old.id;
    return case tg_op when 'DELETE' then old else new end;
end
$$;
comment on function private.tg_users__left() is
    'Ends the memberships of an account that is deleted. Definer: the auth service does not know members.';
alter function private.tg_users__left() owner to deskbase_definer;

create trigger _530_left before delete on auth.users
    for each row execute function private.tg_users__left();
create trigger _531_left before update of deleted_at on auth.users
    for each row when (old.deleted_at is null and new.deleted_at is not null)
    execute function private.tg_users__left();

create function private.forget_memberships(user_id uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform from auth.users as u where u.id = forget_memberships.user_id and u.email_confirmed_at is null;
    if not found then
        raise sqlstate 'PT403' using message = 'forbidden', detail = 'This account is in use.';
    end if;
    delete from public.organizations as o
    where exists (
            select from public.members as m
            where m.organization_id = o.id and m.user_id = forget_memberships.user_id and m.role = 'admin')
        and not exists (
            select from public.members as m
            where m.organization_id = o.id and m.user_id is distinct from forget_memberships.user_id);
    delete from public.members as m where m.user_id = forget_memberships.user_id;
end
$$;
comment on function private.forget_memberships(uuid) is
    'Undoes what a sign-up meant that nobody has confirmed: the organization that it founded, or its membership. Definer: the auth service does not know members.';
alter function private.forget_memberships(uuid) owner to deskbase_definer;
grant execute on function private.forget_memberships(uuid) to supabase_auth_admin;

create function private.custom_access_token_hook(event jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_claims jsonb := private.fresh_claims(event -> 'claims');
begin
    -- Who was shut out of the organization that they had chosen goes on in another one of theirs.
    if v_claims #> '{app_metadata,organization_id}' is null and v_claims #> '{app_metadata,lacks_factor}' is null
        and event #> '{claims,app_metadata,organization_id}' is not null then
        v_claims := private.fresh_claims(event -> 'claims' #- '{app_metadata,organization_id}');
    end if;
    if v_claims is null then
        return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'User is banned'));
    end if;
    return jsonb_build_object('claims', v_claims);
end
$$;
comment on function private.custom_access_token_hook(jsonb) is
    E'Put the membership into access tokens\n\nWhat the auth service calls before it signs one (Supabase''s hook of that name; supabase/config.toml turns it on). An error if the person may not come in. Definer: it reads members.';
alter function private.custom_access_token_hook(jsonb) owner to deskbase_definer;
grant execute on function private.custom_access_token_hook(jsonb) to supabase_auth_admin;

create function private.membership(user_id uuid, organization_id text) returns jsonb
language sql stable security definer
set search_path = ''
begin atomic
    select jsonb_build_object('organization_id', m.organization_id, 'role', m.role, 'member_id', m.id, 'contact_id', c.id)
    from public.members as m
    join public.organizations as o on o.id = m.organization_id and o.deleted_at is null
    left join public.contacts as c
        on c.organization_id = m.organization_id and c.member_id = m.id and m.role = 'customer'
    where m.user_id = membership.user_id and m.is_active
    order by m.organization_id::text = membership.organization_id desc, m.created_at, m.id
    limit 1;
end;
comment on function private.membership(uuid, text) is
    'What tokens would say that an account is member of, could its holder come in: of the organization named, or else of the first; null for a member of nothing. Definer: the auth service does not know members.';
alter function private.membership(uuid, text) owner to deskbase_definer;
grant execute on function private.membership(uuid, text) to supabase_auth_admin;

/* What admins do with members. The functions that write auth tables belong to whoever applies the migrations: only that
   role may on Supabase. */

create function private.member_json(member public.members) returns jsonb
language sql stable
set search_path = ''
return jsonb_build_object(
    'id', member.id, 'user_id', member.user_id, 'number', member.number, 'username', member.username,
    'email', member.email, 'name', member.name, 'role', member.role, 'department', member.department,
    'is_active', member.is_active, 'created_at', private.rfc3339(member.created_at),
    'updated_at', private.rfc3339(member.updated_at));
comment on function private.member_json(public.members) is 'A member as their admin sees them.';

create function private.create_member(
    organization_id uuid, email text, password text, name text, role public.member_role, department text
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_email text := lower(btrim(create_member.email));
    v_name text := nullif(btrim(create_member.name), '');
    v_hash text;
    v_user_id uuid;
    v_is_new boolean;
    v_member_id uuid;
    v_member public.members;
begin
    if v_email is null or v_email !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:]]+$' or length(v_email) > 255 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'email must be an e-mail address.';
    end if;
    if v_name is null or length(v_name) > 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'name must have 1 to 200 characters.';
    end if;
    if length(btrim(create_member.department)) > 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'department must have at most 200 characters.';
    end if;
    if create_member.role is null then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'role is missing.';
    end if;
    if create_member.password is not null then
        perform private.check_password(create_member.password);
    end if;
    -- In any case, so that it takes as long where there is an account already.
    v_hash := private.hash_password(create_member.password);
    v_user_id := private.create_account(v_email, v_hash, v_name);
    v_is_new := v_user_id is not null;
    if not v_is_new then
        v_user_id := private.join_account(v_email);
    end if;
    if not v_is_new or v_hash is null then
        perform private.queue_mail(
            case when u.confirmed_at is null then 'invite' else 'added_to_organization' end, v_email,
            create_member.organization_id, '{}')
        from auth.users as u where u.id = v_user_id;
    end if;
    v_member_id := private.add_member(create_member.organization_id, v_user_id, v_email, v_name, create_member.role,
        create_member.department);
    select m.* into v_member
    from public.members as m
    where m.organization_id = create_member.organization_id and m.id = v_member_id;
    return private.member_json(v_member);
end
$$;
comment on function private.create_member(uuid, text, text, text, public.member_role, text) is
    'Makes somebody a member who can log in: with a password at once, without one by an invitation that is mailed. Whether there was an account already is not told. Definer: nobody writes accounts directly.';

create function private.create_account(email text, password_hash text, name text) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
begin
    -- No metadata yet: the membership is not this account's own doing. The empty texts are what the auth service expects.
    insert into auth.users (id, instance_id, aud, role, email, encrypted_password, email_confirmed_at, invited_at,
        created_at, updated_at, confirmation_token, recovery_token, email_change_token_new, email_change)
    values (v_id, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated', create_account.email,
        coalesce(password_hash, ''), case when password_hash is not null then now() end, now(), now(), now(),
        '', '', '', '')
    on conflict do nothing;
    if not found then
        return null;
    end if;
    update auth.users as u
    set raw_app_meta_data = '{"provider": "email", "providers": ["email"]}',
        raw_user_meta_data = jsonb_build_object('name', create_account.name)
    where u.id = v_id;
    insert into auth.identities (user_id, provider_id, provider, identity_data, created_at, updated_at)
    values (v_id, v_id::text, 'email', jsonb_build_object(
        'sub', v_id, 'email', create_account.email, 'email_verified', password_hash is not null), now(), now());
    return v_id;
end
$$;
comment on function private.create_account(text, text, text) is
    'An account that an admin makes: confirmed if it has a password; null if the address has one.';

create function private.join_account(email text) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid;
begin
    select u.id into v_id from auth.users as u
    where lower(u.email) = join_account.email and u.deleted_at is null
    for no key update;
    if not found then
        raise sqlstate 'PT409' using message = 'conflict', detail = 'The account of this address was just changed; try again.';
    end if;
    -- Whoever signed up with somebody else's address, to be added here under it one day, has chosen its password.
    update auth.users as u set encrypted_password = '', invited_at = now(), updated_at = now()
    where u.id = v_id and u.confirmed_at is null;
    return v_id;
end
$$;
comment on function private.join_account(text) is
    'The account that an address has. It is its holder''s, so password and name stay as they are, unless it was never confirmed: then its reader is invited.';

create function private.update_member(
    organization_id uuid, id uuid, name text, role public.member_role, department text, is_active boolean
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_member public.members;
begin
    -- Two admins who demote each other at the same time take turns.
    perform from public.organizations as o where o.id = update_member.organization_id for no key update;
    -- The account before its memberships, sessions and whatever hangs on it: so does the auth service.
    perform from auth.users as u
    where u.id = (
        select m.user_id from public.members as m
        where m.organization_id = update_member.organization_id and m.id = update_member.id)
    for no key update;
    select m.* into v_member from public.members as m
    where m.organization_id = update_member.organization_id and m.id = update_member.id
    for update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such member.';
    end if;
    if update_member.name is not null and length(btrim(update_member.name)) not between 1 and 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'name must have 1 to 200 characters.';
    end if;
    if length(btrim(update_member.department)) > 200 then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'department must have at most 200 characters.';
    end if;
    if v_member.user_id is null and update_member.is_active then
        raise sqlstate 'PT409' using message = 'conflict', detail = 'This account was deleted; add the person again.';
    end if;
    update public.members as m
    set name = coalesce(btrim(update_member.name), m.name),
        role = coalesce(update_member.role, m.role),
        department = case when update_member.department is null then m.department
            else nullif(btrim(update_member.department), '') end,
        is_active = coalesce(update_member.is_active, m.is_active),
        presence = case when update_member.is_active is false then 'offline' else m.presence end
    where m.organization_id = v_member.organization_id and m.id = v_member.id
    returning m.* into v_member;
    perform from public.members as m
    where m.organization_id = v_member.organization_id and m.role = 'admin' and m.is_active;
    if not found then
        raise sqlstate 'PT409' using message = 'last_admin', detail = 'An organization keeps at least one active admin.';
    end if;
    if not v_member.is_active then
        -- So that none of them comes back with the member. Sessions serve every organization of a person.
        delete from auth.sessions as s
        where s.user_id = v_member.user_id and not exists (
            select from public.members as m where m.user_id = v_member.user_id and m.is_active);
    end if;
    return private.member_json(v_member);
end
$$;
comment on function private.update_member(uuid, uuid, text, public.member_role, text, boolean) is
    'Changes what is not null; an empty department takes it away. Deactivating ends the sessions. Definer: nobody writes members directly.';

create function private.appoint(user_id uuid, organization_id text, role text) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_role public.member_role;
    v_member public.members;
begin
    v_role := appoint.role::public.member_role;
    select m.* into v_member
    from public.members as m
    where m.user_id = appoint.user_id and m.organization_id = appoint.organization_id::uuid;
    if not found then
        perform private.add_member(appoint.organization_id::uuid, u.id, u.email,
            private.display_name(u.raw_user_meta_data, u.email), coalesce(v_role, 'customer'))
        from auth.users as u where u.id = appoint.user_id;
    elsif v_role <> v_member.role then
        perform private.update_member(v_member.organization_id, v_member.id, null, v_role, null, null);
    end if;
exception
    when invalid_text_representation then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'There is no such organization or role.';
end
$$;
comment on function private.appoint(uuid, text, text) is
    'What the server says of an account that there is: its membership of an organization, made (a customer''s, unless a role is named) or given that role. Definer: the auth service does not know members.';
grant execute on function private.appoint(uuid, text, text) to supabase_auth_admin;

create function private.admin_create_member(
    email text, password text, name text, role public.member_role, department text
) returns jsonb
language sql volatile security definer
set search_path = ''
return private.create_member(private.require_admin(), email, password, name, role, department);
comment on function private.admin_create_member(text, text, text, public.member_role, text) is
    'create_member for the admin who is asking. Definer: checks the caller and hands on.';
grant execute on function private.admin_create_member(text, text, text, public.member_role, text) to authenticated;

create function private.admin_update_member(
    id uuid, name text, role public.member_role, department text, is_active boolean
) returns jsonb
language sql volatile security definer
set search_path = ''
return private.update_member(private.require_admin(), id, name, role, department, is_active);
comment on function private.admin_update_member(uuid, text, public.member_role, text, boolean) is
    'update_member for the admin who is asking. Definer: checks the caller and hands on.';
grant execute on function private.admin_update_member(uuid, text, public.member_role, text, boolean) to authenticated;

create function public.create_member(
    email text, name text, role public.member_role, password text default null, department text default null
) returns jsonb
language sql volatile
set search_path = ''
return private.admin_create_member(email, password, name, role, department);
comment on function public.create_member(text, text, public.member_role, text, text) is
    E'Add a member\n\nFor admins. With a password they can log in at once; without one they are mailed an invitation.';
grant execute on function public.create_member(text, text, public.member_role, text, text) to authenticated;

create function public.update_member(
    id uuid, name text default null, role public.member_role default null, department text default null,
    is_active boolean default null
) returns jsonb
language sql volatile
set search_path = ''
return private.admin_update_member(id, name, role, department, is_active);
comment on function public.update_member(uuid, text, public.member_role, text, boolean) is
    E'Change a member\n\nFor admins. What is left out stays; is_active true lets a deactivated member in again.';
grant execute on function public.update_member(uuid, text, public.member_role, text, boolean) to authenticated;

create function public.deactivate_member(id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.admin_update_member(id, null, null, null, false);
comment on function public.deactivate_member(uuid) is
    E'Lock a member out\n\nFor admins. Every way in ends with the next request.';
grant execute on function public.deactivate_member(uuid) to authenticated;

create function private.enter_organization(organization_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_user_id uuid := (private.claims() ->> 'sub')::uuid;
    v_member public.members;
begin
    select m.* into v_member
    from public.members as m
    join public.organizations as o on o.id = m.organization_id and o.deleted_at is null
    where m.user_id = v_user_id and m.organization_id = enter_organization.organization_id and m.is_active;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'You are no member of such an organization.';
    end if;
    if private.fresh_claims(jsonb_build_object('sub', v_user_id, 'session_id', private.claims() ->> 'session_id',
        'app_metadata', jsonb_build_object('organization_id', enter_organization.organization_id)))
        #> '{app_metadata,member_id}' is null then
        raise sqlstate 'PT403' using message = 'forbidden',
            detail = 'Log in by a link that is mailed to you first, or choose a new password by one.';
    end if;
    update auth.users as u
    set raw_app_meta_data = coalesce(u.raw_app_meta_data, '{}')
        || jsonb_build_object('organization_id', enter_organization.organization_id)
    where u.id = v_user_id;
    return private.member_json(v_member);
end
$$;
comment on function private.enter_organization(uuid) is
    'Chooses the organization of the person''s next access tokens. Definer: nobody writes accounts directly.';
grant execute on function private.enter_organization(uuid) to authenticated;

create function public.enter_organization(organization_id uuid) returns jsonb
language sql volatile
set search_path = ''
return private.enter_organization(organization_id);
comment on function public.enter_organization(uuid) is
    E'Go over to another organization\n\nFor people who are members of several: tokens are for this one from the next refresh or log-in on.';
grant execute on function public.enter_organization(uuid) to authenticated;
