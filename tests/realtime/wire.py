"""A client that speaks the protocol itself, in either version, so that tests see every frame as it is."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SECONDS = 5.0
# As long as a frame would take at the very most, where there must be none.
SILENCE = 0.3
# What "within a second" may take on a busy machine.
A_SECOND = 2.5

Json = dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """A frame of the server's, in either version."""

    topic: str
    event: str
    payload: Any
    ref: Any = None
    join_ref: Any = None
    raw: Any = None

    @property
    def is_ok(self) -> bool:
        return self.event == "phx_reply" and self.payload["status"] == "ok"

    @property
    def reason(self) -> str:
        """Why it is an error."""
        assert self.payload["status"] == "error", self
        return str(self.payload["response"]["reason"])

    @property
    def row(self) -> Json:
        """The row that a change is about."""
        data = self.payload["data"]
        return dict(data.get("record") or data["old_record"])


def parse(version: int, raw: str | bytes) -> Heard:
    if isinstance(raw, bytes):
        return parse_bytes(raw)
    told = json.loads(raw)
    if version == 1:
        assert told.keys() == {"topic", "event", "payload", "ref"}, told
        return Heard(told["topic"], told["event"], told["payload"], told["ref"], raw=raw)
    join_ref, ref, topic, event, payload = told
    return Heard(topic, event, payload, ref, join_ref, raw)


def parse_bytes(raw: bytes) -> Heard:
    assert raw[0] == 4, raw[:10]
    sizes, place, parts = raw[1:4], 5, []
    for size in sizes:
        parts.append(raw[place : place + size].decode())
        place += size
    topic, event, meta = parts
    payload = json.loads(raw[place:]) if raw[4] == 1 else raw[place:]
    content = {"type": "broadcast", "event": event, "payload": payload}
    return Heard(topic, "broadcast", content | ({"meta": json.loads(meta)} if meta else {}), raw=raw)


def pushed(  # noqa: PLR0917 - as they stand in the frame
    join_ref: str, ref: str, topic: str, event: str, payload: bytes, meta: str = "", enc: int = 1
) -> bytes:
    """Return a broadcast as clients of version 2 send it."""
    parts = [part.encode() for part in (join_ref, ref, topic, event, meta)]
    return bytes([3, *map(len, parts), enc]) + b"".join(parts) + payload


class Line:
    """A socket, and what has been heard on it."""

    def __init__(self, socket: ClientConnection, version: int) -> None:
        self.socket = socket
        self.version = version
        self.heard: list[Heard] = []
        self.rang = asyncio.Event()
        self._refs = itertools.count(1)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.heard.append(parse(self.version, await self.socket.recv()))
                self.rang.set()
        self.rang.set()

    async def close(self) -> None:
        await self.socket.close()
        await self._reading

    async def say(
        self, topic: str, event: str, payload: Any = None, *, join_ref: Any = None, ref: Any = ...
    ) -> str:
        """Send a frame and return its ref."""
        ref = str(next(self._refs)) if ref is ... else ref
        payload = {} if payload is None else payload
        told: Any = [join_ref, ref, topic, event, payload]
        if self.version == 1:
            told = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
        await self.socket.send(json.dumps(told))
        return str(ref)

    async def until(self, condition: Callable[[], Any], seconds: float = SECONDS, what: Any = None) -> Any:
        """Wait on a condition about what was heard."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            self.rang.clear()
            left = deadline - time.monotonic()
            assert left > 0, (what, [each.raw[:300] for each in self.heard[-8:]], self.ending)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.rang.wait(), min(left, 0.5))
        return found

    async def reply(self, ref: str, topic: str | None = None, seconds: float = SECONDS) -> Heard:
        """Return the answer to a frame."""

        def found() -> Heard | None:
            replies = [each for each in self.heard if each.event == "phx_reply" and each.ref == ref]
            return next((each for each in replies if topic in {None, each.topic}), None)

        answer: Heard = await self.until(found, seconds, f"a reply to {ref}")
        return answer

    async def ask(self, topic: str, event: str, payload: Any = None, **options: Any) -> Heard:
        """Send a frame and return the answer."""
        return await self.reply(await self.say(topic, event, payload, **options), topic)

    async def is_over(self, seconds: float = SECONDS) -> tuple[int | None, str | None]:
        """Return code and reason of the close."""
        await asyncio.wait_for(asyncio.shield(self._reading), seconds)
        return self.ending

    @property
    def ending(self) -> tuple[int | None, str | None]:
        return self.socket.close_code, self.socket.close_reason

    async def try_to_join(
        self,
        name: str,
        token: str | None = None,
        changes: list[Json] | None = None,
        **config: Any,
    ) -> tuple["Room", Heard]:
        """Join a channel and return it with the answer."""
        payload: Json = {
            "config": {
                "broadcast": {"ack": False, "self": False},
                "presence": {"key": "", "enabled": False},
                "private": False,
                "postgres_changes": changes or [],
                **config,
            }
        }
        if token is not None:
            payload["access_token"] = token
        return await self.join_with(f"realtime:{name}", payload)

    async def join_with(self, topic: str, payload: Any) -> tuple["Room", Heard]:
        ref = str(next(self._refs))
        await self.say(topic, "phx_join", payload, join_ref=ref, ref=ref)
        answer = await self.reply(ref, topic)
        return Room(self, topic, ref, self.heard.index(answer)), answer

    async def join(self, name: str, token: str | None = None, **options: Any) -> "Room":
        """Join a channel, which has to work."""
        room, answer = await self.try_to_join(name, token, **options)
        assert answer.is_ok, answer
        return room

    async def refused(self, name: str, token: str | None = None, **options: Any) -> str:
        """Join a channel, which has to be refused, and return the reason."""
        _, answer = await self.try_to_join(name, token, **options)
        return answer.reason


@dataclass
class Room:
    """A channel on a socket."""

    line: Line
    topic: str
    join_ref: str
    begin: int
    seen: set[int] = field(default_factory=set)

    @property
    def heard(self) -> list[Heard]:
        return [each for each in self.line.heard[self.begin :] if each.topic == self.topic]

    def of(self, event: str) -> list[Heard]:
        return [each for each in self.heard if each.event == event]

    @property
    def rows(self) -> list[Json]:
        """The rows of the changes that were told."""
        return [each.row for each in self.of("postgres_changes")]

    @property
    def messages(self) -> list[Json]:
        """The broadcasts that were told."""
        return [each.payload for each in self.of("broadcast")]

    def says(self, field: str) -> list[Any]:
        return [row.get(field) for row in self.rows]

    async def say(self, event: str, payload: Any = None) -> str:
        return await self.line.say(self.topic, event, payload, join_ref=self.join_ref)

    async def ask(self, event: str, payload: Any = None) -> Heard:
        return await self.line.reply(await self.say(event, payload), self.topic)

    async def broadcast(self, event: str, payload: Any) -> str:
        return await self.say("broadcast", {"type": "broadcast", "event": event, "payload": payload})

    async def track(self, payload: Any) -> Heard:
        return await self.ask("presence", {"type": "presence", "event": "track", "payload": payload})

    async def untrack(self) -> Heard:
        return await self.ask("presence", {"type": "presence", "event": "untrack"})

    async def hears(self, condition: Callable[["Room"], Any], seconds: float = SECONDS) -> Any:
        return await self.line.until(lambda: condition(self), seconds, self.topic)

    async def next(self, event: str, count: int = 1, seconds: float = SECONDS) -> list[Heard]:
        """Wait until so many frames of a kind were heard."""
        await self.hears(lambda room: len(room.of(event)) >= count, seconds)
        return self.of(event)

    async def is_closed(self, seconds: float = A_SECOND) -> str:
        """Wait for the end of the channel, and return what was said about it."""
        await self.next("phx_close", 1, seconds)
        return str(self.of("system")[-1].payload["message"])


async def silence() -> None:
    """Wait in vain."""
    await asyncio.sleep(SILENCE)


@contextlib.asynccontextmanager
async def opened(url: str, key: str | None, version: int = 1, **options: Any) -> AsyncIterator[Line]:
    """Open a socket as the clients do."""
    query = {"vsn": f"{version}.0.0", **({} if key is None else {"apikey": key})}
    address = f"ws{url[4:]}/realtime/v1/websocket?{urlencode(query)}"
    async with connect(address, max_size=None, compression=None, **options) as socket:
        line = Line(socket, version)
        try:
            yield line
        finally:
            await line.close()
