"""Limits are exact: of a limit of N, N requests pass, through however many processes and doors."""

import asyncio
import time
from collections.abc import Callable
from random import randrange

import httpx

from tests.desk import Desk, wait_until
from tests.faults.clients import NO_TLS, TIMEOUT, bearer
from tests.faults.conftest import ANONYMOUS_LIMIT, USER_LIMIT
from tests.faults.processes import workers_behind

HOUR = 3600
HEALTH = "/integration-tickets/"
ROWS = "/rest/v1/tickets?select=id&limit=1"
ARTICLES = "/rest/v1/articles?select=id&limit=1"


def await_calm() -> None:
    """Wait over the turn of the hour, if it is near: what is counted here belongs into one window."""
    wait_until(lambda: time.time() % HOUR < HOUR - 15, 30, "the next hour has begun")


async def at_once(
    count: int, *desks: Desk, path: str, headers: dict[str, str], address: str | None = None
) -> list[httpx.Response]:
    """Send that many requests at the same time, each over a connection of its own, to the desks in turn."""
    transport = httpx.AsyncHTTPTransport(
        verify=NO_TLS,
        local_address=address,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )
    async with httpx.AsyncClient(transport=transport, headers=headers, timeout=TIMEOUT) as client:
        urls = [desks[number % len(desks)].url + path for number in range(count)]
        answers = await asyncio.gather(*map(client.get, urls))
        for number, desk in enumerate(desks):
            assert len(set(workers_behind(desk, *answers[number :: len(desks)]))) > 1, (
                "one worker got them all"
            )
        return answers


def assert_exact(
    answers: list[httpx.Response], limit: int, is_refusal: Callable[[httpx.Response], bool]
) -> None:
    """Exactly as many as the limit allows have passed, and each was told where it stands."""
    passed = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(passed), len(refused)) == (min(limit, len(answers)), max(len(answers) - limit, 0))
    left = sorted(int(answer.headers["x-ratelimit-remaining"]) for answer in passed)
    assert left == list(range(limit - len(passed), limit))
    resets_at = int(time.time()) // HOUR * HOUR + HOUR
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == str(limit)
        assert answer.headers["x-ratelimit-reset"] == str(resets_at)
    for answer in refused:
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert abs(int(answer.headers["retry-after"]) - (resets_at - time.time())) < 10
        assert is_refusal(answer), answer.text
    assert not any("retry-after" in answer.headers for answer in passed)


def is_ours(answer: httpx.Response) -> bool:
    return bool(answer.json() == {"error": "rate_limit_exceeded", "message": "Rate limit exceeded"})


def is_in_the_shape_of_postgrest(answer: httpx.Response) -> bool:
    return bool(
        answer.json()
        == {"code": "rate_limit_exceeded", "message": "Rate limit exceeded", "details": None, "hint": None}
    )


async def test_a_token_gets_exactly_its_limit_from_three_workers(far: Desk) -> None:
    await_calm()
    token = far.token(rate_limit=50)
    answers = await at_once(120, far, path=HEALTH, headers=bearer(token))
    assert_exact(answers, 50, is_ours)


async def test_a_token_gets_exactly_its_limit_from_two_desks_together(pair: tuple[Desk, Desk]) -> None:
    await_calm()
    token = pair[0].token(rate_limit=50)
    answers = await at_once(120, *pair, path=HEALTH, headers=bearer(token))
    assert_exact(answers, 50, is_ours)


async def test_a_token_has_one_limit_for_the_contract_and_for_postgrest(pair: tuple[Desk, Desk]) -> None:
    await_calm()
    token = bearer(pair[0].token(rate_limit=40))
    both = await asyncio.gather(
        at_once(30, *pair, path=HEALTH, headers=token), at_once(30, *pair, path=ROWS, headers=token)
    )
    answers = both[0] + both[1]
    assert_exact(answers, 40, lambda answer: is_ours(answer) or is_in_the_shape_of_postgrest(answer))


async def test_two_tokens_do_not_share_a_limit(far: Desk) -> None:
    await_calm()
    one, other = (bearer(far.token(rate_limit=15)) for _ in range(2))
    for answers in await asyncio.gather(
        at_once(40, far, path=HEALTH, headers=one), at_once(40, far, path=HEALTH, headers=other)
    ):
        assert_exact(answers, 15, is_ours)


async def test_users_of_postgrest_get_exactly_their_limit_each_from_two_desks(
    pair: tuple[Desk, Desk],
) -> None:
    await_calm()
    desk = pair[0]
    agents = [{"apikey": desk.anon_key, **bearer(desk.jwt(desk.member("agent")))} for _ in range(2)]
    for answers in await asyncio.gather(
        *(at_once(USER_LIMIT + 25, *pair, path=ROWS, headers=agent) for agent in agents)
    ):
        assert_exact(answers, USER_LIMIT, is_in_the_shape_of_postgrest)


async def test_visitors_of_postgrest_get_exactly_their_limit_by_address(pair: tuple[Desk, Desk]) -> None:
    await_calm()
    key = {"apikey": pair[0].publishable_key}
    addresses = [f"127.{randrange(1, 255)}.{randrange(1, 255)}.{last}" for last in (1, 2)]
    for answers in await asyncio.gather(
        *(at_once(40, *pair, path=ARTICLES, headers=key, address=address) for address in addresses)
    ):
        assert_exact(answers, ANONYMOUS_LIMIT, is_in_the_shape_of_postgrest)


async def test_the_service_role_is_not_counted(far: Desk) -> None:
    answers = await at_once(40, far, path=ROWS, headers={"apikey": far.service_key})
    assert {answer.status_code for answer in answers} == {200}
    assert not any("x-ratelimit-limit" in answer.headers for answer in answers)
