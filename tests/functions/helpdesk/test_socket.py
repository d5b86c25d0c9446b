"""The socket: each user's own new notifications, and nobody else's."""

from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.desk import Desk, wait_until
from tests.functions.sockets import ending, heard, listening

from .conftest import BASE, User, assert_error

PATH = "/helpdesk/ws/notifications/"


def opened(desk: Desk, user: User, *, path: str = PATH, **options: Any) -> AbstractContextManager[Connection]:
    """Open the socket of somebody."""
    return listening(desk, path, user.token, **{"in_header": True, **options})


@pytest.mark.parametrize("path", [PATH, PATH.rstrip("/"), f"/functions/v1{PATH}"])
def test_agent_hears_of_what_becomes_theirs(desk: Desk, agent: User, lead: User, path: str) -> None:
    with opened(desk, agent, path=path) as socket:
        ticket = lead.ticket(title="Yours", assigned_to=agent.number)["id"]
        message = heard(socket)[0]
    assert list(message) == ["event", "data", "position"]
    assert message["event"] == "notification.new"
    data = message["data"]
    assert list(data) == ["id", "type", "title", "message", "ticket", "is_read", "created_at"]
    assert (data["type"], data["title"]) == ("ticket_assigned", "Ticket assigned: Yours")
    assert (data["ticket"], data["is_read"]) == (ticket, False)
    assert data["created_at"].endswith("Z")


def test_token_may_be_in_the_address(desk: Desk, agent: User, lead: User) -> None:
    with opened(desk, agent, in_header=False) as socket:
        lead.ticket(assigned_to=agent.number)
        assert heard(socket)[0]["event"] == "notification.new"


def test_customer_hears_of_their_ticket_and_not_of_what_is_internal(
    desk: Desk, agent: User, customer: User, ticket: int
) -> None:
    with opened(desk, customer) as socket:
        agent.make(f"/tickets/{ticket}/comments/", content="Among us", is_internal=True)
        agent.make(f"/tickets/{ticket}/comments/", content="To you")
        messages = [heard(socket)[0]["data"]["message"] for _ in range(2)]
    assert messages == ["Status changed to open.", "To you"]


def test_nobody_hears_what_others_are_told(
    desk: Desk, agent: User, colleague: User, lead: User, stranger: User
) -> None:
    with opened(desk, colleague) as socket, opened(desk, stranger) as foreign:
        lead.ticket(title="Not yours", assigned_to=agent.number)
        lead.ticket(title="Yours", assigned_to=colleague.number)
        assert heard(socket)[0]["data"]["title"] == "Ticket assigned: Yours"
        stranger.ticket(assigned_to=stranger.number)  # nobody is told what they did themselves
        with pytest.raises(TimeoutError):
            foreign.recv(0.3)


def test_who_comes_back_hears_what_they_missed_once(desk: Desk, agent: User, lead: User) -> None:
    with opened(desk, agent) as socket:
        lead.ticket(title="First", assigned_to=agent.number)
        position = heard(socket)[0]["position"]
    lead.ticket(title="Second", assigned_to=agent.number)
    with opened(desk, agent, since=position) as socket:
        lead.ticket(title="Third", assigned_to=agent.number)
        titles = [heard(socket)[0]["data"]["title"] for _ in range(2)]
        assert titles == ["Ticket assigned: Second", "Ticket assigned: Third"]
        with pytest.raises(TimeoutError):
            socket.recv(0.3)


def test_who_comes_back_hears_the_same_that_was_heard_at_once(desk: Desk, agent: User, lead: User) -> None:
    with opened(desk, agent) as socket:
        lead.ticket(title="First", assigned_to=agent.number)
        position = heard(socket)[0]["position"]
        lead.ticket(title="Second", assigned_to=agent.number)
        told = heard(socket)[0]
    desk.sql("update public.notifications set read_at = now() where member_id = %s", [agent.member.id])
    with opened(desk, agent, since=position) as socket:
        again = heard(socket)[0]
        assert (again["event"], again["data"]) == (told["event"], told["data"])


def test_position_that_is_none_ends_the_socket(desk: Desk, agent: User) -> None:
    with opened(desk, agent, since="nonsense") as socket:
        assert ending(socket) == (4410, "gone")


def test_bad_token_is_refused_at_the_handshake(desk: Desk, agent: User) -> None:
    bad = [
        {},
        *({"token": token} for token in ("x", desk.token(), desk.anon_key, desk.jwt(agent.member, exp=1))),
    ]
    for query in bad:
        url = f"{desk.url.replace('http', 'ws', 1)}{PATH}?{httpx.QueryParams(query)}"
        with pytest.raises(InvalidStatus) as refused:
            connect(url, proxy=None)
        response = refused.value.response
        answer = httpx.Response(
            response.status_code,
            headers=list(response.headers.raw_items()),
            content=bytes(response.body or b""),
        )
        assert_error(answer, 401, "Authentication failed")


def test_socket_ends_with_its_session(desk: Desk, organization: str) -> None:
    member = desk.member("agent", organization)
    session = desk.session(member)
    user = User(desk, member)
    user.token = desk.jwt(member, session_id=session)
    with opened(desk, user) as socket:
        desk.sql("delete from auth.sessions where id = %s", [session])
        assert ending(socket) == (4401, "session_ended")
    user.close()


def test_path_of_the_socket_is_no_page(desk: Desk, agent: User) -> None:
    wait_until(lambda: httpx.get(f"{desk.url}/ready").is_success)
    answer = httpx.get(f"{desk.url}{PATH}", headers=agent.headers)
    assert_error(answer, 404, "Not found", "not_found")
    assert BASE not in PATH
