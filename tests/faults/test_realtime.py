"""Sockets of /realtime/v1 while things break: who comes back with a position hears each change once."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.desk import Desk, unique
from tests.faults.clients import ask, eventually
from tests.faults.processes import api_workers, kill_api, kill_postgres, stop_postgres

TICKET = "insert into public.tickets (organization_id, subject) values (%s, %s)"
SUBJECTS = "select subject from public.tickets where organization_id = %s and subject like %s order by 1"
CUT = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name like 'deskbase%%' and usename = 'authenticator' and datname = current_database()
"""
CUTTING_SECONDS = 20
HEARD_WITHIN = 30.0
CROWD = 1000
# What a process may keep of what it once needed, beside a thousand sockets' worth.
MARGIN_MIB = 40.0
GONE = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, TimeoutError)


class Listener:
    """Somebody who listens to all tickets, and comes back with their last position whenever cut off."""

    def __init__(self, desk: Desk, token: str, prefix: str) -> None:
        self.heard: list[str] = []
        self.visits = 0
        self.is_in = False
        self.failure: str | None = None
        self._address = f"ws{desk.url[4:]}/realtime/v1/websocket?" + urlencode(
            {"vsn": "1.0.0", "apikey": desk.publishable_key}
        )
        self._token = token
        self._prefix = prefix
        self._position: str | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Listener"]:
        """Listen until the end of the block."""
        task = asyncio.create_task(self._stay())
        try:
            await eventually(lambda: self.is_in or task.done(), HEARD_WITHIN, "let in")
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _stay(self) -> None:
        while self.failure is None:
            with contextlib.suppress(*GONE):
                async with connect(self._address, compression=None, max_size=None, open_timeout=5) as socket:
                    await self._visit(socket)
            self.is_in = False
            await asyncio.sleep(0.1)

    async def _visit(self, socket: ClientConnection) -> None:
        await socket.send(json.dumps(joining(self._token, self._position)))
        async for raw in socket:
            frame = json.loads(raw)
            if frame["event"] == "phx_reply":
                if frame["payload"]["status"] != "ok":
                    self._refused(frame["payload"]["response"]["reason"])
                    return
                self._position = self._position or frame["payload"]["response"]["position"]
                self.visits += 1
                self.is_in = True
            elif frame["event"] == "postgres_changes":
                data = frame["payload"]["data"]
                self._position = data["position"]
                if data["record"]["subject"].startswith(self._prefix):
                    self.heard.append(data["record"]["subject"])
            elif frame["event"] in {"phx_close", "phx_error"}:
                return

    def _refused(self, reason: str) -> None:
        if not reason.startswith(("UnableToConnect", "The service is briefly")):
            self.failure = reason


def joining(token: str, position: str | None = None) -> dict[str, Any]:
    """Return the frame that joins a channel for all tickets."""
    tickets = {"event": "INSERT", "schema": "public", "table": "tickets"}
    config: dict[str, Any] = {"postgres_changes": [tickets], "presence": {"enabled": False}}
    if position:
        config["since"] = position
    return {
        "topic": "realtime:room",
        "event": "phx_join",
        "payload": {"config": config, "access_token": token},
        "ref": "1",
        "join_ref": "1",
    }


class Scribes:
    """Those who make tickets all the time, straight in the database, whenever it is there."""

    def __init__(self, url: str, organization: str, prefix: str, count: int = 3) -> None:
        self._url = url
        self._organization = organization
        self._prefix = prefix
        self._count = count
        self._is_over = False
        self.commits = 0
        """About how many were acknowledged: its writers do not wait for each other to count."""

    @asynccontextmanager
    async def writing(self) -> AsyncIterator["Scribes"]:
        tasks = [asyncio.create_task(asyncio.to_thread(self._write, n)) for n in range(self._count)]
        try:
            yield self
        finally:
            self._is_over = True
            await asyncio.gather(*tasks)

    def _write(self, writer: int) -> None:
        number = 0
        while not self._is_over:
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(self._url, connect_timeout=2) as connection,
            ):
                while not self._is_over:
                    connection.execute(TICKET, [self._organization, f"{self._prefix} {writer} {number}"])
                    number += 1
                    if number % 7 == 0:
                        connection.rollback()
                    elif number % 3 == 0:
                        connection.commit()
                        self.commits += 1
                    time.sleep(0.01)
            time.sleep(0.05)

    def committed(self) -> list[str]:
        """Return what there is now: of a commit that was cut off nobody else knows."""
        return [row[0] for row in ask(self._url, SUBJECTS, [self._organization, f"{self._prefix}%"])]


def agent_of(desk: Desk, organization: str) -> str:
    """Return the token of a new agent."""
    member = desk.member("agent", organization)
    return desk.jwt(member, session_id=desk.session(member))


async def all_have_heard(listeners: list[Listener], expected: list[str]) -> None:
    """Wait until everybody has heard everything, and see that nobody has heard anything twice."""

    def complete() -> bool:
        assert [each.failure for each in listeners if each.failure] == []
        return all(len(each.heard) >= len(expected) for each in listeners)

    await eventually(complete, HEARD_WITHIN, f"all hear of {len(expected)}")
    assert all(sorted(each.heard) == expected for each in listeners)


async def cut_connections(desk: Desk) -> None:
    """Cut all connections of the API's every second."""
    for _ in range(CUTTING_SECONDS):
        await asyncio.sleep(1)
        assert await asyncio.to_thread(ask, desk.db_url, CUT)


async def break_the_api(desk: Desk) -> None:
    """Kill the API twice, while it works."""
    for _ in range(2):
        await asyncio.sleep(1)
        await asyncio.to_thread(kill_api, desk)
        await eventually(lambda: len(api_workers(desk)) > 0, 20, "the API runs again")


async def break_the_database(desk: Desk) -> None:
    """Kill the database, while it works."""
    await asyncio.sleep(1)
    await asyncio.to_thread(kill_postgres, desk)


async def restart_the_database(desk: Desk) -> None:
    """Have the database stop in order, while it works."""
    await asyncio.sleep(1)
    await asyncio.to_thread(stop_postgres, desk)


@pytest.mark.parametrize(
    "disturb", [cut_connections, break_the_api, break_the_database, restart_the_database]
)
async def test_subscribers_hear_of_every_change_once_though_things_break(
    home: Desk, disturb: Callable[[Desk], Any]
) -> None:
    prefix, organization = unique("kept"), home.organization(unique("North"))
    listeners = [Listener(home, agent_of(home, organization), prefix) for _ in range(5)]
    scribes = Scribes(home.db_url, organization, prefix)
    async with AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(listener.listening())
        async with scribes.writing():
            await disturb(home)
            before = scribes.commits
            await eventually(lambda: scribes.commits > before + 20, HEARD_WITHIN, "writing goes on")
            await eventually(lambda: all(each.is_in for each in listeners), HEARD_WITHIN, "all are back")
        home._disconnect()
        expected = await asyncio.to_thread(scribes.committed)
        assert len(expected) > 50
        await all_have_heard(listeners, expected)
    if disturb is break_the_api:
        assert all(each.visits > 1 for each in listeners)


async def test_a_thousand_subscribers_come_back_at_once_and_have_missed_nothing(home: Desk) -> None:
    prefix, organization = unique("kept"), home.organization(unique("North"))
    tokens = [agent_of(home, organization) for _ in range(10)]
    listeners = [Listener(home, tokens[number % 10], prefix) for number in range(CROWD)]
    scribes = Scribes(home.db_url, organization, prefix)
    async with AsyncExitStack() as stack:
        for begin in range(0, CROWD, 100):
            await asyncio.gather(
                *[stack.enter_async_context(each.listening()) for each in listeners[begin : begin + 100]]
            )
        await asyncio.to_thread(kill_api, home)
        for number in range(5):
            home.sql(TICKET, [organization, f"{prefix} {number}"])
        back = time.monotonic()
        await eventually(lambda: all(each.visits == 2 for each in listeners), 60, "all are back")
        assert time.monotonic() - back < 45
        home.sql(TICKET, [organization, f"{prefix} 5"])
        await all_have_heard(listeners, await asyncio.to_thread(scribes.committed))


def memory(desk: Desk) -> float:
    """Return how much memory the API's processes hold, in MiB."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in api_workers(desk)]
    return sum(pages) / 256


async def test_nobody_notices_one_who_never_reads_and_its_memory_is_given_back(home: Desk) -> None:
    prefix, organization = unique("kept"), home.organization(unique("North"))
    token = agent_of(home, organization)
    reader = Listener(home, token, prefix)
    address = reader._address
    written = 600
    text = "x" * 20_000
    async with reader.listening(), connect(address, compression=None, max_queue=1, max_size=None) as deaf:
        await deaf.send(json.dumps(joining(token)))
        home.sql(TICKET, [organization, f"{prefix} first"])
        await eventually(lambda: len(reader.heard) == 1, 5, "the reader hears")
        before = memory(home)
        described = TICKET.replace("subject)", "subject, description)").replace("%s)", "%s, %s)")
        for number in range(written):
            await asyncio.to_thread(home.sql, described, [organization, f"{prefix} {number}", text])
        await eventually(lambda: len(reader.heard) == written + 1, HEARD_WITHIN, "the reader hears of all")
        assert reader.visits == 1
        with contextlib.suppress(ConnectionClosed):
            async for _ in deaf:
                pass
        assert deaf.close_code in {1006, 1013}
    await eventually(lambda: memory(home) < before + MARGIN_MIB, 20, "the memory is given back")
