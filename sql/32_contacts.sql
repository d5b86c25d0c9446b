/*
 * Contacts are the people who ask, whether they can log in or not. A customer who logs in is a member with a contact;
 * a sender on WhatsApp is a contact with an identity on that channel.
 */

create table public.contacts (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    member_id uuid,
    name text check (length(name) <= 200),
    email text check (email = lower(email) and length(email) <= 320),
    phone text check (length(phone) <= 50),
    company text check (length(company) <= 200),
    job_role text check (length(job_role) <= 200),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, member_id) references public.members (organization_id, id)
        on delete set null (member_id)
);
alter table public.contacts enable row level security;
alter table public.contacts force row level security;

comment on table public.contacts is 'A person who asks for help.';
comment on column public.contacts.member_id is 'The member this contact logs in as, if they do.';
comment on column public.contacts.job_role is 'What the person does in their company, in their own words.';

-- Also the way from a member to the contact they write as.
create unique index contacts_organization_id_member_id_idx on public.contacts (organization_id, member_id);
-- Inbound mail and channels match senders by address. Two contacts may share one (a family, a shop).
create index contacts_organization_id_email_idx on public.contacts (organization_id, email);
create index contacts_organization_id_created_at_idx on public.contacts (organization_id, created_at desc, id);

create policy select_member on public.contacts for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or id = (select private.contact_id())));
create policy insert_agent on public.contacts for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
-- Senders are matched by these addresses, so a customer does not write their own.
create policy update_agent on public.contacts for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()))
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
-- A member without a contact could not write any more.
create policy delete_agent on public.contacts for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()) and member_id is null);
grant select, delete,
    insert (organization_id, id, name, email, phone, company, job_role),
    update (name, email, phone, company, job_role)
    on public.contacts to authenticated;

create trigger _100_timestamps before update on public.contacts
    for each row execute function private.tg__timestamps();

create table public.contact_identities (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    contact_id uuid not null,
    channel public.channel not null,
    identity text not null check (length(identity) between 1 and 320),
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id) on delete cascade
);
alter table public.contact_identities enable row level security;
alter table public.contact_identities force row level security;

comment on table public.contact_identities is 'What a channel calls a contact: a phone number, a page-scoped id, a chat session.';

create unique index contact_identities_organization_id_channel_identity_idx
    on public.contact_identities (organization_id, channel, identity);
create index contact_identities_organization_id_contact_id_idx
    on public.contact_identities (organization_id, contact_id);

create policy select_agent on public.contact_identities for select to authenticated
    using (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
create policy insert_agent on public.contact_identities for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy delete_agent on public.contact_identities for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
grant select, delete, insert (organization_id, id, contact_id, channel, identity)
    on public.contact_identities to authenticated;

create function private.give_contact(organization_id uuid, member_id uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_member record;
begin
    -- Proved: by a link in a mail that somebody followed, or by the admin who entered it. An address that the auth
    -- service confirmed by itself is nobody's proof.
    select m.name, m.email,
        u.id is null or u.email_confirmed_at is not null or u.invited_at is not null as is_confirmed,
        u.id is null or u.confirmation_sent_at is not null or u.invited_at is not null as is_proved
    into v_member
    from public.members as m
    left join auth.users as u on u.id = m.user_id
    where m.organization_id = give_contact.organization_id and m.id = give_contact.member_id
        and m.role = 'customer'
        and not exists (
            select from public.contacts as c
            where c.organization_id = m.organization_id and c.member_id = m.id);
    if not found or not v_member.is_confirmed then
        return;
    end if;
    -- A contact who already wrote from this address and cannot log in yet becomes this member's.
    if v_member.is_proved then
        update public.contacts as c
        set member_id = give_contact.member_id
        where c.organization_id = give_contact.organization_id
            and c.id = (
                select k.id from public.contacts as k
                where k.organization_id = give_contact.organization_id and k.email = v_member.email
                    and k.member_id is null
                order by k.created_at limit 1
            );
        if found then
            return;
        end if;
    end if;
    insert into public.contacts (organization_id, member_id, name, email)
    values (give_contact.organization_id, give_contact.member_id, v_member.name, v_member.email);
end
$$;
comment on function private.give_contact(uuid, uuid) is
    'Gives a customer whose address is confirmed, or who was invited by it, the contact they write as: the one who wrote from that address before, if it is proved to be theirs, else a new one. Definer: customers may not write contacts.';
alter function private.give_contact(uuid, uuid) owner to deskbase_definer;

create function private.tg_members__contact() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.give_contact(new.organization_id, new.id);
    return null;
end
$$;
comment on function private.tg_members__contact() is 'Gives a new customer the contact they write as.';

create trigger _300_contact after insert or update of role on public.members
    for each row when (new.role = 'customer') execute function private.tg_members__contact();
