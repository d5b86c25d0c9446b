"""Sockets, on the real server: the handshake, what comes through, and how they end."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.keys import authenticator_password
from api.migrate import login_url
from tests.actors import Actor, Organization, World
from tests.api.live import Writer, live_world
from tests.databases import Server
from tests.desk import PROJECT, Desk, free_port, process_fields, wait_until

SECONDS = 5.0


class Tiny:
    """The contract of the tests, running."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, secret: str) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._secret = secret

    def token(self, actor: Actor) -> str:
        if actor.secret:
            return actor.secret
        now = int(time.time())
        return jwt.encode({**actor.claims, "iat": now, "exp": now + 3600}, self._secret, algorithm="HS256")

    def open(self, path: str = "/tiny/ws", *, who: Actor | None = None, **options: Any) -> connect:
        """Open a socket, with somebody's token in the query."""
        query = [f"token={self.token(who)}"] if who else []
        if since := options.pop("since", None):
            query.append(f"since={since}")
        return connect(f"ws{self.url[4:]}{path}?{'&'.join(query)}", **options)

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]


@contextlib.contextmanager
def running(desk: Desk, world: World, data_dir: Path, workers: int) -> Iterator[Tiny]:
    port = free_port()
    environ = {
        **{name: text for name, text in os.environ.items() if not name.startswith("DESKBASE_")},
        "DESKBASE_AUTHENTICATOR_URL": login_url(world.url, authenticator_password(desk.jwt_secret)),
        "DESKBASE_JWT_SECRET": desk.jwt_secret,
        "DESKBASE_DATA_DIR": str(data_dir),
        "DESKBASE_PORT": str(port),
        "DESKBASE_WORKERS": str(workers),
    }
    process = subprocess.Popen([sys.executable, "-m", "tests.api.tiny"], env=environ, cwd=PROJECT)
    try:
        tiny = Tiny(process, port, desk.jwt_secret)
        wait_until(lambda: is_up(tiny), 30, "the tiny contract")
        yield tiny
    finally:
        process.terminate()
        assert process.wait(10) == 0


def is_up(tiny: Tiny) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{tiny.url}/health").is_success
    return False


@pytest.fixture(scope="module")
def socket_world(server: Server, template: str) -> Iterator[World]:
    with live_world(server, template) as world:
        yield world


@pytest.fixture(scope="module")
def tiny(desk: Desk, socket_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    with running(desk, socket_world, tmp_path_factory.mktemp("tiny"), 1) as tiny:
        yield tiny


@pytest.fixture
def north(socket_world: World) -> Organization:
    return socket_world.north


@pytest.fixture
def agent(north: Organization) -> Actor:
    return north.actors["agent"]


@pytest.fixture
def desk_itself(socket_world: World, north: Organization) -> Iterator[Writer]:
    with psycopg.connect(socket_world.url, autocommit=True) as connection:
        yield Writer(connection, north)


async def hear(socket: ClientConnection) -> dict[str, Any]:
    """Return the next message."""
    async with asyncio.timeout(SECONDS):
        message: dict[str, Any] = json.loads(await socket.recv())
        return message


async def rest(socket: ClientConnection, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Return what comes before the socket is closed."""
    async with asyncio.timeout(seconds):
        messages = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                messages.append(json.loads(await socket.recv()))
        return messages


async def ending(socket: ClientConnection, seconds: float = SECONDS) -> tuple[int | None, str | None]:
    """Return the code and the reason with which a socket is closed."""
    await rest(socket, seconds)
    return socket.close_code, socket.close_reason


# The handshake


async def test_agent_shows_the_token_in_the_query_or_in_a_header(
    tiny: Tiny, agent: Actor, desk_itself: Writer
) -> None:
    headers = {"Authorization": f"Bearer {tiny.token(agent)}"}
    async with tiny.open(who=agent) as one, tiny.open("/tiny/ws/", additional_headers=headers) as other:
        desk_itself.ticket("hello")
        assert [(await hear(socket))["text"] for socket in (one, other)] == ["hello", "hello"]


async def test_integration_shows_its_token(tiny: Tiny, north: Organization, desk_itself: Writer) -> None:
    async with tiny.open(who=north.actors["token"]) as socket:
        desk_itself.ticket("another's", north.actors["other_token"])
        desk_itself.ticket("its own", north.actors["token"])
        assert (await hear(socket))["text"] == "its own"


@pytest.mark.parametrize(
    ("query", "word"), [("", "missing_token"), ("token=x", "invalid_token"), ("since=x", "missing_token")]
)
async def test_visitor_without_a_good_token_is_closed_with_4401(tiny: Tiny, query: str, word: str) -> None:
    async with connect(f"ws{tiny.url[4:]}/tiny/ws?{query}") as socket:
        assert await ending(socket) == (4401, word)


async def test_visitor_is_refused_at_the_handshake_where_the_contract_says_so(tiny: Tiny) -> None:
    with pytest.raises(InvalidStatus) as error:
        async with tiny.open("/strict/ws", additional_headers={"X-Request-ID": "mine"}):
            pass
    response = error.value.response
    assert (response.status_code, bytes(response.body or b"")) == (401, b"missing_token")
    assert response.headers["x-request-id"] == "mine"


async def test_member_who_is_gone_is_closed_with_4401(tiny: Tiny, north: Organization) -> None:
    for name in ("deactivated", "logged_out"):
        async with tiny.open(who=north.actors[name]) as socket:
            assert await ending(socket) == (4401, "session_ended")


async def test_agent_who_opens_too_many_is_closed_with_4429(tiny: Tiny, desk_itself: Writer) -> None:
    eager = desk_itself.newcomer()
    async with tiny.open(who=eager):
        pass
    desk_itself.connection.execute(
        "update private.rate_windows set used = 500 where subject = %s", [f"user:{eager.claims['sub']}"]
    )
    async with tiny.open(who=eager) as socket:
        assert await ending(socket) == (4429, "rate_limit_exceeded")


async def test_refusal_of_the_database_is_the_close_code(tiny: Tiny) -> None:
    async with tiny.open("/tiny/ws/refusing") as socket:
        assert await ending(socket) == (4403, "forbidden")


async def test_failing_handler_is_closed_with_1011(tiny: Tiny) -> None:
    async with tiny.open("/tiny/ws/failing") as socket:
        assert await ending(socket) == (1011, "internal_error")


async def test_path_that_is_no_socket_is_not_found(tiny: Tiny, agent: Actor) -> None:
    for path in ("/tiny", "/tiny/other", "/tiny/ws/x/y"):
        async with tiny.open(path, who=agent) as socket:
            assert await ending(socket) == (4404, "not_found")
    for path in ("/", "/nothing/ws", "/plain/ws"):
        with pytest.raises(InvalidStatus) as error:
            async with tiny.open(path, who=agent):
                pass
        assert error.value.response.status_code == 403


def test_request_of_a_contract_with_sockets_is_answered(tiny: Tiny) -> None:
    assert httpx.get(f"{tiny.url}/tiny/ws").status_code == 204


# What comes through


async def test_socket_about_a_ticket_is_told_of_that_ticket(
    tiny: Tiny, agent: Actor, desk_itself: Writer
) -> None:
    ticket = desk_itself.ticket("this one")
    async with tiny.open(f"/tiny/ws/tickets/{ticket}", who=agent) as socket:
        desk_itself.ticket("another")
        desk_itself.rename(ticket, "this one, renamed")
        assert (await hear(socket))["text"] == "this one, renamed"


async def test_agent_who_comes_back_is_told_what_was_missed(
    tiny: Tiny, agent: Actor, desk_itself: Writer
) -> None:
    async with tiny.open(who=agent) as socket:
        desk_itself.ticket("1")
        position = (await hear(socket))["position"]
    desk_itself.ticket("2")
    async with tiny.open(who=agent, since=position) as socket:
        desk_itself.ticket("3")
        assert [(await hear(socket))["text"] for _ in range(2)] == ["2", "3"]
    async with tiny.open(who=agent, since="nonsense") as socket:
        assert await ending(socket) == (4410, "gone")


async def test_client_may_ping_and_talk_while_it_listens(
    tiny: Tiny, agent: Actor, desk_itself: Writer
) -> None:
    async with tiny.open(who=agent) as socket:
        for number in range(20):
            await socket.send("anything")
            await asyncio.wait_for(await socket.ping(), SECONDS)
            desk_itself.ticket(str(number))
            assert (await hear(socket))["text"] == str(number)


# How it ends


async def test_agent_who_logs_out_is_closed_with_4401_within_a_second(
    tiny: Tiny, agent: Actor, desk_itself: Writer
) -> None:
    leaver = desk_itself.newcomer()
    async with tiny.open(who=leaver) as socket, tiny.open(who=agent) as stays:
        desk_itself.connection.execute(
            "delete from auth.sessions where id = %s", [leaver.claims["session_id"]]
        )
        assert await ending(socket, 2) == (4401, "session_ended")
        desk_itself.ticket("still there")
        assert (await hear(stays))["text"] == "still there"


async def test_client_that_does_not_read_is_let_go_and_nobody_else_notices(
    tiny: Tiny, agent: Actor, desk_itself: Writer
) -> None:
    ticket, before, numbers = desk_itself.ticket("long"), subscriptions(tiny), list[int]()
    async with tiny.open(who=agent) as other, tiny.open(who=agent, max_queue=1) as slow:
        for number in range(120):
            desk_itself.comment(ticket, f"{number} " + 90_000 * "x")
            # The comment, and the ticket's new version.
            numbers += [(await hear(other))["number"] for _ in range(2)]
        wait_until(lambda: subscriptions(tiny) == before + 1, 10, "the slow one has been let go")
        told = await rest(slow)
    assert 0 < len(told) < len(numbers)
    async with tiny.open(who=agent, since=told[-1]["position"]) as socket:
        missed = numbers[len(told) :]
        assert [(await hear(socket))["number"] for _ in missed] == missed


def subscriptions(tiny: Tiny) -> float:
    lines = httpx.get(f"{tiny.url}/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("deskbase_subscriptions "))


async def test_client_that_vanishes_leaves_nothing(tiny: Tiny, agent: Actor) -> None:
    before = subscriptions(tiny)
    sockets = [await tiny.open(who=agent) for _ in range(5)]
    assert subscriptions(tiny) == before + 5
    for socket in sockets[:3]:
        socket.transport.abort()
    for socket in sockets[3:]:
        await socket.close()
    wait_until(lambda: subscriptions(tiny) == before, SECONDS, "all have left")


async def test_server_of_two_processes_tells_everybody_and_closes_all_before_it_stops(
    *, desk: Desk, socket_world: World, agent: Actor, desk_itself: Writer, tmp_path: Path
) -> None:
    with running(desk, socket_world, tmp_path, 2) as tiny:
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(tiny.open(who=agent)) for _ in range(30)]
            texts = [str(number) for number in range(20)]
            for text in texts:
                desk_itself.ticket(text)
            for socket in sockets:
                assert [(await hear(socket))["text"] for _ in texts] == texts
            assert bells(desk_itself) == 2, "both have some of them"
            workers, begun = tiny.workers(), time.monotonic()
            tiny.process.send_signal(signal.SIGTERM)
            for socket in sockets:
                assert await ending(socket) == (1012, "stopping")
        await asyncio.to_thread(tiny.process.wait, SECONDS)
    assert time.monotonic() - begun < SECONDS
    assert [pid for pid in workers if process_fields(pid)] == []
    assert bells(desk_itself) == 0


def bells(writer: Writer) -> int:
    """Return how many processes listen for the bell."""
    return int(
        writer.value("""
            select count(*) from pg_stat_activity
            where application_name = 'deskbase relay' and datname = current_database()
        """)
    )
