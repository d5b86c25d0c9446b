"""Limits: a person's and their organization's at once, exact, told by headers, overridden by a setting."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.databases import Server, running_desk
from tests.desk import Desk

from .conftest import Person, Sender, assert_error


@pytest.fixture(scope="module")
def desk(chosen_server: Server | None) -> Iterator[Desk]:
    """A desk with the limits of the contract's document, and a window that does not turn meanwhile."""
    with running_desk(chosen_server) as desk:
        yield desk


@pytest.fixture
def early() -> None:
    """Wait for a minute that has not got far."""
    if (left := 60 - time.time() % 60) < 15:
        time.sleep(left)


def rate(answer: httpx.Response) -> tuple[int, int]:
    """Return the limit that the headers show, and what is left of it."""
    return int(answer.headers["x-ratelimit-limit"]), int(answer.headers["x-ratelimit-remaining"])


def test_person_passes_a_hundred_times_a_minute(early: None, desk: Desk) -> None:
    with Person(desk, desk.member("customer", desk.organization())) as person:
        answers = [person.get("/categories") for _ in range(103)]
    assert [answer.status_code for answer in answers] == [200] * 100 + [429] * 3
    assert [rate(answer) for answer in answers] == [(100, left) for left in range(99, -1, -1)] + [
        (100, 0)
    ] * 3
    reset = int(answers[-1].headers["x-ratelimit-reset"])
    assert reset % 60 == 0
    assert {answer.headers["x-ratelimit-reset"] for answer in answers} == {str(reset)}
    assert_error(answers[-1], 429, "Rate limit exceeded")
    assert abs(int(answers[-1].headers["retry-after"]) - (reset - time.time())) <= 2


def test_organization_passes_a_thousand_times_a_minute_whoever_asks(early: None, desk: Desk) -> None:
    organization = desk.organization()
    people = [Person(desk, desk.member("customer", organization)) for _ in range(11)]
    with Person(desk, desk.member("customer", desk.organization())) as stranger:
        with ThreadPoolExecutor(11) as threads:
            asked = threads.map(lambda p: [p.get("/categories") for _ in range(95)], people)
            answers = [answer for some in asked for answer in some]
        assert sum(answer.status_code == 200 for answer in answers) == 1000
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 45
        assert {rate(answer) for answer in refused} == {(1000, 0)}
        assert stranger.get("/categories").status_code == 200
    # What the organization refuses is not the person's to pay.
    used = (
        "select sum(used) from private.rate_windows where bucket = 'support-platform' and subject = any(%s)"
    )
    assert desk.value(used, [[f"user:{person.member.user_id}" for person in people]]) == 1000
    for person in people:
        person.close()


def test_headers_show_the_tighter_limit(another_desk: Callable[..., Desk]) -> None:
    limits = {"support-platform": {"user": "5/hour", "organization": "6/day"}}
    desk = another_desk(DESKBASE_LIMITS=json.dumps(limits), DESKBASE_INCOMING_WEBHOOK_SECRET="s")
    organization = desk.organization()
    with (
        Person(desk, desk.member("customer", organization)) as one,
        Person(desk, desk.member("agent", organization)) as two,
    ):
        first = [one.get("/nothing") for _ in range(3)]
        second = [two.get("/categories") for _ in range(4)]
    assert [rate(answer) for answer in first] == [(5, 4), (5, 3), (5, 2)]
    assert [rate(answer) for answer in second] == [(6, 2), (6, 1), (6, 0), (6, 0)]
    assert [answer.status_code for answer in first + second] == [404] * 3 + [200] * 3 + [429]
    windows = (int(first[-1].headers["x-ratelimit-reset"]), int(second[-1].headers["x-ratelimit-reset"]))
    assert (windows[0] % 3600, windows[1] % 86400) == (0, 0)
    with Sender(desk, secret="s") as sender:
        assert rate(sender.deliver(b"")) == (10_000, 9_999)


def test_senders_are_counted_by_their_address(another_desk: Callable[..., Desk]) -> None:
    limits = {"support-platform": {"webhook": "3/hour"}}
    desk = another_desk(DESKBASE_LIMITS=json.dumps(limits), DESKBASE_INCOMING_WEBHOOK_SECRET="s")
    with Sender(desk, secret="s") as sender:
        answers = [sender.sends("ticket.created", external_id="1", title="x") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [rate(answer) for answer in answers] == [(3, 2), (3, 1), (3, 0), (3, 0)]
    assert_error(answers[-1], 429, "Rate limit exceeded")
    with Person(desk, desk.member("customer")) as person:
        assert person.get("/categories").status_code == 200


def test_webhook_without_a_secret_is_forbidden(desk: Desk) -> None:
    with Sender(desk, secret="") as sender:
        answer = sender.sends("ticket.created", external_id="1", title="x")
    assert_error(answer, 403, "Insufficient permissions")
