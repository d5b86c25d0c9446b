"""Comments: every operation, who wrote what, and who may correct it."""

import pytest

from tests.desk import Desk

from .conftest import User, assert_error, assert_invalid

FIELDS = ["id", "content", "is_internal", "author", "created_at", "updated_at"]


@pytest.fixture
def comments(ticket: int) -> str:
    """The path of the comments of the customer's ticket."""
    return f"/tickets/{ticket}/comments/"


def test_agent_comments_as_in_the_document(agent: User, comments: str) -> None:
    answer = agent.post(comments, json={"content": "This is a comment on the ticket", "is_internal": False})
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"2"'
    comment = answer.json()
    assert list(comment) == FIELDS
    assert (comment["content"], comment["is_internal"]) == ("This is a comment on the ticket", False)
    assert comment["author"] == agent.person
    assert agent.read(f"{comments}{comment['id']}/") == comment


def test_conversation_is_read_in_its_order(agent: User, customer: User, comments: str) -> None:
    texts = ["Help!", "How?", "Like this."]
    for client, text in zip((customer, agent, customer), texts, strict=True):
        client.make(comments, content=text)
    page = customer.read(comments, page_size=2)
    assert page["count"] == 3
    assert page["next"].endswith(f"{comments}?page_size=2&page=2")
    assert [row["content"] for row in page["results"]] == texts[:2]
    assert [row["author"] for row in page["results"]] == [customer.person, agent.person]
    assert [row["content"] for row in agent.results(comments, ordering="-created_at")] == texts[::-1]


def test_internal_comment_is_for_agents(agent: User, colleague: User, customer: User, ticket: int) -> None:
    path = f"/tickets/{ticket}/comments/"
    agent.make(path, content="To you")
    note = agent.make(path, content="Among us", is_internal=True)["id"]
    assert [row["is_internal"] for row in colleague.results(path)] == [False, True]
    assert [row["content"] for row in customer.results(path)] == ["To you"]
    assert_error(customer.get(f"{path}{note}/"), 404, "Not found", "not_found")
    assert customer.read(f"/tickets/{ticket}/")["comment_count"] == 1
    assert agent.read(f"/tickets/{ticket}/")["comment_count"] == 2
    (listed,) = [row for row in customer.results("/tickets/") if row["id"] == ticket]
    assert listed["comment_count"] == 1


def test_customer_writes_no_internal_comment(customer: User, comments: str) -> None:
    answer = customer.post(comments, json={"content": "Psst", "is_internal": True})
    assert_error(answer, 403, "Permission denied", "forbidden")
    mine = customer.make(comments, content="Hello")["id"]
    answer = customer.patch(f"{comments}{mine}/", json={"is_internal": True})
    assert_error(answer, 403, "Permission denied", "forbidden")


def test_author_corrects_and_deletes_their_comment(agent: User, customer: User, comments: str) -> None:
    for client in (agent, customer):
        comment = client.make(comments, content="Helo")
        path = f"{comments}{comment['id']}/"
        answer = client.patch(path, json={"content": "Hello"})
        assert answer.status_code == 200
        after = answer.json()
        assert after["updated_at"] > comment["updated_at"]
        assert after == comment | {"content": "Hello", "updated_at": after["updated_at"]}
        assert client.put(path, json={"content": "Hello!"}).json()["content"] == "Hello!"
        assert client.delete(path).status_code == 204
        assert_error(client.get(path), 404, "Not found", "not_found")


def test_put_that_does_not_say_so_publishes_no_internal_comment(agent: User, comments: str) -> None:
    note = agent.make(comments, content="Secret", is_internal=True)["id"]
    answer = agent.put(f"{comments}{note}/", json={"content": "Still secret"})
    assert (answer.status_code, answer.json()["is_internal"]) == (200, True)
    answer = agent.put(f"{comments}{note}/", json={"content": "Public", "is_internal": False})
    assert answer.json()["is_internal"] is False
    assert_invalid(agent.put(f"{comments}{note}/", json={}), content="This field is required.")


def test_only_its_author_or_a_lead_edits_and_deletes_a_comment(
    agent: User, colleague: User, customer: User, lead: User, comments: str
) -> None:
    theirs = customer.make(comments, content="Mine")["id"]
    ours = agent.make(comments, content="Ours")["id"]
    for client, number in ((colleague, ours), (customer, ours), (agent, theirs)):
        path = f"{comments}{number}/"
        for answer in (
            client.patch(path, json={"content": "x"}),
            client.put(path, json={"content": "x"}),
            client.delete(path),
        ):
            assert_error(answer, 403, "Permission denied", "forbidden")
    for number in (theirs, ours):
        assert lead.patch(f"{comments}{number}/", json={"content": "Edited"}).status_code == 200
        assert lead.delete(f"{comments}{number}/").status_code == 204


def test_comment_is_found_on_its_own_ticket_alone(
    agent: User, customer: User, other_customer: User, stranger: User, comments: str
) -> None:
    comment = customer.make(comments, content="Here")["id"]
    elsewhere = customer.ticket()["id"]
    for client, path in (
        (agent, f"/tickets/{elsewhere}/comments/{comment}/"),
        (stranger, f"{comments}{comment}/"),
        (other_customer, f"{comments}{comment}/"),
        (agent, f"{comments}{2**63 - 1}/"),
    ):
        for answer in (
            client.get(path),
            client.patch(path, json={"content": "x"}),
            client.delete(path),
        ):
            assert_error(answer, 404, "Not found", "not_found")
    for client in (stranger, other_customer):
        assert_error(client.get(comments), 404, "Not found", "not_found")
        assert_error(client.post(comments, json={"content": "x"}), 404, "Not found", "not_found")


def test_customers_comment_reopens_and_a_closed_ticket_takes_none(
    agent: User, customer: User, ticket: int
) -> None:
    agent.post(f"/tickets/{ticket}/change_status/", json={"status": "resolved"})
    customer.make(f"/tickets/{ticket}/comments/", content="Not yet")
    assert customer.read(f"/tickets/{ticket}/")["status"] == "open"
    agent.post(f"/tickets/{ticket}/change_status/", json={"status": "closed"})
    answer = customer.post(f"/tickets/{ticket}/comments/", json={"content": "Wait"})
    assert_error(answer, 409, "Conflict", "ticket_closed")


def test_comment_of_somebody_without_a_login_has_no_author(agent: User, desk: Desk) -> None:
    organization = agent.member.organization_id
    contact = desk.value(
        "insert into public.contacts (organization_id, name) values (%s, 'Wanda') returning id",
        [organization],
    )
    number = desk.value(
        "insert into public.tickets (organization_id, subject, contact_id, channel)"
        " values (%s, 'Hi', %s, 'whatsapp') returning number",
        [organization, contact],
    )
    desk.sql(
        "insert into public.comments (organization_id, ticket_id, body, author_contact_id, channel)"
        " select organization_id, id, 'From my phone', contact_id, 'whatsapp'"
        " from public.tickets where number = %s",
        [number],
    )
    assert agent.read(f"/tickets/{number}/")["created_by"] is None
    (comment,) = agent.results(f"/tickets/{number}/comments/")
    assert (comment["content"], comment["author"]) == ("From my phone", None)
