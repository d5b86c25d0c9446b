/*
 * The limiter, one for every way in. A window is counted in one row that is updated in place; windows are aligned to the
 * clock and exact: of a limit of N, N requests pass, however many processes ask.
 */

create table private.rate_windows (
    bucket text not null,
    subject text not null,
    window_start timestamptz not null,
    used integer not null,
    last_grant integer not null,
    primary key (bucket, subject)
) with (fillfactor = 50);
alter table private.rate_windows enable row level security;
alter table private.rate_windows force row level security;
create policy select_definer on private.rate_windows for select to deskbase_definer using (true);

comment on table private.rate_windows is 'How much of its current window each subject has used; rows half empty, so that updates stay on their page.';
comment on column private.rate_windows.bucket is 'What is limited: a contract, or rest.';
comment on column private.rate_windows.subject is 'Who is limited: token:…, user:…, organization:…, address:….';
comment on column private.rate_windows.last_grant is 'How many of the requests that were asked for last were granted.';

create function private.take(
    bucket text, subject text, wanted integer, allowed integer, window_seconds integer,
    out granted integer, out remaining integer, out resets_at bigint
)
language plpgsql volatile
set search_path = ''
as $$
declare
    v_start bigint := floor(extract(epoch from now()) / window_seconds)::bigint * window_seconds;
begin
    -- A transaction that waited over the turn of the window counts in the window that is there by then.
    insert into private.rate_windows as w (bucket, subject, window_start, used, last_grant)
    values (take.bucket, take.subject, to_timestamp(v_start), least(wanted, allowed), least(wanted, allowed))
    on conflict on constraint rate_windows_pkey do update
    set used = case
            when w.window_start < excluded.window_start then least(wanted, allowed)
            else w.used + greatest(least(wanted, allowed - w.used), 0) end,
        last_grant = case
            when w.window_start < excluded.window_start then least(wanted, allowed)
            else greatest(least(wanted, allowed - w.used), 0) end,
        window_start = greatest(w.window_start, excluded.window_start)
    where w.window_start < excluded.window_start or w.used < allowed
    returning w.last_grant, allowed - w.used, extract(epoch from w.window_start)::bigint + window_seconds
    into granted, remaining, resets_at;
    if not found then
        granted := 0;
        remaining := 0;
        resets_at := v_start + window_seconds;
    end if;
end
$$;
comment on function private.take(text, text, integer, integer, integer) is
    'Takes up to wanted requests from a subject''s window.';
alter function private.take(text, text, integer, integer, integer) owner to deskbase_definer;

create function private.give_back(bucket text, subject text, unused integer) returns void
language sql volatile
set search_path = ''
begin atomic
    update private.rate_windows as w set used = greatest(w.used - unused, 0)
    where w.bucket = give_back.bucket and w.subject = give_back.subject;
end;
comment on function private.give_back(text, text, integer) is
    'Returns what was taken in this transaction and could not be used.';
alter function private.give_back(text, text, integer) owner to deskbase_definer;
