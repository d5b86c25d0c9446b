/*
 * How satisfied the requester was, once a ticket is resolved. Written through a signed link, never by a client.
 */

create table public.satisfaction_ratings (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    ticket_id uuid not null,
    contact_id uuid,
    assignee_id uuid,
    score smallint not null check (score between 1 and 5),
    comment text not null default '' check (length(comment) <= 10000),
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, ticket_id),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, contact_id) references public.contacts (organization_id, id)
        on delete set null (contact_id),
    foreign key (organization_id, assignee_id) references public.members (organization_id, id)
        on delete set null (assignee_id)
);
alter table public.satisfaction_ratings enable row level security;
alter table public.satisfaction_ratings force row level security;

comment on table public.satisfaction_ratings is 'What the requester thought of how a ticket was solved; one a ticket.';
comment on column public.satisfaction_ratings.score is 'From 1, bad, to 5, good.';
comment on column public.satisfaction_ratings.assignee_id is 'Who had solved it, so that a later assignment does not move the rating.';
comment on column public.satisfaction_ratings.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index satisfaction_ratings_organization_id_created_at_idx
    on public.satisfaction_ratings (organization_id, created_at);
create index satisfaction_ratings_organization_id_contact_id_idx
    on public.satisfaction_ratings (organization_id, contact_id);
create index satisfaction_ratings_organization_id_assignee_id_idx
    on public.satisfaction_ratings (organization_id, assignee_id);

create policy select_member on public.satisfaction_ratings for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or contact_id = (select private.contact_id())));
grant select on public.satisfaction_ratings to authenticated;
