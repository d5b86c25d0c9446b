"""Every row of the contract's error table, and who may not do what."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.errors import WORDS
from tests.desk import Desk, wait_until

from .conftest import BASE, Partner

TOKEN_ID = """
    select s.token_id from private.integration_token_secrets as s
    where s.hash = sha256(convert_to(%s, 'UTF8'))
"""
NOBODY = "550e8400-e29b-41d4-a716-446655440000"


def assert_error(answer: httpx.Response, status: int, word: str) -> None:
    """The whole envelope, and the headers that go with it."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"] == word
    assert body["message"]
    assert set(body) <= {"error", "message", "details"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    if word not in {"missing_token", "invalid_token", "unavailable"}:
        assert "x-ratelimit-limit" in answer.headers


@pytest.mark.parametrize("path", ["/tickets", f"/tickets/{NOBODY}"])
def test_missing_token(desk: Desk, path: str) -> None:
    assert_error(httpx.get(f"{desk.url}{BASE}{path}"), 401, "missing_token")


@pytest.mark.parametrize("path", ["/nothing", f"/tickets/{NOBODY}/nothing"])
def test_where_there_is_nothing_nobody_is_asked_for_a_token(desk: Desk, path: str) -> None:
    answer = httpx.get(f"{desk.url}{BASE}{path}")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


def test_a_body_of_any_size_without_a_token_is_a_missing_token(desk: Desk) -> None:
    answer = httpx.post(f"{desk.url}{BASE}/tickets", content=b"x" * 2_000_000)
    assert_error(answer, 401, "missing_token")


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Basic c3RrOnN0aw==", "Bearer stk_", "Bearer stk_" + "0" * 49, "Bearer stk_ü", "stk_x"],
)
def test_header_without_a_token_is_invalid(desk: Desk, header: str) -> None:
    answer = httpx.get(f"{desk.url}{BASE}/", headers=[(b"Authorization", header.encode())])
    assert_error(answer, 401, "invalid_token")


def test_other_credentials_are_no_integration_token(desk: Desk) -> None:
    for credential in (desk.anon_key, desk.service_key, desk.secret_key, desk.jwt(desk.member("admin"))):
        answer = httpx.get(f"{desk.url}{BASE}/", headers={"Authorization": f"Bearer {credential}"})
        assert_error(answer, 401, "invalid_token")


def test_well_formed_token_that_nobody_was_given_is_invalid(desk: Desk) -> None:
    secret = desk.value("select (private.new_secret()).secret")
    with Partner(desk, secret) as client:
        assert_error(client.get("/"), 401, "invalid_token")


def test_scheme_is_read_in_any_case(desk: Desk, partner: Partner) -> None:
    answer = httpx.get(f"{desk.url}{BASE}/", headers={"authorization": f"bEaReR {partner.token}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("action", ["disable_token", "revoke_token"])
def test_token_ends_at_once(desk: Desk, action: str) -> None:
    organization = desk.first_organization()
    with Partner(desk, desk.token()) as client:
        assert client.get("/").status_code == 200
        token_id = desk.value(TOKEN_ID, [client.token])
        desk.sql(f"select private.{action}(%s, %s)", [organization, token_id])
        assert_error(client.get("/"), 401, "invalid_token")
        if action == "disable_token":
            desk.sql("select private.enable_token(%s, %s)", [organization, token_id])
            assert client.get("/").status_code == 200


def test_expired_token_is_invalid(desk: Desk) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    with Partner(desk, desk.token(expires_at=soon)) as client:
        assert client.get("/").status_code == 200
        wait_until(lambda: client.get("/").status_code == 401, 5)


def test_rotated_token_lives_for_its_grace(desk: Desk) -> None:
    organization = desk.first_organization()
    with Partner(desk, desk.token()) as old:
        token_id = desk.value(TOKEN_ID, [old.token])
        mine = old.ticket()
        rotate = "select private.rotate_token(%s, %s, %s) ->> 'token'"
        with Partner(desk, desk.value(rotate, [organization, token_id, 60])) as new:
            assert old.get(f"/tickets/{mine}").status_code == 200
            assert new.get(f"/tickets/{mine}").status_code == 200
        with Partner(desk, desk.value(rotate, [organization, token_id, 0])) as newest:
            assert_error(old.get("/"), 401, "invalid_token")
            assert newest.get(f"/tickets/{mine}").status_code == 200


def test_limit_is_exact_and_ends_in_429(desk: Desk) -> None:
    with Partner(desk, desk.token(rate_limit=3)) as client:
        answers = [client.get("/") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert_error(answers[3], 429, "rate_limit_exceeded")
    assert answers[3].json() == {"error": "rate_limit_exceeded", "message": "Rate limit exceeded"}
    until_reset = int(answers[3].headers["x-ratelimit-reset"]) - datetime.now(UTC).timestamp()
    assert 1 <= int(answers[3].headers["retry-after"]) <= 3600
    assert abs(int(answers[3].headers["retry-after"]) - until_reset) <= 2


def test_errors_count_too(desk: Desk) -> None:
    with Partner(desk, desk.token(rate_limit=3)) as client:
        assert_error(client.get("/nothing"), 404, "not_found")
        assert_error(client.post("/tickets", json={}), 400, "missing_required_field")
        assert_error(client.delete("/tickets"), 405, "method_not_allowed")
        assert_error(client.get("/nothing"), 429, "rate_limit_exceeded")


def test_limit_comes_before_the_body(desk: Desk) -> None:
    with Partner(desk, desk.token(rate_limit=1)) as client:
        client.get("/")
        assert_error(client.post("/tickets", content=b"{"), 429, "rate_limit_exceeded")


def test_ticket_of_nobody_is_not_found(partner: Partner) -> None:
    assert_error(partner.get(f"/tickets/{NOBODY}"), 404, "not_found")
    assert_error(partner.post(f"/tickets/{NOBODY}/comments", json={"content": "?"}), 404, "not_found")
    assert_error(partner.patch(f"/tickets/{NOBODY}/status", json={"status": "open"}), 404, "not_found")


def test_ticket_of_another_token_cannot_be_read_or_written(partner: Partner, colleague: Partner) -> None:
    theirs = colleague.ticket()
    assert_error(partner.get(f"/tickets/{theirs}"), 404, "not_found")
    assert_error(partner.post(f"/tickets/{theirs}/comments", json={"content": "?"}), 401, "not_authorized")
    assert_error(partner.patch(f"/tickets/{theirs}/status", json={"status": "open"}), 401, "not_authorized")
    assert colleague.get(f"/tickets/{theirs}").json()["ticket"]["status"] == "open"


def test_ticket_of_another_organization_is_not_found(partner: Partner, stranger: Partner) -> None:
    theirs = stranger.ticket()
    assert_error(partner.get(f"/tickets/{theirs}"), 404, "not_found")
    assert_error(partner.post(f"/tickets/{theirs}/comments", json={"content": "?"}), 404, "not_found")
    assert_error(partner.patch(f"/tickets/{theirs}/status", json={"status": "open"}), 404, "not_found")


@pytest.mark.parametrize(
    ("scope", "is_refused"),
    [
        ("tickets:write", lambda c, t: c.get(f"/tickets/{t}")),
        ("tickets:read", lambda c, _: c.post("/tickets", json={"title": "x"})),
        ("tickets:read", lambda c, t: c.post(f"/tickets/{t}/comments", json={"content": "x"})),
        ("tickets:read", lambda c, t: c.patch(f"/tickets/{t}/status", json={"status": "open"})),
    ],
)
def test_token_without_the_scope_is_refused(
    desk: Desk, ticket: str, scope: str, is_refused: Callable[[Partner, str], httpx.Response]
) -> None:
    with Partner(desk, desk.token(scopes=[scope])) as client:
        assert_error(is_refused(client, ticket), 403, "insufficient_scope")


@pytest.mark.parametrize("body", [{}, {"title": None}, {"title": ""}, {"title": " \n"}])
def test_ticket_needs_a_title(partner: Partner, body: dict[str, object]) -> None:
    answer = partner.post("/tickets", json=body)
    assert_error(answer, 400, "missing_required_field")
    assert answer.json()["details"] == "title"


@pytest.mark.parametrize("body", [{}, {"content": None}, {"content": ""}, {"content": "\t"}])
def test_comment_needs_content(partner: Partner, ticket: str, body: dict[str, object]) -> None:
    answer = partner.post(f"/tickets/{ticket}/comments", json=body)
    assert_error(answer, 400, "missing_required_field")
    assert answer.json()["details"] == "content"


@pytest.mark.parametrize("body", [{}, {"status": None}, {"status": ""}])
def test_status_is_needed(partner: Partner, ticket: str, body: dict[str, object]) -> None:
    answer = partner.patch(f"/tickets/{ticket}/status", json=body)
    assert_error(answer, 400, "missing_required_field")
    assert answer.json()["details"] == "status"


def test_closed_ticket_takes_no_more(partner: Partner, ticket: str) -> None:
    partner.patch(f"/tickets/{ticket}/status", json={"status": "closed"})
    answer = partner.patch(f"/tickets/{ticket}/status", json={"status": "open"})
    assert answer.status_code < 500
    assert answer.status_code == 200 or answer.json()["error"] in WORDS


def test_unknown_path_and_method(partner: Partner, ticket: str) -> None:
    for path in ("/nothing", "/tickets/x/y/z", "//", "/docs/more", "/tickets/../../health"):
        assert partner.get(path).status_code in {200, 404}
    assert_error(partner.get("/nothing"), 404, "not_found")
    for method, path, allowed in (
        ("DELETE", f"/tickets/{ticket}", "GET"),
        ("GET", "/tickets", "POST"),
        ("PUT", f"/tickets/{ticket}/status", "PATCH"),
        ("POST", "/", "GET"),
    ):
        answer = partner.request(method, path)
        assert_error(answer, 405, "method_not_allowed")
        assert allowed in answer.headers["allow"]


def test_id_that_is_no_uuid_is_an_invalid_field(partner: Partner) -> None:
    for bad in ("1", "x" * 500, "550e8400-e29b-41d4-a716-44665544000g", "%00", "'; drop table tickets; --"):
        answer = partner.get(f"/tickets/{bad}")
        assert_error(answer, 400, "invalid_field")
        assert answer.json()["details"] == "ticket_id"
        assert_error(partner.post(f"/tickets/{bad}/comments", json={"content": "x"}), 400, "invalid_field")
        assert_error(partner.patch(f"/tickets/{bad}/status", json={"status": "open"}), 400, "invalid_field")
