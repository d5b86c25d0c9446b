"""Forgotten passwords: the mail, its link, where the link may lead, and the code in its stead (PKCE)."""

import base64
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

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
    fragment_of,
    new_password,
    place_of,
)

AGE = "update auth.flow_state set auth_code_issued_at = now() - interval '6 minutes' where user_id = %s"
FRONT_END = "http://localhost:3000/welcome?from=mail"


def is_over(answer: httpx.Response) -> bool:
    """Whether a link led to the reason why not."""
    found = fragment_of(answer)
    if "access_token" in found:
        return False
    assert found == {
        "error": "access_denied",
        "error_code": "otp_expired",
        "error_description": "Email link is invalid or has expired",
    }
    return True


def verifier_and_challenge() -> tuple[str, str]:
    """Return what a client keeps, and what it sends."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).decode().rstrip("=")


def code_of(answer: httpx.Response) -> str:
    """Return the code that a link led to, which comes without any session."""
    assert fragment_of(answer) == {}
    (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
    return code


def exchange(visitor: Visitor, code: str, verifier: str) -> httpx.Response:
    return visitor.post("/token?grant_type=pkce", json={"auth_code": code, "code_verifier": verifier})


def test_person_who_forgot_their_password_chooses_a_new_one(
    people: People, person: Person, visitor: Visitor, mailbox: Mailbox
) -> None:
    elsewhere = person.log_in()
    asked = visitor.post("/recover", params={"redirect_to": FRONT_END}, json={"email": person.email.title()})
    assert assert_answer(asked) == {}
    letter = mailbox.letter(person.email, "recovery")
    assert letter.query["redirect_to"] == FRONT_END

    looked = visitor.head(letter.link)
    assert (looked.status_code, looked.content) == (200, b"")
    followed = visitor.follow(letter.link)
    assert place_of(followed) == FRONT_END
    assert fragment_of(followed)["type"] == "recovery"
    session = Session.at(followed)
    assert (session.claims["aal"], session.claims["amr"][0]["method"]) == ("aal1", "otp")
    assert people.ways_in(session) == people.ways_in(elsewhere) == ALL_IN

    old, person.password = person.password, new_password()
    body = {"password": person.password}
    assert_answer(visitor.put("/user", headers=session.headers, json=body))
    assert people.ways_in(session) == ALL_IN
    assert people.ways_in(elsewhere) == ALL_OUT
    assert person.is_refused(old)
    person.log_in()
    assert is_over(visitor.follow(letter.link))
    assert people.ways_in(session) == ALL_IN


def test_link_or_code_is_good_once_whichever_comes_first(
    people: People, person: Person, visitor: Visitor, mailbox: Mailbox
) -> None:
    visitor.post("/recover", json={"email": person.email})
    letter = mailbox.letter(person.email, "recovery")
    Session.of(visitor.verify(type="recovery", email=person.email, token=letter.code))
    assert is_over(visitor.follow(letter.link))
    link = people.link("recovery", person.email)
    Session.of(visitor.verify(type="recovery", token_hash=link["hashed_token"]))
    for fields in ({"token_hash": link["hashed_token"]}, {"email": person.email, "token": link["email_otp"]}):
        assert_error(visitor.verify(type="recovery", **fields), 403, "otp_expired")


def test_of_ten_who_follow_a_link_at_once_one_gets_in(
    people: People, person: Person, visitor: Visitor
) -> None:
    link = people.link("recovery", person.email)["action_link"]
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: visitor.follow(link), range(10)))
    assert sorted(is_over(answer) for answer in answers) == [False] + [True] * 9


def test_newer_link_a_new_password_and_time_each_end_a_link(
    desk: Desk, people: People, person: Person, visitor: Visitor
) -> None:
    first, second = (people.link("recovery", person.email)["action_link"] for _ in range(2))
    assert is_over(visitor.follow(first))
    assert_answer(visitor.put("/user", headers=person.log_in().headers, json={"password": new_password()}))
    assert is_over(visitor.follow(second))
    third = people.link("recovery", person.email)["action_link"]
    desk.sql("update auth.one_time_tokens set expires_at = now() where user_id = %s", [person.user_id])
    assert is_over(visitor.follow(third))
    assert not is_over(visitor.follow(people.link("recovery", person.email)["action_link"]))


def test_link_of_one_kind_is_none_of_another(people: People, person: Person, visitor: Visitor) -> None:
    link = people.link("recovery", person.email)
    for kind in ("signup", "invite", "email_change"):
        assert_error(visitor.verify(type=kind, token_hash=link["hashed_token"]), 403, "otp_expired")
        assert is_over(visitor.follow(link["action_link"].replace("type=recovery", f"type={kind}")))
    assert not is_over(visitor.follow(link["action_link"]))


@pytest.mark.parametrize("state", ["banned", "deactivated", "deleted"])
def test_link_lets_nobody_in_who_may_not_come_in(
    desk: Desk, people: People, visitor: Visitor, service: Visitor, state: str
) -> None:
    person = people.person()
    link = people.link("recovery", person.email)
    if state == "banned":
        desk.sql(
            "update auth.users set banned_until = now() + interval '1 day' where id = %s", [person.user_id]
        )
    elif state == "deactivated":
        desk.sql("update public.members set is_active = false where user_id = %s", [person.user_id])
    else:
        service.request("DELETE", f"/admin/users/{person.user_id}", json={"should_soft_delete": True})
    found = fragment_of(visitor.follow(link["action_link"]))
    assert found["error_code"] == ("otp_expired" if state == "deleted" else "user_banned")
    assert found.keys() == {"error", "error_code", "error_description"}
    assert not desk.sql("select from auth.sessions where user_id = %s", [person.user_id])


def test_link_without_a_kind_or_a_token_is_no_link(visitor: Visitor) -> None:
    for query in (
        "",
        "type=recovery",
        "token=x",
        "token=x&type=password",
        "token=&type=recovery",
        "type=%00&token=x",
    ):
        assert_error(visitor.get(f"/verify?{query}"), 400, "validation_failed")
    for token in ("x", "%00", "%ff", "%ed%a0%80", "x" * 5000, "%F0%9F%94%A5", "a%0d%0ab"):
        assert is_over(visitor.get(f"/verify?token={token}&type=recovery"))


# Where links lead

ALLOWED = [
    "",
    "/",
    "/auth/v1/done",
    "/a/../b?c=%2F#d",
    "?a=1&b=http://evil.example",
    "/ü?q=🔥",
]
"""After the desk's own address."""

LOCAL = [
    "http://localhost",
    "http://localhost:3000/",
    "https://127.0.0.1:1/x",
    "http://[::1]:8080/callback?x=1",
    "http://LOCALHOST:3000/",
]
"""Front-ends on the same machine."""

REFUSED = [
    "http://evil.example",
    "https://evil.example/http://localhost:3000/",
    "//evil.example",
    "///evil.example",
    "/relative",
    "\\\\evil.example",
    "http:evil.example",
    "http:/evil.example",
    "http:///evil.example",
    "http://",
    "http://localhost@evil.example",
    "http://localhost:3000@evil.example/",
    "http://user@localhost:3000/",
    "http://user:password@localhost:3000/",
    "http://@localhost:3000/",
    "http://localhost\\@evil.example",
    "http://localhost:3000\\.evil.example",
    "http://evil.example\\@localhost:3000/",
    "http://evil.example#@localhost:3000/",
    "http://evil.example?@localhost:3000/",
    "http://localhost.evil.example",
    "http://localhost:3000.evil.example",
    "http://localhost:x/",
    "http://localhost:99999/",
    "http://localhost:-1/",
    "http://127.0.0.1.evil.example",
    "http://127.0.0.2/",
    "http://0.0.0.0/",
    "http://2130706433/",
    "http://[::2]/",
    "http://[::1/",
    "http://[::1].evil.example/",
    "http://evil.example%2f@localhost/",
    "javascript:alert(1)",
    "JavaScript://localhost/%0aalert(1)",
    "javascript://127.0.0.1:1/%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "file://localhost/etc/passwd",
    "ftp://localhost/",
    "vbscript:x",
    "blob:http://localhost/x",
    " http://evil.example",
    "http://evil.example/\r\nSet-Cookie: a=b",
    "http://localhost:3000/\r\nSet-Cookie: a=b",
    "http://localhost:3000/\nx",
    "http://localhost:3000/\tx",
    "http://localhost:3000/\0",
    "http://localhost:3000/\x7f",
    "http://localhost\u2028:3000/",
    "http://loc\u200balhost:3000/",
    "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
    "http://localhost\u3002evil.example/",
    "http://localhost:3000/" + "x" * 2000,
    "null",
    "about:blank",
]


def led_to(visitor: Visitor, redirect_to: str) -> str:
    """Return where a link leads that asks for this address."""
    answer = visitor.get(f"/verify?token=x&type=recovery&redirect_to={quote(redirect_to, safe='')}")
    assert is_over(answer)
    assert "set-cookie" not in answer.headers
    return place_of(answer)


def test_link_leads_to_the_desk_itself_or_to_a_front_end_on_the_same_machine(
    desk: Desk, visitor: Visitor
) -> None:
    for wanted in [desk.url + each for each in ALLOWED] + LOCAL:
        assert led_to(visitor, wanted) == quote(wanted, safe="%:/?#[]@!$&'()*+,;=~").partition("#")[0]


def test_link_that_asks_for_any_other_place_leads_to_the_page_of_the_desk(
    desk: Desk, people: People, person: Person
) -> None:
    page = f"{desk.url}/auth/v1/done"
    own_port = desk.url.rpartition(":")[2]
    for asked in [
        *REFUSED,
        f"{desk.url}@evil.example",
        f"{desk.url}.evil.example",
        f"https://evil.example:{own_port}",
    ]:
        assert led_to(people.visitor(), asked) == page, asked
    for asked in ("%ff", "%ed%a0%80", "%c0%af", "a&redirect_to=http://evil.example"):
        answer = person.visitor.get(f"/verify?token=x&type=recovery&redirect_to={asked}")
        assert place_of(answer) == page, asked


def test_address_that_is_refused_is_in_no_link(
    desk: Desk, people: People, person: Person, mailbox: Mailbox
) -> None:
    for asked in ("https://evil.example/", "javascript:alert(1)", "http://localhost@evil.example/"):
        link = people.link("recovery", person.email, redirect_to=asked)
        assert link["redirect_to"] == desk.url
        assert "evil" not in link["action_link"]
    people.visitor().post(
        "/recover", params={"redirect_to": "https://evil.example/"}, json={"email": person.email}
    )
    letter = mailbox.letter(person.email, "recovery")
    assert letter.query.keys() == {"token", "type"}
    assert "evil" not in str(letter.message)


# The code in place of a session


def test_client_that_sent_a_challenge_gets_a_code_and_exchanges_it_once(
    people: People, person: Person, visitor: Visitor, mailbox: Mailbox
) -> None:
    verifier, challenge = verifier_and_challenge()
    body = {"email": person.email, "code_challenge": challenge, "code_challenge_method": "s256"}
    visitor.post("/recover", params={"redirect_to": f"{FRONT_END}#top"}, json=body)
    letter = mailbox.letter(person.email, "recovery")
    browser = people.visitor()
    followed = browser.follow(letter.link)
    code = code_of_with(followed, "top")
    assert place_of(followed) == f"{FRONT_END}&code={code}"
    session = Session.of(exchange(visitor, code, verifier))
    assert session.claims["email"] == person.email
    assert people.ways_in(session) == ALL_IN
    assert_error(exchange(visitor, code, verifier), 404, "flow_state_not_found")
    assert is_over(browser.follow(letter.link))


def code_of_with(answer: httpx.Response, fragment: str) -> str:
    """Return the code, which stands before the fragment that was asked for."""
    location = urlsplit(answer.headers["location"])
    assert location.fragment == fragment
    return parse_qs(location.query)["code"][0]


def test_wrong_verifier_logs_nobody_in_and_leaves_the_code_to_its_owner(
    desk: Desk, people: People, person: Person, visitor: Visitor, mailbox: Mailbox
) -> None:
    verifier, challenge = verifier_and_challenge()
    body = {"email": person.email, "code_challenge": challenge, "code_challenge_method": "s256"}
    visitor.post("/recover", json=body)
    code = code_of(visitor.follow(mailbox.letter(person.email, "recovery").link))
    assert place_of_page(desk, code)
    thief = people.visitor()
    for _ in range(50):
        assert_error(exchange(thief, code, challenge), 400, "bad_code_verifier")
    locked = exchange(thief, code, challenge)
    assert_error(locked, 429, "over_request_rate_limit")
    assert (locked.headers["x-ratelimit-limit"], locked.headers["x-ratelimit-remaining"]) == ("50", "0")
    assert not desk.sql("select from auth.sessions where user_id = %s", [person.user_id])
    assert Session.of(exchange(visitor, code, verifier)).claims["sub"] == person.user_id
    assert_error(exchange(visitor, code, verifier), 404, "flow_state_not_found")


def place_of_page(desk: Desk, code: str) -> bool:
    """Whether the database keeps nothing that the code could be read from."""
    stored = desk.sql("select auth_code from auth.flow_state where auth_code is not null")
    return all(code not in row[0] for row in stored)


@pytest.mark.parametrize("why", ["it is too old", "the person was banned meanwhile"])
def test_code_lets_nobody_in_when(
    desk: Desk, person: Person, visitor: Visitor, mailbox: Mailbox, why: str
) -> None:
    verifier, _ = verifier_and_challenge()
    body = {"email": person.email, "code_challenge": verifier, "code_challenge_method": "plain"}
    visitor.post("/recover", json=body)
    code = code_of(visitor.follow(mailbox.letter(person.email, "recovery").link))
    if why == "it is too old":
        desk.sql(AGE, [person.user_id])
        assert_error(exchange(visitor, code, verifier), 404, "flow_state_not_found")
    else:
        desk.sql(
            "update auth.users set banned_until = now() + interval '1 day' where id = %s", [person.user_id]
        )
        assert_error(exchange(visitor, code, verifier), 400, "user_banned")
    assert not desk.sql("select from auth.sessions where user_id = %s", [person.user_id])


def test_challenge_that_is_none_is_refused_for_known_and_unknown_addresses(
    person: Person, visitor: Visitor
) -> None:
    good = "x" * 43
    for email in (person.email, "nobody@example.com"):
        for challenge, method in (
            ("x", "s256"),
            ("x" * 129, "s256"),
            (good + "ü", "plain"),
            (good, "S512"),
            (good, "x"),
        ):
            body = {"email": email, "code_challenge": challenge, "code_challenge_method": method}
            assert_error(visitor.post("/recover", json=body), 400, "validation_failed")
    for body in ({}, {"auth_code": "x"}, {"code_verifier": "x"}, {"auth_code": "", "code_verifier": ""}):
        assert_error(visitor.post("/token?grant_type=pkce", json=body), 400, "validation_failed")
    assert_error(exchange(visitor, "x", "y"), 404, "flow_state_not_found")
