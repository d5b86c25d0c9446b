"""Nothing that a client can send is a 5xx, and every refusal names what is wrong."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Person, Sender, assert_bad, assert_error

JSON = {"Content-Type": "application/json"}
OPERATIONS = [("/tickets", "title"), ("/tickets/{}/messages", "content")]
NO_UUIDS = ("1", "x" * 500, "550e8400-e29b-41d4-a716-44665544000g", "%00", "'; drop table tickets; --")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "new"),
        ("status", "waiting"),
        ("status", "OPEN"),
        ("status", "null"),
        ("status", "open,resolved"),
        ("priority", "urgent"),
        ("priority", "normal"),
        *[("category", text) for text in (*NO_UUIDS, "null")],
        *[("page", text) for text in ("0", "-1", "1.5", "+1", " 1", "one", "null", "\u0661", "9" * 40)],
        *[("limit", text) for text in ("0", "-1", "101", "1.5", "all", "9" * 40)],
    ],
)
def test_filter_or_page_that_is_none(customer: Person, name: str, value: str) -> None:
    assert_bad(customer.get("/tickets", params={name: value}), name)


@pytest.mark.parametrize("query", ["status=%00", "status=%ff", "status=\udcff", "priority=%00&status=open"])
def test_parameter_that_is_no_text(customer: Person, query: str) -> None:
    assert_bad(customer.get(f"/tickets?{query.encode('utf-8', 'surrogateescape').decode('latin-1')}"))


@pytest.mark.parametrize("query", ["page=0", "limit=101", "limit=0", "page=x"])
def test_page_of_messages_that_is_none(customer: Person, ticket: str, query: str) -> None:
    assert_bad(customer.get(f"/tickets/{ticket}/messages?{query}"), query[:4])


def test_largest_page_and_unknown_parameters_are_taken(customer: Person) -> None:
    answer = customer.get("/tickets?page=1000000000&limit=100&sort=down&=&x")
    assert (answer.status_code, answer.json()["items"]) == (200, [])


@pytest.mark.parametrize("name", ["status", "priority", "category", "page", "limit"])
def test_parameter_without_a_value_is_not_left_out(customer: Person, name: str) -> None:
    assert_bad(customer.get(f"/tickets?{name}="), name)


@pytest.mark.parametrize("bad", NO_UUIDS)
def test_id_that_is_no_uuid(customer: Person, bad: str) -> None:
    assert_bad(customer.get(f"/tickets/{bad}"), "ticket_id")
    assert_bad(customer.get(f"/tickets/{bad}/messages"), "ticket_id")
    assert_bad(customer.says(bad, "x"), "ticket_id")


@pytest.mark.parametrize(("path", "field"), OPERATIONS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"title": "x"} trailing',
        b"{'title': 'x'}",
        b'{"title": NaN, "content": NaN}',
        b'{"title": "\x01", "content": "\x01"}',
        b'{"title": "\xff\xfe", "content": "\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        b"[" * 10_000 + b"]" * 10_000,
        b"[]",
        b'"title"',
        b"null",
        b"42",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_body_that_is_no_json_object(
    customer: Person, ticket: str, path: str, field: str, body: bytes
) -> None:
    assert_bad(customer.post(path.format(ticket), content=body, headers=JSON))


@pytest.mark.parametrize(("path", "field"), OPERATIONS)
@pytest.mark.parametrize(
    "value",
    ["null", '""', r'" \n"', "5", "true", "[]", "{}", "1e400", r'"a\u0000b"', r'"\ud800"', r'"\udc00x"'],
)
def test_required_field_that_is_none(
    customer: Person, ticket: str, path: str, field: str, value: str
) -> None:
    body = f'{{"{field}": {value}}}'
    assert_bad(customer.post(path.format(ticket), content=body, headers=JSON), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "x" * 501),
        ("description", 5),
        ("description", "x" * 100_001),
        ("description", "a\0b"),
        ("priority", "urgent"),
        ("priority", ""),
        ("priority", 1),
        ("category_id", "Billing"),
        ("category_id", 5),
        ("category_id", ""),
        ("category_id", "00000000-0000-4000-8000-000000000000"),
    ],
)
def test_ticket_with_a_bad_field(customer: Person, field: str, value: Any) -> None:
    assert_bad(customer.post("/tickets", json={"title": "x", field: value}), field)


@pytest.mark.parametrize("value", ["yes", 1, []])
def test_is_internal_must_be_a_boolean(agent: Person, ticket: str, value: Any) -> None:
    assert_bad(agent.says(ticket, "x", is_internal=value), "is_internal")


def test_message_has_a_limit(customer: Person, ticket: str) -> None:
    assert_bad(customer.says(ticket, "x" * 100_001), "content")


def test_category_of_another_organization_is_none(stranger: Person, category: str) -> None:
    assert_bad(stranger.post("/tickets", json={"title": "x", "category_id": category}), "category_id")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "x"])
def test_media_type_must_be_json(customer: Person, sender: Sender, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    assert_error(customer.post("/tickets", content=b'{"title": "x"}', headers=headers), 415)
    assert_error(sender.deliver(b"{}", headers), 415)


def test_body_over_one_mebibyte_is_too_large(customer: Person, sender: Sender) -> None:
    big = b'{"title": "' + b"x" * 1_048_576 + b'"}'
    assert_error(customer.post("/tickets", content=big, headers=JSON), 413)
    assert_error(customer.post("/tickets", content=iter([big[:999_999], big[999_999:]]), headers=JSON), 413)
    assert_error(sender.deliver(big), 413)


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ü"])
def test_bad_idempotency_key(customer: Person, ticket: str, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    for path in ("/tickets", f"/tickets/{ticket}/messages"):
        answer = customer.post(path, json={"title": "x", "content": "x"}, headers=headers)
        assert_bad(answer, "Idempotency-Key")


@pytest.mark.parametrize("etag", ["1", "", '"x"', '"1", "2"', '"-1"', '"99999999999999999999"'])
def test_bad_if_match(customer: Person, ticket: str, etag: str) -> None:
    answer = customer.post(f"/tickets/{ticket}/messages", json={"content": "x"}, headers={"If-Match": etag})
    assert_bad(answer, "If-Match")


# The incoming webhook


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        ("ticket.created", "external_id", None),
        ("ticket.created", "external_id", " "),
        ("ticket.created", "external_id", "x" * 321),
        ("ticket.created", "external_id", 5),
        ("ticket.created", "title", None),
        ("ticket.created", "title", "x" * 501),
        ("ticket.created", "description", 5),
        ("ticket.created", "status", "waiting"),
        ("ticket.created", "priority", "urgent"),
        ("ticket.created", "category_id", "Billing"),
        ("ticket.created", "category_id", "00000000-0000-4000-8000-000000000000"),
        ("ticket.updated", "external_id", None),
        ("ticket.updated", "title", ""),
        ("ticket.updated", "status", ""),
        ("ticket.updated", "priority", 5),
        ("ticket.updated", "category_id", ""),
        ("message.created", "external_id", None),
        ("message.created", "message_id", None),
        ("message.created", "message_id", "x" * 321),
        ("message.created", "content", " "),
        ("message.created", "content", "x" * 100_001),
        ("message.created", "is_internal", "yes"),
    ],
)
def test_delivery_with_a_bad_field(
    sender: Sender, external_id: str, event: str, field: str, value: Any
) -> None:
    data = {"external_id": external_id, "title": "x", "message_id": external_id, "content": "x", field: value}
    assert_bad(sender.sends(event, **data), field)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"event": "ticket.created"},
        {"event": "ticket.created", "data": None},
        {"event": "ticket.created", "data": []},
        {"event": "ticket.created", "data": "x"},
        {"event": "ticket.created", "data": {"external_id": "x", "title": "x", "description": "a\0b"}},
        {"event": "ticket.deleted", "data": {}},
        {"event": "", "data": {}},
        {"event": None, "data": {}},
        {"event": ["ticket.created"], "data": {}},
        {"data": {"external_id": "x", "title": "x"}},
    ],
    ids=repr,
)
def test_delivery_of_no_known_event(sender: Sender, body: dict[str, Any]) -> None:
    assert_bad(sender.deliver(json.dumps(body).encode()))


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff", b'{"event": NaN}'], ids=repr)
def test_delivery_that_is_no_json_object(sender: Sender, content: bytes) -> None:
    assert_bad(sender.deliver(content))


def test_delivery_for_no_account_is_forbidden(sender: Sender) -> None:
    for account in ("x", "x" * 5000):
        answer = sender.post("/webhooks/incoming", params={"account": account}, json={})
        assert_error(answer, 403, "Insufficient permissions")
    assert_bad(sender.post("/webhooks/incoming?account=%00", json={}))


# Anything


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["title", "description", "priority", "category_id", "content", "is_internal"]
OUTSIDE = ["external_id", "message_id", "status", *FIELDS]
relaxed = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def is_taken_or_refused(answer: httpx.Response) -> None:
    assert answer.status_code in {200, 201, 400, 403, 404}, answer.text


@relaxed
@given(body=st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_json_is_taken_or_refused(customer: Person, ticket: str, body: dict[str, Any]) -> None:
    for path, _ in OPERATIONS:
        content = json.dumps(body).encode()
        is_taken_or_refused(customer.post(path.format(ticket), content=content, headers=JSON))


@relaxed
@given(
    event=st.sampled_from(["ticket.created", "ticket.updated", "message.created"]),
    data=st.dictionaries(st.sampled_from(OUTSIDE), json_values) | json_values,
)
def test_any_delivery_is_taken_or_refused(sender: Sender, event: str, data: Any) -> None:
    is_taken_or_refused(sender.deliver(json.dumps({"event": event, "data": data}).encode()))
