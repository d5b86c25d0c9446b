"""The support-desk contract as its SQL speaks it: shapes, words, and who is told what of events."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.actors import Acting, Organization
from tests.sql.test_words import shown

RENDER = """
    select body::jsonb, wish from support_desk.render_events(%s::jsonb, %s::jsonb, %s::jsonb) order by id
"""
LOGGED = """
    select jsonb_agg(jsonb_build_object('id', e.id, 'xid', e.xid::text, 'at', e.at) order by e.id)
    from private.events as e where e.xid = pg_current_xact_id()
"""
TICKET = ["id", "subject", "description", "status", "priority", "type", "channel", "requester_id",
          "assignee_id", "group_id", "tags", "created_at", "updated_at"]  # fmt: skip
COMMENT = ["id", "ticket_id", "author_id", "author", "body", "public", "attachments", "created_at"]
NOTIFICATION = ["id", "type", "title", "message", "read", "link", "created_at"]

Told = Callable[..., list[tuple[str, Any]]]


@pytest.fixture
def told(login: Acting, owner: Acting) -> Told:
    """What an actor, and others who see the same, are told of all that happened in the test."""

    def tell(acting: Acting, *others: Acting) -> list[tuple[str, Any]]:
        events = owner.value(LOGGED)
        claims = json.dumps(acting.actor.claims)
        fresh = json.dumps(owner.value("select private.fresh_claims(%s::jsonb)", [claims]))
        wishes = [{"member_id": each.actor.member_id} for each in (acting, *others)]
        login.stage.come_anew()
        rows = login.rows(RENDER, [fresh, json.dumps(events), json.dumps(wishes)])
        return [(body["event"], body["data"]) for body, wish in rows if wish == len(others)]

    return tell


def names(messages: list[tuple[str, Any]]) -> list[str]:
    """Return the events' names."""
    return [event for event, _ in messages]


def change(owner: Acting, ticket: str, changes: str, *values: Any) -> None:
    owner.rows(f"update public.tickets set {changes} where id = %s", [*values, ticket])


@pytest.mark.parametrize("field", ["status", "priority"])
def test_a_ticket_is_shown_in_the_words_of_the_contract(
    agent: Acting, owner: Acting, north: Organization, field: str
) -> None:
    for canonical, word in shown("support_desk", field).items():
        change(owner, north["ticket"], f"{field} = %s", canonical)
        statement = "select support_desk.ticket_json(t)::jsonb from public.tickets as t where t.id = %s"
        assert agent.value(statement, [north["ticket"]])[field] == word


def test_shapes_are_those_of_the_examples(agent: Acting, owner: Acting, north: Organization) -> None:
    def keys(kind: str, table: str, acting: Acting) -> list[str]:
        text = acting.value(f"select support_desk.{kind}_json(r) from public.{table} as r limit 1")
        return list(json.loads(text))

    owner.rows(
        "insert into public.notifications (organization_id, member_id, type, title)"
        " values (%s, %s, 'mention', 'x')",
        [north.id, agent.actor.member_id],
    )
    assert keys("ticket", "tickets", agent) == TICKET
    assert keys("comment", "comments", agent) == COMMENT
    assert keys("notification", "notifications", agent) == NOTIFICATION


def test_words_that_stay_the_same_are_no_news(
    told: Told, agent: Acting, owner: Acting, north: Organization
) -> None:
    change(owner, north["ticket"], "status = 'open'")
    before = names(told(agent)).count("ticket.updated")
    change(owner, north["ticket"], "status = 'in_progress'")
    change(owner, north["ticket"], "metadata = '{\"a\": 1}'")
    assert names(told(agent)).count("ticket.updated") == before
    change(owner, north["ticket"], "status = 'waiting'")
    changes = [data["status"] for event, data in told(agent) if event == "ticket.updated"]
    assert (len(changes), changes[-1]) == (before + 1, "pending")


def test_assignment_alone_is_one_message_and_with_a_change_the_second(
    *, told: Told, customer: Acting, agent: Acting, senior_agent: Acting, owner: Acting, north: Organization
) -> None:
    change(owner, north["ticket"], "assignee_id = %s", senior_agent.actor.member_id)
    assert names(told(agent)) == ["ticket.assigned"]
    change(owner, north["ticket"], "assignee_id = null, subject = 'Else'")
    assert names(told(agent))[1:] == ["ticket.updated", "ticket.assigned"]
    assert names(told(customer)) == names(told(agent))


def test_what_is_internal_is_told_to_agents_and_to_a_customer_once_it_is_public(
    told: Told, customer: Acting, agent: Acting, owner: Acting, north: Organization
) -> None:
    statement = (
        "insert into public.comments (ticket_id, body, is_internal) values (%s, %s, true) returning id"
    )
    note = agent.value(statement, [north["ticket"], "They are a nuisance."])
    assert "comment.added" in names(told(agent))
    assert "comment.added" not in names(told(customer))
    owner.rows("update public.comments set body = 'Sorry.', is_internal = false where id = %s", [note])
    for acting, body in ((agent, "They are a nuisance."), (customer, "Sorry.")):
        found = [data for event, data in told(acting) if event == "comment.added"]
        assert [(data["body"], data["public"]) for data in found] == [(body, acting is customer)]


def test_others_are_told_nothing(
    *,
    told: Told,
    other_customer: Acting,
    stranger: Acting,
    agent: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    change(owner, north["ticket"], "subject = 'Changed'")
    assert names(told(agent)) == ["ticket.updated"]
    assert told(other_customer) == told(stranger) == []
    change(owner, north["ticket"], "deleted_at = now()")
    assert told(agent) == [], "nobody is told of what they see no more"


def test_members_who_see_the_same_are_each_told_their_own_notifications_alone(
    *, told: Told, agent: Acting, senior_agent: Acting, stranger: Acting, owner: Acting, north: Organization
) -> None:
    for acting in (agent, senior_agent):
        owner.rows(
            "insert into public.notifications (organization_id, member_id, type, title, ticket_id)"
            " values (%s, %s, 'mention', %s, %s)",
            [north.id, acting.actor.member_id, acting.actor.name, north["ticket"]],
        )
    # Of two listeners in one question, what is returned is the last one's.
    for first, last in ((agent, senior_agent), (senior_agent, agent)):
        ((event, data),) = told(first, last)
        assert (event, data["title"], data["read"]) == ("notification.new", last.actor.name, False)
        assert data["link"] == f"/tickets/{north['ticket']}"
    assert told(stranger) == []
    assert told(stranger, agent) == [], "a name does not help who is of another organization"
