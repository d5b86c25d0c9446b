"""Talk: broadcast and presence on one channel.

In charge of who may say and hear what, of its bounds, and of the order in which a client learns of it: what
was kept, who is there, and only then what happens.
"""

import asyncio
import base64
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec

from api.errors import ApiError
from api.watches import SLOW

from . import frames
from .client import Client
from .frames import Frame, Message
from .hub import Hub
from .joins import Join
from .pace import Pace
from .publishing import Refused
from .questions import Rights, Room, Signal

LARGEST_PAYLOAD = 1024 * 1024
LARGEST_META = 64 * 1024
LONGEST_EVENT = 255
MOST_EARLY = 1000
TRACKS_A_SECOND, MOST_TRACKS_AT_ONCE = 10, 30

TOO_LARGE = f"PayloadTooLarge: A payload has at most {LARGEST_PAYLOAD} bytes"
NOT_A_BROADCAST = "MalformedPayload: A broadcast has an event and a payload"
NOT_A_MAP = "Presence track payload must be a map"
TOO_MANY_TRACKS = "Client presence rate limit exceeded"
MAY_NOT_TRACK = "Unauthorized: You do not have permissions to be present on this Channel topic: {}"

NOTHING = Rights(
    reads_broadcast=False,
    writes_broadcast=False,
    reads_presence=False,
    writes_presence=False,
    is_personal=True,
    fault=None,
)


class _Presence(msgspec.Struct):
    event: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")


_presence = msgspec.json.Decoder(_Presence)


class Talk:
    """What is said on a channel. `rights` and `claims` are those of its holder at the moment."""

    def __init__(
        self, hub: Hub, client: Client, topic: str, join: Join, reconsider: Callable[[], None]
    ) -> None:
        self.room: Room = join.room
        self.rights = NOTHING
        self.claims = b"{}"
        self.reconsider = reconsider
        self._hub = hub
        self._client = client
        self._topic = topic
        self._join = join
        self._id = str(uuid4())
        self._pace = Pace(TRACKS_A_SECOND, MOST_TRACKS_AT_ONCE)
        self._is_present = False
        self._replayed: set[str] = set()
        self._early: list[Signal | str] | None = []

    def open(self, replayed: list[Signal], state: str | None) -> None:
        """Tell what was kept and who is there, and from now on what happens."""
        for signal in replayed:
            self._tell(signal)
            self._replayed.add(signal.message_id or "")
        if state is not None:
            self._push("presence_state", state)
        early, self._early = self._early or [], None
        for thing in early:
            if isinstance(thing, Signal):
                self.tell_broadcast(thing)
            else:
                self.tell_presence(thing)

    def stop(self) -> None:
        """Say and hear no more."""
        self._hub.exit(self)
        if self._is_present:
            self._is_present = False
            _ = self._hub.publisher.untrack(self._id)

    # Hearing

    def tell_broadcast(self, signal: Signal) -> None:
        """Tell of a broadcast."""
        if self._early is not None:
            self._keep(signal)
        elif self.rights.reads_broadcast and self._concerns(signal):
            self._tell(signal)

    def tell_presence(self, diff: str) -> None:
        """Tell of a change of presence."""
        if self._early is not None:
            self._keep(diff)
        elif self._join.wants_presence and self.rights.reads_presence:
            self._client.tell(frames.shared_push(self._client.version, self._topic, "presence_diff", diff))

    def _keep(self, thing: Signal | str) -> None:
        """Keep something until the join is answered."""
        if self._early is not None and len(self._early) < MOST_EARLY:
            self._early.append(thing)
        else:
            self._client.end(SLOW)

    def _concerns(self, signal: Signal) -> bool:
        if signal.message_id in self._replayed:
            return False
        return self._join.hears_itself or signal.sender != self._id

    def _tell(self, signal: Signal) -> None:
        version = self._client.version
        if signal.binary is None:
            wire: str | bytes | None = frames.broadcast(
                version, self._topic, signal.event, signal.payload, signal.meta
            )
        elif version == frames.V2:
            wire = frames.binary_broadcast(self._topic, signal.event, signal.binary, signal.meta)
        else:
            wire = None
        if wire is not None:
            self._client.tell(wire)

    # Saying

    async def broadcast(self, frame: Frame) -> None:
        """Send a message to everybody on the topic."""
        message = frame.message or frames.message_in(frame.payload)
        if message is None or len(message.event.encode()) > LONGEST_EVENT:
            self._refuse_broadcast(frame, NOT_A_BROADCAST)
        elif len(message.payload) > LARGEST_PAYLOAD:
            self._refuse_broadcast(frame, TOO_LARGE)
        elif self.rights.writes_broadcast:
            done = self._hub.publisher.broadcast(operation(self.room, message, self._id))
            if self._join.wants_acknowledgement:
                self._answer_when(done, frame)
            await self._hub.publisher.room()

    async def presence(self, frame: Frame) -> None:
        """Be present, in another way, or no more."""
        try:
            given = _presence.decode(frame.payload)
        except (msgspec.MsgspecError, ValueError):
            self._client.refuse(frame, NOT_A_MAP)
            return
        event, meta = given.event.lower(), bytes(given.payload)
        if not self.rights.writes_presence:
            self._client.refuse(frame, MAY_NOT_TRACK.format(self._join.name))
        elif event == "untrack":
            self._is_present = False
            self._answer_when(self._hub.publisher.untrack(self._id), frame)
        elif event != "track" or not meta.startswith(b"{"):
            self._client.refuse(frame, NOT_A_MAP)
        elif len(meta) > LARGEST_META:
            self._client.refuse(frame, f"PayloadTooLarge: What is tracked has at most {LARGEST_META} bytes")
        elif not self._pace.take():
            self._client.refuse(frame, TOO_MANY_TRACKS)
        else:
            self._track(frame, meta)
        await self._hub.publisher.room()

    def _track(self, frame: Frame, meta: bytes) -> None:
        topic, is_private = self.room
        self._is_present = True
        done = self._hub.publisher.track(
            {
                "topic": topic,
                "private": is_private,
                "key": self._join.presence_key,
                "ref": uuid4().hex[:20],
                "meta": msgspec.Raw(meta),
                "channel": self._id,
                "process": self._hub.process,
                "claims": msgspec.Raw(self.claims),
            }
        )
        self._answer_when(done, frame)

    def _answer_when(self, done: "asyncio.Future[None]", frame: Frame) -> None:
        def answer(done: "asyncio.Future[None]") -> None:
            error = done.exception()
            if error is None:
                self._client.answer(frame)
            else:
                reason = str(error) if isinstance(error, Refused | ApiError) else "internal_error"
                self._client.refuse(frame, reason)

        done.add_done_callback(answer)

    def _refuse_broadcast(self, frame: Frame, reason: str) -> None:
        if self._join.wants_acknowledgement:
            self._client.refuse(frame, reason)

    def _push(self, event: str, payload: str) -> None:
        self._client.tell(frames.push(self._client.version, self._topic, event, payload))


def operation(room: Room, message: Message, sender: str | None = None) -> dict[str, Any]:
    """Return a message as it is published."""
    topic, is_private = room
    content: dict[str, Any] = (
        {"binary": base64.b64encode(message.payload).decode()}
        if message.is_binary
        else {"payload": msgspec.Raw(message.payload)}
    )
    return {
        "topic": topic,
        "private": is_private,
        "event": message.event,
        "sender": sender,
        "persist": message.persist and is_private,
        **content,
    }
