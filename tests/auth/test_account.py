"""One's own account: the password, the address, what one says about oneself, and what is not one's to say."""

from typing import Any

import httpx

from tests.desk import Desk
from tests.mailbox import Mailbox

from .conftest import (
    ALL_IN,
    ALL_OUT,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    assert_user,
    fragment_of,
    new_email,
    new_password,
)

STORED = """
    select to_jsonb(u) - array['updated_at', 'raw_user_meta_data', 'last_sign_in_at']
    from auth.users as u where id = %s
"""
MEMBER = "select to_jsonb(m) - 'updated_at' from public.members as m where user_id = %s"
EXPIRE = "update auth.one_time_tokens set expires_at = now() where user_id = %s"


def change(person: Person, session: Session, **fields: Any) -> httpx.Response:
    return person.visitor.put("/user", headers=session.headers, json=fields)


def test_person_reads_their_account_and_a_visitor_reads_none(person: Person, visitor: Visitor) -> None:
    session = person.log_in()
    body = assert_answer(person.visitor.get("/user", headers=session.headers))
    assert body["id"] == person.user_id
    assert_user(body, person.email)
    assert body["app_metadata"]["role"] == "agent"
    assert body["factors"] == []
    (identity,) = body["identities"]
    assert identity.keys() >= {"id", "identity_id", "user_id", "identity_data", "provider", "created_at"}
    assert (identity["provider"], identity["email"]) == ("email", person.email)
    head = person.visitor.head("/user", headers=session.headers)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 100
    assert_error(visitor.get("/user"), 401, "no_authorization")
    assert_error(visitor.put("/user", json={"data": {}}), 401, "no_authorization")


def test_new_password_ends_the_other_sessions_everywhere_at_once(
    people: People, person: Person, mailbox: Mailbox
) -> None:
    here, there = person.log_in(), person.log_in()
    stranger = people.person().log_in()
    old, person.password = person.password, new_password()
    assert_user(assert_answer(change(person, here, password=person.password)), person.email)
    assert people.ways_in(here) == ALL_IN
    assert people.ways_in(there) == ALL_OUT
    assert people.ways_in(stranger) == ALL_IN
    assert_error(person.visitor.refresh(there.refresh_token), 400, "refresh_token_not_found")
    Session.of(person.visitor.refresh(here.refresh_token))
    assert person.is_refused(old)
    person.log_in()
    letter = mailbox.letter(person.email, subject="password")
    assert person.password not in str(letter.message)


def test_password_stays_when_it_is_refused(people: People, person: Person) -> None:
    here, there = person.log_in(), person.log_in()
    assert_error(change(person, here, password=person.password), 422, "same_password")
    weak = assert_error(change(person, here, password="short"), 422, "weak_password")
    assert weak["weak_password"] == {"reasons": ["length"]}
    assert_error(change(person, here, password="iloveyou1", data={"a": 1}), 422, "weak_password")
    wrong = change(person, here, password=new_password(), current_password="wrong", email=new_email())
    assert_error(wrong, 400, "invalid_credentials")
    assert_error(
        change(person, here, password=new_password(), nonce="000000"), 422, "reauthentication_not_valid"
    )
    assert people.ways_in(there) == ALL_IN
    user = assert_answer(person.visitor.get("/user", headers=here.headers))
    assert user["user_metadata"] == {"name": "Robin"}
    assert "new_email" not in user
    person.log_in()
    new = new_password()
    assert_answer(change(person, here, password=new, current_password=person.password))
    assert person.is_refused(person.password)


def test_person_proves_a_change_of_password_with_the_code_of_a_mail_once(
    people: People, person: Person, mailbox: Mailbox
) -> None:
    session = person.log_in()
    answer = person.visitor.get("/reauthenticate", headers=session.headers)
    assert assert_answer(answer) == {}
    letter = mailbox.letter(person.email)
    assert letter.kind == ""
    stranger = people.person()
    stolen = change(stranger, stranger.log_in(), password=new_password(), nonce=letter.code)
    assert_error(stolen, 422, "reauthentication_not_valid")
    assert_answer(change(person, session, password=new_password(), nonce=letter.code))
    again = change(person, session, password=new_password(), nonce=letter.code)
    assert_error(again, 422, "reauthentication_not_valid")
    assert_error(person.visitor.get("/reauthenticate"), 401, "no_authorization")


def test_what_somebody_says_about_themselves_is_merged(person: Person) -> None:
    session = person.log_in()
    change(person, session, data={"a": 1, "b": {"x": 1}, "c": [1, None]})
    user = assert_answer(change(person, session, data={"a": None, "b": {"y": None}, "ü🔥": "ß"}))
    wanted = {"name": "Robin", "b": {"y": None}, "c": [1, None], "ü🔥": "ß"}
    assert user["user_metadata"] == wanted
    assert assert_answer(change(person, session))["user_metadata"] == wanted
    assert assert_answer(change(person, session, data=None))["user_metadata"] == wanted
    assert Session.of(person.visitor.refresh(session.refresh_token)).claims["user_metadata"] == wanted


def test_metadata_cannot_grow_until_its_owner_is_locked_out(people: People, person: Person) -> None:
    session = person.log_in()
    for key in "abcdef":
        answer = change(person, session, data={key: "x" * 4000})
        if answer.status_code == 400:
            assert_error(answer, 400, "validation_failed")
    assert answer.status_code == 400
    assert people.ways_in(person.log_in()) == ALL_IN
    assert_answer(change(person, session, data=dict.fromkeys("abcdef")))


NOT_THEIRS: dict[str, Any] = {
    "id": "00000000-0000-4000-8000-000000000000",
    "aud": "service_role",
    "role": "service_role",
    "aal": "aal2",
    "app_metadata": {"role": "admin", "organization_id": "00000000-0000-4000-8000-000000000000"},
    "raw_app_meta_data": {"role": "admin"},
    "email_confirm": True,
    "email_confirmed_at": "2020-01-01T00:00:00Z",
    "confirmed_at": None,
    "phone_confirm": True,
    "banned_until": "2099-01-01T00:00:00Z",
    "ban_duration": "1h",
    "is_super_admin": True,
    "is_anonymous": True,
    "encrypted_password": "x",
    "password_hash": "$2a$10$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "created_at": "2020-01-01T00:00:00Z",
    "deleted_at": "2020-01-01T00:00:00Z",
    "identities": [],
    "factors": [],
    "user_id": "00000000-0000-4000-8000-000000000000",
}


def test_what_is_not_theirs_to_say_changes_nothing(desk: Desk, people: People, person: Person) -> None:
    session = person.log_in()
    before = desk.sql(STORED, [person.user_id]), desk.sql(MEMBER, [person.user_id])
    for name, value in NOT_THEIRS.items():
        assert_answer(change(person, session, **{name: value}))
        assert_answer(change(person, session, data={name: value}))
    assert (desk.sql(STORED, [person.user_id]), desk.sql(MEMBER, [person.user_id])) == before
    claims = Session.of(person.visitor.refresh(session.refresh_token)).claims
    for name in ("sub", "aud", "role", "aal", "app_metadata", "is_anonymous"):
        assert claims[name] == session.claims[name]
    assert people.ways_in(session) == ALL_IN


def test_address_changes_when_both_mailboxes_agree(
    desk: Desk, people: People, person: Person, mailbox: Mailbox
) -> None:
    session, new = person.log_in(), new_email("new")
    user = assert_answer(change(person, session, email=f" {new.upper()}"))
    assert (user["email"], user["new_email"]) == (person.email, new)
    letters = {address: mailbox.letter(address, "email_change") for address in (new, person.email)}
    answer = person.visitor.follow(letters[new].link)
    assert fragment_of(answer)["message"].startswith("Confirmation link accepted.")
    assert assert_answer(person.visitor.get("/user", headers=session.headers))["email"] == person.email
    assert fragment_of(person.visitor.follow(letters[new].link))["error_code"] == "otp_expired"
    person.log_in()

    done = Session.at(person.visitor.follow(letters[person.email].link))
    assert done.claims["email"] == new
    user = assert_answer(person.visitor.get("/user", headers=session.headers))
    assert user["email"] == user["identities"][0]["email"] == new
    assert "new_email" not in user
    assert desk.sql("select email, username from public.members where user_id = %s", [person.user_id]) == [
        (new, new)
    ]
    assert_error(person.visitor.log_in(person.email, person.password), 400, "invalid_credentials")
    person.email = new
    assert people.ways_in(person.log_in()) == ALL_IN


def test_address_changes_with_both_codes_as_well_and_not_with_one_of_them_twice(
    person: Person, mailbox: Mailbox
) -> None:
    session, new = person.log_in(), new_email("new")
    change(person, session, email=new)
    codes = {address: mailbox.letter(address, "email_change").code for address in (new, person.email)}
    half = person.visitor.verify(type="email_change", email=person.email, token=codes[person.email])
    body = assert_answer(half)
    assert body["code"] == "200"
    assert body.keys() == {"code", "msg"}
    again = person.visitor.verify(type="email_change", email=person.email, token=codes[person.email])
    assert_error(again, 403, "otp_expired")
    for kind in ("email", "recovery", "magiclink", "signup"):
        answer = person.visitor.verify(type=kind, email=new, token=codes[new])
        assert_error(answer, 403, "otp_expired")
    whole = Session.of(person.visitor.verify(type="email_change", email=new, token=codes[new]))
    assert whole.claims["email"] == new


def test_both_mailboxes_are_asked_again_for_who_lost_the_mail(
    people: People, person: Person, mailbox: Mailbox
) -> None:
    session, new = person.log_in(), new_email("new")
    change(person, session, email=new)
    old = {address: mailbox.letter(address, "email_change") for address in (new, person.email)}
    body = {"type": "email_change", "email": person.email}
    assert assert_answer(people.visitor().post("/resend", json=body)) == {}
    again = {a: mailbox.letter(a, "email_change", after=old[a]) for a in (new, person.email)}
    for letter in old.values():
        assert fragment_of(person.visitor.follow(letter.link))["error_code"] == "otp_expired"
    person.visitor.follow(again[person.email].link)
    assert Session.at(person.visitor.follow(again[new].link)).claims["email"] == new


def test_address_stays_when_the_links_have_expired_or_another_address_was_asked_for_since(
    desk: Desk, people: People, person: Person
) -> None:
    session, first, second = person.log_in(), new_email("first"), new_email("second")
    link = people.link("email_change_new", person.email, new_email=first)
    people.link("email_change_current", person.email, new_email=first)
    desk.sql(EXPIRE, [person.user_id])
    expired = person.visitor.verify(type="email_change", token_hash=link["hashed_token"])
    assert_error(expired, 403, "otp_expired")

    halves = [
        people.link(f"email_change_{half}", person.email, new_email=first) for half in ("new", "current")
    ]
    assert_answer(person.visitor.verify(type="email_change", token_hash=halves[1]["hashed_token"]))
    assert_answer(change(person, session, email=second))
    other = person.visitor.verify(type="email_change", token_hash=halves[0]["hashed_token"])
    assert_error(other, 403, "otp_expired")
    last = people.link("email_change_new", person.email, new_email=second)
    half = person.visitor.verify(type="email_change", token_hash=last["hashed_token"])
    assert assert_answer(half)["code"] == "200", "the present address had agreed to another one"
    assert assert_answer(person.visitor.get("/user", headers=session.headers))["email"] == person.email


def test_address_of_somebody_else_cannot_be_taken_and_the_answer_does_not_tell(
    people: People, person: Person, mailbox: Mailbox
) -> None:
    session, owner, free = person.log_in(), people.person(), new_email()
    taken = assert_answer(change(person, session, email=owner.email))
    unused = assert_answer(change(person, session, email=free))
    assert taken.keys() == unused.keys()
    assert (taken["new_email"], unused["new_email"]) == (owner.email, free)
    letter = mailbox.letter(owner.email)
    assert (letter.kind, "already have an account" in letter.subject) == ("", True)
    halves = [
        people.link(f"email_change_{half}", person.email, new_email=owner.email)
        for half in ("new", "current")
    ]
    assert_answer(person.visitor.verify(type="email_change", token_hash=halves[0]["hashed_token"]))
    refused = person.visitor.verify(type="email_change", token_hash=halves[1]["hashed_token"])
    assert_error(refused, 422, "email_exists")
    assert assert_answer(person.visitor.get("/user", headers=session.headers))["email"] == person.email
    assert owner.log_in().claims["sub"] == owner.user_id


def test_own_address_again_and_no_address_change_nothing(person: Person) -> None:
    session = person.log_in()
    for email in (person.email, person.email.upper(), "", None):
        assert "new_email" not in assert_answer(change(person, session, email=email))
    for email in ("x", "a@b c", "@", "x" * 300 + "@example.com"):
        assert_error(change(person, session, email=email), 400, "validation_failed")
    assert_error(change(person, session, phone="+491"), 400, "phone_provider_disabled")


def test_session_that_has_ended_changes_nothing(person: Person) -> None:
    ended = person.log_in()
    person.visitor.post("/logout?scope=local", headers=ended.headers)
    for fields in ({"password": new_password()}, {"data": {"a": 1}}, {"email": new_email()}, {}):
        assert_error(change(person, ended, **fields), 403, "session_not_found")
    assert person.log_in().claims["user_metadata"] == {"name": "Robin"}
