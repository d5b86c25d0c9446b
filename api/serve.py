"""One API server: the application on uvicorn, as `deskbase up` starts it (`python -m api.serve`).

In charge of uvicorn's options, of the sockets that it listens on and of its processes. The application is
`api.app`'s; restarting a server that has died is `api.supervisor`'s.
"""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys
import time
from typing import Any

import uvicorn

from api import logs
from api.processes import Child, spawn
from api.protocols import Http, WebSocket
from api.settings import Settings

STOP_SECONDS = 3.0
"""How long the end of a server may take: a second for sockets, one for requests, one to close everything."""

GOODBYE_SECONDS = 1.0
REQUEST_SECONDS = 1

KEEP_ALIVE_SECONDS = 75
"""Longer than the minute for which proxies keep a connection: none asks on one that is just being closed."""

BACKLOG = 4096
PING_SECONDS, PONG_SECONDS = 25.0, 20.0
MESSAGE_BYTES = 4 * 1024 * 1024
LOOK_SECONDS = 0.2
STOPPED_BY = (signal.SIGINT, signal.SIGTERM)

GARBAGE = (100_000, 10, 10)
"""How many more objects there may be before Python looks for garbage in cycles. An event makes a few for each
of thousands of sockets, gone by themselves at once; at Python's own 700, all that there is was looked through
several times a second, with 5,000 sockets for half a second each time."""

TCP_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""A peer that is gone without a word is noticed within a minute, also when something is on its way to it."""


def application() -> Any:
    """Build the application inside a process that serves it."""
    from api.app import create_app  # the server above several processes needs none of it

    return create_app(Settings.load())


def main() -> None:
    """Serve until SIGTERM; requests under way are finished."""
    if len(sys.argv) == 1:
        serve("api.serve:application", Settings.load())
    else:
        of_many(*sys.argv[1:])


def serve(app: str, settings: Settings) -> None:
    """Serve the app with that name in as many processes as the settings say."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every client is a file
    host, port, count = settings.host, settings.port, settings.workers
    with _bound(host, port, is_shared=count > 1) as listener:
        if count == 1:
            run(app, listener)
        else:
            _run_many([sys.executable, "-m", "api.serve", app, host, str(port)], count)


def of_many(app: str, host: str, port: str) -> None:
    """Be one of several processes, with a socket of its own."""
    run(app, _bound(host, int(port), is_shared=True))


def run(app: str, listener: socket.socket) -> None:
    """Serve in this process."""
    for number in STOPPED_BY:
        # Uvicorn stops at a signal, and then lets it do what it would have done without uvicorn.
        signal.signal(number, _end)
    config = uvicorn.Config(
        app,
        factory=True,
        interface="asgi3",
        lifespan="on",
        loop="uvloop",
        http=Http,
        ws=WebSocket,
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=REQUEST_SECONDS,
    )
    Server(config).run([listener])


class Server(uvicorn.Server):
    """Uvicorn, which lets the application close its sockets before it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; what there is by then stays, and is not looked through again for what could be freed."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, in at most STOP_SECONDS."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                for server in self.servers:
                    server.close()
                await self._close_sockets()
                await super().shutdown(sockets)

    async def _close_sockets(self) -> None:
        """Give all who hold one a moment to hear why, and to answer. Uvicorn itself tells no reason."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.config.loaded_app.close_sockets()
                while any(isinstance(each, WebSocket) for each in self.server_state.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


def _end(*_: object) -> None:
    """End this process; with nothing to look through for what could be freed, which would take long."""
    _ignore_signals()
    gc.freeze()
    sys.exit(0)


def _interrupt(*_: object) -> None:
    """Interrupt this process, once: whoever stops it may say so twice."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in STOPPED_BY:
        signal.signal(number, signal.SIG_IGN)


def _bound(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """Return a socket that does not listen yet; the kernel divides who comes between those that share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if option := getattr(socket, name, None):  # Linux; its connections are born with what it has
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
    if family == socket.AF_INET6 and socket.has_dualstack_ipv6():
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((host, port))
    return listener


def _run_many(command: list[str], count: int) -> None:
    """Keep that many processes running, until a signal ends this one."""
    logs.configure()
    children = [Child(f"API process {number}", lambda: spawn(command)) for number in range(1, count + 1)]
    for each in STOPPED_BY:
        signal.signal(each, _interrupt)
    try:
        for child in children:
            child.start()
        while True:
            time.sleep(LOOK_SECONDS)
            for child in children:
                child.check(lambda text: logs.warning(logs.Event.PROCESS_LOST, message=text))
    except KeyboardInterrupt:
        return
    finally:
        _stop(children)


def _stop(children: list[Child]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.stop(deadline - time.monotonic())


if __name__ == "__main__":
    main()
