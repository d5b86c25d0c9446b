"""The actors of the support-platform contract, and a desk on which they may ask as often as they like."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.databases import Server, running_desk
from tests.desk import Desk, Member, unique

MOUNT = "/support-platform"
BASE = f"{MOUNT}/v1"
SECRET = "the secret of the incoming webhook"
LIMITS = {"support-platform": {"user": "1000000/hour", "organization": "3000000/hour"}}


class Person(httpx.Client):
    """Somebody with the JWT of a log-in."""

    def __init__(self, desk: Desk, member: Member, *, base: str = BASE, jwt: str | None = None) -> None:
        self.member = member
        self.jwt = jwt or desk.jwt(member)
        super().__init__(
            base_url=desk.url + base, headers={"Authorization": f"Bearer {self.jwt}"}, timeout=30
        )

    def ticket(self, **fields: Any) -> str:
        """Create a ticket and return its id."""
        answer = self.post("/tickets", json={"title": "Can't login to account", **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def says(self, ticket: str, content: str, **fields: Any) -> httpx.Response:
        """Send a message."""
        return self.post(f"/tickets/{ticket}/messages", json={"content": content, **fields})


class Sender(httpx.Client):
    """An outside system that signs its deliveries."""

    def __init__(self, desk: Desk, *, secret: str = SECRET, account: str | None = None) -> None:
        self.secret = secret
        params = {"account": account} if account else None
        super().__init__(base_url=desk.url + BASE, params=params, timeout=30)

    def sign(self, content: bytes) -> str:
        """Return the signature of a body."""
        return hmac.new(self.secret.encode(), content, hashlib.sha256).hexdigest()

    def deliver(self, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """Deliver a body, signed unless the headers say otherwise."""
        signed = {"X-Signature": self.sign(content), "Content-Type": "application/json", **(headers or {})}
        return self.post("/webhooks/incoming", content=content, headers=signed)

    def sends(self, event: str, **data: Any) -> httpx.Response:
        """Deliver an event."""
        return self.deliver(json.dumps({"event": event, "data": data}).encode())


def assert_error(answer: httpx.Response, status: int, detail: str = "") -> Any:
    """The whole envelope and the headers that go with it; return the detail."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["detail"]
    assert body["detail"]
    assert not detail or body["detail"] == detail
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    if status not in {401, 503} and body["detail"] != "The second factor has to be verified first.":
        assert "x-ratelimit-limit" in answer.headers
    return body["detail"]


def assert_bad(answer: httpx.Response, name: str = "") -> None:
    """A 400 whose sentence names what is wrong."""
    detail = assert_error(answer, 400)
    assert detail.startswith("Invalid request parameters: ")
    assert name in detail


@pytest.fixture(scope="session")
def desk(chosen_server: Server | None) -> Iterator[Desk]:
    """A running Deskbase with generous limits and a secret for the webhook."""
    with running_desk(
        chosen_server, DESKBASE_LIMITS=json.dumps(LIMITS), DESKBASE_INCOMING_WEBHOOK_SECRET=SECRET
    ) as desk:
        yield desk


@pytest.fixture(scope="session")
def organization(desk: Desk) -> str:
    """The organization that the actors belong to, unless they are strangers."""
    return desk.organization()


def _person(desk: Desk, role: str, organization: str) -> Iterator[Person]:
    with Person(desk, desk.member(role, organization)) as person:
        yield person


@pytest.fixture(scope="session")
def customer(desk: Desk, organization: str) -> Iterator[Person]:
    yield from _person(desk, "customer", organization)


@pytest.fixture(scope="session")
def other_customer(desk: Desk, organization: str) -> Iterator[Person]:
    """Another customer of the same organization."""
    yield from _person(desk, "customer", organization)


@pytest.fixture(scope="session")
def agent(desk: Desk, organization: str) -> Iterator[Person]:
    yield from _person(desk, "agent", organization)


@pytest.fixture(scope="session")
def admin(desk: Desk, organization: str) -> Iterator[Person]:
    yield from _person(desk, "admin", organization)


@pytest.fixture(scope="session")
def stranger(desk: Desk) -> Iterator[Person]:
    """An admin of another organization."""
    yield from _person(desk, "admin", desk.organization())


@pytest.fixture(scope="session")
def category(desk: Desk, organization: str) -> str:
    statement = (
        "insert into public.categories (organization_id, name, description) values (%s, %s, %s) returning id"
    )
    row = [organization, "Billing", "Billing and payment issues"]
    return str(desk.value(statement, row))


@pytest.fixture
def ticket(customer: Person) -> str:
    """A ticket that the customer has just made."""
    return customer.ticket()


@pytest.fixture(scope="session")
def sender(desk: Desk) -> Iterator[Sender]:
    """A system that writes to the first organization."""
    with Sender(desk) as sender:
        yield sender


@pytest.fixture(scope="session")
def first_agent(desk: Desk) -> Iterator[Person]:
    """An agent of the first organization."""
    yield from _person(desk, "agent", desk.first_organization())


@pytest.fixture
def external_id() -> str:
    """What a sender calls a ticket."""
    return unique("CRM")
