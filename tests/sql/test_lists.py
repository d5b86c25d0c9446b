"""What the desk keeps beside tickets: lists, service levels, fields, texts, filters, channels, webhooks."""

from typing import Any

import pytest

from tests.actors import Acting, Organization, Stage

MAKERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "categories": ("agent", {"name": "Returns"}, "team_lead"),
    "tags": ("agent", {"name": "vip"}, "team_lead"),
    "sla_policies": ("admin", {"priority": "low", "resolution_minutes": 60}, "admin"),
    "custom_fields": ("admin", {"key": "size", "label": "Size", "kind": "text"}, "admin"),
    "channel_accounts": ("admin", {"channel": "facebook", "external_account_id": "page-9"}, "admin"),
}
"""Who is the least that may make a row of a table, and who may remove it."""
CHANGES = {
    "categories": "name = 'Other'",
    "tags": "name = 'other'",
    "sla_policies": "resolution_minutes = 90",
    "custom_fields": "label = 'Other'",
    "channel_accounts": "is_active = false",
}
LADDER = ["customer", "agent", "senior_agent", "team_lead", "admin"]


@pytest.mark.parametrize("table", MAKERS)
@pytest.mark.parametrize("name", LADDER)
def test_a_list_is_kept_by_those_whose_business_it_is(
    table: str, name: str, stage: Stage, owner: Acting, north: Organization
) -> None:
    acting = Acting(north.actors[name], stage)
    least, columns, remover = MAKERS[table]
    makes, removes = (LADDER.index(name) >= LADDER.index(who) for who in (least, remover))
    if makes:
        row = acting.insert_id(table, **columns)
    else:
        acting.refused_insert("42501", table, **columns)
        row = owner.insert_id(table, organization_id=north.id, **columns)
    assert acting.count(f"update public.{table} set {CHANGES[table]} where id = %s", [row]) == int(makes)
    assert acting.count(f"delete from public.{table} where id = %s", [row]) == int(removes)
    assert len(owner.rows(f"select 1 from public.{table} where id = %s", [row])) == int(not removes)


@pytest.mark.parametrize("table", MAKERS)
def test_integration_and_visitor_keep_no_list(table: str, token: Acting, visitor: Acting) -> None:
    for acting in (token, visitor):
        acting.refused_insert("42501", table, **MAKERS[table][1])
        acting.refused("42501", f"delete from public.{table}")


@pytest.mark.parametrize("table", ["categories", "tags"])
def test_everybody_inside_reads_categories_and_tags(
    table: str, customer: Acting, token: Acting, visitor: Acting, north: Organization
) -> None:
    for acting in (customer, token):
        assert len(acting.values(f"select name from public.{table}")) == 1
    visitor.refused("42501", f"select from public.{table}")


def test_customer_does_not_see_service_levels(customer: Acting, agent: Acting) -> None:
    assert customer.rows("select 1 from public.sla_policies") == []
    assert agent.rows("select 1 from public.sla_policies") == [(1,)]


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("categories", {"name": "DELIVERY"}),
        ("tags", {"name": "Urgent"}),
        ("sla_policies", {"priority": "high"}),
        ("custom_fields", {"key": "order_number", "label": "x", "kind": "text"}),
    ],
)
def test_a_name_is_there_once(table: str, columns: dict[str, str], admin: Acting) -> None:
    admin.refused_insert("23505", table, **columns)


def test_a_category_that_goes_leaves_its_tickets(team_lead: Acting, north: Organization) -> None:
    team_lead.rows("delete from public.categories where id = %s", [north["category"]])
    category = team_lead.value("select category_id from public.tickets where id = %s", [north["walk_in"]])
    assert category is None


def test_a_field_of_choices_needs_choices(admin: Acting) -> None:
    refusal = admin.refused_insert("23514", "custom_fields", key="size", label="Size", kind="choice")
    assert refusal.constraint == "custom_fields_choice_needs_choices"
    admin.insert("custom_fields", key="size", label="Size", kind="choice", choices=["S", "M"])


# Templates and filters


def test_a_private_template_is_its_owner_s(
    agent: Acting, senior_agent: Acting, admin: Acting, customer: Acting, north: Organization
) -> None:
    titles = "select title from public.templates order by title"
    assert agent.values(titles) == ["Hello", "Mine"]
    for acting in (senior_agent, admin):
        assert acting.values(titles) == ["Hello"]
    assert customer.values(titles) == []


def test_a_public_template_is_changed_by_its_owner_or_a_lead(
    agent: Acting, senior_agent: Acting, team_lead: Acting, north: Organization
) -> None:
    change = "update public.templates set title = 'Hi' where id = %s"
    assert senior_agent.count(change, [north["template"]]) == 0
    assert team_lead.count(change, [north["template"]]) == 1
    assert agent.count(change, [north["template"]]) == 1
    assert team_lead.count(change, [north["private_template"]]) == 0
    hide = "update public.templates set is_public = false where id = %s"
    team_lead.refused("42501", hide, [north["template"]])


def test_customer_makes_no_template(customer: Acting, agent: Acting) -> None:
    customer.refused_insert("42501", "templates", title="x", content="x")
    agent.insert("templates", title="x", content="x")


def test_nobody_gives_a_template_or_a_filter_to_somebody_else(agent: Acting, admin: Acting) -> None:
    agent.refused_insert("42501", "templates", title="x", content="x", owner_id=admin.member_id)
    agent.refused_insert("42501", "saved_filters", name="x", owner_id=admin.member_id)


def test_a_filter_is_its_owner_s_unless_it_is_public(
    agent: Acting, senior_agent: Acting, customer: Acting, north: Organization
) -> None:
    names = "select name from public.saved_filters order by name"
    assert agent.values(names) == ["Mine", "Ours"]
    assert senior_agent.values(names) == ["Ours"]
    assert customer.values(names) == ["My open tickets"]
    assert senior_agent.count("update public.saved_filters set name = 'x'") == 0
    assert senior_agent.count("delete from public.saved_filters") == 0


def test_customer_keeps_filters_but_publishes_none(customer: Acting) -> None:
    customer.insert("saved_filters", name="Mine too")
    customer.refused_insert("42501", "saved_filters", name="For agents", is_public=True)
    customer.refused("42501", "update public.saved_filters set is_public = true")


# Channels and webhooks


def test_only_an_admin_sees_channels_messages_and_deliveries(
    admin: Acting, team_lead: Acting, customer: Acting
) -> None:
    for table in (
        "channel_accounts",
        "inbound_messages",
        "webhook_endpoints",
        "webhook_deliveries",
        "token_usage",
    ):
        assert admin.rows(f"select 1 from public.{table}") != []
        for acting in (team_lead, customer):
            assert acting.rows(f"select 1 from public.{table}") == []


def test_nobody_writes_messages_or_deliveries_by_hand(admin: Acting, token: Acting) -> None:
    for table in ("inbound_messages", "webhook_deliveries", "token_usage"):
        for acting in (admin, token):
            acting.refused("42501", f"delete from public.{table}")
            acting.refused("42501", f"insert into public.{table} default values")


def test_integration_sees_and_removes_its_own_webhooks(
    token: Acting, other_token: Acting, owner: Acting, north: Organization
) -> None:
    assert token.values("select id from public.webhook_endpoints") == [north["token_endpoint"]]
    assert token.count("delete from public.webhook_endpoints") == 1
    left = owner.values("select id from public.webhook_endpoints where organization_id = %s", [north.id])
    assert left == [north["other_token_endpoint"]]


def test_two_organizations_cannot_claim_one_account(admin: Acting, south: Organization) -> None:
    account = {"channel": "whatsapp", "external_account_id": "south-1"}
    admin.refused_insert("23505", "channel_accounts", **account)
    admin.insert("channel_accounts", **account | {"channel": "facebook"})
