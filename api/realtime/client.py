"""What a channel knows of the socket that it is on."""

from typing import Any, NamedTuple, Protocol

from api.relay import Relay
from api.watches import Message

from .frames import Frame
from .hub import Hub
from .tokens import Key, Tokens


class Shared(NamedTuple):
    """What all sockets of a process share."""

    hub: Hub
    relay: Relay
    tokens: Tokens


class Client(Protocol):
    """A socket, as its channels know it."""

    key: Key
    version: int
    address: str
    channels: dict[str, Any]

    def tell(self, wire: Message) -> None:
        """Send a frame."""

    def answer(self, frame: Frame, status: str = "ok", response: str = "{}") -> None:
        """Answer a frame."""

    def refuse(self, frame: Frame, reason: str) -> None:
        """Answer a frame with an error."""

    def refuse_later(self, frame: Frame, reason: str) -> None:
        """Answer a join with an error, after a while."""

    def end(self, reason: str) -> None:
        """End the whole socket."""

    async def room(self) -> None:
        """Wait until little waits to be sent."""
