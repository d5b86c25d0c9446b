"""What logging in costs, and whom: passwords are hashed beside the requests, which are to keep their latency.

The desk is the one that the other figures are measured on, so one API process does both. How many can log in
is a matter of how fast this machine computes argon2id.
"""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from api.passwords import HASHER
from tests.bench.desk import Desk
from tests.bench.load import Job, Result, run_apart
from tests.bench.variants import CLIENTS, get, request

AT_ONCE = 50
ROUNDS = 3
SECONDS = 0.8
WARM_UP_SECONDS = 0.2
HEAD_START_SECONDS = 0.5
TAIL_SECONDS = 0.3
SETTLE_SECONDS = 0.8
BARE_SECONDS = 0.5
LOG_IN = "POST /auth/v1/token?grant_type=password"
PASSWORD = "a heron stands in the reeds"

ADD_PEOPLE = """
    insert into auth.users (aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data,
        raw_user_meta_data)
    select 'authenticated', 'authenticated', 'person-' || n || '@bench.example', %(hash)s, now(),
        jsonb_build_object('provider', 'email', 'organization_id', %(organization)s::text, 'role', 'agent'),
        jsonb_build_object('name', 'Person ' || n)
    from generate_series(1, %(count)s) as n
    returning email
"""


class Ratio(msgspec.Struct, frozen=True):
    """One side over the other, in the median of the rounds, with the median of both sides."""

    figure: str
    ratio: float
    ratios: list[float]
    over: float
    under: float
    unit: str


def measure(desk: Desk) -> list[Ratio]:
    """Ask for a ticket alone, and while people log in; log in alone, and compute argon2id alone."""
    gets = [get(desk, desk.tokens[0])] * CLIENTS
    logins = _logins(desk)
    alone, beside, rates_beside, rates, bare = [], [], [], [], []
    for _ in range(ROUNDS):
        bare.append(_bare_rate())
        alone.append(_load(desk, gets, SECONDS))
        with ThreadPoolExecutor(1) as background:
            seconds = HEAD_START_SECONDS + SECONDS + TAIL_SECONDS
            others = background.submit(_load, desk, logins, seconds)
            time.sleep(HEAD_START_SECONDS)
            beside.append(_load(desk, gets, SECONDS))
            rates_beside.append(others.result().per_second)
        # Whoever has hung up is still in the queue.
        time.sleep(SETTLE_SECONDS)
        rates.append(_load(desk, logins, SECONDS).per_second)
        time.sleep(SETTLE_SECONDS)
    return [
        _ratio(f"GET's p50, {AT_ONCE} logging in over nobody", _p50s(beside), _p50s(alone), "ms"),
        _ratio(f"GET's p99, {AT_ONCE} logging in over nobody", _p99s(beside), _p99s(alone), "ms"),
        _ratio("log-ins over argon2id by itself", rates, bare, "a second"),
        _ratio("log-ins beside GETs over nothing else", rates_beside, rates, "a second"),
    ]


def _logins(desk: Desk) -> list[str]:
    """Make people, all with the same password, and return the requests that log them in."""
    values = {"hash": HASHER.hash(PASSWORD), "organization": desk.organization_id, "count": AT_ONCE}
    with desk.owner() as connection:
        emails = [str(row[0]) for row in connection.execute(ADD_PEOPLE, values)]
    return [
        request(LOG_IN, desk.api, desk.anon_key, {"email": email, "password": PASSWORD}) for email in emails
    ]


def _load(desk: Desk, requests: list[str], seconds: float) -> Result:
    return run_apart(Job(*desk.api, requests, 200, seconds, WARM_UP_SECONDS))


def _bare_rate() -> float:
    """Return how many passwords a second all cores verify that have nothing else to do."""
    stored, threads = HASHER.hash(PASSWORD), len(os.sched_getaffinity(0))
    began = time.perf_counter()

    def verify_on() -> int:
        count = 0
        while time.perf_counter() - began < BARE_SECONDS:
            HASHER.verify(stored, PASSWORD)
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        counts = [pool.submit(verify_on) for _ in range(threads)]
    return sum(count.result() for count in counts) / (time.perf_counter() - began)


def _ratio(figure: str, over: list[float], under: list[float], unit: str) -> Ratio:
    ratios = [one / other for one, other in zip(over, under, strict=True)]
    return Ratio(
        figure=figure,
        ratio=round(statistics.median(ratios), 2),
        ratios=[round(each, 2) for each in ratios],
        over=round(statistics.median(over), 2),
        under=round(statistics.median(under), 2),
        unit=unit,
    )


def _p50s(results: list[Result]) -> list[float]:
    return [result.p50_ms for result in results]


def _p99s(results: list[Result]) -> list[float]:
    return [result.p99_ms for result in results]
