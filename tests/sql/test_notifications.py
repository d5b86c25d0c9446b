"""Notifications: who is told of what, and that nobody but they see it."""

import pytest

from tests.actors import Acting, Organization

TOLD = """
    select m.username, n.type::text, n.title from public.notifications as n
    join public.members as m on m.organization_id = n.organization_id and m.id = n.member_id
    where n.ticket_id = %s order by 1, 2
"""


@pytest.fixture
def told(owner: Acting, north: Organization) -> object:
    """Forget what was told while the world was built."""
    owner.rows("delete from public.notifications")
    return None


def whom(owner: Acting, ticket: str) -> list[tuple[str, str]]:
    """Return who was told what sort of thing about a ticket."""
    return [(name, kind) for name, kind, _ in owner.rows(TOLD, [ticket])]


pytestmark = pytest.mark.usefixtures("told")


def test_an_agent_is_told_of_a_ticket_that_becomes_theirs(
    agent: Acting, senior_agent: Acting, owner: Acting, north: Organization
) -> None:
    give = "update public.tickets set assignee_id = %s where id = %s"
    agent.rows(give, [senior_agent.member_id, north["other_ticket"]])
    assert owner.rows(TOLD, [north["other_ticket"]]) == [
        ("senior_agent", "ticket_assigned", "Ticket assigned: Wrong colour")
    ]
    agent.rows(give, [senior_agent.member_id, north["other_ticket"]])
    assert len(whom(owner, north["other_ticket"])) == 1, "it was theirs already"
    agent.rows(give, [None, north["other_ticket"]])
    assert len(whom(owner, north["other_ticket"])) == 1


def test_an_agent_is_told_of_a_ticket_that_is_theirs_from_the_start(
    agent: Acting, senior_agent: Acting, owner: Acting
) -> None:
    ticket = agent.insert_id("tickets", subject="For you", assignee_id=senior_agent.member_id)
    assert whom(owner, ticket) == [("senior_agent", "ticket_assigned")]


def test_nobody_is_told_what_they_did_themselves(agent: Acting, owner: Acting, north: Organization) -> None:
    agent.rows("update public.tickets set assignee_id = %s where id = %s",
               [agent.member_id, north["other_ticket"]])  # fmt: skip
    agent.insert("comments", ticket_id=north["other_ticket"], body="Note to @agent", is_internal=True)
    assert whom(owner, north["other_ticket"]) == []


def test_assignee_and_requester_are_told_that_a_ticket_moved(
    team_lead: Acting, owner: Acting, north: Organization
) -> None:
    team_lead.rows("update public.tickets set status = 'resolved' where id = %s", [north["ticket"]])
    assert whom(owner, north["ticket"]) == [("agent", "ticket_updated"), ("customer", "ticket_updated")]


def test_assignee_is_told_of_the_requester_s_reply(
    customer: Acting, owner: Acting, north: Organization
) -> None:
    customer.insert("comments", ticket_id=north["ticket"], body="Hello?")
    assert whom(owner, north["ticket"]) == [("agent", "ticket_updated")]


def test_requester_is_told_of_a_public_reply_and_not_of_a_note(
    agent: Acting, team_lead: Acting, owner: Acting, north: Organization
) -> None:
    agent.insert("comments", ticket_id=north["ticket"], body="A note", is_internal=True)
    assert whom(owner, north["ticket"]) == []
    team_lead.insert("comments", ticket_id=north["ticket"], body="A reply")
    assert whom(owner, north["ticket"]) == [("agent", "ticket_updated"), ("customer", "ticket_updated")]


def test_an_integration_s_comment_is_told_to_the_assignee(
    token: Acting, agent: Acting, owner: Acting, north: Organization
) -> None:
    agent.rows("update public.tickets set assignee_id = %s where id = %s",
               [agent.member_id, north["token_ticket"]])  # fmt: skip
    token.insert("comments", ticket_id=north["token_ticket"], body="More", is_internal=True)
    assert whom(owner, north["token_ticket"]) == [("agent", "ticket_updated")]


# Mentions


@pytest.mark.parametrize(
    ("body", "is_mention"),
    [
        ("@senior_agent please", True),
        ("Please, @Senior_Agent.", True),
        ("(@senior_agent)", True),
        ("@senior_agent", True),
        ("mail to me@senior_agent", False),
        ("senior_agent", False),
        ("@senior_agent_2", False),
        ("@@senior_agent", False),
        ("@senior", False),
    ],
)
def test_a_name_after_an_at_sign_is_a_mention(
    body: str, is_mention: bool, agent: Acting, owner: Acting, north: Organization
) -> None:
    agent.insert("comments", ticket_id=north["other_ticket"], body=body, is_internal=True)
    assert whom(owner, north["other_ticket"]) == ([("senior_agent", "mention")] if is_mention else [])


def test_a_mention_is_told_once_and_not_as_a_reply_too(
    team_lead: Acting, owner: Acting, north: Organization
) -> None:
    team_lead.insert("comments", ticket_id=north["ticket"], body="@agent @agent", is_internal=True)
    assert whom(owner, north["ticket"]) == [("agent", "mention")]


def test_customers_and_strangers_are_not_mentioned(
    agent: Acting, owner: Acting, stranger: Acting, north: Organization, south: Organization
) -> None:
    # The people of both organizations have the same names.
    agent.insert("comments", ticket_id=north["other_ticket"],
                 body="@customer @other_customer @team_lead", is_internal=True)  # fmt: skip
    assert whom(owner, north["other_ticket"]) == [("team_lead", "mention")]
    assert owner.rows("select 1 from public.notifications where organization_id = %s", [south.id]) == []


def test_an_assignee_who_is_no_agent_any_more_is_not_told_of_notes(
    agent: Acting, team_lead: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows("update public.members set role = 'customer' where id = %s", [agent.member_id])
    team_lead.insert("comments", ticket_id=north["ticket"], body="Between us", is_internal=True)
    assert whom(owner, north["ticket"]) == []


# What people want to be told of


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("ticket_updates", "ticket_updated"),
        ("ticket_assignments", "ticket_assigned"),
        ("mentions", "mention"),
    ],
)
def test_who_does_not_want_to_be_told_is_not(
    *, setting: str, kind: str, team_lead: Acting, senior_agent: Acting, owner: Acting, north: Organization
) -> None:
    senior_agent.insert("member_settings", **{setting: False})
    ticket = team_lead.insert_id("tickets", subject="x", assignee_id=senior_agent.member_id)
    team_lead.insert("comments", ticket_id=ticket, body="@senior_agent", is_internal=True)
    team_lead.insert("comments", ticket_id=ticket, body="Well?", is_internal=True)
    kinds = {"ticket_assigned", "mention", "ticket_updated"} - {kind}
    assert {told for _, told in whom(owner, ticket)} == kinds


def test_who_cannot_log_in_is_not_told(team_lead: Acting, owner: Acting, north: Organization) -> None:
    team_lead.insert("comments", ticket_id=north["ticket"], body="@deactivated", is_internal=True)
    assert whom(owner, north["ticket"]) == [("agent", "ticket_updated")]


# Whose they are


def test_everybody_sees_reads_and_removes_their_own(
    *,
    team_lead: Acting,
    agent: Acting,
    senior_agent: Acting,
    admin: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    team_lead.insert("comments", ticket_id=north["ticket"], body="x", is_internal=True)
    mine = "select member_id from public.notifications"
    assert agent.values(mine) == [agent.member_id]
    for acting in (senior_agent, admin):
        assert acting.values(mine) == []
        assert acting.count("update public.notifications set read_at = now()") == 0
        assert acting.count("delete from public.notifications") == 0
    assert agent.count("update public.notifications set read_at = now()") == 1
    assert agent.count("delete from public.notifications") == 1
    assert owner.rows(mine) == []


def test_nobody_tells_somebody_something_by_hand(agent: Acting, admin: Acting, north: Organization) -> None:
    for acting in (agent, admin):
        acting.refused_insert(
            "42501", "notifications", member_id=agent.member_id, type="mention", title="Hello"
        )
        acting.refused("42501", "update public.notifications set title = 'x'")


def test_integration_and_visitor_are_told_nothing(token: Acting, visitor: Acting) -> None:
    for acting in (token, visitor):
        acting.refused("42501", "select from public.notifications")
