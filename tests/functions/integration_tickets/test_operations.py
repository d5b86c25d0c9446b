"""Every operation of the contract, as its document shows it."""

import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.desk import Desk

from .conftest import BASE, Partner

FIELDS = {"id", "title", "description", "status", "priority", "category", "metadata", "created_at"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def assert_counted(answer: httpx.Response) -> None:
    assert int(answer.headers["x-ratelimit-limit"]) == 100_000
    assert 0 <= int(answer.headers["x-ratelimit-remaining"]) < 100_000
    assert int(answer.headers["x-ratelimit-reset"]) % 3600 == 0
    assert re.fullmatch(r"[\w.:/+=@-]+", answer.headers["x-request-id"])


def test_health_names_the_operations(partner: Partner) -> None:
    for path in ("/", ""):
        answer = partner.get(path)
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ok",
            "endpoints": [
                "POST /tickets",
                "GET /tickets/:id",
                "POST /tickets/:id/comments",
                "PATCH /tickets/:id/status",
            ],
        }
        assert answer.headers["content-type"] == "application/json"
        assert_counted(answer)


def test_partner_creates_a_ticket(partner: Partner) -> None:
    body = {
        "title": "Issue with API integration",
        "description": "Detailed description of the issue",
        "priority": "high",
        "category": "Technical Support",
        "metadata": {"customer_id": "CUST-123", "reference_id": "EXT-456"},
    }
    answer = partner.post("/tickets", json=body)
    assert answer.status_code == 201
    ticket = answer.json()["ticket"]
    assert set(ticket) == FIELDS
    assert {name: ticket[name] for name in body} == body
    assert ticket["status"] == "open"
    assert RFC3339.fullmatch(ticket["created_at"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(ticket["created_at"])) < timedelta(minutes=1)
    assert answer.headers["etag"] == '"1"'
    assert_counted(answer)


def test_ticket_without_optional_fields_has_defaults(partner: Partner) -> None:
    sent: list[dict[str, object]] = [
        {"title": "Bare"},
        {"title": "Bare", "description": None, "priority": None, "category": None, "metadata": None},
        {"title": "Bare", "unknown": {"field": [1]}},
    ]
    for body in sent:
        answer = partner.post("/tickets", json=body)
        assert answer.status_code == 201
        ticket = answer.json()["ticket"]
        assert (ticket["priority"], ticket["category"], ticket["metadata"]) == ("medium", None, {})


def test_metadata_keeps_its_numbers(partner: Partner) -> None:
    raw = '{"title": "Numbers", "metadata": {"price": 1.10, "id": 123456789012345678901234567890}}'
    created = partner.post("/tickets", content=raw, headers={"Content-Type": "application/json"})
    assert created.status_code == 201
    found = partner.get(f"/tickets/{created.json()['ticket']['id']}")
    assert "1.10" in found.text
    assert "123456789012345678901234567890" in found.text


def test_partner_gets_its_ticket(partner: Partner, ticket: str) -> None:
    answer = partner.get(f"/tickets/{ticket}")
    assert answer.status_code == 200
    found = answer.json()["ticket"]
    assert set(found) == FIELDS | {"updated_at"}
    assert found["id"] == ticket
    assert RFC3339.fullmatch(found["updated_at"])
    assert answer.headers["etag"] == '"1"'
    assert_counted(answer)


def test_partner_comments_on_its_ticket(desk: Desk, partner: Partner, ticket: str) -> None:
    for is_internal in (True, False, None):
        body = {"content": "We have received additional information.", "is_internal": is_internal}
        answer = partner.post(f"/tickets/{ticket}/comments", json=body)
        assert answer.status_code == 201
        assert set(answer.json()) == {"comment_id"}
        stored = desk.sql(
            "select is_internal from public.comments where id = %s", [answer.json()["comment_id"]]
        )
        assert stored == [(bool(is_internal),)]
        assert_counted(answer)
    assert answer.headers["etag"] == '"4"'


@pytest.mark.parametrize("status", ["open", "in_progress", "waiting", "resolved", "closed"])
def test_partner_sets_every_status(partner: Partner, ticket: str, status: str) -> None:
    answer = partner.patch(f"/tickets/{ticket}/status", json={"status": status})
    assert answer.status_code == 200
    body = answer.json()
    assert body["success"] is True
    assert set(body["ticket"]) == {"id", "status", "updated_at"}
    assert (body["ticket"]["id"], body["ticket"]["status"]) == (ticket, status)
    assert partner.get(f"/tickets/{ticket}").json()["ticket"]["status"] == status
    assert_counted(answer)


def test_both_mounts_serve_the_same(desk: Desk, partner: Partner, ticket: str) -> None:
    with Partner(desk, partner.token, base=f"/functions/v1{BASE}") as other:
        assert other.get("").json() == partner.get("").json()
        assert other.get(f"/tickets/{ticket}").text == partner.get(f"/tickets/{ticket}").text


def test_trailing_slash_is_tolerated(partner: Partner, ticket: str) -> None:
    assert partner.get(f"/tickets/{ticket}/").status_code == 200
    assert partner.post("/tickets/", json={"title": "Slash"}).status_code == 201


def test_head_answers_as_get_without_a_body(partner: Partner, ticket: str) -> None:
    answer = partner.head(f"/tickets/{ticket}")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == '"1"'


def test_options_names_the_methods(partner: Partner) -> None:
    answer = partner.options("/tickets")
    assert answer.status_code == 204
    assert "POST" in answer.headers["allow"]


def test_browser_may_call(desk: Desk, partner: Partner) -> None:
    origin = {"Origin": "https://shop.example"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, apikey",
    }
    preflight = httpx.options(f"{desk.url}{BASE}/tickets", headers=origin | asks)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    allowed = preflight.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "apikey", "x-client-info", "content-type", "idempotency-key"} <= set(allowed)
    answer = partner.get("/", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-ratelimit-remaining", "retry-after", "etag", "x-request-id"} <= set(exposed)


def test_valid_request_id_is_kept_and_another_replaced(partner: Partner) -> None:
    assert partner.get("/", headers={"X-Request-ID": "shop-42"}).headers["x-request-id"] == "shop-42"
    for bad in ("with space", "ü", "x" * 129):
        answer = partner.get("/", headers={b"X-Request-ID": bad.encode()})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
