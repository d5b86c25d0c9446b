"""The actors of the helpdesk contract, all of one organization but for the stranger."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.desk import Desk, Member, unique

BASE = "/helpdesk/api/v1"
NUMBER_OF = "select number from public.members where organization_id = %s and id = %s"


class User(httpx.Client):
    """Somebody who has logged in."""

    def __init__(self, desk: Desk, member: Member, *, base: str = BASE) -> None:
        self.member = member
        self.token = desk.jwt(member)
        self.number = int(desk.value(NUMBER_OF, [member.organization_id, member.id]))
        super().__init__(
            base_url=desk.url + base, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    @property
    def person(self) -> dict[str, Any]:
        """How others see them."""
        return {"id": self.number, "username": self.member.username, "email": self.member.email}

    def make(self, path: str, **fields: Any) -> dict[str, Any]:
        """Create something and return it."""
        answer = self.post(path, json=fields)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def ticket(self, **fields: Any) -> dict[str, Any]:
        """Create a ticket and return it."""
        return self.make("/tickets/", **{"title": "The printer is on fire", **fields})

    def read(self, path: str, **params: Any) -> dict[str, Any]:
        """Read something that is there."""
        answer = self.get(path, params=params)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def results(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Read the first page of a list, which has to be all of it."""
        page = self.read(path, page_size=100, **params)
        assert page["next"] is None
        found: list[dict[str, Any]] = page["results"]
        return found

    def ids(self, path: str = "/tickets/", **params: Any) -> list[int]:
        """Read the ids in a list."""
        return [row["id"] for row in self.results(path, **params)]


def assert_error(answer: httpx.Response, status: int, title: str, code: str | None = None) -> dict[str, Any]:
    """Fail unless it is this error, whole and with its headers; return the details."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error", "details"]
    assert body["error"] == title
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    details: dict[str, Any] = body["details"]
    if status == 400:
        for sentences in details.values():
            assert all(isinstance(sentence, str) for sentence in sentences)
    else:
        assert details["detail"]
        assert code in {None, details["code"]}
    return details


def assert_invalid(answer: httpx.Response, **faults: str) -> None:
    """Fail unless these fields are at fault, each for this reason, and no others."""
    details = assert_error(answer, 400, "Validation failed")
    assert details == {name: [sentence] for name, sentence in faults.items()}


@pytest.fixture(autouse=True)
def _fresh_windows(desk: Desk) -> None:
    """No test runs into what others have used up."""
    desk.sql("delete from private.rate_windows where bucket = 'helpdesk'")


def _user(desk: Desk, role: str, organization: str) -> Iterator[User]:
    with User(desk, desk.member(role, organization)) as client:
        yield client


@pytest.fixture(scope="module")
def organization(desk: Desk) -> str:
    return desk.organization()


@pytest.fixture(scope="module")
def customer(desk: Desk, organization: str) -> Iterator[User]:
    yield from _user(desk, "customer", organization)


@pytest.fixture(scope="module")
def other_customer(desk: Desk, organization: str) -> Iterator[User]:
    yield from _user(desk, "customer", organization)


@pytest.fixture(scope="module")
def agent(desk: Desk, organization: str) -> Iterator[User]:
    yield from _user(desk, "agent", organization)


@pytest.fixture(scope="module")
def colleague(desk: Desk, organization: str) -> Iterator[User]:
    """Another agent."""
    yield from _user(desk, "agent", organization)


@pytest.fixture(scope="module")
def lead(desk: Desk, organization: str) -> Iterator[User]:
    yield from _user(desk, "team_lead", organization)


@pytest.fixture(scope="module")
def stranger(desk: Desk) -> Iterator[User]:
    """An admin of another organization."""
    yield from _user(desk, "admin", desk.organization())


@pytest.fixture
def newcomer(desk: Desk) -> Iterator[User]:
    """An agent of an organization in which nothing has happened yet."""
    yield from _user(desk, "agent", desk.organization())


@pytest.fixture
def ticket(customer: User) -> int:
    """A ticket that the customer has just made."""
    return int(customer.ticket()["id"])


@pytest.fixture
def category(agent: User) -> dict[str, Any]:
    return agent.make("/categories/", name=unique("Category"), color="#007bff")


@pytest.fixture
def tag(agent: User) -> dict[str, Any]:
    return agent.make("/tags/", name=unique("tag"), color="#28a745")
