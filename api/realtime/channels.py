"""Channels: one topic on one socket, from its join to its end.

In charge of the order of things: nothing is told before the join is answered, nothing that happens after that
answer is missed, and whoever may no longer hear is told so and hears no more. What is said on a channel is
`api.realtime.talk`'s business, what happens in the database `api.realtime.changes`'.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from api.errors import ApiError, SqlError, is_own_fault
from api.logs import Event, failure
from api.watches import LEFT, SESSION_ENDED, SLOW, STOPPING

from . import frames, joins, sentences
from .changes import Changes, served, watch_of
from .client import Client, Shared
from .frames import Frame
from .joins import Join, RefusedJoinError
from .questions import Rights, Signal
from .talk import Talk
from .tokens import Identity, own_token, reason_of

JOIN_SECONDS = 9.0
"""Clients give up after ten."""

AGAIN_SECONDS = 1.0
RECONSIDER_SECONDS = 0.2
"""However often the row changes that a channel is named after, its policies are asked no oftener."""

MOST_EARLY_FRAMES = 100


class Channel:
    """A channel. It ends alone; whatever ends the socket ends it too."""

    def __init__(self, shared: Shared, client: Client, frame: Frame) -> None:
        self.join_ref = frame.ref if frame.join_ref is None else frame.join_ref
        self._shared = shared
        self._client = client
        self._frame = frame
        self._topic = frame.topic
        self._name = frame.topic.removeprefix(joins.TOPIC_PREFIX)
        self._changes = Changes(client, frame.topic, self._ended)
        self._join: Join | None = None
        self._talk: Talk | None = None
        self._identity: Identity | None = None
        self._early: list[Frame] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._becoming: asyncio.Task[None] | None = None
        self._is_joined = False
        self._is_reconsidering = False
        self._is_over = False

    # From outside

    def begin(self) -> None:
        """Begin to join."""
        _ = self._start(self._begin())

    async def hear(self, frame: Frame) -> None:
        """Hear what the client says on it."""
        if frame.event == "phx_leave":
            self._client.answer(frame)
            self._end("phx_close")
        elif not self._is_joined:
            if len(self._early) < MOST_EARLY_FRAMES:
                self._early.append(frame)
        elif self._talk and frame.event == "broadcast":
            await self._talk.broadcast(frame)
        elif self._talk and frame.event == "presence":
            await self._talk.presence(frame)
        elif frame.event == "access_token":
            self._take_token(frame)

    def give_way(self) -> None:
        """End, as the client has joined anew. One of version 1 would take a close for the new channel's."""
        if self._client.version == frames.V2:
            self._end("phx_close")
        else:
            self.stop()

    def stop(self) -> None:
        """Leave, without a word."""
        self._is_over = True
        if self._client.channels.get(self._topic) is self:
            del self._client.channels[self._topic]
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._changes.stop()
        if self._talk:
            self._talk.stop()

    # Joining

    async def _begin(self) -> None:
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await self._enter()
        except RefusedJoinError as error:
            self._refuse(str(error))
        except ApiError as error:
            self._refuse(reason_of(error, self._join.token if self._join else None))
        except TimeoutError:
            self._refuse(sentences.UNAVAILABLE)
        except Exception as error:  # noqa: BLE001 - no client waits in vain
            failure(Event.SOCKET_FAILED, error)
            self._refuse(sentences.UNKNOWN)
        else:
            for frame in self._early:
                await self.hear(frame)
            self._early.clear()
            await self._changes.open()

    async def _enter(self) -> None:
        join = self._join = joins.read(self._topic, self._frame.payload)
        self._frame.payload = b""
        client, hub = self._client, self._shared.hub
        identity = await self._shared.tokens.identify(client.key, join.token, client.address)
        rights = await self._check(join, identity)
        if not _may_read(rights):
            raise RefusedJoinError(sentences.MAY_NOT_JOIN.format(join.name))
        if join.waits_for_changes and (fault := join.bindings.fault or rights.fault):
            raise RefusedJoinError(f"PostgresChangesSubscribeTimeout: {fault}")
        talk = self._talk = Talk(hub, client, self._topic, join, self._reconsider)
        self._become(identity, rights)
        hub.enter(talk)
        watch = watch_of(identity, rights, join.bindings, join.since)
        if await self._changes.subscribe(self._shared.relay, watch) is None:
            replayed, state = await self._past(join, rights)
            if self._changes.reason is None:
                self._open(talk, replayed, state)
                return
        raise RefusedJoinError(sentences.refusal(self._changes.reason, identity))

    async def _past(self, join: Join, rights: Rights) -> tuple[list[Signal], str | None]:
        """Return what is told at first: messages that were kept, and who is there."""
        questions, replayed, state = self._shared.hub.questions, list[Signal](), None
        if join.replay and rights.reads_broadcast:
            replayed = await questions.replay(join.name, join.replay.since, join.replay.size)
        if join.wants_presence and rights.reads_presence:
            state = await questions.presence_state(join.room)
        return replayed, state

    def _open(self, talk: Talk, replayed: list[Signal], state: str | None) -> None:
        """Answer the join; from here on everything is told."""
        subscription, join = self._changes.subscription, self._join
        if not (join and subscription):
            return
        position = ""
        if join.bindings and subscription.watch.wish:
            position = f',"position":"{subscription.position}"'
        subscription.on_renewal = self._renewed
        self._is_joined = True
        self._client.answer(self._frame, "ok", f'{{"postgres_changes":{join.bindings.echo}{position}}}')
        talk.open(replayed, state)
        self._tell_of_changes(talk.rights)
        if join.wants_to_know_when_ready:
            self._tell_system("system", "ok", "Replication connection established")

    def _tell_of_changes(self, rights: Rights) -> None:
        bindings = self._join.bindings if self._join else None
        if not bindings:
            return
        if served(bindings, rights):
            self._tell_system("postgres_changes", "ok", "Subscribed to PostgreSQL")
        else:
            fault = bindings.fault or rights.fault or ""
            self._tell_system("postgres_changes", "error", sentences.NO_CHANGES.format(fault))

    async def _check(self, join: Join, identity: Identity) -> Rights:
        """Return what somebody may do here. Raises ApiError, and RefusedJoinError if a policy fails."""
        wish = b"" if join.bindings.fault else join.bindings.wish
        try:
            return await self._shared.hub.questions.check(identity.claims, join.room, wish)
        except SqlError as error:
            if is_own_fault(error.state):
                failure(Event.STATEMENT_AT_FAULT, error, state=error.state)
                raise RefusedJoinError(sentences.UNKNOWN) from error
            raise RefusedJoinError(sentences.MAY_NOT_JOIN.format(join.name)) from error

    def _refuse(self, reason: str) -> None:
        self.stop()
        self._client.refuse_later(self._frame, reason)

    # Becoming somebody else

    def _become(self, identity: Identity, rights: Rights) -> None:
        self._identity = identity
        if self._talk:
            self._talk.rights, self._talk.claims = rights, identity.claims

    def _take_token(self, frame: Frame) -> None:
        """Go on as whoever the token says, or as the key's role."""
        try:
            given = msgspec.json.decode(frame.payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return
        token = own_token(self._client.key, given.get("access_token") if isinstance(given, dict) else None)
        if self._identity and token != self._identity.token:
            self._turn(self._identify_again(token))

    def _renewed(self) -> None:
        """Look anew at what somebody may do who has become somebody else."""
        subscription, identity = self._changes.subscription, self._identity
        if subscription and identity:
            self._identity = identity._replace(claims=subscription.claims)
            self._turn(self._check_again(self._identity))

    def _reconsider(self) -> None:
        """Look anew, soon, at what somebody may do: what a policy goes by has changed."""
        if not self._is_reconsidering and not self._is_over:
            self._is_reconsidering = True
            _ = self._start(self._look_again())

    async def _look_again(self) -> None:
        await asyncio.sleep(RECONSIDER_SECONDS)
        self._is_reconsidering = False
        if not self._is_joined or (self._becoming and not self._becoming.done()):
            self._reconsider()
        elif self._identity:
            self._turn(self._check_again(self._identity))

    def _turn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """The last one counts."""
        if self._becoming:
            self._becoming.cancel()
        self._becoming = self._start(coroutine)

    async def _identify_again(self, token: str | None) -> None:
        client = self._client
        while not self._is_over:
            try:
                identity = await self._shared.tokens.identify(client.key, token, client.address)
            except ApiError as error:
                if error.status not in {429, 503}:
                    self._close(reason_of(error, token).removeprefix("InvalidJWTToken: "))
                    return
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                await self._check_again(identity)
                return

    async def _check_again(self, identity: Identity) -> None:
        join, subscription = self._join, self._changes.subscription
        while join and subscription and self._talk and not self._is_over:
            try:
                rights = await self._check(join, identity)
            except ApiError:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            except RefusedJoinError:
                rights = None
            if rights is None or not _may_read(rights):
                self._close(sentences.NO_LONGER.format(self._name))
                return
            is_news = served(join.bindings, rights) != served(join.bindings, self._talk.rights)
            self._become(identity, rights)
            self._shared.relay.turn(subscription, watch_of(identity, rights, join.bindings, None))
            if is_news:
                self._tell_of_changes(rights)
            return

    # Ending

    def _ended(self, reason: str) -> None:
        """See to it that the subscription has ended; while it is joined, the join does."""
        if self._is_over or not self._is_joined:
            return
        if reason == SESSION_ENDED:
            self._close(sentences.over(self._identity))
        elif reason in {SLOW, STOPPING}:
            self._client.end(reason)
        elif reason != LEFT:
            self._end("phx_error")

    def _close(self, sentence: str) -> None:
        """End it for good, and say why."""
        if not self._is_over:
            self._tell_system("system", "error", sentence)
            self._end("phx_close")

    def _end(self, event: str) -> None:
        self._client.tell(frames.last(self._client.version, self._topic, event, self.join_ref))
        self.stop()

    def _tell_system(self, extension: str, status: str, sentence: str) -> None:
        payload = msgspec.json.encode(
            {"channel": self._name, "extension": extension, "message": sentence, "status": status}
        ).decode()
        self._client.tell(frames.push(self._client.version, self._topic, "system", payload))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _may_read(rights: Rights) -> bool:
    return rights.reads_broadcast or rights.reads_presence
