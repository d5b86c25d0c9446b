"""Sockets of `/realtime/v1`: one connection, on which many channels are.

In charge of handing what a client says to the channel that it is for, of bounds, and of the queue that the
channels of a socket share. What happens on a channel is `api.realtime.channels`'.
"""

import asyncio
import time

from api.watches import IDLE, Message, Outbox

from . import frames
from .channels import Channel
from .client import Shared
from .frames import Frame
from .joins import TOPIC_PREFIX
from .pace import Pace
from .tokens import Key

MOST_CHANNELS = 100
MESSAGES_A_SECOND, MOST_AT_ONCE = 500, 1000
"""What a client may say; one that says more is listened to more slowly."""

QUEUED_MESSAGES = 2000
QUEUED_BYTES = 8 * 1024 * 1024
"""What may wait for a client that reads too slowly. A broadcast may be a megabyte."""

IDLE_SECONDS = 180.0
"""Clients send a heartbeat every 25 seconds."""

REFUSAL_SECONDS = 1.0
"""How long the answer to a join that is refused takes: clients try again at once."""

_FEW = 100


class SharedOutbox(Outbox):
    """What a socket is still to be sent by all of its channels."""

    __slots__ = ("_has_room",)

    def __init__(self) -> None:
        super().__init__()
        self._has_room: asyncio.Event | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """How much may wait."""
        return QUEUED_MESSAGES, QUEUED_BYTES

    def take(self) -> Message | None:
        """Take out what is next, if there is anything."""
        message = super().take()
        if self._has_room and self._is_roomy:
            self._has_room.set()
        return message

    def end(self, reason: str) -> None:
        """End it."""
        super().end(reason)
        if self._has_room:
            self._has_room.set()

    async def room(self) -> None:
        """Wait until little waits, or it is ended."""
        while not self._is_roomy and not self.reason:
            self._has_room = asyncio.Event()
            await self._has_room.wait()

    @property
    def _is_roomy(self) -> bool:
        return len(self._messages) < _FEW and self._size < QUEUED_BYTES // 4


class Conversation:
    """A socket that has been let in."""

    def __init__(self, shared: Shared, key: Key, version: int, address: str) -> None:
        self.key = key
        self.version = version
        self.address = address
        self.outbox = SharedOutbox()
        self.channels: dict[str, Channel] = {}
        self._shared = shared
        self._pace = Pace(MESSAGES_A_SECOND, MOST_AT_ONCE)
        self._heard_at = time.monotonic()
        shared.hub.open(self)

    async def hear(self, wire: Message) -> None:
        """Hear one message of the client."""
        if wait := self._pace.owe():
            await asyncio.sleep(wait)
        self._heard_at = time.monotonic()
        frame = frames.decode(self.version, wire)
        if frame is None or self.outbox.reason:
            return
        channel = self.channels.get(frame.topic)
        if frame.event == "phx_join":
            self._join(frame, channel)
        elif channel is None:
            self._answer_nobody(frame)
        elif frame.join_ref is None or frame.join_ref == channel.join_ref:
            await channel.hear(frame)

    def check(self) -> None:
        """End it if it has been silent for too long."""
        if time.monotonic() - self._heard_at > IDLE_SECONDS:
            self.outbox.end(IDLE)

    def close(self) -> None:
        """Leave all channels."""
        self._shared.hub.shut(self)
        for channel in list(self.channels.values()):
            channel.stop()

    def tell(self, wire: Message) -> None:
        """Send a frame."""
        self.outbox.put(wire)

    def end(self, reason: str) -> None:
        """End the whole socket."""
        self.outbox.end(reason)

    async def room(self) -> None:
        """Wait until little waits to be sent."""
        await self.outbox.room()

    def answer(self, frame: Frame, status: str = "ok", response: str = "{}") -> None:
        """Answer a frame."""
        self.outbox.put(frames.reply(self.version, frame, status, response))

    def refuse(self, frame: Frame, reason: str) -> None:
        """Answer a frame with an error."""
        self.answer(frame, "error", _reason(reason))

    def refuse_later(self, frame: Frame, reason: str) -> None:
        """Answer a join with an error, after a while."""
        wire = frames.reply(self.version, frame, "error", _reason(reason))
        asyncio.get_running_loop().call_later(REFUSAL_SECONDS, self.tell, wire)

    def _join(self, frame: Frame, channel: Channel | None) -> None:
        if not frame.topic.startswith(TOPIC_PREFIX):
            self.refuse(frame, "unmatched topic")
            return
        if channel:
            channel.give_way()
        elif len(self.channels) >= MOST_CHANNELS:
            self.refuse_later(frame, "ChannelRateLimitReached: Too many channels")
            return
        channel = self.channels[frame.topic] = Channel(self._shared, self, frame)
        channel.begin()

    def _answer_nobody(self, frame: Frame) -> None:
        is_heartbeat = frame.topic == "phoenix" and frame.event == "heartbeat"
        if is_heartbeat or frame.event == "phx_leave":
            self.answer(frame)
        else:
            self.refuse(frame, "unmatched topic")


def _reason(text: str) -> str:
    return f'{{"reason":{frames.quoted(text)}}}'
