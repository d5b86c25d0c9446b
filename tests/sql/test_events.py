"""The event log: every change once, in its transaction; read without a gap or a repeat; rung for, guarded."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.actors import Acting, Organization, World, build_world
from tests.databases import Connection, Server
from tests.sql.threads import run_at_once

LOGGED = """
    select type, operation, record, old_record from private.events
    where organization_id = %s and xid = pg_current_xact_id() order by id
"""
SNAPSHOT = "select pg_current_snapshot()::text"
READ = """
    select id, type, organization_id, coalesce(record, old_record) ->> 'id',
        (coalesce(record, old_record) ->> 'version')::bigint
    from private.read_events(%s::pg_snapshot, %s::pg_snapshot, %s, %s)
"""
SINCE = "select id from private.events where not pg_visible_in_snapshot(xid, %s::pg_snapshot)"
CHANNEL = "listen deskbase_events"
# As long as a ring would need at the very most, where there must be none.
SILENCE = 0.3


class Event(NamedTuple):
    id: int
    type: str
    organization_id: str
    row_id: str
    version: int | None


class Reader:
    """Follows the log as the relay does: from snapshot to snapshot, a small batch at a time."""

    def __init__(self, connection: Connection, batch_size: int = 3) -> None:
        self._connection = connection
        self._batch_size = batch_size
        self._since = self.start = self._snapshot()
        self.seen: list[Event] = []

    def read(self) -> list[Event]:
        """Return what became visible since the last time."""
        until, last, found = self._snapshot(), 0, list[Event]()
        while True:
            batch = self._batch(until, last)
            found += batch
            if len(batch) < self._batch_size:
                break
            last = batch[-1].id
        self._since = until
        self.seen += found
        return found

    def _snapshot(self) -> str:
        (snapshot,) = self._connection.execute(SNAPSHOT).fetchone() or ("",)
        return str(snapshot)

    def _batch(self, until: str, last: int) -> list[Event]:
        rows = self._connection.execute(READ, [self._since, until, last, self._batch_size]).fetchall()
        return [Event(*row) for row in rows]


def must_be_complete(reader: Reader, owner: Connection) -> None:
    """Compare what was read with what is there, and the order of each ticket's versions with time."""
    ids = [event.id for event in reader.seen]
    assert len(set(ids)) == len(ids), "nothing is repeated"
    assert set(ids) == {row[0] for row in owner.execute(SINCE, [reader.start])}, "nothing is missed"
    versions: dict[str, list[int]] = {}
    for event in reader.seen:
        if event.version is not None:
            versions.setdefault(event.row_id, []).append(event.version)
    assert all(order == sorted(set(order)) for order in versions.values()), "each ticket's own order is kept"


# What is written


def changes(owner: Acting, organization: Organization) -> list[tuple[str, str]]:
    return [(kind, operation) for kind, operation, *_ in owner.rows(LOGGED, [organization.id])]


def test_a_new_ticket_is_an_event(customer: Acting, owner: Acting, north: Organization) -> None:
    ticket = customer.insert_id("tickets", subject="Tell them")
    ((kind, operation, record, old),) = owner.rows(LOGGED, [north.id])
    assert (kind, operation, old) == ("ticket.created", "INSERT", None)
    assert record == owner.value("select to_jsonb(t) from public.tickets as t where id = %s", [ticket])


def test_a_change_says_what_was_and_what_is(agent: Acting, owner: Acting, north: Organization) -> None:
    agent.rows("update public.tickets set priority = 'low' where id = %s", [north["walk_in"]])
    ((kind, operation, record, old),) = owner.rows(LOGGED, [north.id])
    assert (kind, operation) == ("ticket.updated", "UPDATE")
    assert (old["priority"], record["priority"]) == ("medium", "low")
    assert record["version"] == old["version"] + 1


def test_a_comment_is_an_event_and_so_is_what_it_does_to_its_ticket(
    token: Acting, owner: Acting, north: Organization
) -> None:
    token.insert("comments", ticket_id=north["token_ticket"], body="x")
    assert sorted(changes(owner, north)) == [("comment.created", "INSERT"), ("ticket.updated", "UPDATE")]


def test_a_correction_a_removal_and_a_notification_are_events(
    agent: Acting, customer: Acting, owner: Acting, north: Organization
) -> None:
    agent.rows("update public.comments set body = 'x' where id = %s", [north["reply"]])
    customer.rows("delete from public.comments where id = %s", [north["answer"]])
    agent.rows("update public.notifications set read_at = now()")
    kinds = {kind for kind, _ in changes(owner, north)}
    assert kinds == {"comment.updated", "comment.deleted", "notification.updated"}


def test_a_soft_delete_is_a_deletion_and_so_is_a_real_one(
    agent: Acting, admin: Acting, owner: Acting, north: Organization
) -> None:
    agent.rows("delete from public.tickets where id = %s", [north["walk_in"]])
    rows = owner.rows(LOGGED, [north.id])
    ((kind, operation, record, old),) = [row for row in rows if row[0].startswith("ticket.")]
    assert (kind, operation, record) == ("ticket.deleted", "DELETE", None)
    assert (old["id"], old["deleted_at"]) == (north["walk_in"], None)
    admin.rows("select public.restore_ticket(%s)", [north["walk_in"]])
    assert changes(owner, north)[-1] == ("ticket.updated", "UPDATE")
    owner.rows("delete from public.organizations where id = %s", [north.id])
    assert ("ticket.deleted", "DELETE") in changes(owner, north)


def test_what_is_undone_was_never_told(agent: Acting, owner: Acting, north: Organization) -> None:
    with agent.stage.undone():
        agent.rows("update public.tickets set priority = 'low' where id = %s", [north["walk_in"]])
    agent.refused_insert("23514", "tickets", subject="")
    assert changes(owner, north) == []


def test_a_change_of_something_else_is_no_event(agent: Acting, owner: Acting, north: Organization) -> None:
    agent.insert("tags", name="quiet")
    agent.insert("articles", title="Quiet")
    assert changes(owner, north) == []


# Reading: any order of commits


@pytest.fixture(scope="module")
def arena(server: Server, template: str) -> Iterator[World]:
    """A world of this file's own, in which transactions are committed."""
    with server.database(template) as url:
        yield build_world(url)


@pytest.fixture
def open_connection(arena: World) -> Iterator[Callable[[], Connection]]:
    """Connect to it as the owner, in autocommit."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(psycopg.connect(arena.url, autocommit=True))


INSERT = "insert into public.tickets (organization_id, subject) values (%s, 'x') returning id::text"
UPDATE = "update public.tickets set subject = subject where id = %s"
COMMENT = "insert into public.comments (organization_id, ticket_id, body) values (%s, %s, 'x')"


@dataclass
class Writer:
    """A connection with at most one transaction under way, and what it will have logged if that commits."""

    connection: Connection
    organization: str
    is_open: bool = False
    made: list[str] = field(default_factory=list)
    events: int = 0
    savepoints: list[tuple[int, int]] = field(default_factory=list)

    def begin(self) -> None:
        if not self.is_open:
            self.connection.execute("begin")
            self.is_open = True

    def insert(self) -> None:
        self.begin()
        row = self.connection.execute(INSERT, [self.organization]).fetchone()
        assert row
        self.made.append(row[0])
        self.events += 1

    def update(self, ticket: str) -> None:
        self.begin()
        self.connection.execute(UPDATE, [ticket])
        self.events += 1

    def comment(self, ticket: str) -> None:
        self.begin()
        self.connection.execute(COMMENT, [self.organization, ticket])
        self.events += 2  # the comment, and the new version of its ticket

    def savepoint(self) -> None:
        self.begin()
        self.connection.execute(f"savepoint s{len(self.savepoints)}".encode())
        self.savepoints.append((len(self.made), self.events))

    def undo(self) -> None:
        """Go back to the last savepoint."""
        if self.savepoints:
            made, self.events = self.savepoints.pop()
            del self.made[made:]
            self.connection.execute(f"rollback to s{len(self.savepoints)}".encode())

    def end(self, word: str) -> tuple[list[str], int]:
        """Commit or roll back; return the tickets and the number of events that there are now."""
        if self.is_open:
            self.connection.execute(word.encode())
        made, events = (self.made, self.events) if word == "commit" else ([], 0)
        self.is_open, self.made, self.events, self.savepoints = False, [], 0, []
        return made, events


class Scene:
    """Writers whose transactions overlap, a reader among them, and how many events are to be read."""

    def __init__(self, writers: Sequence[Writer], reader: Reader) -> None:
        self._writers = writers
        self._reader = reader
        self._tickets: list[str] = []
        self._locks: dict[str, Writer] = {}
        self.expected = 0

    def play(self, number: int, act: str) -> None:
        writer = self._writers[number]
        if act == "read":
            self._reader.read()
        elif act in ("commit", "rollback"):
            self._end(writer, act)
        elif act in ("update", "comment"):
            self._touch(writer, act)
        else:
            getattr(writer, act)()

    def finish(self) -> None:
        """Let those who came first commit last."""
        for writer in reversed(self._writers):
            self._end(writer, "commit")
            self._reader.read()

    def _touch(self, writer: Writer, act: str) -> None:
        """Change the newest ticket that nobody else holds: a writer that waits would hold up this thread."""
        free = [t for t in self._tickets if self._locks.get(t, writer) is writer] + writer.made
        if free:
            self._locks[free[-1]] = writer
            getattr(writer, act)(free[-1])

    def _end(self, writer: Writer, word: str) -> None:
        made, events = writer.end(word)
        self._tickets += made
        self.expected += events
        self._locks = {ticket: holder for ticket, holder in self._locks.items() if holder is not writer}


ACTS = ["insert", "update", "comment", "savepoint", "undo", "commit", "rollback", "read"]
SCRIPTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ACTS)), min_size=5, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=SCRIPTS, batch_size=st.integers(1, 4))
def test_whatever_the_order_of_commits_nothing_is_missed_or_repeated(
    script: list[tuple[int, str]],
    batch_size: int,
    arena: World,
    open_connection: Callable[[], Connection],
) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(open_connection()) for _ in range(6)]
        *writing, reading, owner = connections
        reader = Reader(reading, batch_size)
        scene = Scene([Writer(connection, arena.north.id) for connection in writing], reader)
        for number, act in script:
            scene.play(number, act)
        scene.finish()
        must_be_complete(reader, owner)
        assert len(reader.seen) == scene.expected


def test_a_long_transaction_holds_up_nobody_and_is_not_lost(
    arena: World, open_connection: Callable[[], Connection]
) -> None:
    long, short, reading = (open_connection() for _ in range(3))
    reader = Reader(reading)
    first = Writer(long, arena.north.id)
    first.insert()
    for _ in range(5):
        short.execute(INSERT, [arena.north.id])
    assert len(reader.read()) == 5
    assert reader.read() == []
    first.end("commit")
    assert len(reader.read()) == 1
    assert reader.read() == []
    ids = [event.id for event in reader.seen]
    assert ids[-1] == min(ids), "it came first and was told last"


def test_two_readers_read_the_same(arena: World, open_connection: Callable[[], Connection]) -> None:
    one, other, writing = (open_connection() for _ in range(3))
    eager, lazy = Reader(one), Reader(other, 100)
    for _ in range(7):
        writing.execute(INSERT, [arena.north.id])
        eager.read()
    lazy.read()
    assert eager.seen == lazy.seen


def test_many_writers_at_once_and_nothing_is_missed_or_repeated(
    arena: World, open_connection: Callable[[], Connection]
) -> None:
    owner = open_connection()
    shared = sorted(row[0] for _ in range(4) for row in owner.execute(INSERT, [arena.south.id]))
    reader = Reader(open_connection(), batch_size=7)
    listener = open_connection()
    listener.execute(CHANNEL)
    done = threading.Event()
    rings = 0

    def write(connection: Connection, seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def task() -> None:
            for _ in range(25):
                with connection.transaction(force_rollback=chance.random() < 0.2):
                    # In one order, so that no two of them wait for each other in a circle.
                    for ticket in sorted(chance.sample(shared, chance.randint(0, 3))):
                        with connection.transaction(force_rollback=chance.random() < 0.2):
                            if chance.random() < 0.5:
                                connection.execute(UPDATE, [ticket])
                            else:
                                connection.execute(COMMENT, [arena.south.id, ticket])
                    connection.execute(INSERT, [arena.south.id])

        return task

    def follow() -> None:
        nonlocal rings
        while not done.is_set():
            rings += len(list(listener.notifies(timeout=0.01, stop_after=1)))
            reader.read()

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        run_at_once(*[write(open_connection(), seed) for seed in range(10)])
    finally:
        done.set()
        follower.join()
    reader.read()
    must_be_complete(reader, owner)
    assert rings > 0
    assert len(reader.seen) > 200


# The bell


@pytest.fixture
def listener(arena: World, open_connection: Callable[[], Connection]) -> Connection:
    connection = open_connection()
    connection.execute(CHANNEL)
    return connection


def is_rung(listener: Connection, seconds: float = 5) -> bool:
    """Return whether somebody rings within the time."""
    return any(ring.channel == "deskbase_events" for ring in listener.notifies(timeout=seconds, stop_after=1))


def test_the_bell_rings_when_a_change_is_committed_and_not_before(
    arena: World, listener: Connection, open_connection: Callable[[], Connection]
) -> None:
    writer = Writer(open_connection(), arena.north.id)
    writer.insert()
    assert not is_rung(listener, SILENCE)
    writer.end("commit")
    assert is_rung(listener)


def test_a_transaction_rings_once_however_much_it_changes(
    arena: World, listener: Connection, open_connection: Callable[[], Connection]
) -> None:
    writer = Writer(open_connection(), arena.north.id)
    for _ in range(5):
        writer.insert()
    writer.end("commit")
    assert is_rung(listener)
    assert not is_rung(listener, SILENCE)


def test_a_rollback_rings_for_nobody(
    arena: World, listener: Connection, open_connection: Callable[[], Connection]
) -> None:
    writer = Writer(open_connection(), arena.north.id)
    writer.insert()
    writer.end("rollback")
    assert not is_rung(listener, SILENCE)


def test_one_rings_at_a_time_and_who_looks_again_misses_nothing(
    arena: World, listener: Connection, open_connection: Callable[[], Connection]
) -> None:
    first, second = (Writer(open_connection(), arena.north.id) for _ in range(2))
    reader = Reader(open_connection())
    first.insert()
    second.insert()
    second.end("commit")
    assert not is_rung(listener, SILENCE), "the first one is to ring"
    assert len(reader.read()) == 1, "but it is there for who looks"
    first.end("commit")
    assert is_rung(listener)
    assert len(reader.read()) == 1


def test_after_the_ringer_has_gone_the_next_one_rings(
    arena: World, listener: Connection, open_connection: Callable[[], Connection]
) -> None:
    writer = Writer(open_connection(), arena.north.id)
    writer.insert()
    writer.end("rollback")
    writer.insert()
    writer.end("commit")
    assert is_rung(listener)


# Partitions


PARTITIONS = """
    select c.relname from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'private.events'::regclass order by 1
"""
MAINTAIN = "select private.maintain()"
DAY = "select to_char((now() at time zone 'UTC')::date + %s, '\"events_\"YYYYMMDD')"
LOG = """
    insert into private.events (organization_id, type, table_name, operation, at)
    values (gen_random_uuid(), 'ticket.created', 'tickets', 'INSERT', now() + %s * interval '1 day')
    returning tableoid::regclass::text
"""


class Log:
    """The event log of a database of a test's own, as its owner keeps it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def value(self, statement: str, params: Sequence[Any] = ()) -> Any:
        row = self.connection.execute(statement.encode(), params).fetchone()
        assert row
        return row[0]

    def partitions(self) -> list[str]:
        return [row[0] for row in self.connection.execute(PARTITIONS)]

    def day(self, offset: int) -> str:
        return str(self.value(DAY, [offset]))

    def drop(self, offset: int) -> None:
        name = sql.Identifier("private", self.day(offset))
        self.connection.execute(sql.SQL("drop table {}").format(name))

    def make(self, offset: int) -> None:
        day = sql.Literal(self.day(offset)[7:] + " UTC")
        self.connection.execute(
            sql.SQL(
                "create table {} partition of private.events"
                " for values from (({})::timestamptz) to (({})::timestamptz + interval '1 day')"
            ).format(sql.Identifier("private", self.day(offset)), day, day)
        )

    def write(self, offset: float) -> str:
        """Log something on another day, and return where it went."""
        return str(self.value(LOG, [offset])).removeprefix("private.")


@pytest.fixture
def connect_owner(database: str) -> Iterator[Callable[[], Connection]]:
    """Connect to the log's database as its owner, in autocommit; nothing there takes long."""
    with ExitStack() as stack:

        def connect() -> Connection:
            connection = stack.enter_context(psycopg.connect(database, autocommit=True))
            connection.execute("set statement_timeout = '10s'")
            return connection

        yield connect


@pytest.fixture
def log(connect_owner: Callable[[], Connection]) -> Log:
    log = Log(connect_owner())
    log.value(MAINTAIN)
    return log


def test_partitions_are_made_a_week_ahead(log: Log) -> None:
    expected = [log.day(offset) for offset in range(8)]
    assert [name for name in log.partitions() if name in expected] == expected
    assert "events_default" in log.partitions()
    before = log.partitions()
    log.value(MAINTAIN)
    assert log.partitions() == before


def test_an_event_lies_in_the_partition_of_its_day(log: Log) -> None:
    assert [log.write(offset) for offset in (0, 3, 7)] == [log.day(offset) for offset in (0, 3, 7)]


def test_what_is_older_than_a_day_goes_with_its_partition(log: Log) -> None:
    for offset in (-1, -2, -3):
        log.make(offset)
    log.write(-3)
    log.value(MAINTAIN)
    assert log.day(-1) in log.partitions()
    assert log.day(-3) not in log.partitions()


def test_an_event_of_a_day_without_a_partition_is_kept_and_read(log: Log) -> None:
    log.drop(2)
    log.drop(3)
    reader = Reader(log.connection)
    assert log.write(2) == "events_default"
    log.value(MAINTAIN)
    assert log.day(2) not in log.partitions(), "that day stays where it is"
    assert log.day(3) in log.partitions(), "the others are made all the same"
    assert len(reader.read()) == 1


def test_what_is_old_in_the_default_partition_goes_too(log: Log) -> None:
    assert log.write(-5) == "events_default"
    assert log.write(20) == "events_default"
    log.value(MAINTAIN)
    assert log.value("select count(*) from private.events_default") == 1


def test_many_who_keep_house_at_once_do_it_once(log: Log, connect_owner: Callable[[], Connection]) -> None:
    keepers = [partial(connect_owner().execute, MAINTAIN) for _ in range(6)]
    for _ in range(5):
        for offset in range(1, 8):
            log.drop(offset)
        run_at_once(*keepers)
        assert {log.day(offset) for offset in range(8)} <= set(log.partitions())


def test_housekeeping_does_not_wait_for_a_long_transaction_and_nobody_waits_for_it(
    log: Log, connect_owner: Callable[[], Connection]
) -> None:
    log.drop(7)
    warnings: list[str] = []
    log.connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    log.connection.execute("""
        insert into private.idempotency_keys (principal, operation, key, fingerprint, created_at)
        values ('x', 'x', 'x', '', now() - interval '2 days')
    """)
    busy, other = connect_owner(), connect_owner()
    with busy.transaction():
        busy.execute(LOG, [0])
        log.value(MAINTAIN)
        assert any("busy" in warning for warning in warnings)
        other.execute(LOG, [0])
    assert log.day(7) not in log.partitions()
    assert log.value("select count(*) from private.idempotency_keys") == 0, "the rest was done"
    log.value(MAINTAIN)
    assert log.day(7) in log.partitions()
