/*
 * Comments are the conversation of a ticket, and attachments the files in it. Both carry their ticket's requester,
 * integration and deletion, so that their policies test columns of their own and no row is looked up to judge another.
 */

create table public.comments (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    number bigint not null generated always as identity,
    ticket_id uuid not null,
    body text not null check (length(btrim(body)) > 0 and length(body) <= 100000),
    is_internal boolean not null default false,
    content_type public.content_type not null default 'text',
    channel public.channel not null default 'web',
    author_contact_id uuid,
    author_member_id uuid,
    author_token_id uuid,
    ticket_version bigint not null default 1,
    external_message_id text check (length(external_message_id) between 1 and 320),
    ticket_contact_id uuid,
    ticket_token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, number),
    constraint comments_one_author check (num_nonnulls(author_contact_id, author_member_id, author_token_id) <= 1),
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, author_contact_id) references public.contacts (organization_id, id)
        on delete set null (author_contact_id),
    foreign key (organization_id, author_member_id) references public.members (organization_id, id)
        on delete set null (author_member_id),
    foreign key (organization_id, author_token_id) references public.integration_tokens (organization_id, id)
        on delete set null (author_token_id)
);
alter table public.comments enable row level security;
alter table public.comments force row level security;

comment on table public.comments is
    E'A message on a ticket, public or internal\n\nThe author comes from the credential; without any it is the desk itself.';
comment on column public.comments.number is 'The integer that clients with integer ids know the comment by.';
comment on column public.comments.is_internal is 'Seen by agents alone, and by the integration that wrote it.';
comment on column public.comments.ticket_version is 'The version that its ticket has since this comment.';
comment on column public.comments.external_message_id is 'What its channel calls the message; a second delivery makes no second comment.';
comment on column public.comments.ticket_contact_id is 'The ticket''s requester, for the policy.';
comment on column public.comments.ticket_token_id is 'The ticket''s integration, for the policy.';
comment on column public.comments.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

-- The conversation in order, and the reference.
create index comments_organization_id_ticket_id_idx on public.comments (organization_id, ticket_id, created_at, id);
-- The policy of customers, and the references. Partial: most comments lack most of them.
create index comments_organization_id_ticket_contact_id_idx on public.comments (organization_id, ticket_contact_id)
    where ticket_contact_id is not null;
create index comments_organization_id_ticket_token_id_idx on public.comments (organization_id, ticket_token_id)
    where ticket_token_id is not null;
create index comments_organization_id_author_contact_id_idx on public.comments (organization_id, author_contact_id)
    where author_contact_id is not null;
create index comments_organization_id_author_member_id_idx on public.comments (organization_id, author_member_id)
    where author_member_id is not null;
create index comments_organization_id_author_token_id_idx on public.comments (organization_id, author_token_id)
    where author_token_id is not null;
create unique index comments_organization_id_channel_external_message_id_idx
    on public.comments (organization_id, channel, external_message_id);
-- Search, through definer functions alone.
create index comments_search_idx on public.comments using gin (to_tsvector('simple', translate(body, '-_/', '   ')));

create policy select_member on public.comments for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy select_integration on public.comments for select to integration
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ticket_token_id = (select private.token_id()) and (select private.has_scope('tickets:read'))
        and (not is_internal or author_token_id = (select private.token_id())));
create policy insert_member on public.comments for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy insert_integration on public.comments for insert to integration
    with check (organization_id = (select private.organization_id())
        and ticket_token_id = (select private.token_id()) and (select private.has_scope('comments:write')));
-- What was said is its author's to correct as long as they see it; a lead may correct anyone's.
create policy update_author on public.comments for update to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead())
            or ((select private.is_agent()) and author_member_id = (select private.member_id()))
            or (author_contact_id = (select private.contact_id())
                and ticket_contact_id = (select private.contact_id()))))
    with check (organization_id = (select private.organization_id())
        and ((select private.is_agent()) or not is_internal));
create policy delete_author on public.comments for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead())
            or ((select private.is_agent()) and author_member_id = (select private.member_id()))
            or (author_contact_id = (select private.contact_id())
                and ticket_contact_id = (select private.contact_id()))));
grant select, delete, insert (organization_id, id, ticket_id, body, is_internal, content_type),
    update (body, is_internal)
    on public.comments to authenticated;
grant select, insert (organization_id, id, ticket_id, body, is_internal, content_type) on public.comments to integration;

create function private.tg_comments__defaults() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_ticket record;
begin
    perform private.refuse_foreign(new.organization_id);
    select t.contact_id, t.integration_token_id, t.deleted_at, t.status, t.version into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    -- The ticket's audience may not change until this comment is part of it; _400_ticket writes the row anyway.
    for no key update;
    if not found or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    new.ticket_contact_id := v_ticket.contact_id;
    new.ticket_token_id := v_ticket.integration_token_id;
    new.ticket_version := v_ticket.version + 1;
    if private.token_id() is not null then
        new.author_token_id := private.token_id();
        new.channel := 'api';
    elsif private.is_agent() then
        new.author_member_id := private.member_id();
    elsif private.contact_id() is not null then
        new.author_contact_id := private.contact_id();
        -- Told only to the requester: to anyone else the policy says no first.
        if v_ticket.status = 'closed' and v_ticket.contact_id = private.contact_id() then
            raise sqlstate 'PT409' using message = 'ticket_closed',
                detail = 'This ticket is closed; open a new one.';
        end if;
    end if;
    return new;
end
$$;
comment on function private.tg_comments__defaults() is
    'Names the author and the ticket''s audience. Definer: the ticket may be hidden from the writer.';
alter function private.tg_comments__defaults() owner to deskbase_definer;

create function private.tg_comments__ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    -- One update whatever happens: it counts the version, so that a reply to a stale ticket can be told.
    update public.tickets as t
    set first_response_at = case
            when new.author_member_id is not null and not new.is_internal then coalesce(t.first_response_at, now())
            else t.first_response_at end,
        status = case
            when new.is_internal then t.status
            when new.author_member_id is not null and t.status = 'new' then 'open'
            when new.author_contact_id is not null and t.status in ('waiting', 'resolved') then 'open'
            else t.status end
    where t.organization_id = new.organization_id and t.id = new.ticket_id;
    return null;
end
$$;
comment on function private.tg_comments__ticket() is
    'What a reply does to its ticket: the first answer opens it, the requester''s reply reopens it. Definer: repliers may not write all of this.';
alter function private.tg_comments__ticket() owner to deskbase_definer;

create trigger _100_defaults before insert on public.comments
    for each row execute function private.tg_comments__defaults();
create trigger _100_timestamps before update of body, is_internal on public.comments
    for each row execute function private.tg__timestamps();
create trigger _400_ticket after insert on public.comments
    for each row execute function private.tg_comments__ticket();

create function private.search_query(query text) returns tsquery
language sql immutable
set search_path = ''
-- The parser of queries, unlike that of texts, does not know what comes before :// in an address. What is written
-- together, as order numbers are, is searched as its parts, which the indexes hold; a - before a word is a not.
return regexp_replace(websearch_to_tsquery('simple', regexp_replace(
    regexp_replace(query, '\w+://', ' ', 'g'), '(\w)[-_/]+(?=\w)', '\1 ', 'g'))::text, '''(?=$|[ )])', ''':*', 'g')::tsquery;
comment on function private.search_query(text) is
    'What people type into a search box ("a phrase", -not, or), each word also as the beginning of a longer one, and each part of what is joined by -, _ or /.';

create function private.search_tickets(query text) returns setof uuid
language plpgsql stable security definer rows 100
set search_path = ''
-- How rare the words are and how large the organization decides what is worth reading: no one plan serves all.
set plan_cache_mode = force_custom_plan
as $$
declare
    v_query tsquery := private.search_query(query);
    v_organization_id uuid := private.organization_id();
    v_is_agent boolean := private.is_agent();
    v_contact_id uuid := private.contact_id();
    v_token_id uuid := case when private.has_scope('tickets:read') then private.token_id() end;
    v_most constant integer := 10000;
begin
    -- What the policies of both tables say, so that the indexes of @@ are of use. Numbers grow with time: a word that
    -- is nearly everywhere is found by walking back from the newest, not by collecting all there are.
    return query
    (select t.id
    from public.tickets as t
    where to_tsvector('simple', translate(t.subject || ' ' || t.description, '-_/', '   ')) @@ v_query
        and t.organization_id = v_organization_id and t.deleted_at is null
        and (v_is_agent or t.contact_id = v_contact_id or t.integration_token_id = v_token_id)
    order by t.number desc
    limit v_most)
    union
    (select c.ticket_id
    from public.comments as c
    where to_tsvector('simple', translate(c.body, '-_/', '   ')) @@ v_query
        and c.organization_id = v_organization_id and c.ticket_deleted_at is null
        and (v_is_agent
            or (c.ticket_contact_id = v_contact_id and not c.is_internal)
            or (c.ticket_token_id = v_token_id and (not c.is_internal or c.author_token_id = v_token_id)))
    order by c.number desc
    limit v_most);
end
$$;
comment on function private.search_tickets(text) is
    'The tickets of the one who asks whose subject and description, or one of whose comments, hold all words of a query: by the newest 10,000 of each that do. Definer: it says itself who sees what, because behind a policy full text has no index.';
alter function private.search_tickets(text) owner to deskbase_definer;
grant execute on function private.search_tickets(text) to authenticated, integration;

create table public.attachments (
    organization_id uuid not null default private.organization_id(),
    id uuid not null default gen_random_uuid(),
    ticket_id uuid,
    comment_id uuid,
    uploaded_by_member_id uuid default private.member_id(),
    filename text not null check (length(filename) between 1 and 255),
    mime_type text not null default 'application/octet-stream' check (length(mime_type) between 3 and 255),
    size bigint not null check (size >= 0),
    url text check (url ~ '^https?://' and length(url) <= 2000),
    storage_key text check (length(storage_key) <= 500),
    is_internal boolean not null default false,
    ticket_contact_id uuid,
    ticket_token_id uuid,
    ticket_deleted_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, storage_key),
    constraint attachments_one_place check (url is null or storage_key is null),
    foreign key (organization_id) references public.organizations (id) on delete cascade,
    foreign key (organization_id, ticket_id) references public.tickets (organization_id, id) on delete cascade,
    foreign key (organization_id, comment_id) references public.comments (organization_id, id) on delete cascade,
    foreign key (organization_id, uploaded_by_member_id) references public.members (organization_id, id)
        on delete set null (uploaded_by_member_id)
);
alter table public.attachments enable row level security;
alter table public.attachments force row level security;

comment on table public.attachments is 'A file: uploaded and not yet used, or on a ticket, or on a comment of it.';
comment on column public.attachments.size is 'Bytes.';
comment on column public.attachments.url is 'Where it lies if it lies elsewhere.';
comment on column public.attachments.storage_key is 'Where it lies in our own storage.';
comment on column public.attachments.ticket_contact_id is 'The ticket''s requester, for the policy.';
comment on column public.attachments.ticket_token_id is 'The ticket''s integration, for the policy.';
comment on column public.attachments.ticket_deleted_at is 'The ticket''s deleted_at, for the policy.';

create index attachments_organization_id_ticket_id_idx on public.attachments (organization_id, ticket_id);
create index attachments_organization_id_comment_id_idx on public.attachments (organization_id, comment_id);
create index attachments_organization_id_uploaded_by_member_id_idx
    on public.attachments (organization_id, uploaded_by_member_id);

create policy select_member on public.attachments for select to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_agent()) or uploaded_by_member_id = (select private.member_id())
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy insert_member on public.attachments for insert to authenticated
    with check (organization_id = (select private.organization_id())
        and uploaded_by_member_id = (select private.member_id())
        and ((select private.is_agent()) or ticket_id is null
            or (ticket_contact_id = (select private.contact_id()) and not is_internal)));
create policy delete_member on public.attachments for delete to authenticated
    using (organization_id = (select private.organization_id()) and ticket_deleted_at is null
        and ((select private.is_lead()) or uploaded_by_member_id = (select private.member_id())));
grant select, delete,
    insert (organization_id, id, ticket_id, comment_id, filename, mime_type, size, url)
    on public.attachments to authenticated;

create function private.tg_attachments__of_ticket() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_comment record;
    v_ticket record;
begin
    perform private.refuse_foreign(new.organization_id);
    if new.comment_id is not null then
        select c.ticket_id, c.is_internal into v_comment
        from public.comments as c
        where c.organization_id = new.organization_id and c.id = new.comment_id;
        new.ticket_id := v_comment.ticket_id;
        new.is_internal := coalesce(v_comment.is_internal, false);
    end if;
    if new.ticket_id is null then
        return new;
    end if;
    select t.contact_id, t.integration_token_id, t.deleted_at into v_ticket
    from public.tickets as t
    where t.organization_id = new.organization_id and t.id = new.ticket_id
    for share;
    if not found or v_ticket.deleted_at is not null then
        raise sqlstate 'PT404' using message = 'not_found', detail = 'There is no such ticket.';
    end if;
    new.ticket_contact_id := v_ticket.contact_id;
    new.ticket_token_id := v_ticket.integration_token_id;
    return new;
end
$$;
comment on function private.tg_attachments__of_ticket() is
    'A file on a comment is on its ticket, with the same audience. Definer: the ticket may be hidden from the writer.';
alter function private.tg_attachments__of_ticket() owner to deskbase_definer;

create trigger _100_of_ticket before insert on public.attachments
    for each row execute function private.tg_attachments__of_ticket();

create function private.tg_comments__attachments() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    update public.attachments as a
    set is_internal = new.is_internal
    where a.organization_id = new.organization_id and a.comment_id = new.id;
    return null;
end
$$;
comment on function private.tg_comments__attachments() is
    'A file is as internal as its comment. Definer: it may be another member''s file.';
alter function private.tg_comments__attachments() owner to deskbase_definer;

create trigger _500_attachments after update on public.comments
    for each row when (old.is_internal is distinct from new.is_internal)
    execute function private.tg_comments__attachments();
