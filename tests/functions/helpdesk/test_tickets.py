"""Tickets: every operation as the contract's document shows it, and whose tickets they are."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.desk import Desk, unique

from .conftest import User, assert_error, assert_invalid

LISTED = {
    "id",
    "title",
    "status",
    "status_display",
    "priority",
    "priority_display",
    "assigned_to",
    "category",
    "tags",
    "created_at",
    "updated_at",
    "due_date",
    "time_since_created",
    "comment_count",
}
DETAILS = {"description", "created_by", "resolution"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def label(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "name", "color")}


# Creating and reading


def test_agent_creates_the_ticket_of_the_document(
    agent: User, colleague: User, category: dict[str, Any], tag: dict[str, Any]
) -> None:
    body = {
        "title": "New ticket title",
        "description": "Detailed description of the issue",
        "priority": "medium",
        "category": category["id"],
        "assigned_to": colleague.number,
        "due_date": "2024-01-20T17:00:00Z",
        "tags": [tag["id"]],
    }
    answer = agent.post("/tickets/", json=body)
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1"'
    ticket = answer.json()
    assert set(ticket) == LISTED | DETAILS
    assert RFC3339.fullmatch(ticket["created_at"])
    assert datetime.fromisoformat(ticket["due_date"]) == datetime(2024, 1, 20, 17, tzinfo=UTC)
    assert ticket["due_date"].endswith("Z")
    shown = {name: value for name, value in ticket.items() if not name.endswith(("_at", "_date"))}
    assert shown == {
        "id": ticket["id"],
        "title": "New ticket title",
        "description": "Detailed description of the issue",
        "status": "open",
        "status_display": "Open",
        "priority": "medium",
        "priority_display": "Medium",
        "category": label(category),
        "tags": [label(tag)],
        "assigned_to": colleague.person,
        "created_by": agent.person,
        "time_since_created": "just now",
        "comment_count": 0,
        "resolution": None,
    }
    assert agent.read(f"/tickets/{ticket['id']}/") == ticket
    (listed,) = [row for row in agent.results("/tickets/") if row["id"] == ticket["id"]]
    assert listed == {name: ticket[name] for name in LISTED}


def test_ticket_needs_a_title_and_nothing_else(customer: User) -> None:
    ticket = customer.ticket(title="Bare", status="closed", unknown={"field": [1]})
    assert (ticket["status"], ticket["priority"], ticket["description"]) == ("open", "medium", "")
    assert (ticket["category"], ticket["assigned_to"], ticket["due_date"], ticket["tags"]) == (None,) * 3 + (
        [],
    )
    assert ticket["created_by"] == customer.person


@pytest.mark.parametrize(
    "due_date",
    ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1900-01-01T00:00:00Z", "2024-02-29T12:00:00Z"],
)
def test_due_date_may_be_any_moment_that_has_four_digits_for_its_year(agent: User, due_date: str) -> None:
    ticket = agent.ticket(due_date=due_date)
    assert ticket["due_date"] == due_date
    assert agent.read(f"/tickets/{ticket['id']}/")["due_date"] == due_date
    changed = agent.patch(f"/tickets/{agent.ticket()['id']}/", json={"due_date": due_date}).json()
    assert changed["due_date"] == due_date


@pytest.mark.parametrize(
    "due_date",
    [
        "2024-01-20T19:00:00+02:00",
        "2024-01-20T17:00:00",
        "2024-01-21T08:59:00+15:59",
        "2024-01-20T17:00Z",
        "2024-01-20 17:00",
    ],
)
def test_due_date_is_utc_unless_it_says_otherwise(agent: User, due_date: str) -> None:
    assert agent.ticket(due_date=due_date)["due_date"] == "2024-01-20T17:00:00Z"


def test_what_only_the_desk_may_write_a_customer_cannot_create(
    customer: User, agent: User, category: dict[str, Any], tag: dict[str, Any]
) -> None:
    for field, value in (
        ("assigned_to", agent.number),
        ("due_date", "2024-01-20T17:00:00Z"),
        ("tags", [tag["id"]]),
    ):
        answer = customer.post("/tickets/", json={"title": unique("Mine"), field: value})
        assert_error(answer, 403, "Permission denied", "forbidden")
    assert customer.ticket(category=category["id"])["category"] == label(category)


def test_trailing_slash_and_both_mounts_are_the_same(desk: Desk, agent: User, ticket: int) -> None:
    with User(desk, agent.member, base="/functions/v1/helpdesk/api/v1") as other:
        texts = {
            client.get(f"/tickets/{ticket}{slash}").text for client in (agent, other) for slash in ("", "/")
        }
        assert len(texts) == 1
        assert other.post("/tickets", json={"title": "Slash"}).status_code == 201


# PUT, PATCH, DELETE


def full_ticket(agent: User, category: dict[str, Any], tag: dict[str, Any]) -> dict[str, Any]:
    return agent.ticket(
        description="Long",
        priority="urgent",
        category=category["id"],
        assigned_to=agent.number,
        due_date="2024-01-20T17:00:00Z",
        tags=[tag["id"]],
    )


def test_put_empties_what_it_leaves_out(agent: User, category: dict[str, Any], tag: dict[str, Any]) -> None:
    ticket = full_ticket(agent, category, tag)
    agent.post(
        f"/tickets/{ticket['id']}/change_status/", json={"status": "resolved", "resolution": "Rebooted"}
    )
    answer = agent.put(f"/tickets/{ticket['id']}/", json={"title": "Only this"})
    assert answer.status_code == 200
    after = answer.json()
    assert answer.headers["etag"] == '"3"'
    emptied: dict[str, Any] = {
        "title": "Only this",
        "description": "",
        "priority": "medium",
        "category": None,
        "assigned_to": None,
        "due_date": None,
        "tags": [],
    }
    assert {name: after[name] for name in emptied} == emptied
    # What became of it is not a field of the form.
    assert (after["status"], after["resolution"]) == ("resolved", "Rebooted")
    assert_invalid(
        agent.put(f"/tickets/{ticket['id']}/", json={"description": "No title"}),
        title="This field is required.",
    )


def test_patch_merges(agent: User, category: dict[str, Any], tag: dict[str, Any]) -> None:
    ticket = full_ticket(agent, category, tag)
    path = f"/tickets/{ticket['id']}/"
    before = ticket
    changes: list[dict[str, Any]] = [
        {"title": "Other"},
        {"description": "Other"},
        {"priority": "low"},
        {"category": None},
        {"assigned_to": None},
        {"due_date": "2030-01-01T00:00:00Z"},
        {"due_date": None},
        {"tags": []},
        {"tags": [tag["id"]]},
        {"status": "in_progress"},
        {"resolution": "Rebooted"},
    ]
    for change in changes:
        answer = agent.patch(path, json=change)
        assert answer.status_code == 200, answer.text
        after = answer.json()
        changed = {name for name in after if after[name] != before[name]} - {"updated_at"}
        assert {name.removesuffix("_display") for name in changed} == set(change)
        before = after
    assert answer.headers["etag"] == f'"{len(changes) + 1}"'


def test_patch_that_changes_nothing_makes_no_version(agent: User, tag: dict[str, Any]) -> None:
    ticket = agent.ticket(tags=[tag["id"]], due_date="2024-01-20T17:00:00Z")
    same = {"title": ticket["title"], "status": "open", "tags": [tag["id"]], "due_date": ticket["due_date"]}
    changes: list[dict[str, Any]] = [{}, same, {"unknown": 1}]
    for change in changes:
        answer = agent.patch(f"/tickets/{ticket['id']}/", json=change)
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
        assert answer.json() == ticket


def test_what_a_ticket_shows_can_be_written_back_though_its_assignee_has_left(
    desk: Desk, agent: User, organization: str
) -> None:
    leaver = User(desk, desk.member("agent", organization))
    ticket = agent.ticket(assigned_to=leaver.number)
    desk.sql("update public.members set is_active = false where id = %s", [leaver.member.id])
    answer = agent.patch(f"/tickets/{ticket['id']}/", json={"title": "Again", "assigned_to": leaver.number})
    assert (answer.status_code, answer.json()["title"]) == (200, "Again")
    assert answer.json()["assigned_to"]["id"] == leaver.number
    other = agent.patch(f"/tickets/{agent.ticket()['id']}/", json={"assigned_to": leaver.number})
    assert_error(other, 400, "Validation failed")
    leaver.close()


def test_customer_changes_what_is_theirs_to_change(customer: User, agent: User, tag: dict[str, Any]) -> None:
    ticket = customer.ticket()["id"]
    agent.patch(f"/tickets/{ticket}/", json={"assigned_to": agent.number, "tags": [tag["id"]]})
    answer = customer.put(f"/tickets/{ticket}/", json={"title": "Smoke", "priority": "high"})
    assert answer.status_code == 200
    after = answer.json()
    assert (after["title"], after["priority"]) == ("Smoke", "high")
    # What is the desk's was left out, and is left alone.
    assert (after["assigned_to"], after["tags"]) == (agent.person, [label(tag)])
    refused: list[dict[str, Any]] = [
        {"assigned_to": None},
        {"due_date": "2024-01-20T17:00:00Z"},
        {"tags": []},
        {"status": "in_progress"},
        {"resolution": "Never mind"},
    ]
    for change in refused:
        answer = customer.patch(f"/tickets/{ticket}/", json=change)
        assert_error(answer, 403, "Permission denied", "forbidden")
    assert agent.read(f"/tickets/{ticket}/")["tags"] == [label(tag)]


def test_agent_deletes_a_ticket_and_a_customer_does_not(agent: User, customer: User, ticket: int) -> None:
    assert_error(customer.delete(f"/tickets/{ticket}/"), 403, "Permission denied", "forbidden")
    answer = agent.delete(f"/tickets/{ticket}/")
    assert (answer.status_code, answer.content) == (204, b"")
    for client in (agent, customer):
        assert_error(client.get(f"/tickets/{ticket}/"), 404, "Not found", "not_found")
        assert ticket not in client.ids()


# Actions


def test_agent_assigns_a_ticket_to_a_colleague_and_to_nobody(
    agent: User, colleague: User, ticket: int
) -> None:
    answer = agent.post(f"/tickets/{ticket}/assign/", json={"user_id": colleague.number})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert set(answer.json()) == LISTED | DETAILS
    assert answer.json()["assigned_to"] == colleague.person
    answer = agent.post(f"/tickets/{ticket}/assign/", json={"user_id": None})
    assert answer.json()["assigned_to"] is None


def test_ticket_is_assigned_to_no_customer_no_stranger_and_nobody_unknown(
    agent: User, customer: User, stranger: User, ticket: int
) -> None:
    for number in (customer.number, stranger.number, 2**63 - 1):
        sentence = f'Invalid pk "{number}" - object does not exist.'
        answer = agent.post(f"/tickets/{ticket}/assign/", json={"user_id": number})
        assert_invalid(answer, user_id=sentence)
        answer = agent.patch(f"/tickets/{ticket}/", json={"assigned_to": number})
        assert_invalid(answer, assigned_to=sentence)
    assert_invalid(agent.post(f"/tickets/{ticket}/assign/", json={}), user_id="This field is required.")


def test_customer_assigns_nobody(customer: User, agent: User, ticket: int) -> None:
    answer = customer.post(f"/tickets/{ticket}/assign/", json={"user_id": agent.number})
    assert_error(answer, 403, "Permission denied", "forbidden")


@pytest.mark.parametrize("status", ["open", "in_progress", "resolved", "closed"])
def test_agent_sets_every_status(agent: User, ticket: int, status: str) -> None:
    answer = agent.post(f"/tickets/{ticket}/change_status/", json={"status": status})
    assert answer.status_code == 200
    assert answer.json()["status"] == status
    assert answer.json()["status_display"] == status.replace("_", " ").title()
    assert agent.read(f"/tickets/{ticket}/")["status"] == status


def test_resolution_is_kept_and_shown(agent: User, customer: User, ticket: int) -> None:
    body = {"status": "resolved", "resolution": "Issue resolved by updating configuration"}
    assert (
        agent.post(f"/tickets/{ticket}/change_status/", json=body).json()["resolution"] == body["resolution"]
    )
    assert customer.read(f"/tickets/{ticket}/")["resolution"] == body["resolution"]
    # Said again without it, it stays.
    again = agent.post(f"/tickets/{ticket}/change_status/", json={"status": "closed"})
    assert again.json()["resolution"] == body["resolution"]


def test_customer_resolves_closes_and_reopens_but_does_no_more(customer: User, ticket: int) -> None:
    def change(status: str) -> Any:
        return customer.post(f"/tickets/{ticket}/change_status/", json={"status": status})

    assert_error(change("in_progress"), 403, "Permission denied", "forbidden")
    assert change("resolved").status_code == 200
    assert change("open").json()["status"] == "open"
    assert change("closed").status_code == 200
    assert_error(change("open"), 409, "Conflict", "ticket_closed")


# Lists


def test_list_is_the_one_of_the_document(newcomer: User) -> None:
    made = [newcomer.ticket(title=f"Ticket {n}")["id"] for n in range(5)]
    page = newcomer.read("/tickets/")
    assert list(page) == ["count", "next", "previous", "results"]
    assert (page["count"], page["next"], page["previous"]) == (5, None, None)
    assert [row["id"] for row in page["results"]] == made[::-1]
    assert set(page["results"][0]) == LISTED


def test_pages_follow_each_other_and_keep_what_was_asked(desk: Desk, newcomer: User) -> None:
    made = [newcomer.ticket(title="Page me", priority="high")["id"] for _ in range(5)]
    newcomer.ticket(title="Page me")
    address: str | None = "/tickets/?priority=high&search=page me&page_size=2"
    seen: list[int] = []
    pages = []
    while address:
        answer = newcomer.get(address)
        page = answer.json()
        assert page["count"] == 5
        seen += [row["id"] for row in page["results"]]
        pages.append(page)
        address = page["next"]
    assert seen == made[::-1]
    url = f"{desk.url}/helpdesk/api/v1/tickets/?priority=high&search=page+me&page_size=2&page="
    assert [page["next"] for page in pages] == [f"{url}2", f"{url}3", None]
    assert [page["previous"] for page in pages] == [None, f"{url}1", f"{url}2"]


def test_page_past_the_end_is_empty(newcomer: User) -> None:
    newcomer.ticket()
    for number in (2, 10**12):
        page = newcomer.read("/tickets/", page=number)
        assert (page["count"], page["next"], page["results"]) == (1, None, [])
        assert page["previous"].endswith("?page=1")
    assert newcomer.read("/tickets/stats/")["total_tickets"] == 1


def test_agent_filters_tickets(newcomer: User) -> None:
    category, other_category = (newcomer.make("/categories/", name=name)["id"] for name in ("A", "B"))
    tag, other_tag = (newcomer.make("/tags/", name=name)["id"] for name in ("a", "b"))
    first = newcomer.ticket(
        priority="high", category=category, tags=[tag, other_tag], assigned_to=newcomer.number
    )["id"]
    second = newcomer.ticket(priority="low", category=other_category, tags=[other_tag])["id"]
    newcomer.post(f"/tickets/{second}/change_status/", json={"status": "closed"})
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({"status": "open"}, [first]),
        ({"status": "closed"}, [second]),
        ({"status": "resolved"}, []),
        ({"priority": "high"}, [first]),
        ({"priority": "urgent"}, []),
        ({"category": category}, [first]),
        ({"category": other_category}, [second]),
        ({"assigned_to": newcomer.number}, [first]),
        ({"created_by": newcomer.number}, [second, first]),
        ({"tags": tag}, [first]),
        ({"tags": other_tag}, [second, first]),
        ({"status": "open", "priority": "high", "category": category, "tags": tag}, [first]),
        ({"status": "open", "priority": "low"}, []),
        ({"search": ""}, [second, first]),
    ]
    for params, ids in expected:
        assert newcomer.ids(**params) == ids, params


def test_filter_by_what_is_not_there_or_is_another_desks_finds_nothing(
    agent: User, stranger: User, category: dict[str, Any], tag: dict[str, Any]
) -> None:
    stranger.ticket()
    agent.ticket(category=category["id"], tags=[tag["id"]], assigned_to=agent.number)
    for name, number in (
        ("category", category["id"]),
        ("tags", tag["id"]),
        ("assigned_to", agent.number),
        ("created_by", agent.number),
    ):
        nothing: dict[str, Any] = {"count": 0, "next": None, "previous": None, "results": []}
        assert agent.read("/tickets/", **{name: number})["count"] > 0
        for path in ("/tickets/", "/tickets/my_tickets/"):
            assert stranger.read(path, **{name: number}) == nothing
            assert stranger.read(path, **{name: 2**63 - 1}) == nothing


def test_agent_orders_tickets(newcomer: User) -> None:
    urgent, low = (newcomer.ticket(priority=priority)["id"] for priority in ("urgent", "low"))
    high = newcomer.ticket(priority="high", due_date="2030-01-01T00:00:00Z")["id"]
    medium = newcomer.ticket(priority="medium", due_date="2020-01-01T00:00:00Z")["id"]
    newcomer.patch(f"/tickets/{low}/", json={"title": "Touched"})
    for ordering, ids in (
        ("created_at", [urgent, low, high, medium]),
        ("-created_at", [medium, high, low, urgent]),
        ("priority", [low, medium, high, urgent]),
        ("-priority", [urgent, high, medium, low]),
        ("-updated_at", [low, medium, high, urgent]),
        ("due_date,created_at", [medium, high, urgent, low]),
        ("due_date,-priority", [medium, high, urgent, low]),
        ("-due_date,created_at", [high, medium, urgent, low]),
        ("priority,-due_date", [low, medium, high, urgent]),
    ):
        assert newcomer.ids(ordering=ordering) == ids, ordering


def test_search_finds_what_was_just_written(agent: User, customer: User, colleague: User) -> None:
    word, other, said, noted = (unique(word).replace("-", "") for word in ("title", "text", "said", "noted"))
    ticket = customer.ticket(title=f"My {word} burns", description=f"It is the {other} one")["id"]
    agent.post(f"/tickets/{ticket}/comments/", json={"content": f"Have you {said} it?"})
    agent.post(f"/tickets/{ticket}/comments/", json={"content": noted, "is_internal": True})
    for query in (
        word,
        word.upper(),
        word[:-2],
        f"{other} {word}",
        said,
        f'"{word} burns"',
        f"{word} -{said}",
    ):
        assert customer.ids(search=query) == [ticket], query
        assert colleague.ids(search=query) == [ticket], query
    for query in ("!!!", "&|", f"{word} nothing", f'"burns {word}"', "'; drop table tickets; --"):
        assert customer.ids(search=query) == [], query
    # An internal comment is found by those who may read it.
    assert (colleague.ids(search=noted), customer.ids(search=noted)) == ([ticket], [])
    agent.delete(f"/tickets/{ticket}/")
    assert agent.ids(search=word) == []


def test_my_tickets_are_assigned_to_me_or_written_by_me(
    agent: User, colleague: User, customer: User, other_customer: User
) -> None:
    title = unique("mine")
    written = agent.ticket(title=title)["id"]
    given = customer.ticket(title=title)["id"]
    agent.post(f"/tickets/{given}/assign/", json={"user_id": agent.number})
    agent.ticket(title=title, assigned_to=colleague.number)
    mine = "/tickets/my_tickets/"
    assert set(agent.ids(mine, search=title)) == {written, given, given + 1}
    assert colleague.ids(mine, search=title) == [given + 1]
    assert customer.ids(mine, search=title) == [given]
    assert other_customer.ids(mine, search=title) == []
    page = agent.read(mine, page_size=1, search=title, ordering="created_at")
    assert (page["count"], page["results"][0]["id"]) == (3, written)
    assert "/tickets/my_tickets/?page_size=1&" in page["next"]


def test_customer_sees_their_own_tickets_and_agents_see_all(
    customer: User, other_customer: User, agent: User, stranger: User, ticket: int
) -> None:
    theirs = other_customer.ticket()["id"]
    assert {ticket, theirs} <= set(agent.ids(ordering="-created_at"))
    assert ticket in customer.ids()
    assert theirs not in customer.ids()
    for client in (other_customer, stranger):
        assert ticket not in client.ids()
        assert_error(client.get(f"/tickets/{ticket}/"), 404, "Not found", "not_found")


# Statistics


def test_stats_are_those_of_the_document(desk: Desk, newcomer: User) -> None:
    technical, billing = (newcomer.make("/categories/", name=n)["id"] for n in ("Technical", "Billing"))
    statuses = ["new", "open", "in_progress", "waiting", "on_hold", "resolved", "closed"]
    for status in statuses:
        ticket = newcomer.ticket(
            priority="urgent" if status == "new" else "medium",
            category=billing if status == "open" else technical,
            due_date="2020-01-01T00:00:00Z",
        )["id"]
        desk.sql("update public.tickets set status = %s where number = %s", [status, ticket])
    newcomer.ticket(priority="low")
    # Resolved in 24.5 hours, and long ago.
    desk.sql(
        "update public.tickets set created_at = '2024-01-01', resolved_at = '2024-01-02 00:30'"
        " where organization_id = %s and resolved_at is not null",
        [newcomer.member.organization_id],
    )
    assert newcomer.read("/tickets/stats/") == {
        "total_tickets": 8,
        "open_tickets": 3,
        "in_progress_tickets": 3,
        "resolved_tickets": 1,
        "closed_tickets": 1,
        "overdue_tickets": 5,
        "tickets_by_priority": {"low": 1, "medium": 6, "high": 0, "urgent": 1},
        "tickets_by_category": {"Billing": 1, "Technical": 6},
        "avg_resolution_time": 24.5,
        "tickets_created_today": 6,
        "tickets_resolved_today": 0,
    }
    newcomer.post(f"/tickets/{ticket - 2}/change_status/", json={"status": "resolved"})
    assert newcomer.read("/tickets/stats/")["tickets_resolved_today"] == 1


def test_stats_of_nothing_are_zeros(newcomer: User) -> None:
    stats = newcomer.read("/tickets/stats/")
    assert stats.pop("tickets_by_priority") == {"low": 0, "medium": 0, "high": 0, "urgent": 0}
    assert stats.pop("tickets_by_category") == {}
    assert set(stats.values()) == {0}


def test_stats_of_a_customer_are_of_their_own_tickets(desk: Desk, organization: str) -> None:
    with User(desk, desk.member("customer", organization)) as client:
        client.ticket()
        assert client.read("/tickets/stats/")["total_tickets"] == 1
