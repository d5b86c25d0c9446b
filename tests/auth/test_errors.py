"""Nothing that anybody sends is a 5xx, every refusal has one form, and what is refused changes nothing."""

import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.auth import admin, links, page, routes
from tests.desk import Desk

from .conftest import (
    BASE,
    VERSION,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    bearer,
    new_email,
    new_password,
)

NOBODY = "00000000-0000-4000-8000-000000000000"
JSON = {"Content-Type": "application/json"}
ALL_OF_IT = """
    select jsonb_build_array(
        (select jsonb_agg(to_jsonb(u) order by u.id) from auth.users as u),
        (select jsonb_agg(to_jsonb(i) order by i.id) from auth.identities as i),
        (select jsonb_agg(to_jsonb(s) order by s.id) from auth.sessions as s),
        (select jsonb_agg(to_jsonb(r) order by r.id) from auth.refresh_tokens as r),
        (select jsonb_agg(to_jsonb(t) order by t.id) from auth.one_time_tokens as t),
        (select jsonb_agg(to_jsonb(f) order by f.id) from auth.mfa_factors as f),
        (select jsonb_agg(to_jsonb(m) order by m.id) from public.members as m),
        (select count(*) from public.organizations), (select count(*) from private.mails)
    )::text
"""


class Endpoint(NamedTuple):
    """A way to send something: who may, and the fields of its body with what is wrong for each."""

    method: str
    path: str
    fields: Mapping[str, str] = MappingProxyType({})
    who: str = "visitor"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


WRONG = {
    "text": ["5", "true", "[]", "{}", '["x"]', "1e400"],
    "object": ["5", "true", "[]", '"x"', "[{}]"],
    "flag": ["5", "[]", "{}", '"true"'],
}
"""JSON that a field of the kind does not take."""

CHALLENGE = {"code_challenge": "text", "code_challenge_method": "text"}

TAKING_JSON = [
    Endpoint("POST", "/signup", {"email": "text", "password": "text", "data": "object", **CHALLENGE}),
    Endpoint("POST", "/token?grant_type=password", {"email": "text", "password": "text"}),
    Endpoint("POST", "/token?grant_type=refresh_token", {"refresh_token": "text"}),
    Endpoint("POST", "/token?grant_type=pkce", {"auth_code": "text", "code_verifier": "text"}),
    Endpoint("POST", "/recover", {"email": "text", **CHALLENGE}),
    Endpoint("POST", "/resend", {"type": "text", "email": "text"}),
    Endpoint("POST", "/otp", {"email": "text", "create_user": "flag", "data": "object", **CHALLENGE}),
    Endpoint("POST", "/magiclink", {"email": "text"}),
    Endpoint("POST", "/verify", {"type": "text", "token": "text", "token_hash": "text", "email": "text"}),
    Endpoint(
        "PUT", "/user", {"email": "text", "password": "text", "data": "object", "nonce": "text"}, "person"
    ),
    Endpoint(
        "POST", "/factors", {"factor_type": "text", "friendly_name": "text", "issuer": "text"}, "person"
    ),
    Endpoint("POST", "/factors/{factor}/challenge", {}, "person"),
    Endpoint("POST", "/factors/{factor}/verify", {"challenge_id": "text", "code": "text"}, "person"),
    Endpoint(
        "POST",
        "/admin/users",
        {
            **dict.fromkeys(
                ("email", "password", "id", "phone", "role", "ban_duration", "password_hash"), "text"
            ),
            "user_metadata": "object",
            "app_metadata": "object",
            "email_confirm": "flag",
        },
        "service",
    ),
    Endpoint(
        "PUT",
        "/admin/users/{id}",
        {"email": "text", "user_metadata": "object", "app_metadata": "object", "ban_duration": "text"},
        "service",
    ),
    Endpoint("DELETE", "/admin/users/{id}", {"should_soft_delete": "flag"}, "service"),
    Endpoint("POST", "/invite", {"email": "text", "data": "object"}, "service"),
    Endpoint(
        "POST",
        "/admin/generate_link",
        {"type": "text", "email": "text", "new_email": "text", "password": "text", "data": "object"},
        "service",
    ),
]
ASKING_FOR_NOTHING = {"/user", "/factors/{factor}/challenge", "/admin/users/{id}"}
"""Where a body without anything in it is fine."""

TAKING_NONE = [
    Endpoint("GET", "/health"),
    Endpoint("GET", "/settings"),
    Endpoint("GET", "/.well-known/jwks.json"),
    Endpoint("GET", "/done"),
    Endpoint("GET", "/verify"),
    Endpoint("POST", "/logout", who="person"),
    Endpoint("GET", "/user", who="person"),
    Endpoint("GET", "/reauthenticate", who="person"),
    Endpoint("DELETE", "/factors/{factor}", who="person"),
    Endpoint("GET", "/admin/users", who="service"),
    Endpoint("GET", "/admin/users/{id}", who="service"),
    Endpoint("GET", "/admin/users/{id}/factors", who="service"),
    Endpoint("DELETE", "/admin/users/{id}/factors/{factor}", who="service"),
]
each_that_takes_json = pytest.mark.parametrize("endpoint", TAKING_JSON, ids=str)

NO_OBJECTS = [
    b"{",
    b'{"email": "x"} trailing',
    b"{'email': 'x'}",
    b'{"email": NaN}',
    b'{"email": "\x01"}',
    b'{"email": "\xff\xfe"}',
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"[" * 10_000 + b"]" * 10_000,
    b'{"data": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    b"[]",
    b'"email"',
    b"null",
    b"42",
    b"email=x&password=y",
]


class Sender:
    """Sends to every endpoint as whoever may."""

    def __init__(self, people: People) -> None:
        self.person = people.person()
        self.session = self.person.log_in()
        answer = self.person.visitor.post(
            "/factors", headers=self.session.headers, json={"factor_type": "totp"}
        )
        self.factor = answer.json()["id"]
        self.visitor = people.visitor()
        self.headers = {
            "visitor": {},
            "person": self.session.headers,
            "service": bearer(people.desk.service_key),
        }

    def send(
        self,
        endpoint: Endpoint,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        method: str = "",
    ) -> httpx.Response:
        path = endpoint.path.replace("{id}", self.person.user_id).replace("{factor}", self.factor)
        all_headers = {**self.headers[endpoint.who], **(JSON if headers is None else headers)}
        return self.visitor.request(method or endpoint.method, path, content=content, headers=all_headers)


@pytest.fixture
def sender(people: People) -> Sender:
    return Sender(people)


def assert_refused(answer: httpx.Response) -> str:
    """A refusal, whichever, in its one form; return its code."""
    assert 400 <= answer.status_code < 500, answer.text
    code = str(answer.json()["code"])
    assert_error(answer, answer.status_code, code)
    return code


def test_every_endpoint_is_tried_here() -> None:
    declared = {
        (method, path)
        for module in (routes, links, admin, page)
        for handler in module.HANDLERS
        for path in handler.paths
        for method in handler.http_methods
        if method != "OPTIONS"
    }
    tried = {
        (
            e.method,
            e.path.partition("?")[0].replace("{id}", "{user_id:str}").replace("{factor}", "{factor_id:str}"),
        )
        for e in TAKING_JSON + TAKING_NONE
    }
    assert {d for d in declared if d[1] not in {"/done.css", "/done.js"}} == tried


@each_that_takes_json
def test_body_that_is_no_json_object(desk: Desk, sender: Sender, endpoint: Endpoint) -> None:
    before = desk.value(ALL_OF_IT)
    for body in NO_OBJECTS:
        assert_error(sender.send(endpoint, body), 400, "bad_json")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"):
        assert_error(sender.send(endpoint, b"{}", {"Content-Type": kind}), 415, "bad_json")
    big = b'{"email": "' + b"x" * 2_000_000 + b'"}'
    assert_error(sender.send(endpoint, big), 413, "payload_too_large")
    assert desk.value(ALL_OF_IT) == before


@each_that_takes_json
def test_field_of_the_wrong_kind(desk: Desk, sender: Sender, endpoint: Endpoint) -> None:
    before = desk.value(ALL_OF_IT)
    for field, kind in endpoint.fields.items():
        for value in WRONG[kind]:
            answer = sender.send(endpoint, f'{{"{field}": {value}}}'.encode())
            assert_error(answer, 400, "validation_failed")
        nested = {"text": "%s", "object": '{"a": [{"b": %s}]}', "flag": "%s"}[kind]
        for value in (r'"a\u0000b"', r'"\ud800"', r'"\udc00x"'):
            answer = sender.send(endpoint, f'{{"{field}": {nested % value}}}'.encode())
            assert_error(answer, 400, "validation_failed")
        if kind == "text":
            assert_error(
                sender.send(endpoint, json.dumps({field: "x" * 2001}).encode()), 400, "validation_failed"
            )
    assert desk.value(ALL_OF_IT) == before


@pytest.mark.parametrize("endpoint", [e for e in TAKING_JSON if e.path not in ASKING_FOR_NOTHING], ids=str)
def test_body_without_anything_that_counts(desk: Desk, sender: Sender, endpoint: Endpoint) -> None:
    before = desk.value(ALL_OF_IT)
    unknown = {"unknown": 1, "role": None, "gotrue_meta_security": {}, "__proto__": {"email": "x"}, "": ""}
    texts = [name for name, kind in endpoint.fields.items() if kind == "text"]
    for body in ({}, unknown, dict.fromkeys(endpoint.fields), dict.fromkeys(texts, "")):
        assert_refused(sender.send(endpoint, json.dumps(body).encode()))
    assert_refused(sender.send(endpoint, None))
    assert_refused(sender.send(endpoint, b"", {}))
    assert desk.value(ALL_OF_IT) == before


@pytest.mark.parametrize("endpoint", TAKING_JSON + TAKING_NONE, ids=str)
def test_method_that_is_not_meant(desk: Desk, sender: Sender, endpoint: Endpoint) -> None:
    path = endpoint.path.partition("?")[0]
    meant = {e.method for e in TAKING_JSON + TAKING_NONE if e.path.partition("?")[0] == path}
    before = desk.value(ALL_OF_IT)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - meant:
        answer = sender.send(endpoint, b"{}", method=method)
        if "x-ratelimit-limit" in answer.headers:
            assert_error(answer, 405, "method_not_allowed")
        else:  # what is open to everyone is not counted
            assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
            assert answer.headers["x-supabase-api-version"] == VERSION
        assert set(answer.headers["allow"].split(", ")) == meant | {"OPTIONS"}
    assert desk.value(ALL_OF_IT) == before


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/users",
        "/user/x",
        "/admin",
        "/admin/users/x/y",
        "/authorize",
        "/callback",
        "/sso",
        "/%00",
        "/%ff",
        "/verify/x",
        "/token%3Fgrant_type=password",
        "/factors/x/y",
        "/USER",
        "/x" * 2000,
    ],
    ids=lambda path: path[:30],
)
def test_path_that_leads_nowhere(desk: Desk, visitor: Visitor, path: str) -> None:
    for method in ("GET", "POST"):
        request = visitor.build_request(method, "/x", headers=bearer(desk.service_key))
        request.url = request.url.copy_with(raw_path=f"{BASE}{path}".encode())
        assert_error(visitor.send(request), 404, "not_found")


@pytest.mark.parametrize("endpoint", [e for e in TAKING_JSON + TAKING_NONE if e.who == "person"], ids=str)
def test_account_without_a_session_of_its_owner(desk: Desk, sender: Sender, endpoint: Endpoint) -> None:
    before = desk.value(ALL_OF_IT)
    sender.headers["person"] = {}
    assert_error(sender.send(endpoint, b"{}"), 401, "no_authorization")
    token = sender.session.access_token
    for text in ("Bearer", "Basic eDp5", "x" * 20_000, token, f"Token {token}", f"Bearer{token}"):
        sender.headers["person"] = {"Authorization": text}
        assert_error(sender.send(endpoint, b"{}"), 401, "no_authorization")
    for text in ("Bearer x", "Bearer a.b.c", "Bearer " + "." * 9_000, f"Bearer {token} {token}"):
        sender.headers["person"] = {"Authorization": text}
        assert_error(sender.send(endpoint, b"{}"), 403, "bad_jwt")
    for key in (desk.anon_key, desk.service_key, desk.publishable_key, desk.secret_key, desk.token()):
        sender.headers["person"] = bearer(key)
        assert_error(sender.send(endpoint, b"{}"), 403, "bad_jwt")
    assert desk.value(ALL_OF_IT) == before


def test_key_of_the_project_may_be_missing_and_not_be_wrong(
    desk: Desk, person: Person, visitor: Visitor
) -> None:
    # The key says who a visitor is, and they are nobody in any case.
    body = {"email": person.email, "password": person.password}
    url = f"{desk.url}{BASE}"
    good = (desk.anon_key, desk.publishable_key, desk.service_key, desk.secret_key)
    for key in ("", *good):
        answer = httpx.post(f"{url}/token?grant_type=password", json=body, headers={"apikey": key})
        Session.of(answer)
        assert httpx.get(f"{url}/settings", headers={"apikey": key}).status_code == 200
    theirs, service = (
        f"Bearer {token}".encode() for token in (person.log_in().access_token, desk.service_key)
    )
    for key in ("x", "sb_publishable_x", "ü", desk.anon_key[:-4] + "AAAA", person.log_in().access_token):
        headers = [(b"apikey", key.encode())]
        for answer in (
            httpx.post(f"{url}/token?grant_type=password", json=body, headers=headers),
            httpx.get(f"{url}/user", headers=[*headers, (b"authorization", theirs)]),
            httpx.get(f"{url}/admin/users", headers=[*headers, (b"authorization", service)]),
        ):
            assert assert_error(answer, 401, "no_authorization")["message"] == "Invalid API key"
        settings = httpx.get(f"{url}/settings", headers=headers)
        assert (settings.status_code, settings.json()["message"]) == (401, "Invalid API key")
        for path in ("/health", "/.well-known/jwks.json"):
            assert httpx.get(f"{url}{path}", headers=headers).status_code == 200
    asked = httpx.get(f"{url}/admin/users?apikey={desk.secret_key}&per_page=1")
    assert_answer(asked)
    visitor.headers.pop("apikey")
    Session.of(visitor.log_in(person.email, person.password))
    visitor.headers.pop("x-supabase-api-version")
    assert_error(visitor.log_in(person.email, new_password()), 400, "invalid_credentials")


@pytest.mark.parametrize(
    "query", ["%", "=", "&&&", "a=%ff", "%00=%00", "a=" + "x" * 10_000, "grant_type=password&grant_type=x"]
)
def test_absurd_query(person: Person, service: Visitor, query: str) -> None:
    session = person.log_in()
    assert_answer(person.visitor.get(f"/user?{query}", headers=session.headers))
    assert_answer(service.get(f"/admin/users/{person.user_id}?{query}"))
    assert_refused(person.visitor.post(f"/token?{query}", json={}))
    assert_refused(person.visitor.get(f"/verify?{query}"))
    assert_answer(person.visitor.post(f"/recover?{query}&redirect_to=%ff", json={"email": new_email()}))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /auth/v1/\xff HTTP/1.1\r\nHost: x",
        b"GET /auth/v1/verify?token=\xff&type=recovery HTTP/1.1\r\nHost: x",
        b"GET /auth/v1/user HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff",
        b"GET /auth/v1/user HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b",
        b"GET /auth/v1/settings HTTP/1.1\r\nHost: a b\r\nUser-Agent: \xff\x01",
        b"POST /auth/v1/token?grant_type=password HTTP/1.1\r\nHost: x\r\nContent-Length: -1",
        b"POST /auth/v1/token?grant_type=password HTTP/1.1\r\nHost: x\r\nContent-Length: 50",
        b"POST /auth/v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"OPTIONS * HTTP/1.1\r\nHost: x",
        b"OPTIONS /auth/v1/user HTTP/1.1\r\nHost: x\r\nOrigin: null\r\nAccess-Control-Request-Method: PUT",
    ],
    ids=repr,
)
def test_no_head_is_a_server_error(desk: Desk, head: bytes) -> None:
    answer = b""
    with socket.create_connection(("127.0.0.1", int(desk.url.rpartition(":")[2])), timeout=10) as connection:
        # Whoever is refused may find the connection closed already.
        with suppress(OSError):
            connection.sendall(head + b"\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            answer = connection.recv(200)
    assert answer[:10] in {b"", b"HTTP/1.1 4", b"HTTP/1.1 2", b"HTTP/1.1 3"}


def test_strange_user_agents_are_kept_as_far_as_they_can_be(desk: Desk, person: Person) -> None:
    for agent in (b"\xff\xfe", b"x" * 5000, b"'; drop table auth.users; --", b""):
        body = {"email": person.email, "password": person.password}
        answer = person.visitor.post("/token?grant_type=password", json=body, headers={b"User-Agent": agent})
        session = Session.of(answer)
        kept = desk.value("select user_agent from auth.sessions where id = %s", [session.id])
        assert len(kept or "") <= 255


def test_browser_from_anywhere_is_let_through(desk: Desk, person: Person) -> None:
    origin = {"Origin": "https://app.example.com"}
    asked = {
        **origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,apikey",
    }
    preflight = person.visitor.options("/user", headers=asked)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert {"authorization", "apikey", "x-client-info", "x-supabase-api-version"} <= set(
        preflight.headers["access-control-allow-headers"].split(", ")
    )
    answer = person.visitor.get("/user", headers={**origin, **person.log_in().headers})
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-supabase-api-version", "x-total-count", "link", "retry-after"} <= set(exposed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted({field for endpoint in TAKING_JSON for field in endpoint.fields} - {"should_soft_delete"})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5))
def test_any_json_is_taken_or_refused(sender: Sender, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    for endpoint in TAKING_JSON:
        if endpoint.method != "DELETE":
            answer = sender.send(endpoint, content)
            assert answer.status_code in {200, 400, 401, 403, 404, 415, 422, 429}, (endpoint, answer.text)
            assert "code" in answer.json() or answer.status_code == 200
