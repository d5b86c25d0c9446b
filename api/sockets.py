"""Sockets: what the websockets of all contracts have in common.

In charge of the handshake's credential, of sending and listening at the same time, and of how a socket ends.
Whom one admits, and what it tells, is its contract's business: a handler, which ends in `Socket.stream`.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping
from urllib.parse import parse_qs

from api.credentials import Credential, Credentials, Kind, bearer_in
from api.door import Answer, App, Receive, Scope, Send, header, visit_in
from api.errors import ApiError, SqlError, of_database
from api.logs import Event, failure
from api.protocols import WRITE
from api.subscriptions import Subscription
from api.watches import (
    FAULT,
    GONE,
    IDLE,
    LEFT,
    SESSION_ENDED,
    SLOW,
    STOPPING,
    UNAVAILABLE,
    Message,
    Outbox,
)

CLOSE_CODES = {
    IDLE: 1001,
    SESSION_ENDED: 4401,
    GONE: 4410,
    FAULT: 1011,
    STOPPING: 1012,
    SLOW: 1013,
    UNAVAILABLE: 1013,
}
"""What a socket is closed with, beside the reason. Refusals are 4000 and the HTTP status."""

STUCK_SECONDS = 5.0
"""How long a socket that is over may take to send what it is in the middle of."""

CLOSE_SECONDS = 1.0
_DENIAL = "websocket.http.response"


class Socket:
    """One websocket, from its handshake on."""

    __slots__ = ("_receive", "_send", "is_accepted", "params", "query", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send, params: dict[str, str]) -> None:
        self.scope = scope
        self.params = params
        """The named parts of the path."""

        query = parse_qs(scope["query_string"].decode("latin-1"))
        self.query = {name: texts[-1] for name, texts in query.items()}
        self.is_accepted = False
        self._receive = receive
        self._send = send

    @property
    def since(self) -> str | None:
        """The position to begin at, if there is one."""
        return self.query.get("since")

    async def credential(self, credentials: Credentials) -> Credential:
        """Return what `?token=` or the Authorization header proves. Raises ApiError."""
        if token := self.query.get("token"):
            return await credentials.of_bearer(token)
        authorization = header(self.scope, b"authorization")
        if authorization is None:
            raise ApiError(401, "missing_token")
        return await credentials.of_bearer(bearer_in(authorization))

    async def person(self, credentials: Credentials) -> Credential:
        """Return the credential of a person who logs in. Raises ApiError for none, and for any other kind."""
        credential = await self.credential(credentials)
        if credential.kind is not Kind.USER:
            raise ApiError(401, "invalid_token")
        return credential

    async def stream(self, subscription: Subscription) -> None:
        """Accept the socket and send what the subscription brings, until that or the other side is over."""
        await self.converse(subscription.outbox, subscription, subscription.close)

    async def converse(
        self,
        outbox: Outbox,
        messages: AsyncIterable[Message],
        leave: Callable[[], None],
        hear: Callable[[Message], Awaitable[None]] | None = None,
    ) -> None:
        """Accept the socket, send and hear, until the outbox or the other side is over; then leave.

        What is said is heard one by one, and the other side has to wait meanwhile.
        """
        listening = asyncio.create_task(self._listen(outbox, hear))
        try:
            await self.accept()
            outbox.write = self.scope.get("extensions", {}).get(WRITE)
            with _given_up_when_stuck(outbox):
                async for message in messages:
                    await self._tell(message, outbox)
        finally:
            outbox.write = None
            leave()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        if outbox.reason in CLOSE_CODES:
            await self.close(CLOSE_CODES[outbox.reason], outbox.reason)

    async def accept(self) -> None:
        """Finish the handshake. For a subscription this is the acknowledgement."""
        if not self.is_accepted:
            self.is_accepted = True
            await self._send({"type": "websocket.accept"})

    async def close(self, code: int, reason: str) -> None:
        """Close it with a code and a reason, after the handshake: only then a client gets to see them."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.accept()
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def deny(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake as an ordinary request; where the server cannot, it is 403."""
        if _DENIAL not in self.scope.get("extensions", {}):
            await self._send({"type": "websocket.close"})
            return
        headers = [*headers, (b"x-request-id", visit_in(self.scope).id)]
        await self._send({"type": f"{_DENIAL}.start", "status": status, "headers": headers})
        await self._send({"type": f"{_DENIAL}.body", "body": body})

    async def _tell(self, message: Message, outbox: Outbox) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        try:
            await self._send({"type": "websocket.send", kind: message})
        except Exception:  # noqa: BLE001 - servers differ in what they raise when the other side is gone
            outbox.end(LEFT)

    async def _listen(self, outbox: Outbox, hear: Callable[[Message], Awaitable[None]] | None) -> None:
        """Listen until the other side has gone. Pings the server answers."""
        try:
            while (said := await self._receive())["type"] != "websocket.disconnect":
                if hear:
                    text = said.get("text")
                    await hear(said["bytes"] if text is None else text)
        except Exception as error:  # noqa: BLE001 - the other side learns of it, as far as there still is one
            failure(Event.SOCKET_FAILED, error, request_id=visit_in(self.scope).id.decode())
            outbox.end(FAULT)
        finally:
            outbox.end(LEFT)


Handler = Callable[[Socket], Awaitable[None]]


class Sockets:
    """A contract's app and, by the form of their path, its sockets.

    An ApiError that a handler raises closes the socket with 4000 and the status; with `envelope` it is the
    handshake's answer instead.
    """

    def __init__(
        self,
        app: App,
        handlers: Mapping[str, Handler],
        envelope: Callable[[ApiError, bytes], Answer] | None = None,
    ) -> None:
        self._app = app
        self._handlers = [(re.compile(path, re.ASCII), handler) for path, handler in handlers.items()]
        self._envelope = envelope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one socket."""
        if scope["type"] == "websocket":
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        handler, params = self._find(scope["path"])
        socket = Socket(scope, receive, send, params)
        try:
            await handler(socket)
        except ApiError as error:
            await self._refuse(socket, error)
        except SqlError as error:
            await self._refuse(socket, of_database(error))
        except Exception as error:  # noqa: BLE001 - the last line of defence
            failure(Event.SOCKET_FAILED, error, request_id=visit_in(scope).id.decode())
            await self._refuse(socket, ApiError(500, "internal_error"))

    def _find(self, path: str) -> tuple[Handler, dict[str, str]]:
        for form, handler in self._handlers:
            if found := form.fullmatch(path):
                return handler, found.groupdict()
        return _refuse_path, {}

    async def _refuse(self, socket: Socket, error: ApiError) -> None:
        if self._envelope and not socket.is_accepted:
            await socket.deny(*self._envelope(error, visit_in(socket.scope).id))
        elif error.status < 500:
            await socket.close(4000 + error.status, error.word)
        else:
            await socket.close(CLOSE_CODES[UNAVAILABLE if error.status == 503 else FAULT], error.word)


@contextlib.contextmanager
def _given_up_when_stuck(outbox: Outbox) -> Iterator[None]:
    """Leave the block at the latest STUCK_SECONDS after the outbox was ended, whatever is under way in it."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    if task:
        outbox.on_end = lambda: timers.append(loop.call_later(STUCK_SECONDS, task.cancel))
    try:
        yield
    except asyncio.CancelledError:
        if not outbox.reason or not task or task.uncancel():
            raise
    finally:
        outbox.on_end = None
        for timer in timers:
            timer.cancel()


async def _refuse_path(_: Socket) -> None:
    raise ApiError(404, "not_found")
