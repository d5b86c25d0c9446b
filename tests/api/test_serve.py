"""The server: what it makes of requests that are none or hardly any, and its processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.asyncio.client import connect

from api import protocols
from api.door import Receive, Scope, Send, answer
from api.protocols import HEAD_BYTES, Http, WebSocket
from tests.desk import PROJECT, free_port, process_fields, wait_until

SECONDS = 5.0
HANDSHAKE = (
    b" HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with path, query and size of the body; a socket is told the first two, and what it says."""
    told = scope["raw_path"] + b"?" + scope["query_string"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": told})
        while (said := await receive())["type"] == "websocket.receive" and said["text"] != "enough":
            await send({"type": "websocket.send", "text": said["text"]})
        if said["type"] == "websocket.receive":
            await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        return
    size, message = 0, {"more_body": True}
    while message["more_body"]:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
    await answer(send, 200, [], told + b" %d" % size)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server in this process that speaks our protocols."""
    config = uvicorn.Config(
        echo, http=Http, ws=WebSocket, interface="asgi3", log_config=None, proxy_headers=False
    )
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(lambda: Http(config, state, {}, loop), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def told(port: int, *parts: bytes) -> bytes:
    """Send the parts one by one, and return what comes until the connection is closed or nothing comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
        async with asyncio.timeout(0.5):
            while data := await reader.read(65536):
                received += data
    writer.close()
    return received


async def test_client_that_leaves_letters_as_they_are_typed_is_understood(port: int) -> None:
    head = "GET /köln?to=Zürich HTTP/1.1\r\nx-name: Zoë\r\n".encode()
    for parts in ([head + b"\r\n"], [head, b"x-other: \xc3\xa9\r\n", b"\r\n"]):
        assert (await told(port, *parts)).endswith(b"/k%C3%B6ln?to=Z%C3%BCrich 0\r\n0\r\n\r\n")


async def test_body_is_left_alone_whatever_it_looks_like(port: int) -> None:
    body = "GET /köln HTTP/1.1\r\n".encode()
    head = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (2 * len(body))
    assert b"/? %d\r\n" % (2 * len(body)) in await told(port, head, body, body)
    assert b"/? %d\r\n" % (2 * len(body)) in await told(port, head + body, body)


async def test_client_that_asks_again_before_it_is_answered_is_answered_in_order(port: int) -> None:
    received = await told(port, b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", b"GET /3 HTTP/1.1\r\n\r\n")
    assert [received.index(b"/%d? 0" % number) for number in (1, 2, 3)] == sorted(
        received.index(b"/%d? 0" % number) for number in (1, 2, 3)
    )


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\x02\x00\x01", b"HELLO\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n"]
)
async def test_what_is_no_request_is_refused_without_a_word(port: int, request_: bytes) -> None:
    refusal = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    assert await told(port, request_) == refusal


async def test_client_whose_head_does_not_end_is_refused(port: int) -> None:
    line = b"x-line: " + 8000 * b"x" + b"\r\n"
    many = [b"GET / HTTP/1.1\r\n", *([line] * (2 * HEAD_BYTES // len(line)))]
    one = [b"GET / HTTP/1.1\r\nx-line: ", *([8000 * b"x"] * (2 * HEAD_BYTES // 8000))]
    for parts in (many, one):
        assert (await told(port, *parts)).startswith(b"HTTP/1.1 431 ")
    assert (await told(port, many[0], *([line] * 7), b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_client_that_takes_too_long_over_a_head_is_let_go(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.1)
    for begun in (b"", b"GET / HT", b"GET / HTTP/1.1\r\n\r\nGET / HT"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(SECONDS):
                await reader.read()
        writer.close()


async def test_client_may_take_its_time_between_requests_and_over_a_body(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"{}")
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.2)
    writer.close()


async def test_socket_may_be_silent_for_as_long_as_it_likes(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.05)
    async with connect(f"ws://127.0.0.1:{port}/ws?a=b") as socket:
        assert await socket.recv() == b"/ws?a=b"
        await asyncio.sleep(0.2)
        await asyncio.wait_for(await socket.ping(), SECONDS)


async def test_text_of_any_length_comes_as_it_was_sent_before_the_close(port: int) -> None:
    texts = ["", "Zoë", *(size * "x" for size in (125, 126, 16_384, 65_535, 65_536, 300_000))]
    async with connect(f"ws://127.0.0.1:{port}/") as socket:
        await socket.recv()
        for text in texts:
            await socket.send(text)
            assert await socket.recv() == text
        await socket.send("enough")
        await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4000, "enough")


async def test_handshake_with_all_the_cookies_of_a_site_is_accepted(port: int) -> None:
    received = await told(port, b"GET /ws?a=b" + HANDSHAKE + b"cookie: " + 20_000 * b"x" + b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"/ws?a=b" in received


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /ws" + HANDSHAKE + b"content-length: 2\r\n\r\n{}",
        b"GET /ws" + HANDSHAKE + b"x-line: 1\r\n" * 200 + b"\r\n",
        b"GET /ws" + HANDSHAKE.replace(b"-key", b"-lock") + b"\r\n",
    ],
)
async def test_handshake_that_is_none_is_refused(port: int, request_: bytes) -> None:
    assert (await told(port, request_)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


# Processes


class Served:
    """`python -m api.serve` without a database, of which it asks nothing before it is asked something."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health").is_success
        return False

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]

    def ready(self) -> list[int]:
        """Return the processes that say that they have started."""
        workers = self.workers()
        return workers if self.log.read_text().count("service started") >= len(workers) else []


@contextlib.contextmanager
def served(folder: Path, workers: int, host: str = "127.0.0.1") -> Iterator[Served]:
    port, log = free_port(), folder / "serve.log"
    environ: dict[str, Any] = {
        **{name: text for name, text in os.environ.items() if not name.startswith("DESKBASE_")},
        "DESKBASE_AUTHENTICATOR_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing",
        "DESKBASE_JWT_SECRET": 64 * "x",
        "DESKBASE_DATA_DIR": str(folder),
        "DESKBASE_HOST": host,
        "DESKBASE_PORT": str(port),
        "DESKBASE_WORKERS": str(workers),
        "PYTHONPATH": str(PROJECT),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.serve"], env=environ, cwd=folder, stdout=output, stderr=output
        )
    server = Served(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(server.answers, 30, "the server")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_in_time_and_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path, 1) as server:
        assert server.workers() == []
        begun = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(SECONDS) == 0
    assert time.monotonic() - begun < SECONDS
    assert "service stopped" in server.log.read_text()


def test_process_that_dies_is_started_again_and_nobody_is_turned_away(tmp_path: Path) -> None:
    with served(tmp_path, 2) as server:
        before = wait_until(server.ready, 30, "both processes")
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: before[0] not in server.workers(), 5, "it is gone")
        for _ in range(50):
            assert server.answers()
        after = wait_until(lambda: len(server.workers()) == 2 and server.workers(), 10, "two again")
        assert before[1] in after
        server.process.terminate()
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0
    assert [pid for pid in after if process_fields(pid)] == []
    assert "process lost" in server.log.read_text()


def test_processes_end_with_the_server_that_was_killed(tmp_path: Path) -> None:
    with served(tmp_path, 2) as server:
        workers = wait_until(server.ready, 30, "both processes")
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(process_fields(pid) for pid in workers), 10, "they end")


def test_server_on_every_address_has_both_kinds(tmp_path: Path) -> None:
    with served(tmp_path, 1, "::") as server:
        assert server.answers()
        assert httpx.get(f"{server.url.replace('127.0.0.1', '[::1]')}/health").is_success
