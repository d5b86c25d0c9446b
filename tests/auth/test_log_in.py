"""Logging in with a password: what a session is, and who gets none."""

import argon2
import bcrypt
import jwt
import pytest

from tests.desk import Desk

from .conftest import (
    ALL_IN,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    bearer,
    new_email,
    new_password,
)


def test_member_gets_a_session_that_says_who_they_are(desk: Desk, people: People, visitor: Visitor) -> None:
    organization = desk.organization()
    lead = people.person("team_lead", organization)
    lead.visitor.headers["User-Agent"] = "a browser"
    answer = lead.visitor.log_in(lead.email, lead.password)
    session = Session.of(answer)
    assert answer.json()["user"]["last_sign_in_at"]
    assert jwt.get_unverified_header(session.access_token) == {"alg": "HS256", "typ": "JWT"}
    jwt.decode(session.access_token, desk.jwt_secret, ["HS256"], audience="authenticated")
    claims = session.claims
    assert claims["iss"] == f"{desk.url}/auth/v1"
    assert claims["app_metadata"]["organization_id"] == organization
    assert claims["app_metadata"]["role"] == "team_lead"
    assert claims["user_metadata"] == {"name": "Robin"}
    assert (claims["aal"], claims["phone"], claims["is_anonymous"]) == ("aal1", "", False)
    assert [each["method"] for each in claims["amr"]] == ["password"]
    assert people.ways_in(session) == ALL_IN
    row = desk.sql("select user_agent, host(ip) from auth.sessions where id = %s", [session.id])
    assert row == [("a browser", lead.visitor.address)]


def test_member_sees_their_own_organization_with_it_and_a_stranger_does_not(
    desk: Desk, people: People
) -> None:
    organization = desk.organization()
    desk.sql("insert into public.tickets (organization_id, subject) values (%s, 'Ours')", [organization])
    for home, subjects in ((organization, ["Ours"]), (None, [])):
        session = people.person("agent", home).log_in()
        headers = {"apikey": desk.publishable_key, **session.headers}
        rows = people.visitor().get(f"{desk.rest_url}/tickets?select=subject", headers=headers)
        assert [row["subject"] for row in rows.json()] == subjects


def test_every_spelling_of_the_address_and_every_extra_field_is_taken(person: Person) -> None:
    body = {
        "email": f"  {person.email.title()} ",
        "password": person.password,
        "data": {},
        "gotrue_meta_security": {"captcha_token": None},
        "phone": None,
        "options": [1],
    }
    assert_answer(person.visitor.post("/token?grant_type=password&redirect_to=x", json=body))


@pytest.mark.parametrize(
    "authorization",
    ["Bearer expired.or.forged", "Bearer", "Basic eDp5", "Bearer sb_publishable_x", "x" * 300],
)
def test_stale_authorization_header_keeps_nobody_from_logging_in(person: Person, authorization: str) -> None:
    body = {"email": person.email, "password": person.password}
    headers = {"Authorization": authorization}
    answer = person.visitor.post("/token?grant_type=password", json=body, headers=headers)
    refreshed = person.visitor.post(
        "/token?grant_type=refresh_token",
        json={"refresh_token": Session.of(answer).refresh_token},
        headers=headers,
    )
    Session.of(refreshed)


def test_wrong_password_is_refused_like_an_account_that_is_not_there_or_has_none(
    people: People, person: Person, service: Visitor
) -> None:
    gone = people.person()
    assert service.request("DELETE", f"/admin/users/{gone.user_id}", json={}).status_code == 200
    passwordless, invited = new_email(), new_email()
    assert_answer(service.post("/admin/users", json={"email": passwordless, "email_confirm": True}))
    assert_answer(service.post("/invite", json={"email": invited}))
    texts = {
        person.visitor.log_in(email, password).text
        for email, password in (
            (person.email, f"{person.password} "),
            (person.email, person.password.upper()),
            (person.email, ""),
            (new_email(), person.password),
            (gone.email, gone.password),
            (passwordless, ""),
            (invited, ""),
            ("no address", person.password),
        )
    }
    (text,) = texts
    assert '"invalid_credentials"' in text
    answer = people.visitor().log_in(person.email, new_password())
    assert assert_error(answer, 400, "invalid_credentials")["message"] == "Invalid login credentials"
    assert person.log_in().claims["sub"] == person.user_id


def test_who_has_not_confirmed_is_told_so_only_with_the_right_password(people: People) -> None:
    person = people.person(email_confirm=False)
    answer = person.visitor.log_in(person.email, person.password)
    assert_error(answer, 400, "email_not_confirmed")
    answer = person.visitor.log_in(person.email, new_password())
    assert_error(answer, 400, "invalid_credentials")


def test_banned_person_is_refused_while_the_ban_lasts_and_told_so_only_with_the_right_password(
    desk: Desk, people: People, person: Person
) -> None:
    desk.sql("update auth.users set banned_until = now() + interval '1 hour' where id = %s", [person.user_id])
    assert_error(person.visitor.log_in(person.email, person.password), 400, "user_banned")
    assert_error(person.visitor.log_in(person.email, new_password()), 400, "invalid_credentials")
    desk.sql("update auth.users set banned_until = now() where id = %s", [person.user_id])
    assert people.ways_in(person.log_in()) == ALL_IN


@pytest.mark.parametrize("why", ["the member is deactivated", "the organization is closed"])
def test_nobody_logs_in_to_where_they_may_not_come_in(desk: Desk, people: People, why: str) -> None:
    organization = desk.organization()
    person = people.person("agent", organization)
    person.log_in()
    if why == "the member is deactivated":
        desk.sql("update public.members set is_active = false where user_id = %s", [person.user_id])
    else:
        desk.sql("update public.organizations set deleted_at = now() where id = %s", [organization])
    assert_error(person.visitor.log_in(person.email, person.password), 400, "user_banned")
    left = desk.value(
        "select count(*) from auth.sessions where user_id = %s and created_at = now()", [person.user_id]
    )
    assert left == 0


def test_hash_that_was_brought_along_is_understood_and_made_as_strong_as_ours(people: People) -> None:
    password = new_password()
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password)
    for known in (bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode(), weak):
        person = people.person(password=password, password_hash=known)
        assert person.is_refused(new_password())
        assert people.seen_by_owner("encrypted_password", person.user_id) == known
        person.log_in()
        stronger = people.seen_by_owner("encrypted_password", person.user_id)
        assert stronger.startswith("$argon2id$")
        person.log_in()
        assert people.seen_by_owner("encrypted_password", person.user_id) == stronger
    assert_error(
        people.service().post("/admin/users", json={"email": new_email(), "password_hash": "plain text"}),
        400,
        "validation_failed",
    )


@pytest.mark.parametrize("grant", ["", "PASSWORD", "client_credentials", "id_token", "password,pkce", "web3"])
def test_no_other_grant_is_known(person: Person, grant: str) -> None:
    body = {"email": person.email, "password": person.password}
    answer = person.visitor.post("/token", params={"grant_type": grant} if grant else {}, json=body)
    assert_error(answer, 400, "unsupported_grant_type")


def test_phone_number_logs_nobody_in(person: Person) -> None:
    body = {"phone": "+4912345", "password": person.password}
    answer = person.visitor.post("/token?grant_type=password", json=body)
    assert_error(answer, 400, "phone_provider_disabled")
    assert_error(person.visitor.post("/token?grant_type=password", json={}), 400, "validation_failed")


def test_each_log_in_is_a_session_of_its_own(people: People, person: Person) -> None:
    first, second = person.log_in(), person.log_in()
    assert first.id != second.id
    assert first.refresh_token != second.refresh_token
    assert people.ways_in(first) == people.ways_in(second) == ALL_IN


def test_token_that_nobody_here_signed_is_refused(desk: Desk, visitor: Visitor, person: Person) -> None:
    session = person.log_in()
    claims = session.claims
    header, payload, signature = session.access_token.split(".")
    unsigned = jwt.encode(claims, "", algorithm="none")
    forged = jwt.encode(claims, "another secret of at least thirty-two bytes", algorithm="HS256")
    over = jwt.encode({**claims, "exp": 1_000_000_000}, desk.jwt_secret, algorithm="HS256")
    foreign = jwt.encode({**claims, "aud": "elsewhere"}, desk.jwt_secret, algorithm="HS256")
    nobody = jwt.encode({**claims, "sub": session.id}, desk.jwt_secret, algorithm="HS256")
    another = jwt.encode({**claims, "session_id": person.user_id}, desk.jwt_secret, algorithm="HS256")
    for token in (
        unsigned,
        forged,
        over,
        foreign,
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[:-4]}AAAA",
    ):
        assert_error(visitor.get("/user", headers=bearer(token)), 403, "bad_jwt")
    assert_error(visitor.get("/user", headers=bearer(nobody)), 403, "user_not_found")
    assert_error(visitor.get("/user", headers=bearer(another)), 403, "session_not_found")
    assert_error(visitor.get("/user"), 401, "no_authorization")
    for token in (desk.anon_key, desk.service_key, desk.publishable_key, desk.secret_key, desk.token()):
        assert_error(visitor.get("/user", headers=bearer(token)), 403, "bad_jwt")
    assert assert_answer(visitor.get("/user", headers=session.headers))["id"] == person.user_id
