"""The entrances: what makes a credential fresh, what is believed of it, and what is left of it afterwards."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json

from api.keys import authenticator_password
from tests.actors import SERVICE, VISITOR, Acting, Actor, Organization, Stage, World, person
from tests.databases import Connection, name_of
from tests.desk import Desk
from tests.sql.gate import Group, admit, of

TICKETS = "select id from public.tickets"
NOBODY = "00000000-0000-4000-8000-000000000000"

ENDINGS = {
    "the session is gone": "delete from auth.sessions where id = %(session)s::uuid",
    "the session is over": "update auth.sessions set not_after = now() where id = %(session)s::uuid",
    "the member is deactivated": "update public.members set is_active = false where id = %(member)s::uuid",
    "the user is banned": "update auth.users set banned_until = 'infinity' where id = %(user)s::uuid",
    "the user is deleted": "update auth.users set deleted_at = now() where id = %(user)s::uuid",
    "the account is removed": "delete from auth.users where id = %(user)s::uuid",
    "the organization is given up": "update public.organizations set deleted_at = now()",
}


def with_claims(actor: Actor, **claims: Any) -> Actor:
    """Return the actor with other claims; None takes one away."""
    changed = {name: value for name, value in {**actor.claims, **claims}.items() if value is not None}
    return replace(actor, claims=changed)


def must_be_shut_out(actor: Actor, stage: Stage, login: Acting) -> None:
    """Try both entrances."""
    stage.come_anew()
    Acting(replace(actor), stage).refused("PT401", TICKETS, word="session_ended")
    (admission,) = admit(login, of(actor))
    assert (admission.granted, admission.failure, admission.claims) == (0, "session_ended", None)


# Ends


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_credential_ends_with_what_it_stands_on(
    ending: str, agent: Acting, owner: Acting, login: Acting, stage: Stage
) -> None:
    assert agent.rows(TICKETS) != []
    claims = agent.actor.claims
    owner.rows(
        ENDINGS[ending], {"session": claims["session_id"], "user": claims["sub"], "member": agent.member_id}
    )
    must_be_shut_out(agent.actor, stage, login)


@pytest.mark.parametrize("name", ["deactivated", "logged_out"])
def test_who_was_shut_out_stays_out(name: str, stage: Stage, login: Acting, north: Organization) -> None:
    must_be_shut_out(north.actors[name], stage, login)


def test_a_ban_that_is_over_is_over(agent: Acting, owner: Acting) -> None:
    owner.rows("update auth.users set banned_until = now() - interval '1 second'")
    assert agent.rows(TICKETS) != []


@pytest.mark.parametrize(
    "claims",
    [{"sub": NOBODY}, {"sub": "not a uuid"}, {"sub": None}, {"session_id": NOBODY}, {"session_id": "x"}],
    ids=str,
)
def test_claims_of_nobody_are_refused(
    claims: dict[str, Any], agent: Acting, stage: Stage, login: Acting
) -> None:
    must_be_shut_out(with_claims(agent.actor, **claims), stage, login)


def test_the_session_of_somebody_else_is_no_session(
    agent: Acting, customer: Acting, stage: Stage, login: Acting
) -> None:
    borrowed = with_claims(agent.actor, session_id=customer.actor.claims["session_id"])
    must_be_shut_out(borrowed, stage, login)


def test_a_credential_without_a_session_is_its_signer_s_affair(agent: Acting, stage: Stage) -> None:
    assert Acting(with_claims(agent.actor, session_id=None), stage).rows(TICKETS) != []


def test_one_bad_credential_does_not_hurt_the_others_of_its_batch(
    agent: Acting, token: Acting, login: Acting
) -> None:
    bad = with_claims(agent.actor, sub="not a uuid")
    admissions = admit(
        login, of(agent.actor), of(bad), of(token.actor), Group(secret="x"), Group(address="::1")
    )
    assert [admission.failure for admission in admissions] == [
        None,
        "session_ended",
        None,
        "invalid_token",
        None,
    ]
    assert [admission.granted for admission in admissions] == [1, 0, 1, 0, 1]


# Second factors


ENROLLED = """
    insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
    values (gen_random_uuid(), %s::uuid, 'totp', %s, now(), now())
"""


def test_a_session_that_owes_a_second_factor_is_let_in_nowhere(
    agent: Acting, owner: Acting, stage: Stage, login: Acting
) -> None:
    owner.rows(ENROLLED, [agent.actor.claims["sub"], "verified"])
    for aal in ("aal1", None):
        owner.rows("update auth.sessions set aal = %s", [aal])
        for actor in (agent.actor, with_claims(agent.actor, aal="aal2")):
            stage.come_anew()
            Acting(actor, stage).refused("PT403", TICKETS, word="second_factor_required")
            (admission,) = admit(login, of(actor, limit=9))
            assert (admission.granted, admission.claims) == (0, None)
            assert admission.failure == "second_factor_required"
            assert admission.remaining is None, "nor is it counted"


def test_a_session_that_has_shown_it_is_let_in(
    agent: Acting, owner: Acting, stage: Stage, login: Acting
) -> None:
    owner.rows(ENROLLED, [agent.actor.claims["sub"], "verified"])
    owner.rows("update auth.sessions set aal = 'aal2'")
    assert agent.rows(TICKETS) != []
    assert admit(login, of(agent.actor))[0].failure is None
    owner.rows("delete from auth.mfa_factors")
    owner.rows("update auth.sessions set aal = 'aal1'")
    stage.come_anew()
    assert agent.rows(TICKETS) != [], "and without a factor there is none to show"


def test_a_factor_that_was_never_shown_or_is_another_s_is_not_owed(
    agent: Acting, customer: Acting, owner: Acting, login: Acting
) -> None:
    owner.rows(ENROLLED, [agent.actor.claims["sub"], "unverified"])
    owner.rows(ENROLLED, [customer.actor.claims["sub"], "verified"])
    assert agent.rows(TICKETS) != []
    assert admit(login, of(agent.actor))[0].failure is None


def test_a_session_without_a_factor_believes_nothing_about_owing_one(agent: Acting, login: Acting) -> None:
    claimed = with_claims(agent.actor, app_metadata={"lacks_factor": True})
    (admission,) = admit(login, of(claimed))
    assert admission.claims
    assert "lacks_factor" not in admission.claims["app_metadata"]


# What is believed


def test_a_role_counts_as_it_is_now_and_not_as_the_credential_says(
    admin: Acting, agent: Acting, owner: Acting, stage: Stage
) -> None:
    settings = "select 1 from public.integration_tokens"
    assert admin.rows(settings) != []
    assert agent.rows(settings) == []
    owner.rows("update public.members set role = 'agent' where id = %s", [admin.member_id])
    owner.rows("update public.members set role = 'admin' where id = %s", [agent.member_id])
    assert admin.rows(settings) == []
    assert agent.rows(settings) != []


@pytest.mark.parametrize(
    "claims",
    [
        {"app_metadata": {"role": "admin"}},
        {"app_metadata": {"role": "admin", "member_id": NOBODY}},
        {"user_metadata": {"role": "admin", "organization_id": NOBODY}},
        {"is_super_admin": True},
    ],
    ids=str,
)
def test_a_credential_that_claims_to_be_more_is_what_it_is(
    claims: dict[str, Any], customer: Acting, stage: Stage, north: Organization
) -> None:
    boaster = Acting(with_claims(customer.actor, **claims), stage)
    assert boaster.values(TICKETS) == [north["ticket"]]
    assert boaster.rows("select 1 from public.integration_tokens") == []


def test_a_person_s_claims_to_be_an_integration_or_another_contact_are_dropped(
    customer: Acting, other_customer: Acting, token: Acting, login: Acting, north: Organization
) -> None:
    forged = with_claims(
        customer.actor,
        app_metadata={
            "organization_id": north.id,
            "contact_id": other_customer.contact_id,
            "member_id": other_customer.member_id,
            "token_id": token.token_id,
            "scopes": ["tickets:read"],
        },
    )
    (admission,) = admit(login, of(forged))
    assert admission.claims
    assert admission.claims["app_metadata"] == {
        "organization_id": north.id,
        "role": "customer",
        "member_id": customer.member_id,
        "contact_id": customer.contact_id,
    }


def test_a_claim_to_another_organization_is_no_membership(
    agent: Acting, stage: Stage, login: Acting, south: Organization
) -> None:
    claims = {"organization_id": south.id, "role": "admin", "member_id": NOBODY, "token_id": NOBODY}
    intruder = with_claims(agent.actor, app_metadata=claims)
    assert Acting(intruder, stage).rows(TICKETS) == []
    (admission,) = admit(login, of(intruder))
    assert admission.claims
    assert admission.claims["app_metadata"] == {}


def test_a_user_who_is_a_member_of_nothing_sees_and_writes_nothing(owner: Acting, stage: Stage) -> None:
    user = owner.value("insert into auth.users (email) values ('new@example.com') returning id")
    newcomer = Acting(Actor("newcomer", "authenticated", {"sub": user, "role": "authenticated"}), stage)
    for table in ("tickets", "comments", "organizations", "members", "articles", "categories"):
        assert newcomer.rows(f"select 1 from public.{table}") == []
    newcomer.refused_insert("42501", "tickets", subject="x")


def test_a_member_of_two_organizations_is_in_the_one_that_the_credential_names(
    stage: Stage, owner: Acting, north: Organization, south: Organization
) -> None:
    both = person(stage, north.id, "both", "agent")
    owner.insert(
        "members",
        organization_id=south.id,
        user_id=both.claims["sub"],
        username="both",
        email="both@example.com",
        name="Both",
        role="customer",
    )
    for organization, role in ((north, "agent"), (south, "customer")):
        here = Acting(with_claims(both, app_metadata={"organization_id": organization.id}), stage)
        assert here.values("select id from public.organizations") == [organization.id]
        (row,) = here.rows("select private.organization_id(), private.member_role()::text")
        assert row == (organization.id, role)


def test_a_visitor_s_claims_open_nothing(stage: Stage, admin: Acting) -> None:
    visitor = replace(VISITOR, claims={**admin.actor.claims, "role": "anon"})
    Acting(visitor, stage).refused("42501", TICKETS)


# Who may open the door


ENTRIES = [
    "select private.enter('{}')",
    "select integration_tickets.get_ticket('{}', gen_random_uuid())",
    "select integration_tickets.create_ticket('{}', 'x', null, null, null, null, null)",
    "select integration_tickets.add_comment('{}', gen_random_uuid(), 'x', false, null, null)",
    "select integration_tickets.update_ticket_status('{}', gen_random_uuid(), 'open', null)",
    "select private.admit('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
    "select private.read_events(pg_current_snapshot(), pg_current_snapshot(), 0, 1)",
]
OWNERS_OWN = [
    "select private.maintain()",
    "select private.create_first_admin('a@b.c', 'x', 'x', 'x')",
    "select private.create_token(gen_random_uuid(), 'x', null, null, null)",
    "select private.revoke_token(gen_random_uuid(), gen_random_uuid())",
    "select private.take('x', 'x', 1, 1, 1)",
    "select private.add_member(gen_random_uuid(), gen_random_uuid(), 'a@b.c', 'x', 'admin')",
    "select private.create_account('a@b.c', 'x', 'x')",
    "select private.join_account('a@b.c')",
    "select private.give_contact(gen_random_uuid(), gen_random_uuid())",
    "select private.outside_claims('{}')",
    "select private.is_organization('x')",
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_client_calls_what_believes_its_caller(
    entry: str, stage: Stage, admin: Acting, token: Acting
) -> None:
    for actor in (VISITOR, SERVICE, admin.actor, token.actor):
        Acting(actor, stage).refused("42501", entry)


@pytest.mark.parametrize("call", OWNERS_OWN)
def test_the_service_cannot_do_what_is_the_owner_s(
    call: str, login: Acting, admin: Acting, service: Acting
) -> None:
    for acting in (login, admin, service):
        acting.refused("42501", call)


# The real login


@pytest.fixture
def pooled(desk: Desk, world: World) -> Connection:
    """A connection as the service has it, with the password of `authenticator`."""
    password = authenticator_password(desk.jwt_secret)
    return psycopg.connect(
        desk.db_url, user="authenticator", password=password, dbname=name_of(world.url), autocommit=True
    )


def test_the_login_can_take_the_roles_of_clients_and_no_other(pooled: Connection) -> None:
    with pooled:
        for role in ("anon", "authenticated", "integration", "service_role"):
            pooled.execute(f"set role {role}".encode())
        for role in ("postgres", "deskbase_definer", "supabase_admin", "supabase_auth_admin"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pooled.execute(f"set role {role}".encode())


def test_nothing_of_a_request_is_left_on_its_connection(pooled: Connection, token: Acting) -> None:
    with pooled:
        get = "select body from integration_tickets.get_ticket(%s::jsonb, %s)"
        ticket = token.values(TICKETS)[0]
        assert pooled.execute(get, [Json(token.actor.claims), ticket]).fetchone()
        left = "select current_user::text, coalesce(current_setting('request.jwt.claims', true), '')"
        assert pooled.execute(left).fetchone() == ("authenticator", "")
        admit(pooled, of(token.actor, bucket="committed"))
        assert pooled.execute("show synchronous_commit").fetchone() == ("on",)


def test_the_login_reads_nothing_before_it_has_taken_a_role(
    pooled: Connection, tables_of: Callable[[], list[str]]
) -> None:
    with pooled:
        for table in tables_of():
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pooled.execute(f"select 1 from {table}".encode())


@pytest.fixture
def tables_of(owner: Acting) -> Callable[[], list[str]]:
    return lambda: owner.values("""
        select 'public.' || relname from pg_class
        where relnamespace = 'public'::regnamespace and relkind = 'r'
    """)
