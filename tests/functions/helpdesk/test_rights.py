"""Who may do what: every operation, as everyone."""

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.desk import Desk, unique

from .conftest import BASE, User, assert_error

ACTORS = ["customer", "agent", "lead", "stranger"]


@dataclass(frozen=True)
class Operation:
    """A request, and the status with which each of ACTORS is answered; what is there is the agent's."""

    method: str
    path: str
    statuses: tuple[int, int, int, int]
    body: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


ALL = (200, 200, 200, 200)
MADE = (201, 201, 201, 201)
INSIDE = (200, 200, 200, 404)
DESK_MADE = (403, 201, 201, 201)
DESK_CHANGES = (403, 200, 200, 404)
LEAD_DELETES = (403, 403, 204, 404)
OPERATIONS = [
    Operation("GET", "/tickets/", ALL),
    Operation("POST", "/tickets/", MADE, {"title": "x"}),
    Operation("GET", "/tickets/stats/", ALL),
    Operation("GET", "/tickets/my_tickets/", ALL),
    Operation("GET", "/tickets/{ticket}/", INSIDE),
    Operation("PUT", "/tickets/{ticket}/", INSIDE, {"title": "x"}),
    Operation("PATCH", "/tickets/{ticket}/", INSIDE, {"title": "x"}),
    Operation("DELETE", "/tickets/{ticket}/", (403, 204, 204, 404)),
    Operation("POST", "/tickets/{ticket}/assign/", (403, 200, 200, 404), {"user_id": "{user}"}),
    Operation("POST", "/tickets/{ticket}/change_status/", INSIDE, {"status": "resolved"}),
    Operation("GET", "/tickets/{ticket}/comments/", INSIDE),
    Operation("POST", "/tickets/{ticket}/comments/", (201, 201, 201, 404), {"content": "x"}),
    Operation("GET", "/tickets/{ticket}/comments/{comment}/", INSIDE),
    Operation("PUT", "/tickets/{ticket}/comments/{comment}/", DESK_CHANGES, {"content": "x"}),
    Operation("PATCH", "/tickets/{ticket}/comments/{comment}/", DESK_CHANGES, {"content": "x"}),
    Operation("DELETE", "/tickets/{ticket}/comments/{comment}/", (403, 204, 204, 404)),
    *(
        operation
        for path, name in (("/categories/", "category"), ("/tags/", "tag"))
        for operation in (
            Operation("GET", path, ALL),
            Operation("POST", path, DESK_MADE, {"name": "{unique}"}),
            Operation("GET", f"{path}{{{name}}}/", INSIDE),
            Operation("PUT", f"{path}{{{name}}}/", DESK_CHANGES, {"name": "{unique}"}),
            Operation("PATCH", f"{path}{{{name}}}/", DESK_CHANGES, {"color": "#000000"}),
            Operation("DELETE", f"{path}{{{name}}}/", LEAD_DELETES),
        )
    ),
    Operation("GET", "/tags/popular/", ALL),
    Operation("GET", "/templates/", ALL),
    Operation("POST", "/templates/", DESK_MADE, {"title": "x", "content": "x"}),
    Operation("GET", "/templates/{template}/", (404, 200, 200, 404)),
    Operation("PUT", "/templates/{template}/", (404, 200, 200, 404), {"title": "x", "content": "x"}),
    Operation("PATCH", "/templates/{template}/", (404, 200, 200, 404), {"title": "x"}),
    Operation("DELETE", "/templates/{template}/", (404, 204, 204, 404)),
    Operation("POST", "/templates/{template}/use_template/", (404, 200, 200, 404), {"context": {}}),
    Operation("GET", "/users/", ALL),
    Operation("GET", "/users/{user}/", INSIDE),
    Operation("GET", "/filters/", ALL),
    Operation("POST", "/filters/", MADE, {"name": "x"}),
    Operation("GET", "/filters/{filter}/", (404, 200, 200, 404)),
    Operation("PUT", "/filters/{filter}/", (404, 200, 403, 404), {"name": "x", "is_public": True}),
    Operation("PATCH", "/filters/{filter}/", (404, 200, 403, 404), {"name": "x"}),
    Operation("DELETE", "/filters/{filter}/", (404, 204, 403, 404)),
]
TITLES = {403: "Permission denied", 404: "Not found"}


def things(agent: User, customer: User) -> dict[str, int]:
    """Make one of everything: a ticket that the customer wrote, and around it what the agent has."""
    ticket = customer.ticket()["id"]
    return {
        "ticket": ticket,
        "comment": agent.make(f"/tickets/{ticket}/comments/", content="Hello")["id"],
        "category": agent.make("/categories/", name=unique("Category"))["id"],
        "tag": agent.make("/tags/", name=unique("tag"))["id"],
        "template": agent.make("/templates/", title="x", content="x")["id"],
        "filter": agent.make("/filters/", name="x", is_public=True)["id"],
        "user": agent.number,
    }


def request(client: httpx.Client, operation: Operation, ids: dict[str, int]) -> httpx.Response:
    stand_ins = {"{unique}": unique("x"), "{user}": ids["user"]}
    body = {name: stand_ins.get(str(value), value) for name, value in (operation.body or {}).items()}
    return client.request(
        operation.method, operation.path.format(**ids), json=None if operation.body is None else body
    )


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_everyone_may_do_this_as_far_as_it_is_theirs_to_do(
    operation: Operation, customer: User, agent: User, lead: User, stranger: User
) -> None:
    ids = things(agent, customer)
    for client, status in zip((customer, agent, lead, stranger), operation.statuses, strict=True):
        answer = request(client, operation, ids)
        assert answer.status_code == status, answer.text
        assert answer.headers["x-ratelimit-limit"] == "1000"
        if status in TITLES:
            assert_error(answer, status, TITLES[status])
        if status == 204:
            ids = things(agent, customer)
        if status == 204:
            ids = things(agent, customer)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_nobody_does_this_without_a_token_of_a_person(desk: Desk, agent: User, operation: Operation) -> None:
    ids = dict.fromkeys(("ticket", "comment", "category", "tag", "template", "filter", "user"), 1)
    with httpx.Client(base_url=desk.url + BASE) as anyone:
        answer = request(anyone, operation, ids)
        assert_error(answer, 401, "Authentication failed", "missing_token")
        assert answer.headers["x-ratelimit-limit"] == "100"
        anyone.headers["Authorization"] = f"Bearer {desk.token(organization=agent.member.organization_id)}"
        assert_error(request(anyone, operation, ids), 401, "Authentication failed", "invalid_token")


def test_person_of_no_organization_sees_and_makes_nothing(desk: Desk) -> None:
    user = desk.value(
        "insert into auth.users (aud, role, email, email_confirmed_at)"
        " values ('authenticated', 'authenticated', %s, now()) returning id::text",
        [f"{unique('nobody')}@example.com"],
    )
    member = desk.member("customer", desk.organization())
    nobody = desk.jwt(member, sub=user, app_metadata={"provider": "email"})
    with httpx.Client(base_url=desk.url + BASE, headers={"Authorization": f"Bearer {nobody}"}) as client:
        for path in ("/tickets/", "/categories/", "/templates/", "/users/", "/filters/"):
            assert client.get(path).json()["count"] == 0
        assert client.get("/tickets/stats/").json()["total_tickets"] == 0
        for path, body in (("/tickets/", {"title": "x"}), ("/filters/", {"name": "x"})):
            assert_error(client.post(path, json=body), 403, "Permission denied", "forbidden")
