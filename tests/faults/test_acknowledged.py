"""What was acknowledged is there, whatever was killed afterwards."""

import asyncio
import signal
from collections.abc import Callable

import httpx
import pytest

from tests.desk import Desk, unique
from tests.faults.clients import LARGE_LIMIT, Writers, ask, async_client_of, bearer, eventually
from tests.faults.outside import Outside
from tests.faults.processes import (
    api_workers,
    kill,
    kill_a_backend,
    kill_api,
    kill_postgres,
    kill_postmaster,
    kill_worker,
)

LOST_TICKETS = (
    "select w.id from unnest(%s::uuid[]) as w (id) where w.id not in (select id from public.tickets)"
)
LOST_COMMENTS = (
    "select w.id from unnest(%s::uuid[]) as w (id) where w.id not in (select id from public.comments)"
)
USED = "select u.request_id from public.token_usage as u where u.request_id like %s"
BEFORE, AFTER = 60, 60


def assert_kept(writers: Writers, url: str) -> None:
    """Everything that was acknowledged has to be in the database."""
    assert len(writers.tickets) > BEFORE / 2
    assert len(writers.comments) > BEFORE / 4
    assert ask(url, LOST_TICKETS, [writers.tickets]) == []
    assert ask(url, LOST_COMMENTS, [writers.comments]) == []
    assert not writers.surprises, writers.surprises[:3]


@pytest.mark.parametrize("end", [kill_worker, kill_api, kill_postmaster, kill_postgres, kill_a_backend])
async def test_nothing_that_was_acknowledged_is_lost_when_a_process_is_killed(
    home: Desk, end: Callable[[Desk], None]
) -> None:
    async with Writers(home) as writers:
        await writers.go_on(BEFORE)
        end(home)
        await writers.go_on(AFTER)
    assert_kept(writers, home.db_url)
    assert writers.failures, "nobody noticed: was anything killed?"


async def test_one_of_three_workers_that_is_killed_takes_only_its_own_requests_along(far: Desk) -> None:
    async with Writers(far) as writers:
        await writers.go_on(BEFORE)
        before = api_workers(far)
        kill(before[1])
        await writers.go_on(AFTER)
        await eventually(lambda: len(api_workers(far)) == 3, 10, "there are three workers again")
    assert set(before) - set(api_workers(far)) == {before[1]}
    assert_kept(writers, far.db_url)
    assert writers.failures["503"] == 0


async def test_nothing_that_was_acknowledged_is_lost_when_the_database_loses_its_power(
    far: Desk, outside: Outside
) -> None:
    async with Writers(far) as writers:
        await writers.go_on(BEFORE)
        outside.kill()
        outside.start()
        await writers.go_on(AFTER)
    assert_kept(writers, outside.url)


async def test_nothing_that_was_acknowledged_is_lost_when_the_whole_desk_is_killed(home: Desk) -> None:
    async with Writers(home) as writers:
        await writers.go_on(BEFORE)
        home.kill()
    home.start()
    assert_kept(writers, home.db_url)


def noted(outside: Outside, mark: str) -> set[str]:
    """Return the ids of the requests in the usage log that begin so."""
    return {request_id for (request_id,) in ask(outside.url, USED, [f"{mark}%"])}


async def keep_reading(desk: Desk, mark: str, token: str, answered: list[str]) -> None:
    """Ask until nobody answers any more, and note the id of each request that was answered."""
    async with async_client_of(desk, bearer(token)) as client:
        while True:
            request_id = unique(mark)
            try:
                answer = await client.get("/integration-tickets/", headers={"X-Request-ID": request_id})
            except httpx.TransportError:
                return
            assert answer.status_code == 200, answer.text
            answered.append(request_id)


async def test_every_request_that_was_answered_before_an_orderly_stop_is_in_the_usage_log(
    far: Desk, outside: Outside
) -> None:
    mark, answered = unique("stop"), list[str]()
    token = far.token(rate_limit=LARGE_LIMIT)
    readers = [asyncio.create_task(keep_reading(far, mark, token, answered)) for _ in range(8)]
    await eventually(lambda: len(answered) > 200, 20, "200 answers")
    assert far.process
    far.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*readers), 10)
    far.stop()
    assert set(answered) <= noted(outside, mark)


async def test_usage_that_could_not_be_written_is_written_when_the_database_is_back(
    far: Desk, outside: Outside
) -> None:
    mark = unique("away")
    token = far.token(rate_limit=LARGE_LIMIT)
    async with async_client_of(far, bearer(token)) as client:
        ids = [unique(mark) for _ in range(30)]
        for request_id in ids:
            answer = await client.get("/integration-tickets/", headers={"X-Request-ID": request_id})
            assert answer.status_code == 200
    outside.stop()
    outside.start()
    await eventually(lambda: noted(outside, mark) == set(ids), 3, "all rows are there")
