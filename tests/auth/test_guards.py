"""What keeps strangers from guessing, from asking who has an account, and secrets out of the logs."""

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.desk import Desk
from tests.mailbox import Mailbox

from .conftest import (
    ALL_IN,
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

UNLOCK = (
    "update auth.failed_attempts set locked_until = now() where locked_until > now() and subject = any(%s)"
)
ACCOUNT = "select auth_service.subject_of('account', %s)"
ALMOST_LOCKED = "insert into auth.failed_attempts (subject, failures, last_failed_at) values (%s, 49, now())"


def wait_of(answer: httpx.Response) -> int:
    """Return for how long somebody is locked out."""
    body = assert_error(answer, 429, "over_request_rate_limit")
    assert body["message"] == "Too many wrong attempts; try again later"
    wait = int(answer.headers["retry-after"])
    # What is told of a limit is told of the lock's.
    assert answer.headers["x-ratelimit-limit"] in {"5", "50"}
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert abs(int(answer.headers["x-ratelimit-reset"]) - time.time() - wait) < 5
    return wait


# Guesses


def test_five_wrong_passwords_lock_the_account_for_a_while_from_wherever_they_came(
    desk: Desk, people: People, person: Person
) -> None:
    session, subject = person.log_in(), [desk.value(ACCOUNT, [person.email])]
    for _ in range(5):
        assert_error(people.visitor().log_in(person.email, new_password()), 400, "invalid_credentials")
    wait_of(person.visitor.log_in(person.email, person.password))
    assert people.ways_in(session) == ALL_IN
    Session.of(person.visitor.refresh(session.refresh_token))
    people.person().log_in()
    for longest in (30, 60, 120):
        waits = [
            wait_of(people.visitor().log_in(email, password))
            for email, password in (
                (person.email, new_password()),
                (f" {person.email.upper()}", person.password),
            )
        ]
        assert longest - 20 < min(waits) <= max(waits) <= longest
        desk.sql(UNLOCK, [subject])
        if longest < 120:
            assert_error(people.visitor().log_in(person.email, new_password()), 400, "invalid_credentials")
    person.log_in()
    assert not desk.sql("select from auth.failed_attempts where subject = any(%s)", [subject])
    for _ in range(4):
        assert_error(people.visitor().log_in(person.email, new_password()), 400, "invalid_credentials")
    person.log_in()


def test_wrong_passwords_at_the_same_time_are_counted_like_any_others(people: People, person: Person) -> None:
    visitors = [people.visitor() for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda v: v.log_in(person.email, new_password()), visitors))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(400), statuses.count(429)) == (5, 15)
    wait_of(person.visitor.log_in(person.email, person.password))


def test_fifty_wrong_passwords_lock_the_address_they_came_from_and_no_other(
    desk: Desk, people: People, person: Person
) -> None:
    guesser = people.visitor()
    desk.sql(ALMOST_LOCKED, [f"address:{guesser.address}"])
    assert_error(guesser.log_in(new_email(), new_password()), 400, "invalid_credentials")
    assert 0 < wait_of(guesser.log_in(person.email, person.password)) <= 60
    assert people.ways_in(person.log_in()) == ALL_IN
    assert_answer(guesser.get("/user", headers=person.log_in().headers))
    desk.sql(UNLOCK, [[f"address:{guesser.address}"]])
    Session.of(guesser.log_in(person.email, person.password))
    # A right password is no way to begin anew for those who guess at many accounts.
    assert_error(guesser.log_in(new_email(), new_password()), 400, "invalid_credentials")
    assert 0 < wait_of(guesser.log_in(person.email, person.password)) <= 60


def test_office_behind_one_address_mistypes_all_day_and_gets_in(desk: Desk, people: People) -> None:
    office = people.visitor()
    desk.sql(ALMOST_LOCKED, [f"address:{office.address}"])
    desk.sql(
        "update auth.failed_attempts set failures = 46 where subject = %s", [f"address:{office.address}"]
    )
    for _ in range(5):
        colleague = people.person()
        for _ in range(3):
            assert_error(office.log_in(colleague.email, new_password()), 400, "invalid_credentials")
        Session.of(office.log_in(colleague.email, colleague.password))


def test_account_that_is_not_there_is_locked_like_any_other(people: People) -> None:
    email = new_email()
    for _ in range(5):
        assert_error(people.visitor().log_in(email, new_password()), 400, "invalid_credentials")
    assert 0 < wait_of(people.visitor().log_in(email, new_password())) <= 30


def test_twelve_mails_an_hour_go_to_one_address(
    desk: Desk, people: People, person: Person, mailbox: Mailbox
) -> None:
    # All within one hour of the clock, whichever it is.
    known, unknown = person.email, new_email()

    def ask(email: str) -> list[httpx.Response]:
        asks: list[Callable[[], httpx.Response]] = [
            lambda: people.visitor().post("/recover", json={"email": email}),
            lambda: people.visitor().post("/otp", json={"email": email, "create_user": False}),
            lambda: people.visitor().post("/resend", json={"type": "signup", "email": email.upper()}),
        ]
        return [asks[number % 3]() for number in range(13)]

    for email in (known, unknown):
        answers = ask(email)
        if answers[-1].status_code == 200:  # the hour is a new one
            answers = ask(email)
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert_error(limited, 429, "over_email_send_rate_limit")
        wait = int(limited.headers["retry-after"])
        assert 0 < wait <= 3600
        assert (limited.headers["x-ratelimit-limit"], limited.headers["x-ratelimit-remaining"]) == ("12", "0")
        assert abs(int(limited.headers["x-ratelimit-reset"]) - time.time() - wait) < 5
    assert_answer(people.visitor().post("/recover", json={"email": people.person().email}))
    body = {"email": known, "password": new_password()}
    assert people.visitor().post("/signup", json=body).status_code == 429
    session = person.log_in()
    taken = person.visitor.put("/user", headers=session.headers, json={"email": unknown})
    assert_error(taken, 429, "over_email_send_rate_limit")
    assert len(mailbox.letters(known)) <= 24


# Who has an account


def shape(value: Any) -> Any:
    """Return what there is to see of a JSON value without reading it."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def seen(answer: httpx.Response) -> tuple[int, list[str], Any]:
    """Return what tells two answers apart: texts of errors as well, ids and moments not."""
    body = answer.json()
    return answer.status_code, sorted(answer.headers), body if answer.is_error else shape(body)


ASKED: dict[str, Callable[[Visitor, str], httpx.Response]] = {
    "sign-up": lambda v, e: v.post(
        "/signup", json={"email": e, "password": "p4ssw0rd of mine", "data": {"name": "x"}}
    ),
    "sign-up with a weak password": lambda v, e: v.post("/signup", json={"email": e, "password": "x"}),
    "log-in": lambda v, e: v.log_in(e, "p4ssw0rd of yours"),
    "recover": lambda v, e: v.post("/recover", json={"email": e}),
    "recover with a challenge": lambda v, e: v.post(
        "/recover", json={"email": e, "code_challenge": "x" * 43}
    ),
    "resend signup": lambda v, e: v.post("/resend", json={"email": e, "type": "signup"}),
    "resend email_change": lambda v, e: v.post("/resend", json={"email": e, "type": "email_change"}),
    "otp": lambda v, e: v.post("/otp", json={"email": e}),
    "otp without a new account": lambda v, e: v.post("/otp", json={"email": e, "create_user": False}),
    "magiclink": lambda v, e: v.post("/magiclink", json={"email": e}),
    **{
        f"verify {kind}": lambda v, e, k=kind: v.verify(type=k, email=e, token="123456")  # type: ignore[misc]
        for kind in ("signup", "invite", "magiclink", "recovery", "email", "email_change")
    },
}


@pytest.mark.parametrize("question", ASKED)
def test_answer_does_not_tell_whether_there_is_an_account(
    desk: Desk, people: People, service: Visitor, question: str
) -> None:
    states = {
        state: new_email(state)
        for state in ("unknown", "confirmed", "unconfirmed", "invited", "banned", "deleted")
    }
    people.person(email=states["confirmed"])
    people.person(email=states["unconfirmed"], email_confirm=False)
    assert_answer(service.post("/invite", json={"email": states["invited"]}))
    people.person(email=states["banned"], ban_duration="24h")
    gone = people.person(email=states["deleted"])
    service.request("DELETE", f"/admin/users/{gone.user_id}", json={"should_soft_delete": True})
    visitor = people.visitor()
    answers = {
        state: [seen(ASKED[question](visitor, email)) for _ in range(2)] for state, email in states.items()
    }
    for state, answer in answers.items():
        assert answer == answers["unknown"], state


def test_id_in_the_answer_to_a_sign_up_is_the_same_each_time(people: People, person: Person) -> None:
    for email in (person.email, new_email()):
        body = {"email": email, "password": new_password()}
        ids = {assert_answer(people.visitor().post("/signup", json=body))["id"] for _ in range(3)}
        assert len(ids) == 1


def test_log_in_takes_as_long_where_there_is_no_account(people: People) -> None:
    visitor, seconds = people.visitor(), dict[bool, list[float]]({True: [], False: []})
    for _ in range(7):
        for is_known in seconds:
            email = people.person().email if is_known else new_email()
            begun = time.perf_counter()
            visitor.log_in(email, new_password())
            seconds[is_known].append(time.perf_counter() - begun)
    known, unknown = (statistics.median(seconds[is_known]) for is_known in (True, False))
    assert known / 2 < unknown < known * 2


def test_limit_of_requests_is_counted_by_the_address_they_come_from(people: People) -> None:
    visitor, neighbour = people.visitor(), people.visitor()
    first, second = visitor.get("/user"), visitor.get("/user")
    assert neighbour.get("/user").headers["x-ratelimit-remaining"] == "1199"
    is_one_minute = first.headers["x-ratelimit-reset"] == second.headers["x-ratelimit-reset"]
    assert second.headers["x-ratelimit-remaining"] == ("1198" if is_one_minute else "1199")
    for path in ("/health", "/settings", "/.well-known/jwks.json", "/done"):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert "x-ratelimit-limit" not in answer.headers


# What is logged


def test_log_holds_no_secret_and_no_address_whatever_people_do(
    desk: Desk, people: People, service: Visitor, mailbox: Mailbox
) -> None:
    secrets = _live(desk, people, service, mailbox)
    assert len(secrets) > 20
    logs = _logs(desk)
    for place, text in logs.items():
        for secret in secrets:
            assert secret not in text, f"{place}: {secret}"
    printed = logs["up.log"]
    assert '"mail sent"' in printed
    assert '"statement at fault"' not in printed
    assert '"request failed"' not in printed
    lines = [line for line in printed.splitlines() if "@" in line]
    assert [
        line for line in lines if not line.startswith("The first admin is admin@example.com, password ")
    ] == []
    metrics = httpx.get(f"{desk.url}/metrics").text
    assert "auth" in metrics
    assert not [secret for secret in secrets if secret in metrics]


def _logs(desk: Desk) -> dict[str, str]:
    """Return everything that the processes of a desk have written down for people to read."""
    files = list((desk.data_dir / "logs").iterdir())
    assert {"postgres.log", "postgrest.log"} <= {file.name for file in files}
    return {"up.log": desk.output()} | {file.name: file.read_text(errors="replace") for file in files}


def _live(desk: Desk, people: People, service: Visitor, mailbox: Mailbox) -> set[str]:
    """Do one of everything, right and wrong, and return what must not be written down."""
    visitor, email, password = people.visitor(), new_email("secretive"), new_password()
    secrets = {email, password}
    assert_answer(
        visitor.post("/signup", json={"email": email, "password": password, "data": {"name": "Ms Secretive"}})
    )
    first = mailbox.letter(email, "signup")
    assert_answer(visitor.post("/signup", json={"email": email, "password": password}))
    letter = mailbox.letter(email, "signup", after=first)
    secrets |= {letter.token, letter.code, "Ms Secretive"}
    visitor.verify(type="signup", email=email, token="000000")
    session = Session.at(visitor.follow(letter.link))
    visitor.follow(letter.link)
    secrets |= {session.access_token, session.refresh_token}
    session = Session.of(visitor.refresh(session.refresh_token))
    secrets |= {session.access_token, session.refresh_token}
    person = Person(visitor, email, password, session.claims["sub"])
    app = enroll(desk, person, session)
    whole = Session.of(app.prove(visitor, session))
    app.prove(visitor, session, app.wrong_code())
    secrets |= {app.secret, whole.access_token, whole.refresh_token}
    wrong = new_password()
    for given in (wrong, f"\0{wrong}", f"\ud800{wrong}", wrong * 100):
        visitor.post("/token?grant_type=password", content=_json(email, given), headers=_IS_JSON)
    new, changed = new_email("changed"), new_password()
    body = {"email": new, "password": changed, "current_password": password}
    assert_answer(visitor.put("/user", headers=whole.headers, json=body))
    secrets |= {wrong, new, changed} | {mailbox.letter(each, "email_change").token for each in (email, new)}
    for kind in ("recovery", "magiclink"):
        link = people.link(kind, email)
        secrets |= {link["hashed_token"]}
        visitor.get(
            "/verify", params={"token": link["hashed_token"], "type": "x", "redirect_to": f"http://{wrong}/"}
        )
    admin = people.person("admin")
    member, chosen = new_email("member"), new_password()
    for base in (desk.rest_url, desk.postgrest_url):
        headers = {"apikey": desk.anon_key, **admin.log_in().headers}
        for arguments in (
            {"email": member, "password": chosen, "name": "Member", "role": "agent"},
            {"email": member, "password": f"{chosen}{'x' * 80}", "name": "Member", "role": "agent"},
            {"email": member, "password": chosen, "name": "Member", "role": "nothing"},
        ):
            httpx.post(f"{base}/rpc/create_member", headers=headers, json=arguments)
        httpx.get(f"{base}/members", headers=headers, params={"email": f"eq.{member}"})
    secrets |= {member, chosen}
    service.post(
        "/admin/users", json={"email": email, "password": changed, "id": "x", "ban_duration": changed}
    )
    for key in (desk.service_key, desk.secret_key, desk.jwt_secret, desk.anon_key):
        secrets.add(key)
        visitor.get("/user", headers={"Authorization": f"Bearer {key}", "apikey": key})
    return secrets


_IS_JSON = {"Content-Type": "application/json"}


def _json(email: str, password: str) -> bytes:
    return json.dumps({"email": email, "password": password}).encode()
