/*
 * The support-platform contract: its shapes, and its operations in the order of its document. People work here, customers
 * and agents, so an operation enters as the person whose claims were admitted and works under the policies from there on.
 * The incoming webhook has no person: its sender signs with the organization's secret and writes as the desk itself.
 */

create schema support_platform;
comment on schema support_platform is 'The support-platform contract: what customers and agents see of tickets.';
grant usage on schema support_platform to authenticator, authenticated, service_role;

----------------------------------------------------------------------------------------------------------------------
-- Words and shapes
----------------------------------------------------------------------------------------------------------------------

create function support_platform.words_of(field text, word text) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
    v_values text[] := private.canonical('support_platform', field, word);
begin
    if word is null then
        return null;
    end if;
    if v_values = '{}' then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = format('%s must be one of %s.', field, (
            select string_agg(distinct w.value, ', ')
            from jsonb_each_text(private.words('support_platform') -> field) as w));
    end if;
    return v_values;
end
$$;
comment on function support_platform.words_of(text, text) is
    'Every canonical value that a filter''s word matches; null for no filter. Raises invalid_field.';

-- row_to_json writes the shapes without the blanks that json_build_object puts in.

create type support_platform.ticket as (
    id uuid, title text, description text, status text, priority text, category_id uuid, created_at text, updated_at text
);
comment on type support_platform.ticket is 'A ticket.';

create type support_platform.message as (id uuid, ticket_id uuid, content text, is_internal boolean, created_at text);
comment on type support_platform.message is 'A message.';

create type support_platform.category as (id uuid, name text, description text);
comment on type support_platform.category is 'A category.';

create function support_platform.ticket_json(ticket public.tickets) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        ticket.id,
        ticket.subject,
        ticket.description,
        private.words('support_platform') #>> array['status', ticket.status],
        private.words('support_platform') #>> array['priority', ticket.priority],
        ticket.category_id,
        private.rfc3339(ticket.created_at),
        private.rfc3339(ticket.updated_at))::support_platform.ticket);
end;
comment on function support_platform.ticket_json(public.tickets) is 'A ticket as the contract shows it.';

create function support_platform.message_json(comment public.comments) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        comment.id,
        comment.ticket_id,
        comment.body,
        comment.is_internal,
        private.rfc3339(comment.created_at))::support_platform.message);
end;
comment on function support_platform.message_json(public.comments) is 'A message as the contract shows it.';

create function support_platform.page_json(items text, total bigint, page bigint, page_size bigint) returns text
language sql immutable
set search_path = ''
return '{"items":[' || coalesce(items, '') || '],"total":' || total || ',"page":' || page
    || ',"pages":' || (total + page_size - 1) / page_size || '}';
comment on function support_platform.page_json(text, bigint, bigint, bigint) is 'A page of a list, its items being joined by commas.';

create function support_platform.require_category(organization_id uuid, category_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if category_id is not null and not exists (
        select from public.categories as c
        where c.organization_id = require_category.organization_id and c.id = require_category.category_id
    ) then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'category_id is no category of this organization.';
    end if;
end
$$;
comment on function support_platform.require_category(uuid, uuid) is
    'Names the field that is wrong, before the foreign key refuses it. Raises invalid_field.';

grant execute on function
    support_platform.words_of(text, text),
    support_platform.ticket_json(public.tickets),
    support_platform.message_json(public.comments),
    support_platform.page_json(text, bigint, bigint, bigint)
    to authenticated;
grant execute on function support_platform.require_category(uuid, uuid) to authenticated, service_role;

----------------------------------------------------------------------------------------------------------------------
-- Tickets
----------------------------------------------------------------------------------------------------------------------

create function support_platform.list_tickets(
    claims jsonb, status text, category_id uuid, priority text, page bigint, page_size bigint, out body text
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_statuses text[];
    v_priorities text[];
begin
    perform private.enter(claims);
    v_statuses := support_platform.words_of('status', status);
    v_priorities := support_platform.words_of('priority', priority);
    -- Executed, so that it is planned for these filters: what is not asked for drops out, and a customer's list, which says
    -- itself what the policy says, goes by the index of their tickets. One statement, so that total and items agree.
    execute $list$
        with found as not materialized (
            select t.* from public.tickets as t
            where ($1 or t.contact_id = $2)
                and ($3 is null or t.status = any ($3))
                and ($4 is null or t.category_id = $4)
                and ($5 is null or t.priority = any ($5))
        ), shown as (
            select f.* from found as f order by f.created_at desc, f.id desc limit $7 offset ($6 - 1) * $7
        )
        select support_platform.page_json(
            (select string_agg(support_platform.ticket_json(s), ',' order by s.created_at desc, s.id desc) from shown as s),
            case when $1 then coalesce(private.count_tickets($3, $5, $4, null), 0) else (select count(*) from found) end, $6, $7)
    $list$
    into body
    using private.is_agent(), private.contact_id(), v_statuses, category_id, v_priorities, page, page_size;
end
$$;
comment on function support_platform.list_tickets(jsonb, text, uuid, text, bigint, bigint) is
    E'GET /tickets\n\nThe newest first. Raises invalid_field.';

create function support_platform.create_ticket(
    claims jsonb, title text, description text, category_id uuid, priority text, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_once record;
    v_ticket public.tickets;
begin
    perform private.enter(claims);
    v_once := private.begin_once('support_platform.create_ticket', idempotency_key,
        jsonb_build_array(title, description, category_id, priority));
    if v_once.is_repeat then
        body := v_once.body;
        version := v_once.version;
        return;
    end if;
    perform support_platform.require_category(private.organization_id(), category_id);
    insert into public.tickets (subject, description, category_id, priority)
    values (
        title,
        coalesce(create_ticket.description, ''),
        create_ticket.category_id,
        private.new_canonical('support_platform', 'priority', coalesce(create_ticket.priority, 'medium'), 'medium'))
    returning * into v_ticket;
    version := v_ticket.version;
    body := support_platform.ticket_json(v_ticket);
    perform private.finish_once('support_platform.create_ticket', idempotency_key, body, version);
end
$$;
comment on function support_platform.create_ticket(jsonb, text, text, uuid, text, text) is
    E'POST /tickets\n\nRaises invalid_field, idempotency_conflict.';

create function support_platform.get_ticket(claims jsonb, ticket_id uuid, out body text, out version bigint)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select support_platform.ticket_json(t), t.version into body, version
    from public.tickets as t
    where t.id = get_ticket.ticket_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function support_platform.get_ticket(jsonb, uuid) is
    E'GET /tickets/{ticket_id}\n\nRaises not_found for every ticket that the person does not see.';

----------------------------------------------------------------------------------------------------------------------
-- Messages
----------------------------------------------------------------------------------------------------------------------

create function support_platform.list_messages(
    claims jsonb, ticket_id uuid, page bigint, page_size bigint, out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    -- One statement, so that the version is that of the messages shown: who answers with it in If-Match has read these.
    select t.version, support_platform.page_json(
        (
            select string_agg(support_platform.message_json(s), ',' order by s.created_at, s.id)
            from (
                select c.* from public.comments as c
                where c.ticket_id = t.id
                order by c.created_at, c.id
                limit page_size offset (list_messages.page - 1) * page_size
            ) as s
        ),
        (select count(*) from public.comments as c where c.ticket_id = t.id), list_messages.page, page_size)
    into version, body
    from public.tickets as t
    where t.id = list_messages.ticket_id;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
end
$$;
comment on function support_platform.list_messages(jsonb, uuid, bigint, bigint) is
    E'GET /tickets/{ticket_id}/messages\n\nThe oldest first. Raises not_found.';

create function support_platform.send_message(
    claims jsonb, ticket_id uuid, content text, is_internal boolean, if_match bigint, idempotency_key text,
    out body text, out version bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_once record;
    v_version bigint;
    v_message public.comments;
begin
    perform private.enter(claims);
    v_once := private.begin_once('support_platform.send_message', idempotency_key,
        jsonb_build_array(ticket_id, content, is_internal));
    if v_once.is_repeat then
        body := v_once.body;
        version := v_once.version;
        return;
    end if;
    select t.version into v_version
    from public.tickets as t
    where t.id = send_message.ticket_id
    for no key update;
    if not found then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    perform private.require_version(ticket_id, v_version, if_match);
    insert into public.comments (ticket_id, body, is_internal)
    values (send_message.ticket_id, content, coalesce(send_message.is_internal, false))
    returning * into v_message;
    version := v_message.ticket_version;
    body := support_platform.message_json(v_message);
    perform private.finish_once('support_platform.send_message', idempotency_key, body, version);
end
$$;
comment on function support_platform.send_message(jsonb, uuid, text, boolean, bigint, text) is
    E'POST /tickets/{ticket_id}/messages\n\nRaises not_found, stale, ticket_closed, idempotency_conflict; the policy refuses a customer''s internal message.';

----------------------------------------------------------------------------------------------------------------------
-- Categories
----------------------------------------------------------------------------------------------------------------------

create function support_platform.list_categories(claims jsonb, out body text)
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    select '[' || coalesce(string_agg(row_to_json(row(c.id, c.name, c.description)::support_platform.category)::text, ','
        order by lower(c.name), c.id), '') || ']'
    into body
    from public.categories as c;
end
$$;
comment on function support_platform.list_categories(jsonb) is E'GET /categories\n\nAll of them, by name.';

----------------------------------------------------------------------------------------------------------------------
-- Incoming webhook
----------------------------------------------------------------------------------------------------------------------

create function support_platform.receive_webhook(organization_id uuid, event text, data jsonb, out body text)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_organization_id uuid := coalesce(organization_id, private.first_organization_id());
    v_category_id uuid := (data ->> 'category_id')::uuid;
    v_ticket public.tickets;
begin
    -- The desk itself passes the policies, so every statement names the organization.
    perform private.enter('{"role": "service_role"}');
    body := '{"received":true}';
    select t.* into v_ticket
    from public.tickets as t
    where t.organization_id = v_organization_id and t.external_id = data ->> 'external_id'
    for no key update;
    if event = 'ticket.created' then
        if v_ticket.id is null then
            perform support_platform.require_category(v_organization_id, v_category_id);
            insert into public.tickets (organization_id, external_id, channel, subject, description, category_id, status, priority)
            values (
                v_organization_id,
                data ->> 'external_id',
                'api',
                data ->> 'title',
                coalesce(data ->> 'description', ''),
                v_category_id,
                private.new_canonical('support_platform', 'status', coalesce(data ->> 'status', 'open'), 'new'),
                private.new_canonical('support_platform', 'priority', coalesce(data ->> 'priority', 'medium'), 'medium'))
            on conflict do nothing;
        end if;
        return;
    end if;
    if v_ticket.id is null or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'No ticket has this external_id.';
    end if;
    if event = 'message.created' then
        insert into public.comments (organization_id, ticket_id, channel, external_message_id, body, is_internal)
        values (v_organization_id, v_ticket.id, 'api', data ->> 'message_id', data ->> 'content',
            coalesce((data ->> 'is_internal')::boolean, false))
        on conflict do nothing;
        return;
    end if;
    perform support_platform.require_category(v_organization_id, v_category_id);
    -- The same again, and the word that the ticket already shows, change nothing.
    update public.tickets as t
    set subject = n.subject, description = n.description, status = n.status, priority = n.priority,
        category_id = n.category_id, category_label = n.category_label
    from (
        select coalesce(data ->> 'title', v_ticket.subject),
            coalesce(data ->> 'description', v_ticket.description),
            coalesce(private.new_canonical('support_platform', 'status', data ->> 'status', v_ticket.status), v_ticket.status),
            coalesce(private.new_canonical('support_platform', 'priority', data ->> 'priority', v_ticket.priority),
                v_ticket.priority),
            case when data ? 'category_id' then v_category_id else v_ticket.category_id end,
            case when v_category_id is null then v_ticket.category_label end
    ) as n (subject, description, status, priority, category_id, category_label)
    where t.organization_id = v_organization_id and t.id = v_ticket.id
        and (n.subject, n.description, n.status, n.priority, n.category_id, n.category_label)
            is distinct from (t.subject, t.description, t.status, t.priority, t.category_id, t.category_label);
end
$$;
comment on function support_platform.receive_webhook(uuid, text, jsonb) is
    E'POST /webhooks/incoming\n\nDoes what a verified delivery says, in the organization or, without one, in the first. A second delivery of an external_id or message_id creates nothing. Raises not_found, invalid_field.';

----------------------------------------------------------------------------------------------------------------------
-- Socket
----------------------------------------------------------------------------------------------------------------------

create function support_platform.watch_ticket(claims jsonb, ticket_id uuid) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform private.enter(claims);
    perform from public.tickets as t where t.id = watch_ticket.ticket_id;
    if not found then
        perform private.refuse_ticket(ticket_id);
    end if;
end
$$;
comment on function support_platform.watch_ticket(jsonb, uuid) is
    E'/ws/tickets/{ticket_id}\n\nWhether a person may listen. Raises forbidden for another''s ticket of their organization, not_found for all others.';

create function support_platform.render_events(claims jsonb, events jsonb) returns table (id bigint, body text)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_words jsonb := private.words('support_platform');
    v_changes jsonb;
begin
    -- Much happens to a ticket that the contract does not show: a message makes a new version, a first reply opens it.
    select jsonb_agg(jsonb_build_object('id', e.id, 'table_name', e.table_name,
        'row_id', coalesce(e.record, e.old_record) -> 'id', 'record', e.record,
        -- A customer hears of a message when it is theirs to read, be it later.
        'is_new', e.operation = 'INSERT', 'is_public', e.operation = 'INSERT' and not (e.record -> 'is_internal')::boolean
            or e.operation = 'UPDATE' and (e.old_record -> 'is_internal')::boolean and not (e.record -> 'is_internal')::boolean,
        'is_told', (e.record -> 'subject', e.record -> 'description', e.record -> 'category_id',
                v_words -> 'status' -> (e.record ->> 'status'), v_words -> 'priority' -> (e.record ->> 'priority'))
            is distinct from (e.old_record -> 'subject', e.old_record -> 'description', e.old_record -> 'category_id',
                v_words -> 'status' -> (e.old_record ->> 'status'), v_words -> 'priority' -> (e.old_record ->> 'priority'))))
    into v_changes
    from private.logged_rows(events) as e
    where (e.table_name, e.operation) in (
        ('tickets', 'UPDATE'), ('tickets', 'DELETE'), ('comments', 'INSERT'), ('comments', 'UPDATE'));
    perform private.enter(claims);
    -- What may be read now is told as it was, so that who comes back hears the same; but as it is to whom it was not to be
    -- read by then.
    return query
    select e.id, s.body
    from jsonb_to_recordset(v_changes) as e (
        id bigint, table_name text, row_id uuid, record jsonb, is_told boolean, is_new boolean, is_public boolean)
    left join public.tickets as t on e.table_name = 'tickets' and t.id = e.row_id
    left join public.comments as c on e.table_name = 'comments' and c.id = e.row_id
        and case when private.is_agent() then e.is_new else e.is_public end
    cross join lateral (select case
        when e.table_name = 'tickets' and t.id is null then '{"event":"ticket.lost"}'
        when c.id is not null then '{"event":"message.received","data":' || support_platform.message_json(case
            when private.is_agent()
                or (e.record ->> 'ticket_contact_id')::uuid = private.contact_id()
            then jsonb_populate_record(null::public.comments, e.record) else c end) || '}'
        when t.id is not null and e.is_told then '{"event":"ticket.updated","data":' || support_platform.ticket_json(case
            when private.is_agent() or (e.record ->> 'contact_id')::uuid = private.contact_id()
            then jsonb_populate_record(null::public.tickets, e.record) else t end) || '}'
    end) as s (body)
    where s.body is not null;
end
$$;
comment on function support_platform.render_events(jsonb, jsonb) is
    'What the holder of the claims is told of events: a ticket or a message as it was then, if they might read it then, and to the service (ticket.lost) that they see a ticket no more.';

grant execute on function
    support_platform.list_tickets(jsonb, text, uuid, text, bigint, bigint),
    support_platform.create_ticket(jsonb, text, text, uuid, text, text),
    support_platform.get_ticket(jsonb, uuid),
    support_platform.list_messages(jsonb, uuid, bigint, bigint),
    support_platform.send_message(jsonb, uuid, text, boolean, bigint, text),
    support_platform.list_categories(jsonb),
    support_platform.receive_webhook(uuid, text, jsonb),
    support_platform.watch_ticket(jsonb, uuid),
    support_platform.render_events(jsonb, jsonb)
    to authenticator;
