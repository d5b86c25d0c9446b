"""Nothing that a client can send is a 5xx, and every refusal names what is wrong."""

import json
import socket
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.desk import Desk

from .conftest import BASE, Partner
from .test_errors import assert_error

JSON = {"Content-Type": "application/json"}
OPERATIONS = [
    ("POST", "/tickets", "title"),
    ("POST", "/tickets/{}/comments", "content"),
    ("PATCH", "/tickets/{}/status", "status"),
]


def send(partner: Partner, ticket: str, operation: tuple[str, str, str], body: bytes) -> httpx.Response:
    method, path, _ = operation
    return partner.request(method, path.format(ticket), content=body, headers=JSON)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation[2])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"title": "x"} trailing',
        b"{'title': 'x'}",
        b'{"title": NaN}',
        b'{"title": "\x01"}',
        b'{"title": "\xff\xfe"}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"title": "x", "content": "x", "status": "open", "metadata": '
        + b'{"a":' * 10_000
        + b"1"
        + b"}" * 10_001,
        b"[]",
        b'"title"',
        b"null",
        b"42",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_body_that_is_no_json_object(
    partner: Partner, ticket: str, operation: tuple[str, str, str], body: bytes
) -> None:
    assert_error(send(partner, ticket, operation, body), 400, "invalid_json")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation[2])
@pytest.mark.parametrize(
    "value", ["5", "true", "[]", "{}", '["x"]', "1e400", r'"a\u0000b"', r'"\ud800"', r'"\udc00x"']
)
def test_required_field_of_the_wrong_kind(
    partner: Partner, ticket: str, operation: tuple[str, str, str], value: str
) -> None:
    answer = send(partner, ticket, operation, f'{{"{operation[2]}": {value}}}'.encode())
    assert_error(answer, 400, "invalid_field")
    assert answer.json()["details"] == operation[2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "x" * 501),
        ("description", 5),
        ("description", "x" * 100_001),
        ("description", "a\0b"),
        ("priority", "extreme"),
        ("priority", ""),
        ("priority", 1),
        ("category", ["x"]),
        ("category", "a\0"),
        ("metadata", []),
        ("metadata", "text"),
        ("metadata", 5),
        ("metadata", {"a": "\0"}),
        ("metadata", {"a": {"b": ["\0"]}}),
        ("metadata", {"a\0": 1}),
    ],
)
def test_ticket_with_a_bad_field(partner: Partner, field: str, value: Any) -> None:
    answer = partner.post("/tickets", json={"title": "x", field: value})
    assert_error(answer, 400, "invalid_field")
    assert answer.json()["details"] == field


@pytest.mark.parametrize("metadata", [r'{"a": "\ud800"}', '{"a": 1e999999}', '{"a": -1e-999999}'])
def test_metadata_that_postgres_cannot_store(partner: Partner, metadata: str) -> None:
    answer = partner.post("/tickets", content=f'{{"title": "x", "metadata": {metadata}}}', headers=JSON)
    assert answer.status_code in {201, 400}
    if answer.status_code == 400:
        assert_error(answer, 400, "invalid_field")


def test_title_of_500_characters_of_any_plane_fits(partner: Partner) -> None:
    answer = partner.post("/tickets", json={"title": "🔥" * 500})
    assert answer.status_code == 201
    assert answer.json()["ticket"]["title"] == "🔥" * 500


@pytest.mark.parametrize("value", ['"yes"', "1", "[]"])
def test_is_internal_must_be_a_boolean(partner: Partner, ticket: str, value: str) -> None:
    body = f'{{"content": "x", "is_internal": {value}}}'
    answer = partner.post(f"/tickets/{ticket}/comments", content=body, headers=JSON)
    assert_error(answer, 400, "invalid_field")
    assert answer.json()["details"] == "is_internal"


@pytest.mark.parametrize("status", ["new", "on_hold", "Open", "deleted"])
def test_unknown_status_is_named(partner: Partner, ticket: str, status: str) -> None:
    answer = partner.patch(f"/tickets/{ticket}/status", json={"status": status})
    assert_error(answer, 400, "invalid_field")
    assert "waiting" in answer.json()["message"]


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
def test_media_type_must_be_json(partner: Partner, media_type: str) -> None:
    answer = partner.post("/tickets", content=b'{"title": "x"}', headers={"Content-Type": media_type})
    assert_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
def test_every_spelling_of_json_is_taken(partner: Partner, media_type: str) -> None:
    answer = partner.post("/tickets", content=b'{"title": "x"}', headers={"Content-Type": media_type})
    assert answer.status_code == 201


def test_media_type_may_be_left_out(partner: Partner) -> None:
    answer = partner.post("/tickets", content=b'{"title": "x"}')
    assert "content-type" not in answer.request.headers
    assert answer.status_code == 201


def test_body_over_one_mebibyte_is_too_large(partner: Partner) -> None:
    big = b'{"title": "' + b"x" * 2_000_000 + b'"}'
    assert_error(partner.post("/tickets", content=big, headers=JSON), 413, "payload_too_large")
    chunked = partner.post("/tickets", content=iter([big[:1_000_000], big[1_000_000:]]), headers=JSON)
    assert_error(chunked, 413, "payload_too_large")


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "a\tb", "ü"])
def test_bad_idempotency_key(partner: Partner, ticket: str, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    assert_error(partner.post("/tickets", json={"title": "x"}, headers=headers), 400, "invalid_field")
    answer = partner.post(f"/tickets/{ticket}/comments", json={"content": "x"}, headers=headers)
    assert_error(answer, 400, "invalid_field")


@pytest.mark.parametrize(
    "etag", ["1", "", '"x"', '"1", "2"', "W/1", '"-1"', '"99999999999999999999"', '"\uff11"']
)
def test_bad_if_match(partner: Partner, ticket: str, etag: str) -> None:
    headers = {b"If-Match": etag.encode()}
    answer = partner.post(f"/tickets/{ticket}/comments", json={"content": "x"}, headers=headers)
    assert_error(answer, 400, "invalid_field")
    answer = partner.patch(f"/tickets/{ticket}/status", json={"status": "open"}, headers=headers)
    assert_error(answer, 400, "invalid_field")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /integration-tickets/\xff HTTP/1.1\r\nHost: x",
        b"GET /integration-tickets/%zz HTTP/1.1\r\nHost: x",
        b"GET /integration-tickets/tickets?\xff=%00 HTTP/1.1\r\nHost: x",
        b"GET /integration-tickets/ HTTP/1.1\r\nHost: a b",
        b"GET /integration-tickets/ HTTP/1.1\r\nHost:",
        b"POST /integration-tickets/tickets HTTP/1.1\r\nHost: x\r\nContent-Length: -1",
        b"POST /integration-tickets/tickets HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2",
        b"POST /integration-tickets/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    ],
    ids=repr,
)
def test_no_head_is_a_server_error(desk: Desk, partner: Partner, head: bytes) -> None:
    port = int(desk.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        token = f"\r\nAuthorization: Bearer {partner.token}\r\nConnection: close\r\n\r\n"
        connection.sendall(head + token.encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(200)
    assert answer[:10] in {b"", b"HTTP/1.1 4", b"HTTP/1.1 2"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(
        st.sampled_from(["title", "description", "priority", "category", "metadata", "content", "status"]),
        json_values,
    )
)
def test_any_json_is_taken_or_refused(partner: Partner, ticket: str, body: dict[str, Any]) -> None:
    for method, path, _ in OPERATIONS:
        answer = partner.request(method, path.format(ticket), content=dump(body), headers=JSON)
        assert answer.status_code in {200, 201, 400, 409}, answer.text


def test_base_and_documents_are_for_everyone(desk: Desk) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/", "/redoc/"):
        assert httpx.get(f"{desk.url}{BASE}{path}").status_code == 200
