"""Those who call: one line to each worker, and writers that remember what was acknowledged."""

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg

from tests.desk import Desk, unique
from tests.faults.processes import api_workers, workers_behind

TICKETS = "/integration-tickets/tickets"
TIMEOUT = 10.0
LARGE_LIMIT = 1_000_000
# Reading the machine's certificates takes longer than many a test.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def bearer(secret: str) -> dict[str, str]:
    """Return the header that shows a token or a JWT."""
    return {"Authorization": f"Bearer {secret}"}


def raw_request(method: str, path: str, headers: Mapping[str, str], body: object = None) -> bytes:
    """Return a request as the bytes that are sent, for clients that do with them what no library would."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def ask(url: str, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement as the owner on a connection of its own, which has survived nothing."""
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        return connection.execute(statement.encode(), params).fetchall()


async def eventually(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait until the condition is true; fail when it is not within the seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {what}"
        await asyncio.sleep(0.01)


def client_of(desk: Desk, headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> httpx.Client:
    """Make a client of a desk."""
    return httpx.Client(base_url=desk.url, headers=headers, timeout=timeout, verify=NO_TLS)


def async_client_of(desk: Desk, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Make a client of a desk for requests at the same time."""
    return httpx.AsyncClient(base_url=desk.url, headers=headers, timeout=TIMEOUT, verify=NO_TLS)


def get(url: str, headers: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> httpx.Response:
    """Ask once, over a connection of its own."""
    return httpx.get(url, headers=headers, timeout=timeout, verify=NO_TLS)


class Everywhere:
    """A client with a connection to every worker of some desks, over which it asks each the same."""

    def __init__(self, *desks: Desk) -> None:
        self.clients: list[httpx.Client] = []
        """One for each worker."""
        for desk in desks:
            self._reach_all(desk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()

    def get(self, path: str, headers: Mapping[str, str]) -> list[httpx.Response]:
        """Ask every worker, and return every answer."""
        return [client.get(path, headers=dict(headers)) for client in self.clients]

    def statuses(self, path: str, headers: Mapping[str, str]) -> set[int]:
        """Ask every worker, and return the different statuses."""
        return {answer.status_code for answer in self.get(path, headers)}

    def _reach_all(self, desk: Desk) -> None:
        """Open connections until there is one to each worker; which one takes it, is chance."""
        missing = set(api_workers(desk))
        for _ in range(20):
            for client, worker in self._reach_some(desk):
                if worker in missing:
                    missing.remove(worker)
                    self.clients.append(client)
                else:
                    client.close()
            if not missing:
                return
        raise AssertionError(f"no connection reached the workers {missing}")

    @staticmethod
    def _reach_some(desk: Desk) -> list[tuple[httpx.Client, int]]:
        clients = [client_of(desk) for _ in range(8)]
        answers = [client.get("/health") for client in clients]
        return list(zip(clients, workers_behind(desk, *answers), strict=True))


class Writers:
    """Systems that create tickets and comment on them, each as fast as it is answered.

    What was answered 201 is in `tickets` and `comments`. A refusal or a cut connection is what a client
    meets when something is killed; anything else that is answered is in `surprises`.
    """

    def __init__(self, desk: Desk, *, count: int = 8) -> None:
        self.tickets: list[str] = []
        self.comments: list[str] = []
        self.failures: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._desk = desk
        self._headers = bearer(desk.token(rate_limit=LARGE_LIMIT))
        self._count = count
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep_writing()) for _ in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    @property
    def acknowledged(self) -> int:
        return len(self.tickets) + len(self.comments)

    async def go_on(self, more: int, seconds: float = 20) -> None:
        """Wait until so many more writes have been acknowledged."""
        wanted = self.acknowledged + more
        await eventually(lambda: self.acknowledged >= wanted, seconds, f"{more} more writes")

    async def _keep_writing(self) -> None:
        async with async_client_of(self._desk, self._headers) as client:
            while not self._is_over:
                ticket = await self._write(client, TICKETS, {"title": unique("Kept")})
                if ticket:
                    self.tickets.append(ticket["ticket"]["id"])
                    path = f"{TICKETS}/{self.tickets[-1]}/comments"
                    comment = await self._write(client, path, {"content": "Kept too"})
                    self.comments += [comment["comment_id"]] if comment else []

    async def _write(self, client: httpx.AsyncClient, path: str, body: Mapping[str, str]) -> Any:
        """Write, and return the answer to a write that was acknowledged."""
        try:
            answer = await client.post(path, json=dict(body))
        except httpx.TransportError as error:
            self.failures[type(error).__name__] += 1
            await asyncio.sleep(0.01)
            return None
        if answer.status_code == 201:
            return answer.json()
        self.failures[str(answer.status_code)] += 1
        if answer.status_code != 503:
            self.surprises.append(answer.text)
        await asyncio.sleep(0.01)
        return None
