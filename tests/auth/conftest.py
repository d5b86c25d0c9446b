"""The people who have accounts, or want one, and what they do with them over HTTP."""

import itertools
import random
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt
import pyotp
import pytest

from tests.desk import Desk, unique
from tests.mailbox import Mailbox

BASE = "/auth/v1"
VERSION = "2024-01-01"
ROWS = "/tickets?select=id&limit=1"
# Reading the machine's certificates takes longer than many a test.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_addresses = itertools.count(random.randrange(1 << 20) << 4)


def own_address() -> str:
    """Return an address of this machine that nobody else calls from: limits and locks go by it."""
    number = next(_addresses) % ((1 << 24) - 1024) + 512
    return f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def new_email(word: str = "person") -> str:
    return f"{unique(word)}@example.com"


def new_password() -> str:
    return f"pass {secrets.token_hex(8)}"


@dataclass(frozen=True)
class Session:
    """What a log-in was answered with."""

    access_token: str
    refresh_token: str

    @classmethod
    def of(cls, answer: httpx.Response, seconds: int = 3600) -> Self:
        """Read it from an answer, which has to be a whole session of tokens that live for so long."""
        assert_session(answer, seconds)
        return cls(answer.json()["access_token"], answer.json()["refresh_token"])

    @classmethod
    def at(cls, answer: httpx.Response) -> Self:
        """Read it from the address that a link led to."""
        found = fragment_of(answer)
        assert found.keys() == {
            *("access_token", "expires_at", "expires_in", "refresh_token", "token_type", "type")
        }, found
        return cls(found["access_token"], found["refresh_token"])

    @property
    def headers(self) -> dict[str, str]:
        return bearer(self.access_token)

    @property
    def claims(self) -> dict[str, Any]:
        """What the token says, whoever signed it."""
        return dict(jwt.decode(self.access_token, options={"verify_signature": False}))

    @property
    def id(self) -> str:
        return str(self.claims["session_id"])


class Visitor(httpx.Client):
    """Somebody with a client at /auth/v1, at an address of their own."""

    def __init__(self, desk: Desk, key: str | None = None) -> None:
        self.address = own_address()
        self.key = key or desk.anon_key
        super().__init__(
            base_url=desk.url + BASE,
            headers={"apikey": self.key, "X-Supabase-Api-Version": VERSION},
            transport=httpx.HTTPTransport(verify=NO_TLS, local_address=self.address),
            timeout=30,
        )

    def log_in(self, email: str, password: str) -> httpx.Response:
        return self.post("/token?grant_type=password", json={"email": email, "password": password})

    def refresh(self, token: str) -> httpx.Response:
        return self.post("/token?grant_type=refresh_token", json={"refresh_token": token})

    def follow(self, link: str) -> httpx.Response:
        """Follow a link as a browser does, up to where it is sent on to."""
        return self.get(link)

    def verify(self, **fields: str) -> httpx.Response:
        return self.post("/verify", json=fields)


@dataclass
class Person:
    """Somebody with an account, who knows its password."""

    visitor: Visitor
    email: str
    password: str
    user_id: str

    def log_in(self) -> Session:
        """Log in with the password."""
        return Session.of(self.visitor.log_in(self.email, self.password))

    def is_refused(self, password: str) -> bool:
        """Whether this password does not log in."""
        return self.visitor.log_in(self.email, password).status_code == 400


class People:
    """Everybody of one test."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def visitor(self, key: str | None = None) -> Visitor:
        """Return somebody else, elsewhere."""
        return self._stack.enter_context(Visitor(self.desk, key))

    def service(self, key: str | None = None) -> Visitor:
        """Return a back end that holds the service role key."""
        visitor = self.visitor(key or self.desk.service_key)
        visitor.headers["Authorization"] = f"Bearer {visitor.key}"
        return visitor

    def person(
        self,
        role: str = "agent",
        organization: str | None = None,
        *,
        email: str | None = None,
        password: str | None = None,
        **fields: Any,
    ) -> Person:
        """Return a new member of an organization, a new one unless it is named."""
        email, password = email or new_email(role.replace("_", "-")), password or new_password()
        membership = {"organization_id": organization or self.desk.organization(), "role": role}
        wanted = {
            "email": email,
            "password": None if "password_hash" in fields else password,
            "email_confirm": True,
            "app_metadata": membership,
            "user_metadata": {"name": "Robin"},
            **fields,
        }
        answer = self._service.post("/admin/users", json={k: v for k, v in wanted.items() if v is not None})
        assert answer.status_code == 200, answer.text
        return Person(self.visitor(), email, password, answer.json()["id"])

    def link(self, kind: str, email: str, redirect_to: str | None = None, **fields: str) -> dict[str, Any]:
        """Return what a mail would hold."""
        query = {"redirect_to": redirect_to} if redirect_to else {}
        body = {"type": kind, "email": email, **fields}
        answer = self._service.post("/admin/generate_link", json=body, params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ways_in(self, session: Session) -> list[tuple[int, str | None]]:
        """Ask with a session at the auth service, behind the gateway and at PostgREST itself.

        Return of each the status and the word of the refusal.
        """
        headers = {"apikey": self.desk.anon_key, **session.headers}
        urls = [
            f"{self.desk.url}{BASE}/user",
            f"{self.desk.rest_url}{ROWS}",
            f"{self.desk.postgrest_url}{ROWS}",
        ]
        answers = [self._anywhere.get(url, headers=headers) for url in urls]
        bodies = [answer.json() for answer in answers]
        words = [
            None if answer.is_success else body["code"] if "PT" not in body["code"] else body["message"]
            for answer, body in zip(answers, bodies, strict=True)
        ]
        return [(answer.status_code, word) for answer, word in zip(answers, words, strict=True)]

    def seen_by_owner(self, column: str, user_id: str) -> Any:
        """Return a column of somebody's account as it is stored."""
        return self.desk.value(f"select {column} from auth.users where id = %s", [user_id])

    @cached_property
    def _service(self) -> Visitor:
        return self.service()

    @cached_property
    def _anywhere(self) -> httpx.Client:
        return self._stack.enter_context(httpx.Client(verify=NO_TLS, timeout=30))


@dataclass
class App:
    """An authenticator app with somebody's factor in it."""

    desk: Desk
    factor_id: str
    secret: str

    def code(self) -> str:
        """Return the present code; codes that were shown before count as forgotten."""
        self.desk.sql("delete from auth.mfa_challenges where factor_id = %s", [self.factor_id])
        return pyotp.TOTP(self.secret).now()

    def wrong_code(self) -> str:
        """Return one that is not right now, nor was or will be soon."""
        totp, step = pyotp.TOTP(self.secret), int(time.time()) // 30
        near = {totp.generate_otp(step + n) for n in range(-3, 4)}
        return next(f"{number:06}" for number in range(10) if f"{number:06}" not in near)

    def prove(self, visitor: Visitor, session: Session, code: str | None = None) -> httpx.Response:
        """Ask for the factor and answer with a code."""
        code = code or self.code()
        return self.answer(visitor, session, self.challenge(visitor, session), code)

    def challenge(self, visitor: Visitor, session: Session) -> str:
        """Ask for the factor."""
        answer = visitor.post(f"/factors/{self.factor_id}/challenge", headers=session.headers, json={})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def answer(self, visitor: Visitor, session: Session, challenge: str, code: str) -> httpx.Response:
        """Answer with a code."""
        body = {"challenge_id": challenge, "code": code}
        return visitor.post(f"/factors/{self.factor_id}/verify", headers=session.headers, json=body)


def enroll(desk: Desk, person: Person, session: Session, name: str = "") -> App:
    """Put a new factor, which is not verified yet, into an app."""
    body = {"factor_type": "totp", "friendly_name": name}
    answer = person.visitor.post("/factors", headers=session.headers, json=body)
    assert answer.status_code == 200, answer.text
    return App(desk, answer.json()["id"], answer.json()["totp"]["secret"])


ALL_IN = [(200, None)] * 3
ALL_OUT = [(403, "session_not_found"), (401, "session_ended"), (401, "session_ended")]
HALF_IN = [(200, None), (403, "second_factor_required"), (403, "second_factor_required")]
"""Of `ways_in`: a session, none any more, and one that still owes the second factor."""


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def fragment_of(answer: httpx.Response) -> dict[str, str]:
    """Return what a link handed over in the address that it led to."""
    assert answer.status_code == 303, answer.text
    assert answer.content == b""
    assert answer.headers["cache-control"] == "no-store"
    return dict(parse_qsl(urlsplit(answer.headers["location"]).fragment))


def place_of(answer: httpx.Response) -> str:
    """Return where a link led to."""
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"]).partition("#")[0]


def assert_answer(answer: httpx.Response, status: int = 200) -> Any:
    """The headers that all answers have; return the body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-supabase-api-version"] == VERSION
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]
    assert answer.headers["x-ratelimit-limit"]
    assert ("content-type" in answer.headers) == (status != 204)
    if status == 204:
        assert answer.content == b""
        return None
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def assert_error(answer: httpx.Response, status: int, code: str) -> Any:
    """The whole error as old and new clients read it, and the headers that go with it; return the body."""
    body = assert_answer(answer, status)
    assert (body["code"], body["error_code"]) == (code, code)
    assert body["message"]
    assert body["message"] == body["msg"]
    more = {"weak_password"} if code == "weak_password" else {"error_id"} if status >= 500 else set()
    assert body.keys() == {"code", "error_code", "message", "msg"} | more
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    assert ("www-authenticate" in answer.headers) == (status == 401)
    return body


def assert_user(user: dict[str, Any], email: str) -> None:
    """The account as clients read it, and nothing of what is secret about it."""
    assert user["email"] == email
    assert (user["aud"], user["role"], user["is_anonymous"]) == ("authenticated", "authenticated", False)
    assert user["created_at"].endswith("Z")
    assert user["app_metadata"]["provider"] == "email"
    assert not [name for name in user.keys() - {"hashed_token"} if "password" in name or "token" in name]


def assert_session(answer: httpx.Response, seconds: int) -> None:
    """A whole session: what clients keep, and what the access token says."""
    body = assert_answer(answer)
    assert body.keys() == {
        *("access_token", "token_type", "expires_in", "expires_at", "refresh_token", "user")
    }
    assert (body["token_type"], body["expires_in"]) == ("bearer", seconds)
    assert abs(body["expires_at"] - time.time() - seconds) < 60
    assert_user(body["user"], body["user"]["email"])
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims["sub"] == body["user"]["id"]
    assert claims["email"] == body["user"]["email"]
    assert (claims["aud"], claims["role"]) == ("authenticated", "authenticated")
    assert claims["exp"] == body["expires_at"] == claims["iat"] + seconds
    assert claims["aal"] in {"aal1", "aal2"}
    assert claims["amr"][0]["method"] in {"password", "otp", "totp"}
    # Without a second factor that is owed there is no membership in it.
    assert claims["app_metadata"].items() <= body["user"]["app_metadata"].items()
    assert claims["user_metadata"] == body["user"]["user_metadata"]


@pytest.fixture
def people(desk: Desk) -> Iterator[People]:
    """Everybody of this test."""
    if desk.value("select to_regnamespace('auth_service') is null"):
        pytest.skip("this database has an auth service of its own")
    with People(desk) as people:
        yield people


@pytest.fixture
def visitor(people: People) -> Visitor:
    """Somebody who is nobody yet."""
    return people.visitor()


@pytest.fixture
def person(people: People) -> Person:
    """An agent of an organization of their own."""
    return people.person()


@pytest.fixture
def service(people: People) -> Visitor:
    """A back end with the service role key."""
    return people.service()


@pytest.fixture(scope="session")
def mailbox(desk: Desk) -> Mailbox:
    """All mail that the desk has sent."""
    return Mailbox(desk.data_dir / "mail")
