"""What settings change: the signing key, confirmation, where links lead, limits, outside issuers."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.api.test_issuers import AUDIENCE, ISSUER, Key, KeyServer
from tests.databases import Server, running_desk
from tests.desk import Desk

from .conftest import (
    ALL_IN,
    ALL_OUT,
    NO_TLS,
    ROWS,
    VERSION,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    assert_user,
    bearer,
    enroll,
    fragment_of,
    new_email,
    new_password,
    place_of,
)

PUBLIC = "https://desk.example.com"
SECONDS = 600
TICKET_OF_CONTACT = """
    with made as (
        insert into public.contacts (organization_id, name, email) values (%s, 'Ada', %s) returning id)
    insert into public.tickets (organization_id, contact_id, subject) select %s, made.id, 'Private' from made
"""
LIMIT = 80


@pytest.fixture(scope="module")
def issuer() -> Iterator[tuple[Key, KeyServer]]:
    """An outside party, which signs with a key that it publishes."""
    server, key = KeyServer(), Key("theirs", "ES256")
    server.publish(key)
    yield key, server
    server.stop()


@pytest.fixture(scope="module")
def other_desk(chosen_server: Server | None, issuer: tuple[Key, KeyServer]) -> Iterator[Desk]:
    """A desk on which every setting that accounts know is another one."""
    trusted = [{"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": issuer[1].url}]
    with running_desk(
        chosen_server,
        DESKBASE_JWT_SIGNING_KEY="ES256",
        DESKBASE_JWT_EXPIRY=str(SECONDS),
        DESKBASE_AUTOCONFIRM="true",
        DESKBASE_PUBLIC_URL=f"{PUBLIC}/",
        DESKBASE_REDIRECT_URLS="https://app.example.com/welcome, https://app.example.com/in/*, myapp://callback/*",
        DESKBASE_LIMITS=json.dumps({"auth": {"anonymous": f"{LIMIT}/minute"}}),
        DESKBASE_ISSUERS=json.dumps(trusted),
    ) as desk:
        yield desk


@pytest.fixture
def others(other_desk: Desk) -> Iterator[People]:
    """Everybody of that desk."""
    with People(other_desk) as people:
        yield people


@pytest.fixture
def other(others: People) -> Person:
    return others.person()


def log_in(person: Person) -> Session:
    return Session.of(person.visitor.log_in(person.email, person.password), SECONDS)


def key_set(visitor: Visitor) -> list[dict[str, Any]]:
    answer = visitor.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=600"
    assert answer.headers["x-supabase-api-version"] == VERSION
    body = answer.json()
    assert body.keys() == {"keys"}
    return list(body["keys"])


# A signing key


def test_anybody_verifies_access_tokens_with_the_public_key(
    other_desk: Desk, others: People, other: Person
) -> None:
    (key,) = key_set(others.visitor())
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use", "key_ops", "ext"}
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
    session = log_in(other)
    assert jwt.get_unverified_header(session.access_token) == {
        "alg": "ES256",
        "kid": key["kid"],
        "typ": "JWT",
    }
    claims = jwt.decode(session.access_token, jwt.PyJWK(key), ["ES256"], audience="authenticated")
    assert claims["iss"] == f"{PUBLIC}/auth/v1"
    assert claims["exp"] - claims["iat"] == SECONDS
    assert others.ways_in(session) == ALL_IN
    refreshed = Session.of(other.visitor.refresh(session.refresh_token), SECONDS)
    assert others.ways_in(refreshed) == ALL_IN
    assert_answer(other.visitor.post("/logout", headers=refreshed.headers), 204)
    assert others.ways_in(refreshed) == others.ways_in(session) == ALL_OUT


def test_token_that_another_key_signed_is_refused_everywhere(
    other_desk: Desk, others: People, other: Person
) -> None:
    (public,) = key_set(others.visitor())
    claims, kid = log_in(other).claims, {"kid": public["kid"]}
    stranger = ec.generate_private_key(ec.SECP256R1())
    pem = jwt.PyJWK(public).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = [
        jwt.encode(claims, stranger, "ES256", kid),
        jwt.encode(claims, stranger, "ES256"),
        jwt.encode(claims, stranger, "ES256", {"kid": "x"}),
        jwt.encode(claims, stranger, "ES256", {"jwk": public, **kid}),
        by_hand({"alg": "HS256", **kid}, claims, json.dumps(public).encode()),
        by_hand({"alg": "HS256"}, claims, pem),
        jwt.encode(claims, "", "none", kid),
    ]
    for token in forged:
        statuses = [status for status, _ in others.ways_in(Session(token, ""))]
        assert statuses == [403, 401, 401], token


def by_hand(header: dict[str, str], claims: dict[str, Any], secret: bytes) -> str:
    """Sign with what no library would take for a secret: the public key, which everybody has."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_keys_of_the_project_and_tokens_signed_with_its_secret_are_good_as_before(
    other_desk: Desk, others: People, other: Person
) -> None:
    for key in (other_desk.service_key, other_desk.secret_key):
        assert_answer(others.service(key).get("/admin/users?per_page=1"))
    for key in (other_desk.anon_key, other_desk.publishable_key):
        answer = httpx.get(f"{other_desk.rest_url}/articles", headers={"apikey": key}, verify=NO_TLS)
        assert answer.status_code == 200
    session = log_in(other)
    by_secret = jwt.encode(session.claims, other_desk.jwt_secret, "HS256")
    assert others.ways_in(Session(by_secret, "")) == ALL_IN


def test_second_factor_holds_with_it_too(other_desk: Desk, others: People, other: Person) -> None:
    session = log_in(other)
    app = enroll(other_desk, other, session)
    whole = Session.of(app.prove(other.visitor, session), SECONDS)
    assert others.ways_in(whole) == ALL_IN
    half = log_in(other)
    assert [status for status, _ in others.ways_in(half)] == [200, 403, 403]


def test_private_half_is_shown_to_nobody(other_desk: Desk, others: People) -> None:
    kept = json.loads((other_desk.data_dir / "secrets.json").read_text())
    private = json.loads(kept["jwt_signing_key"])["d"]
    shown = other_desk.output() + json.dumps(other_desk.status) + json.dumps(key_set(others.visitor()))
    shown += "".join(file.read_text(errors="replace") for file in (other_desk.data_dir / "logs").iterdir())
    assert private not in shown


def test_without_a_signing_key_there_is_no_public_one(people: People, person: Person) -> None:
    assert key_set(people.visitor()) == []
    header = jwt.get_unverified_header(person.log_in().access_token)
    assert header == {"alg": "HS256", "typ": "JWT"}


# No confirmation


def test_visitor_who_signs_up_is_in_at_once(others: People) -> None:
    visitor, email, password = others.visitor(), new_email(), new_password()
    assert assert_answer_of_open_path(visitor.get("/settings"))["mailer_autoconfirm"] is True
    body = {"email": email, "password": password, "data": {"name": "Ada"}}
    answer = visitor.post("/signup", json=body)
    session = Session.of(answer, SECONDS)
    assert_user(answer.json()["user"], email)
    assert answer.json()["user"]["email_confirmed_at"]
    assert others.ways_in(session) == ALL_IN
    assert_error(visitor.post("/signup", json=body), 422, "user_already_exists")
    Session.of(visitor.log_in(email, password), SECONDS)


def test_visitor_who_proved_no_address_gets_nothing_that_its_owner_wrote(
    other_desk: Desk, others: People
) -> None:
    visitor, email, organization = others.visitor(), new_email(), other_desk.organization()
    other_desk.sql(TICKET_OF_CONTACT, [organization, email, organization])
    body = {"email": email, "password": new_password(), "data": {"organization_id": organization}}
    session = Session.of(visitor.post("/signup", json=body), SECONDS)
    assert session.claims["app_metadata"]["role"] == "customer"
    headers = {"apikey": other_desk.anon_key, **session.headers}
    assert visitor.get(f"{other_desk.rest_url}/tickets?select=subject", headers=headers).json() == []


def test_address_is_changed_at_once_unless_somebody_has_it(others: People, other: Person) -> None:
    session, new, owner = log_in(other), new_email(), others.person()
    taken = other.visitor.put("/user", headers=session.headers, json={"email": owner.email})
    assert_error(taken, 422, "email_exists")
    user = assert_answer(other.visitor.put("/user", headers=session.headers, json={"email": new}))
    assert (user["email"], "new_email" in user) == (new, False)
    other.email = new
    log_in(other)


def test_visitor_elsewhere_has_to_confirm(visitor: Visitor) -> None:
    says = assert_answer_of_open_path(visitor.get("/settings"))
    assert says["mailer_autoconfirm"] is False
    assert says["external"] == {"email": True, "phone": False, "anonymous_users": False}
    answer = visitor.post("/signup", json={"email": new_email(), "password": new_password()})
    assert "access_token" not in assert_answer(answer)


def assert_answer_of_open_path(answer: httpx.Response) -> Any:
    """An answer that anybody gets as often as they like."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-supabase-api-version"] == VERSION
    return answer.json()


# Where links lead

GOOD = [
    PUBLIC,
    f"{PUBLIC}/",
    f"{PUBLIC}/welcome?x=1",
    "https://app.example.com/welcome",
    "https://app.example.com/in/",
    "https://app.example.com/in/here?x=../y",
    "myapp://callback/x",
]
BAD = [
    "http://desk.example.com/",
    "https://desk.example.com:444/",
    "https://desk.example.com.evil.example/",
    "https://desk.example.com@evil.example/",
    "https://evil.example/?https://desk.example.com/",
    "http://localhost:3000/",
    "http://127.0.0.1/",
    "http://[::1]/",
    "https://app.example.com/",
    "https://app.example.com/welcome/",
    "https://app.example.com/welcome?x",
    "https://app.example.com/welcome#x",
    "https://app.example.com/in",
    "https://app.example.com/inside",
    "https://app.example.com/in/../out",
    "https://app.example.com/in/./x/../../out",
    "https://app.example.com/in/%2e%2e/out",
    "https://app.example.com/in/.%2E/out",
    "https://app.example.com/in/..",
    "https://app.example.com/in/\\..\\out",
    "https://app.example.com/in/\r\nx: y",
    "https://app.example.com.evil.example/in/",
    "https://user@app.example.com/in/",
    "http://app.example.com/in/",
    "HTTPS://APP.EXAMPLE.COM/IN/",
    "myapp://callback",
    "myapp://other/x",
    "yourapp://callback/x",
]


def test_link_leads_to_the_public_address_or_to_one_that_is_allowed(others: People) -> None:
    visitor = others.visitor()

    def led_to(redirect_to: str) -> str:
        answer = visitor.get(f"/verify?token=x&type=recovery&redirect_to={quote(redirect_to, safe='')}")
        assert fragment_of(answer)["error_code"] == "otp_expired"
        return place_of(answer)

    assert [led_to(asked) for asked in GOOD] == GOOD
    for asked in BAD:
        assert led_to(asked) == f"{PUBLIC}/auth/v1/done", asked


def test_link_in_hand_names_the_public_address(others: People, other: Person) -> None:
    link = others.link("recovery", other.email, redirect_to="https://app.example.com/in/x")
    assert link["action_link"].startswith(f"{PUBLIC}/auth/v1/verify?token=")
    assert link["action_link"].endswith("&redirect_to=https%3A%2F%2Fapp.example.com%2Fin%2Fx")
    assert others.link("recovery", other.email, redirect_to="http://localhost/")["redirect_to"] == PUBLIC


# Limits


def test_address_that_asks_too_often_waits_for_the_next_minute(others: People) -> None:
    visitor, neighbour = others.visitor(), others.visitor()
    for _ in range(2 * LIMIT + 1):
        answer = visitor.get("/user")
        if answer.status_code == 429:
            break
        assert_error(answer, 401, "no_authorization")
    assert_error(answer, 429, "over_request_rate_limit")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert answer.headers["x-ratelimit-limit"] == str(LIMIT)
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert abs(int(answer.headers["x-ratelimit-reset"]) - time.time()) <= 61
    assert_error(neighbour.get("/user"), 401, "no_authorization")
    assert len(key_set(visitor)) == 1


# Outside issuers


def test_token_of_an_outside_issuer_is_no_session_whatever_it_calls_its_holder(
    other_desk: Desk, others: People, other: Person, issuer: tuple[Key, KeyServer]
) -> None:
    key, _ = issuer
    victim = others.person()
    session = log_in(victim)
    token = key.sign(
        sub=victim.user_id, email=other.email, session_id=session.id, role="authenticated", aal="aal2",
        app_metadata=session.claims["app_metadata"],
    )  # fmt: skip
    headers = {"apikey": other_desk.anon_key, **bearer(token)}
    rows = httpx.get(f"{other_desk.rest_url}{ROWS}", headers=headers, verify=NO_TLS)
    assert rows.status_code == 200, "it means the member with its address"
    visitor = others.visitor()
    for method, path, body in (
        ("GET", "/user", None),
        ("PUT", "/user", {"password": new_password()}),
        ("POST", "/logout", None),
        ("GET", "/reauthenticate", None),
        ("POST", "/factors", {"factor_type": "totp"}),
    ):
        answer = visitor.request(method, path, headers=bearer(token), json=body)
        assert_error(answer, 403, "bad_jwt")
    assert_error(visitor.get("/admin/users", headers=bearer(key.sign(role="service_role"))), 403, "not_admin")
    assert others.ways_in(session) == ALL_IN
    log_in(victim)


def test_digest_of_a_refresh_token_is_all_that_is_kept(other_desk: Desk, other: Person) -> None:
    session = log_in(other)
    (row,) = other_desk.sql("select token from auth.refresh_tokens where session_id = %s", [session.id])
    assert row == (hashlib.sha256(session.refresh_token.encode()).hexdigest(),)
    assert_error(other.visitor.refresh(row[0]), 400, "refresh_token_not_found")
