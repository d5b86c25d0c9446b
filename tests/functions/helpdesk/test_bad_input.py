"""Nothing that a client can send is a 5xx, and every refusal names all that is wrong, in the known words."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import User, assert_error, assert_invalid

REQUIRED = "This field is required."
NULL = "This field may not be null."
BLANK = "This field may not be blank."
CHOICE = "Invalid choice."
NUL = "Null characters are not allowed."
INTEGER = "A valid integer is required."
STRING = "Not a valid string."
BOOLEAN = "Must be a valid boolean."
LIST = "Expected a list of items."
OBJECT = "Expected a dictionary of items."
MOMENT = "Datetime has wrong format. Use YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
VALUE = "Enter a valid value."
JSON = {"Content-Type": "application/json"}
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/tickets/", {"title": "x"}),
    ("PUT", "/tickets/{}/", {"title": "x"}),
    ("PATCH", "/tickets/{}/", {}),
    ("POST", "/tickets/{}/assign/", {"user_id": None}),
    ("POST", "/tickets/{}/change_status/", {"status": "open"}),
    ("POST", "/tickets/{}/comments/", {"content": "x"}),
    ("POST", "/categories/", {"name": "x"}),
    ("POST", "/tags/", {"name": "x"}),
    ("POST", "/templates/", {"title": "x", "content": "x"}),
    ("POST", "/filters/", {"name": "x"}),
]


def at_least(number: int) -> str:
    return f"Ensure this value is greater than or equal to {number}."


def at_most(number: int) -> str:
    return f"Ensure this value is less than or equal to {number}."


def no_more_than(characters: int) -> str:
    return f"Ensure this field has no more than {characters} characters."


def test_the_documents_own_error(agent: User) -> None:
    answer = agent.post("/tickets/", json={"priority": "extreme"})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "Validation failed",
        "details": {"title": ["This field is required."], "priority": ["Invalid choice."]},
    }


def test_all_faults_are_told_at_once_unknown_references_too(agent: User, stranger: User) -> None:
    foreign = stranger.make("/tags/", name="theirs")["id"]
    faults = {
        "title": BLANK,
        "priority": CHOICE,
        "due_date": MOMENT,
        "category": 'Invalid pk "999999999" - object does not exist.',
        "assigned_to": f'Invalid pk "{stranger.number}" - object does not exist.',
    }
    body = {
        "title": " ",
        "priority": 5,
        "due_date": "tomorrow",
        "category": 999999999,
        "assigned_to": stranger.number,
    }
    assert_invalid(agent.post("/tickets/", json=body), **faults)
    ticket = agent.ticket()["id"]
    for method in ("PUT", "PATCH"):
        assert_invalid(agent.request(method, f"/tickets/{ticket}/", json=body), **faults)
    answer = agent.post("/tickets/", json={"title": "x", "tags": [foreign, 999999999, foreign]})
    assert sorted(answer.json()["details"]["tags"]) == sorted(
        f'Invalid pk "{number}" - object does not exist.' for number in (foreign, 999999999, foreign)
    )
    assert agent.read(f"/tickets/{ticket}/")["title"] == "The printer is on fire"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("title", None, NULL),
        ("title", "", BLANK),
        ("title", "\t\n", BLANK),
        ("title", 5, STRING),
        ("title", "a\0b", NUL),
        ("title", "\ud800", NUL),
        ("title", "x" * 501, no_more_than(500)),
        ("description", None, NULL),
        ("description", [], STRING),
        ("description", "x" * 100_001, no_more_than(100_000)),
        ("priority", "", CHOICE),
        ("priority", None, NULL),
        ("priority", "High", CHOICE),
        ("category", "1", INTEGER),
        ("category", 1.5, INTEGER),
        ("category", 0, at_least(1)),
        ("category", 2**63, at_most(2**63 - 1)),
        ("category", 10**30, at_most(2**63 - 1)),
        ("category", {"id": 1}, INTEGER),
        ("assigned_to", True, INTEGER),
        ("due_date", "", BLANK),
        ("due_date", 5, MOMENT),
        ("due_date", "2024-01-20", MOMENT),
        ("due_date", "2024-02-30T00:00:00Z", MOMENT),
        ("due_date", "0000-01-01T00:00:00Z", MOMENT),
        ("due_date", "-0001-01-01T00:00:00Z", MOMENT),
        ("due_date", "0044-03-15T00:00:00Z BC", MOMENT),
        ("due_date", "0001-01-01T00:00:00+01:00", MOMENT),
        ("due_date", "9999-12-31T23:59:59-01:00", MOMENT),
        ("due_date", "10000-01-01T00:00:00Z", MOMENT),
        ("due_date", "2024-01-20T00:00:00+23:59", MOMENT),
        ("due_date", "2024-01-20T00:00:00-16:00", MOMENT),
        ("due_date", "infinity", MOMENT),
        ("due_date", "now", MOMENT),
        ("tags", None, NULL),
        ("tags", 1, LIST),
        ("tags", ["x"], INTEGER),
        ("tags", [1, 0], at_least(1)),
        ("tags", [[1]], INTEGER),
        ("tags", [1] * 101, "Ensure this field has no more than 100 elements."),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_ticket_with_a_bad_field(agent: User, field: str, value: Any, sentence: str) -> None:
    body = json.dumps({"title": "x", field: value}).encode()
    assert_invalid(agent.post("/tickets/", content=body, headers=JSON), **{field: sentence})
    ticket = agent.ticket()["id"]
    for method in ("PUT", "PATCH"):
        answer = agent.request(method, f"/tickets/{ticket}/", content=body, headers=JSON)
        assert_invalid(answer, **{field: sentence})


@pytest.mark.parametrize(
    ("path", "body", "faults"),
    [
        ("/tickets/{}/assign/", {"user_id": "2"}, {"user_id": INTEGER}),
        ("/tickets/{}/change_status/", {}, {"status": REQUIRED}),
        ("/tickets/{}/change_status/", {"status": "new"}, {"status": CHOICE}),
        ("/tickets/{}/change_status/", {"status": "on_hold", "resolution": 5},
         {"status": CHOICE, "resolution": STRING}),
        ("/tickets/{}/comments/", {}, {"content": REQUIRED}),
        ("/tickets/{}/comments/", {"content": " ", "is_internal": "yes"},
         {"content": BLANK, "is_internal": BOOLEAN}),
        ("/tickets/{}/comments/", {"content": "x", "is_internal": None}, {"is_internal": NULL}),
        ("/categories/", {}, {"name": REQUIRED}),
        ("/categories/", {"name": "x" * 201, "color": "blue"}, {"name": no_more_than(200), "color": VALUE}),
        ("/categories/", {"name": "x", "color": "#007bff\n", "description": None},
         {"color": VALUE, "description": NULL}),
        ("/tags/", {"name": "x" * 101}, {"name": no_more_than(100)}),
        ("/templates/", {}, {"title": REQUIRED, "content": REQUIRED}),
        ("/templates/", {"title": "x", "content": "x", "variables": "x"}, {"variables": LIST}),
        ("/templates/", {"title": "x", "content": "x", "variables": ["a}"]}, {"variables": VALUE}),
        ("/templates/", {"title": "x", "content": "x", "variables": [1], "is_public": 1},
         {"variables": STRING, "is_public": BOOLEAN}),
        ("/filters/", {"name": "x", "filter_params": []}, {"filter_params": OBJECT}),
        ("/filters/", {"name": "x", "filter_params": {"a": ["\0"]}}, {"filter_params": NUL}),
    ],
    ids=str,
)  # fmt: skip
def test_other_bodies_with_bad_fields(
    agent: User, path: str, body: dict[str, Any], faults: dict[str, str]
) -> None:
    assert_invalid(agent.post(path.format(agent.ticket()["id"]), json=body), **faults)


@pytest.mark.parametrize("body", [{"context": []}, {"context": None}, {"context": "x"}])
def test_context_of_a_template_is_an_object(agent: User, body: dict[str, Any]) -> None:
    template = agent.make("/templates/", title="x", content="x")["id"]
    answer = agent.post(f"/templates/{template}/use_template/", json=body)
    assert_invalid(answer, context=NULL if body["context"] is None else OBJECT)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: f"{write[0]} {write[1]}")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"42",
        b'{"title": NaN}',
        b"\xff\xfe{}",
        b"[" * 10_000 + b"]" * 10_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_body_that_is_no_json_object(
    agent: User, ticket: int, write: tuple[str, str, Any], body: bytes
) -> None:
    method, path, _ = write
    answer = agent.request(method, path.format(ticket), content=body, headers=JSON)
    assert list(assert_error(answer, 400, "Validation failed")) == ["non_field_errors"]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: f"{write[0]} {write[1]}")
def test_body_of_another_kind_or_of_any_size(agent: User, ticket: int, write: tuple[str, str, Any]) -> None:
    method, path, body = write
    text = json.dumps(body).encode()
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = agent.request(
            method, path.format(ticket), content=text, headers={"Content-Type": media_type}
        )
        assert_error(answer, 415, "Unsupported Media Type", "unsupported_media_type")
    answer = agent.request(method, path.format(ticket), content=b'"' + b"x" * 2_000_000, headers=JSON)
    assert_error(answer, 413, "Request Entity Too Large", "payload_too_large")


@pytest.mark.parametrize(
    ("params", "faults"),
    [
        ({"status": "new"}, {"status": CHOICE}),
        ({"status": "OPEN", "priority": "asap"}, {"status": CHOICE, "priority": CHOICE}),
        ({"category": "x"}, {"category": INTEGER}),
        ({"category": "null"}, {"category": INTEGER}),
        ({"assigned_to": "-1", "created_by": "1.5"}, {"assigned_to": at_least(1), "created_by": INTEGER}),
        ({"tags": "1,2"}, {"tags": INTEGER}),
        ({"tags": "9" * 30}, {"tags": at_most(2**63 - 1)}),
        ({"tags": "9" * 5000}, {"tags": INTEGER}),
        ({"page": "0"}, {"page": at_least(1)}),
        ({"page": "-1", "page_size": "x"}, {"page": at_least(1), "page_size": INTEGER}),
        ({"page": str(10**13)}, {"page": at_most(10**12)}),
        ({"page_size": "101"}, {"page_size": at_most(100)}),
        ({"page_size": "0"}, {"page_size": at_least(1)}),
        ({"ordering": "title"}, {"ordering": VALUE}),
        ({"ordering": "created_at,"}, {"ordering": VALUE}),
        ({"ordering": "created_at\n"}, {"ordering": VALUE}),
        ({"ordering": "--created_at"}, {"ordering": VALUE}),
        ({"search": "a\0b"}, {"search": NUL}),
        ({"search": "x" * 501}, {"search": no_more_than(500)}),
    ],
    ids=str,
)
def test_bad_query_is_named_and_never_corrected(
    agent: User, params: dict[str, str], faults: dict[str, str]
) -> None:
    for path in ("/tickets/", "/tickets/my_tickets/"):
        assert_invalid(agent.get(path, params=params), **faults)
    if params.keys() <= {"page", "page_size"}:
        for path in ("/categories/", "/tags/", "/templates/", "/users/", "/filters/"):
            assert_invalid(agent.get(path, params=params), **faults)


@pytest.mark.parametrize(
    "search", ["\ud7ff\U0010ffff", "'", '"', "\\", "((", "a:*", ":*", "<->", "!", "x" * 500, "ñ" * 500]
)
def test_any_search_is_answered(agent: User, search: str) -> None:
    agent.ticket(description=f"Strange {search}")
    for path in ("/tickets/", "/categories/", "/tags/", "/templates/", "/users/", "/filters/"):
        assert agent.get(path, params={"search": search}).status_code == 200


@pytest.mark.parametrize("bad", ["x", "0x1", "1.0", "-1", "²", "%00", "9" * 30, "9223372036854775808"])
def test_id_that_could_be_none_is_named(agent: User, ticket: int, bad: str) -> None:
    for path, name in (
        ("/tickets/{}/", "ticket_id"),
        ("/tickets/{}/comments/", "ticket_id"),
        ("/tickets/{}/comments/1/", "ticket_id"),
        (f"/tickets/{ticket}/comments/{{}}/", "id"),
        ("/categories/{}/", "id"),
        ("/users/{}/", "id"),
    ):
        assert_invalid(agent.get(path.format(bad)), **{name: f"{name} must be a whole number."})


@pytest.mark.parametrize(("header", "bad"), [("Idempotency-Key", "x y"), ("If-Match", "1")])
def test_bad_header_is_named(agent: User, ticket: int, header: str, bad: str) -> None:
    answer = agent.post(f"/tickets/{ticket}/comments/", json={"content": "x"}, headers={header: bad})
    assert list(assert_error(answer, 400, "Validation failed")) == [header]


def test_unknown_path_and_method(agent: User, ticket: int) -> None:
    for path in ("/nothing/", "/tickets/1/2/3/4/", "/", "/auth/", "/ticket/"):
        assert_error(agent.get(path), 404, "Not found", "not_found")
    for method, path in (
        ("DELETE", "/tickets/"),
        ("PUT", "/tickets/"),
        ("GET", f"/tickets/{ticket}/assign/"),
    ):
        answer = agent.request(method, path)
        assert_error(answer, 405, "Method Not Allowed", "method_not_allowed")
        assert answer.headers["allow"]


def test_what_is_too_large_to_keep_is_refused(agent: User) -> None:
    many = {f"key {n}": "x" * 100 for n in range(5000)}
    answer = agent.post("/filters/", json={"name": "x", "filter_params": {"a": list(range(20_000)), **many}})
    assert_error(answer, 400, "Validation failed")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "title", "description", "priority", "category", "assigned_to", "due_date", "tags", "status",
    "resolution", "user_id", "content", "is_internal", "name", "color", "variables", "is_public",
    "filter_params", "context",
]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_any_json_is_taken_or_refused(agent: User, ticket: int, body: dict[str, Any]) -> None:
    for method, path, least in WRITES:
        content = json.dumps({**least, **body}).encode()
        answer: httpx.Response = agent.request(method, path.format(ticket), content=content, headers=JSON)
        assert answer.status_code in {200, 201, 400}, answer.text
