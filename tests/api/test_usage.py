"""The usage log: late, but nothing is lost that can be kept."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from api import usage
from api.db import Database
from api.keys import authenticator_password
from api.metrics import Metrics
from api.migrate import login_url
from api.usage import UsageLog, Use
from tests.desk import Desk, unique

NOTED = "select count(*) from public.token_usage as u where u.operation = %s"
ROW = "select status, duration_ms, request_id, at from public.token_usage where operation = %s"
HOLDER = """
    select t.organization_id::text, t.id::text from public.integration_tokens as t
    join private.integration_token_secrets as s on s.token_id = t.id
    where s.hash = sha256(convert_to(%s, 'UTF8'))
"""


@pytest.fixture
async def db(desk: Desk) -> AsyncIterator[Database]:
    database = Database(login_url(desk.db_url, authenticator_password(desk.jwt_secret)), size=1)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def use(desk: Desk) -> Use:
    """One request of a token, under an operation that no other test has."""
    organization, token = desk.sql(HOLDER, [desk.token()])[0]
    claims = msgspec.json.encode({"app_metadata": {"organization_id": organization, "token_id": token}})
    return Use(claims, unique("operation"), 200, 0.0015, b"request", time.time())


def dropped(metrics: Metrics) -> float:
    lines = metrics.exposition().decode().splitlines()
    return float(next(line for line in lines if line.startswith("deskbase_usage_dropped_total")).split()[1])


async def test_rows_are_written_within_a_second(desk: Desk, db: Database, use: Use) -> None:
    log = UsageLog(db, Metrics())
    log.open()
    for _ in range(30):
        log.note(use)
    deadline = time.monotonic() + 1
    while desk.value(NOTED, [use.operation]) < 30:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await log.close()
    row = desk.sql(ROW, [use.operation])[0]
    assert row[:3] == (200, 1.5, "request")
    assert abs(row[3].timestamp() - use.at) < 0.001


async def test_rows_are_written_on_stop(desk: Desk, db: Database, use: Use) -> None:
    log = UsageLog(db, Metrics())
    log.open()
    for _ in range(usage.LARGEST_BATCH + 5):
        log.note(use)
    await log.close()
    assert desk.value(NOTED, [use.operation]) == usage.LARGEST_BATCH + 5


async def test_rows_survive_an_outage(desk: Desk, db: Database, use: Use) -> None:
    away = Database("postgresql:///nothing", size=1)
    metrics = Metrics()
    log = UsageLog(away, metrics)
    log.note(use)
    await log.flush()
    log._db = db
    await log.flush()
    assert desk.value(NOTED, [use.operation]) == 1
    assert dropped(metrics) == 0


async def test_rows_beyond_the_bound_are_dropped_and_counted(
    db: Database, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "KEPT_ROWS", 10)
    metrics = Metrics()
    log = UsageLog(db, metrics)
    for _ in range(13):
        log.note(use)
    assert dropped(metrics) == 3


async def test_what_cannot_be_written_on_stop_is_counted(use: Use) -> None:
    metrics = Metrics()
    log = UsageLog(Database("postgresql:///nothing", size=1), metrics)
    log.note(use)
    await log.close()
    assert dropped(metrics) == 1


async def test_a_batch_that_the_database_refuses_does_not_block_the_next(
    desk: Desk, db: Database, use: Use
) -> None:
    metrics = Metrics()
    log = UsageLog(db, metrics)
    log.note(use._replace(request_id=b"x" * 201))
    await log.flush()
    log.note(use)
    await log.flush()
    assert desk.value(NOTED, [use.operation]) == 1
    assert dropped(metrics) == 1
