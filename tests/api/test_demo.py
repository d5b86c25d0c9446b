"""The demo organization: it is believable, it lets people in, and a second run leaves it alone."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from argon2 import PasswordHasher

from api import demo
from api.demo import ORGANIZATION, SEED, DemoError
from api.settings import Settings
from tests.databases import Server

PASSWORD = "four tents and a stove"
WORDS_OF_DOMAIN = """
    select (regexp_matches(pg_get_constraintdef(c.oid), '''([a-z_]+)''', 'g'))[1]
    from pg_constraint as c where c.contypid = 'public.{}'::regtype
"""
TABLES = """
    select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname in ('public', 'private', 'auth')
"""


@dataclasses.dataclass
class Loaded:
    """A database with the demo organization, and what the command said."""

    url: str
    lines: list[str]

    def rows(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode(), params or None).fetchall()

    def column(self, statement: str, *params: object) -> set[Any]:
        return {row[0] for row in self.rows(statement, *params)}

    def everything(self) -> dict[str, Any]:
        """Return a digest of every table."""
        digest = "select md5(string_agg(t::text, '' order by t::text)) from {} as t"
        return {table: self.rows(digest.format(table)) for table in self.column(TABLES)}

    def load(self, password: str | None = None) -> list[str]:
        lines: list[str] = []
        demo.load(_settings(self.url), password, lines.append)
        return lines


def _settings(url: str) -> Settings:
    return Settings(database_url=url, data_dir=Path("/nonexistent"))


@pytest.fixture(scope="module")
def loaded(server: Server, template: str) -> Iterator[Loaded]:
    """For the tests that only look."""
    with server.database(template) as url:
        loaded = Loaded(url, [])
        loaded.lines = loaded.load()
        yield loaded


@pytest.fixture
def unloaded(database: str) -> Loaded:
    """For the tests that load it themselves."""
    return Loaded(database, [])


def test_demo_has_every_status_priority_and_role(loaded: Loaded) -> None:
    for kind, table, column in (
        ("ticket_status", "tickets", "status"),
        ("ticket_priority", "tickets", "priority"),
        ("channel", "tickets", "channel"),
    ):
        words = loaded.column(WORDS_OF_DOMAIN.format(kind))
        assert loaded.column(f"select {column}::text from public.{table}") == words
    words = loaded.column("select unnest(enum_range(null::public.member_role))::text")
    assert loaded.column("select role::text from public.members") == words


def test_demo_has_some_of_everything(loaded: Loaded) -> None:
    for table, least in (
        ("contacts", 12), ("contact_identities", 2), ("groups", 3), ("group_members", 6), ("categories", 5),
        ("tags", 5), ("ticket_tags", 60), ("sla_policies", 4), ("custom_fields", 2), ("tickets", 60),
        ("comments", 150), ("ticket_history", 250), ("notifications", 100), ("templates", 4),
        ("saved_filters", 2), ("articles", 7), ("article_votes", 20),
        ("satisfaction_ratings", 4), ("integration_tokens", 1),
    ):  # fmt: skip
        ((count,),) = loaded.rows(
            f"select count(*) from public.{table} where organization_id = %s", ORGANIZATION
        )
        assert count >= least, table


def test_demo_happened_in_the_last_thirty_days_in_a_possible_order(loaded: Loaded) -> None:
    impossible = """
        select id from public.tickets where created_at < now() - interval '31 days' or updated_at > now()
            or not created_at <= coalesce(first_response_at, now())
            or not coalesce(first_response_at, created_at) <= coalesce(resolved_at, now())
            or not coalesce(resolved_at, created_at) <= coalesce(closed_at, now())
            or (status in ('resolved', 'closed')) <> (resolved_at is not null)
            or (status = 'closed') <> (closed_at is not null)
            or (status in ('waiting', 'on_hold')) <> (clock_stopped_at is not null)
            or time_stopped < '0'
        union all
        select c.id from public.comments as c join public.tickets as t on t.id = c.ticket_id
        where c.created_at not between t.created_at and t.updated_at
        union all
        select t.id from public.ticket_history as h join public.tickets as t on t.id = h.ticket_id
        where h.created_at not between t.created_at and t.updated_at
        union all
        select t.id from public.notifications as n join public.tickets as t on t.id = n.ticket_id
        where n.created_at not between t.created_at and t.updated_at
    """
    assert loaded.rows(impossible) == []
    days = "select extract(day from now() - created_at)::integer from public.tickets"
    assert {0, 1, 7, 14, 29} <= loaded.column(days) <= set(range(30))


def test_demo_history_names_who_did_it(loaded: Loaded) -> None:
    nobody = """
        select h.action from public.ticket_history as h join public.tickets as t on t.id = h.ticket_id
        where num_nonnulls(h.member_id, h.token_id) = 0 and h.action <> 'created' and t.contact_id is null
    """
    assert loaded.rows(nobody) == []
    assert len(loaded.column("select member_id from public.ticket_history where member_id is not null")) >= 11


def test_demo_writes_the_event_log(loaded: Loaded) -> None:
    assert {"ticket.created", "ticket.updated", "comment.created", "notification.created"} <= loaded.column(
        "select type from private.events"
    )


def test_everyone_in_the_demo_can_log_in_with_the_password_that_was_printed(loaded: Loaded) -> None:
    (password,) = [line.rpartition(": ")[2] for line in loaded.lines if line.startswith("Password")]
    people = loaded.rows("select email, encrypted_password from auth.users")
    assert len(people) == 12
    assert len({hashed for _, hashed in people}) == 12
    for email, hashed in people:
        assert hashed.startswith("$argon2id$")
        assert PasswordHasher().verify(hashed, password)
        assert any(email in line for line in loaded.lines)


def test_a_password_that_was_given_is_used_and_not_printed(unloaded: Loaded) -> None:
    lines = unloaded.load(PASSWORD)
    for hashed in unloaded.column("select encrypted_password from auth.users"):
        assert PasswordHasher().verify(hashed, PASSWORD)
    assert PASSWORD not in "\n".join(lines)


def test_the_printed_token_is_admitted(loaded: Loaded) -> None:
    (token,) = re.findall(r"stk_\w{49}", "\n".join(loaded.lines))
    admit = """
        select granted, failure from private.admit(array[1], array['integration-tickets'], array[%s::bytea],
            array[null]::jsonb[], array[null], array[null]::integer[], array[null]::integer[], array[3600])
    """
    assert loaded.rows(admit, hashlib.sha256(token.encode()).digest()) == [(1, None)]


def test_a_second_run_says_so_and_changes_nothing(loaded: Loaded) -> None:
    before = loaded.everything()
    assert loaded.load(PASSWORD) == [
        f"Larkspur Outdoor ({ORGANIZATION}) is there already; nothing was changed."
    ]
    assert loaded.everything() == before


def test_the_seed_alone_lets_nobody_in_until_the_command_is_run(unloaded: Loaded) -> None:
    with psycopg.connect(unloaded.url) as connection:
        connection.execute(SEED.read_bytes())
        connection.execute(SEED.read_bytes())
    assert unloaded.column("select encrypted_password from auth.users") == {None}
    assert unloaded.rows("select * from private.integration_token_secrets") == []
    lines = unloaded.load()
    assert unloaded.rows("select count(*) from auth.users where encrypted_password is not null") == [(12,)]
    assert any("stk_" in line for line in lines)


def test_demo_does_not_become_the_first_organization(unloaded: Loaded) -> None:
    with psycopg.connect(unloaded.url) as connection:
        connection.execute("select private.create_first_admin('admin@example.com', 'x', 'Admin', 'Mine')")
    unloaded.load()
    first = "select name from public.organizations where id = private.first_organization_id()"
    assert unloaded.rows(first) == [("Mine",)]


def test_demo_needs_a_migrated_database(empty_database: str) -> None:
    with pytest.raises(DemoError, match="deskbase migrate"):
        demo.load(_settings(empty_database))
