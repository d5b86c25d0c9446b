/*
 * Channels: the accounts through which messages come in and go out, and each message as it was delivered.
 */

create table public.channel_accounts (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel public.channel not null,
    external_account_id text check (length(external_account_id) between 1 and 320),
    name text not null default '' check (length(name) <= 200),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table public.channel_accounts enable row level security;
alter table public.channel_accounts force row level security;

comment on table public.channel_accounts is 'An account on a platform that an organization is reached by.';
comment on column public.channel_accounts.external_account_id is
    'What the platform calls it (page, phone number, user); it tells whose a delivery is, so it is unique among all.';

create unique index channel_accounts_channel_external_account_id_idx
    on public.channel_accounts (channel, external_account_id);

create policy select_admin on public.channel_accounts for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy insert_admin on public.channel_accounts for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy update_admin on public.channel_accounts for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()))
    with check (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_admin on public.channel_accounts for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete, insert (organization_id, id, channel, external_account_id, name, is_active),
    update (name, is_active)
    on public.channel_accounts to authenticated;

create trigger _100_timestamps before update on public.channel_accounts
    for each row execute function private.tg__timestamps();

create table private.channel_secrets (
    organization_id uuid not null,
    channel_account_id uuid not null,
    app_secret text check (length(btrim(app_secret)) > 0 and length(app_secret) <= 2000),
    verify_token text check (length(btrim(verify_token)) > 0 and length(verify_token) <= 2000),
    access_token text check (length(btrim(access_token)) > 0 and length(access_token) <= 10000),
    updated_at timestamptz not null default now(),
    primary key (organization_id, channel_account_id),
    foreign key (organization_id, channel_account_id)
        references public.channel_accounts (organization_id, id) on delete cascade
);
alter table private.channel_secrets enable row level security;
alter table private.channel_secrets force row level security;
create policy select_definer on private.channel_secrets for select to deskbase_definer using (true);

comment on table private.channel_secrets is 'What a platform and the desk know each other by.';
comment on column private.channel_secrets.app_secret is 'Signs what comes in.';
comment on column private.channel_secrets.verify_token is 'Answers the platform''s verification request.';
comment on column private.channel_secrets.access_token is 'Lets the desk answer.';

create function private.admin_set_channel_secrets(
    channel_account_id uuid, app_secret text, verify_token text, access_token text
) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := private.require_admin();
begin
    insert into private.channel_secrets as s (organization_id, channel_account_id, app_secret, verify_token, access_token)
    select a.organization_id, a.id, admin_set_channel_secrets.app_secret, admin_set_channel_secrets.verify_token,
        admin_set_channel_secrets.access_token
    from public.channel_accounts as a
    where a.organization_id = v_organization_id and a.id = admin_set_channel_secrets.channel_account_id
    on conflict on constraint channel_secrets_pkey do update
    set app_secret = coalesce(excluded.app_secret, s.app_secret),
        verify_token = coalesce(excluded.verify_token, s.verify_token),
        access_token = coalesce(excluded.access_token, s.access_token),
        updated_at = now();
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such channel account.';
    end if;
end
$$;
comment on function private.admin_set_channel_secrets(uuid, text, text, text) is
    'Keeps the secrets of a channel account for the admin who is asking. Definer: secrets are the service''s alone.';
alter function private.admin_set_channel_secrets(uuid, text, text, text) owner to deskbase_definer;
grant execute on function private.admin_set_channel_secrets(uuid, text, text, text) to authenticated;

create function public.set_channel_secrets(
    id uuid, app_secret text default null, verify_token text default null, access_token text default null
) returns void
language sql volatile
set search_path = ''
return private.admin_set_channel_secrets(id, app_secret, verify_token, access_token);
comment on function public.set_channel_secrets(uuid, text, text, text) is
    E'Set the secrets of a channel account\n\nAdmins only. What is left out stays; nobody can read them back.';
grant execute on function public.set_channel_secrets(uuid, text, text, text) to authenticated;

create function private.channel_secret(
    channel public.channel, external_account_id text, out organization_id uuid, out app_secret text
)
language sql stable security definer
set search_path = ''
begin atomic
    select a.organization_id, s.app_secret
    from public.channel_accounts as a
    join public.organizations as o on o.id = a.organization_id and o.deleted_at is null
    join private.channel_secrets as s on s.organization_id = a.organization_id and s.channel_account_id = a.id
    where a.channel = channel_secret.channel and a.external_account_id = channel_secret.external_account_id and a.is_active;
end;
comment on function private.channel_secret(public.channel, text) is
    'Whose a delivery is, and what has to have signed it; nothing if no account of that name takes any. Definer: secrets are the service''s alone.';
alter function private.channel_secret(public.channel, text) owner to deskbase_definer;
grant execute on function private.channel_secret(public.channel, text) to authenticator;

create table public.inbound_messages (
    organization_id uuid not null references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    channel public.channel not null,
    channel_account_id uuid,
    external_message_id text not null check (length(external_message_id) between 1 and 320),
    sender text not null check (length(sender) between 1 and 320),
    payload jsonb not null,
    ticket_id uuid,
    comment_id uuid,
    attempts integer not null default 0,
    failure text,
    received_at timestamptz not null default now(),
    processed_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, channel_account_id) references public.channel_accounts (organization_id, id)
        on delete set null (channel_account_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id)
        on delete set null (ticket_id),
    foreign key (organization_id, comment_id) references public.comments (organization_id, id)
        on delete set null (comment_id)
);
alter table public.inbound_messages enable row level security;
alter table public.inbound_messages force row level security;

comment on table public.inbound_messages is 'A delivery of a platform as it came; a worker makes a ticket or a comment of it.';
comment on column public.inbound_messages.external_message_id is 'The platform''s id; the same one twice is one message.';
comment on column public.inbound_messages.failure is 'Why it could not be processed the last time.';

create unique index inbound_messages_organization_id_channel_external_message_id_idx
    on public.inbound_messages (organization_id, channel, external_message_id);
-- The worker's queue.
create index inbound_messages_received_at_idx on public.inbound_messages (received_at) where processed_at is null;
create index inbound_messages_organization_id_channel_account_id_idx
    on public.inbound_messages (organization_id, channel_account_id);
create index inbound_messages_organization_id_ticket_id_idx on public.inbound_messages (organization_id, ticket_id);
create index inbound_messages_organization_id_comment_id_idx on public.inbound_messages (organization_id, comment_id);

create policy select_admin on public.inbound_messages for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.inbound_messages to authenticated;
