"""The root of the service, and figures that hold for all worker processes."""

import re
from collections.abc import Callable

import httpx

from tests.desk import Desk, wait_until


def test_root_says_that_it_is_there_and_ready(desk: Desk) -> None:
    assert httpx.get(f"{desk.url}/health").json() == {"status": "ok"}
    ready = httpx.get(f"{desk.url}/ready")
    assert (ready.status_code, ready.json()) == (200, {"database": True, "postgrest": True, "relay": True})


def test_unknown_path_is_not_found(desk: Desk) -> None:
    for path in ("/", "/nothing", "/integration-ticketsx", "/functions/v1/nothing", "/rest/v2"):
        answer = httpx.get(desk.url + path)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
        assert answer.headers["x-request-id"]


def counted(desk: Desk, status: int) -> float:
    text = httpx.get(f"{desk.url}/metrics").text
    found = re.findall(rf'deskbase_requests_total{{.*status="{status}".*}} ([\d.]+)', text)
    return sum(map(float, found))


def test_every_answer_is_counted_over_all_processes(another_desk: Callable[..., Desk]) -> None:
    desk = another_desk(DESKBASE_WORKERS="2")
    for _ in range(40):
        # A new connection each time, so that both processes get some.
        assert httpx.get(f"{desk.url}/integration-tickets/").status_code == 401
    wait_until(lambda: counted(desk, 401) == 40, 5, "40 answers counted")
    assert {counted(desk, 401) for _ in range(10)} == {40}


def test_metrics_name_nobody(desk: Desk) -> None:
    token = desk.token()
    httpx.get(f"{desk.url}/integration-tickets/", headers={"Authorization": f"Bearer {token}"})
    text = httpx.get(f"{desk.url}/metrics").text
    assert "deskbase_request_seconds_bucket" in text
    assert token not in text
    assert desk.first_organization() not in text
