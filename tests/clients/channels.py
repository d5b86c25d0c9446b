"""Realtime with supabase-py, as it comes: changes of rows, broadcast, presence, private channels.

    python tests/clients/channels.py API_URL PUBLISHABLE_KEY SECRET_KEY DB_URL [STORY...]

`deskbase status` prints all four. Each story is a program of its own, and ends with an exception at the first
thing that is not as it is told.
"""

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from realtime import AsyncRealtimeChannel

from supabase import AsyncClient, acreate_client

PASSWORD = "a heron stands in the reeds"
SECONDS = 10.0
A_MOMENT = 0.4
"""How long nothing is waited for."""

MAKE_NOTES = """
    create table public.{0} (
        id bigint primary key generated always as identity, owner uuid, text text not null);
    alter table public.{0} enable row level security;
    create policy own on public.{0} for select to authenticated using (owner = (select auth.uid()));
    grant select on public.{0} to authenticated;
    alter publication supabase_realtime add table public.{0};
"""
MAKE_CLUB = """
    create table public.{0} (user_id uuid primary key);
    alter table public.{0} enable row level security;
    create policy own on public.{0} for select to authenticated using (user_id = (select auth.uid()));
    grant select on public.{0} to authenticated;
    create policy {0}_hear on realtime.messages for select to authenticated
        using (realtime.topic() = '{0}'
            and exists (select from public.{0} as m where m.user_id = (select auth.uid())));
    create policy {0}_speak on realtime.messages for insert to authenticated
        with check (realtime.topic() = '{0}'
            and exists (select from public.{0} as m where m.user_id = (select auth.uid())));
"""
DROP_CLUB = """
    drop policy {0}_hear on realtime.messages;
    drop policy {0}_speak on realtime.messages;
    drop table public.{0};
"""
TELL_CHANGES = """
    create function public.tell_{0}() returns trigger
    language plpgsql security definer set search_path = '' as $$
    begin
        perform realtime.broadcast_changes('{0}', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
        return null;
    end $$;
    create trigger tell after insert or update or delete on public.{0}
        for each row execute function public.tell_{0}();
"""


@dataclass
class Person:
    """Somebody who is logged in."""

    email: str
    user_id: str
    client: AsyncClient

    async def insert(self, table: str, **row: Any) -> dict[str, Any]:
        """Insert a row and return it."""
        return cast("dict[str, Any]", (await self.client.table(table).insert(row).execute()).data[0])

    async def listen(self, **options: Any) -> "Ear":
        """Hear of all that happens to tickets, or of what the options say."""
        return await Ear(self.client).changes(**options).join()


class Ear:
    """A channel, and what was heard on it."""

    def __init__(self, client: AsyncClient, name: str | None = None, **config: Any) -> None:
        self.channel: AsyncRealtimeChannel = client.channel(
            name or unique("room"), cast("Any", {"config": config} if config else None)
        )
        self.rows: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.states: list[str] = []

    def changes(self, event: str = "*", table: str | None = "tickets", **options: Any) -> "Ear":
        """Ask for changes of rows."""

        def hear(payload: Any) -> None:
            self.rows.append(payload["data"])

        self.channel.on_postgres_changes(cast("Any", event), hear, table=table, schema="public", **options)
        return self

    def broadcasts(self, event: str = "*") -> "Ear":
        """Ask for broadcasts."""
        self.channel.on_broadcast(event, lambda payload: self.messages.append(cast("Any", payload)))
        return self

    async def join(self) -> "Ear":
        """Join, which has to succeed."""
        await self.knock()
        assert self.states[-1] == "SUBSCRIBED", self.states
        return self

    async def knock(self) -> str:
        """Join, and return how that went."""
        await self.channel.subscribe(lambda state, _: self.states.append(str(state.value)))
        return self.states[-1]

    def told(self, column: str = "subject") -> list[Any]:
        """Return one column of all rows that were heard of."""
        return [(row.get("record") or row.get("old_record") or {}).get(column) for row in self.rows]

    async def hears(self, *expected: Any, column: str = "subject") -> None:
        """Wait until exactly these are told, in this order."""
        await until(lambda: self.told(column) == list(expected), lambda: self.told(column))

    async def hears_message(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for broadcasts."""
        await until(lambda: len(self.messages) >= count, lambda: self.messages)
        assert len(self.messages) == count
        return self.messages


class Deskbase:
    """Where it is, and what is different for each story."""

    def __init__(self, url: str, key: str, secret_key: str, db_url: str) -> None:
        self.url = url
        self.key = key
        self.secret_key = secret_key
        self._database = psycopg.connect(db_url, autocommit=True)
        self._clients: list[AsyncClient] = []

    def sql(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the database."""
        cursor = self._database.execute(cast("Any", statement), params or None)
        return cursor.fetchall() if cursor.description else []

    async def visitor(self, key: str | None = None) -> AsyncClient:
        """Return what a browser or an app uses: nobody is logged in yet."""
        client = await acreate_client(self.url, key or self.key)
        self._clients.append(client)
        return client

    async def admin(self) -> Person:
        """Let somebody found an organization."""
        email, name = unique("admin") + "@example.com", unique("Organization")
        back_end = await self.visitor(self.secret_key)
        await back_end.auth.admin.create_user(
            {
                "email": email,
                "password": PASSWORD,
                "email_confirm": True,
                "user_metadata": {"name": "Ada", "organization": name},
            }
        )
        return await self.log_in(email)

    async def member(self, admin: Person, role: str) -> Person:
        """Let an admin add somebody, who logs in."""
        email = unique(role).replace("_", "-") + "@example.com"
        await admin.client.rpc(
            "create_member", {"email": email, "name": role, "role": role, "password": PASSWORD}
        ).execute()
        return await self.log_in(email)

    async def log_in(self, email: str) -> Person:
        """Log somebody in."""
        client = await self.visitor()
        answer = await client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert answer.session
        assert answer.user
        # The client does this by itself, but some time later.
        await client.realtime.set_auth(answer.session.access_token)
        return Person(email, answer.user.id, client)

    async def close(self) -> None:
        """Let everybody go."""
        for client in self._clients:
            await client.realtime.close()
        self._database.close()


def unique(word: str) -> str:
    """Return a name that nothing else has."""
    return f"{word}_{secrets.token_hex(4)}"


async def until(condition: Callable[[], Any], seen: Callable[[], Any] = lambda: "") -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} seconds: {seen()}"
        await asyncio.sleep(0.02)


async def silence(*ears: Ear) -> None:
    """See to it that nobody hears anything more."""
    before = [(len(ear.rows), len(ear.messages)) for ear in ears]
    await asyncio.sleep(A_MOMENT)
    assert [(len(ear.rows), len(ear.messages)) for ear in ears] == before, [ear.rows for ear in ears]


# The stories


async def colleagues(desk: Deskbase) -> None:
    """Hear of each other's work, whichever way it was done; strangers and visitors hear nothing."""
    admin = await desk.admin()
    agent = await desk.member(admin, "agent")
    ear = await agent.listen()
    strange = await (await desk.admin()).listen()
    nobody = await Ear(await desk.visitor()).changes().join()

    ticket = await admin.insert("tickets", subject="By PostgREST")
    await ear.hears("By PostgREST")
    await admin.client.table("tickets").update({"priority": "high"}).eq("id", ticket["id"]).execute()
    desk.sql("update public.tickets set subject = 'By SQL' where id = %s", ticket["id"])
    await ear.hears("By PostgREST", "By PostgREST", "By SQL")
    session = await admin.client.auth.get_session()
    assert session
    http = admin.client.postgrest.session
    answer = await http.post(
        f"{desk.url}/support-platform/v1/tickets",
        json={"title": "Over a contract"},
        headers={"Authorization": f"Bearer {session.access_token}"},
    )
    assert answer.status_code == 201, answer.text
    await ear.hears("By PostgREST", "By PostgREST", "By SQL", "Over a contract")
    assert [row["type"] for row in ear.rows] == ["INSERT", "UPDATE", "UPDATE", "INSERT"]
    assert ear.rows[1]["old_record"]["priority"] == "medium"
    assert ear.rows[1]["record"]["priority"] == "high"
    await silence(ear, strange, nobody)
    assert (strange.rows, nobody.rows) == ([], [])


async def customers(desk: Deskbase) -> None:
    """Hear of their own tickets and of what is said to them, and no more."""
    admin = await desk.admin()
    buyer, other = [await desk.member(admin, "customer") for _ in range(2)]
    tickets, others = await buyer.listen(), await other.listen()
    said = await buyer.listen(table="comments")
    ours = await admin.listen(table="comments")
    mine = await buyer.insert("tickets", subject="Mine")
    await other.insert("tickets", subject="Theirs")
    await admin.insert("comments", ticket_id=mine["id"], body="Among us", is_internal=True)
    public = await admin.insert("comments", ticket_id=mine["id"], body="To you")
    await ours.hears("Among us", "To you", column="body")
    await said.hears("To you", column="body")
    # A deleted row is told to those alone who saw it, as it was.
    await admin.client.table("comments").delete().eq("ticket_id", mine["id"]).execute()
    await until(lambda: len(ours.rows) == 4 and len(said.rows) == 2, lambda: said.rows)
    assert said.rows[1]["type"] == "DELETE"
    assert said.rows[1]["old_record"]["id"] == public["id"]
    assert {row["old_record"]["body"] for row in ours.rows[2:]} == {"Among us", "To you"}
    await silence(tickets, others, said)
    assert set(tickets.told()) == {"Mine"}
    assert set(others.told()) == {"Theirs"}


FILTERS = {
    "subject=eq.b": "b",
    "subject=neq.b": "a,c,d d",
    "subject=lt.b": "a",
    "subject=lte.b": "a,b",
    "subject=gt.b": "c,d d",
    "subject=gte.b": "b,c,d d",
    'subject=in.(a,"d d")': "a,d d",
    "subject=like.d%": "d d",
    "subject=ilike.D%": "d d",
    "subject=match.^[ab]$": "a,b",
    "subject=imatch.^[AB]$": "a,b",
    "external_id=is.null": "b,c,d d",
    "external_id=not.is.null": "a",
    "external_id=isdistinct.first": "b,c,d d",
    "subject=not.in.(a,b)": "c,d d",
    'subject=eq."d d",priority=eq.high': "d d",
    "subject=gt.a,subject=lt.c": "b",
}


async def filters(desk: Deskbase) -> None:
    """Picks rows by every operator, columns by name, and hears two wishes on one channel."""
    admin = await desk.admin()
    ears = {text: await admin.listen(filter=text) for text in FILTERS}
    both = Ear(admin.client).changes("INSERT", filter="subject=eq.a").changes("UPDATE", select=["subject"])
    await both.join()
    await admin.insert("tickets", subject="a", external_id="first")
    for subject, priority in (("b", "low"), ("c", "low"), ("d d", "high")):
        await admin.insert("tickets", subject=subject, priority=priority)
    for text, found in FILTERS.items():
        await ears[text].hears(*found.split(","))
    await admin.client.table("tickets").update({"subject": "e"}).eq("subject", "c").execute()
    await both.hears("a", "e")
    assert both.rows[1]["record"].keys() == {"organization_id", "id", "subject"}
    await admin.client.realtime.remove_all_channels()

    bad = Ear(admin.client).changes(filter="no_such_column=eq.1")
    await bad.knock()
    await until(lambda: "CHANNEL_ERROR" in bad.states, lambda: bad.states)


async def own_table(desk: Deskbase) -> None:
    """Publishes a table of its own, with its own rules, keys and no organization."""
    notes = unique("notes")
    desk.sql(MAKE_NOTES.format(notes))
    try:
        ann, bob = await desk.admin(), await desk.admin()
        ear, other = [await each.listen(table=notes) for each in (ann, bob)]
        visitor = await Ear(await desk.visitor()).changes(table=notes).join()
        insert = f"insert into public.{notes} (owner, text) values (%s, %s)"
        desk.sql(insert, ann.user_id, "hers")
        desk.sql(insert, bob.user_id, "his")
        desk.sql(f"delete from public.{notes} where text = 'hers'")
        await ear.hears("hers", "hers", column="text")
        await other.hears("his", column="text")
        assert (ear.rows[0]["record"]["id"], ear.rows[1]["old_record"]["id"]) == (1, 1)
        await silence(ear, other, visitor)
        assert visitor.rows == []
    finally:
        desk.sql(f"drop table public.{notes}")


async def broadcasts(desk: Deskbase) -> None:
    """Send to each other: with and without themselves, over HTTP, before anybody joined, and from SQL."""
    name = unique("room")
    ann = await Ear(await desk.visitor(), name, broadcast={"self": True, "ack": True}).broadcasts().join()
    bob = await Ear(await desk.visitor(), name).broadcasts("greeting").join()
    await ann.channel.send_broadcast("greeting", {"text": "hello"})
    for ear in (ann, bob):
        (message,) = await ear.hears_message()
        assert (message["event"], message["payload"]) == ("greeting", {"text": "hello"})
    await bob.channel.send_broadcast("other", {"n": 1})
    assert (await ann.hears_message(2))[1]["payload"] == {"n": 1}

    outside = (await desk.visitor()).channel(name)
    await outside.http_send("greeting", {"text": "by HTTP"})
    desk.sql("select realtime.send('{\"text\": \"by SQL\"}', 'greeting', %s, false)", name)
    assert [m["payload"]["text"] for m in await bob.hears_message(3)] == ["hello", "by HTTP", "by SQL"]
    await ann.hears_message(4)
    await silence(ann, bob)


async def private_channels(desk: Deskbase) -> None:
    """Let in and let speak whom policies of the program's own let, tell changes of its table, and replay."""
    club = unique("club")
    desk.sql(MAKE_CLUB.format(club) + TELL_CHANGES.format(club))
    try:
        ann, bob, eve = await desk.admin(), await desk.admin(), await desk.admin()
        for each in (ann, bob):
            desk.sql(f"insert into public.{club} values (%s)", each.user_id)
        began = int(time.time() * 1000) - 1000
        inside = [await Ear(each.client, club, private=True).broadcasts().join() for each in (ann, bob)]
        outside = Ear(eve.client, club, private=True).broadcasts()
        assert await outside.knock() == "CHANNEL_ERROR"
        beside = await Ear(await desk.visitor(), club).broadcasts().join()

        await inside[0].channel.send_broadcast("talk", {"n": 1})
        assert (await inside[1].hears_message())[0]["payload"] == {"n": 1}
        await bob.client.channel(unique("x")).http_send("talk", {"n": 0})
        await inside[1].channel.http_send("talk", {"n": 2})
        desk.sql(f"delete from public.{club} where user_id = %s", bob.user_id)
        desk.sql("select realtime.send('{\"n\": 3}', 'talk', %s)", club)
        _, _, told, sent = await inside[1].hears_message(4)
        assert (told["event"], told["payload"]["operation"]) == ("DELETE", "DELETE")
        assert told["payload"]["old_record"] == {"user_id": bob.user_id}
        assert sent["payload"]["n"] == 3
        await silence(outside, beside)
        assert (outside.messages, beside.messages) == ([], [])

        again = (
            await Ear(
                (await desk.log_in(ann.email)).client,
                club,
                private=True,
                broadcast={"replay": {"since": began, "limit": 25}},
            )
            .broadcasts()
            .join()
        )
        replayed = await again.hears_message(4)
        assert [m["event"] for m in replayed] == ["INSERT", "INSERT", "DELETE", "talk"]
        assert all(m["meta"]["replayed"] for m in replayed)
    finally:
        desk.sql(DROP_CLUB.format(club) + f"drop function public.tell_{club}()")


async def presence(desk: Deskbase) -> None:
    """See each other come, change and go."""
    name, events = unique("room"), cast("list[tuple[str, str]]", [])
    ann = Ear(await desk.visitor(), name, presence={"key": "ann", "enabled": True})
    ann.channel.on_presence_sync(lambda: events.append(("sync", "")))
    ann.channel.on_presence_join(lambda key, *_: events.append(("join", key)))
    ann.channel.on_presence_leave(lambda key, *_: events.append(("leave", key)))
    await ann.join()
    await ann.channel.track({"mood": "good"})
    await until(lambda: ("join", "ann") in events, lambda: events)

    client = await desk.visitor()
    bob = Ear(client, name, presence={"key": "bob", "enabled": True})
    await bob.join()
    await until(lambda: bob.channel.presence_state().keys() == {"ann"}, bob.channel.presence_state)
    await bob.channel.track({"mood": "bad"})
    await until(lambda: ann.channel.presence_state().keys() == {"ann", "bob"}, ann.channel.presence_state)
    await bob.channel.track({"mood": "better"})
    await until(lambda: ann.channel.presence_state()["bob"][0].get("mood") == "better")
    await bob.channel.untrack()
    await until(lambda: ann.channel.presence_state().keys() == {"ann"})
    await bob.channel.track({"mood": "back"})
    await until(lambda: ann.channel.presence_state().keys() == {"ann", "bob"})
    await client.realtime.close()
    await until(lambda: ann.channel.presence_state().keys() == {"ann"})
    assert events.count(("leave", "bob")) >= 2


async def tickets_room(desk: Deskbase) -> None:
    """Agents see who else has a ticket open, by their true names; customers and strangers do not get in."""
    admin = await desk.admin()
    agent, buyer = await desk.member(admin, "agent"), await desk.member(admin, "customer")
    ticket = await buyer.insert("tickets", subject="Mine")
    name = f"desk:ticket:{ticket['id']}"
    rooms = [
        await Ear(each.client, name, private=True, presence={"key": key, "enabled": True}).join()
        for each, key in ((admin, "first"), (agent, "second"))
    ]
    await rooms[1].channel.track({"state": "typing", "name": "The director"})
    await until(lambda: "second" in rooms[0].channel.presence_state())
    (seen,) = rooms[0].channel.presence_state()["second"]
    assert (seen.get("state"), seen.get("name")) == ("typing", "agent")
    assert seen.get("member_id")
    assert seen.get("since")
    for each in (buyer, await desk.admin()):
        assert await Ear(each.client, name, private=True).knock() == "CHANNEL_ERROR"
    assert await Ear(await desk.visitor(), name, private=True).knock() == "CHANNEL_ERROR"


async def sessions(desk: Deskbase) -> None:
    """A new token keeps a channel; whoever logs out hears nothing more."""
    admin = await desk.admin()
    agent = await desk.member(admin, "agent")
    ear = await agent.listen()
    await agent.client.auth.refresh_session()
    await admin.insert("tickets", subject="After the refresh")
    await ear.hears("After the refresh")
    assert ear.states == ["SUBSCRIBED"]
    elsewhere = await desk.log_in(agent.email)
    await elsewhere.client.auth.sign_out({"scope": "global"})
    await until(lambda: ear.states[-1] == "CLOSED", lambda: ear.states)
    await admin.insert("tickets", subject="After the log-out")
    await silence(ear)


class Positions(logging.Handler):
    """Notes the position of each change. supabase-py drops it; what it receives, it says to its log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.noted: list[str] = []
        self._log = logging.getLogger("realtime._async.client")
        self._log.setLevel(logging.DEBUG)
        self._log.propagate = False
        self._log.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a frame that was received."""
        if str(record.msg).startswith("receive"):
            text = record.getMessage().removeprefix("receive: ").strip("'")
            if '"postgres_changes","payload"' in text.replace(" ", ""):
                self.noted.append(text.rpartition('"position":"')[2].partition('"')[0])


async def coming_back(desk: Deskbase) -> None:
    """Whoever comes back with the last position is told what was missed, without a gap or a repeat."""
    positions = Positions()
    admin = await desk.admin()
    agent = await desk.member(admin, "agent")
    ear = await agent.listen()
    for subject in "ab":
        await admin.insert("tickets", subject=subject)
    await ear.hears("a", "b")
    await agent.client.realtime.close()
    for subject in "cd":
        await admin.insert("tickets", subject=subject)
    again = await desk.log_in(agent.email)
    position = positions.noted[-1]
    back = await Ear(again.client, broadcast={"since": position}).changes().join()
    await admin.insert("tickets", subject="e")
    await back.hears("c", "d", "e")
    await silence(back)
    gone = Ear(again.client, broadcast={"since": "yesterday"}).changes()
    assert await gone.knock() == "CHANNEL_ERROR"


STORIES = [
    colleagues,
    customers,
    filters,
    own_table,
    broadcasts,
    private_channels,
    presence,
    tickets_room,
    sessions,
    coming_back,
]


async def tell(place: list[str], names: list[str]) -> None:
    """Tell the stories that are named, or all."""
    for story in STORIES:
        if not names or story.__name__ in names:
            desk = Deskbase(*place)
            await story(desk)
            await desk.close()
            print(f"{story.__name__}: as told")


if __name__ == "__main__":
    logging.getLogger("realtime").addHandler(logging.NullHandler())
    asyncio.run(tell(sys.argv[1:5], sys.argv[5:]))
