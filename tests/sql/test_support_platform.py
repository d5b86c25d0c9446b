"""The support-platform contract as its SQL speaks it: shapes, words, who sees and writes what, deliveries."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.actors import Acting, Organization, Stage
from tests.sql.test_words import shown

NOBODY = "00000000-0000-4000-8000-000000000000"
LIST = """
    select support_platform.list_tickets(%(claims)s::jsonb, %(status)s, %(category)s::uuid, %(priority)s,
        coalesce(%(page)s::bigint, 1), coalesce(%(size)s::bigint, 20))::jsonb, null
"""
CREATE = """
    select body::jsonb, version from support_platform.create_ticket(%(claims)s::jsonb, %(title)s,
        %(description)s, %(category)s::uuid, %(priority)s, %(key)s)
"""
GET = "select body::jsonb, version from support_platform.get_ticket(%(claims)s::jsonb, %(ticket)s::uuid)"
MESSAGES = """
    select body::jsonb, version from support_platform.list_messages(%(claims)s::jsonb, %(ticket)s::uuid,
        coalesce(%(page)s::bigint, 1), coalesce(%(size)s::bigint, 20))
"""
SEND = """
    select body::jsonb, version from support_platform.send_message(%(claims)s::jsonb, %(ticket)s::uuid,
        %(content)s, %(internal)s, %(if_match)s::bigint, %(key)s)
"""
CATEGORIES = "select support_platform.list_categories(%(claims)s::jsonb)::jsonb, null"
WATCH = "select support_platform.watch_ticket(%(claims)s::jsonb, %(ticket)s::uuid), null"
RENDER = "select id, body::jsonb from support_platform.render_events(%s::jsonb, %s::jsonb) order by id"
LOGGED = """
    select jsonb_agg(jsonb_build_object('id', e.id, 'xid', e.xid::text, 'at', e.at) order by e.id)
    from private.events as e where e.xid = pg_current_xact_id()
"""
RECEIVE = "select support_platform.receive_webhook(%s::uuid, %s, %s::jsonb)::jsonb"
NAMES = ("status", "category", "priority", "page", "size", "title", "description", "ticket", "content",
         "internal", "if_match", "key")  # fmt: skip
TICKET = {"id", "title", "description", "status", "priority", "category_id", "created_at", "updated_at"}
STATUSES = shown("support_platform", "status")
PRIORITIES = shown("support_platform", "priority")


class Person:
    """Somebody who calls the operations of the contract."""

    def __init__(self, login: Acting, acting: Acting, owner: Acting) -> None:
        self._login = login
        claims = json.dumps(acting.actor.claims)
        self._claims = json.dumps(owner.value("select private.fresh_claims(%s::jsonb)", [claims]))

    def call(self, statement: str, **values: Any) -> tuple[Any, int | None]:
        """Call an operation; return the answer and the version."""
        self._login.stage.come_anew()
        body, version = self._login.row(statement, self._request(values))
        return body, version

    def refused(self, state: str, word: str, statement: str, **values: Any) -> str:
        """Call an operation that has to be refused, and return the detail."""
        self._login.stage.come_anew()
        return self._login.refused(state, statement, self._request(values), word=word).detail

    def titles(self, **filters: Any) -> list[str]:
        """Return the titles of the tickets of a list."""
        return [item["title"] for item in self.call(LIST, **filters)[0]["items"]]

    def told(self, events: list[dict[str, Any]]) -> list[tuple[str, Any]]:
        """Return what the person is told of events, or the service about them."""
        self._login.stage.come_anew()
        rows = self._login.rows(RENDER, [self._claims, json.dumps(events)])
        assert {row[0] for row in rows} <= {event["id"] for event in events}
        return [(row[1].pop("event"), row[1].pop("data", None)) for row in rows]

    def _request(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"claims": self._claims} | dict.fromkeys(NAMES) | values


@pytest.fixture
def people(login: Acting, owner: Acting) -> Callable[[Acting], Person]:
    return lambda acting: Person(login, acting, owner)


@pytest.fixture
def buyer(people: Callable[[Acting], Person], customer: Acting) -> Person:
    """The customer, at the contract."""
    return people(customer)


@pytest.fixture
def helper(people: Callable[[Acting], Person], agent: Acting) -> Person:
    """An agent, at the contract."""
    return people(agent)


# Lists


def test_customer_lists_their_own_tickets_and_an_agent_all_newest_first(
    buyer: Person, helper: Person, stage: Stage, owner: Acting, north: Organization
) -> None:
    assert buyer.titles() == ["Where is my order?"]
    seen = owner.values(
        "select subject from public.tickets where organization_id = %s and deleted_at is null"
        " order by created_at desc, id desc",
        [north.id],
    )
    assert len(seen) == 5
    assert helper.titles() == seen
    assert [helper.titles(page=page, size=2) for page in (1, 2, 3, 4)] == [seen[:2], seen[2:4], seen[4:], []]


def test_a_page_says_how_many_there_are(helper: Person, people: Callable[[Acting], Person]) -> None:
    page, version = helper.call(LIST, page=2, size=2)
    assert {name: page[name] for name in ("total", "page", "pages")} == {"total": 5, "page": 2, "pages": 3}
    assert version is None
    beyond, _ = helper.call(LIST, page=10**9, size=100)
    assert beyond == {"items": [], "total": 5, "page": 10**9, "pages": 1}


def test_a_list_of_nothing_has_no_pages(buyer: Person) -> None:
    assert buyer.call(LIST, category=NOBODY)[0] == {"items": [], "total": 0, "page": 1, "pages": 0}


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_shown_and_found_by_its_word_alone(
    status: str, helper: Person, owner: Acting, north: Organization
) -> None:
    owner.rows("update public.tickets set status = 'new' where organization_id = %s", [north.id])
    owner.rows("update public.tickets set status = %s where id = %s", [status, north["ticket"]])
    for word in set(STATUSES.values()):
        found = [item for item in helper.call(LIST, status=word)[0]["items"] if item["id"] == north["ticket"]]
        assert [item["status"] for item in found] == ([word] if word == STATUSES[status] else [])
    assert helper.call(GET, ticket=north["ticket"])[0]["status"] == STATUSES[status]


@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_priority_is_shown_and_found_by_its_word_alone(
    priority: str, buyer: Person, owner: Acting, north: Organization
) -> None:
    owner.rows("update public.tickets set priority = %s where id = %s", [priority, north["ticket"]])
    for word in set(PRIORITIES.values()):
        found = [item["priority"] for item in buyer.call(LIST, priority=word)[0]["items"]]
        assert found == ([word] if word == PRIORITIES[priority] else [])


def test_filters_narrow_together(helper: Person, north: Organization) -> None:
    assert helper.titles(category=north["category"]) == ["Called about an invoice"]
    assert helper.titles(category=north["category"], status="open", priority="medium") == [
        "Called about an invoice"
    ]
    assert helper.titles(category=north["category"], status="resolved") == []


@pytest.mark.parametrize(
    ("name", "word", "words"),
    [
        ("status", "waiting", "in_progress, open, resolved"),
        ("status", "", "in_progress, open, resolved"),
        ("status", "OPEN", "in_progress, open, resolved"),
        ("priority", "urgent", "high, low, medium"),
    ],
)
def test_an_unknown_word_is_refused_and_told_the_known_ones(
    name: str, word: str, words: str, buyer: Person
) -> None:
    sentence = buyer.refused("PT400", "invalid_field", LIST, **{name: word})
    assert sentence == f"{name} must be one of {words}."


# Tickets


def test_a_ticket_is_answered_as_the_contract_shows_it(
    buyer: Person, customer: Acting, owner: Acting, north: Organization
) -> None:
    made, version = buyer.call(
        CREATE, title="Can't log in", description="Since noon", category=north["category"], priority="high"
    )
    assert (set(made), version) == (TICKET, 1)
    assert made["created_at"].endswith("Z")
    assert made == {
        **made,
        "title": "Can't log in",
        "description": "Since noon",
        "status": "open",
        "priority": "high",
        "category_id": north["category"],
    }
    assert buyer.call(GET, ticket=made["id"]) == (made, 1)
    assert buyer.call(LIST)[0]["items"][0] == made
    stored = (
        "select status::text, contact_id::text, created_by_member_id::text from public.tickets where id = %s"
    )
    assert owner.row(stored, [made["id"]]) == ("new", customer.contact_id, customer.member_id)


def test_what_is_left_out_has_its_default(helper: Person) -> None:
    made, _ = helper.call(CREATE, title="Short")
    assert (made["description"], made["priority"], made["category_id"]) == ("", "medium", None)


def test_a_category_that_the_organization_has_not_is_refused(
    buyer: Person, owner: Acting, south: Organization
) -> None:
    for category in (NOBODY, south["category"]):
        sentence = buyer.refused("PT400", "invalid_field", CREATE, title="x", category=category)
        assert "category_id" in sentence
    assert owner.value("select count(*) from public.tickets where subject = 'x'") == 0


@pytest.mark.parametrize(
    ("values", "state"),
    [({"title": None}, "23502"), ({"title": " "}, "23514"), ({"title": "x", "priority": "urgent"}, "23502")],
)
def test_a_malformed_ticket_is_refused(values: dict[str, Any], state: str, buyer: Person) -> None:
    buyer.refused(state, "", CREATE, **values)


def test_only_those_who_see_a_ticket_get_it(
    *,
    people: Callable[[Acting], Person],
    customer: Acting,
    other_customer: Acting,
    agent: Acting,
    admin: Acting,
    stranger: Acting,
    north: Organization,
) -> None:
    for who in (customer, agent, admin):
        ticket, version = people(who).call(GET, ticket=north["ticket"])
        assert (ticket["title"], ticket["status"]) == ("Where is my order?", "in_progress")
        assert version
    for who in (other_customer, stranger):
        for statement in (GET, MESSAGES):
            people(who).refused("PT404", "not_found", statement, ticket=north["ticket"])
        people(who).refused("PT404", "not_found", SEND, ticket=north["ticket"], content="x")
    for ticket in (north["deleted_ticket"], NOBODY):
        people(admin).refused("PT404", "not_found", GET, ticket=ticket)


# Messages


def test_customer_reads_what_is_public_and_an_agent_everything_in_order(
    buyer: Person, helper: Person, north: Organization
) -> None:
    public = ["It is on its way.", "Thank you."]
    page, version = buyer.call(MESSAGES, ticket=north["ticket"])
    assert sorted(item["content"] for item in page["items"]) == public
    assert (page["total"], page["page"], page["pages"]) == (2, 1, 1)
    assert version == buyer.call(GET, ticket=north["ticket"])[1]
    seen = helper.call(MESSAGES, ticket=north["ticket"])[0]["items"]
    assert {item["content"]: item["is_internal"] for item in seen} == {
        **dict.fromkeys(public, False),
        "@senior_agent please look": True,
    }
    pages = [helper.call(MESSAGES, ticket=north["ticket"], page=n, size=2)[0]["items"] for n in (1, 2, 3)]
    assert pages == [seen[:2], seen[2:], []]


def test_a_message_is_answered_as_the_contract_shows_it(
    buyer: Person, helper: Person, owner: Acting, north: Organization
) -> None:
    _, before = buyer.call(GET, ticket=north["ticket"])
    sent, version = helper.call(SEND, ticket=north["ticket"], content="Have you tried?", internal=True)
    assert set(sent) == {"id", "ticket_id", "content", "is_internal", "created_at"}
    assert (sent["ticket_id"], sent["content"]) == (north["ticket"], "Have you tried?")
    assert sent["is_internal"] is True
    assert version == (before or 0) + 1
    assert buyer.call(GET, ticket=north["ticket"])[1] == version
    reply, _ = buyer.call(SEND, ticket=north["ticket"], content="Yes.")
    assert reply["is_internal"] is False
    author = "select author_contact_id is not null from public.comments where id = %s"
    assert owner.values(author, [sent["id"]]) + owner.values(author, [reply["id"]]) == [False, True]


def test_customer_sends_nothing_internal_and_nothing_to_a_closed_ticket(
    buyer: Person, helper: Person, owner: Acting, north: Organization
) -> None:
    ticket = north["ticket"]
    buyer.refused("42501", "", SEND, ticket=ticket, content="x", internal=True)
    owner.rows("update public.tickets set status = 'closed' where id = %s", [ticket])
    buyer.refused("PT409", "ticket_closed", SEND, ticket=ticket, content="x")
    assert helper.call(SEND, ticket=ticket, content="Still here.")[0]["content"] == "Still here."
    assert owner.value("select count(*) from public.comments where body = 'x'") == 0


def test_a_message_that_is_behind_is_told_what_it_missed_and_not_what_is_internal(
    buyer: Person, agent: Acting, north: Organization
) -> None:
    ticket = north["ticket"]
    _, version = buyer.call(GET, ticket=ticket)
    assert version
    agent.insert("comments", ticket_id=ticket, body="Please check again.")
    agent.insert("comments", ticket_id=ticket, body="They are slow.", is_internal=True)
    details = json.loads(buyer.refused("PT412", "stale", SEND, ticket=ticket, content="x", if_match=version))
    assert details["version"] == version + 2
    assert [comment["content"] for comment in details["comments"]] == ["Please check again."]
    assert buyer.call(SEND, ticket=ticket, content="I did.", if_match=version + 2)[1] == version + 3


# Categories


def test_everyone_lists_the_categories_of_their_organization_by_name(
    buyer: Person, helper: Person, agent: Acting, north: Organization
) -> None:
    agent.insert("categories", name="billing", description="Money")
    categories, _ = buyer.call(CATEGORIES)
    assert [set(category) for category in categories] == [{"id", "name", "description"}] * 2
    assert [(category["name"], category["description"]) for category in categories] == [
        ("billing", "Money"),
        ("Delivery", ""),
    ]
    assert categories[1]["id"] == north["category"]
    assert helper.call(CATEGORIES)[0] == categories


# Deliveries


class Sender:
    """An outside system whose deliveries have been verified."""

    def __init__(self, login: Acting, owner: Acting, organization: Organization | None) -> None:
        self._login = login
        self._owner = owner
        self._organization = organization.id if organization else None

    def sends(self, event: str, **data: Any) -> None:
        """Deliver something that is accepted."""
        self._login.stage.come_anew()
        answer = self._login.row(RECEIVE, [self._organization, event, json.dumps(data)])
        assert answer == ({"received": True},)

    def refused(self, state: str, word: str, event: str, **data: Any) -> None:
        """Deliver something that has to be refused."""
        self._login.stage.come_anew()
        self._login.refused(state, RECEIVE, [self._organization, event, json.dumps(data)], word=word)

    def ticket(self, external_id: str = "CRM-1") -> dict[str, Any]:
        """Return the ticket of that name as it is stored."""
        found = self._owner.values(
            "select to_jsonb(t) from public.tickets as t where organization_id = %s and external_id = %s",
            [self._organization, external_id],
        )
        assert len(found) == 1
        return dict(found[0])


@pytest.fixture
def sender(login: Acting, owner: Acting, north: Organization) -> Sender:
    return Sender(login, owner, north)


def test_a_new_ticket_of_a_sender_is_the_desk_s_and_its_agents_see_it(
    sender: Sender, helper: Person, buyer: Person, north: Organization
) -> None:
    sender.sends(
        "ticket.created",
        external_id="CRM-1",
        title="From outside",
        description="Details",
        priority="high",
        status="in_progress",
        category_id=north["category"],
    )
    ticket = sender.ticket()
    assert (ticket["status"], ticket["priority"], ticket["channel"]) == ("in_progress", "high", "api")
    assert (ticket["category_id"], ticket["description"]) == (north["category"], "Details")
    assert [ticket[name] for name in ("contact_id", "created_by_member_id", "integration_token_id")] == [
        None
    ] * 3
    assert helper.titles()[0] == "From outside"
    assert "From outside" not in buyer.titles()
    buyer.refused("PT404", "not_found", GET, ticket=ticket["id"])


def test_a_second_delivery_of_a_ticket_makes_none_and_changes_nothing(sender: Sender, owner: Acting) -> None:
    sender.sends("ticket.created", external_id="CRM-1", title="First", status="open")
    first = sender.ticket()
    assert first["status"] == "new"
    sender.sends("ticket.created", external_id="CRM-1", title="Second", category_id=NOBODY)
    assert sender.ticket() == first
    owner.rows("update public.tickets set deleted_at = now() where id = %s", [first["id"]])
    sender.sends("ticket.created", external_id="CRM-1", title="Third")
    assert sender.ticket()["subject"] == "First"


def test_a_change_merges_and_what_is_the_same_makes_no_version(sender: Sender, north: Organization) -> None:
    category = north["category"]
    sender.sends("ticket.created", external_id="CRM-1", title="Before", category_id=category)
    sender.sends("ticket.updated", external_id="CRM-1", title="After")
    ticket = sender.ticket()
    assert (ticket["subject"], ticket["category_id"], ticket["version"]) == ("After", category, 2)
    sender.sends("ticket.updated", external_id="CRM-1", title="After", status="open", priority="medium")
    assert sender.ticket() == ticket
    sender.sends("ticket.updated", external_id="CRM-1", category_id=None, description="More")
    assert sender.ticket()["category_id"] is None
    assert sender.ticket()["description"] == "More"


def test_a_category_takes_the_place_of_a_label(sender: Sender, token: Acting, north: Organization) -> None:
    token.insert("tickets", subject="x", external_id="CRM-2", category_label="Their own")
    sender.sends("ticket.updated", external_id="CRM-2", category_id=None)
    assert sender.ticket("CRM-2")["category_label"] == "Their own"
    sender.sends("ticket.updated", external_id="CRM-2", category_id=north["category"])
    ticket = sender.ticket("CRM-2")
    assert (ticket["category_id"], ticket["category_label"]) == (north["category"], None)


@pytest.mark.parametrize(
    ("field", "words"), [("status", STATUSES), ("priority", PRIORITIES)], ids=["status", "priority"]
)
def test_the_word_that_a_ticket_shows_moves_nothing_and_every_other_does(
    field: str, words: dict[str, str], sender: Sender, owner: Acting, stage: Stage
) -> None:
    sender.sends("ticket.created", external_id="CRM-1", title="x")
    for before, present in words.items():
        owner.rows(f"update public.tickets set {field} = %s where external_id = 'CRM-1'", [before])
        was = sender.ticket()
        for word in set(words.values()):
            with stage.undone():
                sender.sends("ticket.updated", external_id="CRM-1", **{field: word})
                ticket = sender.ticket()
                assert words[ticket[field]] == word
                assert ticket["version"] == was["version"] + (word != present)
                assert (ticket[field] == before) == (word == present)


def test_a_message_is_added_once_and_moves_the_ticket_to_a_new_version(
    sender: Sender, helper: Person, owner: Acting
) -> None:
    sender.sends("ticket.created", external_id="CRM-1", title="x")
    for content in ("Hello", "Hello again"):
        sender.sends("message.created", external_id="CRM-1", message_id="m1", content=content)
    sender.sends("message.created", external_id="CRM-1", message_id="m2", content="Log", is_internal=True)
    page, version = helper.call(MESSAGES, ticket=sender.ticket()["id"])
    assert sorted((item["content"], item["is_internal"]) for item in page["items"]) == [
        ("Hello", False),
        ("Log", True),
    ]
    assert version == 3
    written = """
        select num_nonnulls(author_contact_id, author_member_id, author_token_id), channel::text
        from public.comments where external_message_id = 'm1'
    """
    assert owner.row(written) == (0, "api")


def test_what_is_for_an_unknown_ticket_is_not_found(
    login: Acting, sender: Sender, owner: Acting, south: Organization
) -> None:
    Sender(login, owner, south).sends("ticket.created", external_id="CRM-1", title="Theirs")
    sender.sends("ticket.created", external_id="CRM-2", title="Deleted")
    owner.rows("update public.tickets set deleted_at = now() where external_id = 'CRM-2'")
    for external_id in ("CRM-1", "CRM-2", "CRM-3"):
        sender.refused("PT404", "not_found", "ticket.updated", external_id=external_id, title="x")
        sender.refused(
            "PT404", "not_found", "message.created", external_id=external_id, message_id="m", content="x"
        )
    assert owner.rows("select from public.comments where external_message_id = 'm'") == []
    theirs = owner.value("select subject from public.tickets where external_id = 'CRM-1'")
    assert theirs == "Theirs"


def test_a_category_of_another_organization_is_refused(sender: Sender, south: Organization) -> None:
    sender.sends("ticket.created", external_id="CRM-1", title="x")
    for event, external_id in (("ticket.created", "CRM-2"), ("ticket.updated", "CRM-1")):
        sender.refused(
            "PT400", "invalid_field", event, external_id=external_id, title="x", category_id=south["category"]
        )
    assert sender.ticket()["category_id"] is None


def test_without_an_organization_the_first_is_meant(login: Acting, owner: Acting) -> None:
    Sender(login, owner, None).sends("ticket.created", external_id="CRM-9", title="x")
    where = """
        select organization_id = private.first_organization_id()
        from public.tickets where external_id = 'CRM-9'
    """
    assert owner.values(where) == [True]


def test_the_service_alone_learns_the_secret_of_an_account_that_is_in_use(
    login: Acting, admin: Acting, owner: Acting, north: Organization
) -> None:
    account = admin.insert_id("channel_accounts", channel="api", external_account_id="crm")
    secret = "select organization_id::text, app_secret from private.channel_secret('api', 'crm')"
    assert login.row(secret) == (None, None)
    admin.rows("select public.set_channel_secrets(%s, 's3cret')", [account])
    assert login.row(secret) == (north.id, "s3cret")
    assert login.row(secret.replace("'api'", "'whatsapp'")) == (None, None)
    admin.refused("42501", secret)
    with owner.stage.undone():
        admin.rows("update public.channel_accounts set is_active = false where id = %s", [account])
        assert login.row(secret) == (None, None)
    owner.rows("update public.organizations set deleted_at = now() where id = %s", [north.id])
    assert login.row(secret) == (None, None)


# Socket


def test_only_those_who_see_a_ticket_may_listen_and_others_of_the_organization_are_told_why(
    *,
    people: Callable[[Acting], Person],
    customer: Acting,
    other_customer: Acting,
    agent: Acting,
    stranger: Acting,
    north: Organization,
) -> None:
    for who in (customer, agent):
        people(who).call(WATCH, ticket=north["ticket"])
    people(other_customer).refused("PT403", "forbidden", WATCH, ticket=north["ticket"])
    people(stranger).refused("PT404", "not_found", WATCH, ticket=north["ticket"])
    for who in (agent, other_customer):
        for ticket in (north["deleted_ticket"], NOBODY):
            people(who).refused("PT404", "not_found", WATCH, ticket=ticket)


def test_a_change_of_what_is_shown_is_told_to_those_who_see_the_ticket(
    *,
    people: Callable[[Acting], Person],
    customer: Acting,
    other_customer: Acting,
    agent: Acting,
    stranger: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    steps = []
    for change in ("status = 'resolved'", "subject = 'New'"):
        agent.rows(f"update public.tickets set {change} where id = %s", [north["ticket"]])
        steps.append(("ticket.updated", people(customer).call(GET, ticket=north["ticket"])[0]))
    assert (steps[1][1]["status"], steps[1][1]["title"]) == ("resolved", "New")
    assert steps[0] != steps[1]
    events = owner.value(LOGGED)
    for who in (customer, agent):
        assert people(who).told(events) == steps, "as it was each time, however late it is told"
    for who in (other_customer, stranger):
        assert people(who).told(events) == [("ticket.lost", None)] * 2


@pytest.mark.parametrize(
    "change",
    [
        "assignee_id = null",
        "resolution = 'Done'",
        "metadata = '{\"a\": 1}'",
        "subject = subject",
        "status = 'waiting'",
        "priority = 'urgent'",
    ],
)
def test_a_change_of_what_is_not_shown_is_not_told(
    change: str, helper: Person, agent: Acting, owner: Acting, north: Organization
) -> None:
    agent.rows(f"update public.tickets set {change} where id = %s", [north["ticket"]])
    assert helper.told(owner.value(LOGGED)) == []


def test_a_message_is_told_once_and_with_it_what_it_does_to_the_ticket(
    buyer: Person, helper: Person, agent: Acting, owner: Acting, north: Organization
) -> None:
    sent, _ = helper.call(SEND, ticket=north["ticket"], content="Still in progress.")
    assert buyer.told(owner.value(LOGGED)) == [("message.received", sent)]
    owner.rows("update public.tickets set status = 'resolved' where id = %s", [north["ticket"]])
    known = owner.value(LOGGED)
    buyer.call(SEND, ticket=north["ticket"], content="No!")
    events = [event for event in owner.value(LOGGED) if event not in known]
    assert sorted(name for name, _ in buyer.told(events)) == ["message.received", "ticket.updated"]


def test_nothing_internal_and_no_correction_is_told_to_customers(
    buyer: Person, helper: Person, agent: Acting, owner: Acting, north: Organization
) -> None:
    note, _ = helper.call(SEND, ticket=north["ticket"], content="Careful.", internal=True)
    agent.rows("update public.comments set body = 'Corrected' where id = %s", [north["reply"]])
    agent.rows("delete from public.comments where id = %s", [north["reply"]])
    events = owner.value(LOGGED)
    assert buyer.told(events) == []
    assert helper.told(events) == [("message.received", note)]


def test_a_message_is_told_as_it_was_to_those_who_might_read_it_then(
    buyer: Person, helper: Person, agent: Acting, owner: Acting, north: Organization
) -> None:
    reply, _ = helper.call(SEND, ticket=north["ticket"], content="Sent.")
    note, _ = helper.call(SEND, ticket=north["ticket"], content="They are a nuisance.", internal=True)
    events = owner.value(LOGGED)
    agent.rows("update public.comments set body = 'Corrected' where id = %s", [reply["id"]])
    agent.rows("update public.comments set body = 'Sorry.', is_internal = false where id = %s", [note["id"]])
    now = {**note, "content": "Sorry.", "is_internal": False}
    assert helper.told(events) == [("message.received", reply), ("message.received", note)]
    assert buyer.told(events) == [("message.received", reply)]
    events = owner.value(LOGGED)
    assert helper.told(events) == [("message.received", reply), ("message.received", note)]
    assert buyer.told(events) == [("message.received", reply), ("message.received", now)]
    agent.rows("update public.comments set is_internal = true where id = %s", [reply["id"]])
    assert buyer.told(events) == [("message.received", now)], "what was taken back is told no more"


def test_whoever_is_given_a_ticket_is_told_nothing_of_what_it_was_to_others(
    *,
    buyer: Person,
    people: Callable[[Acting], Person],
    other_customer: Acting,
    agent: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    agent.rows("update public.tickets set subject = 'Mine alone' where id = %s", [north["ticket"]])
    events = owner.value(LOGGED)
    agent.rows(
        "update public.tickets set subject = 'Yours', contact_id = %s where id = %s",
        [other_customer.contact_id, north["ticket"]],
    )
    assert [data["title"] for _, data in people(other_customer).told(events)] == ["Yours"]
    assert buyer.told(events) == [("ticket.lost", None)]


def test_whoever_loses_the_ticket_is_told_nothing_more_of_it(
    *,
    people: Callable[[Acting], Person],
    customer: Acting,
    other_customer: Acting,
    agent: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    agent.insert("comments", ticket_id=north["ticket"], body="For you alone.")
    agent.rows(
        "update public.tickets set contact_id = %s where id = %s",
        [other_customer.contact_id, north["ticket"]],
    )
    events = owner.value(LOGGED)
    assert {name for name, _ in people(customer).told(events)} == {"ticket.lost"}
    for who in (agent, other_customer):
        assert [name for name, _ in people(who).told(events)] == ["message.received"]
    agent.rows("delete from public.tickets where id = %s", [north["ticket"]])
    assert {name for name, _ in people(agent).told(owner.value(LOGGED))} == {"ticket.lost"}
    assert people(agent).told([]) == []
