"""Subscriptions: the watches that are under way, and which of them hear of an event.

In charge of finding the listeners of an event without looking at everybody, and of putting together those for
whom one rendering serves. It is all in memory; `api.relay` feeds it.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from api.event_log import Event
from api.logs import Event as Log
from api.logs import failure
from api.watches import FAULT, LEFT, Outbox, Watch


class Subscription:
    """A watch under way: an iterator of messages (JSON texts), which ends for a `reason`.

    `position` is where it begins: nothing that was committed after `Relay.subscribe` returned is missed.
    """

    __slots__ = ("_leave", "audience", "claims", "missed", "outbox", "position", "watch")

    def __init__(self, watch: Watch, outbox: Outbox, leave: Callable[["Subscription"], None]) -> None:
        self.watch = watch
        self.outbox = outbox
        self.position = ""
        self.missed: AsyncIterator[str] | None = None
        self._leave = leave
        self.renew(watch.claims)

    def renew(self, claims: bytes) -> None:
        """Go on under other claims."""
        self.claims = claims
        self.audience = self.watch.audience(claims)

    @property
    def reason(self) -> str | None:
        """Why it is over."""
        return self.outbox.reason

    def wants(self, event: Event) -> bool:
        """Whether it is to hear of an event. A watch that cannot say is ended."""
        if self.outbox.reason:
            return False
        watch = self.watch
        try:
            return (watch.about is None or watch.about in event.ids.values()) and watch.wants(event)
        except Exception as error:  # noqa: BLE001 - one watch that is at fault silences no other
            failure(Log.RENDERING_AT_FAULT, error)
            self.outbox.end(FAULT)
            return False

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield what was missed, at the pace of who reads it, and then what happens."""
        if self.missed:
            async for message in self.missed:
                if self.outbox.passes(message):
                    yield message
            self.missed = None
        async for message in self.outbox:
            yield message

    def close(self) -> None:
        """Leave. However a subscription ends, whoever asked for it does this."""
        self.outbox.end(LEFT)
        self._leave(self)


class Audience:
    """Those for whom one rendering of some events serves."""

    __slots__ = ("claims", "events", "listeners", "render")

    def __init__(self, render: bytes, claims: bytes) -> None:
        self.render = render
        self.claims = claims
        self.events: list[Event] = []
        self.listeners: defaultdict[int, list[Subscription]] = defaultdict(list)

    def add(self, event: Event, subscription: Subscription) -> None:
        """Let a subscription hear of an event; the events of an audience come in their order."""
        listeners = self.listeners[event.id]
        if not listeners:
            self.events.append(event)
        listeners.append(subscription)

    def end(self, reason: str) -> None:
        """End all who listen."""
        for listeners in self.listeners.values():
            for subscription in listeners:
                subscription.outbox.end(reason)


class Subscriptions:
    """All of a process, by organization and by what they are about."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str | None], set[Subscription]] = {}
        self._sizes: defaultdict[str, int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __iter__(self) -> Iterator[Subscription]:
        for group in self._groups.values():
            yield from group

    @property
    def organizations(self) -> list[str]:
        """Those that anybody listens to."""
        return list(self._sizes)

    def add(self, subscription: Subscription) -> None:
        """Begin to find it."""
        watch = subscription.watch
        self._groups.setdefault((watch.organization_id, watch.about), set()).add(subscription)
        self._sizes[watch.organization_id] += 1

    def discard(self, subscription: Subscription) -> bool:
        """Find it no more. Return whether it was there."""
        watch = subscription.watch
        key = watch.organization_id, watch.about
        group = self._groups.get(key, set())
        if subscription not in group:
            return False
        group.remove(subscription)
        if not group:
            del self._groups[key]
        self._sizes[watch.organization_id] -= 1
        if not self._sizes[watch.organization_id]:
            del self._sizes[watch.organization_id]
        return True

    def audiences(self, events: Iterable[Event]) -> list[Audience]:
        """Return who is to hear of the events."""
        found: dict[tuple[bytes, bytes], Audience] = {}
        for event in events:
            for subscription in self._near(event):
                if subscription.wants(event):
                    key = subscription.watch.render, subscription.audience
                    audience = found.get(key) or found.setdefault(key, Audience(*key))
                    audience.add(event, subscription)
        return list(found.values())

    def _near(self, event: Event) -> Iterator[Subscription]:
        for about in {None, *event.ids.values()}:
            yield from self._groups.get((event.organization_id, about), ())
