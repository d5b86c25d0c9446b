"""The contract's limits: 1000 an hour for a person, 100 an hour for an address without a token."""

from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from tests.desk import Desk

from .conftest import BASE, User, assert_error


def test_person_has_a_thousand_requests_an_hour(agent: User, colleague: User) -> None:
    first = agent.get("/categories/")
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("1000", "999")
    assert int(first.headers["x-ratelimit-reset"]) % 3600 == 0
    for _ in range(999):
        answer = agent.get("/users/1/")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (404, "0")
    spent = agent.get("/categories/")
    assert_error(spent, 429, "Request was throttled", "rate_limit_exceeded")
    until_reset = int(spent.headers["x-ratelimit-reset"]) - datetime.now(UTC).timestamp()
    assert abs(int(spent.headers["retry-after"]) - until_reset) <= 2
    assert colleague.get("/categories/").status_code == 200


def test_address_without_a_token_has_a_hundred(desk: Desk, agent: User) -> None:
    with httpx.Client(base_url=desk.url + BASE) as visitor:

        def refused_token() -> httpx.Response:
            return visitor.post("/auth/token/refresh/", json={"refresh": "x"})

        def no_token() -> httpx.Response:
            return visitor.get("/tickets/")

        def bad_token() -> httpx.Response:
            return visitor.get("/tickets/", headers={"Authorization": "Bearer x"})

        asking = [refused_token, no_token, bad_token]
        answers = [asking[n % 3]() for n in range(100)]
        remaining = [answer.headers["x-ratelimit-remaining"] for answer in answers]
        assert remaining == [str(n) for n in reversed(range(100))]
        for ask in asking:
            assert_error(ask(), 429, "Request was throttled", "rate_limit_exceeded")
        # Who shows a good token, and the documentation, are not counted with them.
        assert agent.get("/categories/").status_code == 200
        assert visitor.get("/docs").status_code == 200


def test_limits_can_be_set(another_desk: Callable[..., Desk]) -> None:
    limits = '{"helpdesk": {"user": "2/hour", "anonymous": "1/hour", "organization": "3/hour"}}'
    desk = another_desk(DESKBASE_LIMITS=limits)
    organization = desk.organization()
    for statuses in ([200, 200, 429], [200, 429, 429]):
        with User(desk, desk.member("agent", organization)) as client:
            assert [client.get("/tags/").status_code for _ in statuses] == statuses
    url = f"{desk.url}{BASE}/tags/"
    assert [httpx.get(url).status_code for _ in range(2)] == [401, 429]


@pytest.mark.parametrize("path", ["/docs", "/redoc/", "/openapi.json", "/../docs/"])
def test_documentation_is_for_everyone_and_costs_nothing(desk: Desk, path: str) -> None:
    answer = httpx.get(f"{desk.url}{BASE}{path}")
    assert answer.status_code == 200
    assert "x-ratelimit-limit" not in answer.headers
