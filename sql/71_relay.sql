/*
 * What the relay asks of the log and of claims. Its cursor is a snapshot that ends right behind the last event that it
 * has seen: transaction ids behind that one may be handed out again after a crash, if those who had them wrote
 * nothing that had to reach the disk. A snapshot as it is would take them for seen.
 */

create function private.end_of_log(known pg_snapshot) returns pg_snapshot
language sql stable security definer
set search_path = ''
begin atomic
    select format('%s:%s:%s', coalesce(min(u.xid), l.edge), l.edge, string_agg(u.xid::text, ',' order by u.xid))::pg_snapshot
    from (
        select least(
            coalesce(max(e.xid)::text::bigint + 1, pg_snapshot_xmax(known)::text::bigint, 1),
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as edge
        from private.events as e
        where e.xid >= coalesce(pg_snapshot_xmax(known), '0')
    ) as l
    left join lateral (
        select x.xid::text::bigint as xid from pg_snapshot_xip(pg_current_snapshot()) as x (xid)
    ) as u on u.xid < l.edge
    group by l.edge;
end;
comment on function private.end_of_log(pg_snapshot) is
    'The cursor of a reader who has seen every event that is visible now; known is one of theirs from before. Definer: the log is for the service alone.';
alter function private.end_of_log(pg_snapshot) owner to deskbase_definer;
grant execute on function private.end_of_log(pg_snapshot) to authenticator;

create function private.read_log(
    since pg_snapshot, until pg_snapshot, after_id bigint, organization_ids uuid[], batch_size integer
) returns table (id bigint, event text)
language sql stable security definer
set search_path = ''
begin atomic
    select e.id, json_build_object(
        'id', e.id, 'xid', e.xid::text, 'at', e.at, 'organization_id', e.organization_id,
        'type', e.type, 'schema', e.schema_name, 'table', e.table_name, 'operation', e.operation,
        'ids', jsonb_strip_nulls(jsonb_build_object(
            'id', r.row ->> 'id', 'ticket_id', r.row ->> 'ticket_id', 'member_id', r.row ->> 'member_id',
            'contact_id', coalesce(r.row ->> 'contact_id', r.row ->> 'ticket_contact_id'),
            'token_id', coalesce(r.row ->> 'integration_token_id', r.row ->> 'ticket_token_id'))))::text
    from private.events as e
    cross join lateral (select coalesce(e.record, e.old_record)) as r (row)
    where e.xid >= pg_snapshot_xmin(since)
        and e.xid < pg_snapshot_xmax(until)
        and e.id > after_id
        and not pg_visible_in_snapshot(e.xid, since)
        and pg_visible_in_snapshot(e.xid, until)
        and (organization_ids is null or e.organization_id is null or e.organization_id = any (organization_ids))
    order by e.id
    limit batch_size;
end;
comment on function private.read_log(pg_snapshot, pg_snapshot, bigint, uuid[], integer) is
    'As read_events, of some organizations and of tables that belong to none, without the rows but for the ids that events are picked by. Definer: the log is for the service alone.';
alter function private.read_log(pg_snapshot, pg_snapshot, bigint, uuid[], integer) owner to deskbase_definer;
grant execute on function private.read_log(pg_snapshot, pg_snapshot, bigint, uuid[], integer) to authenticator;

create function private.logged_rows(events jsonb) returns setof private.events
language sql stable security definer
set search_path = ''
begin atomic
    select e.*
    from jsonb_to_recordset(events) as t (id bigint, xid xid8, at timestamptz)
    join private.events as e on e.xid = t.xid and e.id = t.id and e.at = t.at;
end;
comment on function private.logged_rows(jsonb) is
    'The whole rows of events as read_log told them, for what turns them into messages: it looks here before it enters as their reader. Definer: the log is for the service alone.';
alter function private.logged_rows(jsonb) owner to deskbase_definer;
grant execute on function private.logged_rows(jsonb) to authenticator;

create function private.is_in_log(since pg_snapshot, until pg_snapshot, taken_at timestamptz) returns boolean
language sql stable
set search_path = ''
return taken_at > now() - interval '24 hours'
    and pg_snapshot_xmin(since) <= pg_snapshot_xmin(until)
    and pg_snapshot_xmax(until) <= pg_snapshot_xmax(pg_current_snapshot());
comment on function private.is_in_log(pg_snapshot, pg_snapshot, timestamptz) is
    'Whether everything after a position is still in the log, as long as private.maintain keeps it, and the position is one of this server.';
grant execute on function private.is_in_log(pg_snapshot, pg_snapshot, timestamptz) to authenticator;

create function private.claims_now(claims jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_organization_id text := claims #>> '{app_metadata,organization_id}';
    v_claims jsonb := claims;
begin
    if claims ->> 'role' = 'authenticated' then
        v_claims := private.fresh_claims(claims);
    elsif claims ->> 'role' = 'integration' then
        select jsonb_set(claims, '{app_metadata,scopes}', to_jsonb(t.scopes))
        into v_claims
        from public.integration_tokens as t
        join public.organizations as o on o.id = t.organization_id and o.deleted_at is null
        where t.organization_id = v_organization_id::uuid and t.id = (claims #>> '{app_metadata,token_id}')::uuid
            and (t.expires_at is null or t.expires_at > now()) and t.disabled_at is null and t.revoked_at is null;
    end if;
    if v_claims #>> '{app_metadata,organization_id}' is distinct from v_organization_id then
        return null;
    end if;
    return v_claims;
end
$$;
comment on function private.claims_now(jsonb) is
    'Admitted claims as they would be admitted now; null if they would not, or for another organization. Definer: nobody reads sessions.';
alter function private.claims_now(jsonb) owner to deskbase_definer;

create function private.changed_claims(claims jsonb[]) returns table (place bigint, fresh text)
language sql stable security definer
set search_path = ''
begin atomic
    select g.place, n.claims::text
    from unnest(changed_claims.claims) with ordinality as g (claims, place)
    cross join lateral (select private.claims_now(g.claims)) as n (claims)
    where n.claims is distinct from g.claims;
end;
comment on function private.changed_claims(jsonb[]) is
    'Which of the claims that sockets were admitted under have changed, by their place from 1, and what they are now: null if they are over. Definer: nobody reads sessions.';
alter function private.changed_claims(jsonb[]) owner to deskbase_definer;
grant execute on function private.changed_claims(jsonb[]) to authenticator;
