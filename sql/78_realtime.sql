/*
 * Private channels that are the desk's own. Supabase's clients ask for a channel by its name, and policies on
 * realtime.messages say who may hear and who may speak there.
 *
 * desk:ticket:{id} is where the agents who have a ticket open see each other: presence with who views and who types.
 */

create function private.is_ticket_room() returns boolean
language sql stable
set search_path = ''
return (select private.is_agent()) and exists (
    select from public.tickets as t
    where t.organization_id = (select private.organization_id())
        and t.id = substring(
            realtime.topic() from '^desk:ticket:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$')::uuid);
comment on function private.is_ticket_room() is
    'Whether the channel asked about is that of a ticket, and an agent asks who sees the ticket.';
grant execute on function private.is_ticket_room() to authenticated;

create policy select_agent on realtime.messages for select to authenticated
    using (extension in ('broadcast', 'presence') and (select private.is_ticket_room()));
create policy insert_agent on realtime.messages for insert to authenticated
    with check (extension in ('broadcast', 'presence') and (select private.is_ticket_room()));

create function private.presence_meta(topic text, claims jsonb, given jsonb) returns jsonb
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_member record;
begin
    if topic not like 'desk:ticket:%' then
        return given;
    end if;
    if coalesce(given ->> 'state', 'viewing') not in ('viewing', 'typing') then
        raise sqlstate 'PT400' using message = 'invalid_field', detail = 'state is viewing or typing.';
    end if;
    select m.id, m.name into v_member
    from public.members as m
    where m.organization_id = (claims #>> '{app_metadata,organization_id}')::uuid
        and m.id = (claims #>> '{app_metadata,member_id}')::uuid;
    return given || jsonb_build_object(
        'member_id', v_member.id, 'name', v_member.name,
        'state', coalesce(given ->> 'state', 'viewing'), 'since', private.rfc3339(now()));
end
$$;
comment on function private.presence_meta(text, jsonb, jsonb) is
    'What others see of somebody''s presence on a private channel: on a ticket''s, who it really is, and since when they view or type. Definer: it says a member''s name to whoever may be there.';
alter function private.presence_meta(text, jsonb, jsonb) owner to deskbase_definer;
