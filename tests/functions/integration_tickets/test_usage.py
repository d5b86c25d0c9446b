"""The usage log of tokens."""

from tests.desk import Desk, unique, wait_until

from .conftest import Partner

USED = """
    select u.operation, u.status, u.request_id, u.duration_ms > 0
    from public.token_usage as u
    where u.request_id like %s
    order by u.at
"""


def test_every_request_of_a_token_is_noted_within_a_second(desk: Desk) -> None:
    mark = unique("usage")
    with Partner(desk, desk.token(rate_limit=4)) as client:
        client.headers["X-Request-ID"] = f"{mark}-1"
        ticket = client.ticket()
        client.get(f"/tickets/{ticket}", headers={"X-Request-ID": f"{mark}-2"})
        client.post("/tickets", json={}, headers={"X-Request-ID": f"{mark}-3"})
        client.get("/nothing", headers={"X-Request-ID": f"{mark}-4"})
        client.get("/", headers={"X-Request-ID": f"{mark}-5"})
    wait_until(lambda: len(desk.sql(USED, [f"{mark}%"])) == 5, 1.5)
    assert desk.sql(USED, [f"{mark}%"]) == [
        ("CreateTicket", 201, f"{mark}-1", True),
        ("GetTicket", 200, f"{mark}-2", True),
        ("CreateTicket", 400, f"{mark}-3", True),
        ("none", 404, f"{mark}-4", True),
        ("none", 429, f"{mark}-5", True),
    ]


def test_nothing_is_noted_of_a_token_that_is_none(desk: Desk) -> None:
    mark = unique("usage")
    secret = desk.value("select (private.new_secret()).secret")
    with Partner(desk, secret) as client:
        client.get("/", headers={"X-Request-ID": mark})
    with Partner(desk) as client:
        client.get("/", headers={"X-Request-ID": f"{mark}-after"})
    wait_until(lambda: desk.sql(USED, [f"{mark}%"]), 2)
    assert len(desk.sql(USED, [f"{mark}%"])) == 1
