"""Sockets and what they share, without a server: silence, slow readers, floods, and the pace of talkers."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from api.db import Database, Param, Row
from api.errors import SqlError, UnavailableError
from api.realtime import publishing
from api.realtime.client import Shared
from api.realtime.hub import Hub
from api.realtime.pace import Pace
from api.realtime.publishing import PUBLISH, Publisher, Refused
from api.realtime.questions import Signal
from api.realtime.socket import IDLE_SECONDS, QUEUED_MESSAGES, Conversation, SharedOutbox
from api.realtime.tokens import Key
from tests.api.test_relay import until


class FakeDatabase:
    """A database that answers what a test has prepared, and remembers what it was asked."""

    def __init__(self) -> None:
        self.published: list[list[Any]] = []
        self.answers: list[Exception | list[Row]] = []

    async def rows(self, statement: bytes, params: Sequence[Param] = (), _seconds: float = 10) -> list[Row]:
        await asyncio.sleep(0)
        if statement == PUBLISH:
            import msgspec

            (told,) = params
            self.published.append(msgspec.json.decode(cast("bytes", told)))
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer


def a_database() -> tuple[FakeDatabase, Database]:
    fake = FakeDatabase()
    return fake, cast("Database", fake)


def message(number: int) -> dict[str, Any]:
    return {"topic": "t", "private": False, "event": str(number), "payload": {}}


# Sockets


async def test_client_that_is_silent_for_three_minutes_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    _, db = a_database()
    shared = Shared(Hub(db, "p"), cast("Any", None), cast("Any", None))
    talker, silent = [Conversation(shared, Key("k", "anon"), 1, "::1") for _ in range(2)]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + IDLE_SECONDS - 1)
    await talker.hear('{"topic":"phoenix","event":"heartbeat","ref":"1"}')
    monkeypatch.setattr(time, "monotonic", lambda: now + IDLE_SECONDS + 1)
    for each in (talker, silent):
        each.check()
    assert (talker.outbox.reason, silent.outbox.reason) == (None, "idle")
    await shared.hub.close()
    assert talker.outbox.reason == "stopping"


async def test_outbox_has_room_when_little_waits() -> None:
    outbox = SharedOutbox()
    await outbox.room()
    for number in range(200):
        outbox.put(str(number))
    waiting = asyncio.create_task(outbox.room())
    for _ in range(90):
        outbox.take()
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(20):
        outbox.take()
    await waiting
    for number in range(QUEUED_MESSAGES):
        outbox.put(str(number))
    assert outbox.reason == "slow"
    await outbox.room()


def test_pace_allows_a_burst_and_then_so_much_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    taken, owed = Pace(10, 3), Pace(10, 3)
    assert [taken.take() for _ in range(4)] == [True, True, True, False]
    assert [owed.owe() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    now += 0.11
    assert [taken.take(), taken.take()] == [True, False]
    assert owed.owe() == pytest.approx(0.19)
    now += 100
    for bucket in (taken, owed):
        assert [bucket.take() for _ in range(4)] == [True, True, True, False]


# Signals


class Counter:
    """A channel that counts, and a socket that reads as it gets its turn."""

    room = ("t", False)

    def __init__(self) -> None:
        self.outbox = SharedOutbox()
        self.read = 0

    def tell_broadcast(self, signal: Signal) -> None:
        self.outbox.put(signal.event)

    def tell_presence(self, diff: str) -> None:
        raise AssertionError(diff)

    def reconsider(self) -> None:
        raise AssertionError

    async def keep_reading(self) -> None:
        async for _ in self.outbox:
            self.read += 1


async def test_many_signals_at_once_let_nobody_go_who_reads() -> None:
    fake, db = a_database()
    hub, channel = Hub(db, "p"), Counter()
    hub.enter(channel)
    reading = asyncio.create_task(channel.keep_reading())
    row: Row = (b"1:1:", b"broadcast", b"t", b"f", b"e", b"{}", None, None, None)
    fake.answers.append([row] * 10 * QUEUED_MESSAGES)
    await hub.look()
    await until(lambda: channel.read == 10 * QUEUED_MESSAGES)
    assert channel.outbox.reason is None
    reading.cancel()


async def test_look_is_insisted_on_so_that_nobody_is_let_in_without_one() -> None:
    fake, db = a_database()
    hub, channel = Hub(db, "p"), Counter()
    hub.enter(channel)
    fake.answers += [UnavailableError(), UnavailableError(), [(b"1:1:", *[None] * 8)]]
    await hub.look()
    assert not fake.answers


# Publishing


async def test_what_waits_is_told_together_and_in_order() -> None:
    fake, db = a_database()
    publisher = Publisher(db)
    await asyncio.gather(*[publisher.broadcast(message(number)) for number in range(1200)])
    assert [len(batch) for batch in fake.published] == [500, 500, 200]
    told = [each["event"] for each in itertools.chain(*fake.published)]
    assert told == [str(number) for number in range(1200)]


async def test_database_that_is_away_loses_broadcasts_and_never_a_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "RETRY_SECONDS", 0.01)
    fake, db = a_database()
    publisher = Publisher(db)
    fake.answers += [UnavailableError(), UnavailableError()]
    lost, kept = publisher.broadcast(message(1)), publisher.untrack("c")
    with pytest.raises(UnavailableError):
        await lost
    await kept
    assert [[each["op"] for each in batch] for batch in fake.published] == [
        ["broadcast", "untrack"],
        ["untrack"],
        ["untrack"],
    ]


async def test_one_that_cannot_be_stored_takes_no_other_with_it() -> None:
    fake, db = a_database()
    publisher = Publisher(db)
    fake.answers += [SqlError("22P05", ""), [], SqlError("22P05", ""), SqlError("22P05", ""), []]
    futures = [publisher.broadcast(message(number)) for number in range(4)]
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(each) for each in found] == [type(None), type(None), Refused, type(None)]


async def test_who_is_present_is_said_again_and_who_has_left_is_not() -> None:
    fake, db = a_database()
    publisher = Publisher(db)
    for channel in "abc":
        await publisher.track({"channel": channel})
    await asyncio.gather(publisher.track({"channel": "a", "n": 2}), publisher.untrack("b"))
    fake.answers.append([(b"0", b"no")])
    with pytest.raises(Refused):
        await publisher.track({"channel": "d"})
    fake.published.clear()
    publisher.repeat()
    await until(lambda: fake.published)
    assert fake.published == [[{"op": "track", "channel": "a", "n": 2}, {"op": "track", "channel": "c"}]]
