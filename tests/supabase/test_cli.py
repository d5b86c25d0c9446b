"""Supabase's command line on our databases: it finds them up to date and has nothing to say against them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from api.migrate import read_migrations
from tests.databases import Connection
from tests.desk import Desk
from tests.supabase.conftest import CommandLine

SCHEMAS = ["public", "private", "integration_tickets"]
VERSIONS = [migration.version for migration in read_migrations()]

LINT = [
    "db",
    "lint",
    "-s",
    ",".join([*SCHEMAS, "auth_service"]),
    "--level",
    "warning",
    "--fail-on",
    "warning",
]
ADVISORS = ["db", "advisors", "--type", "all", "--level", "info", "--fail-on", "info"]

MAKE_MISTAKE = """
    create function private.mistake() returns void
    language plpgsql as $$ begin perform nowhere from public.tickets; end $$
"""
# `db lint` passes over functions that return trigger.
CHECK_TRIGGERS = """
    select c.relname || ' ' || t.tgname, f.level || ': ' || f.message
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid
    join pg_proc as p on p.oid = t.tgfoid
    join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
    cross join lateral plpgsql_check_function_tb(t.tgfoid, t.tgrelid, fatal_errors => false,
        security_warnings => true, performance_warnings => true,
        oldtable => t.tgoldtable, newtable => t.tgnewtable) as f
    where not t.tgisinternal and t.tgparentid = 0
"""
BREAK_TIMESTAMPS = """
    create or replace function private.tg__timestamps() returns trigger
    language plpgsql as $$ begin new.nowhere := now(); return new; end $$
"""
# Advisors count how often each index that is not unique was scanned.
READINGS = """
    select case a.amname
        when 'gin' then format(
            'select from %%s where %%s @@ ''word''::tsquery', i.indrelid::regclass, k.names)
        else format('select from %%s where %%s order by %%s limit 1', i.indrelid::regclass,
            coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'), k.names) end
    from pg_index as i
    join pg_class as c on c.oid = i.indexrelid and c.relkind = 'i'
    join pg_am as a on a.oid = c.relam
    cross join lateral (
        select string_agg(concat_ws(' ', pg_get_indexdef(i.indexrelid, n, true),
            case when i.indoption[n - 1] & 1 = 1 then 'desc' end,
            case when i.indoption[n - 1] & 2 = 2 then 'nulls first' end), ', ' order by n)
        from generate_series(1, i.indnkeyatts) as n
    ) as k (names)
    where not i.indisunique and c.relnamespace::regnamespace::text = any (%s)
"""
UNUSED_INDEXES = """
    select s.indexrelid::regclass::text from pg_stat_user_indexes as s join pg_index as i using (indexrelid)
    where s.idx_scan = 0 and not i.indisunique and s.schemaname = any (%s)
"""


def remote(url: str) -> str:
    return f"--remote={url}"


def test_the_address_that_status_shows_is_one_to_work_with(supabase: CommandLine, desk: Desk) -> None:
    statement = "select name from public.organizations where id = private.first_organization_id()"
    names = supabase.output("db", "query", statement, "--read-only", "-o", "csv", remote(desk.db_url))
    assert desk.value(statement) in names.splitlines()


# Migrations


def test_every_migration_is_known_on_both_sides(supabase: CommandLine, database: str) -> None:
    listed = supabase.answer("migration", "list", remote(database))["migrations"]
    assert [(each["local"], each["remote"]) for each in listed] == [(each, each) for each in VERSIONS]


def test_there_is_nothing_left_to_apply(supabase: CommandLine, database: str) -> None:
    assert supabase.answer("migration", "up", remote(database), "--yes")["applied"] == []
    pushed = supabase.answer("db", "push", "--dry-run", remote(database), "--yes")
    assert (pushed["upToDate"], pushed["migrations"]) == (True, [])


def test_the_seed_goes_in(supabase: CommandLine, database: str) -> None:
    pushed = supabase.answer("db", "push", "--include-seed", remote(database), "--yes")
    assert (pushed["migrations"], pushed["seeds"]) == ([], ["supabase/seed.sql"])
    with connected(database) as connection:
        assert connection.execute("select count(*) > 0 from public.tickets").fetchone() == (True,)


# Lint


def test_lint_finds_nothing_in_any_function(supabase: CommandLine, checked_database: str) -> None:
    assert findings(supabase, *LINT, remote(checked_database)) == []


def test_lint_sees_a_mistake(supabase: CommandLine, checked_database: str) -> None:
    with connected(checked_database) as connection:
        connection.execute(MAKE_MISTAKE)
        (found,) = findings(supabase, *LINT, remote(checked_database))
        connection.execute("drop function private.mistake()")
    assert found["function"] == "private.mistake"
    assert [issue["message"] for issue in found["issues"]] == ['column "nowhere" does not exist']


def test_no_trigger_has_a_mistake_either(checked_database: str) -> None:
    with psycopg.connect(checked_database) as connection:
        connection.execute("create extension if not exists plpgsql_check")
        assert connection.execute(CHECK_TRIGGERS).fetchall() == []
        connection.execute(BREAK_TIMESTAMPS)
        found = connection.execute(CHECK_TRIGGERS).fetchall()
        assert ("comments _100_timestamps", 'error: record "new" has no field "nowhere"') in found
        connection.rollback()


# Advisors


def test_advisors_only_note_that_nothing_has_used_the_indexes_of_a_fresh_database(
    supabase: CommandLine, database: str
) -> None:
    found = findings(supabase, *ADVISORS, remote(database))
    assert {(each["level"], each["name"]) for each in found} == {("INFO", "unused_index")}


def test_advisors_note_nothing_once_every_index_has_been_used(supabase: CommandLine, database: str) -> None:
    with connected(database) as connection:
        read_by_every_index(connection)
        assert connection.execute(UNUSED_INDEXES, [SCHEMAS]).fetchall() == []
    assert findings(supabase, *ADVISORS, remote(database)) == []


def test_advisors_see_a_mistake(supabase: CommandLine, database: str) -> None:
    with connected(database) as connection:
        connection.execute("create table public.mistake (id uuid primary key)")
        connection.execute("grant select on public.mistake to anon")
    found = findings(supabase, *ADVISORS, remote(database))
    assert ("rls_disabled_in_public", "mistake") in {
        (each["name"], each["metadata"]["name"]) for each in found
    }


# Types


def test_types_have_every_table_and_the_words_of_a_role(supabase: CommandLine, database: str) -> None:
    types = supabase.output("gen", "types", "--lang", "typescript", "-s", "public", remote(database))
    with connected(database) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        words = connection.execute("select unnest(enum_range(null::public.member_role))::text").fetchall()
    assert {("tickets",), ("comments",)} < set(tables)
    assert [table for (table,) in tables if f'"{table}": {{' not in types] == []
    assert "|".join(f'"{word}"' for (word,) in words) in types


# How


def findings(supabase: CommandLine, *arguments: str) -> list[dict[str, Any]]:
    """Run lint or advisors and return what they have found; they fail if and only if they find something."""
    done = supabase.run(*arguments, "--output-format", "json")
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    assert (done.returncode != 0) is bool(found), done.stderr
    return found


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def read_by_every_index(connection: Connection) -> None:
    """Read by each index once, which shows that each can be used, and let that be counted."""
    for setting in ("enable_seqscan", "enable_sort", "enable_incremental_sort"):
        connection.execute(f"set {setting} = off".encode())
    for (reading,) in connection.execute(READINGS, [SCHEMAS]).fetchall():
        connection.execute(reading)
    connection.execute("select pg_stat_force_next_flush()")
