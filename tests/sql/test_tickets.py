"""Tickets: who may ask, see, change, delete and restore; the status machine; the service level clocks."""

import itertools
from datetime import timedelta

import pytest

from tests.actors import Acting, Organization, Stage

STATUSES = ["new", "open", "in_progress", "waiting", "on_hold", "resolved", "closed"]
STATUS_OF = "select status::text from public.tickets where id = %s"
SET_STATUS = "update public.tickets set status = %s where id = %s returning status::text"


# Asking


def test_customer_opens_a_ticket_in_their_own_name(customer: Acting, north: Organization) -> None:
    ticket = customer.row(
        "insert into public.tickets (subject) values ('Help') returning"
        " organization_id, contact_id, created_by_member_id, integration_token_id, status::text, version"
    )
    assert ticket == (north.id, customer.contact_id, customer.member_id, None, "new", 1)


def test_customer_cannot_ask_in_the_name_of_somebody_else(customer: Acting, other_customer: Acting) -> None:
    customer.refused_insert("42501", "tickets", subject="Help", contact_id=other_customer.contact_id)
    customer.refused_insert("42501", "tickets", subject="Help", created_by_member_id=other_customer.member_id)
    customer.refused_insert("42501", "tickets", subject="Help", integration_token_id=None)


def test_customer_cannot_ask_in_another_organization(customer: Acting, south: Organization) -> None:
    customer.refused_insert("42501", "tickets", subject="Help", organization_id=south.id)


@pytest.mark.parametrize("column", ["assignee_id", "group_id", "due_at", "origin_id", "external_id"])
def test_customer_cannot_do_the_desk_s_work(
    column: str, customer: Acting, agent: Acting, north: Organization
) -> None:
    value = {
        "assignee_id": agent.member_id,
        "group_id": north["group"],
        "due_at": "2030-01-01",
        "origin_id": "+49 170 1234567",
        "external_id": "A-1",
    }[column]
    customer.refused_insert("42501", "tickets", subject="Help", **{column: value})
    agent.insert("tickets", subject="Help", **{column: value})


@pytest.mark.parametrize(
    "column", ["status", "version", "resolved_at", "first_response_due_at", "created_at"]
)
def test_nobody_writes_what_the_desk_works_out(column: str, customer: Acting, admin: Acting) -> None:
    value = {"status": "closed", "version": 9}.get(column, "2030-01-01")
    for acting in (customer, admin):
        acting.refused_insert("42501", "tickets", subject="Help", **{column: value})


def test_agent_opens_a_ticket_for_a_customer(agent: Acting, customer: Acting) -> None:
    ticket = agent.insert_id("tickets", subject="Called", contact_id=customer.contact_id, channel="phone")
    assert customer.value("select created_by_member_id from public.tickets where id = %s", [ticket]) == (
        agent.member_id
    )


def test_agent_s_own_ticket_has_no_requester(agent: Acting) -> None:
    ticket = agent.insert_id("tickets", subject="To do")
    assert agent.value("select contact_id from public.tickets where id = %s", [ticket]) is None


def test_visitor_cannot_ask(visitor: Acting) -> None:
    visitor.refused_insert("42501", "tickets", subject="Help")


def test_service_asks_for_whom_it_names(service: Acting, customer: Acting, north: Organization) -> None:
    ticket = service.insert_id(
        "tickets", organization_id=north.id, subject="Imported", contact_id=customer.contact_id
    )
    assert customer.values("select id from public.tickets where id = %s", [ticket]) == [ticket]
    service.refused_insert("23502", "tickets", subject="For nobody")


@pytest.mark.parametrize(
    "columns",
    [
        {"subject": ""},
        {"subject": "   "},
        {"subject": "x" * 501},
        {"subject": "x", "description": "x" * 100_001},
        {"subject": "x", "metadata": "[]"},
        {"subject": "x", "custom_fields": '"text"'},
        {"subject": "x", "category_label": ""},
    ],
    ids="-".join,
)
def test_a_malformed_ticket_is_refused(columns: dict[str, str], agent: Acting) -> None:
    agent.refused_insert("23514", "tickets", **columns)


def test_a_ticket_has_a_category_or_its_label_and_not_both(agent: Acting, north: Organization) -> None:
    refusal = agent.refused_insert(
        "23514", "tickets", subject="x", category_id=north["category"], category_label="Delivery"
    )
    assert refusal.constraint == "tickets_one_category"


def test_tickets_are_numbered_one_after_another(agent: Acting) -> None:
    first, second = (agent.insert_id("tickets", subject="x") for _ in range(2))
    numbers = "select number from public.tickets where id in (%s, %s) order by number"
    one, two = agent.values(numbers, [first, second])
    assert two == one + 1


# Seeing


def test_customer_sees_their_own_tickets(customer: Acting, north: Organization) -> None:
    assert customer.values("select id from public.tickets") == [north["ticket"]]


def test_customer_does_not_see_the_ticket_of_another_customer(
    other_customer: Acting, owner: Acting, north: Organization
) -> None:
    find = "select id from public.tickets where id = %s"
    assert other_customer.rows(find, [north["ticket"]]) == []
    assert owner.values(find, [north["ticket"]]) == [north["ticket"]]


def test_agent_sees_the_tickets_of_the_organization(agent: Acting, north: Organization) -> None:
    names = ["ticket", "other_ticket", "walk_in", "token_ticket", "other_token_ticket"]
    assert set(agent.values("select id from public.tickets")) == {north[name] for name in names}


def test_integration_sees_the_tickets_that_it_made(token: Acting, north: Organization) -> None:
    assert token.values("select id from public.tickets") == [north["token_ticket"]]


def test_stranger_sees_none_of_them(stranger: Acting, north: Organization) -> None:
    assert stranger.rows("select from public.tickets where organization_id = %s", [north.id]) == []


def test_visitor_may_not_even_look(visitor: Acting) -> None:
    visitor.refused("42501", "select from public.tickets")


# Changing


@pytest.mark.parametrize(
    ("column", "value"), [("subject", "Other"), ("description", "More"), ("priority", "urgent")]
)
def test_customer_changes_what_they_asked(
    column: str, value: str, customer: Acting, north: Organization
) -> None:
    change = f"update public.tickets set {column} = %s where id = %s returning {column}::text"
    assert customer.value(change, [value, north["ticket"]]) == value


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("assignee_id", None),
        ("group_id", "group"),
        ("category_id", "category"),
        ("category_label", "Other"),
        ("due_at", "2030-01-01"),
        ("type", "incident"),
        ("resolution", "Done"),
        ("custom_fields", '{"order_number": "1"}'),
        ("metadata", '{"a": 1}'),
        ("contact_id", None),
    ],
)
def test_customer_does_not_change_what_the_desk_decides(
    column: str, value: str | None, customer: Acting, agent: Acting, north: Organization
) -> None:
    change = f"update public.tickets set {column} = %s where id = %s returning 1"
    values = [north.ids.get(value or "", value), north["ticket"]]
    customer.refused("PT403", change, values, word="forbidden")
    assert agent.value(change, values) == 1


def test_customer_does_not_change_the_ticket_of_another_customer(
    other_customer: Acting, owner: Acting, north: Organization
) -> None:
    change = "update public.tickets set subject = 'Mine' where id = %s returning 1"
    assert other_customer.rows(change, [north["ticket"]]) == []
    subject = owner.value("select subject from public.tickets where id = %s", [north["ticket"]])
    assert subject == "Where is my order?"


def test_a_customer_s_update_of_everything_changes_their_own_alone(
    customer: Acting, owner: Acting, north: Organization
) -> None:
    """Without a condition an update asks for no right to read, so its own policy has to hold."""
    customer.rows("update public.tickets set subject = 'Changed'")
    changed = owner.values("select id from public.tickets where subject = 'Changed'")
    assert changed == [north["ticket"]]


def test_integration_changes_status_priority_and_metadata_of_its_tickets(
    token: Acting, north: Organization
) -> None:
    change = (
        "update public.tickets set status = 'waiting', priority = 'low', metadata = '{\"a\": 1}'"
        " where id = %s returning 1"
    )
    assert token.value(change, [north["token_ticket"]]) == 1
    assert token.rows(change, [north["other_token_ticket"]]) == []
    for column in ("subject", "description", "assignee_id", "contact_id", "integration_token_id"):
        token.refused("42501", f"update public.tickets set {column} = null")


def test_nobody_gives_a_ticket_to_another_integration(admin: Acting, service: Acting) -> None:
    admin.refused("42501", "update public.tickets set integration_token_id = null")


def test_every_change_makes_a_new_version(agent: Acting, north: Organization) -> None:
    version = "select version from public.tickets where id = %s"
    before = agent.value(version, [north["walk_in"]])
    agent.rows("update public.tickets set priority = 'low' where id = %s", [north["walk_in"]])
    assert agent.value(version, [north["walk_in"]]) == before + 1
    agent.insert("comments", ticket_id=north["walk_in"], body="Looked into it.", is_internal=True)
    assert agent.value(version, [north["walk_in"]]) == before + 2


def test_a_change_is_dated(agent: Acting, owner: Acting, north: Organization) -> None:
    owner.rows("alter table public.tickets disable trigger _100_versions")
    owner.rows("update public.tickets set updated_at = '2020-01-01' where id = %s", [north["walk_in"]])
    owner.rows("alter table public.tickets enable trigger _100_versions")
    agent.rows("update public.tickets set priority = 'low' where id = %s", [north["walk_in"]])
    dated = "select updated_at = now() from public.tickets where id = %s"
    assert agent.value(dated, [north["walk_in"]]) is True


# Assigning


def test_agent_gives_a_ticket_to_a_colleague(
    agent: Acting, senior_agent: Acting, north: Organization
) -> None:
    give = "update public.tickets set assignee_id = %s where id = %s returning 1"
    assert agent.value(give, [senior_agent.member_id, north["ticket"]]) == 1


@pytest.mark.parametrize("name", ["customer", "deactivated"])
def test_a_ticket_goes_to_active_agents_only(name: str, agent: Acting, north: Organization) -> None:
    member = north.actors[name].member_id
    give = "update public.tickets set assignee_id = %s where id = %s"
    agent.refused("PT400", give, [member, north["ticket"]], word="not_an_agent")
    agent.refused_insert("PT400", "tickets", "not_an_agent", subject="x", assignee_id=member)


def test_a_ticket_does_not_go_to_an_agent_of_another_organization(
    agent: Acting, stranger: Acting, north: Organization
) -> None:
    give = "update public.tickets set assignee_id = %s where id = %s"
    agent.refused("PT400", give, [stranger.member_id, north["ticket"]], word="not_an_agent")


# The status machine


@pytest.mark.parametrize("before", STATUSES)
def test_agent_moves_a_ticket_anywhere(
    before: str, agent: Acting, owner: Acting, stage: Stage, north: Organization
) -> None:
    owner.rows(SET_STATUS, [before, north["ticket"]])
    for after in STATUSES:
        with stage.undone():
            assert agent.value(SET_STATUS, [after, north["ticket"]]) == after


@pytest.mark.parametrize("before", STATUSES)
def test_integration_moves_its_ticket_anywhere(
    before: str, token: Acting, owner: Acting, stage: Stage, north: Organization
) -> None:
    owner.rows(SET_STATUS, [before, north["token_ticket"]])
    for after in STATUSES:
        with stage.undone():
            assert token.value(SET_STATUS, [after, north["token_ticket"]]) == after


CUSTOMERS_MOVES = {(before, after) for before in STATUSES for after in ("resolved", "closed")} | {
    ("waiting", "open"),
    ("resolved", "open"),
}


@pytest.mark.parametrize("before", [status for status in STATUSES if status != "closed"])
def test_customer_resolves_closes_and_reopens_and_nothing_else(
    before: str, customer: Acting, owner: Acting, stage: Stage, north: Organization
) -> None:
    owner.rows(SET_STATUS, [before, north["ticket"]])
    for after in STATUSES:
        with stage.undone():
            if after == before or (before, after) in CUSTOMERS_MOVES:
                assert customer.value(SET_STATUS, [after, north["ticket"]]) == after
            else:
                customer.refused("PT403", SET_STATUS, [after, north["ticket"]], word="forbidden")
                assert owner.value(STATUS_OF, [north["ticket"]]) == before


def test_closed_is_final_for_customers(
    customer: Acting, agent: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows(SET_STATUS, ["closed", north["ticket"]])
    for status in STATUSES:
        customer.refused("PT409", SET_STATUS, [status, north["ticket"]], word="ticket_closed")
    for column in ("subject", "description"):
        change = f"update public.tickets set {column} = 'Else' where id = %s"
        customer.refused("PT409", change, [north["ticket"]], word="ticket_closed")
    assert agent.value(SET_STATUS, ["open", north["ticket"]]) == "open"
    assert customer.value("select closed_at from public.tickets where id = %s", [north["ticket"]]) is None


MOMENTS = "select resolved_at is not null, closed_at is not null from public.tickets where id = %s"


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STATUSES, 2)))
def test_a_status_has_its_moments(
    before: str, after: str, owner: Acting, agent: Acting, north: Organization
) -> None:
    owner.rows(SET_STATUS, [before, north["ticket"]])
    agent.rows(SET_STATUS, [after, north["ticket"]])
    assert agent.row(MOMENTS, [north["ticket"]]) == (after in {"resolved", "closed"}, after == "closed")


def test_closing_keeps_the_moment_of_resolution(owner: Acting, agent: Acting, north: Organization) -> None:
    agent.rows(SET_STATUS, ["resolved", north["ticket"]])
    owner.rows("update public.tickets set resolved_at = '2020-01-01Z' where id = %s", [north["ticket"]])
    agent.rows(SET_STATUS, ["closed", north["ticket"]])
    kept = "select resolved_at = '2020-01-01Z', closed_at = now() from public.tickets where id = %s"
    assert agent.row(kept, [north["ticket"]]) == (True, True)


@pytest.mark.parametrize("status", STATUSES)
def test_an_imported_ticket_has_the_moments_of_its_status(
    status: str, service: Acting, owner: Acting, north: Organization
) -> None:
    ticket = service.insert_id("tickets", organization_id=north.id, subject="Imported", status=status)
    assert owner.row(MOMENTS, [ticket]) == (status in {"resolved", "closed"}, status == "closed")
    stopped = owner.value("select clock_stopped_at from public.tickets where id = %s", [ticket])
    assert (stopped is not None) == (status in {"waiting", "on_hold"})


# Service levels


CLOCKS = """
    select first_response_due_at - created_at, resolution_due_at - created_at, clock_stopped_at, time_stopped
    from public.tickets where id = %s
"""
HOUR, EIGHT_HOURS, HALF_AN_HOUR = timedelta(hours=1), timedelta(hours=8), timedelta(minutes=30)


@pytest.fixture
def high(customer: Acting) -> str:
    """A ticket of the priority that has a service level: an hour to the first answer, eight to the end."""
    return customer.insert_id("tickets", subject="Urgent", priority="high")


def test_a_service_level_sets_the_clocks(high: str, customer: Acting) -> None:
    first_response, resolution, stopped_at, stopped = customer.row(CLOCKS, [high])
    assert (first_response, resolution) == (HOUR, EIGHT_HOURS)
    assert (stopped_at, stopped) == (None, timedelta())


def test_a_priority_without_a_service_level_promises_nothing(customer: Acting) -> None:
    ticket = customer.insert_id("tickets", subject="Later", priority="low")
    assert customer.row(CLOCKS, [ticket])[:2] == (None, None)


def test_integration_gets_the_same_promise_though_it_cannot_read_it(token: Acting) -> None:
    ticket = token.insert_id("tickets", subject="Urgent", priority="high")
    assert token.row(CLOCKS, [ticket])[:2] == (HOUR, EIGHT_HOURS)
    token.refused("42501", "select from public.sla_policies")


@pytest.mark.parametrize("status", ["waiting", "on_hold"])
def test_the_resolution_clock_stands_still_while_a_ticket_waits(
    status: str, high: str, agent: Acting, owner: Acting
) -> None:
    agent.rows(SET_STATUS, [status, high])
    owner.rows(
        "update public.tickets set clock_stopped_at = now() - interval '30 minutes' where id = %s", [high]
    )
    agent.rows(SET_STATUS, ["open", high])
    first_response, resolution, stopped_at, stopped = agent.row(CLOCKS, [high])
    assert (first_response, resolution) == (HOUR, EIGHT_HOURS + HALF_AN_HOUR)
    assert (stopped_at, stopped) == (None, HALF_AN_HOUR)


def test_going_from_one_way_of_waiting_to_the_other_is_one_wait(
    high: str, agent: Acting, owner: Acting
) -> None:
    agent.rows(SET_STATUS, ["waiting", high])
    owner.rows(
        "update public.tickets set clock_stopped_at = now() - interval '30 minutes' where id = %s", [high]
    )
    agent.rows(SET_STATUS, ["on_hold", high])
    agent.rows(SET_STATUS, ["in_progress", high])
    assert agent.row(CLOCKS, [high])[3] == HALF_AN_HOUR


def test_another_priority_is_another_promise(high: str, agent: Acting, admin: Acting) -> None:
    admin.insert("sla_policies", priority="urgent", resolution_minutes=60)
    agent.rows("update public.tickets set priority = 'urgent' where id = %s", [high])
    assert agent.row(CLOCKS, [high])[:2] == (None, HOUR)
    agent.rows("update public.tickets set priority = 'low' where id = %s", [high])
    assert agent.row(CLOCKS, [high])[:2] == (None, None)


def test_another_priority_counts_the_time_that_was_waited(high: str, agent: Acting, owner: Acting) -> None:
    waited = "update public.tickets set time_stopped = '30 minutes', priority = 'low' where id = %s"
    owner.rows(waited, [high])
    agent.rows("update public.tickets set priority = 'high' where id = %s", [high])
    assert agent.row(CLOCKS, [high])[1] == EIGHT_HOURS + HALF_AN_HOUR


def test_a_promise_that_was_kept_stays_as_it_was(high: str, agent: Acting, admin: Acting) -> None:
    admin.insert("sla_policies", priority="urgent", first_response_minutes=5)
    agent.insert("comments", ticket_id=high, body="On it.")
    agent.rows("update public.tickets set priority = 'urgent' where id = %s", [high])
    assert agent.row(CLOCKS, [high])[0] == HOUR


# Deleting and restoring


HANGING_ON = [
    "comments",
    "attachments",
    "ticket_tags",
    "ticket_history",
    "satisfaction_ratings",
    "notifications",
]
DELETE = "delete from public.tickets where id = %s"


def test_agent_deletes_a_ticket_and_nobody_sees_it_or_what_hangs_on_it(
    agent: Acting, customer: Acting, admin: Acting, owner: Acting, north: Organization
) -> None:
    agent.rows(DELETE, [north["ticket"]])
    for acting in (agent, customer, admin):
        assert acting.rows("select from public.tickets where id = %s", [north["ticket"]]) == []
        for table in HANGING_ON:
            hidden = f"select from public.{table} where ticket_id = %s"
            mine = f"{hidden} and uploaded_by_member_id is distinct from %s"
            query, values = (mine, [north["ticket"], acting.member_id]) if table == "attachments" else (
                hidden, [north["ticket"]])  # fmt: skip
            # Who may not ask for such rows at all does not see them either.
            assert acting.refusal(query, values) or acting.rows(query, values) == []
    kept = owner.value("select deleted_at = now() from public.tickets where id = %s", [north["ticket"]])
    assert kept is True
    for table in HANGING_ON:
        assert owner.rows(f"select from public.{table} where ticket_id = %s", [north["ticket"]]) != []


def test_customer_cannot_delete_a_ticket(customer: Acting, owner: Acting, north: Organization) -> None:
    assert customer.count(DELETE, [north["ticket"]]) == 0
    find = "select deleted_at from public.tickets where id = %s"
    assert owner.value(find, [north["ticket"]]) is None


def test_integration_cannot_delete_a_ticket(token: Acting, north: Organization) -> None:
    token.refused("42501", DELETE, [north["token_ticket"]])


def test_a_deleted_ticket_takes_no_change_and_no_reply(
    agent: Acting, customer: Acting, owner: Acting, north: Organization
) -> None:
    deleted = north["deleted_ticket"]
    assert agent.rows("update public.tickets set subject = 'x' where id = %s returning 1", [deleted]) == []
    for acting in (agent, customer):
        acting.refused_insert("PT404", "comments", "not_found", ticket_id=deleted, body="Hello?")
    agent.refused_insert("PT404", "attachments", "not_found", ticket_id=deleted, filename="a", size=1)
    agent.refused_insert("PT404", "ticket_tags", "not_found", ticket_id=deleted, tag_id=north["tag"])
    assert owner.value("select subject from public.tickets where id = %s", [deleted]) == "Never mind"


def test_admin_restores_a_ticket_with_everything_that_hung_on_it(
    admin: Acting, customer: Acting, north: Organization
) -> None:
    assert admin.value("select public.restore_ticket(%s)", [north["deleted_ticket"]]) is True
    assert customer.values("select id from public.tickets where id = %s", [north["deleted_ticket"]]) != []
    comments = "select id from public.comments where ticket_id = %s"
    assert customer.values(comments, [north["deleted_ticket"]]) == [north["deleted_comment"]]


def test_deleting_and_restoring_brings_back_all_of_it(
    agent: Acting, admin: Acting, customer: Acting, owner: Acting, north: Organization
) -> None:
    count = " union all ".join(
        f"select count(*) from public.{t} where ticket_id = %(id)s" for t in HANGING_ON
    )
    before = owner.values(count, {"id": north["ticket"]})
    seen = "select count(*) from public.comments where ticket_id = %s"
    seen_before = customer.value(seen, [north["ticket"]])
    agent.rows(DELETE, [north["ticket"]])
    admin.rows("select public.restore_ticket(%s)", [north["ticket"]])
    after = owner.values(count, {"id": north["ticket"]})
    after[HANGING_ON.index("ticket_history")] -= 2  # deleted, restored
    assert after == before
    assert customer.value(seen, [north["ticket"]]) == seen_before
    for table in HANGING_ON:
        marked = f"select from public.{table} where ticket_id = %s and ticket_deleted_at is not null"
        assert owner.rows(marked, [north["ticket"]]) == []


@pytest.mark.parametrize("name", ["customer", "agent", "senior_agent", "team_lead"])
def test_only_an_admin_restores(name: str, stage: Stage, north: Organization) -> None:
    acting = Acting(north.actors[name], stage)
    acting.refused("PT403", "select public.restore_ticket(%s)", [north["deleted_ticket"]], word="forbidden")


def test_integration_and_visitor_cannot_call_restore(
    token: Acting, visitor: Acting, north: Organization
) -> None:
    for acting in (token, visitor):
        acting.refused("42501", "select public.restore_ticket(%s)", [north["deleted_ticket"]])


def test_admin_does_not_restore_what_is_not_deleted_or_not_theirs(
    admin: Acting, foreign_admin: Acting, north: Organization
) -> None:
    restore = "select public.restore_ticket(%s)"
    admin.refused("PT404", restore, [north["ticket"]], word="not_found")
    foreign_admin.refused("PT404", restore, [north["deleted_ticket"]], word="not_found")


# Another requester


def test_what_hangs_on_a_ticket_follows_it_to_another_requester(
    agent: Acting, customer: Acting, other_customer: Acting, north: Organization
) -> None:
    move = "update public.tickets set contact_id = %s where id = %s"
    agent.rows(move, [other_customer.contact_id, north["ticket"]])
    comments = "select id from public.comments where ticket_id = %s order by created_at"
    assert set(other_customer.values(comments, [north["ticket"]])) == {north["reply"], north["answer"]}
    assert customer.rows(comments, [north["ticket"]]) == []
    files = "select filename from public.attachments where ticket_id = %s order by filename"
    assert other_customer.values(files, [north["ticket"]]) == ["answer.txt", "reply.txt"]
    assert customer.values(files, [north["ticket"]]) == ["answer.txt"], "their own upload"
    edited = agent.values("select from public.comments where ticket_id = %s and updated_at <> created_at",
                          [north["ticket"]])  # fmt: skip
    assert edited == []


# History


HISTORY = """
    select action, changes, member_id, token_id from public.ticket_history where ticket_id = %s
    order by id desc limit 1
"""


def test_a_change_is_written_into_the_history_with_its_author(
    agent: Acting, token: Acting, north: Organization
) -> None:
    agent.rows("update public.tickets set priority = 'low' where id = %s", [north["ticket"]])
    assert agent.row(HISTORY, [north["ticket"]]) == (
        "updated", {"priority": {"from": "high", "to": "low"}}, agent.member_id, None,
    )  # fmt: skip
    token.rows(SET_STATUS, ["resolved", north["token_ticket"]])
    assert agent.row(HISTORY, [north["token_ticket"]]) == (
        "updated", {"status": {"from": "in_progress", "to": "resolved"}}, None, token.token_id,
    )  # fmt: skip


def test_a_change_of_nothing_is_no_history(agent: Acting, owner: Acting, north: Organization) -> None:
    count = "select count(*) from public.ticket_history where ticket_id = %s"
    before = owner.value(count, [north["ticket"]])
    agent.rows("update public.tickets set subject = subject where id = %s", [north["ticket"]])
    assert owner.value(count, [north["ticket"]]) == before


def test_nobody_writes_history(admin: Acting, service: Acting, north: Organization) -> None:
    admin.refused_insert("42501", "ticket_history", ticket_id=north["ticket"], action="updated")
    admin.refused("42501", "delete from public.ticket_history")
    admin.refused("42501", "update public.ticket_history set action = 'created'")


def test_customer_does_not_see_history(customer: Acting, agent: Acting, north: Organization) -> None:
    history = "select action from public.ticket_history where ticket_id = %s"
    assert customer.rows(history, [north["ticket"]]) == []
    assert agent.rows(history, [north["ticket"]]) != []


# Tags


def test_agent_tags_a_ticket_and_customer_sees_it(
    agent: Acting, customer: Acting, other_customer: Acting, north: Organization
) -> None:
    agent.insert("ticket_tags", ticket_id=north["other_ticket"], tag_id=north["tag"])
    tagged = "select ticket_id from public.ticket_tags where tag_id = %s"
    assert customer.values(tagged, [north["tag"]]) == [north["ticket"]]
    assert other_customer.values(tagged, [north["tag"]]) == [north["other_ticket"]]


def test_customer_cannot_tag(customer: Acting, owner: Acting, north: Organization) -> None:
    customer.refused_insert("42501", "ticket_tags", ticket_id=north["ticket"], tag_id=north["tag"])
    assert customer.count("delete from public.ticket_tags where ticket_id = %s", [north["ticket"]]) == 0
    assert owner.rows("select from public.ticket_tags where ticket_id = %s", [north["ticket"]]) != []


# The whole tenant


def test_deleting_an_organization_takes_everything_of_it_and_nothing_else(
    owner: Acting, north: Organization, south: Organization
) -> None:
    tables = owner.values("""
        select c.relname from pg_class as c join pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attname = 'organization_id'
    """)
    owner.rows("delete from public.organizations where id = %s", [north.id])
    for table in tables:
        assert owner.values(f"select distinct organization_id from public.{table}") == [south.id], table
