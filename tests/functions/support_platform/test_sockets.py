"""The socket of a ticket: who may listen, what they hear, and what ends it."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from websockets.sync.connection import Connection

from tests.api.test_issuers import AUDIENCE, ISSUER, Key, KeyServer
from tests.desk import Desk
from tests.functions import sockets
from tests.functions.sockets import ending, heard

from .conftest import MOUNT, Person

NOBODY = "00000000-0000-4000-8000-000000000000"


def listening(
    desk: Desk, ticket: str, token: str | None, *, path: str = f"{MOUNT}/ws/tickets", **options: Any
) -> AbstractContextManager[Connection]:
    """Open the socket of a ticket."""
    return sockets.listening(desk, f"{path}/{ticket}", token, **options)


def refusal(desk: Desk, ticket: str, token: str | None, **options: Any) -> int:
    """Return the code with which a socket is refused."""
    with listening(desk, ticket, token, **options) as socket:
        return ending(socket)[0]


# What is heard


def test_customer_and_agent_hear_each_other(desk: Desk, customer: Person, agent: Person, ticket: str) -> None:
    with (
        listening(desk, ticket, customer.jwt) as theirs,
        listening(desk, ticket, agent.jwt, in_header=True) as ours,
    ):
        sent = agent.says(ticket, "Have you tried resetting your password?").json()
        for socket in (theirs, ours):
            (message,) = heard(socket)
            assert (message["event"], message["data"]) == ("message.received", sent)
        reply = customer.says(ticket, "Yes.").json()
        for socket in (theirs, ours):
            (message,) = heard(socket)
            assert (message["event"], message["data"]) == ("message.received", reply)


def test_who_comes_back_hears_the_same_that_was_heard_at_once(
    desk: Desk, customer: Person, agent: Person, ticket: str
) -> None:
    with listening(desk, ticket, customer.jwt) as live, listening(desk, ticket, agent.jwt) as ours:
        agent.says(ticket, "Have you tried?")
        (start,) = heard(live)
        for change in ("subject = 'First'", "subject = 'Second', priority = 'low'", "status = 'resolved'"):
            desk.sql(f"update public.tickets set {change} where id = %s", [ticket])
        said = agent.says(ticket, "It is done.").json()["id"]
        told = heard(live, 4)
        assert [message["data"].get("title") for message in told] == ["First", "Second", "Second", None]
        heard(ours, 5)
    desk.sql("update public.comments set body = 'It was done.' where id = %s", [said])
    desk.sql("update public.tickets set subject = 'Third' where id = %s", [ticket])
    for who in (customer, agent):
        with listening(desk, ticket, who.jwt, since=start["position"]) as socket:
            *missed, last = heard(socket, 5)
            assert [(m["event"], m["data"]) for m in missed] == [(m["event"], m["data"]) for m in told]
            assert (last["event"], last["data"]["title"]) == ("ticket.updated", "Third")


def test_change_of_a_ticket_is_heard_as_the_ticket_is_then(desk: Desk, customer: Person, ticket: str) -> None:
    with listening(desk, ticket, customer.jwt, path=f"/functions/v1{MOUNT}/ws/tickets") as socket:
        desk.sql("update public.tickets set status = 'resolved', priority = 'urgent' where id = %s", [ticket])
        (message,) = heard(socket)
        assert message["event"] == "ticket.updated"
        assert message["data"] == customer.get(f"/tickets/{ticket}").json()
        assert (message["data"]["status"], message["data"]["priority"]) == ("resolved", "high")
        # A reply reopens it: that is heard, and so is the reply.
        customer.says(ticket, "No, it is not.")
        assert sorted(message["event"] for message in heard(socket, 2)) == [
            "message.received",
            "ticket.updated",
        ]


def test_customer_hears_nothing_internal_and_nothing_of_other_tickets(
    desk: Desk, customer: Person, other_customer: Person, agent: Person, ticket: str
) -> None:
    others = [customer.ticket(), other_customer.ticket()]
    with (
        listening(desk, ticket, customer.jwt) as theirs,
        listening(desk, ticket, agent.jwt) as ours,
    ):
        note = agent.says(ticket, "They are upset.", is_internal=True).json()
        for other in others:
            agent.says(other, "Another matter.")
        public = agent.says(ticket, "We are sorry.").json()
        assert heard(theirs)[0]["data"] == public
        assert [message["data"] for message in heard(ours, 2)] == [note, public]
        with pytest.raises(TimeoutError):
            theirs.recv(timeout=0.3)
        desk.sql("update public.comments set is_internal = false where id = %s", [note["id"]])
        assert heard(theirs)[0]["data"] == {**note, "is_internal": False}, "until it is theirs to read"
        with pytest.raises(TimeoutError):
            ours.recv(timeout=0.3)


def test_listener_who_comes_back_gets_what_was_missed_once(
    desk: Desk, customer: Person, agent: Person, ticket: str
) -> None:
    with listening(desk, ticket, customer.jwt) as socket:
        agent.says(ticket, "One")
        (first,) = heard(socket)
    agent.says(ticket, "Two")
    agent.says(ticket, "Hidden", is_internal=True)
    agent.says(ticket, "Three")
    with listening(desk, ticket, customer.jwt, since=first["position"]) as socket:
        missed = heard(socket, 2)
        assert [message["data"]["content"] for message in missed] == ["Two", "Three"]
        agent.says(ticket, "Four")
        assert heard(socket)[0]["data"]["content"] == "Four"
    with listening(desk, ticket, customer.jwt, since=missed[0]["position"]) as socket:
        assert [message["data"]["content"] for message in heard(socket, 2)] == ["Three", "Four"]


def test_position_that_is_none_ends_the_socket(desk: Desk, customer: Person, ticket: str) -> None:
    assert refusal(desk, ticket, customer.jwt, since="yesterday") == 4410


# Who may listen


def test_whoever_shows_no_jwt_of_a_person_is_refused(desk: Desk, ticket: str) -> None:
    for token in (None, "nonsense", desk.token(), desk.anon_key, desk.service_key):
        assert refusal(desk, ticket, token) == 4401
    for token in ("nonsense", desk.token()):
        assert refusal(desk, ticket, token, in_header=True) == 4401


def test_another_customer_is_refused_and_nobody_else_learns_of_the_ticket(
    *, desk: Desk, customer: Person, other_customer: Person, agent: Person, stranger: Person, ticket: str
) -> None:
    assert refusal(desk, ticket, other_customer.jwt) == 4403
    assert refusal(desk, ticket, stranger.jwt) == 4404
    for person in (customer, agent):
        for unknown in (NOBODY, "1", "x" * 300, "%00", "%ff"):
            assert refusal(desk, unknown, person.jwt) == 4404


def test_path_beside_the_socket_is_nothing(desk: Desk, customer: Person, ticket: str) -> None:
    assert refusal(desk, f"{ticket}/more", customer.jwt) == 4404
    assert refusal(desk, ticket, customer.jwt, path=f"{MOUNT}/v1/ws/tickets") == 4404


def test_person_who_is_member_of_nothing_is_refused(desk: Desk, ticket: str) -> None:
    member = desk.member("customer", desk.organization())
    desk.sql("delete from public.members where id = %s", [member.id])
    assert refusal(desk, ticket, desk.jwt(member, app_metadata={"provider": "email"})) == 4404


def test_member_with_the_jwt_of_an_outside_issuer_asks_and_listens_as_anybody(
    another_desk: Callable[..., Desk],
) -> None:
    key, server = Key("1", "ES256"), KeyServer()
    server.publish(key)
    try:
        issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": server.url}]
        desk = another_desk(DESKBASE_ISSUERS=json.dumps(issuers))
        member = desk.member("customer")
        with Person(desk, member, jwt=key.sign(email=member.email, email_verified=True)) as person:
            ticket = person.ticket()
            with listening(desk, ticket, person.jwt) as socket:
                sent = person.says(ticket, "From far away.").json()
                assert heard(socket)[0]["data"] == sent
            assert refusal(desk, ticket, Key("1", "ES256").sign(email=member.email)) == 4401
    finally:
        server.stop()


# What ends it


def test_customer_who_loses_the_ticket_is_let_go(
    desk: Desk, customer: Person, other_customer: Person, agent: Person, ticket: str
) -> None:
    with (
        listening(desk, ticket, customer.jwt) as theirs,
        listening(desk, ticket, agent.jwt) as ours,
    ):
        contact = other_customer.member.contact_id
        desk.sql("update public.tickets set contact_id = %s where id = %s", [contact, ticket])
        assert ending(theirs, 2) == (4403, "forbidden")
        agent.says(ticket, "Hello, other customer.")
        assert heard(ours)[0]["event"] == "message.received"
        desk.sql("update public.tickets set deleted_at = now() where id = %s", [ticket])
        assert ending(ours, 2) == (4404, "not_found")


@pytest.mark.parametrize("how", ["log-out", "deactivation"])
def test_whoever_is_out_is_let_go_within_a_second(
    desk: Desk, organization: str, customer: Person, ticket: str, how: str
) -> None:
    member = desk.member("agent", organization)
    session = desk.session(member)
    with listening(desk, ticket, desk.jwt(member, session_id=session)) as socket:
        customer.says(ticket, "Anybody there?")
        assert heard(socket)
        if how == "log-out":
            desk.sql("delete from auth.sessions where id = %s", [session])
        else:
            desk.sql("update public.members set is_active = false where id = %s", [member.id])
        assert ending(socket, 2)[0] == 4401


def test_agent_who_becomes_a_customer_is_let_go_within_a_second(
    desk: Desk, organization: str, customer: Person, ticket: str
) -> None:
    member = desk.member("agent", organization)
    with listening(desk, ticket, desk.jwt(member, session_id=desk.session(member))) as socket:
        customer.says(ticket, "Anybody there?")
        assert heard(socket)
        desk.sql("update public.members set role = 'customer' where id = %s", [member.id])
        assert ending(socket, 2) == (4403, "forbidden")


def test_token_that_expires_ends_the_socket(desk: Desk, customer: Person, ticket: str) -> None:
    jwt = desk.jwt(customer.member, exp=int(time.time()) + 1)
    with listening(desk, ticket, jwt) as socket:
        assert ending(socket, 60)[0] == 4401


def test_organization_that_asks_too_often_is_refused(desk: Desk) -> None:
    """The handshake is a request like any other."""
    organization = desk.organization()
    with Person(desk, desk.member("customer", organization)) as person:
        ticket = person.ticket()
        before = int(person.get("/categories").headers["x-ratelimit-remaining"])
        with listening(desk, ticket, person.jwt):
            after = int(person.get("/categories").headers["x-ratelimit-remaining"])
        assert before - after == 2
        spent = "update private.rate_windows set used = 1000000 where subject = %s"
        desk.sql(spent, [f"user:{person.member.user_id}"])
        assert refusal(desk, ticket, person.jwt) == 4429
