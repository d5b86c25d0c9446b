/*
 * Groups are teams of agents that tickets are given to.
 */

create table public.groups (
    organization_id uuid not null default private.organization_id()
        references public.organizations (id) on delete cascade,
    id uuid not null default gen_random_uuid(),
    name text not null check (length(name) between 1 and 200),
    description text not null default '' check (length(description) <= 10000),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id)
);
alter table public.groups enable row level security;
alter table public.groups force row level security;

comment on table public.groups is 'A team of agents.';

create unique index groups_organization_id_name_idx on public.groups (organization_id, lower(name));

create policy select_agent on public.groups for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_lead on public.groups for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy update_lead on public.groups for update to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()))
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy delete_lead on public.groups for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, id, name, description), update (name, description)
    on public.groups to authenticated;

create trigger _100_timestamps before update on public.groups
    for each row execute function private.tg__timestamps();

create table public.group_members (
    organization_id uuid not null default private.organization_id(),
    group_id uuid not null,
    member_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, group_id, member_id),
    foreign key (organization_id, group_id) references public.groups (organization_id, id) on delete cascade,
    foreign key (organization_id, member_id) references public.members (organization_id, id) on delete cascade
);
alter table public.group_members enable row level security;
alter table public.group_members force row level security;

comment on table public.group_members is 'Which agent belongs to which group.';

create index group_members_organization_id_member_id_idx on public.group_members (organization_id, member_id);

create policy select_agent on public.group_members for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_agent()));
create policy insert_lead on public.group_members for insert to authenticated
    with check (organization_id = (select private.organization_id()) and (select private.is_lead()));
create policy delete_lead on public.group_members for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_lead()));
grant select, delete, insert (organization_id, group_id, member_id) on public.group_members to authenticated;

create function private.tg_group_members__agent() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if not exists (
        select from public.members as m
        where m.organization_id = new.organization_id and m.id = new.member_id and m.role >= 'agent'
    ) then
        raise sqlstate 'PT400' using message = 'not_an_agent', detail = 'Only agents of the organization belong to groups.';
    end if;
    return new;
end
$$;
comment on function private.tg_group_members__agent() is
    'Only agents belong to groups. Definer: the rule must see every member.';
alter function private.tg_group_members__agent() owner to deskbase_definer;

create trigger _250_agent before insert on public.group_members
    for each row execute function private.tg_group_members__agent();
