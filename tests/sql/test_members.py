"""What admins do with members, and what members cannot do with themselves."""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.actors import SERVICE, VISITOR, Acting, Actor, Organization, Refused, Stage, World, rolled_back
from tests.sql.gate import admit, of
from tests.sql.threads import run_at_once

NOBODY = "00000000-0000-4000-8000-000000000000"
CREATE = """
    select public.create_member(email => %(email)s, name => %(name)s, role => %(role)s::public.member_role,
        password => %(password)s, department => %(department)s)
"""
UPDATE = """
    select public.update_member(id => %(id)s::uuid, name => %(name)s, role => %(role)s::public.member_role,
        department => %(department)s, is_active => %(is_active)s)
"""
DEACTIVATE = "select public.deactivate_member(%s)"
ENTER = "select public.enter_organization(%s)"
MEMBER = "select to_jsonb(m) from public.members as m where m.id = %s"
ACCOUNT = "select to_jsonb(u) from auth.users as u where u.email = %s"
MAILS = "select kind from private.mails where email = %s order by created_at"
PASSWORD = "correct horse battery"

LOWER_ROLES = ["customer", "agent", "senior_agent", "team_lead"]


def create(acting: Acting, email: str, **options: Any) -> dict[str, Any]:
    return dict(acting.value(CREATE, creation(email, **options)))


def creation(email: str, **options: Any) -> dict[str, Any]:
    return {"email": email, "name": "New", "role": "agent", "password": None, "department": None, **options}


def update(acting: Acting, member_id: str | None, **changes: Any) -> dict[str, Any]:
    return dict(acting.value(UPDATE, change(member_id, **changes)))


def change(member_id: str | None, **changes: Any) -> dict[str, Any]:
    return {**dict.fromkeys(("name", "role", "department", "is_active")), "id": member_id, **changes}


@pytest.fixture
def new(owner: Acting, stage: Stage) -> Callable[[str], Acting]:
    """Log a member in whom an admin has made."""

    def enter(email: str, method: str = "password") -> Acting:
        user = owner.value("select id from auth.users where email = %s", [email])
        session = owner.value("insert into auth.sessions (user_id) values (%s::uuid) returning id", [user])
        owner.rows(
            "insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)"
            " values (gen_random_uuid(), %s::uuid, now(), now(), %s)",
            [session, method],
        )
        claims = {"sub": user, "session_id": session, "role": "authenticated"}
        return Acting(Actor(email, "authenticated", claims), stage)

    return enter


Enter = Callable[..., Acting]


# Making


def test_admin_makes_a_member_with_a_password_who_can_log_in_at_once(
    admin: Acting, owner: Acting, new: Enter, north: Organization
) -> None:
    made = create(admin, " New@Example.com ", name=" New ", password=PASSWORD, department=" Sales ")
    assert made.keys() == {
        *("id", "user_id", "number", "username", "email", "name", "role", "department"),
        *("is_active", "created_at", "updated_at"),
    }
    assert (made["email"], made["name"], made["role"]) == ("new@example.com", "New", "agent")
    assert (made["department"], made["is_active"]) == ("Sales", True)
    account = owner.value(ACCOUNT, ["new@example.com"])
    assert account["email_confirmed_at"]
    assert account["encrypted_password"]
    assert PASSWORD not in str(account)
    assert account["raw_app_meta_data"] == {"provider": "email", "providers": ["email"]}
    assert owner.values(MAILS, ["new@example.com"]) == []
    assert new("new@example.com").values("select id from public.organizations") == [north.id]


def test_admin_makes_a_member_without_a_password_who_is_invited(
    admin: Acting, owner: Acting, north: Organization
) -> None:
    create(admin, "new@example.com", role="team_lead")
    account = owner.value(ACCOUNT, ["new@example.com"])
    assert (account["encrypted_password"], account["email_confirmed_at"]) == ("", None)
    assert account["invited_at"]
    mail = "select kind, organization_id, data from private.mails where email = 'new@example.com'"
    assert owner.rows(mail) == [("invite", north.id, {"organization": "north"})]


def test_a_password_is_stored_nowhere_as_it_is(admin: Acting, owner: Acting) -> None:
    password = secrets.token_urlsafe(12)
    create(admin, "new@example.com", password=password)
    tables = owner.values("""
        select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname in ('public', 'private', 'auth') and c.relkind in ('r', 'p')
    """)
    assert len(tables) > 50
    for table in tables:
        assert owner.rows(f"select from {table} as t where strpos(t::text, %s) > 0", [password]) == [], table


@pytest.mark.parametrize("role", LOWER_ROLES)
def test_nobody_but_an_admin_makes_or_changes_members(
    role: str, stage: Stage, owner: Acting, north: Organization
) -> None:
    acting = Acting(north.actors[role], stage)
    before = owner.rows("select m.* from public.members as m order by m.id")
    acting.refused("PT403", CREATE, creation("new@example.com"), word="forbidden")
    for member_id in (acting.member_id, north.actors["other_customer"].member_id, NOBODY):
        acting.refused("PT403", UPDATE, change(member_id, role="admin"), word="forbidden")
        acting.refused("PT403", DEACTIVATE, [member_id], word="forbidden")
    assert owner.rows("select m.* from public.members as m order by m.id") == before
    assert owner.rows(ACCOUNT, ["new@example.com"]) == []


def test_whoever_is_no_person_has_nothing_to_do_with_members(
    stage: Stage, token: Acting, north: Organization
) -> None:
    for actor in (VISITOR, SERVICE, token.actor):
        acting = Acting(actor, stage)
        acting.refused("42501", CREATE, creation("new@example.com"))
        acting.refused("42501", UPDATE, change(north.actors["agent"].member_id, role="admin"))
        acting.refused("42501", DEACTIVATE, [north.actors["agent"].member_id])
        acting.refused("42501", ENTER, [north.id])


def test_an_admin_of_another_organization_changes_nobody_here(
    foreign_admin: Acting, owner: Acting, agent: Acting
) -> None:
    before = owner.value(MEMBER, [agent.member_id])
    foreign_admin.refused("PT404", UPDATE, change(agent.member_id, role="admin"), word="not_found")
    foreign_admin.refused("PT404", DEACTIVATE, [agent.member_id], word="not_found")
    assert owner.value(MEMBER, [agent.member_id]) == before


def test_no_client_calls_what_takes_an_organization_as_an_argument(
    admin: Acting, service: Acting, login: Acting, north: Organization
) -> None:
    for acting in (admin, service, login):
        acting.refused(
            "42501", "select private.create_member(%s, 'a@b.c', null, 'x', 'admin', null)", [north.id]
        )
        acting.refused(
            "42501", "select private.update_member(%s, %s, null, 'admin', null, null)", [north.id, NOBODY]
        )


@pytest.mark.parametrize(
    ("options", "state", "word"),
    [
        ({"email": None}, "PT400", "invalid_field"),
        ({"email": "  "}, "PT400", "invalid_field"),
        ({"email": "no address"}, "PT400", "invalid_field"),
        ({"email": "two@signs@example.com"}, "PT400", "invalid_field"),
        ({"email": "new line\n@example.com"}, "PT400", "invalid_field"),
        ({"email": f"{'x' * 250}@example.com"}, "PT400", "invalid_field"),
        ({"name": None}, "PT400", "invalid_field"),
        ({"name": "  "}, "PT400", "invalid_field"),
        ({"name": "x" * 201}, "PT400", "invalid_field"),
        ({"role": None}, "PT400", "invalid_field"),
        ({"department": "x" * 201}, "PT400", "invalid_field"),
        ({"role": "king"}, "22P02", ""),
        ({"password": ""}, "PT422", "weak_password"),
        ({"password": "short"}, "PT422", "weak_password"),
        ({"password": "Password1"}, "PT422", "weak_password"),
        ({"password": "x" * 73}, "PT422", "weak_password"),
    ],
    ids=str,
)
def test_a_member_who_cannot_be_is_refused_and_no_account_is_left(
    options: dict[str, Any], state: str, word: str, admin: Acting, owner: Acting
) -> None:
    before = owner.value("select count(*) from auth.users")
    admin.refused(state, CREATE, {**creation("new@example.com"), **options}, word=word)
    assert owner.value("select count(*) from auth.users") == before
    assert owner.values(MAILS, ["new@example.com"]) == []


def test_nobody_is_a_member_twice(admin: Acting, owner: Acting, agent: Acting) -> None:
    email = owner.value(MEMBER, [agent.member_id])["email"]
    for state in ("true", "false"):
        owner.rows(f"update public.members set is_active = {state} where id = %s", [agent.member_id])
        admin.refused("PT409", CREATE, creation(email.upper(), password=PASSWORD), word="conflict")
    create(admin, "new@example.com")
    admin.refused("PT409", CREATE, creation("new@example.com"), word="conflict")
    assert owner.values(MAILS, ["new@example.com"]) == ["invite"], "nor told of it"


# Accounts that there are already


def test_an_account_of_another_organization_stays_as_it_is_and_nothing_tells_of_it(
    admin: Acting, owner: Acting, stranger: Acting
) -> None:
    email = stranger.actor.claims["email"]
    before = owner.value(ACCOUNT, [email])
    for number, password in enumerate((PASSWORD, None)):
        unknown = create(admin, f"unknown-{number}@example.com", password=password)
        with admin.stage.undone():
            known = create(admin, email, password=password)
            assert owner.value(ACCOUNT, [email]) == before, "its password and its name are its holder's"
            assert owner.values(MAILS, [email]) == ["added_to_organization"]
            told = owner.value("select data from private.mails where email = %s", [email])
            assert told == {"organization": "north"}
        assert {key: type(value) for key, value in known.items()} == {
            key: type(value) for key, value in unknown.items()
        }
        same = ("name", "role", "department", "is_active")
        assert [known[key] for key in same] == [unknown[key] for key in same]


@pytest.mark.parametrize("password", [PASSWORD, None])
def test_contacts_do_not_tell_either_whether_there_was_an_account(
    password: str | None, admin: Acting, owner: Acting, stranger: Acting
) -> None:
    emails = {"unknown@example.com", stranger.actor.claims["email"]}
    made = [create(admin, email, role="customer", password=password)["id"] for email in emails]
    contacts = admin.values("select email from public.contacts where member_id = any (%s::uuid[])", [made])
    assert set(contacts) == emails


@pytest.mark.parametrize("password", [PASSWORD, None])
def test_a_customer_whom_an_admin_makes_is_who_wrote_from_that_address(
    password: str | None, admin: Acting, agent: Acting, owner: Acting
) -> None:
    contact = agent.insert_id("contacts", name="Writer", email="writer@example.com")
    made = create(admin, "writer@example.com", role="customer", password=password)
    assert owner.value("select member_id from public.contacts where id = %s", [contact]) == made["id"]


def test_a_sign_up_that_nobody_confirmed_keeps_no_password_when_its_address_is_added(
    admin: Acting, owner: Acting
) -> None:
    """Else whoever signs up with the addresses of others would be who is added under them one day."""
    owner.rows("""
        insert into auth.users (email, encrypted_password, confirmation_sent_at, raw_user_meta_data)
        values ('victim@example.com', 'Mallory''s', now(), '{"name": "Mallory"}')
    """)
    create(admin, "victim@example.com", password=PASSWORD)
    account = owner.value(ACCOUNT, ["victim@example.com"])
    assert (account["encrypted_password"], account["email_confirmed_at"]) == ("", None)
    assert account["invited_at"]
    assert owner.values(MAILS, ["victim@example.com"]) == ["invite"]


@pytest.fixture
def squatted(foreign_admin: Acting, admin: Acting, owner: Acting, new: Enter) -> Acting:
    """Somebody who is added here, and whose account an admin elsewhere has made and knows the password of."""
    create(foreign_admin, "victim@example.com", role="agent", password=PASSWORD)
    owner.rows("update public.members set created_at = now() - interval '1 day' where role = 'agent'")
    create(admin, "victim@example.com", role="admin")
    return new("victim@example.com")


def test_whoever_knows_the_password_of_an_account_they_made_is_in_their_own_organization_alone(
    squatted: Acting, stage: Stage, login: Acting, north: Organization, south: Organization
) -> None:
    assert squatted.values("select id from public.organizations") == [south.id]
    stage.come_anew()
    squatted.refused("PT403", ENTER, [north.id], word="forbidden")
    claims = {**squatted.actor.claims, "app_metadata": {"organization_id": north.id, "role": "admin"}}
    intruder = Actor("intruder", "authenticated", claims)
    assert Acting(intruder, stage).rows("select from public.tickets") == []
    (admission,) = admit(login, of(intruder))
    assert admission.claims
    assert admission.claims["app_metadata"] == {}


@pytest.mark.parametrize("method", ["otp", "magiclink", "recovery", "invite", "email/signup"])
def test_whoever_reads_the_mail_of_an_address_is_in_every_organization_of_it(
    method: str, squatted: Acting, new: Enter, north: Organization, south: Organization
) -> None:
    reader = new("victim@example.com", method)
    assert reader.value(ENTER, [north.id])["role"] == "admin"
    for organization in (north, south):
        app_metadata = {"organization_id": organization.id}
        there = Acting(
            Actor("x", "authenticated", {**reader.actor.claims, "app_metadata": app_metadata}), reader.stage
        )
        assert there.values("select id from public.organizations") == [organization.id]


def test_an_account_whose_address_was_proved_is_in_every_organization_of_it(
    squatted: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows("update auth.users set confirmation_sent_at = now() where email = 'victim@example.com'")
    squatted.stage.come_anew()
    assert squatted.value(ENTER, [north.id])["role"] == "admin"


# Changing


def test_admin_changes_what_they_name_and_nothing_else(admin: Acting, agent: Acting, owner: Acting) -> None:
    before = owner.value(MEMBER, [agent.member_id])
    update(admin, agent.member_id)
    changed = {"updated_at": owner.value(MEMBER, [agent.member_id])["updated_at"]}
    assert owner.value(MEMBER, [agent.member_id]) == {**before, **changed}
    changes = {"name": "Renamed", "role": "team_lead", "department": "Sales"}
    for column, value in changes.items():
        assert update(admin, agent.member_id, **{column: value})[column] == value
    assert owner.value(MEMBER, [agent.member_id]) == {**before, **changed, **changes}
    assert update(admin, agent.member_id, department=" ")["department"] is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_a_name_is_a_name(name: str, admin: Acting, agent: Acting) -> None:
    admin.refused("PT400", UPDATE, change(agent.member_id, name=name), word="invalid_field")


def test_a_department_has_a_length(admin: Acting, agent: Acting) -> None:
    admin.refused("PT400", UPDATE, change(agent.member_id, department="x" * 201), word="invalid_field")


def test_nobody_there_is_nobody_to_change(admin: Acting, stranger: Acting) -> None:
    for member_id in (NOBODY, None, stranger.member_id):
        admin.refused("PT404", UPDATE, change(member_id, name="x"), word="not_found")
        admin.refused("PT404", DEACTIVATE, [member_id], word="not_found")


@pytest.mark.parametrize("changes", [{"role": "agent"}, {"is_active": False}], ids=str)
def test_an_organization_keeps_an_admin(changes: dict[str, Any], admin: Acting, agent: Acting) -> None:
    admin.refused("PT409", UPDATE, change(admin.member_id, **changes), word="last_admin")
    update(admin, agent.member_id, role="admin")
    assert update(admin, admin.member_id, **changes)["id"] == admin.member_id


def test_an_admin_who_is_out_does_not_count(admin: Acting, agent: Acting) -> None:
    update(admin, agent.member_id, role="admin", is_active=False)
    admin.refused("PT409", UPDATE, change(admin.member_id, role="agent"), word="last_admin")
    admin.refused("PT409", DEACTIVATE, [admin.member_id], word="last_admin")


def test_two_admins_who_demote_each_other_at_once_leave_one(own_world: World) -> None:
    admins = [own_world.north.actors["admin"], own_world.north.actors["agent"]]
    with psycopg.connect(own_world.url, autocommit=True) as connection:
        connection.execute("update public.members set role = 'admin' where id = %s", [admins[1].member_id])
        refusals: list[Refused] = []

        def demote(actor: Actor, other: Actor) -> None:
            with rolled_back(own_world.url) as stage:
                try:
                    update(Acting(actor, stage), other.member_id, role="agent")
                except Refused as refusal:
                    refusals.append(refusal)
                stage.connection.execute("set local session authorization default")
                stage.connection.execute("commit")

        run_at_once(partial(demote, *admins), partial(demote, *reversed(admins)))
        left = connection.execute(
            "select count(*) from public.members where role = 'admin' and organization_id = %s",
            [own_world.north.id],
        )
        assert left.fetchone() == (1,)
    assert [refusal.state for refusal in refusals] in (["PT409"], ["PT403"])


def test_two_admins_who_add_the_same_person_at_once_make_one_account(own_world: World) -> None:
    admins = [own_world.north.actors["admin"], own_world.south.actors["admin"]]

    def add(actor: Actor) -> None:
        with rolled_back(own_world.url) as stage:
            create(Acting(actor, stage), "new@example.com", password=PASSWORD)
            stage.connection.execute("set local session authorization default")
            stage.connection.execute("commit")

    run_at_once(*[partial(add, actor) for actor in admins])
    with rolled_back(own_world.url) as stage:
        rows = stage.connection.execute(
            "select count(*), count(distinct user_id) from public.members where email = 'new@example.com'"
        )
        assert rows.fetchone() == (2, 1)


# Coming and going


def test_whoever_is_deactivated_is_out_with_the_next_request(
    admin: Acting, agent: Acting, owner: Acting, login: Acting, stage: Stage
) -> None:
    assert agent.rows("select from public.tickets") != []
    made = admin.value(DEACTIVATE, [agent.member_id])
    assert made["is_active"] is False
    stage.come_anew()
    agent.refused("PT401", "select from public.tickets", word="session_ended")
    assert admit(login, of(agent.actor))[0].failure == "session_ended"
    sessions = "select from auth.sessions where user_id = %s::uuid"
    assert owner.rows(sessions, [agent.actor.claims["sub"]]) == []
    assert owner.value(MEMBER, [agent.member_id])["presence"] == "offline"


def test_whoever_is_let_in_again_has_to_log_in_again(
    admin: Acting, agent: Acting, new: Enter, stage: Stage
) -> None:
    admin.rows(DEACTIVATE, [agent.member_id])
    assert update(admin, agent.member_id, is_active=True)["is_active"] is True
    stage.come_anew()
    agent.refused("PT401", "select from public.tickets", word="session_ended")
    assert new(agent.actor.claims["email"]).rows("select from public.tickets") != []


def test_whoever_is_out_here_is_still_in_elsewhere(
    *, admin: Acting, foreign_admin: Acting, agent: Acting, stage: Stage, login: Acting, south: Organization
) -> None:
    create(foreign_admin, agent.actor.claims["email"], role="agent")
    admin.rows(DEACTIVATE, [agent.member_id])
    assert admit(login, of(agent.actor))[0].failure == "session_ended"
    claims = {**agent.actor.claims, "app_metadata": {"organization_id": south.id}}
    there = Acting(Actor("x", "authenticated", claims), stage)
    assert there.values("select id from public.organizations") == [south.id]


def test_an_account_that_was_deleted_is_not_let_in_again(admin: Acting, agent: Acting, owner: Acting) -> None:
    owner.rows("delete from auth.users where id = %s::uuid", [agent.actor.claims["sub"]])
    admin.refused("PT409", UPDATE, change(agent.member_id, is_active=True), word="conflict")
    assert create(admin, agent.actor.claims["email"])["id"] != agent.member_id


def test_another_role_counts_with_the_next_request(
    admin: Acting, agent: Acting, customer: Acting, stage: Stage, login: Acting
) -> None:
    assert agent.rows("select from public.integration_tokens") == []
    update(admin, agent.member_id, role="admin")
    assert agent.rows("select from public.integration_tokens") != []
    update(admin, agent.member_id, role="customer")
    assert agent.rows("select from public.tickets") == []
    (admission,) = admit(login, of(agent.actor))
    assert admission.claims
    assert admission.claims["app_metadata"]["role"] == "customer"
    assert admission.claims["app_metadata"]["contact_id"]
    agent.refused("PT403", UPDATE, change(agent.member_id, role="admin"), word="forbidden")


# Oneself


COLUMNS = """
    select a.attname from pg_attribute as a
    where a.attrelid = 'public.members'::regclass and a.attnum > 0 and not a.attisdropped order by 1
"""


def test_a_member_writes_their_name_picture_and_presence_and_no_other_column(
    stage: Stage, owner: Acting, north: Organization
) -> None:
    columns = owner.values(COLUMNS)
    assert len(columns) > 12
    for role in [*LOWER_ROLES, "admin"]:
        acting = Acting(north.actors[role], stage)
        before = owner.value(MEMBER, [acting.member_id])
        writable = set()
        for column in columns:
            with stage.undone():
                refusal = acting.refusal(f"update public.members set {column} = {column}")
                if refusal is None:
                    writable.add(column)
                else:
                    assert refusal.state in {"42501", "428C9"}, refusal
        assert writable == {"name", "avatar_url", "presence"}
        assert owner.value(MEMBER, [acting.member_id]) == before


def test_a_member_with_a_name_of_a_role_has_no_role(customer: Acting, stage: Stage) -> None:
    customer.rows("update public.members set name = 'admin'")
    claims = {**customer.actor.claims, "user_metadata": {"role": "admin", "app_metadata": {"role": "admin"}}}
    boaster = Acting(Actor("boaster", "authenticated", claims), stage)
    boaster.refused("PT403", CREATE, creation("new@example.com"), word="forbidden")


# Going over


def test_a_member_of_two_goes_over_to_the_other_and_to_no_third(
    agent: Acting, foreign_admin: Acting, owner: Acting, south: Organization
) -> None:
    third = owner.insert_id("organizations", name="Third")
    for organization in (south.id, third, NOBODY, None):
        agent.refused("PT404", ENTER, [organization], word="not_found")
    made = create(foreign_admin, agent.actor.claims["email"], role="team_lead")
    assert agent.value(ENTER, [south.id]) == made
    account = owner.value(ACCOUNT, [agent.actor.claims["email"]])
    assert account["raw_app_meta_data"]["organization_id"] == south.id
    update(foreign_admin, made["id"], is_active=False)
    agent.refused("PT404", ENTER, [south.id], word="not_found")
    update(foreign_admin, made["id"], is_active=True)
    owner.rows("update public.organizations set deleted_at = now() where id = %s", [south.id])
    agent.refused("PT404", ENTER, [south.id], word="not_found")


def test_going_over_changes_nobody_else(
    agent: Acting, foreign_admin: Acting, owner: Acting, south: Organization
) -> None:
    others = "select id, raw_app_meta_data from auth.users where id <> %s::uuid order by id"
    create(foreign_admin, agent.actor.claims["email"], role="team_lead")
    before = owner.rows(others, [agent.actor.claims["sub"]])
    agent.rows(ENTER, [south.id])
    assert owner.rows(others, [agent.actor.claims["sub"]]) == before
