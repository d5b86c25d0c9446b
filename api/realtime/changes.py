"""Changes of rows on one channel: what its subscription brings, on its way to the client.

In charge of keeping them back until the join is answered and what was missed has been told.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from api.relay import Relay
from api.subscriptions import Subscription
from api.watches import Message, Outbox, Watch, shared

from . import frames
from .bindings import Bindings
from .client import Client
from .questions import Rights
from .tokens import Identity

RENDER = b"select id, body, wish from realtime_service.render_changes($1, $2, $3)"


class Changes(Outbox):
    """The outbox of a channel's subscription; what passes it goes into that of the socket."""

    __slots__ = ("_client", "_on_end", "_topic", "is_open", "subscription")

    def __init__(self, client: Client, topic: str, on_end: Callable[[str], None]) -> None:
        super().__init__()
        self.subscription: Subscription | None = None
        self.is_open = False
        self._client = client
        self._topic = topic
        self._on_end = on_end

    async def subscribe(self, relay: Relay, watch: Watch) -> str | None:
        """Begin. Return why it could not begin, or else None."""
        self.subscription = await relay.subscribe(watch, self)
        return self.reason

    def put(self, message: Message) -> None:
        """Take a message of the relay's."""
        if not self.is_open:
            super().put(message)
        elif self.reason is None:
            self._tell(message)

    def end(self, reason: str) -> None:
        """End it; what that means for the channel is seen to when nobody is in the middle of telling."""
        if self.reason is None:
            super().end(reason)
            asyncio.get_running_loop().call_soon(self._on_end, reason)

    async def open(self) -> None:
        """Tell what was missed and what was kept back, at the pace of the client, and then what happens."""
        subscription = self.subscription
        if subscription and subscription.missed:
            missed, subscription.missed = subscription.missed, None
            await self._tell_missed(missed)
        while (message := self.take()) is not None and self.reason is None:
            self._tell(message)
            await self._client.room()
        self.is_open = True

    def stop(self) -> None:
        """Leave."""
        if self.subscription:
            self.subscription.close()

    async def _tell_missed(self, missed: AsyncIterator[str]) -> None:
        async for message in missed:
            if self.reason:
                return
            self._tell(message)
            await self._client.room()

    def _tell(self, message: Message) -> None:
        self._client.tell(frames.change(self._client.version, self._topic, str(message)))


def watch_of(identity: Identity, rights: Rights, bindings: Bindings, since: str | None) -> Watch:
    """Return what the relay is to watch for: nothing, if the bindings cannot be served."""
    is_served = bool(bindings) and served(bindings, rights)
    return Watch(
        organization_id=identity.organization_id,
        claims=identity.claims,
        render=RENDER,
        wants=bindings.wants if is_served else _nothing,
        about=bindings.about if is_served else None,
        wish=bindings.wish if is_served else b"",
        audience=_exact if rights.is_personal else shared,
        since=since if is_served else None,
        expires_at=identity.expires_at,
    )


def served(bindings: Bindings, rights: Rights) -> bool:
    """Whether nothing is wrong with what is asked for."""
    return not (bindings.fault or rights.fault)


def _exact(claims: bytes) -> bytes:
    """Return the claims as they are: a policy of one's own may ask for any of them."""
    return claims


def _nothing(_: object) -> bool:
    return False
