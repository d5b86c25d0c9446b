"""Second factors: from the moment that an account has one, the password alone is half a log-in."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest

from tests.desk import Desk

from .conftest import (
    ALL_IN,
    ALL_OUT,
    HALF_IN,
    App,
    People,
    Person,
    Session,
    Visitor,
    assert_answer,
    assert_error,
    enroll,
    new_email,
    new_password,
)

NOBODYS = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def careful(desk: Desk, people: People) -> tuple[Person, App, Session]:
    """Somebody with a second factor, their app, and a session in which it was shown."""
    person = people.person()
    session = person.log_in()
    app = enroll(desk, person, session, "phone")
    return person, app, Session.of(app.prove(person.visitor, session))


def test_person_adds_an_app_and_is_asked_for_it_from_then_on(
    desk: Desk, people: People, person: Person
) -> None:
    session, elsewhere = person.log_in(), person.log_in()
    body = {"factor_type": "totp", "friendly_name": "my phone", "issuer": "Desk: Berlin"}
    made = assert_answer(person.visitor.post("/factors", headers=session.headers, json=body))
    assert made.keys() == {"id", "type", "friendly_name", "totp"}
    assert (made["type"], made["friendly_name"]) == ("totp", "my phone")
    assert made["totp"].keys() == {"qr_code", "secret", "uri"}
    uri = urlsplit(made["totp"]["uri"])
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert unquote(uri.path) == f"/Desk  Berlin:{person.email}"
    assert parse_qs(uri.query)["secret"] == [made["totp"]["secret"]]
    assert re.fullmatch(r"<svg[^#%\"\n]*</svg>", made["totp"]["qr_code"])
    app = App(desk, made["id"], made["totp"]["secret"])
    assert people.ways_in(session) == people.ways_in(elsewhere) == ALL_IN, "it is not verified yet"

    path = f"/factors/{app.factor_id}"
    challenge = assert_answer(
        person.visitor.post(f"{path}/challenge", headers=session.headers, json={"channel": None})
    )
    assert challenge.keys() == {"id", "type", "expires_at"}
    code = pyotp.TOTP(app.secret).now()
    proof = {"challenge_id": challenge["id"], "code": code, "factor_id": app.factor_id}
    raised = Session.of(person.visitor.post(f"{path}/verify", headers=session.headers, json=proof))
    assert raised.id == session.id
    assert raised.claims["aal"] == "aal2"
    assert [each["method"] for each in raised.claims["amr"]] == ["totp", "password"]
    assert people.ways_in(raised) == people.ways_in(session) == ALL_IN
    assert people.ways_in(elsewhere) == ALL_OUT
    user = assert_answer(person.visitor.get("/user", headers=raised.headers))
    assert [(f["id"], f["status"], f["friendly_name"]) for f in user["factors"]] == [
        (app.factor_id, "verified", "my phone")
    ]
    assert app.secret not in str(user)

    half = person.log_in()
    assert half.claims["aal"] == "aal1"
    assert people.ways_in(half) == HALF_IN
    refreshed = Session.of(person.visitor.refresh(half.refresh_token))
    assert (refreshed.claims["aal"], people.ways_in(refreshed)) == ("aal1", HALF_IN)
    whole = Session.of(app.prove(person.visitor, half))
    assert people.ways_in(whole) == ALL_IN
    assert people.ways_in(raised) == ALL_IN
    assert Session.of(person.visitor.refresh(whole.refresh_token)).claims["aal"] == "aal2"
    # The token of the half session is a used one.
    assert_error(person.visitor.refresh(refreshed.refresh_token), 400, "refresh_token_already_used")
    assert people.ways_in(whole) == ALL_OUT


def test_half_a_log_in_changes_nothing_that_matters(
    people: People, careful: tuple[Person, App, Session]
) -> None:
    person, app, whole = careful
    half = person.log_in()
    for fields in (
        {"password": new_password()},
        {"email": new_email()},
        {"password": new_password(), "data": {}},
    ):
        answer = person.visitor.put("/user", headers=half.headers, json=fields)
        assert_error(answer, 401, "insufficient_aal")
    body = {"factor_type": "totp", "friendly_name": "another"}
    assert_error(person.visitor.post("/factors", headers=half.headers, json=body), 403, "insufficient_aal")
    answer = person.visitor.delete(f"/factors/{app.factor_id}", headers=half.headers)
    assert_error(answer, 422, "insufficient_aal")
    assert people.ways_in(half) == HALF_IN
    assert people.ways_in(whole) == ALL_IN
    assert_answer(person.visitor.post("/logout?scope=local", headers=half.headers), 204)


@pytest.mark.parametrize("kind", ["recovery", "magiclink"])
def test_link_in_a_mail_is_half_a_log_in_too(
    people: People, careful: tuple[Person, App, Session], kind: str
) -> None:
    person, app, _ = careful
    link = people.link(kind, person.email)
    half = Session.of(person.visitor.verify(type=kind, token_hash=link["hashed_token"]))
    assert people.ways_in(half) == HALF_IN
    body = {"password": new_password()}
    assert_error(person.visitor.put("/user", headers=half.headers, json=body), 401, "insufficient_aal")
    person.log_in()
    whole = Session.of(app.prove(person.visitor, half))
    assert_answer(person.visitor.put("/user", headers=whole.headers, json=body))


def test_wrong_code_is_refused_and_five_lock_the_factor(
    desk: Desk, people: People, careful: tuple[Person, App, Session]
) -> None:
    person, app, _ = careful
    half = person.log_in()
    for code in ("", " ", "x", "1234567", "ü🔥", app.secret):
        answer = app.prove(person.visitor, half, code or " ")
        if code == app.secret:
            assert_error(answer, 429, "over_request_rate_limit")
            assert 0 < int(answer.headers["retry-after"]) <= 30
        else:
            body = assert_error(answer, 422, "mfa_verification_failed")
            assert body["message"] == "Invalid TOTP code entered"
    assert_error(app.prove(people.visitor(), half), 429, "over_request_rate_limit")
    assert people.ways_in(half) == HALF_IN
    neighbour = people.person()
    session = neighbour.log_in()
    Session.of(enroll(desk, neighbour, session).prove(neighbour.visitor, session))
    desk.sql(
        "update auth.failed_attempts set locked_until = now() where subject = %s", [f"factor:{app.factor_id}"]
    )
    assert people.ways_in(Session.of(app.prove(person.visitor, half))) == ALL_IN


def test_code_counts_once_however_many_try_at_once(
    people: People, careful: tuple[Person, App, Session]
) -> None:
    person, app, _ = careful
    halves = [person.log_in() for _ in range(6)]
    code = app.code()
    challenges = [app.challenge(person.visitor, half) for half in halves]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(partial(app.answer, person.visitor, code=code), halves, challenges))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    for answer in answers:
        if answer not in winners:
            # The sessions of the others ended with the winner's.
            assert answer.json()["code"] in {"mfa_verification_failed", "session_not_found"}
    later = person.log_in()
    assert_error(app.prove(person.visitor, later, code), 422, "mfa_verification_failed")
    assert people.ways_in(later) == HALF_IN


def test_challenge_is_for_one_factor_of_one_person_for_a_while_and_once(
    desk: Desk, people: People, careful: tuple[Person, App, Session]
) -> None:
    person, app, whole = careful
    path, headers = f"/factors/{app.factor_id}", person.log_in().headers
    stranger = people.person()
    theirs = stranger.log_in()
    assert_error(
        stranger.visitor.post(f"{path}/challenge", headers=theirs.headers, json={}),
        404,
        "mfa_factor_not_found",
    )
    proof = {"challenge_id": NOBODYS, "code": app.code()}
    answer = stranger.visitor.post(f"{path}/verify", headers=theirs.headers, json=proof)
    assert_error(answer, 404, "mfa_factor_not_found")
    assert_error(stranger.visitor.delete(path, headers=theirs.headers), 404, "mfa_factor_not_found")
    for challenge_id in (NOBODYS, "x", "'"):
        answer = person.visitor.post(
            f"{path}/verify", headers=headers, json={**proof, "challenge_id": challenge_id}
        )
        assert answer.status_code in {400, 422}, answer.text
    for body in ({}, {"code": "123456"}, {"challenge_id": NOBODYS}):
        assert_error(
            person.visitor.post(f"{path}/verify", headers=headers, json=body), 400, "validation_failed"
        )
    asked = person.visitor.post(f"{path}/challenge", headers=headers, json={}).json()["id"]
    desk.sql(
        "update auth.mfa_challenges set created_at = now() - interval '6 minutes' where id = %s", [asked]
    )
    late = {"challenge_id": asked, "code": pyotp.TOTP(app.secret).now()}
    answer = person.visitor.post(f"{path}/verify", headers=headers, json=late)
    assert_error(answer, 422, "mfa_challenge_expired")
    other = enroll(desk, person, whole, "tablet")
    asked = person.visitor.post(f"{path}/challenge", headers=headers, json={}).json()["id"]
    crossed = {"challenge_id": asked, "code": pyotp.TOTP(other.secret).now()}
    answer = person.visitor.post(f"/factors/{other.factor_id}/verify", headers=headers, json=crossed)
    assert_error(answer, 422, "mfa_challenge_expired")


def test_factor_that_is_taken_away_is_asked_for_no_more(
    people: People, careful: tuple[Person, App, Session]
) -> None:
    person, app, whole = careful
    answer = person.visitor.delete(f"/factors/{app.factor_id}", headers=whole.headers)
    assert assert_answer(answer) == {"id": app.factor_id}
    assert people.ways_in(whole) == ALL_IN
    assert people.ways_in(person.log_in()) == ALL_IN
    assert Session.of(person.visitor.refresh(whole.refresh_token)).claims["aal"] == "aal1"
    answer = person.visitor.delete(f"/factors/{app.factor_id}", headers=whole.headers)
    assert_error(answer, 404, "mfa_factor_not_found")


def test_either_of_two_apps_will_do_and_without_the_one_that_was_shown_the_other_is_owed(
    desk: Desk, people: People, careful: tuple[Person, App, Session]
) -> None:
    person, phone, whole = careful
    tablet = enroll(desk, person, whole, "tablet")
    both = Session.of(tablet.prove(person.visitor, whole))
    by_phone = Session.of(phone.prove(person.visitor, person.log_in()))
    assert people.ways_in(both) == people.ways_in(by_phone) == ALL_IN
    assert_answer(person.visitor.delete(f"/factors/{phone.factor_id}", headers=both.headers))
    assert people.ways_in(by_phone) == HALF_IN
    assert people.ways_in(both) == ALL_IN
    assert people.ways_in(Session.of(tablet.prove(person.visitor, by_phone))) == ALL_IN


def test_who_lost_their_app_is_helped_by_the_back_end(
    people: People, careful: tuple[Person, App, Session], service: Visitor
) -> None:
    person, app, _ = careful
    path = f"/admin/users/{person.user_id}/factors"
    (listed,) = assert_answer(service.get(path))
    assert (listed["id"], listed["status"]) == (app.factor_id, "verified")
    assert app.secret not in str(listed)
    assert people.ways_in(person.log_in()) == HALF_IN
    assert_answer(service.delete(f"{path}/{app.factor_id}"))
    assert assert_answer(service.get(path)) == []
    assert people.ways_in(person.log_in()) == ALL_IN


def test_name_is_given_once_and_factors_are_ten_at_most(desk: Desk, person: Person) -> None:
    session = person.log_in()
    enroll(desk, person, session, "phone")
    body = {"factor_type": "totp", "friendly_name": "phone"}
    assert_error(
        person.visitor.post("/factors", headers=session.headers, json=body), 422, "mfa_factor_name_conflict"
    )
    for _ in range(9):
        enroll(desk, person, session)
    answer = person.visitor.post("/factors", headers=session.headers, json={"factor_type": "totp"})
    assert_error(answer, 422, "too_many_enrolled_mfa_factors")
    user = assert_answer(person.visitor.get("/user", headers=session.headers))
    assert [factor["status"] for factor in user["factors"]] == ["unverified"] * 10


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"factor_type": "phone", "phone": "+49"},
        {"factor_type": "webauthn"},
        {"factor_type": "totp", "friendly_name": 5},
        {"factor_type": "totp", "friendly_name": "x" * 201},
        {"factor_type": "totp", "issuer": "x" * 51},
    ],
)
def test_no_other_kind_of_factor_is_known(person: Person, visitor: Visitor, body: dict[str, object]) -> None:
    session = person.log_in()
    assert_error(
        person.visitor.post("/factors", headers=session.headers, json=body), 400, "validation_failed"
    )
    assert_error(visitor.post("/factors", json=body), 401, "no_authorization")


@pytest.mark.parametrize("sign", ["ü", "水", "🔥"])
def test_names_of_any_plane_fit_into_the_image(people: People, sign: str) -> None:
    person = people.person(email=f"{sign * 200}{new_email()}")
    body = {"factor_type": "totp", "friendly_name": sign * 200, "issuer": sign * 50}
    made = assert_answer(person.visitor.post("/factors", headers=person.log_in().headers, json=body))
    assert made["friendly_name"] == sign * 200
    assert pyotp.parse_uri(made["totp"]["uri"]).secret == made["totp"]["secret"]
