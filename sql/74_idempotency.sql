/*
 * Doing things once: the first answer to an Idempotency-Key is stored with its effect, in one transaction.
 */

create table private.idempotency_keys (
    principal text not null,
    operation text not null,
    key text not null check (length(key) <= 255),
    fingerprint bytea not null,
    body text,
    version bigint,
    created_at timestamptz not null default now(),
    primary key (principal, operation, key)
);
alter table private.idempotency_keys enable row level security;
alter table private.idempotency_keys force row level security;
create policy select_definer on private.idempotency_keys for select to deskbase_definer using (true);

comment on table private.idempotency_keys is 'The first answer to each key, kept for a day.';
comment on column private.idempotency_keys.principal is 'Whose key it is: token:… or user:….';
comment on column private.idempotency_keys.fingerprint is 'SHA-256 of what was asked.';

-- Retention.
create index idempotency_keys_created_at_idx on private.idempotency_keys (created_at);

create function private.principal() returns text
language sql stable
set search_path = ''
return coalesce('token:' || private.token_id(), 'user:' || (private.claims() ->> 'sub'));
comment on function private.principal() is 'Who is asking, as limits and keys know them.';
grant execute on function private.principal() to authenticated, integration;

create function private.begin_once(
    operation text, key text, request jsonb,
    out is_repeat boolean, out body text, out version bigint
)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_fingerprint bytea := sha256(convert_to(request::text, 'UTF8'));
    v_seen private.idempotency_keys;
begin
    if key is null then
        is_repeat := false;
        return;
    end if;
    -- A repeat that runs at the same time waits here until the first one has committed or failed.
    insert into private.idempotency_keys as k (principal, operation, key, fingerprint)
    values (private.principal(), begin_once.operation, begin_once.key, v_fingerprint)
    on conflict on constraint idempotency_keys_pkey do update
    set fingerprint = excluded.fingerprint, body = null, version = null, created_at = now()
    where k.created_at < now() - interval '24 hours';
    is_repeat := not found;
    if not is_repeat then
        return;
    end if;
    select k.* into v_seen from private.idempotency_keys as k
    where k.principal = private.principal() and k.operation = begin_once.operation and k.key = begin_once.key;
    if v_seen.fingerprint <> v_fingerprint then
        raise sqlstate 'PT409' using message = 'idempotency_conflict',
            detail = 'This Idempotency-Key was used with another request.';
    end if;
    body := v_seen.body;
    version := v_seen.version;
end
$$;
comment on function private.begin_once(text, text, jsonb) is
    'Claims a key for this transaction, or answers what its first use was answered; without a key nothing is a repeat. Definer: keys are nobody''s to read.';
alter function private.begin_once(text, text, jsonb) owner to deskbase_definer;

create function private.finish_once(operation text, key text, body text, version bigint) returns void
language sql volatile security definer
set search_path = ''
begin atomic
    update private.idempotency_keys as k
    set body = finish_once.body, version = finish_once.version
    where k.principal = private.principal() and k.operation = finish_once.operation and k.key = finish_once.key;
end;
comment on function private.finish_once(text, text, text, bigint) is
    'Stores the answer beside its effect. Definer: keys are nobody''s to write.';
alter function private.finish_once(text, text, text, bigint) owner to deskbase_definer;

grant execute on function private.begin_once(text, text, jsonb), private.finish_once(text, text, text, bigint)
    to authenticated, integration;
