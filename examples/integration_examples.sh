#!/usr/bin/env bash
# Walks through the integration-tickets API with curl: every operation, then every kind of error that can be shown.
#
#   export TOKEN="stk_…"                                   an integration token
#   export BASE_URL="http://127.0.0.1:8000/integration-tickets"
#   bash examples/integration_examples.sh
#
# Ends with 0 if each answer had the status and the code that it was to have, and at the first one that had not with 1.
set -euo pipefail

: "${TOKEN:?set TOKEN to an integration token}"
: "${BASE_URL:?set BASE_URL, such as http://127.0.0.1:8000/integration-tickets}"
BASE_URL="${BASE_URL%/}"

answer="$(mktemp -d)"
trap 'rm -rf "$answer"' EXIT

# call EXPECTED_STATUS METHOD PATH [curl options]: shows the request and its answer, and demands the status.
call() {
    local expected="$1" method="$2" path="$3" status
    shift 3
    printf '\n> %s %s\n' "$method" "$path"
    status="$(curl --silent --show-error --max-time 30 --request "$method" --output "$answer/body" \
        --dump-header "$answer/head" --write-out '%{http_code}' "$@" "$BASE_URL$path")"
    printf '< %s %s\n' "$status" "$(cat "$answer/body")"
    if [[ "$status" != "$expected" ]]; then
        echo "This should have been answered with $expected." >&2
        exit 1
    fi
}

# The same with the token, and a JSON body where one is given.
authorized() {
    call "$@" --header "Authorization: Bearer $TOKEN"
}
send() {
    local expected="$1" method="$2" path="$3" body="$4"
    shift 4
    authorized "$expected" "$method" "$path" --header 'Content-Type: application/json' --data "$body" "$@"
}

# text NAME: the first text of that name in the last answer. header NAME: a header of it.
text() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" "$answer/body" | head -n 1; }
header() {
    awk -v name="$1:" 'tolower($1) == name { sub(/^[^:]*: */, ""); sub(/\r$/, ""); print; exit }' "$answer/head"
}

# is WHAT ACTUAL EXPECTED
is() {
    if [[ "$2" != "$3" ]]; then
        echo "$1 should have been '$3', not '$2'." >&2
        exit 1
    fi
}
error_is() { is "The error" "$(text error)" "$1"; }

echo '== Health check'
authorized 200 GET /
is "The status" "$(text status)" ok

echo
echo '== A ticket from its creation to its end'
send 201 POST /tickets '{
    "title": "Order processing issue",
    "description": "Customer order #12345 is stuck in processing",
    "priority": "high",
    "category": "Orders",
    "metadata": {"order_number": "12345"}
}'
id="$(sed -n 's/.*"ticket" *: *{ *"id" *: *"\([^"]*\)".*/\1/p' "$answer/body")"
is "The new ticket's status" "$(text status)" open

authorized 200 GET "/tickets/$id"
is "The title" "$(text title)" "Order processing issue"
etag="$(header etag)"

send 201 POST "/tickets/$id/comments" '{"content": "Customer has been contacted and we are investigating."}'
send 201 POST "/tickets/$id/comments" '{"content": "The warehouse has the parcel.", "is_internal": true}'
send 200 PATCH "/tickets/$id/status" '{"status": "in_progress"}'

authorized 200 GET "/tickets/$id"
is "The ticket's status" "$(text status)" in_progress
printf 'Requests left this hour: %s of %s\n' "$(header x-ratelimit-remaining)" "$(header x-ratelimit-limit)"

echo
echo '== A repeat with the same Idempotency-Key gets the first answer'
key="example-$id"
send 201 POST /tickets '{"title": "Only once"}' --header "Idempotency-Key: $key"
first="$(cat "$answer/body")"
send 201 POST /tickets '{"title": "Only once"}' --header "Idempotency-Key: $key"
is "The second answer" "$(cat "$answer/body")" "$first"
send 409 POST /tickets '{"title": "Something else"}' --header "Idempotency-Key: $key"
error_is idempotency_conflict

echo
echo '== A write that has not seen the latest comments is refused'
send 412 PATCH "/tickets/$id/status" '{"status": "resolved"}' --header "If-Match: $etag"
error_is stale
authorized 200 GET "/tickets/$id"
send 200 PATCH "/tickets/$id/status" '{"status": "resolved"}' --header "If-Match: $(header etag)"

echo
echo '== Errors'
call 401 GET "/tickets/$id"
error_is missing_token
call 401 GET "/tickets/$id" --header 'Authorization: Bearer stk_this_is_no_token'
error_is invalid_token
authorized 404 GET /tickets/00000000-0000-4000-8000-000000000000
error_is not_found
authorized 400 GET /tickets/not-a-uuid
error_is invalid_field
send 400 POST /tickets '{"description": "It has no title."}'
error_is missing_required_field
send 400 POST /tickets '{"title": "Too urgent", "priority": "apocalyptic"}'
error_is invalid_field
send 400 POST /tickets '{"title": '
error_is invalid_json
send 400 POST "/tickets/$id/comments" '{}'
error_is missing_required_field
send 400 PATCH "/tickets/$id/status" '{"status": "done"}'
error_is invalid_field
{ printf '{"title": "Too large", "description": "'; head -c 1100000 /dev/zero | tr '\0' x; printf '"}'; } > "$answer/large"
authorized 413 POST /tickets --header 'Content-Type: application/json' --data "@$answer/large"
error_is payload_too_large
authorized 415 POST /tickets --header 'Content-Type: text/plain' --data 'title=No'
error_is unsupported_media_type
authorized 405 DELETE "/tickets/$id"
error_is method_not_allowed

echo
echo '== The end'
send 200 PATCH "/tickets/$id/status" '{"status": "closed"}'
is "The ticket's status" "$(text status)" closed
echo
echo "All answers were as expected; the ticket was $id."
