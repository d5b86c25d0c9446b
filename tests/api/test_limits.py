"""The limiter: exact, fair, and never leaving anybody waiting."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from api.credentials import Credential, Kind, anonymous, token_credential
from api.db import Database
from api.errors import ApiError, UnavailableError
from api.keys import authenticator_password
from api.limits import LimitedError, Limiter, Permit, Rule, token_rule
from api.metrics import Metrics
from api.migrate import login_url
from api.settings import Limit
from tests.desk import Desk, unique

HOUR = 3600


@pytest.fixture
async def db(desk: Desk) -> AsyncIterator[Database]:
    database = Database(login_url(desk.db_url, authenticator_password(desk.jwt_secret)), size=4)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def limiter(db: Database, metrics: Metrics) -> Limiter:
    return Limiter(db, metrics)


@pytest.fixture
def visitor() -> Credential:
    return anonymous(unique("address"))


def rule_of(count: int) -> Rule:
    return Rule("tests", Limit(count, HOUR))


async def outcomes(*permits: "asyncio.Future[Permit]") -> Counter[str]:
    answers = await asyncio.gather(*permits, return_exceptions=True)
    return Counter(type(answer).__name__ for answer in answers)


async def test_exactly_the_limit_passes_through_two_processes(db: Database, visitor: Credential) -> None:
    limiters = [Limiter(db, Metrics()), Limiter(db, Metrics())]
    found = await outcomes(*[limiters[i % 2].permit(rule_of(70), visitor) for i in range(200)])
    assert found == {"Permit": 70, "LimitedError": 130}


async def test_waiters_are_asked_for_together(
    limiter: Limiter, metrics: Metrics, visitor: Credential
) -> None:
    await asyncio.gather(*[limiter.permit(rule_of(1000), visitor) for _ in range(300)])
    calls = [line for line in metrics.exposition().decode().splitlines() if "limiter_batch_count" in line]
    assert float(calls[0].split()[1]) <= 3


async def test_first_come_first_served(limiter: Limiter, visitor: Credential) -> None:
    permits = [limiter.permit(rule_of(3), visitor) for _ in range(5)]
    await asyncio.wait(permits)
    assert [permit.result().remaining for permit in permits[:3]] == [2, 1, 0]
    assert [type(permit.exception()) for permit in permits[3:]] == [LimitedError, LimitedError]


async def test_permit_tells_where_the_limit_stands(limiter: Limiter, visitor: Credential) -> None:
    permit = await limiter.permit(rule_of(3), visitor)
    headers = dict(permit.headers())
    assert headers[b"x-ratelimit-limit"] == b"3"
    assert headers[b"x-ratelimit-remaining"] == b"2"
    assert int(headers[b"x-ratelimit-reset"]) % HOUR == 0
    assert b'"anon"' in permit.claims


async def test_refusal_says_when_to_come_back(limiter: Limiter, visitor: Credential) -> None:
    await limiter.permit(rule_of(1), visitor)
    with pytest.raises(LimitedError) as error:
        await limiter.permit(rule_of(1), visitor)
    assert (error.value.status, error.value.word) == (429, "rate_limit_exceeded")
    assert 1 <= int(dict(error.value.headers)[b"retry-after"]) <= HOUR
    assert dict(error.value.permit.headers())[b"x-ratelimit-remaining"] == b"0"


async def test_without_a_limit_nothing_is_counted(limiter: Limiter, visitor: Credential) -> None:
    permit = await limiter.permit(Rule("tests"), visitor)
    assert permit.headers() == []


async def test_holders_do_not_share_a_limit(limiter: Limiter) -> None:
    visitors = [anonymous(unique("address")) for _ in range(40)]
    found = await outcomes(*[limiter.permit(rule_of(2), v) for v in visitors for _ in range(3)])
    assert found == {"Permit": 80, "LimitedError": 40}


async def test_token_has_its_own_limit_at_every_way_in(desk: Desk, limiter: Limiter) -> None:
    token = token_credential(desk.token(rate_limit=3))
    found = await outcomes(
        *[limiter.permit(token_rule(contract, None), token) for contract in ("one", "two", "one", "two")]
    )
    assert found == {"Permit": 3, "LimitedError": 1}
    override = await limiter.permit(token_rule("one", Limit(7, HOUR)), token)
    assert override.limit == b"7"


async def test_permit_carries_the_claims_of_the_token(desk: Desk, limiter: Limiter) -> None:
    permit = await limiter.permit(token_rule("x", None), token_credential(desk.token()))
    assert permit.kind is Kind.TOKEN
    assert desk.first_organization().encode() in permit.claims


async def test_unknown_token_is_refused_and_hurts_nobody_else(
    desk: Desk, limiter: Limiter, visitor: Credential
) -> None:
    nobody = token_credential(desk.value("select (private.new_secret()).secret"))
    refused, passed = limiter.permit(token_rule("x", None), nobody), limiter.permit(rule_of(5), visitor)
    with pytest.raises(ApiError) as error:
        await refused
    assert (error.value.status, error.value.word) == (401, "invalid_token")
    assert (await passed).remaining == 4


async def test_credential_that_the_database_cannot_digest_hurts_nobody_else(
    limiter: Limiter, visitor: Credential
) -> None:
    poison = Credential(Kind.USER, "authenticated", b"poison", claims=b"{no json")
    refused, passed = limiter.permit(rule_of(5), poison), limiter.permit(rule_of(5), visitor)
    with pytest.raises(ApiError) as error:
        await refused
    assert error.value.status == 401
    assert (await passed).remaining == 4


async def test_who_goes_away_before_the_call_spends_nothing(limiter: Limiter, visitor: Credential) -> None:
    permits = [limiter.permit(rule_of(10), visitor) for _ in range(10)]
    for permit in permits[:5]:
        permit.cancel()
    await asyncio.wait(permits)
    assert min(permit.result().remaining for permit in permits[5:]) == 5


async def test_who_goes_away_during_the_call_takes_nobody_along(
    limiter: Limiter, visitor: Credential
) -> None:
    permits = [limiter.permit(rule_of(10), visitor) for _ in range(10)]
    await asyncio.sleep(0)
    for permit in permits[::2]:
        permit.cancel()
    assert await outcomes(*permits) == {"Permit": 5, "CancelledError": 5}
    assert (await limiter.permit(rule_of(10), anonymous(unique("address")))).remaining == 9


async def test_newcomers_are_served_after_a_call_under_way(limiter: Limiter, visitor: Credential) -> None:
    early = limiter.permit(rule_of(10), visitor)
    await asyncio.sleep(0)
    late = limiter.permit(rule_of(10), visitor)
    assert (await early).remaining == 9
    assert (await late).remaining == 8


async def test_database_that_is_away_fails_everybody_at_once(metrics: Metrics, visitor: Credential) -> None:
    limiter = Limiter(Database("postgresql:///nothing", size=1), metrics)
    for _ in range(2):
        assert await outcomes(*[limiter.permit(rule_of(1), visitor) for _ in range(5)]) == {
            UnavailableError.__name__: 5
        }
