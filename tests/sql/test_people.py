"""Organizations, members, their settings, contacts and groups: who sees and changes whom."""

import pytest

from tests.actors import Acting, Organization, Stage, person

# Organizations


def test_member_sees_their_organization(customer: Acting, north: Organization) -> None:
    assert customer.values("select id from public.organizations") == [north.id]


def test_admin_changes_the_organization_and_a_lead_does_not(
    admin: Acting, team_lead: Acting, owner: Acting, north: Organization
) -> None:
    rename = "update public.organizations set name = 'Renamed' returning id"
    assert team_lead.rows(rename) == []
    assert owner.value("select name from public.organizations where id = %s", [north.id]) == "north"
    assert admin.values(rename) == [north.id]


def test_admin_neither_founds_nor_gives_up_an_organization_by_hand(admin: Acting) -> None:
    admin.refused_insert("42501", "organizations", name="Mine")
    admin.refused("42501", "delete from public.organizations")
    admin.refused("42501", "update public.organizations set deleted_at = now()")


# Members


def test_customer_sees_the_staff_and_themselves(customer: Acting, north: Organization) -> None:
    seen = set(customer.values("select username from public.members"))
    assert seen == set(north.actors) - {"other_customer", "token", "other_token"}


def test_agent_sees_everybody(agent: Acting, north: Organization) -> None:
    assert set(agent.values("select username from public.members")) == set(north.actors) - {
        "token",
        "other_token",
    }


def test_member_changes_their_own_name_and_presence_alone(
    agent: Acting, senior_agent: Acting, owner: Acting
) -> None:
    change = "update public.members set name = 'New Name', presence = 'online' where id = %s returning 1"
    assert agent.value(change, [agent.member_id]) == 1
    assert agent.rows(change, [senior_agent.member_id]) == []
    agent.rows("update public.members set name = 'All of us'")
    assert owner.values("select username from public.members where name = 'All of us'") == ["agent"]


@pytest.mark.parametrize("column", ["role", "email", "username", "user_id", "is_active", "organization_id"])
def test_nobody_promotes_themselves(column: str, agent: Acting, admin: Acting) -> None:
    for acting in (agent, admin):
        acting.refused("42501", f"update public.members set {column} = {column}")


def test_nobody_makes_or_removes_members_by_hand(admin: Acting) -> None:
    admin.refused_insert("42501", "members", username="x", email="x@example.com", name="X")
    admin.refused("42501", "delete from public.members")


def test_an_address_and_a_name_belong_to_one_member_of_an_organization(
    owner: Acting, north: Organization, south: Organization
) -> None:
    member = {"username": "new", "email": "new@example.com", "name": "New", "role": "agent"}
    owner.insert("members", organization_id=north.id, **member)
    owner.insert("members", organization_id=south.id, **member)
    owner.refused_insert("23505", "members", organization_id=north.id, **member | {"username": "other"})
    owner.refused_insert(
        "23505",
        "members",
        organization_id=north.id,
        **member | {"email": "other@example.com", "username": "NEW"},
    )
    owner.refused_insert(
        "23514", "members", organization_id=north.id, **member | {"email": "Upper@example.com"}
    )


def test_settings_are_everybody_s_own(agent: Acting, customer: Acting, admin: Acting) -> None:
    assert agent.values("select member_id from public.member_settings") == [agent.member_id]
    assert admin.values("select member_id from public.member_settings") == []
    admin.refused_insert("42501", "member_settings", member_id=agent.member_id)
    admin.insert("member_settings", mentions=False)
    assert admin.count("update public.member_settings set mentions = true") == 1


# Contacts


def test_a_new_customer_gets_a_contact_and_a_new_agent_does_not(
    stage: Stage, north: Organization, owner: Acting
) -> None:
    assert person(stage, north.id, "newcomer", "customer").contact_id
    assert person(stage, north.id, "new_agent", "agent").contact_id is None


def test_a_customer_takes_over_the_contact_of_their_address(
    stage: Stage, agent: Acting, owner: Acting, north: Organization
) -> None:
    contact = agent.insert_id("contacts", name="Writer", email=f"writer@{north.id[:8]}.example")
    assert person(stage, north.id, "writer", "customer").contact_id == contact


def test_an_agent_who_becomes_a_customer_can_ask(
    agent: Acting, owner: Acting, stage: Stage, north: Organization
) -> None:
    owner.rows("update public.members set role = 'customer' where id = %s", [agent.member_id])
    stage.come_anew()
    ticket = agent.row(
        "insert into public.tickets (subject) values ('Now I ask') returning contact_id is not null, id"
    )
    assert ticket[0] is True
    assert agent.values("select id from public.tickets") == [ticket[1]]


def test_customer_sees_themselves_alone_among_contacts(customer: Acting, agent: Acting) -> None:
    assert customer.values("select id from public.contacts") == [customer.contact_id]
    assert len(agent.values("select id from public.contacts")) > 2


def test_customer_cannot_change_the_address_that_senders_are_matched_by(
    customer: Acting, agent: Acting, owner: Acting
) -> None:
    steal = "update public.contacts set email = 'victim@example.com' where id = %s"
    assert customer.count(steal, [customer.contact_id]) == 0
    assert owner.rows("select 1 from public.contacts where email = 'victim@example.com'") == []
    assert agent.count(steal, [customer.contact_id]) == 1


def test_customer_makes_no_contacts(customer: Acting, agent: Acting) -> None:
    customer.refused_insert("42501", "contacts", name="Friend")
    agent.insert("contacts", name="Friend")


def test_agent_removes_a_contact_but_not_the_one_of_a_customer_who_logs_in(
    agent: Acting, customer: Acting, owner: Acting, north: Organization
) -> None:
    remove = "delete from public.contacts where id = %s"
    assert agent.count(remove, [customer.contact_id]) == 0
    assert owner.rows("select 1 from public.contacts where id = %s", [customer.contact_id]) == [(1,)]
    assert agent.count(remove, [north["sender"]]) == 1
    assert agent.value("select contact_id from public.tickets where id = %s", [north["walk_in"]]) is None


def test_an_identity_on_a_channel_is_one_contact(
    agent: Acting, customer: Acting, north: Organization
) -> None:
    identity = {"contact_id": north["contact"], "channel": "whatsapp", "identity": "+49 170 1234567"}
    agent.refused_insert("23505", "contact_identities", **identity)
    agent.insert("contact_identities", **identity | {"channel": "twitter"})
    customer.refused_insert("42501", "contact_identities", **identity | {"channel": "facebook"})
    assert customer.values("select channel::text from public.contact_identities") == ["twitter"]


# Groups


def test_lead_makes_groups_and_agent_sees_them(
    team_lead: Acting, agent: Acting, customer: Acting, north: Organization
) -> None:
    group = team_lead.insert_id("groups", name="Third line")
    assert agent.values("select id from public.groups where id = %s", [group]) == [group]
    assert customer.values("select id from public.groups") == []
    agent.refused_insert("42501", "groups", name="Fourth line")
    assert agent.count("update public.groups set name = 'x' where id = %s", [group]) == 0
    assert agent.count("delete from public.groups where id = %s", [group]) == 0
    assert team_lead.count("delete from public.groups where id = %s", [group]) == 1


def test_agents_belong_to_groups_and_customers_do_not(
    *,
    team_lead: Acting,
    agent: Acting,
    customer: Acting,
    senior_agent: Acting,
    stranger: Acting,
    north: Organization,
) -> None:
    group = north["group"]
    team_lead.insert("group_members", group_id=group, member_id=senior_agent.member_id)
    for outsider in (customer, stranger):
        team_lead.refused_insert(
            "PT400", "group_members", "not_an_agent", group_id=group, member_id=outsider.member_id
        )
    agent.refused_insert("42501", "group_members", group_id=group, member_id=team_lead.member_id)
    assert agent.count("delete from public.group_members") == 0
    assert team_lead.count("delete from public.group_members") == 2


def test_the_name_of_a_group_is_there_once(team_lead: Acting) -> None:
    team_lead.refused_insert("23505", "groups", name="SECOND LINE")
