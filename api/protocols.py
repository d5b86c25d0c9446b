"""The two protocols of the server, HTTP/1.1 and websockets: uvicorn's, and what those leave open.

In charge of how long and how late a request's head may be, and of what is no request. `api.serve` uses them.
"""

import asyncio
import re
from functools import lru_cache
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.protocol import State

HEAD_BYTES = 65_536
"""How long a request's head may be and still be incomplete."""

HEAD_SECONDS = 30.0
"""How long it may take, counted from the connection or from its own first byte."""

REFUSED_SECONDS = 1.0

SHARED_CHARACTERS = 16_384
"""How long a text may be whose frame is kept for the other sockets that it goes to."""

WRITE = "deskbase.write"
"""An extension of a websocket's scope: a function that sends a text at once, or returns false."""

# A handshake, in whose head the cookies of a whole site may be, is read by this library again.
http11.MAX_LINE_LENGTH = HEAD_BYTES

_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class Http(HttpToolsProtocol):
    """HTTP/1.1 with a bounded head, in whose first line letters may be what they are."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._output: Output
        self._is_over = False  # what still comes is not for the application, or for another protocol
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._output = Output(self.transport, self.loop)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._end_head()

    def data_received(self, data: bytes) -> None:
        """Go on reading."""
        if self._is_over:
            return
        if not data.isascii() and self._begins_a_head:
            data = _quoted(data)
        super().data_received(data)
        if not self._is_in_head:
            self._end_head()
        elif not self._is_over:
            self._go_on(len(data))

    def on_headers_complete(self) -> None:
        """Let the application know of a request."""
        super().on_headers_complete()
        if not self._is_in_head:
            self.cycle.transport = self._output  # type: ignore[assignment]

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over."""
        self._is_over = True
        self._end_head()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - it says nothing
        """Refuse what is no request."""
        self._refuse(400)

    @property
    def _begins_a_head(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return not self._head_size and (cycle is None or not cycle.more_body)

    @property
    def _is_in_head(self) -> bool:
        """Whether a request has begun (or none ever has) that the application does not know of yet."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.scope is not self.scope

    def _go_on(self, size: int) -> None:
        self._head_size += size
        if self._head_size > HEAD_BYTES:
            self._refuse(431)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _refuse(self, status: int) -> None:
        """Answer, and close a little later: what is still on its way would take the answer with it."""
        self._is_over, cycle = True, cast("RequestResponseCycle | None", self.cycle)
        if cycle:
            cycle.disconnected = True
            cycle.message_event.set()
        self._output.flush()
        self.transport.write(_refusal(status))
        self.transport.write_eof()
        self.loop.call_later(REFUSED_SECONDS, self.transport.abort)

    def _end_head(self) -> None:
        self._head_size = 0
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


class Output:
    """What of a transport an answer needs. Its head is sent together with what follows at once.

    Uvicorn writes the head and the body one after the other, and uvloop would send each by itself.
    """

    __slots__ = ("_head", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send it; a head a little later."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send what has waited long enough."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._transport.close()


class WebSocket(WebSocketsSansIOProtocol):
    """A websocket; a handshake that is none is refused, and what is sent to many is framed once."""

    async def run_asgi(self) -> None:
        """Run the application, which may write past `send`."""
        self.scope["extensions"][WRITE] = self.write  # type: ignore[assignment]
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        """Send; a text on an open socket at once, since nothing has to be kept in mind about it."""
        text = message.get("text")
        if text is None or not self.write(text):
            await super().send(message)

    def write(self, text: str) -> bool:
        """Send a text without waiting; return false if it is not open, or the other side does not keep up."""
        if not self._is_open or not self.writable.is_set():
            return False
        self.transport.write(_framed(text) if len(text) < SHARED_CHARACTERS else _frame(text))
        return True

    @property
    def _is_open(self) -> bool:
        return self.handshake_complete and not self.close_sent and self.conn.state is State.OPEN

    def data_received(self, data: bytes) -> None:
        """Go on reading. What comes first is a whole handshake; that it is none, uvicorn ignores."""
        super().data_received(data)
        if not self.handshake_initiated:
            self.transport.write(_refusal(400))
            self.transport.close()

    def handle_parser_exception(self) -> None:
        """End a connection on which no frames came; before it is accepted there is no close frame either."""
        if self.conn.close_sent:
            super().handle_parser_exception()
        else:
            self.transport.abort()


def _frame(text: str) -> bytes:
    """Return a text as a server sends it: whole, and as it is."""
    content = text.encode()
    size = len(content)
    if size < 126:
        return b"\x81%c%b" % (size, content)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), content)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), content)


_framed = lru_cache(256)(_frame)


def _refusal(status: int) -> bytes:
    return STATUS_LINE[status] + b"connection: close\r\ncontent-length: 0\r\n\r\n"


def _quoted(data: bytes) -> bytes:
    """Return the beginning of a head with its first line as it should have been sent: percent-encoded.

    Some programs, curl among them, leave an address as it was typed.
    """
    line, end, rest = data.partition(b"\r\n")
    return _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], line) + end + rest
