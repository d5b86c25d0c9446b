"""Changes of rows: to whom they are told, when, in which form, and from where on."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.desk import Desk, unique
from tests.realtime.conftest import Open, Organization, Person
from tests.realtime.wire import Json, Line, Room, silence

TICKETS = {"event": "*", "schema": "public", "table": "tickets"}
COMMENTS = {"event": "*", "schema": "public", "table": "comments"}


def subjects(room: Room) -> list[Any]:
    return room.says("subject")


# The form


async def test_agent_is_told_of_what_is_made_changed_and_deleted(
    desk: Desk, line: Line, north: Organization, agent: Person, topic: str
) -> None:
    room = await line.join(topic, agent.token, changes=[COMMENTS])
    comment = north.comment(north.ticket("a ticket"), "a")
    desk.sql("update public.comments set body = 'b' where id = %s", [comment])
    desk.sql("delete from public.comments where id = %s", [comment])
    heard = await room.next("postgres_changes", 3)
    inserted, updated, deleted = (each.payload["data"] for each in heard)
    assert [each["type"] for each in (inserted, updated, deleted)] == ["INSERT", "UPDATE", "DELETE"]
    for data in (inserted, updated, deleted):
        assert (data["schema"], data["table"], data["errors"]) == ("public", "comments", None)
        assert {"name": "body", "type": "text"} in data["columns"]
        assert data["commit_timestamp"].endswith("Z")
        assert data["position"]
    assert "old_record" not in inserted
    assert inserted["record"]["body"] == "a"
    assert inserted["record"]["is_internal"] is False, "a boolean is a boolean"
    assert (updated["old_record"]["body"], updated["record"]["body"]) == ("a", "b")
    assert "record" not in deleted
    assert (deleted["old_record"]["id"], deleted["old_record"]["body"]) == (comment, "b")


async def test_one_frame_names_all_entries_that_it_is_for(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    changes = [TICKETS, {**TICKETS, "event": "INSERT"}, {**TICKETS, "event": "UPDATE"}, {"event": "*"}]
    room = await line.join(topic, agent.token, changes=changes)
    north.rename(north.ticket("a"), "b")
    heard = await room.next("postgres_changes", 2)
    assert [each.payload["ids"] for each in heard] == [[1, 2, 4], [1, 3, 4]]


@pytest.mark.parametrize(
    "entry", [{"event": "*", "schema": "*"}, {"event": "*", "schema": "*", "table": "*"}]
)
async def test_entry_may_ask_for_the_tables_of_all_schemas(
    *, desk: Desk, line: Line, north: Organization, agent: Person, topic: str, entry: Json
) -> None:
    schema = unique("far").replace("-", "_")
    desk.sql(f"create schema {schema}")
    desk.sql(f"create table {schema}.notes (id bigint primary key)")
    desk.sql(f"grant usage on schema {schema} to authenticated")
    desk.sql(f"grant select on {schema}.notes to authenticated")
    desk.sql(f"alter publication supabase_realtime add table {schema}.notes")
    room = await line.join(topic, agent.token, changes=[entry])
    north.ticket("a")
    desk.sql(f"insert into {schema}.notes values (1)")
    heard = await room.next("postgres_changes", 2)
    tables = {(each.payload["data"]["schema"], each.payload["data"]["table"]) for each in heard}
    assert tables == {("public", "tickets"), (schema, "notes")}
    desk.sql(f"drop schema {schema} cascade")


async def test_agent_picks_columns(line: Line, north: Organization, agent: Person, topic: str) -> None:
    room = await line.join(
        topic,
        agent.token,
        changes=[{**TICKETS, "select": ["subject"]}, {**TICKETS, "filter": "subject=eq.y"}],
    )
    north.ticket("x")
    (heard,) = await room.next("postgres_changes")
    assert heard.payload["ids"] == [1]
    assert heard.payload["data"]["record"].keys() == {"organization_id", "id", "subject"}
    north.ticket("y")
    _, *both = await room.next("postgres_changes", 3)
    assert sorted(each.payload["ids"] for each in both) == [[1], [2]]


# Who hears what


async def test_customer_hears_of_their_own_tickets_and_public_comments_alone(
    *,
    version: int,
    open_line: Open,
    north: Organization,
    agent: Person,
    customer: Person,
    stranger: Person,
    desk: Desk,
) -> None:
    topic, changes = unique("room"), [TICKETS, COMMENTS]
    other_customer = north.person("customer")
    rooms = {}
    for name, token in {
        "agent": agent.token,
        "customer": customer.token,
        "other customer": other_customer.token,
        "stranger": stranger.token,
        "visitor": desk.publishable_key,
        "no token": None,
    }.items():
        rooms[name] = await (await open_line(version)).join(topic, token, changes=changes)
    mine = north.ticket("mine", customer)
    north.ticket("theirs", other_customer)
    north.ticket("nobody's")
    north.comment(mine, "between us", is_internal=True)
    north.comment(mine, "hello")
    north.rename(mine, "mine again")

    def told(room: Room) -> set[str]:
        return {row.get("subject") or row["body"] for row in room.rows}

    everything = {"mine", "theirs", "nobody's", "between us", "hello", "mine again"}
    await rooms["agent"].hears(lambda room: told(room) >= everything)
    await rooms["customer"].hears(lambda room: told(room) >= {"mine", "hello", "mine again"})
    await rooms["other customer"].hears(lambda room: told(room) == {"theirs"})
    await silence()
    assert told(rooms["agent"]) == everything
    assert told(rooms["customer"]) == {"mine", "hello", "mine again"}
    assert told(rooms["other customer"]) == {"theirs"}
    for name in ("stranger", "visitor", "no token"):
        assert not rooms[name].rows, name


async def test_deleted_row_is_told_to_those_alone_who_saw_it(
    *,
    version: int,
    open_line: Open,
    north: Organization,
    agent: Person,
    customer: Person,
    stranger: Person,
    desk: Desk,
) -> None:
    topic, changes = unique("room"), [{**COMMENTS, "event": "DELETE"}]
    people = (agent, customer, north.person("customer"), stranger)
    rooms = [await (await open_line(version)).join(topic, each.token, changes=changes) for each in people]
    visitor = await (await open_line(version)).join(topic, changes=changes)
    ticket = north.ticket("a ticket", customer)
    for body, is_internal in (("public", False), ("internal", True)):
        comment = north.comment(ticket, body, is_internal=is_internal)
        desk.sql("delete from public.comments where id = %s", [comment])
    await rooms[0].next("postgres_changes", 2)
    await rooms[1].next("postgres_changes", 1)
    await silence()
    assert [room.says("body") for room in rooms] == [["public", "internal"], ["public"], [], []]
    assert not visitor.rows


async def test_deleted_ticket_is_told_to_those_alone_who_saw_it(
    *,
    version: int,
    open_line: Open,
    north: Organization,
    agent: Person,
    customer: Person,
    stranger: Person,
    desk: Desk,
) -> None:
    """It is only marked as deleted, and then hidden from everybody; a client hears that it is gone."""
    topic, changes = unique("room"), [TICKETS]
    people = (agent, customer, north.person("customer"), stranger)
    ticket = north.ticket("here and gone", customer)
    rooms = [await (await open_line(version)).join(topic, each.token, changes=changes) for each in people]
    desk.sql("delete from public.tickets where id = %s", [ticket])
    for room in rooms[:2]:
        (heard,) = await room.next("postgres_changes", 1)
        data = heard.payload["data"]
        assert (data["type"], data["old_record"]["id"]) == ("DELETE", ticket)
        assert "record" not in data
    await silence()
    assert not rooms[2].rows
    assert not rooms[3].rows


async def test_token_of_an_integration_hears_of_its_own_tickets(
    desk: Desk, line: Line, north: Organization, topic: str
) -> None:
    token = desk.token(organization=north.id)
    room = await line.join(topic, token, changes=[TICKETS])
    token_id = desk.value(
        "select id::text from public.integration_tokens where organization_id = %s"
        " order by created_at desc limit 1",
        [north.id],
    )
    north.ticket("another's")
    desk.sql(
        "insert into public.tickets (organization_id, subject, integration_token_id) values (%s, %s, %s)",
        [north.id, "its own", token_id],
    )
    await room.next("postgres_changes")
    await silence()
    assert subjects(room) == ["its own"]
    desk.sql("select private.revoke_token(%s, %s)", [north.id, token_id])
    assert await room.is_closed() == "The session has ended; sign in again."


async def test_service_role_hears_of_every_organization(
    *, desk: Desk, open_line: Open, version: int, north: Organization, south: Organization, topic: str
) -> None:
    line = await open_line(version, desk.secret_key)
    room = await line.join(topic, changes=[TICKETS])
    names = {unique("of north"), unique("of south")}
    for organization, name in zip((north, south), sorted(names), strict=True):
        organization.ticket(name)
    await room.hears(lambda room: set(subjects(room)) >= names)


async def test_member_hears_of_their_own_notifications_alone(
    *, desk: Desk, open_line: Open, version: int, north: Organization, topic: str
) -> None:
    people = [north.person(), north.person()]
    changes = [{"event": "INSERT", "schema": "public", "table": "notifications"}]
    rooms = [await (await open_line(version)).join(topic, each.token, changes=changes) for each in people]
    for person in people:
        desk.sql(
            "insert into public.notifications (organization_id, member_id, type, title)"
            " values (%s, %s, 'ticket_assigned', %s)",
            [north.id, person.id, person.id],
        )
    for person, room in zip(people, rooms, strict=True):
        await room.next("postgres_changes")
        await silence()
        assert room.says("title") == [person.id]


# Filters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status=eq.new", ["one", "two, three", "four"]),
        ("status=neq.new", []),
        ("subject=eq.one", ["one"]),
        ('subject=in.(one,"two, three")', ["one", "two, three"]),
        ('subject=not.in.(one,"two, three")', ["four"]),
        ("subject=like.%o%,subject=neq.one", ["two, three", "four"]),
        ("subject=match.^(one|four)$", ["one", "four"]),
        ("assignee_id=is.null", ["one", "two, three", "four"]),
        ("assignee_id=not.is.null", []),
        ("number=gte.0", ["one", "two, three", "four"]),
        ("is_bot_handoff=is.false", ["one", "two, three", "four"]),
        (" ", ["one", "two, three", "four"]),
    ],
)
async def test_agent_hears_of_the_rows_that_the_filter_lets_through(
    *, open_line: Open, north: Organization, agent: Person, topic: str, text: str, expected: list[str]
) -> None:
    line = await open_line(2)
    room = await line.join(topic, agent.token, changes=[{**TICKETS, "filter": text}])
    rest = await line.join(f"{topic}-all", agent.token, changes=[TICKETS])
    for subject in ("one", "two, three", "four"):
        north.ticket(subject)
    await rest.next("postgres_changes", 3)
    await room.hears(lambda room: len(room.rows) >= len(expected))
    assert subjects(room) == expected


async def test_thousands_could_watch_a_ticket_each(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    tickets = [north.ticket("mine"), north.ticket("other")]
    changes = [
        {"event": "*", "schema": "public", "table": "comments", "filter": f"ticket_id=eq.{tickets[0]}"},
        {"event": "UPDATE", "schema": "public", "table": "tickets", "filter": f"id=eq.{tickets[0]}"},
    ]
    room = await line.join(topic, agent.token, changes=changes)
    for ticket in reversed(tickets):
        north.comment(ticket, f"on {ticket}")
        north.rename(ticket, f"renamed {ticket}")
    await room.hears(lambda room: f"renamed {tickets[0]}" in subjects(room))
    assert {row.get("ticket_id") or row["id"] for row in room.rows} == {tickets[0]}


@pytest.mark.parametrize(
    "entry",
    [
        {**TICKETS, "filter": "nothing=eq.1"},
        {**TICKETS, "filter": "status=eq.nonsense"},
        {**TICKETS, "filter": "number=eq.many"},
        {**TICKETS, "filter": "subject"},
        {**TICKETS, "filter": "subject=match.("},
        {**TICKETS, "select": ["nothing"]},
        {**TICKETS, "table": "nothing"},
        {"event": "*", "schema": "private", "table": "events"},
        {"event": "*", "schema": "public", "filter": "id=eq.1"},
        {"event": "sometimes", "schema": "public", "table": "tickets"},
        {"event": "*", "schema": "*", "table": "tickets", "filter": "status=eq.open"},
    ],
    ids=range(11),
)
async def test_entry_that_cannot_be_served_is_an_error_of_the_channel_and_not_of_the_join(
    line: Line, agent: Person, topic: str, entry: Json
) -> None:
    room = await line.join(topic, agent.token, changes=[TICKETS, entry])
    (system,) = await room.next("system")
    assert system.payload["status"] == "error"
    assert system.payload["extension"] == "postgres_changes"
    assert system.payload["message"].startswith("Unable to subscribe to changes with given parameters. ")
    reason = await line.refused(
        f"{topic}-2", agent.token, changes=[entry], postgres_changes_options={"wait": True}
    )
    assert reason.startswith("PostgresChangesSubscribeTimeout: ")


async def test_client_that_waits_for_the_changes_is_answered_when_they_come(
    line: Line, agent: Person, topic: str
) -> None:
    options = {"wait": True, "timeout": 15000}
    room = await line.join(
        topic,
        agent.token,
        changes=[TICKETS],
        postgres_changes_options=options,
        broadcast={"replication_ready": True},
    )
    systems = await room.next("system", 2)
    assert [(each.payload["extension"], each.payload["message"]) for each in systems] == [
        ("postgres_changes", "Subscribed to PostgreSQL"),
        ("system", "Replication connection established"),
    ]


# Nothing is missed


@contextlib.contextmanager
def writing(desk: Desk, organization: Organization, count: int) -> Iterator[list[str]]:
    """Let several connections make tickets all the time, each in transactions of some length."""
    made, over = list[str](), threading.Event()

    def write(number: int) -> None:
        with psycopg.connect(desk.db_url) as connection:
            made_here = 0
            while not over.is_set():
                name = f"w{number}-{made_here}"
                connection.execute(
                    "insert into public.tickets (organization_id, subject) values (%s, %s)",
                    [organization.id, name],
                )
                connection.execute("select pg_sleep(%s)", [0.003 * (number % 3)])
                made.append(name)
                connection.commit()
                made_here += 1

    threads = [threading.Thread(target=write, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        over.set()
        for thread in threads:
            thread.join()


async def test_nothing_that_is_committed_after_the_answer_is_missed(
    desk: Desk, line: Line, topic: str
) -> None:
    busy = Organization(desk, desk.organization(unique("Busy")))
    token = busy.person().token
    rooms = []
    with writing(desk, busy, 4) as made:
        for number in range(12):
            room = await line.join(f"{topic}-{number}", token, changes=[{**TICKETS, "event": "INSERT"}])
            rooms.append((room, len(made)))
            await asyncio.sleep(0.02)
    for room, begin in rooms:
        due = set(made[begin:])
        await room.hears(lambda room, due=due: due <= set(subjects(room)))  # type: ignore[misc]
        assert len(subjects(room)) == len(set(subjects(room)))


@pytest.mark.parametrize("place", ["options", "broadcast", "entry", "config"])
async def test_client_that_comes_back_is_told_what_it_missed_and_nothing_twice(
    *, open_line: Open, version: int, desk: Desk, topic: str, place: str
) -> None:
    busy = Organization(desk, desk.organization(unique("Busy")))
    token = busy.person().token

    async def come_back(since: str | None) -> Room:
        configs: dict[str, Json] = {
            "options": {"postgres_changes_options": {"since": since}},
            "broadcast": {"broadcast": {"since": since}},
            "config": {"since": since},
        }
        changes = [{**TICKETS, "event": "INSERT", **({"since": since} if place == "entry" else {})}]
        return await (await open_line(version)).join(topic, token, changes=changes, **configs.get(place, {}))

    line = await open_line(version)
    first, answer = await line.try_to_join(topic, token, changes=[{**TICKETS, "event": "INSERT"}])
    position = answer.payload["response"]["position"]
    told: list[str] = []
    with writing(desk, busy, 3) as made:
        for number in range(6):
            room = first if number == 0 else await come_back(position)
            await room.next("postgres_changes", 10)
            heard = room.of("postgres_changes")[:10]
            position = heard[-1].payload["data"]["position"]
            told += [each.row["subject"] for each in heard]
            await room.line.close()
    last = await come_back(position)
    await last.hears(lambda room: len(told) + len(room.rows) >= len(made))
    await silence()
    told += subjects(last)
    assert sorted(told) == sorted(made)
    with_live = last.rows
    busy.ticket("live")
    await last.hears(lambda room: len(room.rows) == len(with_live) + 1)


async def test_client_that_comes_back_is_told_nothing_that_was_hidden_from_it_meanwhile(
    *, desk: Desk, open_line: Open, north: Organization, customer: Person, agent: Person, topic: str
) -> None:
    ticket = north.ticket("theirs", customer)
    line = await open_line(2)
    rooms = [
        await line.join(f"{topic}-{number}", person.token, changes=[COMMENTS, TICKETS])
        for number, person in enumerate((customer, agent))
    ]
    north.comment(ticket, "start")
    starts = [(await room.next("postgres_changes"))[0].payload["data"]["position"] for room in rooms]
    await line.close()
    slip, kept, gone = (north.comment(ticket, text) for text in ("slip", "kept", "gone"))
    desk.sql("update public.comments set is_internal = true where id = %s", [slip])
    desk.sql("delete from public.comments where id = %s", [gone])
    given = north.ticket("given away", customer)
    desk.sql("update public.tickets set contact_id = null where id = %s", [given])
    await asyncio.sleep(1.1)
    line = await open_line(2)
    theirs, ours = [
        await line.join(f"{topic}-{number}", person.token, changes=[COMMENTS, TICKETS], since=start)
        for number, (person, start) in enumerate(zip((customer, agent), starts, strict=True))
    ]
    north.comment(ticket, "end")
    await theirs.hears(lambda room: "end" in room.says("body"))
    await ours.hears(lambda room: "end" in room.says("body"))
    told = [row.get("body") for row in theirs.rows if row.get("ticket_id")]
    assert told[-4:] == ["kept", "gone", "gone", "end"]
    assert "slip" not in theirs.says("body")
    assert given not in theirs.says("id")
    assert "slip" in ours.says("body")
    assert kept in ours.says("id")


@pytest.mark.parametrize("since", ["x", "é", "x" * 9000])
async def test_position_that_is_gone_is_a_refusal(line: Line, agent: Person, topic: str, since: str) -> None:
    reason = await line.refused(
        topic, agent.token, changes=[TICKETS], postgres_changes_options={"since": since}
    )
    assert reason.startswith("PositionGone: ")


async def test_what_was_missed_comes_before_what_happens_meanwhile(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    room, answer = await line.try_to_join(topic, agent.token, changes=[TICKETS])
    position = answer.payload["response"]["position"]
    await room.ask("phx_leave")
    for number in range(120):
        north.ticket(f"missed {number}")
    join = asyncio.create_task(
        line.join(topic, agent.token, changes=[TICKETS], postgres_changes_options={"since": position})
    )
    for number in range(20):
        await asyncio.to_thread(north.ticket, f"live {number}")
    back = await join
    await back.hears(lambda room: len(room.rows) >= 140)
    expected = [*(f"missed {number}" for number in range(120)), *(f"live {number}" for number in range(20))]
    assert subjects(back) == expected


# Tables of somebody's own


@contextlib.contextmanager
def published(desk: Desk, columns: str) -> Iterator[str]:
    """Publish a table that members may read, and drop it in the end."""
    name = unique("notes").replace("-", "_")
    desk.sql(f"create table public.{name} ({columns})")
    desk.sql(f"grant select on public.{name} to authenticated, anon")
    desk.sql(f"alter publication supabase_realtime add table public.{name}")
    try:
        yield name
    finally:
        desk.sql(f"drop table public.{name}")


async def test_table_of_ones_own_is_told_under_its_own_policies(
    *, desk: Desk, open_line: Open, version: int, north: Organization, agent: Person, stranger: Person
) -> None:
    topic = unique("room")
    with published(desk, "id bigint primary key, owner uuid, text text") as name:
        desk.sql(f"alter table public.{name} enable row level security")
        is_mine = "owner = (select auth.uid())"
        desk.sql(f"create policy mine on public.{name} for select to authenticated using ({is_mine})")
        changes = [{"event": "*", "schema": "public", "table": name}]
        mine, far = [
            await (await open_line(version)).join(topic, person.token, changes=changes)
            for person in (agent, stranger)
        ]
        visitor = await (await open_line(version)).join(topic, changes=changes)
        desk.sql(f"insert into public.{name} values (1, %s, 'a')", [agent.member.user_id])
        desk.sql(f"insert into public.{name} values (2, %s, 'b')", [stranger.member.user_id])
        desk.sql(f"delete from public.{name} where id = 1")
        await mine.next("postgres_changes", 2)
        await far.next("postgres_changes", 1)
        await silence()
        assert mine.says("id") == [1, 1]
        assert far.says("id") == [2]
        assert not visitor.rows


async def test_row_that_names_an_organization_beside_its_key_is_told_as_its_policies_say(
    desk: Desk, open_line: Open, north: Organization, agent: Person, stranger: Person
) -> None:
    topic = unique("room")
    with published(desk, "id bigint primary key, organization_id uuid") as name:
        entry = {"event": "*", "schema": "public", "table": name}
        everybody = [
            await (await open_line(2)).join(topic, person.token, changes=[entry])
            for person in (agent, stranger)
        ]
        desk.sql(f"insert into public.{name} values (1, %s)", [north.id])
        for room in everybody:
            await room.next("postgres_changes")


async def test_entry_that_cannot_be_rendered_ends_its_own_channel_alone(
    desk: Desk, open_line: Open, version: int, north: Organization, agent: Person
) -> None:
    """The same audience, two wishes, of which one fails at each row."""
    topic = unique("room")
    with published(desk, "id bigint primary key, n integer") as name:
        entry = {"event": "*", "schema": "public", "table": name}
        line = await open_line(version)
        good = await line.join(topic, agent.token, changes=[entry])
        bad = await line.join(f"{topic}-2", agent.token, changes=[{**entry, "filter": "n=eq.1"}])
        desk.sql(f"alter table public.{name} alter column n type text")
        desk.sql(f"alter table public.{name} alter column n type integer[] using array[n::integer]")
        desk.sql(f"insert into public.{name} values (1, '{{1}}')")
        await good.next("postgres_changes")
        assert good.says("id") == [1]
        (error,) = await bad.next("phx_error")
        assert error.ref == bad.join_ref
        assert not bad.rows
