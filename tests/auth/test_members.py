"""Members: who lets whom into an organization, in which role, and that nobody promotes themselves."""

from typing import Any

import httpx
import pytest

from tests.desk import Desk
from tests.mailbox import Mailbox

from .conftest import (
    ALL_IN,
    ALL_OUT,
    NO_TLS,
    People,
    Person,
    Session,
    assert_answer,
    assert_error,
    fragment_of,
    new_email,
    new_password,
)

NOBODY = "00000000-0000-4000-8000-000000000000"
ROLES = ["customer", "agent", "senior_agent", "team_lead", "admin"]


class Office:
    """One organization, its admin, and what the admin does over PostgREST."""

    def __init__(self, desk: Desk, people: People) -> None:
        self.desk = desk
        self.people = people
        self.id = desk.organization()
        self.admin = people.person("admin", self.id)
        self.session = self.admin.log_in()

    def call(
        self, function: str, session: Session | None = None, *, directly: bool = False, **arguments: Any
    ) -> httpx.Response:
        """Call a function behind the gateway, or at PostgREST itself, as the admin or somebody else."""
        base = self.desk.postgrest_url if directly else self.desk.rest_url
        headers = {"apikey": self.desk.anon_key, **(session or self.session).headers}
        return httpx.post(
            f"{base}/rpc/{function}", headers=headers, json=arguments, timeout=30, verify=NO_TLS
        )

    def add(self, email: str, role: str = "agent", **arguments: Any) -> dict[str, Any]:
        """Add somebody."""
        answer = self.call("create_member", email=email, name="Robin", role=role, **arguments)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def member_id(self, person: Person) -> str:
        statement = "select id::text from public.members where user_id = %s and organization_id = %s"
        return str(self.desk.value(statement, [person.user_id, self.id]))

    def role_of(self, person: Person) -> str:
        statement = "select role::text from public.members where user_id = %s and organization_id = %s"
        return str(self.desk.value(statement, [person.user_id, self.id]))


@pytest.fixture
def office(desk: Desk, people: People) -> Office:
    """An organization with an admin who is logged in."""
    return Office(desk, people)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return the status of a refusal by PostgREST and its word."""
    body = answer.json()
    return answer.status_code, body["message"] if body["code"].startswith("PT") else body["code"]


@pytest.mark.parametrize("role", ROLES)
def test_member_whom_the_admin_gave_a_password_logs_in_at_once(
    people: People, office: Office, role: str
) -> None:
    email, password = new_email(), new_password()
    made = office.add(f" {email.upper()}", role, password=password, department="Billing")
    assert (made["email"], made["role"], made["department"], made["is_active"]) == (
        email,
        role,
        "Billing",
        True,
    )
    assert "password" not in str(made)
    session = Session.of(people.visitor().log_in(email, password))
    assert session.claims["app_metadata"]["organization_id"] == office.id
    assert session.claims["app_metadata"]["role"] == role
    assert people.ways_in(session) == ALL_IN
    stored = people.seen_by_owner("encrypted_password", session.claims["sub"])
    assert stored.startswith("$argon2id$")
    assert people.visitor().log_in(email, new_password()).status_code == 400
    Session.of(people.visitor().log_in(email, password))


def test_member_without_a_password_gets_an_invitation_and_chooses_one(
    people: People, office: Office, mailbox: Mailbox
) -> None:
    email, password = new_email(), new_password()
    office.add(email, "team_lead")
    visitor = people.visitor()
    for guess in ("", password):
        assert_error(visitor.log_in(email, guess), 400, "invalid_credentials")
    letter = mailbox.letter(email, "invite")
    followed = visitor.follow(letter.link)
    assert fragment_of(followed)["type"] == "invite"
    session = Session.at(followed)
    assert session.claims["app_metadata"]["role"] == "team_lead"
    assert_answer(visitor.put("/user", headers=session.headers, json={"password": password}))
    assert people.ways_in(Session.of(visitor.log_in(email, password))) == ALL_IN
    assert fragment_of(visitor.follow(letter.link))["error_code"] == "otp_expired"


def test_nobody_but_an_admin_adds_or_changes_members(desk: Desk, people: People, office: Office) -> None:
    victim = people.person("agent", office.id)
    member_id = office.member_id(victim)
    foreign = Office(desk, people)
    sessions = [people.person(role, office.id).log_in() for role in ROLES[:-1]]
    new = {"email": new_email(), "name": "New", "role": "admin", "password": new_password()}
    for directly in (False, True):
        for session in sessions:
            for function, arguments in (
                ("create_member", new),
                ("update_member", {"id": member_id, "role": "admin"}),
                ("deactivate_member", {"id": member_id}),
            ):
                answer = office.call(function, session, directly=directly, **arguments)
                assert refusal(answer) == (403, "forbidden"), answer.text
        for function in ("update_member", "deactivate_member"):
            answer = office.call(function, foreign.session, directly=directly, id=member_id)
            assert refusal(answer) == (404, "not_found")
        base = desk.postgrest_url if directly else desk.rest_url
        nobody = httpx.post(
            f"{base}/rpc/create_member", headers={"apikey": desk.anon_key}, json=new, verify=NO_TLS
        )
        assert nobody.status_code == 401
        assert nobody.json()["code"] == "42501"
    assert office.role_of(victim) == "agent"
    assert people.ways_in(victim.log_in()) == ALL_IN
    assert not desk.sql("select from auth.users where email = %s", [new["email"]])


def test_change_of_a_role_counts_on_the_next_request(desk: Desk, people: People, office: Office) -> None:
    person = people.person("customer", office.id)
    session = person.log_in()
    desk.sql(
        "insert into public.tickets (organization_id, subject) values (%s, 'Somebody else''s')", [office.id]
    )
    headers = {"apikey": desk.anon_key, **session.headers}

    def seen() -> list[int]:
        urls = [f"{base}/tickets?select=id" for base in (desk.rest_url, desk.postgrest_url)]
        return [len(httpx.get(url, headers=headers, verify=NO_TLS).json()) for url in urls]

    assert seen() == [0, 0]
    answer = office.call(
        "update_member", id=office.member_id(person), role="agent", name="Sam", department="Sales"
    )
    assert (answer.json()["role"], answer.json()["name"], answer.json()["department"]) == (
        "agent",
        "Sam",
        "Sales",
    )
    assert seen() == [1, 1]
    assert session.claims["app_metadata"]["role"] == "customer"
    assert Session.of(person.visitor.refresh(session.refresh_token)).claims["app_metadata"]["role"] == "agent"
    office.call("update_member", id=office.member_id(person), role="customer")
    assert seen() == [0, 0]


@pytest.mark.parametrize("directly", [False, True])
def test_deactivated_member_is_out_everywhere_until_let_in_again_with_a_new_log_in(
    people: People, office: Office, directly: bool
) -> None:
    person, colleague = people.person("agent", office.id), people.person("agent", office.id).log_in()
    session, member_id = person.log_in(), office.member_id(person)
    answer = office.call("deactivate_member", directly=directly, id=member_id)
    assert answer.json()["is_active"] is False
    assert people.ways_in(session) == ALL_OUT
    assert people.ways_in(colleague) == ALL_IN
    assert_error(person.visitor.log_in(person.email, person.password), 400, "user_banned")
    assert person.visitor.refresh(session.refresh_token).status_code == 400
    link = people.link("recovery", person.email)
    answer = person.visitor.verify(type="recovery", token_hash=link["hashed_token"])
    assert_error(answer, 400, "user_banned")
    answer = office.call("update_member", directly=directly, id=member_id, is_active=True)
    assert answer.json()["is_active"] is True
    assert people.ways_in(session) == ALL_OUT
    assert people.ways_in(person.log_in()) == ALL_IN


def test_last_admin_stays_one(people: People, office: Office) -> None:
    own = office.member_id(office.admin)
    assert refusal(office.call("update_member", id=own, role="agent")) == (409, "last_admin")
    assert refusal(office.call("deactivate_member", id=own)) == (409, "last_admin")
    assert people.ways_in(office.session) == ALL_IN
    second = people.person("admin", office.id)
    assert office.call("deactivate_member", id=office.member_id(second)).status_code == 200
    assert refusal(office.call("deactivate_member", id=own)) == (409, "last_admin")


@pytest.mark.parametrize(
    "arguments",
    [
        {"email": "x"},
        {"email": ""},
        {"email": "a b@example.com"},
        {"email": "x" * 250 + "@example.com"},
        {"name": ""},
        {"name": "x" * 201},
        {"role": "owner"},
        {"role": None},
        {"role": ""},
        {"password": "short"},
        {"password": "x" * 73},
        {"password": "password1"},
        {"department": "x" * 201},
    ],
    ids=str,
)
def test_member_who_would_not_do_is_refused(desk: Desk, office: Office, arguments: dict[str, Any]) -> None:
    email = new_email()
    answer = office.call("create_member", **{"email": email, "name": "New", "role": "agent", **arguments})
    assert answer.status_code in {400, 422}, answer.text
    assert answer.json().keys() == {"code", "message", "details", "hint"}
    assert not desk.sql("select from auth.users where email = %s", [email])
    for wrong in (NOBODY, office.id):
        assert refusal(office.call("update_member", id=wrong, name="x")) == (404, "not_found")
    office.add(email)
    answer = office.call("create_member", email=email, name="Twice", role="admin")
    assert refusal(answer) == (409, "conflict")


def test_nobody_promotes_themselves_by_any_way_in(desk: Desk, people: People, office: Office) -> None:
    person = people.person("customer", office.id)
    session, member_id = person.log_in(), office.member_id(person)
    headers = {"apikey": desk.anon_key, **session.headers, "Prefer": "return=representation"}
    for base in (desk.rest_url, desk.postgrest_url):
        for row in (
            {"role": "admin"},
            {"is_active": True},
            {"organization_id": desk.first_organization()},
            {"user_id": NOBODY},
        ):
            answer = httpx.patch(
                f"{base}/members?id=eq.{member_id}", headers=headers, json=row, verify=NO_TLS
            )
            assert refusal(answer) == (403, "42501"), row
        allowed = httpx.patch(
            f"{base}/members?id=eq.{member_id}", headers=headers, json={"name": "Sam"}, verify=NO_TLS
        )
        assert [each["name"] for each in allowed.json()] == ["Sam"]
        new = {"user_id": person.user_id, "email": "x@y", "username": "x", "name": "x", "role": "admin"}
        assert refusal(httpx.post(f"{base}/members", headers=headers, json=new, verify=NO_TLS)) == (
            403,
            "42501",
        )
        for function in (
            "custom_access_token_hook",
            "add_member",
            "admin_create_member",
            "sign_up",
            "admin_update",
        ):
            answer = httpx.post(f"{base}/rpc/{function}", headers=headers, json={}, verify=NO_TLS)
            assert answer.status_code == 404
        for schema in ("auth", "auth_service", "private"):
            profile = {**headers, "Accept-Profile": schema, "Content-Profile": schema}
            for path in ("users", "members", "rpc/refresh"):
                answer = httpx.post(f"{base}/{path}", headers=profile, json={}, verify=NO_TLS)
                assert answer.status_code == 406
    for fields in (
        {"data": {"role": "admin", "organization_id": desk.first_organization(), "member_id": NOBODY}},
        {"app_metadata": {"role": "admin"}, "role": "service_role"},
    ):
        assert_answer(person.visitor.put("/user", headers=session.headers, json=fields))
    assert office.role_of(person) == "customer"
    refreshed = Session.of(person.visitor.refresh(session.refresh_token))
    assert refreshed.claims["app_metadata"] == session.claims["app_metadata"]
    assert refreshed.claims["role"] == "authenticated"


# In more than one organization


def enter(office: Office, session: Session) -> httpx.Response:
    return office.call("enter_organization", session, organization_id=office.id)


def test_person_with_an_account_is_added_with_it_told_and_goes_over(
    desk: Desk, people: People, office: Office, mailbox: Mailbox
) -> None:
    person = people.person("customer")
    first = Session.of(
        person.visitor.verify(
            type="magiclink", token_hash=people.link("magiclink", person.email)["hashed_token"]
        )
    )
    home = first.claims["app_metadata"]["organization_id"]
    made = office.add(person.email, "team_lead", password=new_password())
    assert made["user_id"] == person.user_id
    letter = mailbox.letter(person.email)
    assert letter.kind == ""
    person.log_in()
    assert people.ways_in(first) == ALL_IN
    assert refusal(enter(office, people.person().log_in())) == (404, "not_found")

    entered = enter(office, first)
    assert (entered.status_code, entered.json()["role"]) == (200, "team_lead")
    second = Session.of(person.visitor.refresh(first.refresh_token))
    assert second.claims["app_metadata"]["organization_id"] == office.id
    assert second.claims["app_metadata"]["role"] == "team_lead"
    back = Office.call(office, "enter_organization", second, organization_id=home)
    assert back.status_code == 200
    third = Session.of(person.visitor.refresh(second.refresh_token))
    assert third.claims["app_metadata"]["organization_id"] == home


def test_person_whom_one_organization_shuts_out_goes_on_in_another(
    desk: Desk, people: People, office: Office
) -> None:
    person = people.person("agent")
    link = people.link("magiclink", person.email)
    session = Session.of(person.visitor.verify(type="magiclink", token_hash=link["hashed_token"]))
    home = session.claims["app_metadata"]["organization_id"]
    member_id = office.add(person.email)["id"]
    assert enter(office, session).status_code == 200
    there = Session.of(person.visitor.refresh(session.refresh_token))
    assert there.claims["app_metadata"]["organization_id"] == office.id
    assert office.call("deactivate_member", id=member_id).status_code == 200
    assert people.ways_in(there)[1:] == ALL_OUT[1:]
    again = person.log_in()
    assert again.claims["app_metadata"]["organization_id"] == home
    assert people.ways_in(again) == ALL_IN


@pytest.mark.parametrize(
    "how", ["an admin elsewhere made the account", "a stranger signed up with the address"]
)
def test_stranger_who_made_an_account_for_an_address_gets_nothing_when_its_owner_is_added(
    desk: Desk, people: People, office: Office, mailbox: Mailbox, how: str
) -> None:
    email, theirs = new_email("victim"), new_password()
    if how == "an admin elsewhere made the account":
        Office(desk, people).add(email, "customer", password=theirs)
    else:
        assert_answer(people.visitor().post("/signup", json={"email": email, "password": theirs}))
        mailbox.letter(email, "signup")
    office.add(email, "admin")
    answer = people.visitor().log_in(email, theirs)
    if answer.status_code == 200:
        session = Session.of(answer)
        assert session.claims["app_metadata"]["organization_id"] != office.id
        assert refusal(enter(office, session))[0] in {403, 404}
        refreshed = people.visitor().refresh(session.refresh_token)
        if refreshed.status_code == 200:
            assert Session.of(refreshed).claims["app_metadata"].get("organization_id") != office.id

    owner = people.visitor()
    link = people.link("recovery", email)
    session = Session.of(owner.verify(type="recovery", token_hash=link["hashed_token"]))
    mine = new_password()
    assert_answer(owner.put("/user", headers=session.headers, json={"password": mine}))
    assert_error(people.visitor().log_in(email, theirs), 400, "invalid_credentials")
    session = Session.of(owner.log_in(email, mine))
    assert enter(office, session).status_code == 200
    there = Session.of(owner.refresh(session.refresh_token))
    assert there.claims["app_metadata"]["organization_id"] == office.id
    assert there.claims["app_metadata"]["role"] == "admin"


def test_closed_organization_lets_nobody_in(desk: Desk, people: People, office: Office) -> None:
    desk.sql("update public.organizations set deleted_at = now() where id = %s", [office.id])
    assert people.ways_in(office.session)[1:] == ALL_OUT[1:]
    assert_error(office.admin.visitor.log_in(office.admin.email, office.admin.password), 400, "user_banned")
    answer = people.visitor().post(
        "/signup",
        json={"email": new_email(), "password": new_password(), "data": {"organization_id": office.id}},
    )
    assert_error(answer, 400, "validation_failed")
