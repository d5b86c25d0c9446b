"""The pool: one call for one statement, and a database that goes away and comes back."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.db import Database, encode
from api.embedded import Embedded
from api.errors import SqlError, UnavailableError
from tests.desk import Desk, unique

SLEEP = b"select pg_sleep($1::float8)"


@pytest.fixture
async def db(desk: Desk) -> AsyncIterator[Database]:
    database = Database(desk.db_url, size=2, name=unique("pool"))
    await database.open()
    yield database
    await database.close()


async def test_values_travel_as_text(db: Database) -> None:
    statement = b"select $1::text, $2::int, $3::bool, $4::jsonb, $5::text[], $6::uuid, $7::text"
    list_of_texts = ["a", 'quo"te', "back\\slash", "{,}", None, "NULL", ""]
    row = await db.one(statement, ["ü🔥", -5, True, b'{"a": 1}', list_of_texts, None, ""])
    assert row[:4] == ("ü🔥".encode(), b"-5", b"t", b'{"a": 1}')
    assert row[5:] == (None, b"")
    (length, joined) = await db.one(
        b"select cardinality($1::text[]), array_to_string($1::text[], '|', 'null')", [list_of_texts]
    )
    assert (length, joined) == (b"7", b'a|quo"te|back\\slash|{,}|null|NULL|')


async def test_rows_come_in_order(db: Database) -> None:
    rows = await db.rows(b"select i, i * i from generate_series(1, 3) as i")
    assert rows == [(b"1", b"1"), (b"2", b"4"), (b"3", b"9")]


async def test_large_values_pass_both_ways(db: Database) -> None:
    text = "x" * 20_000_000
    (back,) = await db.one(b"select $1::text", [text])
    assert back == text.encode()


async def test_refusal_carries_state_word_and_detail(db: Database) -> None:
    statement = b"do $$ begin raise sqlstate 'PT412' using message = 'stale', detail = '{}'; end $$"
    with pytest.raises(SqlError) as error:
        await db.rows(statement)
    assert (error.value.state, error.value.message, error.value.detail) == ("PT412", "stale", "{}")
    with pytest.raises(SqlError) as error:
        await db.one(b"select nonsense")
    assert error.value.state == "42703"
    assert await db.one(b"select 1") == (b"1",)


def test_nul_is_refused_as_postgres_would() -> None:
    with pytest.raises(SqlError) as error:
        encode("a\0b")
    assert error.value.state == "22021"


async def test_more_callers_than_connections_are_all_served(db: Database) -> None:
    rows = await asyncio.gather(*[db.one(b"select $1::int", [i]) for i in range(200)])
    assert rows == [(str(i).encode(),) for i in range(200)]
    assert db.connections == (2, 2, 0)


async def test_cancelled_callers_leave_the_pool_whole(db: Database) -> None:
    tasks = [asyncio.create_task(db.one(SLEEP, ["0.05"])) for _ in range(20)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await db.one(b"select 1") == (b"1",)
    await asyncio.sleep(0.1)
    assert db.connections == (2, 2, 0)


async def test_nobody_waits_long_for_a_busy_pool(db: Database) -> None:
    sleepers = [db.rows(SLEEP, ["4"]) for _ in range(2)]
    begun = time.monotonic()
    with pytest.raises(UnavailableError):
        await db.one(b"select 1")
    assert time.monotonic() - begun < 2
    for sleeper in sleepers:
        sleeper.cancel()


async def test_server_that_answers_nothing_is_given_up(db: Database) -> None:
    begun = time.monotonic()
    with pytest.raises(UnavailableError):
        await db.one(SLEEP, ["30"], 0.5)
    assert time.monotonic() - begun < 1.5
    assert await db.one(b"select 1") == (b"1",)


async def test_connection_that_is_cut_comes_back(desk: Desk, db: Database) -> None:
    await db.one(b"select 1")
    desk.sql(
        "select pg_terminate_backend(a.pid) from pg_stat_activity as a where a.application_name like 'pool-%'"
    )
    begun = time.monotonic()
    while time.monotonic() - begun < 3:
        try:
            await db.one(b"select 1")
            break
        except UnavailableError:
            await asyncio.sleep(0.02)
    assert time.monotonic() - begun < 1


async def test_pooler_that_knows_no_prepared_statements_is_worked_with(desk: Desk, db: Database) -> None:
    await asyncio.gather(*[db.one(b"select 41 + $1::int", [1]) for _ in range(4)])
    for _ in range(2):
        await db.rows(b"deallocate all")
    assert await db.one(b"select 41 + $1::int", [1]) == (b"42",)
    assert not db.prepares


async def test_database_that_cannot_be_reached_at_all(tmp_path: Path) -> None:
    database = Database(f"postgresql:///nothing?host={tmp_path}", size=2)
    begun = time.monotonic()
    await database.open(seconds=0.5)
    with pytest.raises(UnavailableError):
        await database.one(b"select 1")
    assert time.monotonic() - begun < 2
    await database.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_database_goes_away_and_comes_back(embedded: Embedded, number: signal.Signals) -> None:
    embedded.start()
    database = Database(embedded.socket_url(), size=4)
    await database.open()
    try:
        under_way = [database.rows(SLEEP, ["20"]) for _ in range(6)]
        await asyncio.sleep(0.1)
        assert embedded.pid
        os.kill(embedded.pid, number)
        begun = time.monotonic()
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        assert {type(answer) for answer in answers} == {UnavailableError}
        assert time.monotonic() - begun < 2
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await database.one(b"select 1")
        await asyncio.sleep(3)  # long enough for a pool that backs off to have backed off
        assert not embedded.running
        embedded.start()
        back = time.monotonic()
        while True:
            try:
                assert await database.one(b"select 1") == (b"1",)
                break
            except UnavailableError:
                await asyncio.sleep(0.02)
        assert time.monotonic() - back < 2
    finally:
        await database.close()
