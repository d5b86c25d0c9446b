/*
 * Mail that is to be sent, queued in the transaction that is its reason. A worker takes it after the commit, and again
 * if it was not delivered. Secrets of a mail (links, codes) are made while it is sent, so none lies here.
 */

create table private.mails (
    id uuid not null default gen_random_uuid() primary key,
    kind text not null check (kind ~ '^[a-z_]{1,40}$'),
    email text not null check (email = lower(email) and length(email) <= 320),
    organization_id uuid references public.organizations (id) on delete cascade,
    data jsonb not null default '{}' check (jsonb_typeof(data) = 'object'),
    attempts integer not null default 0,
    error text check (length(error) <= 200),
    created_at timestamptz not null default clock_timestamp(),
    next_attempt_at timestamptz default now(),
    sent_at timestamptz,
    failed_at timestamptz,
    check ((next_attempt_at is null) = (sent_at is not null or failed_at is not null))
);
alter table private.mails enable row level security;
alter table private.mails force row level security;
create policy select_definer on private.mails for select to deskbase_definer using (true);

comment on table private.mails is 'Outgoing mail: the queue of the worker, and for a week the record of what became of it.';
comment on column private.mails.kind is 'Which text it is: a template of the worker.';
comment on column private.mails.data is 'What its text needs and is no secret.';
comment on column private.mails.created_at is 'When it was written, which keeps the order of the mails of one transaction.';
comment on column private.mails.error is 'Why the last attempt failed, in a word.';
comment on column private.mails.next_attempt_at is 'When a worker may take it; while one has it, the end of that lease; empty once it is done.';

-- What is due, in order.
create index mails_next_attempt_at_idx on private.mails (next_attempt_at) where next_attempt_at is not null;
create index mails_organization_id_idx on private.mails (organization_id);
-- Retention.
create index mails_created_at_idx on private.mails (created_at);

create function private.queue_mail(kind text, email text, organization_id uuid, data jsonb) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    insert into private.mails (kind, email, organization_id, data)
    select queue_mail.kind, lower(queue_mail.email), queue_mail.organization_id,
        coalesce(queue_mail.data, '{}') || coalesce((
            select jsonb_build_object('organization', o.name) from public.organizations as o
            where o.id = queue_mail.organization_id), '{}');
end;
comment on function private.queue_mail(text, text, uuid, jsonb) is
    'Queues a mail in the transaction that is its reason, with the name of the organization in whose name it is sent. Definer: the queue is nobody''s to write.';
alter function private.queue_mail(text, text, uuid, jsonb) owner to deskbase_definer;
grant execute on function private.queue_mail(text, text, uuid, jsonb) to supabase_auth_admin;

create function private.claim_mails(batch integer, lease_seconds integer)
returns table (id uuid, kind text, email text, data jsonb)
language sql volatile security definer
set search_path = ''
begin atomic
    -- Materialized, so that it is looked once, whatever the plan.
    with due as materialized (
        select q.id from private.mails as q
        where q.next_attempt_at <= now()
        order by q.next_attempt_at
        limit batch
        for update skip locked
    )
    update private.mails as m
    set attempts = m.attempts + 1, next_attempt_at = now() + lease_seconds * interval '1 second'
    from due
    where m.id = due.id
    returning m.id, m.kind, m.email, m.data;
end;
comment on function private.claim_mails(integer, integer) is
    'Takes mails that are due, for as long as the lease. Definer: the queue is the worker''s alone.';
alter function private.claim_mails(integer, integer) owner to deskbase_definer;
grant execute on function private.claim_mails(integer, integer) to authenticator;

create function private.finish_mail(id uuid, error text default null, is_final boolean default false) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    update private.mails as m
    set error = left(finish_mail.error, 200),
        sent_at = case when finish_mail.error is null then now() end,
        failed_at = case
            when finish_mail.error is not null and (is_final or m.created_at < now() - interval '24 hours')
            then now() end,
        next_attempt_at = case
            when finish_mail.error is not null and not is_final and m.created_at >= now() - interval '24 hours'
            then now() + least(10 * 2 ^ least(m.attempts - 1, 10), 3600) * interval '1 second' end
    where m.id = finish_mail.id and m.next_attempt_at is not null;
end;
comment on function private.finish_mail(uuid, text, boolean) is
    'Notes that a claimed mail was sent or, with an error, when to try again: after 10 s, then twice as long each time, an hour at most, for a day; never after a final one. Definer: the queue is the worker''s alone.';
alter function private.finish_mail(uuid, text, boolean) owner to deskbase_definer;
grant execute on function private.finish_mail(uuid, text, boolean) to authenticator;

create function private.read_mail(id uuid) returns private.mails
language sql stable security definer
set search_path = ''
begin atomic
    select m from private.mails as m where m.id = read_mail.id;
end;
comment on function private.read_mail(uuid) is 'A queued mail. Definer: the auth service makes the secrets of its mails.';
alter function private.read_mail(uuid) owner to deskbase_definer;
grant execute on function private.read_mail(uuid) to supabase_auth_admin;

create function private.take_mail(email text) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    return (private.take('mail', 'mail:' || encode(sha256(convert_to(lower(email), 'UTF8')), 'hex'), 1, 12, 3600)).granted = 1;
end
$$;
comment on function private.take_mail(text) is
    'Whether one more mail may go to this address in this hour, at its reader''s own wish; twelve may. Definer: it counts.';
alter function private.take_mail(text) owner to deskbase_definer;
grant execute on function private.take_mail(text) to supabase_auth_admin;
