/*
 * What an outside issuer of JWTs (DESKBASE_ISSUERS) calls a member. Without a row here a member is found by e-mail.
 */

create table public.member_identities (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    member_id uuid not null,
    issuer text not null check (length(issuer) between 1 and 500),
    subject text not null check (length(subject) between 1 and 500),
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, issuer, subject),
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.member_identities enable row level security;
alter table public.member_identities force row level security;

comment on table public.member_identities is 'Members by the name (issuer and subject) that their JWTs from outside carry; the operator (service_role) enters them.';
comment on column public.member_identities.issuer is 'The iss of those JWTs, letter by letter.';
comment on column public.member_identities.subject is 'Their sub.';

-- A JWT arrives before its organization is known.
create index member_identities_issuer_subject_idx on public.member_identities (issuer, subject);
create index member_identities_organization_id_member_id_idx on public.member_identities (organization_id, member_id);

create policy select_admin on public.member_identities for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
-- No admin adds one: whoever names another organization's person here would draw them over to their own. It is for the
-- operator, who knows the issuers too.
create policy delete_admin on public.member_identities for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select, delete on public.member_identities to authenticated;

create function private.outside_claims(outside jsonb) returns jsonb
language sql stable security definer
set search_path = ''
begin atomic
    select jsonb_build_object('role', 'authenticated', 'aud', 'authenticated', 'sub', m.user_id, 'email', m.email,
        'iss', outside ->> 'issuer', 'app_metadata',
        jsonb_build_object('provider', outside ->> 'issuer', 'organization_id', m.organization_id))
    from (
        select i.organization_id, i.member_id, 1 as rank
        from public.member_identities as i
        where i.issuer = outside ->> 'issuer' and i.subject = outside ->> 'subject'
        union all
        select e.organization_id, e.id, 2
        from public.members as e
        where e.email = lower(outside ->> 'email')
    ) as found
    join public.members as m on m.organization_id = found.organization_id and m.id = found.member_id
    join public.organizations as o on o.id = m.organization_id and o.deleted_at is null
    where m.user_id is not null and m.is_active
    order by found.rank, m.created_at, m.id
    limit 1;
end;
comment on function private.outside_claims(jsonb) is
    'The claims of the member whom a verified JWT of an outside issuer means, by its subject or else its e-mail address; null if nobody. Definer: nobody is known yet.';
alter function private.outside_claims(jsonb) owner to deskbase_definer;
