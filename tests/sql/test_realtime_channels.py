"""Channels: who may hear and speak on private ones, what SQL sends, who is present, and who keeps house."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from api import migrate
from tests.actors import Acting, Organization, World
from tests.databases import Connection, Server
from tests.sql.realtime import RENDER, Json, Realtime, binding, condition
from tests.sql.threads import run_at_once

EVERYTHING = {"reads_broadcast", "writes_broadcast", "reads_presence", "writes_presence"}
SEND = "select realtime.send(%s, 'e', %s, %s)"
SIGNALS = """
    select kind, topic, private, event, payload::jsonb, sender::text from realtime.signals
    where xid = pg_current_xact_id() order by id
"""
MESSAGES = "select event, payload from realtime.messages where topic = %s order by inserted_at"


@pytest.fixture
def realtime(login: Acting, owner: Acting) -> Realtime:
    return Realtime(login, owner)


# Private channels


def test_public_channels_are_everybody_s(realtime: Realtime, visitor: Acting, stranger: Acting) -> None:
    for who in (visitor, stranger):
        answer = realtime.check(who, topic="room")
        assert {name for name in EVERYTHING if answer[name]} == EVERYTHING


def test_private_channel_without_a_policy_is_nobody_s_but_the_service_key_s(
    realtime: Realtime, visitor: Acting, admin: Acting, token: Acting, service: Acting
) -> None:
    for who in (visitor, admin, token):
        assert realtime.rights(who, "secret") == set()
    assert realtime.rights(service, "secret") == EVERYTHING


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            "for select to authenticated using (realtime.topic() = 'room')",
            {"reads_broadcast", "reads_presence"},
        ),
        ("for select using (extension = 'presence')", {"reads_presence"}),
        ("for insert to authenticated with check (extension = 'broadcast')", {"writes_broadcast"}),
        ("for all to authenticated using (topic = 'room')", EVERYTHING),
        ("for all to authenticated using (true) with check (false)", {"reads_broadcast", "reads_presence"}),
        ("for all to anon using (true)", set()),
        ("as restrictive for all using (true)", set()),
        ("for select to authenticated using (realtime.topic() = 'hall')", set()),
    ],
)
def test_policies_say_what_one_may_do(
    policy: str, expected: set[str], realtime: Realtime, agent: Acting
) -> None:
    realtime.owner.rows(f"create policy a on realtime.messages {policy}")
    assert realtime.rights(agent, "room") == expected


def test_policy_that_errs_refuses(realtime: Realtime, agent: Acting, admin: Acting) -> None:
    realtime.owner.rows("create policy a on realtime.messages for select to authenticated using (1 / 0 = 1)")
    params = [realtime.claims(agent.actor), "room", True, Jsonb([])]
    realtime.login.refused("22012", "select realtime_service.check_channel(%s, %s, %s, %s)", params)


def test_room_of_a_ticket_is_for_the_agents_of_its_organization(
    realtime: Realtime, north: Organization, *, request: pytest.FixtureRequest
) -> None:
    room = f"desk:ticket:{north['ticket']}"
    for name in ("admin", "team_lead", "senior_agent", "agent"):
        assert realtime.rights(request.getfixturevalue(name), room) == EVERYTHING, name
    for name in ("visitor", "customer", "other_customer", "token", "stranger", "foreign_admin"):
        assert realtime.rights(request.getfixturevalue(name), room) == set(), name


@pytest.mark.parametrize(
    "topic",
    [
        "desk:ticket:",
        "desk:ticket:x",
        "desk:ticket:{}x",
        "desk:ticket:{} ",
        " desk:ticket:{}",
        "desk:{}",
        "{}",
    ],
)
def test_room_of_no_ticket_is_nobody_s(
    topic: str, realtime: Realtime, agent: Acting, north: Organization
) -> None:
    assert realtime.rights(agent, topic.format(north["ticket"])) == set()
    assert realtime.rights(agent, f"desk:ticket:{uuid4()}") == set()


def test_room_of_a_ticket_that_was_deleted_is_closed(
    realtime: Realtime, agent: Acting, north: Organization
) -> None:
    room = f"desk:ticket:{north['walk_in']}"
    assert realtime.rights(agent, room) == EVERYTHING
    agent.rows("delete from public.tickets where id = %s", [north["walk_in"]])
    assert realtime.rights(agent, room) == set()


# Sending from SQL


def test_what_sql_sends_is_kept_and_signalled(realtime: Realtime, service: Acting) -> None:
    service.rows(SEND, [Jsonb({"a": 1}), "room", True])
    ((event, payload),) = realtime.owner.rows(MESSAGES, ["room"])
    assert (event, payload["a"]) == ("e", 1)
    assert payload["id"]
    ((kind, topic, private, event, payload, _),) = realtime.owner.rows(SIGNALS)
    assert (kind, topic, private, event, payload["a"]) == ("broadcast", "room", True, "e", 1)


@pytest.mark.parametrize(
    "statement",
    [
        "select realtime.send('{}', 'e', %s, true)",
        "select realtime.send_binary('x', 'e', %s, true)",
        "select realtime.broadcast_changes(%s, 'e', 'INSERT', 't', 's', row(1), null)",
    ],
)
def test_who_may_not_send_is_warned_and_goes_on(
    statement: str, realtime: Realtime, agent: Acting, customer: Acting, north: Organization
) -> None:
    warnings: list[str] = []
    room = f"desk:ticket:{north['ticket']}"
    agent.stage.connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    agent.rows(statement, [room])
    assert len(realtime.owner.rows(MESSAGES, [room])) == 1
    assert warnings == []
    customer.rows(statement, [room])
    assert len(realtime.owner.rows(MESSAGES, [room])) == 1
    assert [warning.partition(":")[0] for warning in warnings] == ["WarnSendingBroadcastMessage"]


def test_replay_gives_the_latest_of_a_private_topic_oldest_first(realtime: Realtime, service: Acting) -> None:
    for number in range(30):
        realtime.owner.rows(
            "insert into realtime.messages (topic, extension, event, private, payload, inserted_at)"
            " values ('room', 'broadcast', 'e', true, %s,"
            " (now() - %s * interval '1 second') at time zone 'UTC')",
            [Jsonb(number), number],
        )
    service.rows(SEND, [Jsonb({}), "room", False])
    service.rows(SEND, [Jsonb({}), "hall", True])
    statement = "select payload from realtime_service.replay('room', %s, %s)"
    assert realtime.login.values(statement, [0, 3]) == ["2", "1", "0"]
    assert len(realtime.login.values(statement, [0, 1000])) == 25
    now = realtime.owner.value("select (extract(epoch from now()) * 1000)::bigint")
    assert realtime.login.values(statement, [now - 1500, 25]) == ["1", "0"]
    assert realtime.login.values(statement, [2**62, 25]) == []


# Presence


def track(channel: str, process: str, **options: Any) -> Json:
    return {
        "op": "track",
        "topic": "room",
        "private": False,
        "key": channel[:4],
        "ref": str(next(_REFS)),
        "meta": {},
        "channel": channel,
        "process": process,
        "claims": {},
        **options,
    }


_REFS = count()


def test_presence_is_told_once_changed_and_taken_back(realtime: Realtime) -> None:
    channel, process = str(uuid4()), str(uuid4())
    state = "select realtime_service.presence_state('room', false)::jsonb"
    first = track(channel, process, key="me", meta={"n": 1}, ref="1")
    assert realtime.publish(first) == []
    assert realtime.login.value(state) == {"me": {"metas": [{"n": 1, "phx_ref": "1"}]}}
    realtime.publish({**first, "ref": "2"})
    assert realtime.login.value(state)["me"]["metas"][0]["phx_ref"] == "1", "the same changes nothing"
    realtime.publish({**first, "ref": "3", "meta": {"n": 2}})
    realtime.publish({"op": "untrack", "channel": channel}, {"op": "untrack", "channel": channel})
    assert realtime.login.value(state) == {}
    told = [payload for *_, payload, _ in realtime.owner.rows(SIGNALS)]
    one, two = {"n": 1, "phx_ref": "1"}, {"n": 2, "phx_ref": "3"}
    assert told == [
        {"joins": {"me": {"metas": [one]}}, "leaves": {}},
        {"joins": {"me": {"metas": [{**two, "phx_ref_prev": "1"}]}}, "leaves": {"me": {"metas": [one]}}},
        {"joins": {}, "leaves": {"me": {"metas": [two]}}},
    ]
    assert realtime.login.value("select realtime_service.presence_state('room', true)::jsonb") == {}


def test_who_is_at_a_ticket_is_who_they_are(realtime: Realtime, agent: Acting, north: Organization) -> None:
    claims = realtime.claims(agent.actor).obj
    at = track(
        str(uuid4()), str(uuid4()), topic=f"desk:ticket:{north['ticket']}", private=True, claims=claims
    )
    lie = {"member_id": "somebody", "name": "Somebody", "since": "ever", "state": "typing", "colour": "red"}
    assert realtime.publish({**at, "meta": lie}) == []
    (signal,) = realtime.owner.rows(SIGNALS)
    (meta,) = signal[4]["joins"][at["key"]]["metas"]
    assert (meta["member_id"], meta["name"]) == (agent.member_id, "Agent")
    assert (meta["state"], meta["colour"]) == ("typing", "red")
    assert meta["since"] != "ever"
    answer = realtime.publish(
        {**at, "meta": {"state": "asleep"}}, {"op": "untrack", "channel": at["channel"]}
    )
    assert answer == [(0, "state is viewing or typing.")], "the others are done all the same"


# Between processes

LOOK = """
    select until, kind, topic, event, payload, sender::text
    from realtime_service.look(%s::pg_snapshot, %s)
"""


class Process:
    """An API process, as the database knows it: a login's connection and a cursor."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.id = str(uuid4())
        self.heard: list[tuple[Any, ...]] = []
        self._cursor: str | None = None
        self.look()

    def look(self, topics: list[str] | None = None) -> list[tuple[Any, ...]]:
        rows = self.connection.execute(LOOK, [self._cursor, topics]).fetchall()
        self._cursor = rows[0][0]
        found = [row[1:] for row in rows if row[1] is not None]
        self.heard += found
        return found

    def publish(self, *operations: Json) -> None:
        statement = "select place, fault from realtime_service.publish(%s)"
        assert self.connection.execute(statement, [Jsonb(list(operations))]).fetchall() == []

    def beat(self) -> None:
        self.connection.execute("select realtime_service.beat(%s)", [self.id])

    def leave(self) -> None:
        self.connection.execute("select realtime_service.leave(%s)", [self.id])

    def present(self) -> set[str]:
        row = self.connection.execute(
            "select realtime_service.presence_state('room', false)::jsonb"
        ).fetchone()
        assert row
        return set(row[0])


def broadcast(event: str, topic: str = "room", sender: str | None = None) -> Json:
    return {
        "op": "broadcast",
        "topic": topic,
        "private": False,
        "event": event,
        "payload": {},
        "sender": sender,
    }


def events(found: Sequence[tuple[Any, ...]]) -> list[str]:
    return [row[2] for row in found if row[0] == "broadcast"]


@pytest.fixture
def processes(connect: Callable[[], Connection]) -> list[Process]:
    return [Process(connect()) for _ in range(3)]


@pytest.fixture
def owner_connection(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def test_processes_hear_each_other_in_one_order_of_their_topics(processes: list[Process]) -> None:
    one, two, three = processes
    sender = str(uuid4())
    one.publish(broadcast("a", sender=sender), broadcast("b", "hall"))
    two.publish(broadcast("c"))
    assert events(one.look()) == events(two.look()) == ["a", "b", "c"]
    assert events(three.look(["hall"])) == ["b"]
    assert three.look() == [], "what it was not asked about is not told later"
    assert one.heard[0][-1] == sender


def test_process_that_dies_or_leaves_takes_its_presences_along(
    processes: list[Process], owner_connection: Connection
) -> None:
    one, two, three = processes
    for process in processes:
        process.beat()
        process.publish(*[track(str(uuid4()), process.id, key=f"{process.id} {n}") for n in range(2)])
    two.leave()
    assert {key.partition(" ")[0] for key in one.present()} == {one.id, three.id}
    owner_connection.execute(
        "update realtime.processes set seen_at = now() - interval '9 seconds' where id = %s", [three.id]
    )
    run_at_once(one.beat, two.beat)
    assert {key.partition(" ")[0] for key in one.present()} == {one.id}
    one.look()
    leaves = [row for row in one.heard if row[0] == "presence" and '"joins": {}' in row[3]]
    assert len(leaves) == 4, "each once, though two have noticed"


def test_process_that_speaks_is_not_taken_for_dead(
    processes: list[Process], owner_connection: Connection
) -> None:
    one, two, _ = processes
    one.beat()
    owner_connection.execute("update realtime.processes set seen_at = now() - interval '1 minute'")
    one.publish(track(str(uuid4()), one.id, key="me"))
    two.beat()
    assert two.present() == {"me"}


def test_many_who_come_and_go_at_once_leave_what_was_told(processes: list[Process]) -> None:
    channels = [str(uuid4()) for _ in range(12)]

    def restless(process: Process, own: list[str]) -> None:
        for number in range(15):
            channel = own[number % len(own)]
            process.publish(track(channel, process.id, key=channel, meta={"n": number}))
            if number % 3 == 0:
                process.publish({"op": "untrack", "channel": channel})
            process.beat()

    run_at_once(*[partial(restless, each, channels[place::3]) for place, each in enumerate(processes)])
    told = processes[0].look()
    there: set[str] = set()
    for _, _, _, payload, _ in told:
        diff = json.loads(payload)
        there -= diff["leaves"].keys()
        there |= diff["joins"].keys()
    assert there == processes[1].present()


def test_cursor_from_before_a_crash_begins_anew(processes: list[Process]) -> None:
    one = processes[0]
    one._cursor = "9000000000000:9000000000000:"
    assert one.look() == []
    processes[1].publish(broadcast("after"))
    assert events(one.look()) == ["after"]


ACTS = ["send", "send", "commit", "rollback", "look"]


@pytest.fixture(scope="module")
def arena(server: Server, template: str) -> Iterator[str]:
    with server.database(template) as url:
        yield url


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(ACTS)), min_size=4, max_size=40))
def test_whatever_the_order_of_commits_a_cursor_misses_nothing_and_repeats_nothing(
    script: list[tuple[int, str]], arena: str
) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(arena)) for _ in range(4)]
        reading = stack.enter_context(psycopg.connect(arena, autocommit=True))
        reading.execute("set session authorization authenticator")
        reader = Process(reading)
        sent: dict[int, list[str]] = {number: [] for number in range(4)}
        committed: list[str] = []
        numbers = count()
        for writer, act in [*script, *((number, "commit") for number in (3, 1, 0, 2))]:
            connection = connections[writer]
            if act == "send":
                event = str(next(numbers))
                connection.execute("select realtime.send('{}', %s, 'room', false)", [event])
                sent[writer].append(event)
            elif act == "look":
                reader.look()
            else:
                connection.execute(act.encode())
                committed += sent[writer] if act == "commit" else []
                sent[writer] = []
        reader.look()
        assert sorted(events(reader.heard)) == sorted(committed)


def test_old_signals_go(processes: list[Process], owner_connection: Connection) -> None:
    one, two, _ = processes
    one.publish(broadcast("a"))
    owner_connection.execute("update realtime.signals set at = now() - interval '2 minutes'")
    one.publish(broadcast("b"))
    two.beat()
    assert owner_connection.execute("select event from realtime.signals").fetchall() == [("b",)]


# Housekeeping

DAYS = """
    select to_date(substr(c.relname, 10), 'YYYY_MM_DD') - (now() at time zone 'UTC')::date
    from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'realtime.messages'::regclass order by 1
"""


def test_messages_have_partitions_a_week_ahead_and_three_days_back(realtime: Realtime) -> None:
    owner = realtime.owner
    for days in (2, 3, 4, 60):
        owner.rows(f"""
            do $$ declare d date := (now() at time zone 'UTC')::date - {days}; begin
                execute format('create table realtime.messages_%s partition of realtime.messages
                    for values from (%L) to (%L)', to_char(d, 'YYYY_MM_DD'), d, d + 1);
            end $$
        """)
    for _ in range(2):
        owner.rows("select realtime_service.maintain()")
        assert owner.values(DAYS) == [-3, -2, *range(8)]


def test_only_the_service_may_keep_house_and_speak(
    realtime: Realtime, admin: Acting, service: Acting
) -> None:
    for who in (admin, service):
        who.refused("42501", "select realtime_service.look(null, null)")
        who.refused("42501", "select realtime_service.publish('[]')")
        who.refused("42501", "select * from realtime.signals")
        who.refused("42501", "select * from realtime.presences")
    realtime.login.refused("42501", "select realtime_service.maintain()")
    realtime.login.refused("42501", "select * from realtime.signals")


# What is published is followed

FOLLOWED = """
    select tgrelid::regclass::text, array_agg(tgname::text order by tgname) from pg_trigger
    where tgname like '\\_900\\_realtime%' and tgparentid = 0 group by 1 order by 1
"""
BOTH = ["_900_realtime", "_900_realtime_update"]
LOGGED = """
    select schema_name || '.' || table_name, operation from private.events
    where xid = pg_current_xact_id() order by id
"""


def test_tables_are_followed_as_long_as_they_are_published(owner: Acting) -> None:
    owner.rows(
        "create table public.one (id bigint primary key, data json); create table public.two (id integer)"
    )
    publication = "alter publication supabase_realtime"
    owner.rows(f"{publication} add table public.one")
    ((name, triggers),) = owner.rows(FOLLOWED)
    assert (name.removeprefix("public."), triggers) == ("one", BOTH)
    owner.rows("insert into public.one values (1, '{}'); update public.one set data = '{}'")
    owner.rows("update public.one set data = '[]'; delete from public.one")
    assert owner.rows(LOGGED) == [("public.one", each) for each in ("INSERT", "UPDATE", "DELETE")]
    owner.rows(f"{publication} set table public.two, public.tickets")
    assert [row[0].removeprefix("public.") for row in owner.rows(FOLLOWED)] == ["two"]
    owner.rows(f"{publication} drop table public.two")
    assert owner.rows(FOLLOWED) == []
    owner.rows(f"{publication} add table public.one; drop publication supabase_realtime")
    assert owner.rows(FOLLOWED) == []


def test_every_table_is_followed_where_all_are_published(owner: Acting) -> None:
    owner.rows("drop publication supabase_realtime; create publication supabase_realtime for all tables")
    owner.rows("create table public.late (id integer); insert into public.late values (1)")
    assert owner.rows(LOGGED) == [("public.late", "INSERT")]
    followed = [row[0].removeprefix("public.") for row in owner.rows(FOLLOWED)]
    assert {"late", "articles", "tags"} <= set(followed)
    assert not {"tickets", "comments", "notifications"} & set(followed), "they have triggers of their own"
    assert not [each for each in followed if each.startswith(("auth.", "private.", "realtime."))]


@pytest.mark.parametrize("by_root", [False, True])
def test_partitions_are_told_of_by_the_name_that_is_published(
    *, by_root: bool, realtime: Realtime, service: Acting
) -> None:
    owner = realtime.owner
    owner.rows("""
        create table public.parts (id integer primary key, n integer) partition by range (id);
        create table public.parts_low partition of public.parts for values from (0) to (10);
        grant select on public.parts, public.parts_low to service_role;
        alter publication supabase_realtime add table public.parts
    """)
    owner.rows(f"alter publication supabase_realtime set (publish_via_partition_root = {by_root})")
    owner.rows("""
        create table public.parts_high partition of public.parts for values from (10) to (20);
        insert into public.parts values (1, 1), (11, 1);
        update public.parts set n = 2
    """)
    names = ["parts", "parts"] if by_root else ["parts_low", "parts_high"]
    expected = [(f"public.{name}", op) for op in ("INSERT", "UPDATE") for name in names]
    assert owner.rows(LOGGED) == expected
    for way in ("true", "false", "true"):
        owner.rows(f"alter publication supabase_realtime set (publish_via_partition_root = {way})")


def test_running_the_service_s_script_again_changes_nothing(own_world: World) -> None:
    with migrate.connect(own_world.url) as connection:
        connection.execute("create table public.one (id integer primary key)")
        connection.execute("alter publication supabase_realtime add table public.one")
        before = connection.execute(FOLLOWED.encode()).fetchall()
        for _ in range(2):
            migrate.run_file(connection, migrate.REALTIME_SERVICE)
        assert connection.execute(FOLLOWED.encode()).fetchall() == before
        assert [row[1] for row in before] == [BOTH]
        triggers = (
            "select count(*) from pg_trigger where tgname in ('_900_signal', '_900_bell') and tgparentid = 0"
        )
        assert connection.execute(triggers.encode()).fetchall() == [(3,)], "of messages, signals and events"


def test_whoever_may_change_the_publication_need_not_know_of_the_log(owner: Acting) -> None:
    owner.rows("""
        create role clerk;
        grant create on schema public to clerk;
        alter publication supabase_realtime owner to clerk;
        set local role clerk;
        create table public.hers (id integer primary key);
        alter publication supabase_realtime add table public.hers;
        insert into public.hers values (1);
        reset role
    """)
    assert owner.rows(LOGGED) == [("public.hers", "INSERT")]


# Where there is much

EXPLAIN = "explain (analyze, buffers, format json) "


def pages(connection: Connection, statement: str, params: Sequence[Any]) -> int:
    """Return how many pages the cheapest of three runs reads, warm caches and all."""
    found: list[int] = []
    for _ in range(3):
        with connection.transaction(force_rollback=True):
            row = connection.execute((EXPLAIN + statement).encode(), params).fetchone()
        assert row
        plan = row[0][0]["Plan"]
        found.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return min(found)


def test_a_look_reads_what_is_new_and_not_what_is_there(
    processes: list[Process], owner_connection: Connection
) -> None:
    owner_connection.execute("""
        insert into realtime.signals (kind, topic, private, event, payload)
        select 'broadcast', 'room', false, n, '{}' from generate_series(1, 20000) as n
    """)
    owner_connection.execute("vacuum analyze realtime.signals")
    one, two, _ = processes
    one.look()
    two.publish(broadcast("new"))
    assert pages(one.connection, LOOK, [one._cursor, None]) < 60
    assert events(one.look()) == ["new"]


def test_a_change_among_many_is_told_without_reading_the_others(
    connect: Callable[[], Connection], owner_connection: Connection
) -> None:
    owner_connection.execute("create table public.many (id integer primary key, title text)")
    owner_connection.execute("grant select on public.many to service_role")
    owner_connection.execute("alter publication supabase_realtime add table public.many")
    owner_connection.execute("insert into public.many select n, n from generate_series(1, 20000) as n")
    owner_connection.execute("vacuum analyze")
    (event,) = owner_connection.execute("""
        select jsonb_agg(jsonb_build_object('id', e.id, 'xid', e.xid::text, 'at', e.at))
        from private.events as e where e.record ->> 'title' = '10000'
    """).fetchone() or (None,)
    wishes = [[binding("many", conditions=[condition("title", "eq", "10000")])]]
    params = [Jsonb({"role": "service_role"}), Jsonb(event), Jsonb(wishes)]
    login = connect()
    assert len(login.execute(RENDER, params).fetchall()) == 1
    assert pages(login, RENDER, params) < 500
