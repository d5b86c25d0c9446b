"""The relay: one reader of the event log for all sockets of a process.

In charge of when the log is looked at, and of everybody being told of each event once. It never judges what
somebody may see: the database renders an event under the claims of those who want it (`api.renderings`), and
says all the time whether the claims still hold (`api.renewals`). While nobody listens it does nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from api.db import Database
from api.errors import UnavailableError
from api.event_log import BATCH, Bell, Event, EventLog, Place, Span
from api.logs import Event as Log
from api.logs import failure
from api.metrics import Metrics
from api.renderings import RETRY_SECONDS, RenderingError, Renderings
from api.renewals import Renewals
from api.subscriptions import Audience, Subscription, Subscriptions
from api.watches import FAULT, GONE, STOPPING, UNAVAILABLE, Outbox, Watch

JOIN_SECONDS = 5.0
STOP_SECONDS = 1.0

ALONE_SECONDS = 6.0
"""How long wishes may take that are asked for one by one, because they could not be met together."""

BREATH_SECONDS = 0.01
"""Between two looks, so that what comes in meanwhile is one batch."""

IDLE_SECONDS, DEAF_SECONDS = 1.0, 0.05
"""How long at most to wait for a ring, and for the connection on which it would be heard."""

SLICE = 100
"""Events that are told at once: between two slices everybody has a turn at sending."""

CROWD = 500
"""Listeners who are told at once: between two crowds, requests have a turn."""

PAGE = 500
"""Events that are caught up with at once."""

_CATCHING_UP_AT_ONCE = 2
_T = TypeVar("_T")


class Companion(Protocol):
    """Something else that goes by the bell. It holds subscriptions as long as it wants to be looked at."""

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""

    async def look(self) -> None:
        """Look what there is, once for each look at the log. Raises nothing."""

    def changed(self, events: list[Event]) -> None:
        """Take note of what has happened in the organizations that anybody listens to. Raises nothing."""

    async def close(self) -> None:
        """End, as the relay does."""


class Relay:
    """Reads the log while there are subscriptions, and fills their queues."""

    def __init__(self, url: str, db: Database, metrics: Metrics) -> None:
        self._url = url
        self._db = db
        self._metrics = metrics
        self._log = EventLog(db)
        self._renderings = Renderings(db)
        self._subscriptions = Subscriptions()
        self._joining: list[tuple[Subscription, asyncio.Future[Span]]] = []
        self._catching_up = asyncio.Semaphore(_CATCHING_UP_AT_ONCE)
        self._cursor: str | None = None
        self._rung = asyncio.Event()
        self._bell: Bell | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_running = False
        self._is_closed = False
        self.companions: list[Companion] = []

    @property
    def is_ready(self) -> bool:
        """Whether events come at once, or nobody waits for any."""
        return self._bell is None or self._bell.is_heard

    async def subscribe(self, watch: Watch, outbox: Outbox | None = None) -> Subscription:
        """Begin a watch. One that cannot begin has ended when it is returned, and says for which reason."""
        subscription = Subscription(watch, outbox or Outbox(), self._leave)
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await self._begin(subscription)
        except TimeoutError:
            subscription.outbox.end(UNAVAILABLE)
        return subscription

    def turn(self, subscription: Subscription, watch: Watch) -> None:
        """Let a subscription go on as another watch; of another organization it hears from some moment on."""
        is_found = self._subscriptions.discard(subscription)
        subscription.turn(watch)
        if is_found:
            self._subscriptions.add(subscription)

    async def close(self) -> None:
        """End everybody, and give them a moment to leave."""
        self._is_closed = True
        self._end_all(STOPPING)
        self._rung.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for companion in self.companions:
            await companion.close()

    # Coming and going

    async def _begin(self, subscription: Subscription) -> None:
        """Let the subscription begin now, or else where it left off."""
        since = subscription.watch.since
        if since is None:
            subscription.position = (await self._join(subscription)).position()
        elif found := await _insist(lambda: self._log.find(since)):
            start = await self._join(subscription)
            gap = Span(found.span.until, start.until, start.taken_at)
            subscription.missed = self._catch_up(subscription, [found, Place(gap, 0)])
            subscription.position = since
        else:
            subscription.outbox.end(GONE)

    async def _join(self, subscription: Subscription) -> Span:
        """Wait for the next look, and return where it ended: from there on the subscription is told."""
        if self._is_closed:
            subscription.outbox.end(STOPPING)
            raise TimeoutError
        joined: asyncio.Future[Span] = asyncio.get_running_loop().create_future()
        self._joining.append((subscription, joined))
        self._start()
        try:
            return await joined
        except BaseException:
            self._leave(subscription)
            raise

    def _let_in(self, joining: list[tuple[Subscription, "asyncio.Future[Span]"]], start: Span) -> None:
        for subscription, joined in joining:
            if not joined.done():
                self._subscriptions.add(subscription)
                self._metrics.subscriptions.inc()
                joined.set_result(start)

    def _leave(self, subscription: Subscription) -> None:
        if self._subscriptions.discard(subscription):
            self._metrics.subscriptions.dec()
            self._metrics.subscriptions_ended.labels(subscription.reason).inc()
        if not self._subscriptions:
            self._rung.set()

    def _end_all(self, reason: str) -> None:
        for subscription in self._subscriptions:
            subscription.outbox.end(reason)
        for subscription, joined in self._joining:
            subscription.outbox.end(reason)
            if not joined.done():
                joined.set_exception(TimeoutError())
        self._joining.clear()

    # Reading

    def _start(self) -> None:
        self._rung.set()
        if not self._is_running:
            self._is_running = True
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        """Follow the log until nobody is there."""
        bell = self._bell = Bell(self._url, self._rung.set)
        renewals = Renewals(self._db, self._subscriptions)
        helpers = [asyncio.create_task(bell.listen()), asyncio.create_task(renewals.keep())]
        try:
            await self._follow(bell)
        except Exception as error:  # noqa: BLE001 - whoever comes next finds a relay that works
            failure(Log.RELAY_AT_FAULT, error)
            self._end_all(FAULT)
        finally:
            self._is_running = False
            self._bell = self._cursor = None
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _follow(self, bell: Bell) -> None:
        pause = 0.0
        while self._subscriptions or self._joining:
            # A transaction that found another one ringing does not ring, and may commit later. It is found no
            # later after its commit than that was after the ring.
            longest = IDLE_SECONDS if bell.is_heard else DEAF_SECONDS
            pause = BREATH_SECONDS if self._rung.is_set() else min(pause * 2, longest)
            self._rung.clear()
            await self._look()
            await self._rest(pause)

    async def _look(self) -> None:
        """Tell what has become visible since the last look, and let in those who came before this one."""
        waiting = len(self._joining)
        looking = [companion.look() for companion in self.companions if companion]
        begun = asyncio.gather(*looking)
        span = await self._look_at_log()
        await begun
        joining, self._joining = self._joining[:waiting], self._joining[waiting:]
        self._let_in(joining, Span(span.until, span.until, span.taken_at))

    async def _look_at_log(self) -> Span:
        span, events = await _insist(lambda: self._log.look(self._cursor, self._subscriptions.organizations))
        await self._tell(span, events)
        self._cursor = span.until
        return span

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(BREATH_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - BREATH_SECONDS):
                await self._rung.wait()

    # Telling

    async def _tell(self, span: Span, events: list[Event]) -> None:
        while events:
            for companion in self.companions:
                companion.changed(events)
            for begin in range(0, len(events), SLICE):
                audiences = self._subscriptions.audiences(events[begin : begin + SLICE])
                await asyncio.gather(*[self._tell_audience(span, audience) for audience in audiences])
            events = await self._read_on(span, events[-1].id) if len(events) == BATCH else []

    async def _read_on(self, span: Span, after: int) -> list[Event]:
        return await _insist(lambda: self._log.read(span, after, self._subscriptions.organizations))

    async def _tell_audience(self, span: Span, audience: Audience) -> None:
        try:
            messages = await self._renderings.messages(
                audience.render, audience.claims, span, audience.events, list(audience.wishes)
            )
        except RenderingError as error:
            if len(audience.wishes) == 1:
                audience.end(error.reason)
            else:
                await self._tell_parts(span, audience)
            return
        for event in audience.events:
            for wish, listeners in audience.listeners[event.id].items():
                for message in messages.get((event.id, wish), ()):
                    await self._tell_listeners(listeners, message)

    async def _tell_listeners(self, listeners: list[Subscription], message: str) -> None:
        for begin in range(0, len(listeners), CROWD):
            for subscription in listeners[begin : begin + CROWD]:
                subscription.outbox.put(message)
            if len(listeners) > CROWD:
                await asyncio.sleep(0)
        self._metrics.messages.inc(len(listeners))

    async def _tell_parts(self, span: Span, audience: Audience) -> None:
        """Ask wish by wish, so that one that cannot be met ends those alone who have it."""
        parts = {asyncio.create_task(self._tell_audience(span, part)): part for part in audience.parts()}
        try:
            _, late = await asyncio.wait(parts, timeout=ALONE_SECONDS)
            for task in late:
                parts[task].end(UNAVAILABLE)
        finally:
            for task in parts:
                task.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _catch_up(self, subscription: Subscription, places: list[Place]) -> AsyncIterator[str]:
        """Yield what a subscription missed, a page at a time, so that its reader sets the pace."""
        for place in places:
            after: int | None = place.after
            while after is not None:
                if subscription.reason:
                    return
                try:
                    messages, after = await self._page(subscription, place, after)
                except RenderingError as error:
                    subscription.outbox.end(error.reason)
                    return
                for message in messages:
                    yield message

    async def _page(
        self, subscription: Subscription, place: Place, after: int
    ) -> tuple[list[str], int | None]:
        """Return the messages of the next events, and the last event's id if there may be more of them."""
        watch, span = subscription.watch, place.span
        organizations = None if watch.organization_id is None else [watch.organization_id]
        async with self._catching_up:
            events = await _insist(lambda: self._log.read(span, after, organizations, PAGE))
            wanted = [event for event in events if subscription.wants(event)]
            found = await self._renderings.messages(
                watch.render, subscription.audience, span, wanted, [watch.wish]
            )
        if place.told and wanted and wanted[0].id == place.after + 1:
            found[wanted[0].id, watch.wish] = found.get((wanted[0].id, watch.wish), [])[place.told :]
        messages = [message for event in wanted for message in found.get((event.id, watch.wish), ())]
        return messages, events[-1].id if len(events) == PAGE else None


async def _insist(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until the database is there."""
    while True:
        try:
            return await ask()
        except UnavailableError:
            await asyncio.sleep(RETRY_SECONDS)
