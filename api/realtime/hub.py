"""The hub: what channels tell each other, within this process and between processes.

In charge of who listens on which topic, and of looking for signals whenever the relay looks at the log: every
broadcast and every change of presence goes through the database, so that all processes hear of it in one
order. What is to be told is `api.realtime.publishing`'s business; what somebody may hear, a channel's.
"""

import asyncio
import base64
import re
from typing import Protocol, TypeVar

from api.db import STATEMENT_SECONDS, Database, Param, Row
from api.errors import SqlError, UnavailableError
from api.event_log import Event as LogEvent
from api.logs import Event, failure
from api.watches import STOPPING, Outbox

from .publishing import Publisher
from .questions import Questions, Room, Signal

LOOK = (
    b"select until, kind, topic, private, event, payload, binary_payload, message_id, sender "
    b"from realtime_service.look($1, $2)"
)
BEAT = b"select realtime_service.beat($1)"
LEAVE = b"select realtime_service.leave($1)"
BEAT_SECONDS = 2.0
LATE_SECONDS = 6.0
"""A process that has not been seen for eight seconds is taken for dead, and nobody is present from it."""

SWEEP_SECONDS = 15.0
RETRY_SECONDS = 0.1
LEAVE_SECONDS = 0.5
SLICE = 100
"""Signals that are handed on at once: between two slices every socket has a turn at sending."""

_MOST_TOPICS = 100
_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

_K = TypeVar("_K")


class Listener(Protocol):
    """A channel, as the hub knows it."""

    room: Room

    def tell_broadcast(self, signal: Signal) -> None:
        """Tell of a broadcast."""

    def tell_presence(self, diff: str) -> None:
        """Tell of a change of presence."""

    def reconsider(self) -> None:
        """Ask anew what may be heard and said here."""


class Talker(Protocol):
    """A socket, as the hub knows it."""

    @property
    def outbox(self) -> Outbox:
        """What it is still to be sent."""

    def check(self) -> None:
        """End it if it has been silent for too long."""


class Hub:
    """The channels and sockets of a process. A companion of the relay."""

    def __init__(self, db: Database, process: str) -> None:
        self._db = db
        self.process = process
        self.publisher = Publisher(db)
        self.questions = Questions(db)
        self._rooms: dict[Room, set[Listener]] = {}
        self._named: dict[str, set[Listener]] = {}
        self._talkers: set[Talker] = set()
        self._cursor: bytes | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._has_beaten = False
        self._is_closed = False

    def __bool__(self) -> bool:
        return bool(self._rooms)

    # Coming and going

    def open(self, talker: Talker) -> None:
        """Let a socket in."""
        if self._is_closed:
            talker.outbox.end(STOPPING)
        self._talkers.add(talker)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    def shut(self, talker: Talker) -> None:
        """Forget a socket."""
        self._talkers.discard(talker)

    def enter(self, listener: Listener) -> None:
        """Begin to tell a channel. What is sent after the relay's next look, it hears of."""
        _add(self._rooms, listener.room, listener)
        for row_id in _ids(listener.room):
            _add(self._named, row_id, listener)

    def exit(self, listener: Listener) -> None:
        """Tell a channel no more."""
        _discard(self._rooms, listener.room, listener)
        for row_id in _ids(listener.room):
            _discard(self._named, row_id, listener)
        if not self._rooms:
            self._cursor = None

    async def close(self) -> None:
        """End all sockets, and let go of what this process has made present."""
        self._is_closed = True
        for talker in list(self._talkers):
            talker.outbox.end(STOPPING)
        if self._keeping:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        await self.publisher.close()
        if self._has_beaten:
            await self._ask(LEAVE, [self.process], LEAVE_SECONDS)

    # Signals

    async def look(self) -> None:
        """Hand on what was sent since the last look."""
        rows: list[Row] | None = None
        while rows is None and self._rooms:
            topics = sorted({topic for topic, _ in self._rooms})
            params: list[Param] = [self._cursor, topics if len(topics) <= _MOST_TOPICS else None]
            rows = await self._ask(LOOK, params)
            if rows is None:
                await asyncio.sleep(RETRY_SECONDS)
        if rows and self._rooms:
            self._cursor = rows[0][0]
            for begin in range(0, len(rows), SLICE):
                for row in rows[begin : begin + SLICE]:
                    if row[1] is not None:
                        self._hand_on(row)
                await asyncio.sleep(0)

    def changed(self, events: list[LogEvent]) -> None:
        """Have the private channels that are named after a row that has changed ask their policies anew."""
        if not self._named:
            return
        for event in events:
            for row_id in set(event.ids.values()):
                for listener in list(self._named.get(row_id, ())):
                    listener.reconsider()

    def _hand_on(self, row: Row) -> None:
        _, kind, topic, private, event, payload, binary, message_id, sender = row
        listeners = list(self._rooms.get(((topic or b"").decode(), private == b"t"), ()))
        if not listeners:
            return
        signal = Signal(
            (event or b"").decode(),
            (payload or b"{}").decode(),
            None if binary is None else base64.b64decode(binary),
            message_id.decode() if message_id else None,
            sender.decode() if sender else None,
        )
        for listener in listeners:
            if kind == b"presence":
                listener.tell_presence(signal.payload)
            else:
                listener.tell_broadcast(signal)

    # Keeping alive

    async def _keep(self) -> None:
        """Say that this process lives, and look after silent sockets, while there are any."""
        clock = asyncio.get_running_loop().time
        beaten = swept = clock()
        while self._talkers:
            if self._rooms:
                self._has_beaten = True
                if await self._ask(BEAT, [self.process]) is not None:
                    if clock() - beaten > LATE_SECONDS:
                        self.publisher.repeat()
                    beaten = clock()
            else:
                beaten = clock()
            if clock() - swept > SWEEP_SECONDS:
                swept = clock()
                for talker in list(self._talkers):
                    talker.check()
            await asyncio.sleep(BEAT_SECONDS)
        self._keeping = None

    async def _ask(
        self, statement: bytes, params: list[Param], seconds: float = STATEMENT_SECONDS
    ) -> list[Row] | None:
        """Ask what can be asked again; None if there was no answer."""
        try:
            return await self._db.rows(statement, params, seconds)
        except UnavailableError:
            return None
        except SqlError as error:
            failure(Event.STATEMENT_AT_FAULT, error, state=error.state)
            return None


def _ids(room: Room) -> set[str]:
    """Return the ids of rows in the name of a private channel."""
    topic, is_private = room
    return set(_ID.findall(topic)) if is_private else set()


def _add(groups: dict[_K, set[Listener]], key: _K, listener: Listener) -> None:
    groups.setdefault(key, set()).add(listener)


def _discard(groups: dict[_K, set[Listener]], key: _K, listener: Listener) -> None:
    group = groups.get(key)
    if group:
        group.discard(listener)
        if not group:
            del groups[key]
