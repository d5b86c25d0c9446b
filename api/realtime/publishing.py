"""Publishing: what channels want to be told to others, on its way to the database.

In charge of asking with one statement at a time, which takes all that waits, of bounds, and of what a lost
connection does: a broadcast fails, as nobody would want it later; that somebody is no longer present is kept
until it has been said.
"""

import asyncio
from typing import Any

import msgspec

from api.db import Database
from api.errors import ApiError, SqlError, UnavailableError
from api.logs import Event, failure

PUBLISH = b"select place, fault from realtime_service.publish($1)"
LARGEST_BATCH = 500
LARGEST_BATCH_BYTES = 4 * 1024 * 1024
WAITING_BYTES = 16 * 1024 * 1024
"""How much may wait before those who send have to."""

RETRY_SECONDS = 0.2
CLOSE_SECONDS = 1.0
_PASSING = frozenset({"40", "53", "55", "57"})


class Refused(Exception):
    """What was to be told is refused. The message says why."""


class _Operation:
    """One thing to be told; `lasts` if it is kept while the database is away."""

    __slots__ = ("done", "json", "lasts")

    def __init__(self, operation: dict[str, Any], *, lasts: bool = False) -> None:
        self.json = msgspec.json.encode(operation)
        self.lasts = lasts
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # nobody has to look

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Publisher:
    """Tells the database, in order."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[_Operation] = []
        self._size = 0
        self._worker: asyncio.Task[None] | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._tracked: dict[str, dict[str, Any]] = {}

    def broadcast(self, operation: dict[str, Any]) -> "asyncio.Future[None]":
        """Send a message. The future fails with Refused or UnavailableError."""
        return self._add(_Operation({"op": "broadcast", **operation}))

    def track(self, operation: dict[str, Any]) -> "asyncio.Future[None]":
        """Let a channel be present. The future fails with Refused or UnavailableError."""

        def remember(done: "asyncio.Future[None]") -> None:
            if done.exception() is None:
                self._tracked[operation["channel"]] = operation

        future = self._add(_Operation({"op": "track", **operation}))
        future.add_done_callback(remember)
        return future

    def untrack(self, channel: str) -> "asyncio.Future[None]":
        """Let a channel be present no more, however long it takes to say so."""

        def forget(_: "asyncio.Future[None]") -> None:
            self._tracked.pop(channel, None)

        future = self._add(_Operation({"op": "untrack", "channel": channel}, lasts=True))
        future.add_done_callback(forget)
        return future

    def repeat(self) -> None:
        """Say again who is present, after others may have taken this process for dead."""
        for operation in self._tracked.values():
            _ = self._add(_Operation({"op": "track", **operation}))

    async def room(self) -> None:
        """Wait until not too much waits."""
        await self._has_room.wait()

    async def close(self) -> None:
        """Tell what still waits, if that can be done at once."""
        if self._worker:
            _, late = await asyncio.wait([self._worker], timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _add(self, operation: _Operation) -> "asyncio.Future[None]":
        self._waiting.append(operation)
        self._count(len(operation.json))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return operation.done

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > WAITING_BYTES:
            self._has_room.clear()
        else:
            self._has_room.set()

    async def _work(self) -> None:
        try:
            while batch := self._take():
                await self._publish(batch)
        finally:
            self._worker = None

    def _take(self) -> list[_Operation]:
        size = count = 0
        for operation in self._waiting[:LARGEST_BATCH]:
            size += len(operation.json)
            if count and size > LARGEST_BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._count(-sum(len(operation.json) for operation in batch))
        return batch

    async def _publish(self, batch: list[_Operation]) -> None:
        told = b"[" + b",".join([operation.json for operation in batch]) + b"]"
        try:
            rows = await self._db.rows(PUBLISH, [told])
        except UnavailableError:
            await self._wait(batch)
        except SqlError as error:
            await self._refused(batch, error)
        else:
            for place, fault in rows:
                batch[int(place or 0)].fail(Refused((fault or b"").decode()))
            for operation in batch:
                operation.succeed()

    async def _wait(self, batch: list[_Operation]) -> None:
        """Keep what has to be told all the same for the next try."""
        lasting = [operation for operation in batch if operation.lasts]
        for operation in batch:
            if not operation.lasts:
                operation.fail(UnavailableError())
        self._waiting = lasting + self._waiting
        self._count(sum(len(operation.json) for operation in lasting))
        await asyncio.sleep(RETRY_SECONDS)

    async def _refused(self, batch: list[_Operation], error: SqlError) -> None:
        """One thing that the database cannot digest must not take the others with it."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._publish(batch[:middle])
            await self._publish(batch[middle:])
        elif batch[0].lasts and error.state[:2] in _PASSING:
            await self._wait(batch)
        elif error.state.startswith("22"):
            batch[0].fail(Refused("The payload holds what cannot be stored"))
        else:
            failure(Event.STATEMENT_AT_FAULT, error, state=error.state)
            batch[0].fail(ApiError(500, "internal_error"))
