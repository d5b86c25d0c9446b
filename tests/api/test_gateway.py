"""`/rest/v1`: the real PostgREST, reached with every kind of credential."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.settings import Settings
from tests.desk import Desk, _command, _kill, unique, wait_until

ORGANIZATIONS = "/organizations?select=id"


@pytest.fixture
def rest(desk: Desk) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=desk.rest_url, timeout=30) as client:
        yield client


def bearer(token: str, key: str | None = None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} | ({"apikey": key} if key else {})


def assert_own_error(answer: httpx.Response, status: int, word: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert body["code"] == word
    assert body["message"]
    assert set(body) == {"code", "message", "details", "hint"}


def test_every_kind_of_key_has_its_role(desk: Desk, rest: httpx.Client) -> None:
    organization = desk.organization()
    path = f"{ORGANIZATIONS}&id=eq.{organization}"
    for key in (desk.service_key, desk.secret_key):
        for headers in ({"apikey": key}, bearer(key), bearer(key, key)):
            answer = rest.get(path, headers=headers)
            assert (answer.status_code, answer.json()) == (200, [{"id": organization}])
            assert "x-ratelimit-limit" not in answer.headers
    for key in (desk.anon_key, desk.publishable_key):
        for headers in ({"apikey": key}, bearer(key), bearer(key, key)):
            answer = rest.get("/articles?select=id", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit"] == "1200"
            assert rest.get(path, headers=headers).status_code in {401, 403}


def test_key_may_be_a_query_parameter(desk: Desk, rest: httpx.Client) -> None:
    assert rest.get(f"/articles?apikey={desk.anon_key}&select=id&limit=1").status_code == 200


def test_user_acts_as_themselves_whatever_the_key(desk: Desk, rest: httpx.Client) -> None:
    member = desk.member("agent", desk.organization())
    for key in (None, desk.anon_key, desk.publishable_key, desk.service_key, desk.secret_key):
        answer = rest.get(ORGANIZATIONS, headers=bearer(desk.jwt(member), key))
        assert (answer.status_code, answer.json()) == (200, [{"id": member.organization_id}])
        assert answer.headers["x-ratelimit-limit"] == "6000"
        assert int(answer.headers["x-ratelimit-reset"]) % 60 == 0


def test_ended_session_is_refused_at_once(desk: Desk, rest: httpx.Client) -> None:
    member = desk.member("agent")
    session = desk.session(member)
    headers = bearer(desk.jwt(member, session_id=session), desk.anon_key)
    assert rest.get(ORGANIZATIONS, headers=headers).status_code == 200
    desk.sql("delete from auth.sessions where id = %s", [session])
    assert_own_error(rest.get(ORGANIZATIONS, headers=headers), 401, "session_ended")


def test_integration_token_acts_under_its_policies(desk: Desk, rest: httpx.Client) -> None:
    headers = bearer(desk.token(rate_limit=5)) | {"Prefer": "return=representation"}
    created = rest.post("/tickets?select=id,subject", headers=headers, json={"subject": "Direct"})
    assert created.status_code == 201, created.text
    assert created.json()[0]["subject"] == "Direct"
    assert created.headers["x-ratelimit-limit"] == "5"
    assert rest.get("/tickets?select=id", headers=headers).json() == [{"id": created.json()[0]["id"]}]


def test_token_has_one_limit_for_rest_and_contract(desk: Desk, rest: httpx.Client) -> None:
    headers = bearer(desk.token(rate_limit=2))
    assert rest.get("/tickets?select=id", headers=headers).headers["x-ratelimit-remaining"] == "1"
    contract = httpx.get(f"{desk.url}/integration-tickets/", headers=headers)
    assert contract.headers["x-ratelimit-remaining"] == "0"
    refused = rest.get("/tickets?select=id", headers=headers)
    assert_own_error(refused, 429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1


def test_use_of_a_token_is_noted(desk: Desk, rest: httpx.Client) -> None:
    mark = unique("rest")
    rest.get("/tickets", headers=bearer(desk.token()) | {"X-Request-ID": mark})
    noted = "select u.operation, u.status from public.token_usage as u where u.request_id = %s"
    assert wait_until(lambda: desk.sql(noted, [mark]), 2) == [("GET", 200)]


def test_bad_credentials_are_refused(desk: Desk, rest: httpx.Client) -> None:
    assert_own_error(rest.get("/tickets"), 401, "missing_token")
    for headers in (
        {"apikey": "nonsense"},
        {"apikey": "sb_secret_nonsense"},
        {"apikey": desk.jwt(desk.member("admin"))},
        bearer("nonsense"),
        bearer("sb_secret_nonsense"),
        bearer("nonsense", desk.service_key),
        bearer("stk_nonsense", desk.service_key),
        bearer(desk.jwt(desk.member("admin"), exp=1), desk.service_key),
        {"Authorization": "Basic x", "apikey": desk.service_key},
    ):
        answer = rest.get("/tickets", headers=headers)
        assert_own_error(answer, 401, "invalid_token")
        assert "www-authenticate" in answer.headers


def test_answers_of_postgrest_come_through_unchanged(desk: Desk, rest: httpx.Client) -> None:
    service = bearer(desk.service_key)
    for path, headers in (
        ("/organizations?select=id&limit=2&order=id", {"Prefer": "count=exact"}),
        ("/organizations?select=id&limit=1", {"Accept": "text/csv"}),
        ("/organizations?select=nonsense", {}),
        ("/nonsense", {}),
        ("/rpc/nonsense", {}),
        ("/organizations?name=eq.%C3%A4%20%26b", {}),
        ("/", {}),
    ):
        direct = httpx.get(desk.postgrest_url + path, headers=service | headers, timeout=30)
        through = rest.get(path, headers=service | headers)
        assert (through.status_code, through.content) == (direct.status_code, direct.content)
        for name in ("content-type", "content-range", "content-location", "content-profile"):
            assert through.headers.get(name) == direct.headers.get(name)


def test_head_has_no_body(desk: Desk, rest: httpx.Client) -> None:
    answer = rest.head("/organizations", headers=bearer(desk.service_key) | {"Prefer": "count=exact"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-range"].partition("/")[2]) >= 1


def test_writes_of_every_method_pass(desk: Desk, rest: httpx.Client) -> None:
    headers = bearer(desk.service_key) | {"Prefer": "return=representation"}
    name = unique("Gateway")
    created = rest.post("/organizations", headers=headers, json={"name": name})
    assert created.status_code == 201
    row = f"/organizations?id=eq.{created.json()[0]['id']}"
    assert rest.patch(row, headers=headers, json={"name": f"{name}!"}).json()[0]["name"] == f"{name}!"
    assert rest.delete(row, headers=headers).status_code == 200
    assert rest.get(row, headers=headers).json() == []


def test_large_bodies_stream_both_ways(desk: Desk, rest: httpx.Client) -> None:
    big = "x" * 200_000
    rows = [{"name": unique("Big"), "settings": {"text": big}} for _ in range(15)]
    body = json.dumps(rows).encode()
    chunks = (body[at : at + 65536] for at in range(0, len(body), 65536))
    headers = bearer(desk.service_key) | {"Prefer": "return=representation"}
    created = rest.post(
        "/organizations?select=id,settings",
        headers=headers | {"Content-Type": "application/json"},
        content=chunks,
    )
    assert created.status_code == 201
    assert [row["settings"]["text"] for row in created.json()] == [big] * 15
    ids = ",".join(row["id"] for row in created.json())
    rest.delete(f"/organizations?id=in.({ids})", headers=headers)


def test_body_over_ten_mebibytes_is_too_large(desk: Desk, rest: httpx.Client) -> None:
    headers = bearer(desk.service_key) | {"Content-Type": "application/json"}
    big = b"x" * (10 * 1024 * 1024 + 1)
    assert_own_error(rest.post("/organizations", headers=headers, content=big), 413, "payload_too_large")
    chunks = (big[at : at + 65536] for at in range(0, len(big), 65536))
    assert_own_error(rest.post("/organizations", headers=headers, content=chunks), 413, "payload_too_large")


def test_body_that_ends_early_is_not_passed_on(desk: Desk) -> None:
    name = unique("Half")
    with socket.create_connection(("127.0.0.1", int(desk.url.rpartition(":")[2])), timeout=10) as connection:
        half = f'{{"name": "{name}"}}'.encode()
        connection.sendall(
            b"POST /rest/v1/organizations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nAuthorization: Bearer " + desk.service_key.encode() + b"\r\n\r\n"
            b"%x\r\n%s\r\n" % (len(half), half)
        )
    with httpx.Client(base_url=desk.rest_url, headers=bearer(desk.service_key)) as client:
        for _ in range(5):
            assert client.get(f"/organizations?name=eq.{name}").json() == []


def test_browser_may_call_and_read_the_limits(desk: Desk, rest: httpx.Client) -> None:
    origin = {"Origin": "https://shop.example"}
    preflight = rest.options("/tickets", headers=origin | {"Access-Control-Request-Method": "PATCH"})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")
    assert "apikey" in preflight.headers["access-control-allow-headers"]
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    answer = rest.get("/articles", headers=origin | {"apikey": desk.anon_key})
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert "content-range" in answer.headers["access-control-expose-headers"]


def test_limits_are_per_user_and_per_address_and_can_be_set(another_desk: Callable[..., Desk]) -> None:
    limits = '{"rest": {"user": "3/hour", "anonymous": "2/hour"}}'
    desk = another_desk(DESKBASE_LIMITS=limits, DESKBASE_WORKERS="2")

    def statuses(times: int, headers: dict[str, str]) -> list[int]:
        get = httpx.get
        return [get(f"{desk.rest_url}/articles?select=id", headers=headers).status_code for _ in range(times)]

    one, other = (bearer(desk.jwt(desk.member("agent")), desk.anon_key) for _ in range(2))
    assert statuses(5, one) == [200] * 3 + [429] * 2
    assert statuses(1, other) == [200]
    assert statuses(3, {"apikey": desk.anon_key}) == [200, 200, 429]
    assert statuses(10, {"apikey": desk.service_key}) == [200] * 10


async def test_without_postgrest_the_answer_says_how_to_get_it(desk: Desk) -> None:
    app = create_app(Settings(jwt_secret=desk.jwt_secret, postgrest_url=""))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk") as client:
        answer = await client.get("/rest/v1/tickets", headers={"apikey": desk.anon_key})
    assert_own_error(answer, 503, "unavailable")
    assert "npm install" in answer.json()["message"]


def test_postgrest_that_is_restarting_is_a_503_and_comes_back(another_desk: Callable[..., Desk]) -> None:
    desk = another_desk()
    headers = {"apikey": desk.service_key}
    seen: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=desk.rest_url, headers=headers) as client:
            while not stop.wait(0.01):
                seen.append(client.get(ORGANIZATIONS).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_until(lambda: len(seen) > 5)
        postgrest = [pid for pid, _ in desk.descendants() if "postgrest" in _command(pid)]
        _kill(postgrest)
        wait_until(lambda: set(seen) - {200})
        wait_until(lambda: seen[-20:] == [200] * 20, 15)
    finally:
        stop.set()
        thread.join()
    assert set(seen) <= {200, 502, 503}
