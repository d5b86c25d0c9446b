/*
 * The support-desk contract: its shapes and its socket. People work here, agents and customers, so whatever is told or
 * answered is read as the person whose claims were admitted, under the policies.
 */

create schema support_desk;
comment on schema support_desk is 'The support-desk contract: tickets, people and knowledge, for the agents of a desk and for its customers.';
grant usage on schema support_desk to authenticator, authenticated, service_role;

----------------------------------------------------------------------------------------------------------------------
-- Shapes: row_to_json writes them without the blanks that json_build_object puts in.
----------------------------------------------------------------------------------------------------------------------

create type support_desk.ticket as (
    id uuid, subject text, description text, status text, priority text, type text, channel text, requester_id uuid,
    assignee_id uuid, group_id uuid, tags text[], created_at text, updated_at text
);
comment on type support_desk.ticket is 'A ticket.';

create type support_desk.author as (name text, email text);
comment on type support_desk.author is 'Who wrote something, where it names them.';

create type support_desk.attachment as (id uuid, filename text, url text, mime_type text, size bigint);
comment on type support_desk.attachment is 'A file of a comment.';

create type support_desk.comment as (
    id uuid, ticket_id uuid, author_id uuid, author support_desk.author, body text, public boolean,
    attachments support_desk.attachment[], created_at text
);
comment on type support_desk.comment is 'A comment.';

create type support_desk.notification as (
    id uuid, type text, title text, message text, read boolean, link text, created_at text
);
comment on type support_desk.notification is 'Something that a member is told of.';

create function support_desk.ticket_json(ticket public.tickets) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        ticket.id,
        ticket.subject,
        ticket.description,
        private.words('support_desk') #>> array['status', ticket.status],
        private.words('support_desk') #>> array['priority', ticket.priority],
        ticket.type,
        ticket.channel,
        ticket.contact_id,
        ticket.assignee_id,
        ticket.group_id,
        array(
            select g.name
            from public.ticket_tags as k
            join public.tags as g on g.organization_id = k.organization_id and g.id = k.tag_id
            where k.organization_id = ticket.organization_id and k.ticket_id = ticket.id
            order by lower(g.name)
        ),
        private.rfc3339(ticket.created_at),
        private.rfc3339(ticket.updated_at))::support_desk.ticket);
end;
comment on function support_desk.ticket_json(public.tickets) is 'A ticket as the contract shows it in lists and tells of it; the requester is a contact.';

create function support_desk.comment_json(comment public.comments) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        comment.id,
        comment.ticket_id,
        coalesce(comment.author_member_id, comment.author_contact_id, comment.author_token_id),
        (
            select row(coalesce(m.name, c.name), coalesce(m.email, c.email))::support_desk.author
            from (values (comment.organization_id)) as o (id)
            left join public.members as m on m.organization_id = o.id and m.id = comment.author_member_id
            left join public.contacts as c on c.organization_id = o.id and c.id = comment.author_contact_id
        ),
        comment.body,
        not comment.is_internal,
        array(
            select row(a.id, a.filename, coalesce(a.url, '/support-desk/api/uploads/' || a.id), a.mime_type, a.size)::support_desk.attachment
            from public.attachments as a
            where a.organization_id = comment.organization_id and a.comment_id = comment.id
            order by a.created_at, a.id
        ),
        private.rfc3339(comment.created_at))::support_desk.comment);
end;
comment on function support_desk.comment_json(public.comments) is
    'A comment as the contract shows it. The author is a member, a contact or an integration, and without a name where the one who asks does not see them.';

create function support_desk.notification_json(notification public.notifications) returns text
language sql stable
set search_path = ''
begin atomic
    select row_to_json(row(
        notification.id,
        notification.type,
        notification.title,
        notification.message,
        notification.read_at is not null,
        '/tickets/' || notification.ticket_id,
        private.rfc3339(notification.created_at))::support_desk.notification);
end;
comment on function support_desk.notification_json(public.notifications) is
    'A notification as the contract shows it; its link is the path of the ticket that it is about, after the base.';

grant execute on function
    support_desk.ticket_json(public.tickets),
    support_desk.comment_json(public.comments),
    support_desk.notification_json(public.notifications)
    to authenticated;

----------------------------------------------------------------------------------------------------------------------
-- Socket
----------------------------------------------------------------------------------------------------------------------

create function support_desk.render_events(claims jsonb, events jsonb, wishes jsonb)
returns table (id bigint, body text, wish integer)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_changes jsonb;
    v_listener record;
begin
    -- What happens to a ticket that the contract does not show is not told; its words for two values may be the same.
    select jsonb_agg(jsonb_build_object(
        'id', e.id, 'table_name', e.table_name, 'record', e.record,
        'is_new', e.operation = 'INSERT',
        'is_published', e.operation = 'UPDATE'
            and (e.old_record -> 'is_internal')::boolean and not (e.record -> 'is_internal')::boolean,
        'is_changed', e.operation = 'UPDATE' and (
                private.words('support_desk') -> 'status' -> (e.record ->> 'status'),
                private.words('support_desk') -> 'priority' -> (e.record ->> 'priority'),
                e.record -> 'subject', e.record -> 'description', e.record -> 'type', e.record -> 'channel',
                e.record -> 'contact_id', e.record -> 'custom_fields', e.record -> 'first_response_at',
                e.record -> 'resolved_at', e.record -> 'deleted_at')
            is distinct from (
                private.words('support_desk') -> 'status' -> (e.old_record ->> 'status'),
                private.words('support_desk') -> 'priority' -> (e.old_record ->> 'priority'),
                e.old_record -> 'subject', e.old_record -> 'description', e.old_record -> 'type', e.old_record -> 'channel',
                e.old_record -> 'contact_id', e.old_record -> 'custom_fields', e.old_record -> 'first_response_at',
                e.old_record -> 'resolved_at', e.old_record -> 'deleted_at'),
        'is_assigned', e.operation = 'UPDATE' and (e.record -> 'assignee_id', e.record -> 'group_id')
            is distinct from (e.old_record -> 'assignee_id', e.old_record -> 'group_id')))
    into v_changes
    from private.logged_rows(events) as e
    where e.schema_name = 'public' and e.operation <> 'DELETE';
    perform private.enter(claims);
    -- Told is what may be read now, as it was, to those who might read it then; that it is the same for who comes back.
    return query
    with changes as (
        select c.* from jsonb_to_recordset(v_changes) as c (
            id bigint, table_name text, record jsonb, is_new boolean, is_published boolean, is_changed boolean, is_assigned boolean)
    ), told as materialized (
        select c.id, e.place, format('{"event":"%s","data":%s}', e.name, support_desk.ticket_json(r)) as body
        from changes as c
        cross join lateral jsonb_populate_record(null::public.tickets, c.record) as r
        join public.tickets as t on t.organization_id = r.organization_id and t.id = r.id
        cross join lateral (values
            (1, 'ticket.created', c.is_new), (2, 'ticket.updated', c.is_changed), (3, 'ticket.assigned', c.is_assigned)
        ) as e (place, name, is_told)
        where c.table_name = 'tickets' and e.is_told and (private.is_agent() or r.contact_id = private.contact_id())
        union all
        select c.id, 1, format('{"event":"comment.added","data":%s}', support_desk.comment_json(r))
        from changes as c
        cross join lateral jsonb_populate_record(null::public.comments, c.record) as r
        join public.comments as s on s.organization_id = r.organization_id and s.id = r.id
        where c.table_name = 'comments' and case
            when private.is_agent() then c.is_new
            else (c.is_new or c.is_published) and r.ticket_contact_id = private.contact_id() and not r.is_internal end
    )
    select t.id, t.body, (w.ordinality - 1)::integer
    from told as t
    cross join jsonb_array_elements(wishes) with ordinality as w
    order by t.id, t.place;
    -- Those who see the same of tickets are one audience; what each of them alone is told is read as that member.
    for v_listener in
        select (w.ordinality - 1)::integer as place, w.value -> 'member_id' as member_id
        from jsonb_array_elements(wishes) with ordinality as w
        where exists (
            select from jsonb_array_elements(v_changes) as c
            where c.value ->> 'table_name' = 'notifications' and c.value #> '{record,member_id}' = w.value -> 'member_id')
    loop
        perform set_config('request.jwt.claims',
            jsonb_set(claims, '{app_metadata,member_id}', v_listener.member_id)::text, true);
        return query
        select c.id, format('{"event":"notification.new","data":%s}', support_desk.notification_json(r)), v_listener.place
        from jsonb_to_recordset(v_changes) as c (id bigint, table_name text, record jsonb, is_new boolean)
        cross join lateral jsonb_populate_record(null::public.notifications, c.record) as r
        join public.notifications as n on n.organization_id = r.organization_id and n.id = r.id
        where c.table_name = 'notifications' and c.is_new;
    end loop;
end
$$;
comment on function support_desk.render_events(jsonb, jsonb, jsonb) is
    'What the holders of the claims are told of events: tickets and comments as they were then, all of them alike, and each of the wishes, which name a member, that member''s own new notifications. A change of a ticket that is also another assignment is two messages, the assignment last.';

grant execute on function support_desk.render_events(jsonb, jsonb, jsonb) to authenticator;
