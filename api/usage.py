"""The usage log of integration tokens: what each did, how it ended, how long it took.

In charge of collecting rows in memory and writing them in batches, so that a request never waits for its log.
Rows are written within a second and when the service stops; while the database is away they are kept up to a
bound, beyond which they are dropped and counted. A batch whose acknowledgement was lost is written again: at
least once, never silently less.
"""

import asyncio
import contextlib
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import msgspec

from api.db import Database
from api.errors import SqlError, UnavailableError
from api.logs import Event, failure, warning
from api.metrics import Metrics

RECORD = b"select private.record_token_usage($1)"
FLUSH_SECONDS = 0.4
LARGEST_BATCH = 2000
KEPT_ROWS = 50_000
STOP_SECONDS = 3.0


class _Holder(msgspec.Struct, frozen=True):
    organization_id: str
    token_id: str


class _Claims(msgspec.Struct, frozen=True):
    app_metadata: _Holder


class _Row(msgspec.Struct, frozen=True):
    organization_id: str
    token_id: str
    operation: str
    status: int
    duration_ms: float
    request_id: str
    at: datetime


class Use(NamedTuple):
    """One request by the token whose claims these are; `at` is when it came, in Unix seconds."""

    claims: bytes
    operation: str
    status: int
    seconds: float
    request_id: bytes
    at: float


class UsageLog:
    """Collects rows; a task of its own writes them."""

    def __init__(self, db: Database, metrics: Metrics) -> None:
        self._db = db
        self._metrics = metrics
        self._rows: deque[Use] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_full = False

    def note(self, use: Use) -> None:
        """Add one request; beyond the bound it is dropped and counted."""
        if len(self._rows) < KEPT_ROWS:
            self._rows.append(use)
            return
        self._metrics.usage_dropped.inc()
        if not self._is_full:
            self._is_full = True
            warning(Event.USAGE_DROPPED, kept=KEPT_ROWS)

    def open(self) -> None:
        """Start writing."""
        self._task = asyncio.create_task(self._keep_writing())

    async def close(self) -> None:
        """Write what is left, for a few seconds at most."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), STOP_SECONDS)
        if self._rows:
            self._metrics.usage_dropped.inc(len(self._rows))
            warning(Event.USAGE_DROPPED, rows=len(self._rows))

    async def flush(self) -> None:
        """Write every row that is there now; rows that cannot be written stay."""
        left = len(self._rows)
        while left > 0:
            batch = list(islice(self._rows, min(left, LARGEST_BATCH)))
            if not await self._write(batch):
                return
            left -= len(batch)

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
            self._metrics.pool(*self._db.connections)

    async def _write(self, batch: list[Use]) -> bool:
        """Write a batch and forget it. Answers False if the database is away."""
        try:
            await self._db.rows(RECORD, [msgspec.json.encode([_row(use) for use in batch])])
        except UnavailableError:
            return False
        except SqlError as error:
            failure(Event.USAGE_REFUSED, error, state=error.state, rows=len(batch))
            self._metrics.usage_dropped.inc(len(batch))
        for _ in batch:
            self._rows.popleft()
        self._is_full = False
        return True


def _row(use: Use) -> _Row:
    holder = _holder(use.claims)
    return _Row(
        holder.organization_id,
        holder.token_id,
        use.operation,
        use.status,
        round(use.seconds * 1000, 3),
        use.request_id.decode(),
        datetime.fromtimestamp(use.at, UTC),
    )


@lru_cache(1024)
def _holder(claims: bytes) -> _Holder:
    return msgspec.json.decode(claims, type=_Claims).app_metadata
