"""JWTs of outside issuers: whom they mean, and who may say so."""

from typing import Any

import pytest

from tests.actors import Acting, Organization
from tests.sql.gate import Admission, Group, admit, of

ISSUER = "https://login.example"
NAMES = "select subject from public.member_identities"

ENDINGS = {
    "the member is deactivated": "update public.members set is_active = false where id = %(member)s",
    "the user is banned": "update auth.users set banned_until = 'infinity' where id = %(user)s::uuid",
    "the account is removed": "delete from auth.users where id = %(user)s::uuid",
    "the organization is given up": "update public.organizations set deleted_at = now()",
}


def arrive(login: Acting, **outside: Any) -> Admission:
    """Come with a verified JWT; the address is in it if its issuer is believed about that."""
    claims = {"outside": {"issuer": ISSUER, **outside}}
    (admission,) = admit(login, Group(claims=claims))
    return admission


def must_be_refused(admission: Admission) -> None:
    assert (admission.granted, admission.failure, admission.claims) == (0, "invalid_token", None)


@pytest.fixture
def person(agent: Acting) -> dict[str, str]:
    return {"user": agent.actor.claims["sub"], "member": agent.member_id}


def test_a_member_comes_in_by_the_name_that_the_issuer_has_for_them(
    login: Acting, agent: Acting, north: Organization
) -> None:
    assert arrive(login, subject="north|agent").claims == {
        "sub": agent.actor.claims["sub"],
        "role": "authenticated",
        "aud": "authenticated",
        "email": agent.actor.claims["email"],
        "iss": ISSUER,
        "app_metadata": {
            "provider": ISSUER,
            "organization_id": north.id,
            "role": "agent",
            "member_id": agent.member_id,
            "contact_id": None,
        },
    }


def test_a_member_comes_in_by_address_where_the_issuer_is_believed_about_it(
    login: Acting, customer: Acting
) -> None:
    email = customer.actor.claims["email"]
    for spelled in (email, email.upper()):
        admission = arrive(login, subject="unheard of", email=spelled)
        assert admission.claims
        assert admission.claims["app_metadata"]["member_id"] == customer.member_id
        assert admission.claims["app_metadata"]["contact_id"] == customer.contact_id


def test_the_issuer_s_name_counts_more_than_the_address(
    login: Acting, agent: Acting, customer: Acting
) -> None:
    admission = arrive(login, subject="north|agent", email=customer.actor.claims["email"])
    assert admission.claims
    assert admission.claims["sub"] == agent.actor.claims["sub"]


@pytest.mark.parametrize(
    "outside",
    [
        {"subject": "unheard of"},
        {"subject": "unheard of", "email": "nobody@example.com"},
        {"subject": "unheard of", "email": None},
        {"subject": "unheard of", "email": ""},
        {"subject": "NORTH|agent"},
        {"subject": "north|agent", "issuer": "https://login.example/"},
        {"subject": None},
        {},
    ],
    ids=str,
)
def test_nobody_comes_in_as_nobody(outside: dict[str, Any], login: Acting) -> None:
    must_be_refused(arrive(login, **outside))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("way", ["subject", "address"])
def test_whoever_may_not_come_in_does_not_come_from_outside_either(
    *, ending: str, way: str, login: Acting, agent: Acting, owner: Acting, person: dict[str, str]
) -> None:
    outside = {"subject": "north|agent"}
    if way == "address":
        outside = {"subject": "unheard of", "email": agent.actor.claims["email"]}
    assert arrive(login, **outside).failure is None
    owner.rows(ENDINGS[ending], person)
    must_be_refused(arrive(login, **outside))


def test_whoever_is_out_of_one_organization_is_still_in_another_by_their_address(
    login: Acting, agent: Acting, owner: Acting, south: Organization
) -> None:
    email = agent.actor.claims["email"]
    row = {"organization_id": south.id, "username": "both", "name": "Both", "role": "customer"}
    owner.insert("members", user_id=agent.actor.claims["sub"], email=email, **row)
    owner.rows("update public.members set is_active = false where id = %s", [agent.member_id])
    admission = arrive(login, subject="north|agent", email=email)
    assert admission.claims
    assert admission.claims["app_metadata"]["organization_id"] == south.id
    must_be_refused(arrive(login, subject="north|agent"))


def test_a_person_from_outside_is_counted_as_that_person(login: Acting, agent: Acting) -> None:
    own = admit(login, of(agent.actor, limit=5, wanted=3))[0]
    outside = Group(claims={"outside": {"issuer": ISSUER, "subject": "north|agent"}}, limit=5, wanted=3)
    assert (own.granted, admit(login, outside)[0].granted) == (3, 2)


def test_nobody_says_of_themselves_that_they_come_from_outside(login: Acting, customer: Acting) -> None:
    outside = {"outside": {"issuer": ISSUER, "subject": "north|agent"}}
    for place in ("user_metadata", "app_metadata"):
        (admission,) = admit(login, Group(claims={**customer.actor.claims, place: outside}))
        assert admission.claims
        assert admission.claims["sub"] == customer.actor.claims["sub"]
        assert admission.claims["app_metadata"]["role"] == "customer"


# Who may name members


def test_admin_sees_and_removes_the_names_of_their_members_and_adds_none(
    admin: Acting, agent: Acting, stranger: Acting
) -> None:
    row = {"member_id": agent.member_id, "issuer": ISSUER, "subject": "another"}
    assert admin.values(NAMES) == ["north|agent"]
    admin.refused_insert("42501", "member_identities", **row)
    admin.refused_insert("42501", "member_identities", **row | {"member_id": stranger.member_id})
    admin.refused("42501", "update public.member_identities set subject = 'south|agent'")
    assert admin.count("delete from public.member_identities") == 1


@pytest.mark.parametrize("name", ["customer", "agent", "senior_agent", "team_lead"])
def test_nobody_else_sees_or_removes_names(name: str, admin: Acting, north: Organization) -> None:
    acting = Acting(north.actors[name], admin.stage)
    assert acting.values(NAMES) == []
    assert acting.count("delete from public.member_identities") == 0
    assert admin.values(NAMES) == ["north|agent"]


def test_the_operator_names_members_of_the_organization_that_they_belong_to(
    service: Acting, login: Acting, agent: Acting, stranger: Acting, north: Organization
) -> None:
    row = {"organization_id": north.id, "member_id": agent.member_id, "issuer": ISSUER, "subject": "new"}
    service.insert("member_identities", **row)
    service.refused_insert("23505", "member_identities", **row)
    service.refused_insert(
        "23503", "member_identities", **row | {"member_id": stranger.member_id, "subject": "x"}
    )
    admission = arrive(login, subject="new")
    assert admission.claims
    assert admission.claims["sub"] == agent.actor.claims["sub"]


def test_whoever_has_no_person_s_rights_sees_no_names(visitor: Acting, token: Acting) -> None:
    for acting in (visitor, token):
        acting.refused("42501", NAMES)
