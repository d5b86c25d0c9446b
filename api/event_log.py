"""The event log as it is read: from cursor to cursor, and the bell that says when to look.

In charge of what a cursor is, and of positions, the texts by which clients name a place in the log. Both are
made of snapshots, because event ids become visible out of order (docs/architecture.md). When to look, and who
is told what, is the business of `api.relay`.
"""

import asyncio
import base64
import re
from collections.abc import Callable, Collection
from typing import Annotated, NamedTuple

import msgspec
import psycopg

from api.db import Database, Param, Row
from api.errors import SqlError
from api.logs import Event as Log
from api.logs import info, warning

LOOK = b"""
    with now as materialized (select private.end_of_log($1) as until)
    select n.until, extract(epoch from now())::bigint, e.id, e.event
    from now as n left join lateral private.read_log($1, n.until, 0, $2, $3) as e on true
    order by e.id
"""
READ = b"select id, event from private.read_log($1, $2, $3, $4, $5) order by id"
IS_IN_LOG = b"select private.is_in_log($1, $2, to_timestamp($3))"
BATCH = 5000
_MOST_ORGANIZATIONS = 100
_LONGEST_POSITION = 8192
_PLACE = re.compile(r"(\d{1,18})(?:~(\d{1,4}))?", re.ASCII)


class Event(msgspec.Struct):
    """A change: what happened to which row, and the ids it is picked by. Rendering starts from `json`.

    Tables of somebody's own need not be of an organization.
    """

    id: int
    organization_id: str | None
    type: str
    table: str
    operation: str
    ids: dict[str, str]
    schema: str = "public"
    json: bytes = b""


class Span(NamedTuple):
    """What became visible between two cursors; the second one was taken at a time, in Unix seconds."""

    since: str
    until: str
    taken_at: int

    def position(self, event_id: int = 0, told: int = 0) -> str:
        """Return the place behind one of its events: the rest of the span is unread, and all that follows.

        If so many of the event's messages are `told`, and not all, it is the place behind those.
        """
        packed = msgspec.msgpack.encode((self.taken_at, _pack(self.since), _pack(self.until)))
        head = base64.urlsafe_b64encode(packed).rstrip(b"=").decode()
        return f"{head}.{event_id}~{told}" if told else f"{head}.{event_id}"


class Place(NamedTuple):
    """What a position says: behind an event, or behind some messages of the event that follows."""

    span: Span
    after: int
    told: int = 0


class EventLog:
    """The log, read through the pool."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def look(
        self, since: str | None, organizations: Collection[str] | None
    ) -> tuple[Span, list[Event]]:
        """Return what has become visible since a cursor, and its events; BATCH of them may not be all.

        Those of all organizations, if none are named.

        Without a cursor that is nothing, at the end of the log. Raises UnavailableError.
        """
        rows = await self._db.rows(LOOK, [since, _few(organizations), BATCH])
        until, taken_at = (rows[0][0] or b"").decode(), int(rows[0][1] or 0)
        events = _events([row[2:] for row in rows if row[2] is not None])
        return Span(since or until, until, taken_at), events

    async def read(
        self, span: Span, after: int, organizations: Collection[str] | None, size: int = BATCH
    ) -> list[Event]:
        """Read on in a span, behind one of its events. Raises UnavailableError."""
        params: list[Param] = [span.since, span.until, after, _few(organizations), size]
        return _events(await self._db.rows(READ, params))

    async def find(self, position: str) -> Place | None:
        """Return what a position says; None if it is none, or its time is over.

        Raises UnavailableError.
        """
        try:
            place = _parse(position)
            span = place.span
            (is_kept,) = await self._db.one(IS_IN_LOG, [span.since, span.until, span.taken_at])
        except ValueError:
            return None
        except SqlError as error:
            if error.state.startswith("22"):
                return None
            raise
        return place if is_kept == b"t" else None


class Bell:
    """Listens for the log's bell, on a connection of its own, and goes on doing so when that is lost."""

    CHANNEL = b"listen deskbase_events"
    CONNECT_SECONDS = 2
    RETRY_SECONDS = (0.05, 0.1, 0.2, 0.4)

    def __init__(self, url: str, ring: Callable[[], None]) -> None:
        self._url = url
        self._ring = ring
        self.is_heard = False

    async def listen(self) -> None:
        """Ring for each bell, and once whenever some may have been missed, until cancelled."""
        failures = 0
        while True:
            try:
                await self._listen_once()
            except (psycopg.Error, OSError):
                failures = 0 if self.is_heard else failures + 1
                if self.is_heard:
                    warning(Log.BELL_LOST)
            finally:
                self.is_heard = False
            await asyncio.sleep(self.RETRY_SECONDS[min(failures, len(self.RETRY_SECONDS) - 1)])

    async def _listen_once(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=self.CONNECT_SECONDS,
            application_name="deskbase relay",
            # One that is gone without a word is noticed within half a minute; the relay polls meanwhile.
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        ) as connection:
            await connection.execute(self.CHANNEL)
            self.is_heard = True
            info(Log.BELL_HEARD)
            self._ring()
            async for _ in connection.notifies():
                self._ring()


def _few(organizations: Collection[str] | None) -> list[str] | None:
    """Return whose events to read: everybody's, where a list would be long."""
    if organizations is None or len(organizations) > _MOST_ORGANIZATIONS:
        return None
    return [*organizations]


_decode = msgspec.json.Decoder(Event).decode


def _events(rows: list[Row]) -> list[Event]:
    events = []
    for _, text in rows:
        event = _decode(text or b"")
        event.json = text or b""
        events.append(event)
    return events


_Packed = Annotated[list[int], msgspec.Meta(min_length=2)]
_decode_position = msgspec.msgpack.Decoder(tuple[int, _Packed, _Packed]).decode


def _parse(position: str) -> Place:
    """Return what a position says. Raises ValueError."""
    if len(position) > _LONGEST_POSITION or not position.isascii():
        raise ValueError(position[:10])
    head, _, tail = position.partition(".")
    try:
        taken_at, since, until = _decode_position(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except msgspec.MsgspecError as error:
        raise ValueError(head) from error
    found = _PLACE.fullmatch(tail)
    if not found:
        raise ValueError(tail)
    event_id, told = int(found[1]), int(found[2] or 0)
    return Place(Span(_unpack(since), _unpack(until), taken_at), event_id - 1 if told else event_id, told)


def _pack(snapshot: str) -> list[int]:
    """Return `xmin:xmax:xip,…` as numbers that are small, but for the first."""
    xmin, xmax, running = snapshot.split(":")
    return [int(xmin), *(int(xid) - int(xmin) for xid in (xmax, *filter(None, running.split(","))))]


def _unpack(numbers: list[int]) -> str:
    """Return the snapshot of such numbers; whether it is one, Postgres says."""
    xmin, xmax, *running = [numbers[0], *(numbers[0] + number for number in numbers[1:])]
    return f"{xmin}:{xmax}:{','.join(map(str, running))}"
