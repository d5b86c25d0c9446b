"""Questions: what a channel has to know of the database before it tells anything.

In charge of asking; the answers are the policies', and what was kept.
"""

import base64

import msgspec

from api.db import Database

PRESENCE_STATE = b"select realtime_service.presence_state($1, $2)"
REPLAY = b"select id, event, payload, binary_payload from realtime_service.replay($1, $2, $3)"
CHECK = (
    b"select reads_broadcast, writes_broadcast, reads_presence, writes_presence, is_personal, fault "
    b"from realtime_service.check_channel($1, $2, $3, $4)"
)


Room = tuple[str, bool]
"""A topic, and whether it is the private one of that name."""


class Rights(msgspec.Struct, frozen=True):
    """What somebody may do on a channel; `fault` is why the changes that they ask for cannot be served."""

    reads_broadcast: bool
    writes_broadcast: bool
    reads_presence: bool
    writes_presence: bool
    is_personal: bool
    fault: str | None


EVERYTHING = Rights(
    reads_broadcast=True,
    writes_broadcast=True,
    reads_presence=True,
    writes_presence=True,
    is_personal=False,
    fault=None,
)
"""Public channels are everybody's."""


class Signal(msgspec.Struct, frozen=True):
    """A broadcast (its payload is JSON or bytes) or a change of presence, as channels are told of it."""

    event: str
    payload: str
    binary: bytes | None = None
    message_id: str | None = None
    sender: str | None = None
    is_replayed: bool = False

    @property
    def meta(self) -> str:
        """What the client is told beside it, as JSON, if there is anything."""
        if not self.message_id:
            return ""
        replayed = ',"replayed":true' if self.is_replayed else ""
        return f'{{"id":"{self.message_id}"{replayed}}}'


class Questions:
    """Asks."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def check(self, claims: bytes, room: Room, bindings: bytes) -> Rights:
        """Return what the holder of the claims may do there. Raises SqlError and UnavailableError."""
        topic, is_private = room
        if not is_private and not bindings:
            return EVERYTHING
        *flags, fault = await self._db.one(CHECK, [claims, topic, is_private, bindings or b"[]"])
        reads, writes, sees, shows, is_personal = [flag == b"t" for flag in flags]
        return Rights(reads, writes, sees, shows, is_personal, fault.decode() if fault else None)

    async def presence_state(self, room: Room) -> str:
        """Return who is there, as JSON. Raises UnavailableError."""
        (state,) = await self._db.one(PRESENCE_STATE, list(room))
        return (state or b"{}").decode()

    async def replay(self, topic: str, since: int, size: int) -> list[Signal]:
        """Return the latest messages of a private channel, oldest first. Raises UnavailableError."""
        rows = await self._db.rows(REPLAY, [topic, since, size])
        return [
            Signal(
                (event or b"").decode(),
                (payload or b"{}").decode(),
                None if binary is None else base64.b64decode(binary),
                (message_id or b"").decode(),
                is_replayed=True,
            )
            for message_id, event, payload, binary in rows
        ]
