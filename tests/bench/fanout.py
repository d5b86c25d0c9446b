"""The least that could tell sockets what happens in a database, to compare the deliveries of the relay with.

A connection that listens, and a loop that sends each payload to all sockets, on the same server with the same
options. It asks for no credential, looks up nothing, and whoever does not read stops it for all.
Run as `python -m tests.bench.fanout PORT` with the database's address in BENCH_DATABASE_URL.
"""

import asyncio
import os
import sys

import psycopg

from api.door import App, Receive, Scope, Send
from api.serve import serve
from api.settings import Settings

CHANNEL = "bench_fanout"


class Fanout:
    """The application."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._sends: set[Send] = set()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a socket, or the life of the process."""
        if scope["type"] == "lifespan":
            await receive()
            self._task = asyncio.create_task(self._tell())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._task.cancel()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            self._sends.add(send)
            while (await receive())["type"] != "websocket.disconnect":
                pass
            self._sends.discard(send)

    async def close_sockets(self) -> None:
        """Nothing is done about them."""

    async def _tell(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute(f"listen {CHANNEL}".encode())
            async for notify in connection.notifies():
                message = {"type": "websocket.send", "text": notify.payload}
                for send in list(self._sends):
                    await send(message)


def application() -> App:
    """Make it."""
    return Fanout(os.environ["BENCH_DATABASE_URL"])


if __name__ == "__main__":
    serve("tests.bench.fanout:application", Settings(port=int(sys.argv[1])))
