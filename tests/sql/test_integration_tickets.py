"""The integration-tickets contract as its SQL speaks it: words, answers, ownership, scopes, stale writes."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.actors import Acting, Organization, Stage, World, token_of
from tests.databases import Connection
from tests.sql.test_idempotency import answers_at_once

NOBODY = "00000000-0000-4000-8000-000000000000"
CREATE = """
    select body::jsonb, version from integration_tickets.create_ticket(%(claims)s::jsonb, %(title)s,
        %(description)s, %(priority)s, %(category)s, %(metadata)s::jsonb, null)
"""
GET = "select body::jsonb, version from integration_tickets.get_ticket(%(claims)s::jsonb, %(ticket)s)"
COMMENT = """
    select body::jsonb, version from integration_tickets.add_comment(%(claims)s::jsonb, %(ticket)s,
        %(content)s, %(internal)s, %(if_match)s, null)
"""
STATUS = """
    select body::jsonb, version from integration_tickets.update_ticket_status(%(claims)s::jsonb, %(ticket)s,
        %(status)s, %(if_match)s)
"""
SHOWN = {
    "new": "open",
    "open": "open",
    "in_progress": "in_progress",
    "waiting": "waiting",
    "on_hold": "waiting",
    "resolved": "resolved",
    "closed": "closed",
}


class Partner:
    """A partner's system that calls the operations of the contract."""

    def __init__(self, login: Acting, token: Acting) -> None:
        self._login = login
        self._claims = json.dumps(token.actor.claims)

    def create(self, title: str, **values: Any) -> tuple[dict[str, Any], int]:
        return self._call(CREATE, title=title, **values)

    def get(self, ticket: str) -> tuple[dict[str, Any], int]:
        return self._call(GET, ticket=ticket)

    def comment(
        self, ticket: str, content: str, *, internal: bool | None = None, if_match: int | None = None
    ) -> tuple[dict[str, Any], int]:
        return self._call(COMMENT, ticket=ticket, content=content, internal=internal, if_match=if_match)

    def set_status(self, ticket: str, status: str, if_match: int | None = None) -> tuple[dict[str, Any], int]:
        return self._call(STATUS, ticket=ticket, status=status, if_match=if_match)

    def refused(self, state: str, word: str, statement: str, **values: Any) -> str:
        """Call an operation that has to be refused, and return the details."""
        self._login.stage.come_anew()
        return self._login.refused(state, statement, self._request(values), word=word).detail

    def _call(self, statement: str, **values: Any) -> tuple[dict[str, Any], int]:
        self._login.stage.come_anew()
        body, version = self._login.row(statement, self._request(values))
        return body, version

    def _request(self, values: dict[str, Any]) -> dict[str, Any]:
        names = ("title", "description", "priority", "category", "metadata", "ticket", "content", "internal",
                 "if_match", "status")  # fmt: skip
        return dict.fromkeys(names) | {"claims": self._claims} | values


@pytest.fixture
def partner(login: Acting, token: Acting) -> Partner:
    return Partner(login, token)


# Creating and reading


def test_a_ticket_is_answered_as_the_contract_shows_it(partner: Partner, owner: Acting) -> None:
    body, version = partner.create(
        "No stock", description="Shelf 7", priority="high", category="Warehouse", metadata='{"shelf": 7}'
    )
    ticket = body["ticket"]
    assert version == 1
    assert list(body) == ["ticket"]
    assert ticket.pop("created_at").endswith("Z")
    assert ticket == {
        "id": ticket["id"],
        "title": "No stock",
        "description": "Shelf 7",
        "status": "open",
        "priority": "high",
        "category": "Warehouse",
        "metadata": {"shelf": 7},
    }
    stored = "select status::text, channel::text from public.tickets where id = %s"
    assert owner.row(stored, [ticket["id"]]) == ("new", "api")


def test_what_is_left_out_has_its_default(partner: Partner) -> None:
    ticket = partner.create("Short")[0]["ticket"]
    assert (ticket["description"], ticket["priority"], ticket["category"]) == (None, "medium", None)
    assert ticket["metadata"] == {}


def test_a_ticket_reads_as_it_was_made(partner: Partner) -> None:
    made = partner.create("Same", description="As before", category="Returns", metadata='{"a": [1]}')
    body, version = partner.get(made[0]["ticket"]["id"])
    updated_at = body["ticket"].pop("updated_at")
    assert (body, version) == made
    assert updated_at == body["ticket"]["created_at"]


def test_a_known_category_is_linked_whatever_its_case_and_an_unknown_one_is_kept(
    partner: Partner, owner: Acting, north: Organization
) -> None:
    stored = "select category_id, category_label from public.tickets where id = %s"
    known = partner.create("x", category=" dELIVERY ")[0]["ticket"]
    assert known["category"] == "Delivery"
    assert owner.row(stored, [known["id"]]) == (north["category"], None)
    unknown = partner.create("x", category=" Nothing known ")[0]["ticket"]
    assert unknown["category"] == "Nothing known"
    assert owner.row(stored, [unknown["id"]]) == (None, "Nothing known")
    assert partner.create("x", category="   ")[0]["ticket"]["category"] is None


def test_a_category_of_another_organization_is_not_linked(
    partner: Partner, foreign_admin: Acting, owner: Acting
) -> None:
    foreign_admin.insert("categories", name="Secret project")
    made = partner.create("x", category="secret project")[0]["ticket"]
    assert made["category"] == "secret project"
    assert owner.value("select category_id from public.tickets where id = %s", [made["id"]]) is None


def test_only_the_maker_reads_a_ticket(
    partner: Partner, north: Organization, south: Organization, team_lead: Acting
) -> None:
    assert partner.get(north["token_ticket"])[0]["ticket"]["title"] == "Stock is low"
    for ticket in (north["other_token_ticket"], north["ticket"], south["token_ticket"], NOBODY):
        partner.refused("PT404", "not_found", GET, ticket=ticket)
    team_lead.rows("delete from public.tickets where id = %s", [north["token_ticket"]])
    partner.refused("PT404", "not_found", GET, ticket=north["token_ticket"])


@pytest.mark.parametrize("status", SHOWN)
def test_a_status_is_shown_in_the_contract_s_words(
    status: str, partner: Partner, owner: Acting, north: Organization
) -> None:
    owner.rows("update public.tickets set status = %s where id = %s", [status, north["token_ticket"]])
    assert partner.get(north["token_ticket"])[0]["ticket"]["status"] == SHOWN[status]


# Status


@pytest.mark.parametrize("before", SHOWN)
def test_writing_the_word_that_is_shown_moves_nothing(
    before: str, partner: Partner, owner: Acting, north: Organization
) -> None:
    ticket = north["token_ticket"]
    owner.rows("update public.tickets set status = %s where id = %s", [before, ticket])
    stored = "select status::text, version from public.tickets where id = %s"
    was = owner.row(stored, [ticket])
    body, version = partner.set_status(ticket, SHOWN[before])
    assert owner.row(stored, [ticket]) == was
    assert version == was[1]
    assert body["ticket"]["status"] == SHOWN[before]


@pytest.mark.parametrize("before", SHOWN)
def test_every_other_word_moves_the_ticket_there(
    before: str, partner: Partner, owner: Acting, stage: Stage, north: Organization
) -> None:
    ticket = north["token_ticket"]
    owner.rows("update public.tickets set status = %s where id = %s", [before, ticket])
    for after in set(SHOWN.values()) - {SHOWN[before]}:
        with stage.undone():
            version = owner.value("select version from public.tickets where id = %s", [ticket])
            body, new_version = partner.set_status(ticket, after)
            assert new_version == version + 1
            assert list(body) == ["ticket", "success"]
            assert body["success"] is True
            assert sorted(body["ticket"]) == ["id", "status", "updated_at"]
            assert body["ticket"]["status"] == after
            assert owner.value("select status::text from public.tickets where id = %s", [ticket]) == after


@pytest.mark.parametrize("status", ["new", "on_hold", "pending", "OPEN", ""])
def test_an_unknown_status_is_refused(status: str, partner: Partner, north: Organization) -> None:
    partner.refused("PT400", "invalid_field", STATUS, ticket=north["token_ticket"], status=status)


# Whose ticket it is


@pytest.mark.parametrize(
    ("statement", "values"),
    [(COMMENT, {"content": "x"}), (STATUS, {"status": "closed"})],
    ids=["comment", "status"],
)
def test_a_ticket_of_somebody_else_is_not_authorized_and_a_foreign_one_not_found(
    *,
    statement: str,
    values: dict[str, str],
    partner: Partner,
    owner: Acting,
    north: Organization,
    south: Organization,
) -> None:
    for name in ("other_token_ticket", "ticket", "walk_in"):
        partner.refused("PT401", "not_authorized", statement, ticket=north[name], **values)
    for ticket in (south["token_ticket"], north["deleted_ticket"], NOBODY):
        partner.refused("PT404", "not_found", statement, ticket=ticket, **values)
    assert owner.rows("select 1 from public.comments where body = 'x'") == []
    assert owner.rows("select 1 from public.tickets where status = 'closed'") == []


# Comments


def test_a_comment_is_public_unless_it_is_said_to_be_internal(
    partner: Partner, owner: Acting, north: Organization
) -> None:
    stored = "select is_internal, body from public.comments where id = %s"
    for internal, expected in ((None, False), (False, False), (True, True)):
        body, _ = partner.comment(north["token_ticket"], "Hello", internal=internal)
        assert list(body) == ["comment_id"]
        assert owner.row(stored, [body["comment_id"]]) == (expected, "Hello")


def test_a_comment_makes_a_new_version(partner: Partner, north: Organization) -> None:
    before = partner.get(north["token_ticket"])[1]
    assert partner.comment(north["token_ticket"], "x")[1] == before + 1
    assert partner.get(north["token_ticket"])[1] == before + 1


# Stale writes


def test_a_write_that_knows_the_ticket_goes_through(partner: Partner, north: Organization) -> None:
    _, version = partner.get(north["token_ticket"])
    _, version = partner.comment(north["token_ticket"], "x", if_match=version)
    _, version = partner.set_status(north["token_ticket"], "resolved", if_match=version)
    assert partner.get(north["token_ticket"])[1] == version


def test_a_write_that_is_behind_is_told_what_it_missed_and_changes_nothing(
    partner: Partner, agent: Acting, north: Organization
) -> None:
    ticket = north["token_ticket"]
    _, version = partner.get(ticket)
    reply = agent.insert_id("comments", ticket_id=ticket, body="Please check again.")
    agent.insert("comments", ticket_id=ticket, body="They are slow.", is_internal=True)
    for statement, values in ((COMMENT, {"content": "stale"}), (STATUS, {"status": "closed"})):
        details = json.loads(
            partner.refused("PT412", "stale", statement, ticket=ticket, if_match=version, **values)
        )
        assert details["version"] == version + 2
        (missed,) = details["comments"]
        assert missed.pop("created_at").endswith("Z")
        assert missed == {"id": reply, "content": "Please check again.", "is_internal": False}
    body, now = partner.get(ticket)
    assert (body["ticket"]["status"], now) == ("in_progress", version + 2)


def test_a_version_that_never_was_is_stale_too(partner: Partner, north: Organization) -> None:
    details = partner.refused(
        "PT412", "stale", STATUS, ticket=north["token_ticket"], status="closed", if_match=999
    )
    assert json.loads(details)["comments"] == []


def test_of_ten_writers_who_know_the_same_version_one_wins(
    own_world: World, connect: Callable[[], Connection]
) -> None:
    north = own_world.north
    request: dict[str, Any] = {
        "claims": json.dumps(north.actors["token"].claims),
        "ticket": north["token_ticket"],
    }
    first = connect()
    row = first.execute(GET, request).fetchone()
    assert row
    request |= {"content": "Me", "internal": False, "if_match": row[1]}
    answers = answers_at_once([first, *[connect() for _ in range(9)]], COMMENT, [request] * 10)
    refused = [answer for answer in answers if isinstance(answer, psycopg.Error)]
    assert len(refused) == 9
    assert {error.sqlstate for error in refused} == {"PT412"}
    after = first.execute(GET, request).fetchone()
    assert after
    assert after[1] == row[1] + 1


# Scopes


@pytest.mark.parametrize(
    ("scope", "calls"),
    [
        ("tickets:read", [GET, STATUS]),
        ("tickets:write", [CREATE, STATUS]),
        ("comments:write", [COMMENT]),
    ],
)
def test_an_operation_without_its_scope_says_which_it_is(
    *, scope: str, calls: list[str], admin: Acting, owner: Acting, login: Acting, stage: Stage
) -> None:
    others = sorted({"tickets:read", "tickets:write", "comments:write"} - {scope})
    made = admin.value("select public.create_integration_token('scoped', scopes => %s)", [others])
    lacking = Acting(token_of(stage, made), stage)
    ticket = owner.insert_id(
        "tickets", subject="x", organization_id=lacking.actor.claims["app_metadata"]["organization_id"],
        integration_token_id=lacking.token_id,
    )  # fmt: skip
    values = {"title": "x", "ticket": ticket, "content": "x", "status": "resolved"}
    partner = Partner(login, lacking)
    for call in (CREATE, GET, COMMENT, STATUS):
        if call in calls:
            assert scope in partner.refused("PT403", "insufficient_scope", call, **values)
        else:
            partner._call(call, **values)  # has all the scopes that it needs


# What only SQL can refuse


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"title": None}, "23502"),
        ({"title": "  "}, "23514"),
        ({"title": "x" * 501}, "23514"),
        ({"title": "x", "priority": "asap"}, "23514"),
        ({"title": "x", "metadata": "[1]"}, "23514"),
        ({"title": "x", "category": "x" * 201}, "23514"),
    ],
    ids=["no title", "blank", "long", "priority", "metadata", "category"],
)
def test_a_malformed_ticket_is_refused_and_makes_nothing(
    values: dict[str, Any], state: str, partner: Partner, owner: Acting
) -> None:
    before = owner.value("select count(*) from public.tickets")
    partner.refused(state, "", CREATE, **values)
    assert owner.value("select count(*) from public.tickets") == before
