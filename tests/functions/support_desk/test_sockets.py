"""The socket of the desk: who may listen, which of the five events they hear, and what ends it."""

import json
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from websockets.sync.connection import Connection

from tests.desk import Desk, Member
from tests.functions import sockets
from tests.functions.sockets import ending, heard

A_SECOND = 2.0
INSERT_TICKET = """
    insert into public.tickets (organization_id, subject, description, priority, contact_id)
    values (%s, %s, 'It is broken.', 'medium', %s) returning id::text
"""
INSERT_COMMENT = """
    insert into public.comments (organization_id, ticket_id, body, is_internal, author_member_id)
    values (%s, %s, %s, %s, %s) returning id::text
"""
TICKET = [
    "id",
    "subject",
    "description",
    "status",
    "priority",
    "type",
    "channel",
    "requester_id",
    "assignee_id",
    "group_id",
    "tags",
    "created_at",
    "updated_at",
]


class Floor:
    """The desk of one organization, as the tests change it."""

    def __init__(self, desk: Desk, organization: str) -> None:
        self.desk = desk
        self.organization = organization

    def ticket(self, subject: str = "A ticket", customer: Member | None = None) -> str:
        values = [self.organization, subject, customer.contact_id if customer else None]
        return str(self.desk.value(INSERT_TICKET, values))

    def comment(self, ticket: str, body: str, author: Member, *, is_internal: bool = False) -> str:
        values = [self.organization, ticket, body, is_internal, author.id]
        return str(self.desk.value(INSERT_COMMENT, values))

    def change(self, ticket: str, changes: str, *values: Any) -> None:
        self.desk.sql(f"update public.tickets set {changes} where id = %s", [*values, ticket])


@pytest.fixture
def floor(desk: Desk, organization: str) -> Floor:
    return Floor(desk, organization)


def listening(
    desk: Desk, token: str | None, *, path: str = "/support-desk/ws", **options: Any
) -> AbstractContextManager[Connection]:
    """Open the socket."""
    return sockets.listening(desk, path, token, **options)


def events(socket: Connection, count: int = 1) -> list[tuple[str, str]]:
    """Return the next messages by their event and what they are about."""
    return [
        (m["event"], m["data"].get("subject") or m["data"].get("body") or m["data"]["type"])
        for m in heard(socket, count)
    ]


# What is heard


def test_agent_hears_of_a_ticket_from_its_beginning_on(
    desk: Desk, floor: Floor, agent: Member, customer: Member
) -> None:
    with listening(desk, desk.jwt(agent)) as socket:
        ticket = floor.ticket("My invoice", customer)
        (created,) = heard(socket)
        assert created["event"] == "ticket.created"
        data = created["data"]
        assert list(data) == TICKET
        assert (data["id"], data["subject"], data["status"]) == (ticket, "My invoice", "new")
        assert (data["priority"], data["requester_id"]) == ("normal", customer.contact_id)
        assert data["created_at"].endswith("Z")
        floor.change(ticket, "status = 'waiting', priority = 'urgent'")
        (updated,) = heard(socket)
        assert updated["event"] == "ticket.updated"
        assert (updated["data"]["status"], updated["data"]["priority"]) == ("pending", "urgent")


def test_assignment_is_an_event_of_its_own_and_the_last_of_a_change(
    desk: Desk, floor: Floor, agent: Member, colleague: Member
) -> None:
    ticket = floor.ticket()
    with listening(desk, desk.jwt(colleague)) as socket:
        floor.change(ticket, "assignee_id = %s", agent.id)
        (assigned,) = heard(socket)
        assert (assigned["event"], assigned["data"]["assignee_id"]) == ("ticket.assigned", agent.id)
        floor.change(ticket, "assignee_id = null, subject = 'Other words'")
        assert events(socket, 2) == [("ticket.updated", "Other words"), ("ticket.assigned", "Other words")]


def test_what_the_contract_does_not_show_is_not_told(desk: Desk, floor: Floor, agent: Member) -> None:
    ticket = floor.ticket()
    with listening(desk, desk.jwt(agent)) as socket:
        floor.change(ticket, "status = 'in_progress'")
        assert events(socket) == [("ticket.updated", "A ticket")]
        floor.change(ticket, "status = 'open'")  # shown by the same word
        floor.change(ticket, "metadata = '{\"theirs\": 1}'")
        floor.change(ticket, "subject = 'Shown'")
        assert events(socket) == [("ticket.updated", "Shown")]


def test_customer_hears_of_their_own_tickets_and_of_public_comments(
    *, desk: Desk, floor: Floor, agent: Member, customer: Member, other_customer: Member
) -> None:
    with listening(desk, desk.jwt(customer)) as theirs, listening(desk, desk.jwt(agent)) as ours:
        floor.ticket("Somebody else's", other_customer)
        ticket = floor.ticket("Mine", customer)
        floor.comment(ticket, "Between us", agent, is_internal=True)
        floor.comment(ticket, "Have you tried?", agent)
        # The agent's first public reply opens the ticket.
        assert events(ours, 5) == [
            ("ticket.created", "Somebody else's"),
            ("ticket.created", "Mine"),
            ("comment.added", "Between us"),
            ("ticket.updated", "Mine"),
            ("comment.added", "Have you tried?"),
        ]
        # Both the status and the answer are worth a notification.
        assert sorted(events(theirs, 5)) == [
            ("comment.added", "Have you tried?"),
            ("notification.new", "ticket_updated"),
            ("notification.new", "ticket_updated"),
            ("ticket.created", "Mine"),
            ("ticket.updated", "Mine"),
        ]


def test_comment_is_told_with_its_author(desk: Desk, floor: Floor, agent: Member, colleague: Member) -> None:
    ticket = floor.ticket()
    with listening(desk, desk.jwt(colleague)) as socket:
        comment = floor.comment(ticket, "Between us", agent, is_internal=True)
        (message,) = heard(socket)
        data = message["data"]
        assert (data["id"], data["ticket_id"], data["author_id"]) == (comment, ticket, agent.id)
        assert data["author"] == {"name": "Ann Agent", "email": agent.email}
        assert (data["public"], data["attachments"]) == (False, [])


def test_each_member_hears_of_their_own_notifications_alone(
    desk: Desk, floor: Floor, agent: Member, colleague: Member
) -> None:
    ticket = floor.ticket()
    with listening(desk, desk.jwt(agent)) as mine, listening(desk, desk.jwt(colleague)) as theirs:
        floor.change(ticket, "assignee_id = %s", agent.id)
        told = {message["event"]: message["data"] for message in heard(mine, 2)}
        assert list(told["notification.new"]) == [
            "id",
            "type",
            "title",
            "message",
            "read",
            "link",
            "created_at",
        ]
        assert told["notification.new"]["link"] == f"/tickets/{ticket}"
        assert told["notification.new"]["read"] is False
        assert events(theirs) == [("ticket.assigned", "A ticket")]
        floor.change(ticket, "subject = 'Afterwards'")
        assert ("ticket.updated", "Afterwards") in events(theirs)


def test_another_organization_hears_nothing(
    desk: Desk, floor: Floor, agent: Member, stranger: Member
) -> None:
    with listening(desk, desk.jwt(stranger)) as theirs, listening(desk, desk.jwt(agent)) as ours:
        floor.ticket("Ours")
        Floor(desk, stranger.organization_id).ticket("Theirs")
        assert events(ours) == [("ticket.created", "Ours")]
        assert events(theirs) == [("ticket.created", "Theirs")]


def test_who_comes_back_hears_what_they_missed_as_it_was_and_nothing_twice(
    desk: Desk, floor: Floor, agent: Member, colleague: Member
) -> None:
    token = desk.jwt(agent)
    with listening(desk, token) as socket:
        ticket = floor.ticket("First")
        (start,) = heard(socket)
    floor.change(ticket, "subject = 'Second', assignee_id = %s", colleague.id)
    floor.change(ticket, "subject = 'Third'")
    with listening(desk, token, since=start["position"]) as socket:
        missed = heard(socket, 3)
        assert [(m["event"], m["data"]["subject"]) for m in missed] == [
            ("ticket.updated", "Second"),
            ("ticket.assigned", "Second"),
            ("ticket.updated", "Third"),
        ]
        floor.change(ticket, "subject = 'Fourth'")
        assert events(socket) == [("ticket.updated", "Fourth")]
    with listening(desk, token, since=missed[0]["position"]) as socket:
        assert events(socket, 3) == [
            ("ticket.assigned", "Second"),
            ("ticket.updated", "Third"),
            ("ticket.updated", "Fourth"),
        ]


def test_customer_who_becomes_an_agent_hears_of_everything_within_a_second(
    desk: Desk, floor: Floor, customer: Member, other_customer: Member
) -> None:
    with listening(desk, desk.jwt(customer, session_id=desk.session(customer))) as socket:
        floor.ticket("Not heard", other_customer)
        floor.ticket("Mine", customer)
        assert events(socket) == [("ticket.created", "Mine")]
        desk.sql("update public.members set role = 'agent' where id = %s", [customer.id])
        for number in range(40):
            floor.ticket(f"Heard {number}", other_customer)
            try:
                message = json.loads(socket.recv(timeout=0.1))
            except TimeoutError:
                continue
            assert message["event"] == "ticket.created"
            return
        raise AssertionError("nothing was heard")


# Who may listen


@pytest.mark.parametrize("path", ["/support-desk/ws", "/support-desk/ws/", "/functions/v1/support-desk/ws"])
@pytest.mark.parametrize("in_header", [False, True])
def test_token_is_taken_from_the_address_or_the_header(
    *, desk: Desk, floor: Floor, agent: Member, path: str, in_header: bool
) -> None:
    with listening(desk, desk.jwt(agent), in_header=in_header, path=path) as socket:
        floor.ticket("Heard")
        assert events(socket) == [("ticket.created", "Heard")]


def test_without_a_good_token_it_is_closed_with_4401(desk: Desk, agent: Member) -> None:
    ended = desk.session(agent)
    desk.sql("delete from auth.sessions where id = %s", [ended])
    bad = [None, "nonsense", desk.jwt(agent, exp=1), desk.jwt(agent, session_id=ended), desk.anon_key]
    for token in [*bad, desk.token(organization=agent.organization_id)]:
        with listening(desk, token) as socket:
            assert ending(socket)[0] == 4401


def test_member_of_nothing_is_closed_with_4403(desk: Desk, agent: Member) -> None:
    token = desk.jwt(agent, app_metadata={})
    desk.sql("delete from public.members where id = %s", [agent.id])
    with listening(desk, token) as socket:
        assert ending(socket) == (4403, "forbidden")


def test_other_paths_are_closed_with_4404(desk: Desk, agent: Member) -> None:
    for path in ("/support-desk/ws/tickets", "/support-desk/api/ws", "/support-desk"):
        with listening(desk, desk.jwt(agent), path=path) as socket:
            assert ending(socket)[0] == 4404


def test_a_position_that_is_none_is_closed_with_4410(desk: Desk, agent: Member) -> None:
    with listening(desk, desk.jwt(agent), since="yesterday") as socket:
        assert ending(socket) == (4410, "gone")


@pytest.mark.parametrize(
    "change",
    [
        "delete from auth.sessions where id = %(session)s",
        "update public.members set is_active = false where id = %(member)s",
    ],
)
def test_whose_session_or_membership_ends_is_closed_within_a_second(
    desk: Desk, floor: Floor, agent: Member, change: str
) -> None:
    session = desk.session(agent)
    with listening(desk, desk.jwt(agent, session_id=session)) as socket:
        floor.ticket("Heard")
        assert events(socket) == [("ticket.created", "Heard")]
        desk.sql(change, {"session": session, "member": agent.id})
        assert ending(socket, A_SECOND) == (4401, "session_ended")


# What is there besides


def test_paths_that_are_not_there_yet_are_refused_in_the_contracts_envelope(
    desk: Desk, agent: Member
) -> None:
    token = {"Authorization": f"Bearer {desk.jwt(agent)}"}
    answer = httpx.get(f"{desk.url}/support-desk/api/tickets", headers=token)
    assert answer.status_code == 404
    assert answer.json() == {
        "success": False,
        "error": {"code": "NOT_FOUND", "message": "There is no such resource.", "details": {}},
    }
    assert "x-ratelimit-limit" in answer.headers
    assert httpx.get(f"{desk.url}/support-desk/api/tickets").json() == answer.json()


def test_its_pages_are_there(desk: Desk) -> None:
    for base in ("/support-desk/api", "/support-desk/api/v1"):
        assert httpx.get(f"{desk.url}{base}/docs").is_success
        assert httpx.get(f"{desk.url}{base}/openapi.json").json()["info"]["title"] == "Support desk"
