"""The relay: told after the commit, to whoever may see it, once, in order, and from where they left off."""

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
import pytest

from api import event_log, renderings, watches
from api import relay as relays
from api.db import Database, Param, Row
from api.embedded import Embedded
from api.event_log import Event
from api.keys import authenticator_password
from api.metrics import Metrics
from api.migrate import login_url, migrate
from api.relay import Relay
from api.subscriptions import Subscription
from api.watches import Outbox, Watch, personal, shared
from tests.actors import Actor, Organization, World, build_world
from tests.api.live import INSERT, RENDER, SCHEMA, Claims, Writer, live_world
from tests.databases import Connection, Server
from tests.desk import Desk, unique

RENDER_TITLES = b"select id, body from relay_tests.render_titles($1, $2)"
RENDER_TWICE = b"select id, body from relay_tests.render_twice($1, $2)"
RENDER_ROWS = b"select id, body from relay_tests.render_rows($1, $2)"
RENDER_WISHES = b"select id, body, wish from relay_tests.render_wishes($1, $2, $3)"
RENDER_OWN = b"select id, body, wish from relay_tests.render_own($1, $2, $3)"
RENDER_SLEEPILY = b"select 1, pg_sleep(5)::text from (select $1::jsonb, $2::jsonb) as asked"
RENDER_FAULT = b"select 1, 1 / (jsonb_array_length($2) * 0) from (select $1::jsonb) as claims"

SNAPSHOT = "select pg_current_snapshot()::text"
COMMITTED = """
    select id from private.events
    where organization_id = %s and not pg_visible_in_snapshot(xid, %s::pg_snapshot)
        and table_name in ('tickets', 'comments')
    order by id
"""
COMMITTED_OWN = """
    select id from private.events
    where organization_id = %s and not pg_visible_in_snapshot(xid, %s::pg_snapshot)
        and table_name in ('tickets', 'comments')
        and %s in (record ->> 'contact_id', record ->> 'ticket_contact_id')
    order by id
"""
BELLS = """
    select count(*) from pg_stat_activity
    where application_name = 'deskbase relay' and datname = current_database()
"""
CUT = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name like 'deskbase relay%%' and datname = current_database()
"""
SECONDS = 5.0
# As long as a message would take at the very most, where there must be none.
SILENCE = 0.25
# What "within a second" may take on a busy machine.
A_SECOND = 2.0

Message = dict[str, Any]


async def until(condition: Callable[[], Any], seconds: float = SECONDS, what: object = "") -> None:
    """Wait on a condition; fail when it is not true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        await asyncio.sleep(0.005)


@dataclass
class Listener:
    """A subscription that somebody reads, and what they were told."""

    subscription: Subscription
    told: list[Message] = field(default_factory=list)
    reading: "asyncio.Task[None] | None" = None

    def begin(self) -> None:
        """Read until the end."""
        self.reading = asyncio.create_task(self.read())

    async def read(self, count: float = float("inf")) -> None:
        """Read as many messages."""
        if count:
            async for message in self.subscription:
                self.told.append(json.loads(message))
                if len(self.told) >= count:
                    return

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.told]

    @property
    def numbers(self) -> list[int]:
        return [message["number"] for message in self.told]

    @property
    def position(self) -> str:
        """Where it would go on."""
        return str(self.told[-1]["position"]) if self.told else self.subscription.position

    @property
    def reason(self) -> str | None:
        return self.subscription.reason

    async def hears(self, *texts: str) -> None:
        """Wait until these were told."""
        await until(lambda: set(texts) <= set(self.texts), what=lambda: f"{texts} among {self.texts}")

    async def hears_nothing(self, *texts: str) -> None:
        """Wait in vain."""
        await asyncio.sleep(SILENCE)
        assert not set(texts) & set(self.texts)

    async def is_over(self, reason: str, seconds: float = SECONDS) -> None:
        await until(lambda: self.reason == reason, seconds, lambda: f"{reason}, not {self.reason}")

    async def leave(self) -> None:
        self.subscription.close()
        if self.reading:
            await self.reading


class CountingDatabase(Database):
    """A pool that knows how often it was asked what."""

    def __init__(self, url: str, *, size: int, name: str) -> None:
        super().__init__(url, size=size, name=name)
        self.counts: dict[bytes, int] = {}

    def rows(
        self, statement: bytes, params: Sequence[Param] = (), seconds: float = 10
    ) -> "asyncio.Future[list[Row]]":
        self.counts[statement] = self.counts.get(statement, 0) + 1
        return super().rows(statement, params, seconds)


class Process:
    """What one API process has: a pool and a relay."""

    def __init__(self, url: str) -> None:
        self.db = CountingDatabase(url, size=6, name="deskbase relay tests")
        self.relay = Relay(url, self.db, Metrics())
        self._listeners: list[Listener] = []

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.leave()
        await self.relay.close()
        await self.db.close()

    async def subscribe(self, claims: Claims, **options: Any) -> Listener:
        """Begin a watch that nobody reads yet."""
        outbox = options.pop("outbox", None)
        watch = watch_of(claims, **options)
        listener = Listener(await self.relay.subscribe(watch, outbox))
        self._listeners.append(listener)
        return listener

    async def listen(self, claims: Claims, **options: Any) -> Listener:
        """Begin a watch that is read all the time."""
        listener = await self.subscribe(claims, **options)
        listener.begin()
        return listener


def watch_of(claims: Claims, **options: Any) -> Watch:
    """Return a watch of somebody's, for everything of their organization."""
    defaults = {
        "organization_id": claims.get("app_metadata", {}).get("organization_id"),
        "claims": json.dumps(claims).encode(),
        "render": RENDER,
    }
    return Watch(**{**defaults, **options})


def wish(pattern: str, **options: Any) -> dict[str, Any]:
    """Return what a watch for texts of this form is made with."""
    return {"render": RENDER_WISHES, "wish": json.dumps({"pattern": pattern, **options}).encode()}


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Process]:
    process = Process(url)
    await process.db.open()
    try:
        yield process
    finally:
        await process.close()


@pytest.fixture(scope="module")
def relay_world(server: Server, template: str) -> Iterator[World]:
    with live_world(server, template) as world:
        yield world


@pytest.fixture
def north(relay_world: World) -> Organization:
    return relay_world.north


@pytest.fixture
def connect(relay_world: World) -> Iterator[Callable[[], Connection]]:
    """Connect as the owner, in autocommit."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(psycopg.connect(relay_world.url, autocommit=True))


@pytest.fixture
def desk_itself(connect: Callable[[], Connection], north: Organization) -> Writer:
    return Writer(connect(), north)


@pytest.fixture
def login(desk: Desk, relay_world: World) -> str:
    return login_url(relay_world.url, authenticator_password(desk.jwt_secret))


@pytest.fixture
async def process(login: str) -> AsyncIterator[Process]:
    async with running(login) as process:
        yield process


@pytest.fixture
async def agent(process: Process, desk_itself: Writer, north: Organization) -> Listener:
    """An agent who listens to everything of the organization."""
    return await process.listen(desk_itself.claims(north.actors["agent"]))


# When, and in which order


async def test_agent_hears_of_a_change_when_it_is_committed_and_not_before(
    agent: Listener, desk_itself: Writer
) -> None:
    with desk_itself.connection.transaction():
        desk_itself.ticket("under way")
        await agent.hears_nothing("under way")
    await agent.hears("under way")


async def test_agent_never_hears_of_what_was_rolled_back(agent: Listener, desk_itself: Writer) -> None:
    with desk_itself.connection.transaction():
        with desk_itself.connection.transaction(force_rollback=True):
            desk_itself.ticket("undone")
        desk_itself.ticket("done")
    with desk_itself.connection.transaction(force_rollback=True):
        desk_itself.ticket("never")
    desk_itself.ticket("last")
    await agent.hears("done", "last")
    assert agent.texts == ["done", "last"]


async def test_agent_hears_of_everything_in_its_order(agent: Listener, desk_itself: Writer) -> None:
    ticket = desk_itself.ticket("0")
    for number in range(1, 100):
        desk_itself.rename(ticket, str(number))
    await until(lambda: len(agent.told) == 100)
    assert agent.numbers == sorted(agent.numbers)
    assert {message["id"] for message in agent.told} == {ticket}


async def test_agent_hears_of_a_transaction_that_did_not_ring(
    agent: Listener, desk_itself: Writer, connect: Callable[[], Connection], north: Organization
) -> None:
    """One that finds another ringing relies on the relay looking again."""
    other = Writer(connect(), north)
    with desk_itself.connection.transaction():
        with other.connection.transaction():
            desk_itself.ticket("rings")
            other.ticket("does not ring")
        await agent.hears("does not ring")
        with other.connection.transaction():
            other.ticket("goes on")
            desk_itself.connection.execute("commit")
            await agent.hears("rings")
            await agent.hears_nothing("goes on")
            desk_itself.connection.execute("begin")
        begun = time.monotonic()
        await agent.hears("goes on")
        assert time.monotonic() - begun < SILENCE + 0.3, "as long again as it took, but not a whole second"


async def test_large_transaction_is_told_in_batches(
    monkeypatch: pytest.MonkeyPatch, agent: Listener, desk_itself: Writer
) -> None:
    monkeypatch.setattr(event_log, "BATCH", 50)
    monkeypatch.setattr(relays, "BATCH", 50)
    monkeypatch.setattr(relays, "SLICE", 7)
    with desk_itself.connection.transaction():
        for number in range(120):
            desk_itself.ticket(str(number))
    await until(lambda: len(agent.told) == 120)
    assert agent.texts == [str(number) for number in range(120)]


async def test_what_is_committed_after_the_acknowledgement_is_never_missed(
    process: Process, desk_itself: Writer, connect: Callable[[], Connection], north: Organization
) -> None:
    """Whether the subscription is the first, which starts the relay, or not; also what began before."""
    claims = desk_itself.claims(north.actors["agent"])
    other = Writer(connect(), north)
    for number in range(20):
        with other.connection.transaction():
            other.ticket(f"began before {number}")
            listener = await process.listen(claims)
        desk_itself.ticket(f"after {number}")
        await listener.hears(f"began before {number}", f"after {number}")
        if number % 2:
            await listener.leave()


# Resuming


async def test_agent_who_comes_back_hears_the_rest_and_then_what_happens(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    first = await process.subscribe(claims)
    with desk_itself.connection.transaction():
        for number in range(10):
            desk_itself.ticket(str(number))
    await first.read(4)
    await first.leave()
    desk_itself.ticket("missed")
    second = await process.listen(claims, since=first.position)
    desk_itself.ticket("live")
    await second.hears("live")
    assert second.texts == [*map(str, range(4, 10)), "missed", "live"]


async def test_agent_who_was_told_nothing_comes_back_to_where_they_began(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    first = await process.listen(claims)
    await first.leave()
    desk_itself.ticket("missed")
    second = await process.listen(claims, since=first.position)
    await second.hears("missed")
    assert len(second.told) == 1


async def test_agent_comes_back_at_another_process(
    process: Process, login: str, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    first = await process.listen(claims)
    desk_itself.ticket("told")
    await first.hears("told")
    async with running(login) as other:
        both = await other.listen(claims)
        desk_itself.ticket("told by both")
        await first.hears("told by both")
        await both.hears("told by both")
        second = await other.listen(claims, since=first.told[0]["position"])
        await second.hears("told by both")
        assert second.texts == ["told by both"]


async def test_customer_who_comes_back_hears_what_they_may_see_and_no_more(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["customer"])
    first = await process.listen(claims)
    mine = desk_itself.ticket("mine", north.actors["customer"])
    desk_itself.ticket("another's", north.actors["other_customer"])
    desk_itself.comment(mine, "an internal note", is_internal=True)
    desk_itself.comment(mine, "an answer")
    await first.leave()
    second = await process.listen(claims, since=first.subscription.position)
    await second.hears("an answer")
    assert set(second.texts) == {"mine", "an answer"}


async def test_who_leaves_between_two_messages_for_one_event_hears_the_second_and_not_the_first_again(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    first = await process.subscribe(claims, render=RENDER_TWICE)
    desk_itself.ticket("twice")
    await first.read(1)
    await first.leave()
    second = await process.subscribe(claims, render=RENDER_TWICE, since=first.position)
    await second.read(1)
    assert second.told[0]["again"] == first.told[0]["number"]
    third = await process.listen(claims, render=RENDER_TWICE, since=second.position)
    desk_itself.ticket("then")
    await until(lambda: len(third.told) == 2)
    assert third.told[0]["text"] == "then"


MALFORMED = [
    "",
    ".",
    "x",
    "0",
    "a.b",
    "gA.1",
    "kwCQkA.1",
    "é.1",
    "AAAA.-1",
    "k85rBlS0ks0DlQCSzQOVAA.",
    "kwCQkA.1~",
    "kwCQkA.1~x",
    "k" * 9000,
]


@pytest.mark.parametrize("position", MALFORMED, ids=range(len(MALFORMED)))
async def test_agent_with_a_malformed_position_is_refused(
    position: str, process: Process, desk_itself: Writer, north: Organization
) -> None:
    refused = await process.subscribe(desk_itself.claims(north.actors["agent"]), since=position)
    assert refused.reason == "gone"
    assert [message async for message in refused.subscription] == []


def forged(position: str, **changes: Any) -> str:
    """Return a position with another time or other snapshots."""
    head, _, after = position.partition(".")
    parts = msgspec.msgpack.decode(base64.urlsafe_b64decode(head + "=="))
    fields = dict(zip(("taken_at", "since", "until"), parts, strict=True)) | changes
    packed = msgspec.msgpack.encode(list(fields.values()))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode() + "." + after


async def test_agent_who_was_away_for_too_long_is_refused(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    claims, now = desk_itself.claims(north.actors["agent"]), int(time.time())
    position = agent.subscription.position
    in_time = await process.subscribe(claims, since=forged(position, taken_at=now - 86_000))
    too_late = await process.subscribe(claims, since=forged(position, taken_at=now - 86_500))
    assert (in_time.reason, too_late.reason) == (None, "gone")


async def test_agent_with_a_position_of_another_server_is_refused(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    claims, position = desk_itself.claims(north.actors["agent"]), agent.subscription.position
    for snapshot in ([10**9, 0], [5, -3], [1], [10**30 % 2**63, 5], [7, 9, 20], [0, 0]):
        refused = await process.subscribe(claims, since=forged(position, until=snapshot))
        assert refused.reason == "gone", snapshot


# Who sees what


async def test_customers_hear_of_their_own_tickets_and_public_comments_alone(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    customer = await process.listen(desk_itself.claims(north.actors["customer"]))
    other = await process.listen(desk_itself.claims(north.actors["other_customer"]))
    mine = desk_itself.ticket("mine", north.actors["customer"])
    desk_itself.ticket("theirs", north.actors["other_customer"])
    desk_itself.ticket("nobody's")
    desk_itself.comment(mine, "between us", is_internal=True)
    desk_itself.comment(mine, "hello")
    await agent.hears("mine", "theirs", "nobody's", "between us", "hello")
    await customer.hears("mine", "hello")
    await other.hears("theirs")
    assert set(customer.texts) == {"mine", "hello"}
    assert set(other.texts) == {"theirs"}


async def test_integration_hears_of_its_own_tickets_alone(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    token = await process.listen(desk_itself.claims(north.actors["token"]))
    other = await process.listen(desk_itself.claims(north.actors["other_token"]))
    desk_itself.ticket("from the shop", north.actors["token"])
    desk_itself.ticket("from the bank", north.actors["other_token"])
    await agent.hears("from the shop", "from the bank")
    await token.hears("from the shop")
    await other.hears("from the bank")
    assert (token.texts, other.texts) == (["from the shop"], ["from the bank"])


async def test_stranger_hears_nothing_even_if_they_watch_the_organization(
    process: Process, agent: Listener, desk_itself: Writer, relay_world: World, north: Organization
) -> None:
    claims = desk_itself.claims(relay_world.south.actors["admin"])
    stranger = await process.listen(claims)
    prying = await process.relay.subscribe(
        Watch(organization_id=north.id, claims=json.dumps(claims).encode(), render=RENDER)
    )
    desk_itself.ticket("a secret of north")
    await agent.hears("a secret of north")
    await stranger.hears_nothing("a secret of north")
    assert not prying.outbox._messages
    prying.close()


async def test_member_hears_of_their_own_notifications_alone(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    def is_notification(event: Event) -> bool:
        return event.table == "notifications"

    one, other = desk_itself.newcomer(), desk_itself.newcomer()
    listeners = [
        await process.listen(
            desk_itself.claims(actor), wants=is_notification, audience=personal, render=RENDER_TITLES
        )
        for actor in (one, other)
    ]
    for actor in (one, other):
        desk_itself.connection.execute(
            "insert into public.notifications (organization_id, member_id, type, title)"
            " values (%s, %s, 'ticket_assigned', %s)",
            [north.id, actor.member_id, f"for {actor.name}"],
        )
    for actor, listener in zip((one, other), listeners, strict=True):
        await listener.hears(f"for {actor.name}")
        assert listener.texts == [f"for {actor.name}"]


async def test_socket_about_a_ticket_hears_of_that_ticket_alone(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    ticket, other = desk_itself.ticket("one"), desk_itself.ticket("other")
    listener = await process.listen(desk_itself.claims(north.actors["agent"]), about=ticket)
    desk_itself.rename(other, "other, renamed")
    desk_itself.comment(ticket, "a comment")
    desk_itself.rename(ticket, "one, renamed")
    await listener.hears("a comment", "one, renamed")
    assert {"other", "other, renamed"}.isdisjoint(listener.texts)
    again = await process.listen(
        desk_itself.claims(north.actors["agent"]), about=ticket, since=listener.told[0]["position"]
    )
    await until(lambda: len(again.told) == len(listener.told) - 1)
    assert again.numbers == listener.numbers[1:]


async def test_socket_hears_of_what_it_wants(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    listener = await process.listen(
        desk_itself.claims(north.actors["agent"]), wants=lambda event: event.type == "comment.created"
    )
    desk_itself.comment(desk_itself.ticket("a ticket"), "a comment")
    await listener.hears("a comment")
    await agent.hears("a ticket", "a comment")
    assert listener.texts == ["a comment"]


async def test_agents_are_one_audience_and_cost_one_rendering(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    agents = [await process.listen(desk_itself.claims(desk_itself.newcomer())) for _ in range(5)]
    before = process.db.counts.get(RENDER, 0)
    desk_itself.ticket("for all")
    for listener in agents:
        await listener.hears("for all")
    assert process.db.counts[RENDER] == before + 1


async def test_rendering_may_look_up_what_was_logged(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    ticket = desk_itself.ticket("a ticket")
    listener = await process.listen(
        desk_itself.claims(north.actors["agent"]), about=ticket, render=RENDER_ROWS
    )
    desk_itself.connection.execute("update public.tickets set priority = 'high' where id = %s", [ticket])
    await until(lambda: listener.told)
    assert (listener.told[0]["was"], listener.told[0]["is"]) == ("medium", "high")


def test_audiences_are_claims_without_whom_they_do_not_tell_apart() -> None:
    def claims(**metadata: Any) -> bytes:
        metadata = {"organization_id": "o", "provider": "email", "contact_id": None, **metadata}
        return json.dumps(
            {"role": "authenticated", "sub": unique("user"), "iat": time.time(), "app_metadata": metadata}
        ).encode()

    agents = [claims(role="agent", member_id=name) for name in "ab"]
    assert shared(agents[0]) == shared(agents[1])
    assert b"member" not in shared(agents[0])
    assert personal(agents[0]) != personal(agents[1])
    assert shared(agents[0]) != shared(claims(role="admin", member_id="a"))
    customers = [claims(role="customer", contact_id=name) for name in "ab"]
    assert shared(customers[0]) != shared(customers[1])
    assert shared(b'{"role": "anon"}') == personal(b'{"role": "anon"}')


# Wishes


async def test_agents_with_wishes_cost_one_rendering_and_hear_each_what_they_wished_for(
    process: Process, agent: Listener, desk_itself: Writer
) -> None:
    patterns = ["^a", "^b", "b$", "^a"]
    listeners = [
        await process.listen(desk_itself.claims(desk_itself.newcomer()), **wish(pattern))
        for pattern in patterns
    ]
    before = process.db.counts.get(RENDER_WISHES, 0)
    for text in ("a", "b", "ab", "c"):
        with desk_itself.connection.transaction():
            desk_itself.ticket(text)
        await agent.hears(text)
    for listener, texts in zip(listeners, (["a", "ab"], ["b"], ["b", "ab"], ["a", "ab"]), strict=True):
        await listener.hears(*texts)
        assert listener.texts == texts
    assert process.db.counts[RENDER_WISHES] <= before + 4


async def test_agent_with_a_wish_comes_back_and_hears_the_rest_of_it(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    first = await process.subscribe(claims, **wish("^x"))
    for text in ("x1", "y1", "x2", "y2", "x3"):
        desk_itself.ticket(text)
    await first.read(1)
    await first.leave()
    second = await process.listen(claims, since=first.position, **wish("^x"))
    desk_itself.ticket("x4")
    await second.hears("x4")
    assert second.texts == ["x2", "x3", "x4"]


@pytest.mark.parametrize(("bad", "reason"), [(wish("("), "fault"), (wish("", sleep=5), "unavailable")])
async def test_wish_that_cannot_be_met_ends_those_alone_who_have_it(
    *,
    monkeypatch: pytest.MonkeyPatch,
    process: Process,
    desk_itself: Writer,
    north: Organization,
    bad: dict[str, Any],
    reason: str,
) -> None:
    monkeypatch.setattr(renderings, "RENDER_SECONDS", 0.5)
    claims = desk_itself.claims(north.actors["agent"])
    good = [await process.listen(claims, **wish(pattern)) for pattern in ("^g", "d$")]
    evil = [await process.listen(claims, **bad) for _ in range(2)]
    desk_itself.ticket("good")
    for listener in good:
        await listener.hears("good")
    for listener in evil:
        await listener.is_over(reason)
        assert listener.told == []
    desk_itself.ticket("still good")
    await good[1].hears("still good")
    assert [listener.reason for listener in good] == [None, None]


async def test_wishes_that_take_too_long_one_by_one_are_given_up_together(
    monkeypatch: pytest.MonkeyPatch, process: Process, desk_itself: Writer, north: Organization
) -> None:
    monkeypatch.setattr(renderings, "RENDER_SECONDS", 0.5)
    monkeypatch.setattr(relays, "ALONE_SECONDS", 0.8)
    claims = desk_itself.claims(north.actors["agent"])
    evil = [await process.listen(claims, **wish("", sleep=5, number=number)) for number in range(40)]
    good = await process.listen(claims)
    begun = time.monotonic()
    desk_itself.ticket("at last")
    await good.hears("at last")
    for listener in evil:
        await listener.is_over("unavailable")
    assert time.monotonic() - begun < 4


# Every organization


async def test_service_hears_of_every_organization(
    process: Process, relay_world: World, connect: Callable[[], Connection], north: Organization
) -> None:
    everything = await process.listen({"role": "service_role"})
    writers = [Writer(connect(), each) for each in (north, relay_world.south)]
    agents = [await process.listen(each.claims(each.organization.actors["agent"])) for each in writers]
    for writer in writers:
        writer.ticket(f"of {writer.organization.name}")
    await everything.hears("of north", "of south")
    for agent, writer in zip(agents, writers, strict=True):
        await agent.hears(f"of {writer.organization.name}")
    back = await process.listen({"role": "service_role"}, since=everything.subscription.position)
    await back.hears("of north", "of south")


async def test_table_of_no_organization_is_told_to_those_with_wishes_alone(
    process: Process, relay_world: World, desk_itself: Writer, connect: Callable[[], Connection]
) -> None:
    organizations = (relay_world.north, relay_world.south)
    writers = [Writer(connect(), each) for each in organizations]
    listeners = [
        await process.listen(each.claims(each.organization.actors["agent"]), render=RENDER_OWN, wish=b"{}")
        for each in writers
    ]
    plain = await process.listen(desk_itself.claims(relay_world.north.actors["agent"]), render=RENDER_TITLES)
    asked = process.db.counts.get(RENDER_TITLES, 0)
    desk_itself.connection.execute(
        "insert into private.events (type, schema_name, table_name, operation, record)"
        " values ('own.created', 'public', 'own', 'INSERT', '{\"id\": 7, \"text\": \"mine\"}')"
    )
    for listener in listeners:
        await listener.hears("mine")
    assert plain.told == []
    assert process.db.counts.get(RENDER_TITLES, 0) == asked
    about = await process.listen(
        desk_itself.claims(relay_world.north.actors["agent"]),
        render=RENDER_OWN,
        wish=b"{}",
        about="7",
        since=listeners[0].subscription.position,
    )
    await about.hears("mine")


# Subscriptions that become others


async def test_subscription_goes_on_as_another_watch(
    process: Process, relay_world: World, connect: Callable[[], Connection], north: Organization
) -> None:
    writers = [Writer(connect(), each) for each in (north, relay_world.south)]
    claims = [each.claims(each.organization.actors["agent"]) for each in writers]
    listener = await process.listen({"role": "anon"}, wants=lambda _: False)
    others = [await process.listen(each) for each in claims]
    for number, (turn, other) in enumerate(zip(claims, others, strict=True)):
        process.relay.turn(listener.subscription, watch_of(turn))
        for writer in writers:
            writer.ticket(f"{number} of {writer.organization.name}")
        await other.hears(f"{number} of {('north', 'south')[number]}")
    await listener.hears("0 of north", "1 of south")
    assert listener.texts == ["0 of north", "1 of south"]
    process.relay.turn(listener.subscription, watch_of(claims[1], expires_at=time.time() + 0.3))
    await listener.is_over("session_ended", A_SECOND)


async def test_subscription_that_is_over_stays_so(process: Process, desk_itself: Writer) -> None:
    claims = desk_itself.claims(desk_itself.newcomer())
    listener = await process.listen(claims)
    await listener.leave()
    process.relay.turn(listener.subscription, watch_of(claims))
    assert not process.relay._subscriptions


async def test_holder_who_becomes_somebody_else_is_noticed(process: Process, desk_itself: Writer) -> None:
    actor, noticed = desk_itself.newcomer(), list[bytes]()
    listener = await process.listen(desk_itself.claims(actor))
    listener.subscription.on_renewal = lambda: noticed.append(listener.subscription.claims)
    desk_itself.connection.execute(
        "update public.members set role = 'customer' where id = %s", [actor.member_id]
    )
    await until(lambda: noticed, A_SECOND)
    assert json.loads(noticed[0])["app_metadata"]["role"] == "customer"


class Follower:
    """Something that goes by the bell."""

    def __init__(self) -> None:
        self.is_wanted = True
        self.looks = 0
        self.changes: list[str] = []
        self.is_closed = False

    def __bool__(self) -> bool:
        return self.is_wanted

    async def look(self) -> None:
        self.looks += 1

    def changed(self, events: list[Event]) -> None:
        self.changes += [event.type for event in events]

    async def close(self) -> None:
        self.is_closed = True


async def test_companion_is_looked_at_with_the_log_before_anybody_is_let_in(
    process: Process, desk_itself: Writer
) -> None:
    follower, other = Follower(), Follower()
    other.is_wanted = False
    process.relay.companions += [follower, other]
    await asyncio.sleep(SILENCE)
    assert follower.looks == 0, "while nobody listens nothing is done"
    claims = desk_itself.claims(desk_itself.newcomer())
    for _ in range(3):
        before = follower.looks
        listener = await process.listen(claims)
        assert follower.looks > before
    before = follower.looks
    desk_itself.ticket("rings")
    await listener.hears("rings")
    assert follower.looks > before
    assert follower.changes == ["ticket.created"]
    assert other.looks == 0
    await process.relay.close()
    assert follower.is_closed
    assert other.is_closed


# Claims that change


async def test_session_that_ends_ends_its_sockets_within_a_second(
    process: Process, agent: Listener, desk_itself: Writer
) -> None:
    actor = desk_itself.newcomer()
    listener = await process.listen(desk_itself.claims(actor))
    desk_itself.connection.execute("delete from auth.sessions where id = %s", [actor.claims["session_id"]])
    await listener.is_over("session_ended", A_SECOND)
    desk_itself.ticket("too late")
    await agent.hears("too late")
    assert listener.told == []


async def test_member_who_is_deactivated_hears_no_more(process: Process, desk_itself: Writer) -> None:
    actor, other = desk_itself.newcomer(), desk_itself.newcomer()
    gone, stays = [await process.listen(desk_itself.claims(each)) for each in (actor, other)]
    desk_itself.connection.execute(
        "update public.members set is_active = false where id = %s", [actor.member_id]
    )
    await gone.is_over("session_ended", A_SECOND)
    assert stays.reason is None


async def test_agent_who_becomes_a_customer_hears_what_a_customer_may_see(
    process: Process, agent: Listener, desk_itself: Writer
) -> None:
    actor = desk_itself.newcomer()
    listener = await process.listen(desk_itself.claims(actor))
    desk_itself.connection.execute(
        "update public.members set role = 'customer' where id = %s", [actor.member_id]
    )
    await until(lambda: b'"customer"' in listener.subscription.audience, A_SECOND)
    contact = desk_itself.value("select id from public.contacts where member_id = %s", [actor.member_id])
    desk_itself.ticket("another's")
    desk_itself.connection.execute(INSERT, [desk_itself.organization.id, "now mine", contact, None])
    await agent.hears("another's", "now mine")
    await listener.hears("now mine")
    assert listener.texts == ["now mine"]


async def test_customer_who_becomes_an_agent_hears_everything(process: Process, desk_itself: Writer) -> None:
    actor = desk_itself.newcomer("customer")
    listener = await process.listen(desk_itself.claims(actor))
    desk_itself.connection.execute(
        "update public.members set role = 'agent' where id = %s", [actor.member_id]
    )
    await until(lambda: b'"agent"' in listener.subscription.audience, A_SECOND)
    desk_itself.ticket("anybody's")
    await listener.hears("anybody's")


async def test_token_that_is_revoked_or_loses_its_scope_hears_no_more(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    made = desk_itself.value(
        "select private.create_token(%s, %s, null, null, null)", [north.id, unique("token")]
    )
    claims = {
        "role": "integration",
        "app_metadata": {
            "organization_id": north.id,
            "token_id": made["id"],
            "scopes": desk_itself.value(
                "select scopes from public.integration_tokens where id = %s", [made["id"]]
            ),
        },
    }
    listener = await process.listen(claims)
    actor = Actor("new token", "integration", claims, token_id=made["id"])
    desk_itself.ticket("first", actor)
    await listener.hears("first")
    desk_itself.connection.execute(
        "update public.integration_tokens set scopes = '{tickets:write}' where id = %s", [made["id"]]
    )
    await until(lambda: b"tickets:read" not in listener.subscription.audience, A_SECOND)
    desk_itself.ticket("second", actor)
    await agent.hears("second")
    assert listener.texts == ["first"]
    desk_itself.value("select private.revoke_token(%s, %s)", [north.id, made["id"]])
    await listener.is_over("session_ended", A_SECOND)


async def test_credential_that_expires_ends_its_sockets(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    listener = await process.listen(claims, expires_at=time.time() + 0.3)
    other = await process.listen(claims, expires_at=time.time() + 3600)
    assert listener.reason is None
    await listener.is_over("session_ended", A_SECOND)
    assert other.reason is None


# Those who are slow, at fault, or gone


@pytest.mark.parametrize("bound", ["QUEUED_MESSAGES", "QUEUED_CHARACTERS"])
async def test_slow_reader_is_ended_can_resume_and_nobody_else_notices(
    *,
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
    process: Process,
    agent: Listener,
    desk_itself: Writer,
    north: Organization,
) -> None:
    monkeypatch.setattr(watches, bound, 20 if bound == "QUEUED_MESSAGES" else 4000)
    claims = desk_itself.claims(north.actors["agent"])
    slow = await process.subscribe(claims)
    for number in range(60):
        desk_itself.ticket(f"{number}")
        await agent.hears(f"{number}")
    assert slow.reason == "slow"
    assert agent.reason is None
    back = await process.listen(claims, since=slow.position)
    await until(lambda: len(back.told) == 60)
    assert back.numbers == agent.numbers
    assert back.reason is None


async def test_rendering_at_fault_ends_those_who_asked_for_it_alone(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    position = agent.subscription.position
    at_fault = await process.listen(claims, render=RENDER_FAULT)
    picky = await process.listen(claims, wants=lambda _: bool(1 / 0))
    desk_itself.ticket("first")
    await at_fault.is_over("fault")
    await picky.is_over("fault")
    desk_itself.ticket("second")
    await agent.hears("first", "second")
    resumed = await process.listen(claims, render=RENDER_FAULT, since=position)
    await resumed.is_over("fault")


async def test_rendering_that_takes_too_long_ends_those_who_asked_for_it_alone(
    monkeypatch: pytest.MonkeyPatch,
    process: Process,
    agent: Listener,
    desk_itself: Writer,
    north: Organization,
) -> None:
    monkeypatch.setattr(renderings, "RENDER_SECONDS", 0.3)
    sleepy = await process.listen(desk_itself.claims(north.actors["agent"]), render=RENDER_SLEEPILY)
    desk_itself.ticket("first")
    await sleepy.is_over("unavailable")
    desk_itself.ticket("second")
    await agent.hears("first", "second")


async def test_socket_may_keep_to_itself_what_it_is_told(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    class Discreet(Outbox):
        def passes(self, message: str | bytes) -> bool:
            if "the end" in str(message):
                self.end("of its own accord")
            return super().passes(message) and "secret" not in str(message)

    claims, position = desk_itself.claims(north.actors["agent"]), agent.subscription.position
    live = await process.listen(claims, outbox=Discreet())
    for text in ("first", "a secret", "second", "the end", "third"):
        desk_itself.ticket(text)
    await live.is_over("of its own accord")
    await agent.hears("third")
    late = await process.listen(claims, outbox=Discreet(), since=position)
    await late.is_over("of its own accord")
    assert set(live.texts) <= {"first", "second"}
    assert late.texts == ["first", "second"]


async def test_listeners_of_many_organizations_hear_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
    process: Process,
    agent: Listener,
    desk_itself: Writer,
    relay_world: World,
) -> None:
    """Beyond a number of organizations the log is read whole."""
    monkeypatch.setattr(event_log, "_MOST_ORGANIZATIONS", 1)
    south = Writer(desk_itself.connection, relay_world.south)
    stranger = await process.listen(south.claims(relay_world.south.actors["agent"]))
    desk_itself.ticket("of north")
    south.ticket("of south")
    await agent.hears("of north")
    await stranger.hears("of south")
    assert (agent.texts, stranger.texts) == (["of north"], ["of south"])


async def test_process_without_sockets_costs_nothing(login: str, desk_itself: Writer) -> None:
    async with running(login) as process:
        desk_itself.ticket("nobody listens")
        await asyncio.sleep(SILENCE)
        assert process.db.counts == {}
        assert process.relay.is_ready


async def test_after_the_last_has_left_nothing_runs(
    process: Process, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    for _ in range(3):
        listener = await process.listen(claims)
        await until(lambda: process.relay.is_ready and desk_itself.value(BELLS) == 1)
        await listener.leave()
        await until(lambda: not process.relay._tasks)
        await until(lambda: desk_itself.value(BELLS) == 0)


async def test_relay_that_stops_ends_everybody_and_lets_nobody_in(
    process: Process, agent: Listener, desk_itself: Writer, north: Organization
) -> None:
    claims = desk_itself.claims(north.actors["agent"])
    late = asyncio.create_task(process.subscribe(claims))
    await asyncio.sleep(0)
    closing = asyncio.create_task(process.relay.close())
    await agent.is_over("stopping")
    assert (await late).reason == "stopping"
    await agent.leave()
    (await late).subscription.close()
    await closing
    assert (await process.subscribe(claims)).reason == "stopping"
    assert not process.relay._tasks


async def test_nobody_waits_for_ever_for_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, desk_itself: Writer, north: Organization
) -> None:
    monkeypatch.setattr(relays, "JOIN_SECONDS", 0.2)
    claims = desk_itself.claims(north.actors["agent"])
    position = "k85rBlS0ks0DlQCSzQOVAA.0"
    async with running("postgresql:///nothing?host=/nowhere") as process:
        assert (await process.subscribe(claims)).reason == "unavailable"
        assert (await process.subscribe(claims, since=position)).reason == "unavailable"
        assert not process.relay.is_ready
        waiting = asyncio.create_task(process.subscribe(claims))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not process.relay._subscriptions


# Many at once, and connections that break


class Restless:
    """Somebody who listens now here, now there, and always goes on where they left off."""

    def __init__(self, processes: Sequence[Process], claims: Claims, seed: int) -> None:
        self._processes = processes
        self._claims = claims
        self._chance = random.Random(seed)
        self.numbers: list[int] = []
        self.ids: list[str] = []
        self.position: str | None = None
        self.visits = 0

    async def visit(self, *, seconds: float) -> None:
        """Listen for a while, to some messages."""
        self.visits += 1
        process = self._chance.choice(self._processes)
        listener = await process.subscribe(self._claims, since=self.position)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listener.read(self._chance.randint(1, 40)), seconds)
        await listener.leave()
        self.numbers += listener.numbers
        self.ids += [message["id"] for message in listener.told]
        self.position = listener.position

    async def wander(self, done: asyncio.Event) -> None:
        while not done.is_set():
            await self.visit(seconds=self._chance.random() * 0.3)
            await asyncio.sleep(self._chance.random() * 0.02)

    async def finish(self, expected: list[int]) -> None:
        deadline = time.monotonic() + 15
        while len(self.numbers) < len(expected):
            await self.visit(seconds=1)
            assert time.monotonic() < deadline, f"{len(self.numbers)} of {len(expected)}"


def write(connection: Connection, organization: Organization, tickets: Sequence[str], seed: int) -> None:
    """Make transactions of all kinds that overlap with those of others."""
    writer, chance = Writer(connection, organization), random.Random(seed)
    for number in range(25):
        with connection.transaction(force_rollback=chance.random() < 0.2):
            # In one order, so that no two wait for each other in a circle.
            for ticket in sorted(chance.sample(tickets, chance.randint(0, 3))):
                with connection.transaction(force_rollback=chance.random() < 0.2):
                    writer.rename(ticket, f"{seed} {number}")
                    if chance.random() < 0.3:
                        writer.comment(ticket, f"{seed} {number}")
            writer.ticket(f"{seed} {number}")
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.03)


@pytest.mark.parametrize("breaks", [False, True], ids=["undisturbed", "connections cut"])
async def test_restless_listeners_hear_of_everything_once(
    *,
    breaks: bool,
    process: Process,
    login: str,
    desk_itself: Writer,
    connect: Callable[[], Connection],
    north: Organization,
) -> None:
    agent, customer = north.actors["agent"], north.actors["customer"]
    tickets = [desk_itself.ticket(str(number), customer if number % 2 else None) for number in range(6)]
    claims = desk_itself.claims(agent)
    done = asyncio.Event()

    async def cut() -> None:
        while breaks and not done.is_set():
            await asyncio.sleep(0.15)
            desk_itself.connection.execute(CUT)

    async with running(login) as other:
        listeners = [Restless([process, other], claims, seed) for seed in range(4)]
        customers = [Restless([process, other], desk_itself.claims(customer), seed) for seed in range(4, 6)]
        for listener in [*listeners, *customers]:
            await listener.visit(seconds=0)
        steady = await process.listen(claims)
        start = desk_itself.value(SNAPSHOT)
        wandering = [asyncio.create_task(each.wander(done)) for each in [*listeners, *customers]]
        cutting = asyncio.create_task(cut())
        await asyncio.gather(
            *[asyncio.to_thread(write, connect(), north, tickets, seed) for seed in range(6)]
        )
        done.set()
        await asyncio.gather(cutting, *wandering)
        expected = [row[0] for row in desk_itself.connection.execute(COMMITTED, [north.id, start])]
        await until(lambda: len(steady.numbers) >= len(expected), 15)
        for listener in listeners:
            await listener.finish(expected)
            assert listener.visits > 3
        params = [north.id, start, customer.contact_id]
        own = [row[0] for row in desk_itself.connection.execute(COMMITTED_OWN, params)]
        for listener in customers:
            await listener.finish(own)
            assert sorted(listener.numbers) == own
    assert len(expected) > 100
    assert len(expected) > len(own) > 20
    for listener in listeners:
        assert sorted(listener.numbers) == expected
        for ticket in tickets:
            order = [
                number for number, id_ in zip(listener.numbers, listener.ids, strict=True) if id_ == ticket
            ]
            assert order == sorted(order), "each row's own order is kept"
    assert sorted(steady.numbers) == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["crash", "restart"])
async def test_listener_lives_through_the_database_going_away(
    number: signal.Signals, embedded: Embedded
) -> None:
    """After a crash transaction ids are given out again that a snapshot of before takes for over."""
    embedded.start()
    url = embedded.socket_url()
    migrate(url, report=lambda _: None)
    world = build_world(url)
    password = "a password"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute(f"alter role authenticator password '{password}'".encode())
        connection.execute("alter system set wal_writer_delay = '10s'")
        connection.execute("select pg_reload_conf()")
        connection.execute("create table burnt (id integer)")
    north = world.north
    async with running(login_url(url, password)) as process:
        with psycopg.connect(url, autocommit=True) as connection:
            writer = Writer(connection, north)
            claims = writer.claims(north.actors["agent"])
            listener = await process.listen(claims)
            writer.ticket("before")
            await listener.hears("before")
            connection.execute("set synchronous_commit = off")
            for _ in range(200):
                connection.execute("insert into burnt values (1)")
            # Its first look takes place now, and all of these transactions are over in it.
            other = await process.listen(claims)
            reached = int(writer.value("select pg_snapshot_xmax(pg_current_snapshot())::text"))
            assert embedded.pid
            os.kill(embedded.pid, number)
        await until(lambda: process.db.connections[0] == 0)
        await until(lambda: not embedded.running)
        embedded.start()
        with psycopg.connect(url, autocommit=True) as connection:
            writer = Writer(connection, north)
            is_turned_back = (
                int(writer.value("select pg_snapshot_xmax(pg_current_snapshot())::text")) < reached
            )
            assert is_turned_back == (number == signal.SIGKILL)
            writer.ticket("after")
            for each in (listener, other):
                await each.hears("after")
            back = await process.listen(claims, since=other.subscription.position)
            await back.hears("after")
            writer.ticket("later")
            for each in (listener, other, back):
                await each.hears("later")
        assert listener.texts == ["before", "after", "later"]
        assert other.texts == back.texts == ["after", "later"]
