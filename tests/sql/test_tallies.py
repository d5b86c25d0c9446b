"""The kept counts: they say what counting says, whatever was changed, rolled back, folded or overlapped."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actors import Acting, Organization, World, build_world
from tests.databases import Connection, Server
from tests.sql.threads import run_at_once

KEPT = """
    select status::text, priority::text, category_id, assignee_id, sum(tickets), sum(resolved),
        sum(time_to_resolve)
    from private.ticket_tallies where organization_id = %s
    group by 1, 2, 3, 4 having sum(tickets) <> 0 order by 1, 2, 3, 4
"""
COUNTED = """
    select status::text, priority::text, category_id, assignee_id, count(*), count(resolved_at),
        coalesce(sum(resolved_at - created_at), '0')
    from public.tickets where organization_id = %s and deleted_at is null
    group by 1, 2, 3, 4 order by 1, 2, 3, 4
"""
FOLD = "select private.fold_tallies()"
UNFOLDED = "select count(*) from private.ticket_tallies where not is_folded"
COUNT = "select private.count_tickets(%s, %s, %s, %s)"
STATUSES = ["new", "open", "in_progress", "waiting", "on_hold", "resolved", "closed"]
PRIORITIES = ["low", "medium", "high", "urgent"]


def must_agree(owner: Connection, organization: str) -> None:
    kept = owner.execute(KEPT, [organization]).fetchall()
    assert kept == owner.execute(COUNTED, [organization]).fetchall()


def plainly(agent: Acting, *conditions: str) -> int:
    return int(agent.value(f"select count(*) from public.tickets where {' and '.join(conditions) or 'true'}"))


# Who is told


def test_an_agent_is_told_how_many_tickets_of_a_kind_their_organization_has(
    agent: Acting, north: Organization
) -> None:
    assert agent.value(COUNT, [None, None, None, None]) == plainly(agent) > 1
    assert agent.value(COUNT, [["new", "open"], None, None, None]) == plainly(
        agent, "status in ('new', 'open')"
    )
    assert agent.value(COUNT, [None, ["medium"], None, None]) == plainly(agent, "priority = 'medium'")
    assert agent.value(COUNT, [None, None, north["category"], None]) == plainly(
        agent, f"category_id = '{north['category']}'"
    )
    assert agent.value(COUNT, [[], None, None, None]) is None


def test_a_customer_whose_tickets_are_some_of_them_is_told_nothing(customer: Acting) -> None:
    assert plainly(customer) > 0
    assert customer.value(COUNT, [None, None, None, None]) is None
    assert customer.rows("select * from private.tallies()") == []


def test_another_organization_is_counted_for_itself(stranger: Acting, agent: Acting) -> None:
    before = stranger.value(COUNT, [None, None, None, None])
    agent.insert("tickets", subject="Ours alone")
    assert stranger.value(COUNT, [None, None, None, None]) == before == plainly(stranger)


def test_an_integration_a_visitor_and_the_service_read_no_counts(
    token: Acting, visitor: Acting, service: Acting
) -> None:
    for who in (token, visitor, service):
        who.refused("42501", COUNT, [None, None, None, None])
        who.refused("42501", "select * from private.ticket_tallies")


def test_nobody_but_the_worker_folds(agent: Acting, login: Acting) -> None:
    agent.refused("42501", FOLD)
    assert login.value(FOLD) >= 0


# What is counted


def test_a_ticket_counts_at_once_and_as_what_it_becomes(agent: Acting, north: Organization) -> None:
    before = agent.value(COUNT, [["new"], ["low"], None, None]) or 0
    ticket = agent.insert_id("tickets", subject="Count me", priority="low")
    assert agent.value(COUNT, [["new"], ["low"], None, None]) == before + 1
    agent.rows("update public.tickets set assignee_id = %s where id = %s", [agent.member_id, ticket])
    assert agent.value(COUNT, [["new"], ["low"], None, agent.member_id]) >= 1
    agent.rows("update public.tickets set status = 'resolved' where id = %s", [ticket])
    assert agent.value(COUNT, [["new"], ["low"], None, None]) == before
    (resolved,) = agent.row(
        "select sum(resolved) from private.tallies() where priority = 'low' and status = 'resolved'"
    )
    assert resolved >= 1


def test_a_deleted_ticket_does_not_count_until_an_admin_restores_it(agent: Acting, admin: Acting) -> None:
    ticket = agent.insert_id("tickets", subject="Here and gone")
    before = agent.value(COUNT, [None, None, None, None])
    agent.rows("delete from public.tickets where id = %s", [ticket])
    assert agent.value(COUNT, [None, None, None, None]) == before - 1
    admin.rows("select public.restore_ticket(%s)", [ticket])
    assert agent.value(COUNT, [None, None, None, None]) == before


def test_a_change_that_moves_no_count_writes_none(agent: Acting, owner: Acting) -> None:
    ticket = agent.insert_id("tickets", subject="Talk")
    before = owner.value("select count(*) from private.ticket_tallies")
    agent.insert("comments", ticket_id=ticket, body="Internally", is_internal=True)
    agent.rows("update public.tickets set subject = 'Talk more' where id = %s", [ticket])
    assert owner.value("select count(*) from private.ticket_tallies") == before


# Whatever happens

change = st.one_of(
    st.tuples(st.just("insert"), st.integers(1, 4), st.sampled_from(PRIORITIES)),
    st.tuples(st.just("status"), st.integers(0, 30), st.sampled_from(STATUSES)),
    st.tuples(st.just("priority"), st.integers(0, 30), st.sampled_from(PRIORITIES)),
    st.tuples(st.just("category"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("assignee"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("delete"), st.integers(0, 30), st.none()),
    st.tuples(st.just("restore"), st.integers(0, 30), st.none()),
    st.tuples(st.just("purge"), st.integers(0, 30), st.none()),
    st.tuples(st.just("undo"), st.integers(1, 4), st.sampled_from(PRIORITIES)),
    st.tuples(st.just("fold"), st.none(), st.none()),
)


class Ledger:
    """Changes tickets of one organization, as its owner, one transaction each."""

    def __init__(self, owner: Connection, organization: Organization) -> None:
        self.owner = owner
        self.organization = organization

    def do(self, kind: str, number: Any, value: Any) -> None:
        match kind:
            case "insert":
                self.insert(number, value)
            case "undo":
                with suppress(psycopg.Rollback), self.owner.transaction():
                    self.insert(number, value)
                    raise psycopg.Rollback
            case "fold":
                self.owner.execute(FOLD)
            case "category":
                self.change(number, "category_id", self.organization["category"] if value else None)
            case "assignee":
                agent = self.organization.actors["agent"].member_id
                self.change(number, "assignee_id", agent if value else None)
            case "delete":
                self.on_one("update public.tickets set deleted_at = now() where id = %s", number)
            case "restore":
                self.on_one("update public.tickets set deleted_at = null where id = %s", number)
            case "purge":
                with self.owner.transaction():
                    # Else a delete is soft; what goes for good goes with its organization.
                    self.owner.execute("alter table public.tickets disable trigger _100_soft_delete")
                    self.on_one("delete from public.tickets where id = %s", number)
                    self.owner.execute("alter table public.tickets enable trigger _100_soft_delete")
            case _:
                self.change(number, kind, value)

    def insert(self, count: int, priority: str) -> None:
        self.owner.execute(
            "insert into public.tickets (organization_id, subject, priority) "
            "select %s, 'x', %s from generate_series(1, %s)",
            [self.organization.id, priority, count],
        )

    def change(self, number: int, column: str, value: Any) -> None:
        self.on_one(f"update public.tickets set {column} = %s where id = %s", number, value)

    def on_one(self, statement: str, number: int, *values: Any) -> None:
        ids = self.owner.execute(
            "select id from public.tickets where organization_id = %s order by number", [self.organization.id]
        ).fetchall()
        self.owner.execute(statement, [*values, ids[number % len(ids)][0]])


@settings(max_examples=25, deadline=None)
@given(changes=st.lists(change, max_size=25))
def test_counts_agree_with_the_tickets_whatever_was_done(
    counted: tuple[Connection, World], changes: list[tuple[str, Any, Any]]
) -> None:
    owner, world = counted
    ledger = Ledger(owner, world.north)
    for step in changes:
        ledger.do(*step)
        must_agree(owner, world.north.id)
    must_agree(owner, world.south.id)


def test_counts_agree_at_every_moment_while_many_write_and_the_worker_folds(own_world: World) -> None:
    """A reader's sum and a reader's count, in one statement, are of one moment."""
    north = own_world.north.id

    def write(seed: int) -> Callable[[], None]:
        def work() -> None:
            choose = random.Random(seed)
            with psycopg.connect(own_world.url, autocommit=True) as connection:
                ids: list[Any] = []
                for _ in range(60):
                    with suppress(psycopg.Rollback), connection.transaction():
                        row = connection.execute(
                            "insert into public.tickets (organization_id, subject, priority) "
                            "values (%s, 'x', %s) returning id",
                            [north, choose.choice(PRIORITIES)],
                        ).fetchone()
                        if choose.random() < 0.2:
                            raise psycopg.Rollback
                        ids += row or ()
                    if ids:
                        connection.execute(
                            "update public.tickets set status = %s where id = %s",
                            [choose.choice(STATUSES[:5]), choose.choice(ids)],
                        )

        return work

    def read() -> None:
        with psycopg.connect(own_world.url, autocommit=True) as connection:
            for _ in range(80):
                kept, counted = connection.execute(
                    "select (select sum(tickets) from private.ticket_tallies where organization_id = %s), "
                    "(select count(*) from public.tickets where organization_id = %s and deleted_at is null)",
                    [north, north],
                ).fetchone() or (None, None)
                assert kept == counted

    def fold() -> None:
        with psycopg.connect(own_world.url, autocommit=True) as connection:
            for _ in range(60):
                connection.execute(FOLD)

    run_at_once(*[write(seed) for seed in range(4)], read, fold, fold)
    with psycopg.connect(own_world.url, autocommit=True) as owner:
        owner.execute(FOLD)
        assert owner.execute(UNFOLDED).fetchone() == (0,)
        must_agree(owner, north)


@pytest.fixture(scope="module")
def counted(server: Server, template: str) -> Any:
    """A world in which this module commits."""
    with server.database(template) as url:
        world = build_world(url)
        with psycopg.connect(url, autocommit=True) as owner:
            yield owner, world
