"""Who listens, and what happens: an organization with its people, another one, sockets for all of them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.databases import Server, running_desk
from tests.desk import Desk, Member, unique
from tests.realtime.wire import Line, opened

TICKET = (
    "insert into public.tickets (organization_id, subject, contact_id) values (%s, %s, %s) returning id::text"
)
COMMENT = """
    insert into public.comments (organization_id, ticket_id, body, is_internal)
    values (%s, %s, %s, %s) returning id::text
"""


@dataclass(frozen=True)
class Person:
    """A member with a log-in session and its token."""

    desk: Desk
    member: Member
    session_id: str

    @property
    def token(self) -> str:
        return self.desk.jwt(self.member, session_id=self.session_id)

    @property
    def id(self) -> str:
        return self.member.id


@dataclass(frozen=True)
class Organization:
    """One of them, and what happens in it."""

    desk: Desk
    id: str

    def person(self, role: str = "agent") -> Person:
        """Let somebody join the organization who is of no other test."""
        member = self.desk.member(role, self.id)
        return Person(self.desk, member, self.desk.session(member))

    def ticket(self, subject: str, of: Person | None = None) -> str:
        """Make a ticket of somebody, or of nobody."""
        contact = of.member.contact_id if of else None
        return str(self.desk.value(TICKET, [self.id, subject, contact]))

    def rename(self, ticket: str, subject: str) -> None:
        self.desk.sql("update public.tickets set subject = %s where id = %s", [subject, ticket])

    def comment(self, ticket: str, body: str, *, is_internal: bool = False) -> str:
        return str(self.desk.value(COMMENT, [self.id, ticket, body, is_internal]))


@pytest.fixture(scope="session")
def north(desk: Desk) -> Organization:
    return Organization(desk, desk.organization(unique("North")))


@pytest.fixture(scope="session")
def south(desk: Desk) -> Organization:
    return Organization(desk, desk.organization(unique("South")))


@pytest.fixture(scope="session")
def agent(north: Organization) -> Person:
    return north.person()


@pytest.fixture(scope="session")
def customer(north: Organization) -> Person:
    return north.person("customer")


@pytest.fixture(scope="session")
def stranger(south: Organization) -> Person:
    """An agent of the other organization."""
    return south.person()


Open = Callable[..., Awaitable[Line]]


@pytest.fixture(scope="session")
def two_processes(chosen_server: Server | None) -> Iterator[Desk]:
    """A desk that is served by two processes."""
    with running_desk(chosen_server, DESKBASE_WORKERS="2") as desk:
        yield desk


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def open_line(desk: Desk, stack: AsyncExitStack) -> Open:
    """Open a socket: `await open_line()`, `await open_line(2)` for the other version."""

    async def open_one(
        version: int = 1, key: str | None = None, url: str | None = None, **options: Any
    ) -> Line:
        return await stack.enter_async_context(
            opened(url or desk.url, key or desk.publishable_key, version, **options)
        )

    return open_one


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> int:
    """Both versions of the protocol."""
    return int(request.param)


@pytest.fixture
async def line(open_line: Open, version: int) -> Line:
    return await open_line(version)


@pytest.fixture
def topic() -> str:
    """A topic of the test's own."""
    return unique("room")
