"""Subscriptions: the watches that are under way, and which of them hear of an event.

In charge of finding the listeners of an event without looking at everybody, and of putting together those for
whom one rendering serves. It is all in memory; `api.relay` feeds it.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from api.event_log import Event
from api.logs import Event as Log
from api.logs import failure
from api.watches import FAULT, LEFT, Message, Outbox, Watch


class Subscription:
    """A watch under way: an iterator of messages (JSON texts), which ends for a `reason`.

    `position` is where it begins: nothing that was committed after `Relay.subscribe` returned is missed.
    """

    __slots__ = (
        "_leave",
        "audience",
        "claims",
        "expires_at",
        "missed",
        "on_renewal",
        "outbox",
        "position",
        "watch",
    )

    def __init__(self, watch: Watch, outbox: Outbox, leave: Callable[["Subscription"], None]) -> None:
        self.outbox = outbox
        self.position = ""
        self.missed: AsyncIterator[str] | None = None
        self.on_renewal: Callable[[], None] | None = None
        """What is called when the holder of the credential has become somebody else."""

        self._leave = leave
        self.turn(watch)

    def turn(self, watch: Watch) -> None:
        """Go on as another watch; for one that is under way, that is `Relay.turn`."""
        self.watch = watch
        self.claims = watch.claims
        self.audience = watch.audience(watch.claims)
        self.expires_at = watch.expires_at

    def renew(self, claims: bytes) -> None:
        """Go on under other claims."""
        self.claims = claims
        self.audience = self.watch.audience(claims)
        if self.on_renewal:
            self.on_renewal()

    @property
    def reason(self) -> str | None:
        """Why it is over."""
        return self.outbox.reason

    def wants(self, event: Event) -> bool:
        """Whether it is to hear of an event. A watch that cannot say is ended."""
        if self.outbox.reason:
            return False
        watch = self.watch
        if event.organization_id is None and not watch.wish:
            # A row of a table of somebody's own, of which no contract tells.
            return False
        try:
            return (watch.about is None or watch.about in event.ids.values()) and watch.wants(event)
        except Exception as error:  # noqa: BLE001 - one watch that is at fault silences no other
            failure(Log.RENDERING_AT_FAULT, error)
            self.outbox.end(FAULT)
            return False

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield what was missed, at the pace of who reads it, and then what happens."""
        if self.missed:
            async for missed in self.missed:
                if self.outbox.passes(missed):
                    yield missed
            self.missed = None
        async for message in self.outbox:
            yield message

    def close(self) -> None:
        """Leave. However a subscription ends, whoever asked for it does this."""
        self.outbox.end(LEFT)
        self._leave(self)


class Audience:
    """Those for whom one rendering of some events serves: by event and wish, who listens."""

    __slots__ = ("claims", "events", "listeners", "render", "wishes")

    def __init__(self, render: bytes, claims: bytes) -> None:
        self.render = render
        self.claims = claims
        self.events: list[Event] = []
        self.wishes: dict[bytes, None] = {}
        self.listeners: defaultdict[int, defaultdict[bytes, list[Subscription]]]
        self.listeners = defaultdict(lambda: defaultdict(list))

    def add(self, event: Event, subscription: Subscription) -> None:
        """Let a subscription hear of an event; the events of an audience come in their order."""
        listeners, wish = self.listeners[event.id], subscription.watch.wish
        if not listeners:
            self.events.append(event)
        listeners[wish].append(subscription)
        self.wishes[wish] = None

    def parts(self) -> list["Audience"]:
        """Return an audience for each wish."""
        parts = {wish: Audience(self.render, self.claims) for wish in self.wishes}
        for event in self.events:
            for wish, listeners in self.listeners[event.id].items():
                for subscription in listeners:
                    parts[wish].add(event, subscription)
        return list(parts.values())

    def end(self, reason: str) -> None:
        """End all who listen."""
        for wishes in self.listeners.values():
            for listeners in wishes.values():
                for subscription in listeners:
                    subscription.outbox.end(reason)


class Subscriptions:
    """All of a process, by what they are about and by organization; None is whatever there is."""

    def __init__(self) -> None:
        self._groups: dict[str | None, dict[str | None, set[Subscription]]] = {}
        self._sizes: defaultdict[str | None, int] = defaultdict(int)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __iter__(self) -> Iterator[Subscription]:
        for groups in self._groups.values():
            for group in groups.values():
                yield from group

    @property
    def organizations(self) -> list[str] | None:
        """Those that anybody listens to; None if somebody listens to all."""
        return None if None in self._sizes else [each for each in self._sizes if each is not None]

    def add(self, subscription: Subscription) -> None:
        """Begin to find it."""
        watch = subscription.watch
        groups = self._groups.setdefault(watch.about, {})
        groups.setdefault(watch.organization_id, set()).add(subscription)
        self._sizes[watch.organization_id] += 1

    def discard(self, subscription: Subscription) -> bool:
        """Find it no more. Return whether it was there."""
        watch = subscription.watch
        groups = self._groups.get(watch.about, {})
        group = groups.get(watch.organization_id, set())
        if subscription not in group:
            return False
        group.remove(subscription)
        if not group:
            del groups[watch.organization_id]
        if not groups:
            del self._groups[watch.about]
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
            groups = self._groups.get(about)
            if not groups:
                continue
            if event.organization_id is None:
                for group in groups.values():
                    yield from group
            else:
                yield from groups.get(event.organization_id, ())
                yield from groups.get(None, ())
