"""Signing up: a visitor becomes somebody, once the address is proved."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.desk import Desk
from tests.mailbox import Mailbox

from .conftest import (
    ALL_IN,
    People,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    fragment_of,
    new_email,
    new_password,
    place_of,
)

NOWHERE = "00000000-0000-4000-8000-000000000000"
MEMBERSHIPS = """
    select o.name, m.role::text, m.name, o.id::text
    from public.members as m join public.organizations as o on o.id = m.organization_id where m.email = %s
"""

CONTACT = "insert into public.contacts (organization_id, name, email) values (%s, 'Ada', %s) returning id"
TICKET = "insert into public.tickets (organization_id, contact_id, subject) values (%s, %s, 'From before')"


def sign_up(visitor: Visitor, email: str, password: str | None = None, **data: Any) -> httpx.Response:
    return visitor.post(
        "/signup", json={"email": email, "password": password or new_password(), "data": data}
    )


def test_visitor_founds_an_organization_and_gets_in_by_the_link_in_the_mail(
    desk: Desk, people: People, visitor: Visitor, mailbox: Mailbox
) -> None:
    email, password = new_email(), new_password()
    body = assert_answer(sign_up(visitor, f" {email.upper()} ", password, name="Ada", organization="Ada Ltd"))
    assert "access_token" not in body
    assert (body["email"], body["identities"]) == (email, [])
    assert body["user_metadata"] == {"name": "Ada", "organization": "Ada Ltd"}
    assert_error(visitor.log_in(email, password), 400, "email_not_confirmed")

    letter = mailbox.letter(email, "signup")
    assert letter.query.keys() == {"token", "type"}
    followed = visitor.follow(letter.link)
    assert place_of(followed) == f"{desk.url}/auth/v1/done"
    assert fragment_of(followed)["type"] == "signup"
    session = Session.at(followed)
    ((name, role, member, organization_id),) = desk.sql(MEMBERSHIPS, [email])
    assert (name, role, member) == ("Ada Ltd", "admin", "Ada")
    assert session.claims["app_metadata"]["organization_id"] == organization_id
    assert session.claims["app_metadata"]["role"] == "admin"
    assert people.ways_in(session) == ALL_IN

    user = assert_answer(visitor.log_in(email, password))["user"]
    assert user["id"] == body["id"]
    assert user["email_confirmed_at"] == user["confirmed_at"]
    assert user["identities"][0]["identity_data"]["email_verified"] is True


def test_visitor_gets_in_by_the_code_in_the_mail_once(visitor: Visitor, mailbox: Mailbox) -> None:
    email = new_email()
    sign_up(visitor, email)
    code = mailbox.letter(email, "signup").code
    for kind, stranger in (("recovery", email), ("signup", new_email())):
        assert_error(visitor.verify(type=kind, email=stranger, token=code), 403, "otp_expired")
    session = Session.of(visitor.verify(type="signup", email=email.upper(), token=code))
    assert session.claims["amr"][0]["method"] == "otp"
    assert_error(visitor.verify(type="signup", email=email, token=code), 403, "otp_expired")


def test_visitor_joins_an_organization_as_a_customer_whatever_else_is_said(
    desk: Desk, people: People, visitor: Visitor
) -> None:
    email, organization = new_email(), desk.organization()
    claimed = {
        "organization_id": organization,
        "role": "admin",
        "app_metadata": {"role": "admin", "organization_id": desk.first_organization()},
        "is_super_admin": True,
    }
    body = {
        "email": email,
        "password": new_password(),
        "data": claimed,
        "role": "service_role",
        "app_metadata": {"role": "admin", "organization_id": desk.first_organization()},
        "email_confirm": True,
        "id": NOWHERE,
        "aud": "service_role",
    }
    made = assert_answer(visitor.post("/signup", json=body))
    assert made["id"] != NOWHERE
    assert made["app_metadata"] == {"provider": "email", "providers": ["email"]}
    ((_, role, _, organization_id),) = desk.sql(MEMBERSHIPS, [email])
    assert (role, organization_id) == ("customer", organization)
    session = Session.of(
        visitor.verify(type="magiclink", token_hash=people.link("magiclink", email)["hashed_token"])
    )
    assert session.claims["role"] == "authenticated"
    assert session.claims["app_metadata"]["role"] == "customer"
    assert session.claims["app_metadata"]["organization_id"] == organization
    assert people.seen_by_owner("is_super_admin", session.claims["sub"]) is None


@pytest.mark.parametrize("organization", [NOWHERE, "x", "{}", "a closed one"])
def test_organization_that_nobody_can_join_is_refused_alike_for_known_and_unknown_addresses(
    desk: Desk, people: People, visitor: Visitor, organization: str
) -> None:
    if organization == "a closed one":
        organization = desk.organization()
        desk.sql("update public.organizations set deleted_at = now() where id = %s", [organization])
    stranger = new_email()
    for email in (people.person().email, stranger):
        refused = sign_up(visitor, email, organization_id=organization)
        assert_error(refused, 400, "validation_failed")
        body = {"email": email, "data": {"organization_id": organization}}
        assert visitor.post("/otp", json=body).json() == refused.json()
    assert not desk.sql("select from auth.users where email = %s", [stranger])


def test_owner_of_a_known_address_is_told_and_nothing_else_happens(
    desk: Desk, people: People, visitor: Visitor, mailbox: Mailbox
) -> None:
    owner = people.person(user_metadata={"name": "Owner"})
    attempt = new_password()
    body = assert_answer(sign_up(visitor, owner.email, attempt, name="Somebody else"))
    assert (body["identities"], body["user_metadata"]) == ([], {"name": "Somebody else"})
    letter = mailbox.letter(owner.email, subject="already have an account")
    assert letter.kind == ""
    assert "Somebody else" not in letter.text
    assert owner.is_refused(attempt)
    session = owner.log_in()
    assert session.claims["user_metadata"] == {"name": "Owner"}
    assert len(desk.sql(MEMBERSHIPS, [owner.email])) == 1


def test_last_sign_up_before_the_confirmation_counts(
    desk: Desk, visitor: Visitor, people: People, mailbox: Mailbox
) -> None:
    email, first, last = new_email(), new_password(), new_password()
    sign_up(visitor, email, first, name="First")
    old = mailbox.letter(email, "signup")
    sign_up(visitor, email, last, name="Last")
    new = mailbox.letter(email, "signup", after=old)
    assert fragment_of(visitor.follow(old.link))["error_code"] == "otp_expired"
    assert Session.at(visitor.follow(new.link)).claims["user_metadata"] == {"name": "Last"}
    assert_error(visitor.log_in(email, first), 400, "invalid_credentials")
    Session.of(visitor.log_in(email, last))
    assert len(desk.sql(MEMBERSHIPS, [email])) == 1


@pytest.mark.parametrize("kind", ["magiclink", "recovery"])
def test_password_that_somebody_else_chose_is_void_when_the_owner_gets_in_another_way(
    people: People, visitor: Visitor, kind: str
) -> None:
    email, theirs = new_email(), new_password()
    sign_up(people.visitor(), email, theirs)
    session = Session.of(visitor.verify(type=kind, token_hash=people.link(kind, email)["hashed_token"]))
    assert session.claims["email"] == email
    assert_error(people.visitor().log_in(email, theirs), 400, "invalid_credentials")


def test_stranger_cannot_choose_the_password_of_somebody_who_is_invited(
    people: People, service: Visitor, visitor: Visitor, mailbox: Mailbox
) -> None:
    email, theirs = new_email(), new_password()
    assert_answer(service.post("/invite", json={"email": email, "data": {"name": "Invited"}}))
    invitation = mailbox.letter(email, "invite")
    sign_up(visitor, email, theirs, name="Stranger")
    again = mailbox.letter(email, "invite", after=invitation)
    assert_error(visitor.log_in(email, theirs), 400, "invalid_credentials")
    session = Session.at(visitor.follow(again.link))
    assert session.claims["user_metadata"] == {"name": "Invited"}
    assert_error(visitor.log_in(email, theirs), 400, "invalid_credentials")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("2short7", "length"),
        ("x" * 73, "length"),
        ("ü" * 37, "length"),
        ("password1", "pwned"),
        ("PASSWORD1", "pwned"),
    ],
)
def test_weak_password_is_refused_with_its_reason(
    desk: Desk, people: People, visitor: Visitor, password: str, reason: str
) -> None:
    email = new_email()
    known = people.person().email
    for address in (email, known):
        body = assert_error(sign_up(visitor, address, password), 422, "weak_password")
        assert body["weak_password"] == {"reasons": [reason]}
    assert not desk.sql("select from auth.users where email = %s", [email])


@pytest.mark.parametrize("password", ["8 signs!", "x" * 71 + "!", "ü" * 36, " " * 8, "🔥 and 水!"])
def test_password_within_the_bounds_is_taken(people: People, password: str) -> None:
    people.person(password=password).log_in()


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "a da@example.com",
        "ada@exa mple.com",
        "ada@example.com\n.org",
        "ada\t@example.com",
        "a@b@c",
        "x" * 250 + "@example.com",
        "ada@example.com\x7f",
        "ada@\u2028example.com",
    ],
)
def test_what_is_no_address_is_refused(visitor: Visitor, email: str) -> None:
    answer = sign_up(visitor, email)
    if email:
        assert_error(answer, 400, "validation_failed")
    else:
        assert_error(answer, 422, "anonymous_provider_disabled")


def test_visitor_without_an_address_or_with_a_phone_number_alone_is_refused(visitor: Visitor) -> None:
    password = new_password()
    assert_error(visitor.post("/signup", json={}), 422, "anonymous_provider_disabled")
    phone = {"phone": "+4912345", "password": password}
    assert_error(visitor.post("/signup", json=phone), 400, "phone_provider_disabled")
    assert_error(visitor.post("/signup", json={"email": new_email()}), 400, "validation_failed")


def test_address_beyond_ascii_is_one_account_however_it_is_spelled(people: People) -> None:
    person = people.person(email=new_email("zoë-šárka"))
    user = assert_answer(person.visitor.log_in(person.email.upper(), person.password))["user"]
    assert user["email"] == person.email
    assert user["id"] == person.user_id


def test_visitors_who_sign_up_at_the_same_time_make_one_account(desk: Desk, visitor: Visitor) -> None:
    email = new_email()
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: sign_up(visitor, email, organization="Once"), range(10)))
    for answer in answers:
        assert_answer(answer)
    assert len(desk.sql(MEMBERSHIPS, [email])) == 1
    assert desk.value("select count(*) from auth.users where email = %s", [email]) == 1


def test_metadata_is_bounded_by_what_an_access_token_can_carry(people: People, visitor: Visitor) -> None:
    for value in ("x" * 8200, "ж" * 1500, "🔥" * 800, 10**400):
        assert_error(sign_up(visitor, new_email(), a=value), 400, "validation_failed")
    raw = '{"email": "%s", "password": "long enough 1", "data": {"n": 1e5000}}'
    for email in (new_email(), people.person().email):
        answer = visitor.post("/signup", content=raw % email, headers={"Content-Type": "application/json"})
        assert_error(answer, 400, "validation_failed")
    for fits in ("x" * 8000, "ж" * 1300, "🔥" * 650, 1e300):
        assert people.ways_in(people.person(user_metadata={"a": fits}).log_in()) == ALL_IN


def test_link_from_before_does_not_confirm_the_password_of_a_later_sign_up(
    people: People, visitor: Visitor
) -> None:
    email, mine, theirs = new_email(), new_password(), new_password()
    sign_up(visitor, email, mine)
    before = people.link("signup", email, password=mine)
    sign_up(people.visitor(), email, theirs)
    answer = visitor.verify(type="signup", token_hash=before["hashed_token"])
    assert_error(answer, 403, "otp_expired")
    assert_error(people.visitor().log_in(email, theirs), 400, "email_not_confirmed")


def test_customer_finds_what_they_wrote_before_once_the_address_is_proved_and_not_sooner(
    desk: Desk, people: People, visitor: Visitor
) -> None:
    email, organization = new_email(), desk.organization()
    contact = desk.value(CONTACT, [organization, email])
    desk.sql(TICKET, [organization, contact])
    sign_up(visitor, email, organization_id=organization)
    unproved = "select member_id is null from public.contacts where id = %s"
    assert desk.value(unproved, [contact])
    link = people.link("magiclink", email)
    session = Session.of(visitor.verify(type="magiclink", token_hash=link["hashed_token"]))
    headers = {"apikey": desk.anon_key, **session.headers}
    found = people.visitor().get(f"{desk.rest_url}/tickets?select=subject", headers=headers)
    assert found.json() == [{"subject": "From before"}]


@pytest.mark.parametrize("path", ["/signup", "/otp"])
def test_stranger_draws_nobody_into_an_organization_by_signing_them_up_first(
    desk: Desk, visitor: Visitor, mailbox: Mailbox, path: str
) -> None:
    email, theirs = new_email(), desk.organization()
    body = {"email": email, "password": new_password(), "data": {"organization_id": theirs}}
    assert_answer(visitor.post(path, json=body))
    assert desk.sql(MEMBERSHIPS, [email])[0][3] == theirs
    unasked = mailbox.letter(email)
    sign_up(visitor, email, name="Ada", organization="Ada Ltd")
    ((name, role, _, own),) = desk.sql(MEMBERSHIPS, [email])
    assert (name, role) == ("Ada Ltd", "admin")
    session = Session.at(visitor.follow(mailbox.letter(email, "signup", after=unasked).link))
    assert session.claims["app_metadata"]["organization_id"] == own


def test_organization_of_a_sign_up_that_is_begun_anew_is_not_left_behind(
    desk: Desk, visitor: Visitor
) -> None:
    email, names = new_email(), (f"First of {new_email()}", f"Second of {new_email()}")
    for name in names:
        sign_up(visitor, email, organization=name)
    assert [row[0] for row in desk.sql(MEMBERSHIPS, [email])] == [names[1]]
    assert desk.sql("select from public.organizations where name = %s", [names[0]]) == []
