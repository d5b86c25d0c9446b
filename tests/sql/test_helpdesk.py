"""The helpdesk contract as its SQL speaks it: words, lists, references, events; and what it stands on."""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from functions.helpdesk import structs
from tests.actors import OWNER, VISITOR, Acting, Organization, Stage, refusal_of

SHOWN = {
    "new": "open",
    "open": "open",
    "in_progress": "in_progress",
    "waiting": "in_progress",
    "on_hold": "in_progress",
    "resolved": "resolved",
    "closed": "closed",
}
PRIORITIES = ["low", "medium", "high", "urgent"]
LIST = "select body::jsonb from helpdesk.list_tickets(%s::jsonb, %s::jsonb, 'page=', false)"
GET = "select body::jsonb, version from helpdesk.get_ticket(%s::jsonb, %s)"
UPDATE = "select body::jsonb, version from helpdesk.update_ticket(%s::jsonb, %s, %s::jsonb, %s, null)"
RENDER = "select id, body::jsonb from helpdesk.render_events(%s::jsonb, %s::jsonb)"
STORED = "select status::text, priority::text, version from public.tickets where id = %s"


class Helpdesk:
    """The operations of the contract, as the service calls them for a person."""

    def __init__(self, login: Acting) -> None:
        self._login = login
        self._owner = Acting(OWNER, login.stage)

    def claims(self, who: Acting) -> str:
        fresh = "select private.fresh_claims(%s::jsonb)"
        return json.dumps(self._owner.value(fresh, [json.dumps(who.actor.claims)]))

    def number(self, table: str, row: str) -> int:
        return int(self._owner.value(f"select number from public.{table} where id = %s", [row]))

    def row(self, who: Acting, statement: str, *params: Any) -> Any:
        claims = self.claims(who)
        self._login.stage.come_anew()
        return self._login.row(statement, [claims, *params])

    def rows(self, who: Acting, statement: str, *params: Any) -> list[Any]:
        claims = self.claims(who)
        self._login.stage.come_anew()
        return self._login.rows(statement, [claims, *params])

    def list(self, who: Acting, **query: Any) -> list[int]:
        asked = {"page": 1, "page_size": 100, "ordering": "-created_at", **query}
        (page,) = self.row(who, LIST, json.dumps(asked))
        assert page["count"] == len(page["results"])
        return [ticket["id"] for ticket in page["results"]]

    def update(self, who: Acting, number: int, *, is_whole: bool = False, **fields: Any) -> tuple[Any, int]:
        body, version = self.row(who, UPDATE, number, json.dumps(fields), is_whole)
        return body, version


@pytest.fixture
def helpdesk(login: Acting) -> Helpdesk:
    return Helpdesk(login)


# Words


@pytest.mark.parametrize("status", SHOWN)
def test_status_is_shown_found_and_written_back_in_the_contract_s_word(
    status: str, helpdesk: Helpdesk, agent: Acting, owner: Acting, north: Organization
) -> None:
    ticket, number = north["ticket"], helpdesk.number("tickets", north["ticket"])
    owner.rows("update public.tickets set status = %s where id = %s", [status, ticket])
    was = owner.row(STORED, [ticket])
    body, _ = helpdesk.row(agent, GET, number)
    assert (body["status"], body["status_display"]) == (
        SHOWN[status],
        SHOWN[status].replace("_", " ").title(),
    )
    for word in set(SHOWN.values()):
        assert (number in helpdesk.list(agent, status=word)) == (word == SHOWN[status])
    # Who reads and writes back moves nothing.
    for fields in ({"status": body["status"]}, {"status": body["status"], "title": body["title"]}):
        assert helpdesk.update(agent, number, **fields) == (body, was[2])
    assert owner.row(STORED, [ticket]) == was
    helpdesk.update(
        agent, number, is_whole=True, title="Other", priority=body["priority"], status=body["status"]
    )
    assert owner.row(STORED, [ticket])[0] == status


@pytest.mark.parametrize("before", SHOWN)
def test_every_other_word_moves_the_ticket_there(
    before: str, helpdesk: Helpdesk, agent: Acting, owner: Acting, north: Organization
) -> None:
    ticket, number = north["ticket"], helpdesk.number("tickets", north["ticket"])
    owner.rows("update public.tickets set status = %s where id = %s", [before, ticket])
    for word in set(SHOWN.values()) - {SHOWN[before]}:
        with owner.stage.undone():
            body, _ = helpdesk.update(agent, number, status=word)
            assert (body["status"], owner.row(STORED, [ticket])[0]) == (word, word)


def test_words_of_the_service_are_the_database_s(owner: Acting) -> None:
    assert set(get_args(structs.Status)) == set(SHOWN.values())
    assert list(get_args(structs.Priority)) == PRIORITIES
    roles = "select array_agg(r::text order by r) from unnest(enum_range(null::public.member_role)) as r"
    assert list(get_args(structs.Role)) == owner.value(roles)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_priority_is_the_same_word(
    priority: str, helpdesk: Helpdesk, agent: Acting, owner: Acting, north: Organization
) -> None:
    number = helpdesk.number("tickets", north["ticket"])
    body, _ = helpdesk.update(agent, number, priority=priority)
    assert (body["priority"], body["priority_display"]) == (priority, priority.title())
    assert owner.row(STORED, [north["ticket"]])[1] == priority
    for word in PRIORITIES:
        assert (number in helpdesk.list(agent, priority=word)) == (word == priority)


def test_priorities_have_their_rank(agent: Acting) -> None:
    for priority in sorted(PRIORITIES):
        agent.insert("tickets", subject="Ranked", priority=priority)
    ranked = "select priority::text from public.tickets where subject = 'Ranked' order by priority_rank"
    assert agent.values(ranked) == PRIORITIES


def test_name_that_is_no_category_survives_what_the_contract_cannot_say(
    helpdesk: Helpdesk, agent: Acting, owner: Acting, north: Organization
) -> None:
    ticket, number = north["token_ticket"], helpdesk.number("tickets", north["token_ticket"])
    owner.rows("update public.tickets set category_label = 'Hardware' where id = %s", [ticket])
    label = "select category_label from public.tickets where id = %s"
    body, _ = helpdesk.update(agent, number, is_whole=True, title="Stock is low")
    assert (body["category"], owner.value(label, [ticket])) == (None, "Hardware")
    helpdesk.update(agent, number, category=helpdesk.number("categories", north["category"]))
    assert owner.value(label, [ticket]) is None


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        ("-1 minute", "just now"),
        ("59 seconds", "just now"),
        ("60 seconds", "1 minute ago"),
        ("119 minutes", "1 hour ago"),
        ("2 hours", "2 hours ago"),
        ("47 hours", "1 day ago"),
        ("15 days", "2 weeks ago"),
        ("100 days", "3 months ago"),
        ("800 days", "2 years ago"),
    ],
)
def test_time_is_told_in_its_largest_unit(ago: str, text: str, agent: Acting) -> None:
    assert agent.value("select helpdesk.time_since(now() - %s::interval)", [ago]) == text


# Lists


def test_page_is_ordered_by_what_is_asked_and_by_the_id(agent: Acting) -> None:
    order = 'select helpdesk.order_by(%s, \'{"priority": "rank(r.priority)"}\')'
    assert agent.value(order, ["-created_at"]) == "r.created_at desc, r.id desc"
    assert agent.value(order, ["-priority,title"]) == "rank(r.priority) desc, r.title, r.id desc"
    assert agent.value(order, ["a b;"]) == 'r."a b;", r.id'


@pytest.mark.parametrize(
    ("count", "page", "following", "preceding"),
    [
        (0, 1, None, None),
        (0, 9, None, 1),
        (2, 1, None, None),
        (3, 1, 2, None),
        (3, 2, None, 1),
        (3, 9, None, 2),
    ],
)
def test_page_links_to_those_around_it(
    count: int, page: int, following: int | None, preceding: int | None, agent: Acting
) -> None:
    for number in range(count):
        agent.insert("tags", name=f"page {number}")
    query = json.dumps({"page": page, "page_size": 2, "ordering": "name"})
    statement = "select helpdesk.page_of('tags', 'r.name like ''page%%''', %s::jsonb, 'u?page=')::jsonb"
    found = agent.value(statement, [query])
    assert found["count"] == count
    assert found["next"] == (following and f"u?page={following}")
    assert found["previous"] == (preceding and f"u?page={preceding}")


def test_each_sees_their_own_in_lists(
    *, helpdesk: Helpdesk, agent: Acting, customer: Acting, other_customer: Acting, stranger: Acting,
    north: Organization, owner: Acting,
) -> None:  # fmt: skip
    every = "select number from public.tickets where organization_id = %s and deleted_at is null"
    assert set(helpdesk.list(agent)) == set(owner.values(every, [north.id]))
    assert helpdesk.list(customer) == [helpdesk.number("tickets", north["ticket"])]
    assert helpdesk.list(other_customer) == [helpdesk.number("tickets", north["other_ticket"])]
    assert set(helpdesk.list(stranger)).isdisjoint(helpdesk.list(agent))


# Search


QUERIES = [
    "order", "ord", "is", "thank", "senior_agent", "look", "stock", "log", "still", "never", "forget",
    "where order", '"my order"', '"order my"', "order -my", "colour or invoice", "…", "", "s",
]  # fmt: skip
PLAIN = """
    select t.id from public.tickets as t
    where to_tsvector('simple', translate(t.subject || ' ' || t.description, '-_/', '   '))
        @@ private.search_query(%(query)s)
    union
    select c.ticket_id from public.comments as c
    where to_tsvector('simple', translate(c.body, '-_/', '   ')) @@ private.search_query(%(query)s)
"""
SEARCHERS = ["admin", "team_lead", "agent", "customer", "other_customer", "token", "other_token"]


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("where", ["north", "south"])
def test_search_finds_what_the_policies_let_one_find(
    name: str, where: str, stage: Stage, owner: Acting, world: Any
) -> None:
    # What search says itself about who sees what must not differ from the policies.
    owner.rows("grant execute on function private.search_query(text) to authenticated, integration")
    acting = Acting(getattr(world, where).actors[name], stage)
    found = {}
    for query in QUERIES:
        found[query] = set(acting.values("select private.search_tickets(%s)", [query]))
        assert found[query] == set(acting.values(PLAIN, {"query": query})), query
    assert any(found.values())
    assert found["never"] == found["forget"] == set()


def test_token_without_the_scope_to_read_finds_nothing(admin: Acting, owner: Acting, token: Acting) -> None:
    assert token.values("select private.search_tickets('stock')") != []
    claims = {**token.actor.claims, "app_metadata": {**token.actor.claims["app_metadata"], "scopes": []}}
    owner.rows("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
    assert owner.values("select private.search_tickets('stock')") == []


def test_visitor_does_not_search(visitor: Acting) -> None:
    visitor.refused("42501", "select private.search_tickets('order')")


def test_search_sees_what_this_transaction_has_written(agent: Acting, customer: Acting) -> None:
    for text in ("xylophone", "x-y/z_w", "me@xylo.example", "https://xylo.example/a?b=c", "it's"):
        ticket = customer.insert_id("tickets", subject=f"My {text}")
        assert ticket in agent.values("select private.search_tickets(%s)", [text])
        assert ticket in customer.values("select private.search_tickets(%s)", [text])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("ORD-98765", "98765"),
        ("ORD-98765", "ord-987"),
        ("TRK-4242-AB", "4242"),
        ("TRK-4242-AB", "4242-ab trk"),
        ("report_final.pdf", "final"),
        ("report_final.pdf", "report_final"),
        ("https://shop.example/checkout/step", "checkout"),
        ("https://shop.example/checkout/step", "shop.example/checkout"),
        ("2024/01/20", "2024/01"),
        ("ann-marie@mail.example", "ann-marie@mail.example"),
    ],
)
def test_search_finds_the_parts_of_what_is_written_together(text: str, query: str, agent: Acting) -> None:
    ticket = agent.insert_id("tickets", subject=f"About {text}, please")
    other = agent.insert_id("tickets", subject="About nothing")
    found = agent.values("select private.search_tickets(%s)", [query])
    assert ticket in found
    assert other not in found
    without = f"please -{query.split(maxsplit=1)[0]}"
    assert ticket not in agent.values("select private.search_tickets(%s)", [without])


# Who somebody is


def test_only_the_service_turns_names_into_addresses(
    login: Acting, agent: Acting, visitor: Acting, token: Acting
) -> None:
    assert login.value("select private.email_of('nobody')") is None
    for acting in (agent, visitor, token):
        acting.refused("42501", "select private.email_of('agent')")


def test_name_is_an_address_if_one_person_has_it(
    login: Acting, owner: Acting, agent: Acting, stranger: Acting
) -> None:
    rename = "update public.members set username = %s where id = %s"
    email = owner.value("select email from public.members where id = %s", [agent.member_id])
    assert login.value("select private.email_of('agent')") is None  # there are two
    owner.rows(rename, ["Tech1", agent.member_id])
    for name in ("tech1", "TECH1"):
        assert login.value("select private.email_of(%s)", [name]) == email
    owner.rows(rename, ["tech1", stranger.member_id])
    assert login.value("select private.email_of('tech1')") is None
    owner.rows("update public.members set is_active = false where id = %s", [stranger.member_id])
    assert login.value("select private.email_of('tech1')") == email
    owner.rows("update public.members set user_id = null where id = %s", [agent.member_id])
    assert login.value("select private.email_of('tech1')") is None


# When it is due


@pytest.mark.parametrize(
    "moment",
    [
        *(
            "0000-01-01T00:00:00Z",
            "0044-03-15T00:00:00Z BC",
            "0001-01-01T00:00:00+01:00",
            "infinity",
            "-infinity",
        ),
        *(
            "9999-12-31T23:59:59-01:00",
            "10000-01-01T00:00:00Z",
            "2024-01-20T00:00:00+23:59",
            "2024-02-30",
            "x",
        ),
    ],
)
def test_a_moment_that_cannot_be_shown_is_a_fault_of_its_field(
    moment: str, helpdesk: Helpdesk, agent: Acting, north: Organization
) -> None:
    number = helpdesk.number("tickets", north["ticket"])
    refused = refusal_of(lambda: helpdesk.update(agent, number, due_date=moment, category=2**40))
    assert refused
    assert (refused.state, refused.word) == ("PT400", "invalid_field")
    assert json.loads(refused.detail).keys() == {"due_date", "category"}


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", None])
def test_any_other_moment_is_shown_as_it_was_given(
    moment: str | None, helpdesk: Helpdesk, agent: Acting, north: Organization
) -> None:
    number = helpdesk.number("tickets", north["ticket"])
    assert helpdesk.update(agent, number, due_date=moment)[0]["due_date"] == moment


# Doing things once


def test_without_a_key_nothing_is_a_repeat(agent: Acting) -> None:
    for _ in range(2):
        assert agent.row("select * from private.begin_once('test', null, '[]')") == (False, None, None)
        agent.rows("select private.finish_once('test', null, 'body', 1)")


# Events


@pytest.fixture
def notifications(owner: Acting) -> Callable[[], list[Any]]:
    """Read the events of new notifications, as the relay tells of them."""

    def events() -> list[Any]:
        return owner.values(
            """
            select jsonb_build_object('id', e.id, 'xid', e.xid::text, 'at', e.at, 'ids',
                jsonb_build_object('member_id', e.record ->> 'member_id'))
            from private.events as e where e.type = 'notification.created' order by e.id
            """
        )

    return events


def test_everybody_is_told_of_their_own_notifications_alone(
    *, helpdesk: Helpdesk, notifications: Callable[[], list[Any]], team_lead: Acting, agent: Acting,
    customer: Acting, stranger: Acting,
) -> None:  # fmt: skip
    team_lead.insert("tickets", subject="Yours", assignee_id=agent.member_id)
    events = notifications()
    for acting in (agent, customer, stranger):
        told = helpdesk.rows(acting, RENDER, json.dumps(events))
        mine = {e["id"] for e in events if e["ids"]["member_id"] == acting.member_id}
        assert {place for place, _ in told} == mine
        for _, message in told:
            assert list(message) == ["data", "event"]
            assert message["event"] == "notification.new"
    (body,) = [
        message["data"]
        for _, message in helpdesk.rows(agent, RENDER, json.dumps(events))
        if message["data"]["title"] == "Ticket assigned: Yours"
    ]
    assert body["ticket"] is not None
    assert (body["type"], body["message"], body["is_read"]) == ("ticket_assigned", "", False)
    told = helpdesk.rows(agent, RENDER, json.dumps(events))
    agent.rows("update public.notifications set read_at = now()")
    assert helpdesk.rows(agent, RENDER, json.dumps(events)) == told, "as it was, however late it is told"


def test_nobody_is_told_of_a_ticket_that_is_gone(
    helpdesk: Helpdesk, notifications: Callable[[], list[Any]], team_lead: Acting, agent: Acting
) -> None:
    ticket = team_lead.insert_id("tickets", subject="Soon gone", assignee_id=agent.member_id)
    team_lead.rows("delete from public.tickets where id = %s", [ticket])
    told = helpdesk.rows(agent, RENDER, json.dumps(notifications()))
    assert "Ticket assigned: Soon gone" not in {message["data"]["title"] for _, message in told}


def test_claims_that_are_nobodys_are_told_nothing(
    login: Acting, notifications: Callable[[], list[Any]], stage: Stage
) -> None:
    events = json.dumps(notifications())
    stage.come_anew()
    nobody = json.dumps({"role": "authenticated", "app_metadata": {}})
    assert login.rows(RENDER, [nobody, events]) == []
    stage.come_anew()
    login.refused("42501", RENDER, [json.dumps(VISITOR.claims), events])
