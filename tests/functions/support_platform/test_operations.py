"""Every operation of the contract, as its document shows it, and beside it who may not."""

import re

import httpx
import pytest

from tests.desk import Desk, unique

from .conftest import BASE, MOUNT, Person, assert_error

TICKET = ["id", "title", "description", "status", "priority", "category_id", "created_at", "updated_at"]
MESSAGE = ["id", "ticket_id", "content", "is_internal", "created_at"]
NOT_FOUND = "Resource not found"
FORBIDDEN = "Insufficient permissions"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def assert_counted(answer: httpx.Response) -> None:
    assert int(answer.headers["x-ratelimit-limit"]) == 1_000_000
    assert 0 <= int(answer.headers["x-ratelimit-remaining"]) < 1_000_000
    assert int(answer.headers["x-ratelimit-reset"]) % 3600 == 0
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


def test_customer_creates_a_ticket(customer: Person, category: str) -> None:
    body = {
        "title": "Can't login to account",
        "description": "Getting invalid credentials error",
        "category_id": category,
        "priority": "high",
    }
    answer = customer.post("/tickets", json=body)
    assert answer.status_code == 201
    ticket = answer.json()
    assert list(ticket) == TICKET
    assert {name: ticket[name] for name in body} == body
    assert ticket["status"] == "open"
    assert RFC3339.fullmatch(ticket["created_at"])
    assert RFC3339.fullmatch(ticket["updated_at"])
    assert answer.headers["etag"] == '"1"'
    assert_counted(answer)


def test_agent_creates_a_ticket_with_a_title_alone(agent: Person) -> None:
    answer = agent.post("/tickets", json={"title": "Short", "unknown": "is ignored", "priority": None})
    assert answer.status_code == 201
    ticket = answer.json()
    assert (ticket["description"], ticket["priority"], ticket["category_id"]) == ("", "medium", None)


def test_customer_lists_their_tickets_and_not_those_of_others(
    customer: Person, other_customer: Person, stranger: Person, agent: Person
) -> None:
    mine, theirs = customer.ticket(title="Mine"), other_customer.ticket(title="Theirs")
    answer = customer.get("/tickets", params={"limit": 100})
    assert answer.status_code == 200
    page = answer.json()
    assert list(page) == ["items", "total", "page", "pages"]
    assert page["items"][0]["id"] == mine
    assert list(page["items"][0]) == TICKET
    assert theirs not in {item["id"] for item in page["items"]}
    assert page["total"] == len(page["items"])
    assert (page["page"], page["pages"]) == (1, 1)
    assert_counted(answer)
    assert [item["id"] for item in agent.get("/tickets?limit=2").json()["items"]] == [theirs, mine]
    assert stranger.get("/tickets").json() == {"items": [], "total": 0, "page": 1, "pages": 0}


def test_list_is_filtered_and_paged(desk: Desk, organization: str, category: str) -> None:
    with Person(desk, desk.member("customer", organization)) as person:
        made = [
            person.ticket(priority=priority, category_id=category if priority == "low" else None)
            for priority in ("low", "medium", "high", "low", "high")
        ]

        def ids(**params: object) -> list[str]:
            answer = person.get("/tickets", params={name: str(value) for name, value in params.items()})
            assert answer.status_code == 200
            return [item["id"] for item in answer.json()["items"]]

        newest = made[::-1]
        assert ids() == ids(status="open") == newest
        assert ids(status="resolved") == []
        assert ids(priority="low") == ids(category=category) == [made[3], made[0]]
        assert ids(priority="high", status="open") == [made[4], made[2]]
        assert ids(category=category, priority="high") == []
        assert ids(category="00000000-0000-4000-8000-000000000000") == []
        assert [ids(page=page, limit=2) for page in (1, 2, 3, 4)] == [newest[:2], newest[2:4], newest[4:], []]
        beyond = person.get("/tickets", params={"page": 9, "limit": 2}).json()
        assert beyond == {"items": [], "total": 5, "page": 9, "pages": 3}


def test_page_has_twenty_items_unless_another_number_is_asked_for(desk: Desk, organization: str) -> None:
    with Person(desk, desk.member("customer", organization)) as person:
        for _ in range(21):
            person.ticket()
        assert len(person.get("/tickets").json()["items"]) == 20
        assert person.get("/tickets").json()["pages"] == 2
        assert len(person.get("/tickets?limit=100").json()["items"]) == 21


def test_people_get_the_tickets_that_they_see(
    *,
    customer: Person,
    agent: Person,
    admin: Person,
    other_customer: Person,
    stranger: Person,
    ticket: str,
) -> None:
    for person in (customer, agent, admin):
        answer = person.get(f"/tickets/{ticket}")
        assert answer.status_code == 200
        assert list(answer.json()) == TICKET
        assert answer.json()["id"] == ticket
        assert answer.headers["etag"] == '"1"'
        assert_counted(answer)
    for person in (other_customer, stranger):
        assert_error(person.get(f"/tickets/{ticket}"), 404, NOT_FOUND)


def test_people_send_messages_on_the_tickets_that_they_see(
    *,
    customer: Person,
    agent: Person,
    admin: Person,
    other_customer: Person,
    stranger: Person,
    ticket: str,
) -> None:
    for version, person in enumerate((customer, agent, admin), start=2):
        answer = person.says(ticket, "Have you tried resetting your password?", is_internal=False)
        assert answer.status_code == 201
        message = answer.json()
        assert list(message) == MESSAGE
        assert (message["ticket_id"], message["is_internal"]) == (ticket, False)
        assert message["content"] == "Have you tried resetting your password?"
        assert RFC3339.fullmatch(message["created_at"])
        assert answer.headers["etag"] == f'"{version}"'
        assert_counted(answer)
    for person in (other_customer, stranger):
        assert_error(person.says(ticket, "?"), 404, NOT_FOUND)


def test_agent_writes_notes_that_customers_may_neither_write_nor_read(
    customer: Person, agent: Person, ticket: str
) -> None:
    assert agent.says(ticket, "They called twice.", is_internal=True).json()["is_internal"] is True
    assert_error(customer.says(ticket, "?", is_internal=True), 403, FORBIDDEN)
    assert customer.says(ticket, "Hello?", is_internal=None).status_code == 201
    seen = [item["content"] for item in customer.get(f"/tickets/{ticket}/messages").json()["items"]]
    assert seen == ["Hello?"]
    seen = [item["content"] for item in agent.get(f"/tickets/{ticket}/messages").json()["items"]]
    assert seen == ["They called twice.", "Hello?"]


def test_messages_come_in_pages_the_oldest_first(
    customer: Person, other_customer: Person, stranger: Person, ticket: str
) -> None:
    for number in range(3):
        customer.says(ticket, f"Message {number}")
    answer = customer.get(f"/tickets/{ticket}/messages", params={"page": 2, "limit": 2})
    assert answer.status_code == 200
    page = answer.json()
    assert list(page) == ["items", "total", "page", "pages"]
    assert [item["content"] for item in page["items"]] == ["Message 2"]
    assert list(page["items"][0]) == MESSAGE
    assert (page["total"], page["page"], page["pages"]) == (3, 2, 2)
    assert answer.headers["etag"] == '"4"'
    assert customer.get(f"/tickets/{ticket}/messages?page=3&limit=2").json()["items"] == []
    for person in (other_customer, stranger):
        assert_error(person.get(f"/tickets/{ticket}/messages"), 404, NOT_FOUND)


def test_closed_ticket_takes_no_more_from_its_customer(
    desk: Desk, customer: Person, agent: Person, ticket: str
) -> None:
    desk.sql("update public.tickets set status = 'closed' where id = %s", [ticket])
    assert customer.get(f"/tickets/{ticket}").json()["status"] == "resolved"
    detail = assert_error(customer.says(ticket, "One more thing"), 409)
    assert "closed" in detail
    assert agent.says(ticket, "For the file.", is_internal=True).status_code == 201


def test_people_list_the_categories_of_their_organization(
    customer: Person, agent: Person, stranger: Person, category: str
) -> None:
    for person in (customer, agent):
        answer = person.get("/categories")
        assert answer.status_code == 200
        assert answer.json() == [
            {"id": category, "name": "Billing", "description": "Billing and payment issues"}
        ]
        assert_counted(answer)
    assert stranger.get("/categories").json() == []


def test_both_mounts_serve_the_same(desk: Desk, customer: Person, ticket: str) -> None:
    with Person(desk, customer.member, base=f"/functions/v1{BASE}") as other:
        assert other.get(f"/tickets/{ticket}").text == customer.get(f"/tickets/{ticket}").text


def test_trailing_slash_and_head_are_understood(customer: Person, ticket: str) -> None:
    assert customer.get(f"/tickets/{ticket}/").status_code == 200
    head = customer.head(f"/tickets/{ticket}")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", '"1"')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/tickets/x/y/z", 404),
        ("DELETE", "/tickets", 405),
        ("PATCH", "/tickets/00000000-0000-4000-8000-000000000000", 405),
        ("POST", "/categories", 405),
        ("GET", "/webhooks/incoming", 405),
    ],
)
def test_unknown_path_and_method_come_in_the_envelope(
    customer: Person, method: str, path: str, status: int
) -> None:
    answer = customer.request(method, path)
    assert_error(answer, status, NOT_FOUND if status == 404 else "")
    assert ("allow" in answer.headers) == (status == 405)


def test_path_beside_the_version_is_nothing(desk: Desk, customer: Person) -> None:
    answer = httpx.get(desk.url + MOUNT + "/tickets", headers=customer.headers)
    assert_error(answer, 404, NOT_FOUND)


# Who gets in


def test_whoever_shows_no_jwt_of_a_person_is_not_authenticated(desk: Desk, ticket: str) -> None:
    credentials = [
        None,
        "Bearer",
        "Basic dXNlcjpwYXNz",
        "Bearer not.a.jwt",
        f"Bearer {desk.token()}",
        f"Bearer {desk.anon_key}",
        f"Bearer {desk.service_key}",
        f"Bearer {desk.secret_key}",
    ]
    for credential in credentials:
        headers = {"Authorization": credential} if credential else {}
        with httpx.Client(base_url=desk.url + BASE, headers=headers) as client:
            for method, path in (
                ("GET", "/tickets"),
                ("POST", "/tickets"),
                ("GET", f"/tickets/{ticket}"),
                ("GET", f"/tickets/{ticket}/messages"),
                ("POST", f"/tickets/{ticket}/messages"),
                ("GET", "/categories"),
                ("DELETE", "/categories"),
            ):
                assert_error(client.request(method, path), 401, "Not authenticated")
            assert client.get("/nothing").json() == {"detail": "Resource not found"}


@pytest.mark.parametrize(
    ("path", "methods"), [("/tickets", "GET, OPTIONS, POST"), ("/categories", "GET, OPTIONS")]
)
def test_options_of_a_path_are_all_its_methods(agent: Person, path: str, methods: str) -> None:
    answer = agent.options(path)
    assert (answer.status_code, answer.headers["allow"]) == (204, methods)
    refused = agent.delete(path)
    assert (refused.status_code, set(refused.headers["allow"].split(", "))) == (405, set(methods.split(", ")))


def test_session_that_ends_and_member_who_is_deactivated_are_out_at_once(
    desk: Desk, organization: str
) -> None:
    logged_out, deactivated = desk.member("agent", organization), desk.member("customer", organization)
    session = desk.session(logged_out)
    with (
        Person(desk, logged_out, jwt=desk.jwt(logged_out, session_id=session)) as first,
        Person(desk, deactivated) as second,
    ):
        assert [first.get("/tickets").status_code, second.get("/tickets").status_code] == [200, 200]
        desk.sql("delete from auth.sessions where id = %s", [session])
        desk.sql("update public.members set is_active = false where id = %s", [deactivated.id])
        for person in (first, second):
            assert_error(person.get("/tickets"), 401, "Not authenticated")


def test_session_that_owes_its_second_factor_is_told_so(desk: Desk, organization: str) -> None:
    member = desk.member("agent", organization)
    session = desk.session(member)
    desk.sql(
        "insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)"
        " values (gen_random_uuid(), %s, 'totp', 'verified', now(), now())",
        [member.user_id],
    )
    with Person(desk, member, jwt=desk.jwt(member, session_id=session)) as person:
        assert_error(person.get("/tickets"), 403, "The second factor has to be verified first.")


def test_person_who_is_member_of_nothing_sees_and_writes_nothing(desk: Desk) -> None:
    member = desk.member("customer", desk.organization())
    desk.sql("delete from public.members where id = %s", [member.id])
    with Person(desk, member, jwt=desk.jwt(member, app_metadata={"provider": "email"})) as person:
        assert person.get("/tickets").json()["items"] == []
        assert person.get("/categories").json() == []
        assert_error(person.post("/tickets", json={"title": "x"}), 403, FORBIDDEN)


def test_organization_in_a_jwt_does_not_open_it(desk: Desk, customer: Person, ticket: str) -> None:
    outsider = desk.member("agent", desk.organization(unique("Outside")))
    claims = {"organization_id": customer.member.organization_id, "role": "admin"}
    with Person(desk, outsider, jwt=desk.jwt(outsider, app_metadata=claims)) as person:
        assert person.get("/tickets").json()["items"] == []
        assert_error(person.get(f"/tickets/{ticket}"), 404, NOT_FOUND)
