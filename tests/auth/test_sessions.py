"""Sessions: how they go on, and that whatever ends one ends it everywhere with the next request."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.desk import Desk

from .conftest import (
    ALL_IN,
    ALL_OUT,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    new_password,
)

AGE = """
    update auth.refresh_tokens set updated_at = updated_at - interval '11 seconds'
    where session_id = %s and revoked
"""


def test_session_goes_on_with_a_new_refresh_token(people: People, person: Person) -> None:
    first = person.log_in()
    second = Session.of(person.visitor.refresh(first.refresh_token))
    third = Session.of(person.visitor.refresh(second.refresh_token))
    assert first.id == second.id == third.id
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert third.claims["amr"] == first.claims["amr"]
    assert people.ways_in(first) == people.ways_in(third) == ALL_IN


def test_what_has_changed_is_in_the_next_access_token(desk: Desk, person: Person) -> None:
    session = person.log_in()
    desk.sql("update public.members set role = 'customer' where user_id = %s", [person.user_id])
    person.visitor.put("/user", headers=session.headers, json={"data": {"name": "Sam"}})
    refreshed = Session.of(person.visitor.refresh(session.refresh_token))
    assert session.claims["app_metadata"]["role"] == "agent"
    assert refreshed.claims["app_metadata"]["role"] == "customer"
    assert refreshed.claims["user_metadata"] == {"name": "Sam"}


def test_client_that_did_not_hear_the_answer_is_given_it_again_for_ten_seconds(
    people: People, person: Person
) -> None:
    first = person.log_in()
    answers = [Session.of(people.visitor().refresh(first.refresh_token)) for _ in range(3)]
    assert len({answer.refresh_token for answer in answers}) == 1
    people.desk.sql(AGE, [first.id])
    assert_error(person.visitor.refresh(first.refresh_token), 400, "refresh_token_already_used")
    assert people.ways_in(first) == people.ways_in(answers[-1]) == ALL_OUT


def test_twenty_tabs_that_refresh_at_once_get_the_same_token(
    people: People, person: Person, desk: Desk
) -> None:
    session = person.log_in()
    for _ in range(2):
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(person.visitor.refresh, [session.refresh_token] * 20))
        (token,) = {Session.of(answer).refresh_token for answer in answers}
        session = Session.of(answers[0])
        assert token == session.refresh_token
    live = desk.value(
        "select count(*) from auth.refresh_tokens where session_id = %s and not revoked", [session.id]
    )
    assert live == 1
    assert people.ways_in(session) == ALL_IN


@pytest.mark.parametrize("is_soon", [True, False], ids=["soon", "later"])
def test_used_refresh_token_that_turns_up_ends_its_session_and_no_other(
    people: People, person: Person, is_soon: bool
) -> None:
    other = person.log_in()
    stolen = person.log_in()
    second = Session.of(person.visitor.refresh(stolen.refresh_token))
    third = Session.of(person.visitor.refresh(second.refresh_token))
    if not is_soon:
        people.desk.sql(AGE, [stolen.id])
    answer = people.visitor().refresh(stolen.refresh_token)
    body = assert_error(answer, 400, "refresh_token_already_used")
    assert body["message"] == "Invalid Refresh Token: Already Used"
    for token in (third, second, stolen):
        assert people.ways_in(token) == ALL_OUT
        assert_error(person.visitor.refresh(token.refresh_token), 400, "refresh_token_not_found")
    assert people.ways_in(other) == ALL_IN


@pytest.mark.parametrize("token", ["x", "x" * 2000, "-" * 43, " ", "ü🔥"])
def test_refresh_token_that_nobody_was_given_is_not_found(visitor: Visitor, token: str) -> None:
    body = assert_error(visitor.refresh(token), 400, "refresh_token_not_found")
    assert body["message"] == "Invalid Refresh Token: Refresh Token Not Found"


def test_access_token_is_no_refresh_token_and_the_other_way_round(person: Person) -> None:
    session = person.log_in()
    assert_error(person.visitor.refresh(session.access_token), 400, "refresh_token_not_found")
    headers = {"Authorization": f"Bearer {session.refresh_token}"}
    assert_error(person.visitor.get("/user", headers=headers), 403, "bad_jwt")


@pytest.mark.parametrize("scope", ["local", "others", "global", ""])
def test_logging_out_ends_the_sessions_that_were_meant_everywhere_at_once(
    people: People, person: Person, scope: str
) -> None:
    stranger = people.person().log_in()
    here, there = person.log_in(), person.log_in()
    assert people.ways_in(here) == people.ways_in(there) == ALL_IN
    answer = person.visitor.post("/logout", headers=here.headers, params={"scope": scope} if scope else {})
    assert_answer(answer, 204)
    assert people.ways_in(here) == (ALL_IN if scope == "others" else ALL_OUT)
    assert people.ways_in(there) == (ALL_IN if scope == "local" else ALL_OUT)
    assert people.ways_in(stranger) == ALL_IN
    for session, lives in ((here, scope == "others"), (there, scope == "local")):
        answer = person.visitor.refresh(session.refresh_token)
        assert answer.status_code == (200 if lives else 400)


def test_who_is_logged_out_already_is_told_so(person: Person) -> None:
    session = person.log_in()
    for scope in ("everywhere", "Global", " ", "local,others"):
        answer = person.visitor.post("/logout", headers=session.headers, params={"scope": scope})
        assert_error(answer, 400, "validation_failed")
    assert_answer(person.visitor.post("/logout?scope=local", headers=session.headers), 204)
    answer = person.visitor.post("/logout", headers=session.headers)
    assert_error(answer, 403, "session_not_found")
    assert_error(person.visitor.post("/logout"), 401, "no_authorization")


def ban(desk: Desk, person: Person) -> None:
    desk.sql("update auth.users set banned_until = now() + interval '1 hour' where id = %s", [person.user_id])


def deactivate(desk: Desk, person: Person) -> None:
    desk.sql("update public.members set is_active = false where user_id = %s", [person.user_id])


def end(desk: Desk, person: Person) -> None:
    desk.sql("update auth.sessions set not_after = now() where user_id = %s", [person.user_id])


@pytest.mark.parametrize(
    ("take_away", "code"), [(ban, "user_banned"), (deactivate, "user_banned"), (end, "session_expired")]
)
def test_session_that_is_taken_away_neither_serves_nor_goes_on(
    desk: Desk, people: People, person: Person, take_away: Callable[[Desk, Person], None], code: str
) -> None:
    other = people.person().log_in()
    session = person.log_in()
    take_away(desk, person)
    assert people.ways_in(session) == ALL_OUT
    assert_error(person.visitor.refresh(session.refresh_token), 400, code)
    assert_error(person.visitor.refresh(session.refresh_token), 400, "refresh_token_not_found")
    assert people.ways_in(other) == ALL_IN


def test_deleted_account_is_gone_everywhere_at_once(people: People, person: Person, service: Visitor) -> None:
    session = person.log_in()
    assert service.request("DELETE", f"/admin/users/{person.user_id}", json={}).status_code == 200
    assert people.ways_in(session) == [(403, "user_not_found"), *ALL_OUT[1:]]
    assert_error(person.visitor.refresh(session.refresh_token), 400, "refresh_token_not_found")
    assert_error(person.visitor.log_in(person.email, person.password), 400, "invalid_credentials")


def test_refresh_that_races_with_a_log_out_leaves_nobody_in(people: People, person: Person) -> None:
    for _ in range(5):
        session = person.log_in()
        with ThreadPoolExecutor(3) as threads:
            refreshes = [threads.submit(person.visitor.refresh, session.refresh_token) for _ in range(2)]
            out = threads.submit(person.visitor.post, "/logout?scope=local", headers=session.headers)
        assert_answer(out.result(), 204)
        assert {refresh.result().status_code for refresh in refreshes} <= {200, 400}
        assert people.ways_in(session) == ALL_OUT
        for refresh in refreshes:
            if refresh.result().status_code == 200:
                later = person.visitor.refresh(refresh.result().json()["refresh_token"])
                assert_error(later, 400, "refresh_token_not_found")


def test_log_in_that_races_with_a_new_password_leaves_nobody_in_with_the_old_one(
    people: People, person: Person
) -> None:
    for _ in range(3):
        session, new = person.log_in(), new_password()
        with ThreadPoolExecutor(4) as threads:
            tries = [threads.submit(person.visitor.log_in, person.email, person.password) for _ in range(3)]
            change = threads.submit(
                person.visitor.put, "/user", headers=session.headers, json={"password": new}
            )
        assert_answer(change.result())
        for answer in [each.result() for each in tries]:
            if answer.status_code == 200:
                assert people.ways_in(Session.of(answer)) == ALL_OUT
        person.password = new
        people.desk.sql("delete from auth.failed_attempts")
