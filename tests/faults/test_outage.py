"""A database that goes away: everybody is told at once, and served again as soon as it is back."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from tests.desk import Desk, wait_until
from tests.faults.clients import LARGE_LIMIT, TICKETS, Everywhere, ask, bearer, client_of, get
from tests.faults.outside import Outside
from tests.faults.processes import (
    is_running,
    kill,
    kill_api,
    kill_worker,
    postgrest,
    postmaster,
    workers_that_listen,
)

REFUSED_WITHIN = 3.0
BACK_WITHIN = 3.0
LONG_OUTAGE = 10.5
AT_ONCE = 20
CUT_CONNECTIONS = """
    select pg_terminate_backend(a.pid) from pg_stat_activity as a
    where a.application_name in ('deskbase api', 'postgrest')
"""


@dataclass(frozen=True)
class Call:
    """A request that succeeds as long as the database is there."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None = None
    envelope: set[str] = field(default_factory=set)
    """The keys of the body of an error."""

    def send(self, client: httpx.Client) -> httpx.Response:
        return client.request(self.method, self.path, headers=self.headers, json=self.body)

    def succeeds(self, client: httpx.Client) -> bool:
        with suppress(httpx.TransportError):
            return self.send(client).is_success
        return False


def calls(desk: Desk) -> list[Call]:
    """Return a request for each operation of the contract, and at last one for PostgREST."""
    token = bearer(desk.token(rate_limit=LARGE_LIMIT))
    with client_of(desk) as client:
        made = client.post(TICKETS, headers=token, json={"title": "Before"})
    ticket = f"{TICKETS}/{made.json()['ticket']['id']}"
    ours = {"error", "message", "details"}
    theirs = {"code", "message", "details", "hint"}
    return [
        Call("GET", "/integration-tickets/", token, envelope=ours),
        Call("POST", TICKETS, token, {"title": "New"}, ours),
        Call("GET", ticket, token, envelope=ours),
        Call("POST", f"{ticket}/comments", token, {"content": "New"}, ours),
        Call("PATCH", f"{ticket}/status", token, {"status": "waiting"}, ours),
        Call("GET", "/rest/v1/tickets?select=id&limit=1", token, envelope=theirs),
    ]


def assert_all_refused(desk: Desk, everything: list[Call]) -> None:
    """Send everything several times at once; all of it has to be refused properly, and soon."""

    def refused(call: Call) -> float:
        begun = time.monotonic()
        answer = call.send(client)
        assert answer.status_code == 503, (call, answer.text)
        assert set(answer.json()) <= call.envelope
        assert answer.json().get("error", answer.json().get("code")) == "unavailable"
        assert answer.json()["message"] == "The service is briefly unavailable; try again."
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-request-id"]
        return time.monotonic() - begun

    with client_of(desk, timeout=REFUSED_WITHIN) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        slowest = max(threads.map(refused, everything * (AT_ONCE // len(everything) + 1)))
    assert slowest < REFUSED_WITHIN


def assert_back(desk: Desk, everything: list[Call], since: float) -> None:
    """Every request has to succeed soon after that moment, on every worker."""

    def wait(condition: Callable[[httpx.Client], bool], what: str) -> None:
        for client in everywhere.clients:
            wait_until(partial(condition, client), BACK_WITHIN - (time.monotonic() - since), what)

    with Everywhere(desk) as everywhere:
        for call in everything:
            wait(call.succeeds, f"{call.method} {call.path} succeeds")
        wait(lambda client: client.get("/ready").is_success, "/ready says yes")


def health(desk: Desk) -> int:
    return get(f"{desk.url}/health", timeout=REFUSED_WITHIN).status_code


def readiness(desk: Desk) -> tuple[int, bool]:
    answer = get(f"{desk.url}/ready", timeout=REFUSED_WITHIN)
    return answer.status_code, answer.json()["database"]


@pytest.mark.parametrize(
    ("go_away", "seconds"),
    [(Outside.stop, LONG_OUTAGE), (Outside.kill, 0.0)],
    ids=["stopped for ten seconds", "killed"],
)
def test_clients_are_refused_at_once_while_the_database_is_away_and_served_when_it_is_back(
    far: Desk, outside: Outside, go_away: Callable[[Outside], None], seconds: float
) -> None:
    everything = calls(far)
    assert_back(far, everything, time.monotonic())
    go_away(outside)
    gone = time.monotonic()
    assert_all_refused(far, everything)
    with client_of(far, timeout=REFUSED_WITHIN) as client:

        def is_over() -> bool:
            assert everything[0].send(client).status_code == 503
            return time.monotonic() - gone >= seconds

        wait_until(is_over, seconds + REFUSED_WITHIN, "the outage is over")
    assert_all_refused(far, everything)
    assert readiness(far) == (503, False)
    assert health(far) == 200
    outside.start()
    assert_back(far, everything, time.monotonic())


def test_clients_are_refused_soon_by_a_database_that_answers_nothing_and_served_when_it_does(
    far: Desk, outside: Outside
) -> None:
    everything = calls(far)
    outside.freeze()
    assert_all_refused(far, everything)
    assert health(far) == 200
    wait_until(lambda: readiness(far) == (503, False), 5, "/ready says no")
    outside.thaw()
    assert_back(far, everything, time.monotonic())


def test_clients_hardly_notice_that_every_connection_is_cut(far: Desk) -> None:
    everything = calls(far)
    assert len(ask(far.db_url, CUT_CONNECTIONS)) > 10
    assert_back(far, everything, time.monotonic())


@pytest.mark.parametrize("end", [kill_worker, kill_api])
def test_clients_are_refused_properly_by_an_api_that_was_killed_during_the_outage(
    far: Desk, outside: Outside, end: Callable[[Desk], None]
) -> None:
    everything = calls(far)
    outside.stop()
    end(far)
    wait_until(lambda: len(workers_that_listen(far)) == 3, 10, "three workers take connections again")
    assert health(far) == 200
    assert_all_refused(far, everything)
    assert readiness(far) == (503, False)
    outside.start()
    assert_back(far, everything, time.monotonic())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_clients_are_served_again_by_the_embedded_database_that_was_ended(
    home: Desk, number: signal.Signals
) -> None:
    everything = calls(home)
    ended = postmaster(home)
    os.kill(ended, number)
    wait_until(lambda: not is_running(ended), 10, "Postgres has ended")
    wait_until(lambda: _is_connectable(home), 15, "Postgres runs again")
    assert_back(home, everything, time.monotonic())


def test_only_clients_of_postgrest_notice_that_it_was_killed_and_not_for_long(home: Desk) -> None:
    *contract, rows = calls(home)
    kill(*postgrest(home))
    killed = time.monotonic()
    with client_of(home, timeout=REFUSED_WITHIN) as client:
        refused = rows.send(client)
        assert refused.status_code in {502, 503}
        assert set(refused.json()) == rows.envelope
        assert all(call.succeeds(client) for call in contract)
    assert_back(home, [*contract, rows], killed)


def _is_connectable(desk: Desk) -> bool:
    try:
        psycopg.connect(desk.db_url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
