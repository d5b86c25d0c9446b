"""Logging in without a password: by a link or by six digits that are mailed."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.desk import Desk, wait_until
from tests.mailbox import Mailbox

from .conftest import (
    ALL_IN,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    fragment_of,
    new_email,
)

IS_SEEN_TO = """
    select count(*) > 0 and bool_and(sent_at is not null) from private.mails where email = %s and kind = %s
"""


def other(code: str) -> str:
    """Return another code."""
    return f"{(int(code) + 1) % 1_000_000:06}"


@pytest.mark.parametrize("path", ["/otp", "/magiclink"])
def test_member_gets_in_by_the_link(
    people: People, person: Person, visitor: Visitor, mailbox: Mailbox, path: str
) -> None:
    assert assert_answer(visitor.post(path, json={"email": person.email, "create_user": False})) == {}
    followed = visitor.follow(mailbox.letter(person.email, "magiclink").link)
    assert fragment_of(followed)["type"] == "magiclink"
    session = Session.at(followed)
    assert session.claims["sub"] == person.user_id
    assert session.claims["amr"][0]["method"] == "otp"
    assert people.ways_in(session) == ALL_IN
    person.log_in()


@pytest.mark.parametrize("kind", ["email", "magiclink"])
def test_member_gets_in_by_the_six_digits_once(
    people: People, person: Person, visitor: Visitor, mailbox: Mailbox, kind: str
) -> None:
    visitor.post("/otp", json={"email": person.email})
    code = mailbox.letter(person.email, "magiclink").code
    stranger = people.person()
    for email, token in (
        (stranger.email, code),
        (new_email(), code),
        (person.email, other(code)),
        (person.email, code[:-1]),
    ):
        assert_error(visitor.verify(type=kind, email=email, token=token), 403, "otp_expired")
    session = Session.of(visitor.verify(type=kind, email=person.email, token=code))
    assert session.claims["sub"] == person.user_id
    assert_error(visitor.verify(type=kind, email=person.email, token=code), 403, "otp_expired")


def test_unknown_address_gets_an_account_unless_that_is_not_wanted(
    desk: Desk, people: People, visitor: Visitor, mailbox: Mailbox
) -> None:
    unwanted, wanted = new_email(), new_email()
    assert assert_answer(visitor.post("/otp", json={"email": unwanted, "create_user": False})) == {}
    body = {"email": wanted, "data": {"name": "New", "organization": "New Ltd", "role": "x"}}
    assert assert_answer(visitor.post("/otp", json=body)) == {}
    session = Session.at(visitor.follow(mailbox.letter(wanted, "magiclink").link))
    assert session.claims["app_metadata"]["role"] == "admin"
    assert people.ways_in(session) == ALL_IN
    wait_until(lambda: desk.value(IS_SEEN_TO, [unwanted, "magiclink"]), what="the worker has looked")
    assert mailbox.letters(unwanted) == []
    assert not desk.sql("select from auth.users where email = %s", [unwanted])


def test_nobody_is_written_to_who_has_nothing_to_confirm_or_may_not_come_in(
    desk: Desk, people: People, visitor: Visitor, mailbox: Mailbox
) -> None:
    confirmed, banned = people.person(), people.person()
    desk.sql("update auth.users set banned_until = now() + interval '1 day' where id = %s", [banned.user_id])
    assert_answer(visitor.post("/resend", json={"type": "signup", "email": confirmed.email}))
    assert_answer(visitor.post("/resend", json={"type": "email_change", "email": confirmed.email}))
    assert_answer(visitor.post("/recover", json={"email": banned.email}))
    for email, kind in (
        (confirmed.email, "signup"),
        (confirmed.email, "email_change"),
        (banned.email, "recovery"),
    ):
        wait_until(partial(desk.value, IS_SEEN_TO, [email, kind]), what="the worker has looked")
        assert mailbox.letters(email) == []


def test_visitor_asks_for_the_confirmation_again_and_only_the_last_mail_counts(
    visitor: Visitor, mailbox: Mailbox
) -> None:
    email = new_email()
    assert_answer(visitor.post("/signup", json={"email": email, "password": "a good password"}))
    first = mailbox.letter(email, "signup")
    assert assert_answer(visitor.post("/resend", json={"type": "signup", "email": email})) == {}
    second = mailbox.letter(email, "signup", after=first)
    if first.code != second.code:
        assert_error(visitor.verify(type="signup", email=email, token=first.code), 403, "otp_expired")
    Session.of(visitor.verify(type="signup", email=email, token=second.code))


def test_five_wrong_codes_lock_the_address_for_the_right_one_too(
    desk: Desk, people: People, person: Person
) -> None:
    code, neighbour = people.link("magiclink", person.email)["email_otp"], people.person()
    for _ in range(5):
        answer = people.visitor().verify(type="email", email=person.email, token=other(code))
        assert_error(answer, 403, "otp_expired")
    for email in (person.email, person.email.upper()):
        answer = people.visitor().verify(type="email", email=email, token=code)
        assert_error(answer, 429, "over_request_rate_limit")
        assert 0 < int(answer.headers["retry-after"]) <= 30
    theirs = people.link("magiclink", neighbour.email)["email_otp"]
    Session.of(people.visitor().verify(type="email", email=neighbour.email, token=theirs))
    person.log_in()
    link = people.link("magiclink", person.email)
    Session.of(people.visitor().verify(type="magiclink", token_hash=link["hashed_token"]))
    code = people.link("magiclink", person.email)["email_otp"]
    desk.sql("update auth.failed_attempts set locked_until = now() where locked_until is not null")
    Session.of(people.visitor().verify(type="email", email=person.email, token=code))


def test_guesses_at_the_same_time_are_counted_like_any_others(people: People, person: Person) -> None:
    code = people.link("magiclink", person.email)["email_otp"]
    wrong = [f"{(int(code) + n) % 1_000_000:06}" for n in range(1, 31)]

    def guess(token: str) -> int:
        return person.visitor.verify(type="email", email=person.email, token=token).status_code

    with ThreadPoolExecutor(30) as threads:
        statuses = list(threads.map(guess, wrong))
    assert sorted(set(statuses)) == [403, 429]
    assert statuses.count(403) == 5
    assert guess(code) == 429


def test_code_expires(desk: Desk, people: People, person: Person, visitor: Visitor) -> None:
    code = people.link("magiclink", person.email)["email_otp"]
    desk.sql("update auth.one_time_tokens set expires_at = now() where user_id = %s", [person.user_id])
    assert_error(visitor.verify(type="email", email=person.email, token=code), 403, "otp_expired")


def test_what_is_stored_of_a_mail_is_no_use_to_who_reads_the_database(
    desk: Desk, people: People, person: Person
) -> None:
    link = people.link("magiclink", person.email)
    (row,) = desk.sql(
        "select to_jsonb(t)::text from auth.one_time_tokens as t where user_id = %s", [person.user_id]
    )
    assert link["hashed_token"] not in row[0]
    assert link["email_otp"] not in desk.value(
        "select code_hash from auth.one_time_tokens where user_id = %s", [person.user_id]
    )
    stored = desk.value("select token_hash from auth.one_time_tokens where user_id = %s", [person.user_id])
    assert_error(person.visitor.verify(type="magiclink", token_hash=stored), 403, "otp_expired")


def test_phone_numbers_are_written_to_nowhere(visitor: Visitor, person: Person) -> None:
    for path in ("/otp", "/resend"):
        body = {"phone": "+4912345", "type": "signup"}
        assert_error(visitor.post(path, json=body), 400, "phone_provider_disabled")
    for body in (
        {"type": "sms", "email": person.email},
        {"type": "recovery", "email": person.email},
        {"email": "x"},
    ):
        assert_error(visitor.post("/resend", json=body), 400, "validation_failed")
