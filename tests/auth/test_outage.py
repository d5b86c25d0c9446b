"""A database that goes away: everybody is told so at once, and nothing that was said before is lost."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.databases import Server, running_desk
from tests.desk import Desk, wait_until
from tests.faults.outside import Outside

from .conftest import (
    ALL_IN,
    People,
    Person,
    Session,
    assert_answer,
    assert_error,
    fragment_of,
    new_email,
    new_password,
)

TOLD_WITHIN = 3.0
BACK_WITHIN = 5.0


@pytest.fixture(scope="module")
def outside(chosen_server: Server | None) -> Iterator[Outside]:
    """A Postgres that stays away for as long as a test wants."""
    server = Outside()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def far(outside: Outside) -> Iterator[Desk]:
    """A desk on it."""
    with running_desk(None, DESKBASE_DATABASE_URL=outside.url) as desk:
        yield desk


def asks(person: Person, session: Session) -> list[Callable[[], httpx.Response]]:
    """Return something to ask of each kind that needs the database."""
    visitor, email = person.visitor, new_email()
    return [
        lambda: visitor.post("/signup", json={"email": email, "password": new_password()}),
        lambda: visitor.log_in(person.email, person.password),
        lambda: visitor.refresh(session.refresh_token),
        lambda: visitor.post("/recover", json={"email": person.email}),
        lambda: visitor.verify(type="email", email=person.email, token="000000"),
        lambda: visitor.get("/verify?token=x&type=recovery"),
        lambda: visitor.get("/user", headers=session.headers),
        lambda: visitor.put("/user", headers=session.headers, json={"data": {"a": 1}}),
        lambda: visitor.post("/logout?scope=others", headers=session.headers),
        lambda: visitor.get("/nothing"),
    ]


def assert_unavailable(answer: httpx.Response) -> None:
    """The refusal of a service without its database."""
    body = answer.json()
    assert (answer.status_code, body["code"], body["error_code"]) == (
        503,
        "request_timeout",
        "request_timeout",
    )
    assert body["message"] == body["msg"] == "The service is briefly unavailable; try again."
    assert body["error_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-supabase-api-version"]
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("go_away", [Outside.stop, Outside.freeze], ids=["stopped", "frozen"])
def test_everybody_is_told_while_the_database_is_away_and_served_when_it_is_back(
    far: Desk, outside: Outside, go_away: Callable[[Outside], None]
) -> None:
    with People(far) as people:
        person = people.person()
        session, other = person.log_in(), person.log_in()
        link = people.link("recovery", person.email)["action_link"]
        session = Session.of(person.visitor.refresh(before := session.refresh_token))
        far._disconnect()
        go_away(outside)
        with ThreadPoolExecutor(10) as threads:
            begun = time.monotonic()
            for answer in threads.map(lambda ask: ask(), asks(person, session)):
                assert_unavailable(answer)
            assert time.monotonic() - begun < TOLD_WITHIN
        for path in ("/health", "/settings", "/.well-known/jwks.json", "/done"):
            assert person.visitor.get(path).status_code == 200
        outside.bring_back()
        back = time.monotonic()
        wait_until(lambda: person.visitor.get("/user", headers=session.headers).is_success, BACK_WITHIN)
        assert time.monotonic() - back < BACK_WITHIN
        wait_until(lambda: people.ways_in(session) == ALL_IN, BACK_WITHIN, "PostgREST is back as well")
        assert people.ways_in(other) == ALL_IN
        assert "access_token" in fragment_of(person.visitor.follow(link))
        Session.of(person.visitor.refresh(session.refresh_token))
        assert_error(person.visitor.refresh(before), 400, "refresh_token_already_used")
        assert_answer(person.visitor.post("/recover", json={"email": person.email}))
        person.log_in()
