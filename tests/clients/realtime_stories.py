"""Realtime with supabase-py, as it comes: who hears of what, who talks to whom, and who does not.

    set -a; eval "$(deskbase status -o env)"; python tests/clients/realtime_stories.py [STORY...]

It needs API_URL, PUBLISHABLE_KEY, SECRET_KEY and DB_URL. Each story is a program of its own, and ends with an
exception at the first thing that is not as it is told.
"""

import asyncio
import json
import logging
import os
import re
import secrets
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import httpx
import psycopg
from realtime import AsyncRealtimeChannel, RealtimePostgresChangesListenEvent, RealtimeSubscribeStates
from realtime.exceptions import RealtimeHTTPError
from realtime.types import ChannelEvents, RealtimeAcknowledgementStatus

from supabase import AsyncClient, AsyncClientOptions, acreate_client

PASSWORD = "a heron stands in the reeds"
SECONDS = 15
"""How long anything is waited for."""

ALL = RealtimePostgresChangesListenEvent.All
INSERT = RealtimePostgresChangesListenEvent.Insert
UPDATE = RealtimePostgresChangesListenEvent.Update
DELETE = RealtimePostgresChangesListenEvent.Delete
SUBSCRIBED = RealtimeSubscribeStates.SUBSCRIBED
CHANNEL_ERROR = RealtimeSubscribeStates.CHANNEL_ERROR
CLOSED = RealtimeSubscribeStates.CLOSED

T = TypeVar("T")


class Heard:
    """What a callback was told, in its order."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._more = asyncio.Event()

    def __call__(self, thing: Any) -> None:
        self.all.append(thing)
        self._more.set()

    async def until(self, condition: Callable[[list[Any]], Any]) -> list[Any]:
        """Wait until what was heard is as it should be, and return it."""
        try:
            async with asyncio.timeout(SECONDS):
                while not condition(self.all):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"heard no more than {self.all}") from None
        return self.all

    async def ends_with(self, last: Any) -> list[Any]:
        """Wait for what has to come last."""
        return await self.until(lambda heard: heard[-1:] == [last])


class Person(NamedTuple):
    """Somebody who is logged in."""

    id: str
    name: str
    email: str
    organization_id: str
    client: AsyncClient


class Deskbase:
    """Where it is, and what is different for each story: clients, people, tables of one's own."""

    def __init__(self, stack: AsyncExitStack, database: psycopg.AsyncConnection[Any]) -> None:
        self.url = os.environ["API_URL"]
        self._stack = stack
        self._database = database

    async def client(self, key: str, options: AsyncClientOptions | None = None) -> AsyncClient:
        """Return a client whose socket is closed when the story is over."""
        client = await acreate_client(self.url, key, options)
        self._stack.push_async_callback(client.realtime.close)
        return client

    async def visitor(self, options: AsyncClientOptions | None = None) -> AsyncClient:
        """Return what a browser or an app uses: nobody is logged in yet."""
        return await self.client(os.environ["PUBLISHABLE_KEY"], options)

    async def person(self, name: str, role: str = "", organization_id: str = "") -> Person:
        """Make somebody and log them in: in an organization, or the founder of one of their own."""
        email = f"{name.partition(' ')[0].lower()}-{secrets.token_hex(4)}@example.com"
        given: Any = {"email": email, "password": PASSWORD, "email_confirm": True}
        given["user_metadata"] = {"name": name} if role else {"name": name, "organization": f"{name} Ltd"}
        if role:
            given["app_metadata"] = {"organization_id": organization_id, "role": role}
        await (await self.client(os.environ["SECRET_KEY"])).auth.admin.create_user(given)
        return await self.log_in(name, email)

    async def log_in(self, name: str, email: str, options: AsyncClientOptions | None = None) -> Person:
        """Log somebody in, on another device than before."""
        client = await self.visitor(options)
        answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        user = some(answer.user)
        return Person(user.id, name, email, user.app_metadata["organization_id"], client)

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        """Do something in the database itself, as its owner."""
        cursor = await self._database.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []

    async def ticket(self, of: Person, subject: str) -> str:
        """Make a ticket in somebody's organization, in SQL."""
        statement = "insert into public.tickets (organization_id, subject) values (%s, %s) returning id::text"
        ((ticket,),) = await self.sql(statement, of.organization_id, subject)
        return str(ticket)

    @asynccontextmanager
    async def table(self, condition: str) -> AsyncIterator[str]:
        """Make a table of one's own, whose rows are seen where the condition holds."""
        name = unique("notes")
        await self.sql(
            f"""
            create table public.{name} (
                id bigint generated always as identity primary key, owner uuid, text text not null);
            alter table public.{name} enable row level security;
            create policy {name}_read on public.{name} for select to anon, authenticated using ({condition});
            grant select on public.{name} to anon, authenticated"""
        )
        try:
            yield name
        finally:
            await self.sql(f"drop table public.{name}")

    @asynccontextmanager
    async def board(self) -> AsyncIterator[str]:
        """Make a table that everybody may read: what is pinned there shows that nothing came before."""
        async with self.table("true") as name:
            await self.publish(name)
            yield name

    async def publish(self, table: str) -> None:
        """Let realtime tell of a table."""
        await self.sql(f"alter publication supabase_realtime add table public.{table}")

    async def pin(self, table: str, text: str, owner: str | None = None) -> None:
        """Write a row into a table of one's own."""
        await self.sql(f"insert into public.{table} (owner, text) values (%s, %s)", owner, text)

    @asynccontextmanager
    async def policies(self, hears: str, speaks: str) -> AsyncIterator[None]:
        """Say who may hear and who may speak on private channels."""
        name = unique("team")
        await self.sql(
            f"""
            create policy {name}_hears on realtime.messages for select to authenticated using ({hears});
            create policy {name}_speaks on realtime.messages for insert to authenticated with check ({speaks})
            """
        )
        try:
            yield
        finally:
            for what in ("hears", "speaks"):
                await self.sql(f"drop policy {name}_{what} on realtime.messages")


def unique(word: str) -> str:
    """Return a name that nobody has used."""
    return f"{word}_{secrets.token_hex(4)}"


def some(value: T | None) -> T:
    """Return what has to be there."""
    assert value is not None
    return value


async def rows(request: Any) -> Any:
    """Send a query, and return its rows."""
    return (await request.execute()).data


# Channels


class Positions(logging.Handler):
    """The position of the last frame, which the client tells its log alone: its types do not have it."""

    last = ""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        logging.getLogger("realtime").addHandler(self)
        logging.getLogger("realtime").setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        """Look at what the client has received."""
        if found := re.findall(r'^receive: .*"position":"([^"]+)"', record.getMessage()):
            self.last = found[-1]


def config(*, private: bool = False, key: str = "", **broadcast: Any) -> Any:
    """Return what a channel may be made with; the client's types do not know of `since`."""
    return {
        "config": {
            "broadcast": {"self": False, "ack": False, **broadcast},
            "presence": {"key": key, "enabled": False},
            "private": private,
        }
    }


async def states_of(channel: AsyncRealtimeChannel) -> Heard:
    """Join a channel, and return its states as they come."""
    states = Heard()
    await channel.subscribe(lambda state, error: states((state, str(error or ""))))
    return states


async def subscribed(channel: AsyncRealtimeChannel) -> Heard:
    """Join a channel, which has to succeed, and return its states as they come."""
    states = await states_of(channel)
    assert states.all == [(SUBSCRIBED, "")], states.all
    return states


async def refusal(channel: AsyncRealtimeChannel) -> str:
    """Try to join a channel, give up, and return why it was refused."""
    ((state, error),) = (await states_of(channel)).all
    assert state == CHANNEL_ERROR, error
    await channel.unsubscribe()
    return str(json.loads(error)["reason"])


async def fault(channel: AsyncRealtimeChannel) -> str:
    """Join a channel whose changes cannot be told, leave it, and return why they cannot."""
    states = await states_of(channel)
    (_, (state, error)) = await states.until(lambda heard: len(heard) == 2)
    assert state == CHANNEL_ERROR, error
    await channel.unsubscribe()
    message = str(json.loads(error)["message"])
    assert message.startswith("Unable to subscribe to changes with given parameters. ")
    return message


async def listening(client: AsyncClient, *tables: str, events: Any = (ALL,), **options: Any) -> Heard:
    """Listen to the changes of tables, on a channel of its own."""
    heard, channel = Heard(), client.channel(unique("changes"), config(**options))
    for table in tables:
        for event in events:
            channel.on_postgres_changes(
                event, schema="public", table=table, callback=lambda payload: heard(payload["data"])
            )
    await subscribed(channel)
    return heard


async def hearing(client: AsyncClient, topic: str, **options: Any) -> tuple[AsyncRealtimeChannel, Heard]:
    """Hear every message of a topic."""
    heard, channel = Heard(), client.channel(topic, config(**options))
    channel.on_broadcast("*", lambda payload: heard((payload["event"], payload["payload"])))
    await subscribed(channel)
    return channel, heard


async def watching(client: AsyncClient, topic: str, **options: Any) -> tuple[AsyncRealtimeChannel, Heard]:
    """Watch who is present, and hear everybody who is there each time that it changes."""
    seen, channel = Heard(), client.channel(topic, config(**options))
    channel.on_presence_sync(lambda: seen(present(channel)))
    await subscribed(channel)
    return channel, seen


def present(channel: AsyncRealtimeChannel) -> dict[str, list[Any]]:
    """Return who is present, without the numbers that the client needs."""
    state: dict[str, Any] = dict(channel.presence_state())
    return {key: [without(meta, "presence_ref") for meta in metas] for key, metas in state.items()}


def without(thing: Any, *names: str) -> dict[str, Any]:
    """Return all but some of what there is."""
    return {name: value for name, value in thing.items() if name not in names}


def numbers(metas: Any) -> list[Any]:
    """Return what somebody who is present has told of themselves."""
    return [meta["n"] for meta in metas]


def text_of(data: Any) -> str:
    """Return what is written in the row that there is now; of a deleted one, that there was."""
    row = data.get("record") or data["old_record"]
    return str(row.get("subject") or row.get("body") or row["text"])


def told(heard: list[Any]) -> list[tuple[str, str]]:
    """Return what was done to which rows."""
    return [(data["type"].value, text_of(data)) for data in heard]


async def change(heard: Heard, kind: RealtimePostgresChangesListenEvent, text: str) -> Any:
    """Wait for a change, which has to come once, and return it."""
    everything = await heard.until(lambda heard: (kind.value, text) in told(heard))
    (found,) = [data for data in everything if told([data]) == [(kind.value, text)]]
    return found


async def answer(
    channel: AsyncRealtimeChannel, event: ChannelEvents, payload: dict[str, Any]
) -> tuple[str, Any]:
    """Push something, and return whether the server took it, and what it said."""
    answers = Heard()
    push = await channel.push(event, payload)
    push.receive(RealtimeAcknowledgementStatus.Ok, lambda said: answers(("ok", said)))
    push.receive(RealtimeAcknowledgementStatus.Error, lambda said: answers(("error", said)))
    ((status, said),) = await answers.until(lambda heard: len(heard) == 1)
    return status, said


async def refused_over_http(channel: AsyncRealtimeChannel) -> int | None:
    """Send what may not be sent, and return the status of the refusal."""
    try:
        await channel.http_send("forged", {})
    except RealtimeHTTPError as error:
        return error.status
    raise AssertionError("not refused")


# Changes of rows


async def changes(desk: Deskbase) -> None:
    """Hears, as an agent, of what customers, integrations and the database itself write."""
    ada, stranger = await desk.person("Ada"), await desk.person("Grace")
    agent = await desk.person("Ann", "agent", ada.organization_id)
    carl = await desk.person("Carl", "customer", ada.organization_id)
    heard = await listening(agent.client, "tickets", "comments")
    elsewhere = await listening(stranger.client, "tickets", "comments")

    (ticket,) = await rows(carl.client.table("tickets").insert({"subject": "My order is late"}))
    made = await change(heard, INSERT, "My order is late")
    assert made["record"]["id"] == ticket["id"]
    assert made["record"]["organization_id"] == ada.organization_id
    assert (made["schema"], made["table"], made["errors"]) == ("public", "tickets", None)
    assert {"name": "subject", "type": "text"} in made["columns"]
    assert "old_record" not in made
    await rows(carl.client.table("comments").insert({"ticket_id": ticket["id"], "body": "Two weeks!"}))
    assert (await change(heard, INSERT, "Two weeks!"))["record"]["ticket_id"] == ticket["id"]

    token = await rows(ada.client.rpc("create_integration_token", {"name": "Shop"}))
    async with httpx.AsyncClient() as shop:
        done = await shop.post(
            f"{desk.url}/functions/v1/integration-tickets/tickets",
            headers={"Authorization": f"Bearer {token['token']}"},
            json={"title": "Order 4711 is late"},
        )
    assert done.status_code == 201, done.text
    assert (await change(heard, INSERT, "Order 4711 is late"))["table"] == "tickets"

    await desk.sql("update public.tickets set subject = 'It is lost' where id = %s", ticket["id"])
    changed = await change(heard, UPDATE, "It is lost")
    assert changed["old_record"]["subject"] == "My order is late"
    assert changed["record"]["id"] == changed["old_record"]["id"] == ticket["id"]
    await desk.sql("update public.comments set body = 'Three!' where ticket_id = %s", ticket["id"])
    assert (await change(heard, UPDATE, "Three!"))["old_record"]["body"] == "Two weeks!"
    await desk.sql("delete from public.comments where ticket_id = %s", ticket["id"])
    gone = await change(heard, DELETE, "Three!")
    assert "record" not in gone
    assert gone["old_record"]["ticket_id"] == ticket["id"]
    await desk.sql("delete from public.tickets where id = %s", ticket["id"])
    assert (await change(heard, DELETE, "It is lost"))["old_record"]["id"] == ticket["id"]

    # The first thing that the other organization hears of is its own.
    await rows(stranger.client.table("tickets").insert({"subject": "The kettle is broken"}))
    await change(elsewhere, INSERT, "The kettle is broken")
    assert told(elsewhere.all) == [("INSERT", "The kettle is broken")]
    assert "The kettle is broken" not in [text_of(each) for each in heard.all]


FRUIT = {"apple pie": ("low", None), "Banana": ("high", "fruit"), "cherry, sour": ("urgent", None)}
EVERYTHING = list(FRUIT)
FILTERS = {
    "subject=eq.Banana": ["Banana"],
    "subject=neq.Banana": ["apple pie", "cherry, sour"],
    "priority_rank=lt.3": ["apple pie"],
    "priority_rank=lte.3": ["apple pie", "Banana"],
    "priority_rank=gt.3": ["cherry, sour"],
    "priority_rank=gte.3": ["Banana", "cherry, sour"],
    'subject=in.(Banana,"cherry, sour")': ["Banana", "cherry, sour"],
    "subject=like.B%": ["Banana"],
    "subject=like.b%": [],
    "subject=ilike.b%": ["Banana"],
    "category_label=is.null": ["apple pie", "cherry, sour"],
    "is_bot_handoff=is.false": EVERYTHING,
    "is_bot_handoff=is.true": [],
    "subject=match.^[a-c]": ["apple pie", "cherry, sour"],
    "subject=imatch.^[a-c]": EVERYTHING,
    "category_label=isdistinct.fruit": ["apple pie", "cherry, sour"],
    "category_label=neq.fruit": [],  # null is not equal, and not unequal
    "subject=not.eq.Banana": ["apple pie", "cherry, sour"],
    'subject=not.in.(Banana,"cherry, sour")': ["apple pie"],
    "category_label=not.is.null": ["Banana"],
    "subject=not.ilike.b%": ["apple pie", "cherry, sour"],
    "priority=eq.high,subject=like.B%": ["Banana"],
    "priority=eq.high,subject=like.a%": [],
    'subject=eq."cherry, sour",priority=not.eq.low': ["cherry, sour"],
}


async def filters(desk: Deskbase) -> None:
    """Asks for some rows only, in every way that the client knows, and for some columns."""
    ada = await desk.person("Ada")
    async with desk.board() as board:
        channel, heard = ada.client.channel(unique("filters")), Heard()

        def listen(name: str, event: Any, table: str = "tickets", **options: Any) -> None:
            channel.on_postgres_changes(
                event, table=table, callback=lambda payload: heard((name, payload["data"])), **options
            )

        for text in FILTERS:
            listen(text, INSERT, filter=text)
        listen("columns", INSERT, select=["subject", "priority"])
        listen("updates", UPDATE)
        listen("end", ALL, board)
        await subscribed(channel)
        for subject, (priority, label) in FRUIT.items():
            await desk.sql(
                "insert into public.tickets (organization_id, subject, priority, category_label)"
                " values (%s, %s, %s, %s)",
                *(ada.organization_id, subject, priority, label),
            )
        renamed = (
            "update public.tickets set subject = 'Plum' where organization_id = %s and subject = 'Banana'"
        )
        await desk.sql(renamed, ada.organization_id)
        await desk.pin(board, "end")
        await heard.until(lambda heard: heard and heard[-1][0] == "end")

        for text, subjects in FILTERS.items():
            assert [text_of(data) for name, data in heard.all if name == text] == subjects, text
        records = [data["record"] for name, data in heard.all if name == "columns"]
        assert [record["subject"] for record in records] == EVERYTHING
        assert {*records[0]} == {"organization_id", "id", "subject", "priority"}
        assert [told([data]) for name, data in heard.all if name == "updates"] == [[("UPDATE", "Plum")]]

    for table, wrong, sentence in (
        ("tickets", "nothing=eq.1", "nothing"),
        ("tickets", "priority_rank=eq.many", "many"),
        ("tickets", "subject=match.(", "parenthes"),
        ("tickets", "subject=is.apple", "null"),
        ("contacts", None, "is not in the publication supabase_realtime"),
    ):
        bad = ada.client.channel(unique("filters"))
        bad.on_postgres_changes(ALL, table=table, filter=wrong, callback=heard)
        assert sentence in await fault(bad)


async def audiences(desk: Deskbase) -> None:
    """Hears of no more than they may read, be it made or deleted."""
    ada, stranger = await desk.person("Ada"), await desk.person("Grace")
    agent = await desk.person("Ann", "agent", ada.organization_id)
    carl = await desk.person("Carl", "customer", ada.organization_id)
    cleo = await desk.person("Cleo", "customer", ada.organization_id)
    clients = {
        "agent": agent.client,
        "customer": carl.client,
        "other customer": cleo.client,
        "stranger": stranger.client,
        "visitor": await desk.visitor(),
    }
    async with desk.board() as board:
        everybody = {
            name: await listening(client, "tickets", "comments", board, events=(INSERT, DELETE))
            for name, client in clients.items()
        }
        (ticket,) = await rows(carl.client.table("tickets").insert({"subject": "Carl's"}))
        await rows(cleo.client.table("tickets").insert({"subject": "Cleo's"}))
        for body, is_internal in (("He is right.", True), ("You are right.", False)):
            comment = {"ticket_id": ticket["id"], "body": body, "is_internal": is_internal}
            (made,) = await rows(agent.client.table("comments").insert(comment))
            await desk.sql("delete from public.comments where id = %s", made["id"])
        await desk.sql("delete from public.tickets where id = %s", ticket["id"])
        await desk.pin(board, "end")

        mine, others = [("INSERT", "Carl's")], [("INSERT", "Cleo's")]
        internal = [("INSERT", "He is right."), ("DELETE", "He is right.")]
        public = [("INSERT", "You are right."), ("DELETE", "You are right.")]
        gone, end = [("DELETE", "Carl's")], [("INSERT", "end")]
        for name, expected in {
            "agent": [*mine, *others, *internal, *public, *gone, *end],
            "customer": [*mine, *public, *gone, *end],
            "other customer": [*others, *end],
            "stranger": end,
            "visitor": end,
        }.items():
            await change(everybody[name], INSERT, "end")
            assert told(everybody[name].all) == expected, name


async def own_table(desk: Deskbase) -> None:
    """Publishes a table that the desk knows nothing of; its policy says who hears of what."""
    ada, grace, visitor = await desk.person("Ada"), await desk.person("Grace"), await desk.visitor()
    async with desk.board() as board, desk.table("owner = (select auth.uid())") as notes:
        early = ada.client.channel(unique("changes"))
        early.on_postgres_changes(ALL, table=notes, callback=Heard())
        assert f"public.{notes} is not in the publication supabase_realtime" in await fault(early)

        await desk.publish(notes)
        clients = (ada.client, grace.client, visitor)
        hers, other, anybody = [await listening(client, notes, board) for client in clients]
        for person in (ada, grace):
            await desk.pin(notes, f"of {person.name}", person.id)
        await desk.sql(f"update public.{notes} set text = 'again ' || text")
        await desk.sql(f"delete from public.{notes}")
        await desk.pin(board, "end")
        for heard, name in ((hers, "Ada"), (other, "Grace")):
            await change(heard, INSERT, "end")
            assert told(heard.all) == [
                ("INSERT", f"of {name}"),
                ("UPDATE", f"again of {name}"),
                ("DELETE", f"again of {name}"),
                ("INSERT", "end"),
            ]
        first = hers.all[0]
        assert first["table"] == notes
        assert {"name": "id", "type": "int8"} in first["columns"]
        assert isinstance(first["record"]["id"], int)
        assert first["record"]["owner"] == ada.id
        await change(anybody, INSERT, "end")
        assert told(anybody.all) == [("INSERT", "end")]


async def coming_back(desk: Deskbase) -> None:
    """Loses the connection, and hears what happened meanwhile: all of it, and once."""
    founder, stranger = await desk.person("Ada"), await desk.person("Grace")
    by_hand = AsyncClientOptions(realtime={"auto_reconnect": False})
    ada = await desk.log_in("Ada", founder.email, by_hand)
    options, heard, positions, noted = config(), Heard(), Positions(), list[str]()
    channel = ada.client.channel(unique("changes"), options)

    def hear(payload: Any) -> None:
        heard(payload["data"])
        noted.append(positions.last)
        options["config"]["broadcast"]["since"] = positions.last  # for the next join

    channel.on_postgres_changes(INSERT, table="tickets", callback=hear)
    states = await subscribed(channel)
    everything = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    for subject in everything[:3]:
        await desk.ticket(ada, subject)
    await change(heard, INSERT, "three")
    some(ada.client.realtime._ws_connection).transport.abort()
    await states.until(lambda heard: heard[-1][0] == CHANNEL_ERROR)
    for subject in everything[3:6]:
        await desk.ticket(ada, subject)
    assert len(heard.all) == 3
    await ada.client.realtime.connect()
    await states.ends_with((SUBSCRIBED, ""))
    for subject in everything[6:]:
        await desk.ticket(ada, subject)
    await change(heard, INSERT, "eight")
    assert [text_of(each) for each in heard.all] == everything

    # A new client goes on where the other one was; who names no position hears of what is to come.
    position = noted[2]
    later = await listening(founder.client, "tickets", events=(INSERT,), since=position)
    fresh = await listening(founder.client, "tickets", events=(INSERT,))
    elsewhere = await listening(stranger.client, "tickets", events=(INSERT,), since=position)
    await desk.ticket(ada, "nine")
    await desk.ticket(stranger, "of Grace")
    for each, last, expected in (
        (later, "nine", [*everything[3:], "nine"]),
        (fresh, "nine", ["nine"]),
        (elsewhere, "of Grace", ["of Grace"]),
    ):
        await change(each, INSERT, last)
        assert [text_of(found) for found in each.all] == expected

    gone = ada.client.channel(unique("changes"), config(since="no position"))
    gone.on_postgres_changes(INSERT, table="tickets", callback=hear)
    assert (await refusal(gone)).startswith("PositionGone: ")


# Messages


async def broadcast(desk: Deskbase) -> None:
    """Talks to others on a topic, over the socket and over HTTP."""
    topic, (ada, grace) = unique("room"), [await desk.visitor() for _ in range(2)]
    mine, i_hear = await hearing(ada, topic)
    yours, you_hear = await hearing(grace, topic, self=True, ack=True)
    _, elsewhere = await hearing(grace, unique("room"))

    await mine.send_broadcast("cursor", {"x": 1, "name": "Zoë"})
    await you_hear.ends_with(("cursor", {"x": 1, "name": "Zoë"}))
    said = {"type": "broadcast", "event": "answer", "payload": {"x": 2}}
    assert (await answer(yours, ChannelEvents.broadcast, said))[0] == "ok"
    await you_hear.ends_with(("answer", {"x": 2}))
    # Had I heard myself, it would have come before the answer.
    assert await i_hear.until(bool) == [("answer", {"x": 2})]

    quiet, whisper = await hearing(ada, unique("room"), ack=True)
    assert (await answer(quiet, ChannelEvents.broadcast, said))[0] == "ok"
    await quiet.http_send("over HTTP", {"x": 3})
    assert await whisper.until(bool) == [("over HTTP", {"x": 3})]

    await (await desk.visitor()).channel(topic).http_send("over HTTP", {"x": 4})
    for heard in (i_hear, you_hear):
        await heard.ends_with(("over HTTP", {"x": 4}))
    only, chosen = Heard(), ada.channel(unique("room"))
    chosen.on_broadcast("wanted", only)
    await subscribed(chosen)
    for event in ("unwanted", "wanted"):
        await chosen.http_send(event, {})
    assert [heard["event"] for heard in await only.until(bool)] == ["wanted"]

    nobody = await desk.client("sb_publishable_no_key")
    assert await refused_over_http(nobody.channel(topic)) == 401
    await mine.http_send("end", {})
    await you_hear.ends_with(("end", {}))
    assert [event for event, _ in you_hear.all] == ["cursor", "answer", "over HTTP", "end"]
    assert elsewhere.all == []


async def from_the_database(desk: Deskbase) -> None:
    """Hears what SQL says, once it is committed, and of a table by a trigger that the owner wrote."""
    topic, ada, visitor = unique("room"), await desk.person("Ada"), await desk.visitor()
    _, heard = await hearing(visitor, topic)
    await desk.sql("begin")
    await desk.sql("select realtime.send('{\"n\": 1}', 'undone', %s, false)", topic)
    await desk.sql("rollback")
    await desk.sql("select realtime.send('{\"n\": 2}', 'secret', %s)", topic)
    await desk.sql("select realtime.send('{\"n\": 3}', 'done', %s, false)", topic)
    ((event, payload),) = await heard.until(bool)
    assert (event, payload["n"]) == ("done", 3)

    hears = f"realtime.topic() = '{topic}' and (select auth.uid()) = '{ada.id}'"
    async with desk.policies(hears, "false"), desk.table("true") as notes:
        await desk.sql(
            f"""
            create function public.tell_{notes}() returns trigger language plpgsql security definer as $$
            begin
                perform realtime.broadcast_changes(
                    '{topic}', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
                return null;
            end $$;
            create trigger tell after insert or update or delete on public.{notes}
                for each row execute function public.tell_{notes}()"""
        )
        _, hers = await hearing(ada.client, topic, private=True)
        await desk.pin(notes, "a")
        await desk.sql(f"update public.{notes} set text = 'b'")
        await desk.sql(f"delete from public.{notes}")
        said = await hers.until(lambda heard: len(heard) == 3)
        assert [event for event, _ in said] == ["INSERT", "UPDATE", "DELETE"]
        names = ("record", "old_record")
        texts = [tuple((payload[name] or {}).get("text") for name in names) for _, payload in said]
        assert texts == [("a", None), ("b", "a"), (None, "b")]
        assert {(payload["schema"], payload["table"]) for _, payload in said} == {("public", notes)}

        await desk.sql("select realtime.send('{}', 'end', %s, false)", topic)
        await heard.until(lambda heard: heard[-1][0] == "end")
        assert [event for event, _ in heard.all] == ["done", "end"]
        stranger = (await desk.person("Grace")).client
        assert (await refusal(stranger.channel(topic, config(private=True)))).startswith("Unauthorized: ")
    await desk.sql(f"drop function public.tell_{notes}()")


async def private(desk: Deskbase) -> None:
    """Makes a channel for a team: some speak, some listen, and everybody else is refused."""
    ada, stranger = await desk.person("Ada"), await desk.person("Grace")
    agent = await desk.person("Ann", "agent", ada.organization_id)
    carl = await desk.person("Carl", "customer", ada.organization_id)
    topic = unique("team")
    claim = "(select auth.jwt() -> 'app_metadata' ->> '{}')".format
    team = f"realtime.topic() = '{topic}' and {claim('organization_id')} = '{ada.organization_id}'"
    async with desk.policies(
        f"{team} and {claim('role')} <> 'customer'",
        f"{team} and extension = 'broadcast' and {claim('role')} = 'admin'",
    ):
        speaker, hers = await hearing(ada.client, topic, private=True)
        listener, his = await hearing(agent.client, topic, private=True)
        public, outside = await hearing(stranger.client, topic)
        sentence = f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}"
        elsewhere = (await desk.log_in("Grace", stranger.email)).client
        for client in (carl.client, elsewhere, await desk.visitor()):
            assert await refusal(client.channel(topic, config(private=True))) == sentence
        other = ada.client.channel(unique("team"), config(private=True))
        assert (await refusal(other)).startswith("Unauthorized: ")

        await speaker.send_broadcast("plan", {"n": 1})
        await his.ends_with(("plan", {"n": 1}))
        # Who may not speak is not heard; over HTTP they are told so.
        await listener.send_broadcast("objection", {"n": 2})
        after, _ = await hearing(agent.client, unique("open"), ack=True)
        said = {"type": "broadcast", "event": "after it", "payload": {}}
        assert (await answer(after, ChannelEvents.broadcast, said))[0] == "ok"
        assert await refused_over_http(listener) == 403
        for client in (carl.client, elsewhere, await desk.visitor()):
            assert await refused_over_http(client.channel(topic, config(private=True))) == 403
        await speaker.http_send("decision", {"n": 4})
        for heard in (his, hers):
            await heard.ends_with(("decision", {"n": 4}))
        assert [event for event, _ in his.all] == ["plan", "decision"]
        assert [event for event, _ in hers.all] == ["decision"]

        # The public channel of the same name is another one.
        await public.http_send("outside", {})
        assert await outside.until(bool) == [("outside", {})]


async def replay(desk: Deskbase) -> None:
    """Hears, on coming later, what the database said before on a private channel."""
    ada, grace = await desk.person("Ada"), await desk.person("Grace")
    topic, begun = unique("team"), int(time.time() * 1000) - 1000
    async with desk.policies(
        f"realtime.topic() = '{topic}' and (select auth.uid()) = '{ada.id}'",
        f"realtime.topic() = '{topic}' and (select auth.uid()) = '{ada.id}'",
    ):
        for number in (1, 2, 3):
            await desk.sql("select realtime.send(%s, 'kept', %s)", json.dumps({"n": number}), topic)
        heard = Heard()
        room = ada.client.channel(topic, config(private=True, replay={"since": begun, "limit": 2}))
        room.on_broadcast("*", heard)
        await subscribed(room)
        await room.http_send("end", {})
        kept = await heard.until(lambda heard: heard and heard[-1]["event"] == "end")
        assert [each["payload"].get("n") for each in kept] == [2, 3, None]
        assert [each.get("meta", {}).get("replayed") for each in kept] == [True, True, None]

        refused = grace.client.channel(topic, config(private=True, replay={"since": begun}))
        assert (await refusal(refused)).startswith("Unauthorized: ")
        public = grace.client.channel(unique("open"), config(replay={"since": begun}))
        assert (await refusal(public)).startswith("UnableToReplayMessages: ")


# Presence


async def presence(desk: Deskbase) -> None:
    """Sees who is there, who comes and who goes."""
    topic, (ada, grace, shy) = unique("room"), [await desk.visitor() for _ in range(3)]
    joins, leaves = Heard(), Heard()
    room = ada.channel(topic, config(key="ada"))
    room.on_presence_join(lambda key, before, new: joins((key, len(before), numbers(new))))
    room.on_presence_leave(lambda key, after, left: leaves((key, len(after), numbers(left))))
    await subscribed(room)
    await room.track({"n": 1})
    await joins.ends_with(("ada", 0, [1]))

    other, seen = await watching(grace, topic, key="grace")
    await seen.ends_with({"ada": [{"n": 1}]})
    _, elsewhere = await watching(grace, unique("room"), key="grace")
    unseeing, messages = await hearing(shy, topic, key="shy")
    await other.track({"n": 2})
    await joins.ends_with(("grace", 0, [2]))
    await seen.ends_with({"ada": [{"n": 1}], "grace": [{"n": 2}]})
    assert present(room) == present(other)

    await other.track({"n": 3})
    await seen.ends_with({"ada": [{"n": 1}], "grace": [{"n": 3}]})
    await leaves.ends_with(("grace", 1, [2]))
    await other.untrack()
    await leaves.ends_with(("grace", 0, [3]))
    assert present(room) == {"ada": [{"n": 1}]}
    await other.track({"n": 4})
    await joins.ends_with(("grace", 0, [4]))
    await grace.realtime.close()
    await leaves.ends_with(("grace", 0, [4]))
    assert present(room) == {"ada": [{"n": 1}]}

    # Who did not ask to see anybody does not, but is seen.
    await unseeing.track({"n": 5})
    await joins.ends_with(("shy", 0, [5]))
    await room.http_send("end", {})
    assert await messages.until(bool) == [("end", {})]
    assert present(unseeing) == {}
    await shy.remove_channel(unseeing)
    await leaves.ends_with(("shy", 0, [5]))
    assert [each for each in elsewhere.all if each] == []


async def collisions(desk: Deskbase) -> None:
    """Sees which other agent reads a ticket, and who is writing an answer."""
    ada, stranger = await desk.person("Ada Lovelace"), await desk.person("Grace")
    bob = await desk.person("Bob Byron", "agent", ada.organization_id)
    carl = await desk.person("Carl", "customer", ada.organization_id)
    (ticket,) = await rows(carl.client.table("tickets").insert({"subject": "My order is late"}))
    topic = f"desk:ticket:{ticket['id']}"
    room, seen = await watching(ada.client, topic, private=True, key="ada")
    other, bob_sees = await watching(bob.client, topic, private=True, key="bob")

    async def as_seen(person: Person, state: str) -> list[Any]:
        statement = "select id::text from public.members where user_id = %s"
        ((member_id,),) = await desk.sql(statement, person.id)
        return [{"member_id": member_id, "name": person.name, "state": state}]

    def here(people: dict[str, list[Any]]) -> dict[str, list[Any]]:
        assert all(meta["since"] for metas in people.values() for meta in metas)
        return {key: [without(meta, "since") for meta in metas] for key, metas in people.items()}

    await room.track({"state": "viewing"})
    both = {"ada": await as_seen(ada, "viewing"), "bob": await as_seen(bob, "viewing")}
    await other.track({"state": "viewing", "name": "Ada Lovelace", "member_id": "forged"})
    for each in (seen, bob_sees):
        await each.until(lambda heard: heard and here(heard[-1]) == both)
    await other.track({"state": "typing"})
    both["bob"] = await as_seen(bob, "typing")
    for each in (seen, bob_sees):
        await each.until(lambda heard: here(heard[-1]) == both)
    wrong = {"type": "presence", "event": "track", "payload": {"state": "sleeping"}}
    status, said = await answer(other, ChannelEvents.presence, wrong)
    assert (status, said["reason"]) == ("error", "state is viewing or typing.")
    assert here(present(room)) == both

    refused = f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}"
    for client in (carl.client, stranger.client, await desk.visitor()):
        assert await refusal(client.channel(topic, config(private=True, key="x"))) == refused
    await bob.client.remove_channel(other)
    await seen.until(lambda heard: heard[-1].keys() == {"ada"})


# How it ends


async def tokens(desk: Deskbase) -> None:
    """Renews the token without a break, and hears nothing more once the session is over."""
    laptop = await desk.person("Ada")
    phone = await desk.log_in("Ada", laptop.email)
    ticket = await desk.ticket(laptop, "watched")
    topic = f"desk:ticket:{ticket}"
    states, messages, changed = dict[str, Heard](), dict[str, Heard](), dict[str, Heard]()
    for name, client in {"laptop": laptop.client, "phone": phone.client}.items():
        channel, heard = client.channel(topic, config(private=True)), Heard()
        channel.on_broadcast("*", heard)
        messages[name], states[name] = heard, await subscribed(channel)
        changed[name] = await listening(client, "tickets")

    def said(name: str) -> list[str]:
        return [message["event"] for message in messages[name].all]

    for number in range(2):
        before = phone.client.realtime.access_token
        await asyncio.sleep(1 - time.time() % 1)  # a token of the same second is the same
        await phone.client.auth.refresh_session()
        await desk.sql("update public.tickets set subject = %s where id = %s", f"s{number}", ticket)
        await desk.sql("select realtime.send('{}', %s, %s)", f"m{number}", topic)
        await change(changed["phone"], UPDATE, f"s{number}")
        await messages["phone"].until(lambda _, last=f"m{number}": said("phone")[-1:] == [last])  # type: ignore[misc]
        assert phone.client.realtime.access_token != before
    assert states["phone"].all == [(SUBSCRIBED, "")]

    await laptop.client.auth.sign_out({"scope": "others"})
    _, (state, error), (last, _) = await states["phone"].until(lambda heard: len(heard) == 3)
    assert (state, last) == (CHANNEL_ERROR, CLOSED)
    assert "The session has ended; sign in again." in error
    await desk.sql("update public.tickets set subject = 'later' where id = %s", ticket)
    await desk.sql("select realtime.send('{}', 'later', %s)", topic)
    await change(changed["laptop"], UPDATE, "later")
    await messages["laptop"].until(lambda _: "later" in said("laptop"))
    assert "later" not in said("phone")
    assert ("UPDATE", "later") not in told(changed["phone"].all)

    await laptop.client.auth.sign_out()
    await states["laptop"].ends_with((CLOSED, ""))
    again = laptop.client.channel(topic, config(private=True))
    assert (await refusal(again)).startswith("Unauthorized: ")
    assert said("laptop") == ["m0", "m1", "later"]


STORIES: list[Callable[[Deskbase], Awaitable[None]]] = [
    changes,
    filters,
    audiences,
    own_table,
    coming_back,
    broadcast,
    from_the_database,
    private,
    replay,
    presence,
    collisions,
    tokens,
]


async def tell(story: Callable[[Deskbase], Awaitable[None]]) -> None:
    """Tell a story with clients of its own."""
    async with (
        await psycopg.AsyncConnection.connect(os.environ["DB_URL"], autocommit=True) as database,
        AsyncExitStack() as stack,
    ):
        await story(Deskbase(stack, database))


def main() -> None:
    """Tell the stories that are named, or all."""
    logging.getLogger("realtime").addHandler(logging.NullHandler())  # which writes of every refusal
    warnings.filterwarnings("ignore", "ConnectionClosed", DeprecationWarning)  # the client reads its code
    for story in STORIES:
        name = story.__name__
        if not sys.argv[1:] or name in sys.argv[1:]:
            asyncio.run(tell(story))
            print(f"{name}: as told")


if __name__ == "__main__":
    main()
