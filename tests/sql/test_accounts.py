"""From accounts to members: what becomes of somebody who signs up, is confirmed, moves and leaves.

Accounts are written here as Supabase's auth service writes them, by its role and in its statements; ours
leads to the same rows.
"""

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.actors import AUTH_ADMIN, Acting, Actor, Organization, Stage, refusal_of
from tests.sql.gate import admit, of

NOBODY = "00000000-0000-4000-8000-000000000000"

INSERT = """
    insert into auth.users (instance_id, id, aud, role, email, encrypted_password, confirmation_token,
        recovery_token, email_change_token_new, email_change, raw_app_meta_data, raw_user_meta_data)
    values (%(nobody)s, gen_random_uuid(), 'authenticated', '', lower(%(email)s), '$2a$10$', '', '', '', '',
        '{"provider": "email", "providers": ["email"]}', %(data)s)
    returning id
"""
SET_ROLE = "update auth.users set role = 'authenticated' where id = %s::uuid"
SET_METADATA = "update auth.users set raw_app_meta_data = raw_app_meta_data || %s where id = %s::uuid"
SEND_LINK = "update auth.users set confirmation_token = 't', confirmation_sent_at = now() where id = %s::uuid"
SEND_INVITATION = """
    update auth.users set confirmation_token = 't', confirmation_sent_at = now(), invited_at = now()
    where id = %s::uuid
"""
CONFIRM = """
    update auth.users set confirmation_token = '', email_confirmed_at = clock_timestamp() where id = %s::uuid
"""
CHANGE_EMAIL = "update auth.users set email = %s, email_change = '' where id = %s::uuid"
DELETE = "delete from auth.users where id = %s::uuid"
SOFT_DELETE = """
    update auth.users
    set email = 'b6d767d2f8ed5d21a44b0e5886680cb9', encrypted_password = null, deleted_at = now()
    where id = %s::uuid
"""
MEMBERS = """
    select m.organization_id, m.role::text, m.name, m.email, m.username, m.is_active
    from public.members as m where m.user_id = %s::uuid order by m.created_at
"""
CONTACT = """
    select c.id, c.name, c.email from public.contacts as c
    join public.members as m on m.organization_id = c.organization_id and m.id = c.member_id
    where m.user_id = %s::uuid
"""
SESSION = "insert into auth.sessions (user_id) values (%s::uuid) returning id"


class Registry:
    """Supabase's auth service, as far as the database sees it."""

    def __init__(self, auth_admin: Acting) -> None:
        self._by = auth_admin

    def make(self, email: str, data: dict[str, Any] | None = None) -> str:
        user = str(self._by.value(INSERT, {"email": email, "data": Jsonb(data or {}), "nobody": NOBODY}))
        self._by.rows(SET_ROLE, [user])
        self._by.rows(SET_METADATA, [Jsonb({"providers": ["email"]}), user])
        return user

    def sign_up(self, email: str, data: dict[str, Any] | None = None) -> str:
        """Sign somebody up, who is mailed a link."""
        user = self.make(email, data)
        self._by.rows(SEND_LINK, [user])
        return user

    def sign_up_unproved(self, email: str, data: dict[str, Any] | None = None) -> str:
        """Sign somebody up where accounts confirm themselves."""
        user = self.make(email, data)
        self.confirm(user)
        return user

    def invite(self, email: str, data: dict[str, Any] | None = None) -> str:
        user = self.make(email, data)
        self._by.rows(SEND_INVITATION, [user])
        return user

    def create(self, email: str, app_metadata: dict[str, Any], data: dict[str, Any] | None = None) -> str:
        """Make an account as the admin API does, which tells app_metadata in a statement of its own."""
        user = self.make(email, data)
        self._by.rows(SET_METADATA, [Jsonb(app_metadata), user])
        self.confirm(user)
        return user

    def confirm(self, user: str) -> None:
        self._by.rows(CONFIRM, [user])

    def change_email(self, user: str, email: str) -> None:
        self._by.rows(CHANGE_EMAIL, [email, user])

    def delete(self, user: str, *, is_soft: bool = False) -> None:
        self._by.rows(SOFT_DELETE if is_soft else DELETE, [user])


@pytest.fixture
def auth_admin(stage: Stage) -> Acting:
    return Acting(AUTH_ADMIN, stage)


@pytest.fixture
def registry(auth_admin: Acting) -> Registry:
    return Registry(auth_admin)


@pytest.fixture
def enter(owner: Acting, stage: Stage) -> Callable[[str], Acting]:
    """Log somebody in."""

    def enter(user: str) -> Acting:
        session = owner.value(SESSION, [user])
        return Acting(
            Actor(user, "authenticated", {"sub": user, "session_id": session, "role": "authenticated"}), stage
        )

    return enter


@pytest.fixture
def members(owner: Acting) -> Callable[[str], list[dict[str, Any]]]:
    """Read the memberships of an account."""
    names = ("organization_id", "role", "name", "email", "username", "is_active")

    def read(user: str) -> list[dict[str, Any]]:
        return [dict(zip(names, row, strict=True)) for row in owner.rows(MEMBERS, [user])]

    return read


Members = Callable[[str], list[dict[str, Any]]]
Enter = Callable[[str], Acting]


def refused(state: str, action: Callable[[], object]) -> str:
    """Do something that has to be refused in this way, and return the word of it."""
    refusal = refusal_of(action)
    assert refusal
    assert refusal.state == state, refusal
    return refusal.word


# Founding and joining


def test_a_stranger_who_signs_up_founds_an_organization_and_is_its_admin(
    registry: Registry, members: Members, enter: Enter, owner: Acting
) -> None:
    user = registry.sign_up("Ann@Example.com", {"name": "Ann", "organization": " Ann's shop "})
    (member,) = members(user)
    assert (member["role"], member["name"], member["is_active"]) == ("admin", "Ann", True)
    assert (member["email"], member["username"]) == ("ann@example.com", "ann@example.com")
    name = "select name from public.organizations where id = %s"
    assert owner.value(name, [member["organization_id"]]) == "Ann's shop"
    assert enter(user).values("select id from public.organizations") == [member["organization_id"]]
    assert enter(user).values("select email from public.members") == ["ann@example.com"]


@pytest.mark.parametrize("data", [{}, {"organization": "  "}, {"organization": None}])
def test_an_organization_without_a_name_is_called_after_its_founder(
    data: dict[str, Any], registry: Registry, members: Members, owner: Acting
) -> None:
    (member,) = members(registry.sign_up("ann@example.com", {"name": "Ann", **data}))
    name = "select name from public.organizations where id = %s"
    assert owner.value(name, [member["organization_id"]]) == "Ann"


def test_a_stranger_who_names_an_organization_joins_it_as_a_customer(
    registry: Registry, members: Members, enter: Enter, owner: Acting, north: Organization
) -> None:
    user = registry.sign_up("ann@example.com", {"name": "Ann", "organization_id": f" {north.id.upper()} "})
    (member,) = members(user)
    assert (member["organization_id"], member["role"]) == (north.id, "customer")
    assert owner.rows(CONTACT, [user]) == [], "nobody has proved the address yet"
    registry.confirm(user)
    ((contact, *_),) = owner.rows(CONTACT, [user])
    ann = enter(user)
    ticket = ann.insert_id("tickets", subject="Where is it?")
    assert ann.rows("select id, contact_id from public.tickets") == [(ticket, contact)]


@pytest.mark.parametrize("organization", [NOBODY, "north", "7", {"id": 1}, [1], "closed"])
def test_nobody_joins_an_organization_that_is_not_there_and_no_account_is_left(
    organization: Any, registry: Registry, owner: Acting, south: Organization
) -> None:
    owner.rows("update public.organizations set deleted_at = now() where id = %s", [south.id])
    before = owner.rows(
        "select (select count(*) from auth.users), (select count(*) from public.organizations)"
    )
    data = {"organization_id": south.id if organization == "closed" else organization}
    assert refused("PT400", lambda: registry.sign_up("ann@example.com", data)) == "invalid_field"
    after = owner.rows(
        "select (select count(*) from auth.users), (select count(*) from public.organizations)"
    )
    assert before == after


@pytest.mark.parametrize(
    "claimed",
    [
        {"role": "admin"},
        {"role": "admin", "member_id": NOBODY, "is_active": True},
        {"app_metadata": {"role": "admin"}},
        {"raw_app_meta_data": {"role": "admin"}, "provider": "email"},
        {"is_super_admin": True, "user_role": "service_role"},
    ],
    ids=str,
)
def test_nothing_that_somebody_says_of_themselves_is_a_right(
    *,
    claimed: dict[str, Any],
    registry: Registry,
    members: Members,
    enter: Enter,
    north: Organization,
    south: Organization,
) -> None:
    app_metadata = {"app_metadata": {"organization_id": south.id, "role": "admin"}}
    user = registry.sign_up("ann@example.com", {**app_metadata, **claimed, "organization_id": north.id})
    registry.confirm(user)
    (member,) = members(user)
    assert (member["organization_id"], member["role"]) == (north.id, "customer")
    assert enter(user).rows("select from public.integration_tokens") == []
    enter(user).refused("PT403", "select public.create_integration_token('x')", word="forbidden")


def test_a_founder_s_role_is_not_theirs_to_choose_either(registry: Registry, members: Members) -> None:
    (member,) = members(registry.sign_up("ann@example.com", {"role": "customer"}))
    assert member["role"] == "admin"


def test_later_metadata_moves_and_promotes_nobody(
    *,
    registry: Registry,
    members: Members,
    auth_admin: Acting,
    owner: Acting,
    north: Organization,
    south: Organization,
) -> None:
    user = registry.sign_up("ann@example.com", {"organization_id": north.id})
    owner.rows(
        "update public.members set created_at = now() - interval '1 second' where user_id = %s", [user]
    )
    before = members(user)
    auth_admin.rows(SET_METADATA, [Jsonb({"organization_id": south.id, "role": "admin"}), user])
    auth_admin.rows(
        'update auth.users set raw_user_meta_data = \'{"role": "admin"}\' where id = %s::uuid', [user]
    )
    assert members(user) == before


# The server's own word


@pytest.mark.parametrize("role", ["customer", "agent", "senior_agent", "team_lead", "admin", None])
def test_the_server_names_organization_and_role(
    role: str | None, registry: Registry, members: Members, owner: Acting, north: Organization
) -> None:
    count = "select count(*) from public.organizations"
    before = owner.value(count)
    appointed = {"organization_id": north.id, **({"role": role} if role else {})}
    user = registry.create("bob@example.com", appointed, {"name": "Bob"})
    (member,) = members(user)
    assert (member["organization_id"], member["role"], member["name"]) == (
        north.id,
        role or "customer",
        "Bob",
    )
    assert owner.value(count) == before, "the organization that a sign-up would have founded is gone again"
    assert len(owner.rows(CONTACT, [user])) == (1 if member["role"] == "customer" else 0)


def test_the_server_s_word_counts_more_than_the_person_s(
    registry: Registry, members: Members, north: Organization, south: Organization
) -> None:
    user = registry.create(
        "bob@example.com", {"organization_id": north.id, "role": "agent"}, {"organization_id": south.id}
    )
    assert [(m["organization_id"], m["role"]) for m in members(user)] == [(north.id, "agent")]


def test_the_server_s_word_counts_where_it_is_said_at_once(
    auth_admin: Acting, members: Members, north: Organization
) -> None:
    user = auth_admin.value(
        "insert into auth.users (id, email, raw_app_meta_data, raw_user_meta_data)"
        " values (gen_random_uuid(), 'bob@example.com', %s, '{\"role\": \"admin\"}') returning id",
        [Jsonb({"organization_id": north.id, "role": "agent"})],
    )
    assert [(m["organization_id"], m["role"]) for m in members(user)] == [(north.id, "agent")]


@pytest.mark.parametrize(
    "appointed", [{"role": "king"}, {"organization_id": NOBODY}, {"organization_id": "x"}]
)
def test_the_server_may_be_wrong_too(
    appointed: dict[str, Any], registry: Registry, owner: Acting, north: Organization
) -> None:
    word = refused(
        "PT400", lambda: registry.create("bob@example.com", {"organization_id": north.id, **appointed})
    )
    assert word == "invalid_field"


def test_a_role_without_an_organization_is_nothing(registry: Registry, members: Members) -> None:
    (member,) = members(registry.create("bob@example.com", {"role": "customer"}))
    assert member["role"] == "admin", "of an organization of their own"


@pytest.mark.parametrize(
    "row",
    [
        "(id, email) values (gen_random_uuid(), 'bare@example.com')",
        "(id, phone, raw_app_meta_data, raw_user_meta_data) values (gen_random_uuid(), '491', '{}', '{}')",
        "(id, email, is_anonymous, raw_user_meta_data) values (gen_random_uuid(), '', true, '{}')",
    ],
)
def test_a_row_that_is_no_sign_up_by_mail_is_left_alone(
    row: str, auth_admin: Acting, members: Members
) -> None:
    assert members(auth_admin.value(f"insert into auth.users {row} returning id")) == []


# Names


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"name": " Ann "}, "Ann"),
        ({"name": "", "full_name": "Ann Lee"}, "Ann Lee"),
        ({"first_name": "Ann", "last_name": "Lee"}, "Ann Lee"),
        ({"last_name": "Lee"}, "Lee"),
        ({"name": None, "first_name": " "}, "ann"),
        ({"name": 7}, "7"),
        ({"name": {"first": "Ann"}}, '{"first": "Ann"}'),
        ({"name": "x" * 500}, "x" * 200),
        ({}, "ann"),
    ],
)
def test_a_member_is_called_what_they_said_or_else_by_their_address(
    data: dict[str, Any], name: str, registry: Registry, members: Members
) -> None:
    (member,) = members(registry.sign_up("ann@example.com", data))
    assert member["name"] == name


def test_long_addresses_make_usernames_of_their_own(
    registry: Registry, members: Members, north: Organization
) -> None:
    local = "a" * 64
    domains = [f"{'b' * 63}.{'c' * 63}.{letter}.example" for letter in "de"]
    users = [registry.sign_up(f"{local}@{domain}", {"organization_id": north.id}) for domain in domains]
    names = [members(user)[0]["username"] for user in users]
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {150}


# Contacts


@pytest.fixture
def writer(agent: Acting) -> str:
    """The contact of somebody who wrote before they had an account."""
    return agent.insert_id("contacts", name="Writer", email="writer@example.com")


WAYS = {
    "by link": (Registry.sign_up, True),
    "by invitation": (Registry.invite, True),
    "by nothing": (Registry.sign_up_unproved, False),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_has_proved_an_address_is_who_wrote_from_it(
    way: str, writer: str, registry: Registry, owner: Acting, north: Organization
) -> None:
    make, is_proved = WAYS[way]
    user = make(registry, "Writer@example.com", {"organization_id": north.id})
    if is_proved:
        assert owner.rows(CONTACT, [user]) == []
        registry.confirm(user)
    ((contact, name, email),) = owner.rows(CONTACT, [user])
    assert email == "writer@example.com"
    assert (contact == writer) == is_proved
    assert name == ("Writer" if is_proved else "writer")


def test_nobody_becomes_a_contact_that_somebody_logs_in_as(
    registry: Registry, owner: Acting, customer: Acting, north: Organization
) -> None:
    owner.rows("update public.contacts set email = 'shared@example.com' where id = %s", [customer.contact_id])
    user = registry.sign_up("shared@example.com", {"organization_id": north.id})
    registry.confirm(user)
    ((contact, *_),) = owner.rows(CONTACT, [user])
    assert contact != customer.contact_id


def test_nobody_becomes_a_contact_of_another_organization(
    writer: str, registry: Registry, owner: Acting, south: Organization
) -> None:
    user = registry.sign_up("writer@example.com", {"organization_id": south.id})
    registry.confirm(user)
    ((contact, *_),) = owner.rows(CONTACT, [user])
    assert contact != writer
    assert owner.value("select member_id from public.contacts where id = %s", [writer]) is None


def test_an_agent_has_no_contact_until_they_are_a_customer(
    registry: Registry, owner: Acting, north: Organization
) -> None:
    user = registry.create("bob@example.com", {"organization_id": north.id, "role": "agent"})
    assert owner.rows(CONTACT, [user]) == []
    owner.rows("update public.members set role = 'customer' where user_id = %s", [user])
    assert len(owner.rows(CONTACT, [user])) == 1


# Another address


def test_another_address_goes_along_into_every_organization(
    registry: Registry, members: Members, owner: Acting, north: Organization, south: Organization
) -> None:
    user = registry.sign_up("ann@example.com", {"organization_id": north.id})
    registry.confirm(user)
    owner.insert(
        "members", organization_id=south.id, user_id=user, username="ann", email="ann@example.com", name="Ann"
    )
    registry.change_email(user, "New@example.com")
    here, there = members(user)
    assert (here["email"], here["username"]) == ("new@example.com", "new@example.com")
    assert (there["email"], there["username"]) == ("new@example.com", "ann"), "that name was chosen"
    assert {email for _, _, email in owner.rows(CONTACT, [user])} == {"new@example.com"}


def test_a_contact_with_an_address_of_its_own_keeps_it(
    registry: Registry, owner: Acting, north: Organization
) -> None:
    user = registry.sign_up("ann@example.com", {"organization_id": north.id})
    registry.confirm(user)
    owner.rows("update public.contacts set email = 'private@example.com' where email = 'ann@example.com'")
    registry.change_email(user, "new@example.com")
    assert [email for _, _, email in owner.rows(CONTACT, [user])] == ["private@example.com"]


def test_no_address_is_taken_that_a_member_of_the_organization_has(
    registry: Registry, owner: Acting, north: Organization
) -> None:
    user = registry.sign_up("ann@example.com", {"organization_id": north.id})
    owner.insert("members", organization_id=north.id, username="x", email="taken@example.com", name="X")
    assert refusal_of(lambda: registry.change_email(user, "taken@example.com"))


# Leaving


@pytest.mark.parametrize("is_soft", [True, False])
def test_whoever_leaves_is_out_and_what_they_wrote_keeps_its_author(
    *, is_soft: bool, registry: Registry, enter: Enter, owner: Acting, login: Acting, north: Organization
) -> None:
    user = registry.sign_up("ann@example.com", {"name": "Ann", "organization_id": north.id})
    registry.confirm(user)
    ann = enter(user)
    ticket = ann.insert_id("tickets", subject="Mine")
    comment = ann.insert_id("comments", ticket_id=ticket, body="Hello?")
    author = "select author_member_id, author_contact_id from public.comments where id = %s"
    before = owner.row(author, [comment])
    registry.delete(user, is_soft=is_soft)
    ann.stage.come_anew()
    ann.refused("PT401", "select", word="session_ended")
    assert admit(login, of(ann.actor))[0].failure == "session_ended"
    assert owner.row(author, [comment]) == before
    left = "select user_id, is_active, presence::text from public.members where name = 'Ann'"
    assert owner.rows(left) == [(None, False, "offline")]


@pytest.mark.parametrize("is_soft", [True, False])
def test_the_address_of_whoever_left_is_free_and_so_is_their_contact_for_who_proves_it(
    is_soft: bool, registry: Registry, members: Members, owner: Acting, north: Organization
) -> None:
    data = {"organization_id": north.id}
    first = registry.sign_up("ann@example.com", data)
    registry.confirm(first)
    ((contact, *_),) = owner.rows(CONTACT, [first])
    registry.delete(first, is_soft=is_soft)
    unproved = registry.sign_up_unproved("ann@example.com", data)
    assert owner.rows(CONTACT, [unproved])[0][0] != contact
    registry.delete(unproved)
    owner.rows("delete from public.contacts where email = 'ann@example.com' and id <> %s", [contact])
    proved = registry.sign_up("ann@example.com", data)
    registry.confirm(proved)
    assert members(proved)[0]["username"] == "ann@example.com"
    assert owner.rows(CONTACT, [proved])[0][0] == contact


def test_names_from_outside_go_with_whoever_leaves(
    registry: Registry, owner: Acting, agent: Acting, north: Organization
) -> None:
    names = "select count(*) from public.member_identities where member_id = %s"
    assert owner.value(names, [agent.member_id]) == 1
    registry.delete(agent.actor.claims["sub"])
    assert owner.value(names, [agent.member_id]) == 0


# What tokens say


HOOK = "select private.custom_access_token_hook(%s)"


def hooked(auth_admin: Acting, actor: Actor, **app_metadata: Any) -> dict[str, Any]:
    """Ask as the auth service does before it signs a token."""
    claims = {**actor.claims, "app_metadata": {"provider": "email", **app_metadata}}
    event = {"user_id": claims["sub"], "claims": claims, "authentication_method": "password"}
    return dict(auth_admin.value(HOOK, [Jsonb(event)]))


def test_the_auth_service_is_told_what_a_token_says(
    auth_admin: Acting, agent: Acting, customer: Acting, north: Organization
) -> None:
    for acting, contact in ((agent, None), (customer, customer.contact_id)):
        answer = hooked(auth_admin, acting.actor, role="admin", scopes=["x"])
        assert answer.keys() == {"claims"}
        assert answer["claims"] == {
            **acting.actor.claims,
            "app_metadata": {
                "provider": "email",
                "organization_id": north.id,
                "role": acting.name,
                "member_id": acting.member_id,
                "contact_id": contact,
            },
        }


@pytest.mark.parametrize("name", ["deactivated", "logged_out"])
def test_the_auth_service_is_told_who_may_not_come_in(
    name: str, auth_admin: Acting, north: Organization
) -> None:
    answer = hooked(auth_admin, north.actors[name])
    assert answer == {"error": {"http_code": 403, "message": "User is banned"}}


def test_nobody_else_asks_what_a_token_would_say(
    visitor: Acting, admin: Acting, token: Acting, service: Acting, login: Acting
) -> None:
    for acting in (visitor, admin, token, service, login):
        acting.refused("42501", HOOK, ["{}"])


def test_an_organization_that_is_closed_or_left_is_not_the_end_of_the_others(
    *,
    auth_admin: Acting,
    registry: Registry,
    owner: Acting,
    enter: Enter,
    north: Organization,
    south: Organization,
) -> None:
    user = registry.sign_up("ann@example.com", {"organization_id": north.id})
    registry.confirm(user)
    owner.insert(
        "members", organization_id=south.id, user_id=user, username="ann", email="ann@example.com", name="Ann"
    )
    actor = enter(user).actor

    def organization() -> str:
        answer = hooked(auth_admin, actor, organization_id=south.id)
        return str(answer["claims"]["app_metadata"]["organization_id"])

    assert organization() == south.id
    owner.rows(
        "update public.members set is_active = false where user_id = %s and organization_id = %s",
        [user, south.id],
    )
    assert organization() == north.id
    owner.rows("delete from public.members where user_id = %s and organization_id = %s", [user, south.id])
    assert organization() == north.id
    owner.rows("update public.members set is_active = false where user_id = %s", [user])
    assert "error" in hooked(auth_admin, actor, organization_id=south.id), "a member of nothing else"
