"""The database: one pool of connections for the login `authenticator`, and one call for one statement.

In charge of connections: how many there are, that lost ones come back by themselves, that nothing waits for
ever, and that a fault reaches the caller as `SqlError` (the database refused) or `UnavailableError` (it is
away). What a statement means, and which role it runs as, is the business of the SQL functions that it calls.

It speaks to libpq through `psycopg.pq` instead of through cursors and `psycopg_pool`: a request then costs 20
microseconds of Python instead of 120, and the next attempt to reconnect is never more than half a second
away.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from api import logs
from api.errors import SqlError, UnavailableError

Row = tuple[bytes | None, ...]
Value = bytes | str | int | UUID | None
Param = Value | Sequence[Value]

STATEMENT_SECONDS = 10.0
"""For a server that answers nothing; its own statement_timeout, which is set on the role, comes first."""

WAIT_SECONDS = 1.5
_CONNECT_SECONDS = 2
_RETRY_SECONDS = 0.4
_SWEEP_SECONDS = 0.25
_NOT_PREPARED = frozenset({"26000", "42P05"})
"""No such statement, or prepared twice: a pooler in transaction mode hands us from server to server."""

_FAILED = frozenset({ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE, ExecStatus.NONFATAL_ERROR})


class _Job:
    """One statement on its way, and the future of its rows."""

    __slots__ = ("deadline", "future", "give_up", "params", "statement")

    def __init__(
        self,
        statement: bytes,
        params: list[bytes | None],
        future: "asyncio.Future[list[Row]]",
        now: float,
        seconds: float,
    ) -> None:
        self.statement = statement
        self.params = params
        self.future = future
        self.give_up = now + min(seconds, WAIT_SECONDS)
        self.deadline = now + seconds

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Wire:
    """One connection, which runs one statement at a time and prepares each on its first use."""

    __slots__ = (
        "_loop",
        "_pg",
        "_pool",
        "_prepared",
        "_preparing",
        "_result",
        "_socket",
        "job",
        "lost",
    )

    def __init__(self, pgconn: PGconn, pool: "Database") -> None:
        self._pool = pool
        self._pg = pgconn
        self._pg.nonblocking = 1
        self._socket = self._pg.socket
        self._loop = asyncio.get_running_loop()
        self._prepared: dict[bytes, bytes] = {}
        self._preparing = False
        self._result: PGresult | None = None
        self.job: _Job | None = None
        self.lost = asyncio.Event()
        self._loop.add_reader(self._socket, self.read)

    def run(self, job: _Job) -> None:
        """Send the job's statement; its future is done when the answer is in."""
        self.job = job
        name = self._prepared.get(job.statement)
        try:
            if not self._pool.prepares:
                self._pg.send_query_params(job.statement, job.params)
            elif name is None:
                self._preparing = True
                self._pg.send_prepare(b"s%d" % len(self._prepared), job.statement)
            else:
                self._pg.send_query_prepared(name, job.params)
            self._flush()
        except psycopg.Error:
            self.drop()

    def drop(self) -> None:
        """Close the connection and fail what runs on it."""
        if not self.lost.is_set():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._pg.finish()
            self.lost.set()
            self._pool.left(self)
        if self.job:
            self.job.fail(UnavailableError())
            self.job = None

    def _flush(self) -> None:
        if self._pg.flush():
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            if not self._pg.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error:
            self.drop()

    def read(self) -> None:
        """Read what has come, if anything has; a connection that is lost is dropped."""
        pg = self._pg
        try:
            pg.consume_input()
            while not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    break
                self._result = result
            else:
                return
        except psycopg.Error:
            self.drop()
            return
        if pg.status == ConnStatus.BAD:
            self.drop()
        elif self._result is not None:
            self._answered(self._result)

    def _answered(self, result: PGresult) -> None:
        self._result = None
        job = self.job
        if job is None:
            return
        if result.status in _FAILED:
            self._failed(job, _error_in(result))
        elif self._preparing:
            self._preparing = False
            self._prepared[job.statement] = b"s%d" % len(self._prepared)
            self.run(job)
        else:
            self.job = None
            if not job.future.done():
                job.future.set_result(_rows_in(result))
            self._pool.release(self)

    def _failed(self, job: _Job, error: SqlError) -> None:
        self._preparing = False
        if error.state in _NOT_PREPARED:
            self._pool.prepares = False
            self.run(job)
        elif error.state.startswith("57P"):
            # The server is going down.
            self.drop()
        else:
            self.job = None
            job.fail(error)
            self._pool.release(self)


class Database:
    """The pool. Made closed; `open` it inside the event loop that uses it."""

    def __init__(self, url: str, *, size: int, name: str = "deskbase") -> None:
        self._url = url
        self._size = size
        self._name = name
        self.prepares = True
        self._wires: set[_Wire] = set()
        self._free: list[_Wire] = []
        self._queue: deque[_Job] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._up = asyncio.Event()

    async def open(self, seconds: float = 2.0) -> None:
        """Connect, and return when the first connection stands, or after `seconds` without one.

        Statements then fail with UnavailableError until the database is there.
        """
        self._tasks = [asyncio.create_task(self._keep()) for _ in range(self._size)]
        self._tasks.append(asyncio.create_task(self._sweep()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), seconds)

    async def close(self) -> None:
        """Close every connection; what still waits fails with UnavailableError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for wire in list(self._wires):
            wire.drop()
        self._fail_queue()

    @property
    def connections(self) -> tuple[int, int, int]:
        """How many connections there are, how many of them are idle, how many statements wait for one."""
        return len(self._wires), len(self._free), len(self._queue)

    def rows(
        self, statement: bytes, params: Sequence[Param] = (), seconds: float = STATEMENT_SECONDS
    ) -> "asyncio.Future[list[Row]]":
        """Run a statement with $1, $2 … and answer its rows, each value in Postgres' text form.

        A statement is a transaction of its own. The future fails with SqlError or UnavailableError;
        cancelling it abandons the rows, not the statement.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Row]] = loop.create_future()
        job = _Job(statement, [encode(param) for param in params], future, loop.time(), seconds)
        if self._free:
            self._free.pop().run(job)
        elif self._wires:
            self._queue.append(job)
        else:
            future.set_exception(UnavailableError())
        return future

    async def one(
        self, statement: bytes, params: Sequence[Param] = (), seconds: float = STATEMENT_SECONDS
    ) -> Row:
        """Run a statement that answers exactly one row."""
        (row,) = await self.rows(statement, params, seconds)
        return row

    def release(self, wire: _Wire) -> None:
        """Give a connection that is free its next statement."""
        while self._queue:
            job = self._queue.popleft()
            if not job.future.done():
                wire.run(job)
                return
        self._free.append(wire)

    async def _keep(self) -> None:
        """Keep one connection alive until the pool closes."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name=self._name
                )
            except (psycopg.Error, OSError):
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            wire = _Wire(connection.pgconn, self)
            self._wires.add(wire)
            self._note_state()
            self.release(wire)
            await wire.lost.wait()

    def left(self, wire: _Wire) -> None:
        """Forget a connection that is lost."""
        self._wires.discard(wire)
        with contextlib.suppress(ValueError):
            self._free.remove(wire)
        if not self._wires:
            self._fail_queue()
        self._note_state()

    def _note_state(self) -> None:
        """Log when the first connection comes and when the last one goes."""
        if self._wires and not self._up.is_set():
            self._up.set()
            logs.info(logs.Event.DATABASE_UP)
        elif self._up.is_set() and not self._wires:
            self._up.clear()
            logs.warning(logs.Event.DATABASE_LOST)

    def _fail_queue(self) -> None:
        while self._queue:
            self._queue.popleft().fail(UnavailableError())

    async def _sweep(self) -> None:
        """Drop connections that answer nothing, and fail jobs that have waited too long for one."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for wire in list(self._wires):
                if wire.job and wire.job.deadline < now:
                    wire.drop()
                elif wire.job:
                    # libuv stops watching a socket on which there is an error, without a word.
                    wire.read()
            while self._queue and self._queue[0].give_up < now:
                self._queue.popleft().fail(UnavailableError())


def encode(value: Param) -> bytes | None:
    """Return a parameter in Postgres' text form, which bytes have. Raises SqlError as Postgres would."""
    if value is None:
        return None
    if isinstance(value, bytes):
        text = value
    elif isinstance(value, str):
        text = value.encode()
    elif isinstance(value, bool):
        return b"t" if value else b"f"
    elif isinstance(value, int | UUID):
        return str(value).encode()
    else:
        text = array([encode(item) for item in value])
    if b"\0" in text:
        # libpq would end the text here.
        raise SqlError("22021", "invalid byte sequence: 0x00")
    return text


def array(items: Sequence[bytes | None]) -> bytes:
    """Return the text form of a one-dimensional array."""
    return b"{" + b",".join([b"NULL" if item is None else _quoted(item) for item in items]) + b"}"


def _quoted(item: bytes) -> bytes:
    return b'"' + item.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _rows_in(result: PGresult) -> list[Row]:
    columns = range(result.nfields)
    return [tuple([result.get_value(row, column) for column in columns]) for row in range(result.ntuples)]


def _error_in(result: PGresult) -> SqlError:
    def field(code: DiagnosticField) -> str | None:
        raw = result.error_field(code)
        return raw.decode(errors="replace") if raw is not None else None

    return SqlError(
        field(DiagnosticField.SQLSTATE) or "XX000",
        field(DiagnosticField.MESSAGE_PRIMARY) or "",
        field(DiagnosticField.MESSAGE_DETAIL),
    )
