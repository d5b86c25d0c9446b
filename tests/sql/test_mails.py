"""Outgoing mail: queued with its reason, taken by one worker at a time, tried again for a day."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.actors import Acting, Organization
from tests.databases import Connection

QUEUE = "select private.queue_mail(%s, %s, %s, %s)"
CLAIM = "select id, kind, email, data from private.claim_mails(%s, %s)"
FINISH = "select private.finish_mail(%s, %s)"
GIVE_UP = "select private.finish_mail(%s, %s, true)"
STATE = """
    select attempts, error, sent_at is not null, failed_at is not null,
        extract(epoch from next_attempt_at - now())::integer
    from private.mails where id = %s
"""
AGE = "update private.mails set next_attempt_at = now() - %s * interval '1 second' where email = %s"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def queue(owner: Acting) -> Callable[..., str]:
    """Queue a mail, due so many seconds ago, and return its id."""

    def queue(email: str = "ann@example.com", due: int = 0) -> str:
        owner.rows(QUEUE, ["signup", email, None, "{}"])
        owner.rows(AGE, [due, email])
        return str(owner.value("select id from private.mails where email = %s", [email]))

    return queue


Queue = Callable[..., str]


def claim(login: Acting, batch: int = 10, lease: int = 60) -> list[str]:
    return [email for _, _, email, _ in login.rows(CLAIM, [batch, lease])]


def test_a_mail_is_queued_with_what_its_text_needs(owner: Acting, login: Acting, north: Organization) -> None:
    owner.rows(QUEUE, ["invite", "Ann@Example.com", north.id, '{"redirect_to": "https://x.example"}'])
    ((_, kind, email, data),) = login.rows(CLAIM, [10, 60])
    assert (kind, email) == ("invite", "ann@example.com")
    assert data == {"redirect_to": "https://x.example", "organization": "north"}


def test_what_is_due_longest_is_taken_first_and_what_is_not_due_is_left(queue: Queue, login: Acting) -> None:
    for email, due in {"b@x.example": 2, "d@x.example": -1, "a@x.example": 3, "c@x.example": 1}.items():
        queue(email, due)
    assert set(claim(login, batch=2)) == {"a@x.example", "b@x.example"}
    assert claim(login, batch=2) == ["c@x.example"]
    assert claim(login) == []


def test_a_mail_that_somebody_has_is_nobody_else_s_until_the_lease_is_over(
    queue: Queue, login: Acting, owner: Acting
) -> None:
    mail = queue()
    assert claim(login, lease=60) == ["ann@example.com"]
    assert owner.row(STATE, [mail]) == (1, None, False, False, 60)
    assert claim(login) == []
    owner.rows(AGE, [0, "ann@example.com"])
    assert claim(login) == ["ann@example.com"]
    assert owner.row(STATE, [mail])[0] == 2


def test_a_mail_that_was_sent_is_done(queue: Queue, login: Acting, owner: Acting) -> None:
    mail = queue()
    claim(login)
    login.rows(FINISH, [mail, "smtp"])
    owner.rows(AGE, [0, "ann@example.com"])
    claim(login)
    login.rows(FINISH, [mail, None])
    assert owner.row(STATE, [mail]) == (2, None, True, False, None)
    login.rows(FINISH, [mail, "too late"])
    assert owner.row(STATE, [mail]) == (2, None, True, False, None)
    assert claim(login) == []


def test_a_mail_that_failed_is_tried_again_later_each_time(
    queue: Queue, login: Acting, owner: Acting
) -> None:
    mail, waits = queue(), []
    for _ in range(12):
        owner.rows(AGE, [0, "ann@example.com"])
        assert claim(login) == ["ann@example.com"]
        login.rows(FINISH, [mail, "smtp"])
        waits.append(owner.row(STATE, [mail])[4])
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]
    assert owner.row(STATE, [mail])[1] == "smtp"


def test_after_a_day_it_is_given_up(queue: Queue, login: Acting, owner: Acting) -> None:
    mail = queue()
    claim(login)
    age = "update private.mails set created_at = now() - %s::interval"
    owner.rows(age, ["24 hours"])
    login.rows(FINISH, [mail, "smtp"])
    assert owner.row(STATE, [mail])[2:4] == (False, False)
    owner.rows(age, ["24 hours 1 second"])
    login.rows(FINISH, [mail, "smtp"])
    assert owner.row(STATE, [mail]) == (1, "smtp", False, True, None)
    assert claim(login) == []


def test_what_cannot_ever_be_sent_is_given_up_at_once(queue: Queue, login: Acting, owner: Acting) -> None:
    mail = queue()
    claim(login)
    login.rows(GIVE_UP, [mail, "address"])
    assert owner.row(STATE, [mail]) == (1, "address", False, True, None)


def test_an_error_is_kept_short(queue: Queue, login: Acting, owner: Acting) -> None:
    mail = queue()
    login.rows(FINISH, [mail, "x" * 5000])
    assert owner.row(STATE, [mail])[1] == "x" * 200


def test_a_mail_that_is_not_there_is_done(login: Acting) -> None:
    login.rows(FINISH, [NOBODY, None])


def test_mail_of_an_organization_goes_with_it(owner: Acting, login: Acting) -> None:
    organization = owner.insert_id("organizations", name="Gone")
    owner.rows(QUEUE, ["invite", "ann@example.com", organization, "{}"])
    owner.rows("delete from public.organizations where id = %s", [organization])
    assert claim(login) == []


def test_a_mail_that_could_not_be_one_is_not_queued(owner: Acting) -> None:
    for kind, email, data in (
        ("Sign up", "ann@example.com", "{}"),
        ("signup", f"{'x' * 400}@example.com", "{}"),
        ("signup", None, "{}"),
        ("signup", "ann@example.com", "[]"),
    ):
        assert owner.refusal(QUEUE, [kind, email, None, data]), (kind, email, data)


def test_finished_mail_is_kept_for_a_week(queue: Queue, login: Acting, owner: Acting) -> None:
    done, waiting = queue("done@x.example"), queue("waiting@x.example")
    login.rows(FINISH, [done, None])
    for days, left in ((6, [done, waiting]), (8, [waiting])):
        owner.rows("update private.mails set created_at = now() - %s * interval '1 day'", [days])
        owner.rows("select private.maintain()")
        assert owner.values("select id from private.mails order by email") == left


@pytest.mark.parametrize(
    "call",
    [
        "select private.queue_mail('signup', 'a@b.c', null, '{}')",
        "select from private.claim_mails(1, 1)",
        f"select private.finish_mail('{NOBODY}')",
        f"select private.read_mail('{NOBODY}')",
        "select private.take_mail('a@b.c')",
        "select from private.mails",
    ],
)
def test_mail_is_the_worker_s_and_the_auth_service_s(
    *, call: str, visitor: Acting, admin: Acting, token: Acting, service: Acting, login: Acting
) -> None:
    for acting in (visitor, admin, token, service):
        acting.refused("42501", call)
    is_the_workers = "claim_mails" in call or "finish_mail" in call
    assert (login.refusal(call) is None) == is_the_workers


def test_an_address_is_sent_twelve_mails_an_hour_at_its_readers_wish(owner: Acting) -> None:
    take = "select private.take_mail(%s)"
    spelled = ["Ann@example.com", "ann@EXAMPLE.com"]
    assert [owner.value(take, [spelled[n % 2]]) for n in range(14)] == [True] * 12 + [False] * 2
    assert owner.value(take, ["bob@example.com"]) is True
    subjects = owner.values("select subject from private.rate_windows where bucket = 'mail'")
    assert len(subjects) == 2
    assert "ann" not in "".join(subjects)


# Workers


@pytest.fixture
def posted(database: str) -> Iterator[set[str]]:
    """A queue of a hundred mails, committed."""
    with psycopg.connect(database, autocommit=True) as connection:
        emails = {f"{number}@x.example" for number in range(100)}
        connection.cursor().executemany(QUEUE, [["signup", email, None, "{}"] for email in sorted(emails)])
        yield emails


def test_two_workers_never_have_the_same_mail(
    posted: set[str], at_once: Callable[..., list[list[str]]]
) -> None:
    def work(by: Connection) -> list[str]:
        mine: list[Any] = []
        while batch := by.execute(CLAIM, [7, 600]).fetchall():
            mine += [email for _, _, email, _ in batch]
            assert len(batch) <= 7
        return mine

    taken = at_once(*[work] * 5)
    assert sorted(email for mine in taken for email in mine) == sorted(posted)


def test_a_worker_does_not_wait_for_another_that_is_just_taking(
    posted: set[str], connect: Callable[[], Connection]
) -> None:
    slow, quick = connect(), connect()
    with slow.transaction():
        taken = {email for _, _, email, _ in slow.execute(CLAIM, [60, 600])}
        quick.execute("set lock_timeout = '5s'")
        others = {email for _, _, email, _ in quick.execute(CLAIM, [60, 600])}
    assert (len(taken), len(others)) == (60, 40)
    assert taken | others == posted
