/*
 * The words that contracts show for the canonical ones, in one place. A contract's functions read its part; nothing else does.
 */

create function private.words(contract text) returns jsonb
language sql immutable
set search_path = ''
return '{
    "support_platform": {
        "status": {"new": "open", "open": "open", "in_progress": "in_progress", "waiting": "in_progress",
            "on_hold": "in_progress", "resolved": "resolved", "closed": "resolved"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "high"}
    },
    "omnichannel": {
        "status": {"new": "new", "open": "open", "in_progress": "open", "waiting": "pending_customer",
            "on_hold": "open", "resolved": "resolved", "closed": "closed"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "urgent"}
    },
    "support_desk": {
        "status": {"new": "new", "open": "open", "in_progress": "open", "waiting": "pending",
            "on_hold": "hold", "resolved": "solved", "closed": "closed"},
        "priority": {"low": "low", "medium": "normal", "high": "high", "urgent": "urgent"}
    },
    "helpdesk": {
        "status": {"new": "open", "open": "open", "in_progress": "in_progress", "waiting": "in_progress",
            "on_hold": "in_progress", "resolved": "resolved", "closed": "closed"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "urgent"}
    },
    "integration_tickets": {
        "status": {"new": "open", "open": "open", "in_progress": "in_progress", "waiting": "waiting",
            "on_hold": "waiting", "resolved": "resolved", "closed": "closed"},
        "priority": {"low": "low", "medium": "medium", "high": "high", "urgent": "urgent"}
    }
}'::jsonb -> contract;
comment on function private.words(text) is
    'What a contract calls each canonical status and priority. Several canonical values may share a word; the word that a ticket shows already moves nothing.';
grant execute on function private.words(text) to anon, authenticated, integration, service_role, authenticator;

create function private.canonical(contract text, field text, word text) returns text[]
language sql immutable
set search_path = ''
begin atomic
    select coalesce(array_agg(w.key order by w.key), '{}')
    from jsonb_each_text(private.words(contract) -> field) as w
    where w.value = word;
end;
comment on function private.canonical(text, text, text) is
    'Every canonical value that a contract shows as this word: what a filter for it matches; none for a word that it does not know.';
grant execute on function private.canonical(text, text, text) to anon, authenticated, integration, service_role;

create function private.new_canonical(contract text, field text, word text, present text) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
    v_values text[] := private.canonical(contract, field, word);
begin
    if present = any (v_values) then
        return present;
    end if;
    -- Of several it is the one that has the word's own name.
    return case
        when word = any (v_values) then word
        when cardinality(v_values) > 0 then v_values[1] end;
end
$$;
comment on function private.new_canonical(text, text, text, text) is
    'What writing a word means for a ticket that has the present value: nothing if it shows that word already; null for an unknown word.';
grant execute on function private.new_canonical(text, text, text, text) to anon, authenticated, integration, service_role;
