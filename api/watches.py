"""Watches: what a socket wants to be told, and what it is still to be sent.

In charge of how a subscription is described, of the bounded queue of each socket, and of audiences: those for
whom one rendering serves, because row-level security sees the same claims. `api.relay` fills the queues.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from api.event_log import Event

QUEUED_MESSAGES = 1000
QUEUED_CHARACTERS = 2_000_000
# Why a subscription is over, for programs; the relay never ends one without.
SLOW = "slow"
"""It did not read fast enough; it may come back with its last position."""

IDLE = "idle"
"""It has said nothing for too long."""

SESSION_ENDED = "session_ended"
GONE = "gone"
"""The position is none, or older than what is kept: what was missed cannot be told any more."""

FAULT = "fault"
STOPPING = "stopping"
UNAVAILABLE = "unavailable"
LEFT = "left"
"""The other side is gone."""

Message = str | bytes


# Audiences


def shared(claims: bytes) -> bytes:
    """Return the claims without the person: the staff of one role are one audience, a customer is another.

    For what all of a kind see alike; a policy that asks which member it is finds nobody.
    """
    return _reduced(claims, personally=False)


def personal(claims: bytes) -> bytes:
    """Return the claims without the session: each person is an audience."""
    return _reduced(claims, personally=True)


_SHARED = ("organization_id", "role", "contact_id", "token_id", "scopes")


@lru_cache(8192)
def _reduced(claims: bytes, *, personally: bool) -> bytes:
    holder = msgspec.json.decode(claims, type=dict[str, Any])
    metadata = holder.get("app_metadata") or {}
    names = (*_SHARED, "member_id") if personally else _SHARED
    reduced = {
        "role": holder.get("role"),
        "app_metadata": {name: metadata[name] for name in names if metadata.get(name) is not None},
    }
    if personally and "sub" in holder:
        reduced["sub"] = holder["sub"]
    return msgspec.json.encode(reduced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A subscription as a socket describes it.

    `render` is a statement, `select id, body from <contract>.render_events($1, $2)`. It enters with the
    claims $1, an audience's, and answers for those of the events $2 that they may see the JSON text of the
    message, or of several. It is asked once for all of an audience; $2 is an array of `Event.json`.
    """

    organization_id: str | None
    """Without one it hears of every organization's events; which of them it may see, the database says."""

    claims: bytes
    render: bytes
    wants: Callable[[Event], bool] = lambda _: True
    """A cheap look at what happened to which row. What a reader may see is not for this to say."""

    about: str | None = None
    """One of an event's ids: only such events are looked at, so that thousands of these watches are cheap."""

    wish: bytes = b""
    """What it wants, for the database, as JSON. An audience whose watches have wishes is asked with an array
    of them as $3, and answers a third column: which of them a message is for, from 0."""

    audience: Callable[[bytes], bytes] = shared
    since: str | None = None
    """The position to begin at, instead of now."""

    expires_at: float = float("inf")
    """When the credential is over, in Unix seconds."""


class Outbox:
    """What a socket is still to be sent, in order. Whoever lets it fill up is ended, and can resume."""

    __slots__ = ("_messages", "_size", "_waiter", "on_end", "reason", "write")

    def __init__(self) -> None:
        self.reason: str | None = None
        self.write: Callable[[str], bool] | None = None
        """Sends a text at once, past the queue, unless the other side is behind; then it returns false."""

        self.on_end: Callable[[], None] | None = None
        self._messages: deque[Message] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    def passes(self, message: Message) -> bool:  # noqa: ARG002 - it is for sockets that look at what they are told
        """Whether a message is to be sent."""
        return self.reason is None

    @property
    def bounds(self) -> tuple[int, int]:
        """How many messages, and characters of them, may wait."""
        return QUEUED_MESSAGES, QUEUED_CHARACTERS

    def put(self, message: Message) -> None:
        """Add a message; beyond the bounds the socket is ended."""
        if not self.passes(message) or (self._is_waited_for and self._is_written(message)):
            return
        self._messages.append(message)
        self._size += len(message)
        messages, characters = self.bounds
        if len(self._messages) > messages or self._size > characters:
            self.end(SLOW)
        else:
            self._wake()

    def end(self, reason: str) -> None:
        """End it for a reason, of which the first counts. What is queued is not sent any more."""
        if self.reason:
            return
        self.reason = reason
        self._messages.clear()
        self._wake()
        if self.on_end:
            self.on_end()

    def take(self) -> Message | None:
        """Take out what is next, if there is anything."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._size -= len(message)
        return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until it is ended."""
        while not self.reason:
            message = self.take()
            if message is not None:
                yield message
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    @property
    def _is_waited_for(self) -> bool:
        """Whether all that was put has been sent."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def _is_written(self, message: Message) -> bool:
        return self.write is not None and isinstance(message, str) and self.write(message)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
