/*
 * The integration-tickets contract: its words, and its operations in the order of its document. Each takes the claims that the
 * limiter answered, enters as their role and works under the policies from there on. They are for the service's login
 * alone; who could pass claims of their own could be anybody.
 */

create schema integration_tickets;
comment on schema integration_tickets is 'The integration-tickets contract: what outside systems see of their tickets.';
grant usage on schema integration_tickets to authenticator, integration;

----------------------------------------------------------------------------------------------------------------------
-- Words
----------------------------------------------------------------------------------------------------------------------

create function integration_tickets.status_word(status public.ticket_status) returns text
language sql immutable
set search_path = ''
return private.words('integration_tickets') #>> array['status', status::text];
comment on function integration_tickets.status_word(public.ticket_status) is 'What the contract calls a status.';
grant execute on function integration_tickets.status_word(public.ticket_status) to authenticator, integration;

-- The shapes that are answered; row_to_json writes them without the blanks that json_build_object puts in.

create type integration_tickets.created_ticket as (
    id uuid, title text, description text, status text, priority text, category text, metadata jsonb, created_at text
);
comment on type integration_tickets.created_ticket is 'A ticket as creating it answers.';

create type integration_tickets.ticket as (
    id uuid, title text, description text, status text, priority text, category text, metadata jsonb, created_at text,
    updated_at text
);
comment on type integration_tickets.ticket is 'A ticket.';

create type integration_tickets.changed_ticket as (id uuid, status text, updated_at text);
comment on type integration_tickets.changed_ticket is 'What a change of status answers of a ticket.';

----------------------------------------------------------------------------------------------------------------------
-- Operations
----------------------------------------------------------------------------------------------------------------------

create function integration_tickets.create_ticket(
    claims jsonb, title text, description text, priority text, category text, metadata jsonb, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_category_id uuid;
    v_category text := nullif(btrim(category), '');
    v_once record;
begin
    perform private.enter(claims);
    perform private.require_scope('tickets:write');
    if idempotency_key is not null then
        v_once := private.begin_once('integration_tickets.create_ticket', idempotency_key,
            jsonb_build_array(title, description, priority, category, metadata));
        if v_once.is_repeat then
            body := v_once.body;
            version := v_once.version;
            return;
        end if;
    end if;
    if v_category is not null then
        select c.id, c.name into v_category_id, v_category
        from public.categories as c
        where lower(c.name) = lower(v_category);
        if not found then
            v_category := btrim(category);
        end if;
    end if;
    -- Nothing is read back: a token that may only write gets its answer too.
    insert into public.tickets (id, subject, description, priority, channel, category_id, category_label, metadata)
    values (
        v_id,
        title,
        coalesce(create_ticket.description, ''),
        coalesce(create_ticket.priority, 'medium')::public.ticket_priority,
        'api',
        v_category_id,
        case when v_category_id is null then v_category end,
        coalesce(create_ticket.metadata, '{}'));
    version := 1;
    body := '{"ticket":' || row_to_json(row(
        v_id,
        title,
        nullif(create_ticket.description, ''),
        integration_tickets.status_word('new'),
        coalesce(create_ticket.priority, 'medium'),
        v_category,
        coalesce(create_ticket.metadata, '{}'),
        private.rfc3339(now()))::integration_tickets.created_ticket) || '}';
    if idempotency_key is not null then
        perform private.finish_once('integration_tickets.create_ticket', idempotency_key, body, version);
    end if;
end
$$;
comment on function integration_tickets.create_ticket(jsonb, text, text, text, text, jsonb, text) is
    E'POST /tickets\n\nLinks a category of that name, else keeps the name. Raises insufficient_scope, idempotency_conflict.';

create function integration_tickets.get_ticket(claims jsonb, ticket_id uuid, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '{"ticket":' || row_to_json(row(
            t.id,
            t.subject,
            nullif(t.description, ''),
            integration_tickets.status_word(t.status),
            t.priority,
            coalesce(c.name, t.category_label),
            t.metadata,
            private.rfc3339(t.created_at),
            private.rfc3339(t.updated_at))::integration_tickets.ticket) || '}', t.version
    into body, version
    from public.tickets as t
    left join public.categories as c on c.organization_id = t.organization_id and c.id = t.category_id
    where t.id = get_ticket.ticket_id;
    if not found then
        perform private.require_scope('tickets:read');
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function integration_tickets.get_ticket(jsonb, uuid) is
    E'GET /tickets/{ticket_id}\n\nRaises not_found for every ticket that the token did not make, insufficient_scope.';

create function integration_tickets.add_comment(
    claims jsonb, ticket_id uuid, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id uuid := gen_random_uuid();
    v_once record;
    v_ticket record;
begin
    perform private.enter(claims);
    perform private.require_scope('comments:write');
    if idempotency_key is not null then
        v_once := private.begin_once('integration_tickets.add_comment', idempotency_key,
            jsonb_build_array(ticket_id, content, is_internal));
        if v_once.is_repeat then
            body := v_once.body;
            version := v_once.version;
            return;
        end if;
    end if;
    v_ticket := private.lock_ticket(ticket_id);
    perform private.require_version(ticket_id, v_ticket.version, if_match);
    insert into public.comments (id, ticket_id, body, is_internal)
    values (v_id, add_comment.ticket_id, content, coalesce(add_comment.is_internal, false));
    version := v_ticket.version + 1;
    body := '{"comment_id":"' || v_id || '"}';
    if idempotency_key is not null then
        perform private.finish_once('integration_tickets.add_comment', idempotency_key, body, version);
    end if;
end
$$;
comment on function integration_tickets.add_comment(jsonb, uuid, text, boolean, bigint, text) is
    E'POST /tickets/{ticket_id}/comments\n\nRaises not_found, not_authorized, stale, insufficient_scope, idempotency_conflict.';

create function integration_tickets.update_ticket_status(
    claims jsonb, ticket_id uuid, status text, if_match bigint,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_locked record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    perform private.require_scope('tickets:write'), private.require_scope('tickets:read');
    if private.canonical('integration_tickets', 'status', status) = '{}' then
        raise sqlstate 'PT400' using message = 'invalid_field',
            detail = 'status must be one of open, in_progress, waiting, resolved, closed.';
    end if;
    v_locked := private.lock_ticket(ticket_id);
    perform private.require_version(ticket_id, v_locked.version, if_match);
    -- The word that the ticket already shows changes nothing: a client that writes back what it read moves no ticket.
    update public.tickets as t
    set status = private.new_canonical('integration_tickets', 'status', update_ticket_status.status, t.status)
    where t.id = update_ticket_status.ticket_id
        and integration_tickets.status_word(t.status) <> update_ticket_status.status;
    select t.* into v_ticket from public.tickets as t where t.id = update_ticket_status.ticket_id;
    version := v_ticket.version;
    body := '{"success":true,"ticket":' || row_to_json(row(
        v_ticket.id,
        integration_tickets.status_word(v_ticket.status),
        private.rfc3339(v_ticket.updated_at))::integration_tickets.changed_ticket) || '}';
end
$$;
comment on function integration_tickets.update_ticket_status(jsonb, uuid, text, bigint) is
    E'PATCH /tickets/{ticket_id}/status\n\nRaises invalid_field, not_found, not_authorized, stale, insufficient_scope.';

grant execute on function
    integration_tickets.create_ticket(jsonb, text, text, text, text, jsonb, text),
    integration_tickets.get_ticket(jsonb, uuid),
    integration_tickets.add_comment(jsonb, uuid, text, boolean, bigint, text),
    integration_tickets.update_ticket_status(jsonb, uuid, text, bigint)
    to authenticator;
