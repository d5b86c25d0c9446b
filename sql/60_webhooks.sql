/*
 * Outgoing webhooks: where an integration wants to be told of its tickets, and what became of each message.
 */

create table public.webhook_endpoints (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    integration_token_id uuid not null default private.token_id(),
    url text not null check (url ~ '^https?://' and length(url) <= 2000),
    events text[] not null check (cardinality(events) > 0
        and events <@ array['ticket.created', 'ticket.updated', 'ticket.status_changed', 'comment.created']),
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, integration_token_id)
        references public.integration_tokens (organization_id, id) on delete cascade
);
alter table public.webhook_endpoints enable row level security;
alter table public.webhook_endpoints force row level security;

comment on table public.webhook_endpoints is 'An address of an outside system that is told of its tickets.';
comment on column public.webhook_endpoints.disabled_at is 'Since when deliveries are given up, after a day of failures.';

create index webhook_endpoints_organization_id_integration_token_id_idx
    on public.webhook_endpoints (organization_id, integration_token_id);

create policy select_admin on public.webhook_endpoints for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy select_integration on public.webhook_endpoints for select to integration
    using (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('webhooks:manage')));
create policy delete_admin on public.webhook_endpoints for delete to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
create policy delete_integration on public.webhook_endpoints for delete to integration
    using (organization_id = (select private.organization_id())
        and integration_token_id = (select private.token_id()) and (select private.has_scope('webhooks:manage')));
grant select, delete on public.webhook_endpoints to authenticated, integration;

create table private.webhook_secrets (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    webhook_endpoint_id uuid not null,
    secret text not null check (secret ~ '^whsec_'),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    primary key (organization_id, id),
    foreign key (organization_id, webhook_endpoint_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade
);
alter table private.webhook_secrets enable row level security;
alter table private.webhook_secrets force row level security;
create policy select_definer on private.webhook_secrets for select to deskbase_definer using (true);

comment on table private.webhook_secrets is 'What deliveries are signed with; two while a rotation lasts.';

create index webhook_secrets_organization_id_webhook_endpoint_id_idx
    on private.webhook_secrets (organization_id, webhook_endpoint_id);

create table public.webhook_deliveries (
    organization_id uuid not null,
    id uuid not null default gen_random_uuid(),
    webhook_endpoint_id uuid not null,
    event_id bigint not null,
    type text not null,
    ticket_id uuid,
    payload jsonb not null,
    attempts integer not null default 0,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'dead')),
    response_status integer,
    failure text,
    created_at timestamptz not null default now(),
    next_attempt_at timestamptz default now(),
    delivered_at timestamptz,
    primary key (organization_id, id),
    unique (organization_id, webhook_endpoint_id, event_id, type),
    foreign key (organization_id, webhook_endpoint_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id)
        on delete set null (ticket_id)
);
alter table public.webhook_deliveries enable row level security;
alter table public.webhook_deliveries force row level security;

comment on table public.webhook_deliveries is 'A message to an endpoint and what became of it.';
comment on column public.webhook_deliveries.status is 'pending: tried again with backoff; dead: given up after a day, to be replayed by hand.';
comment on column public.webhook_deliveries.event_id is 'The event it tells of.';

-- Messages of one ticket go out in order.
create index webhook_deliveries_organization_id_ticket_id_idx
    on public.webhook_deliveries (organization_id, ticket_id, event_id);
create index webhook_deliveries_next_attempt_at_idx on public.webhook_deliveries (next_attempt_at)
    where status = 'pending';

create policy select_admin on public.webhook_deliveries for select to authenticated
    using (organization_id = (select private.organization_id()) and (select private.is_admin()));
grant select on public.webhook_deliveries to authenticated;
