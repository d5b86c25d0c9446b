"""What several people, or one in several windows, do with accounts at the same time."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.databases import Connection
from tests.sql.auth import PASSWORD, Account, call

Task = Callable[[Connection], Any]
AtOnce = Callable[..., list[Any]]

ADDRESS = "192.0.2.1"


@pytest.fixture
def owner(database: str) -> Iterator[Connection]:
    """The owner of the same database."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def ann(login: Connection) -> Account:
    """Somebody with an account."""
    return new_account(login, "ann@example.com")


@pytest.fixture
def login(connect: Callable[[], Connection]) -> Connection:
    """The service's login, in transactions that are committed."""
    return connect()


def new_account(login: Connection, email: str, **options: Any) -> Account:
    token = f"token of {email}"
    answer = call(login, "sign_up", email=email, autoconfirm=True, refresh_hash=token, **options)
    return Account.of(answer, token)


def is_sent(login: Connection, owner: Connection, kind: str, email: str, token: str = "a token") -> bool:
    """Send the newest mail of that kind, if there is anybody to send it to."""
    newest = "select id from private.mails where kind = %s and email = %s order by created_at desc limit 1"
    (mail,) = owner.execute(newest, [kind, email]).fetchone() or (None,)
    return call(login, "prepare_mail", id=mail, token_hash=token, code_hash="a code") is not None


def refusals(answers: list[Any]) -> Counter[str | None]:
    return Counter(answer["refusal"] for answer in answers)


def test_one_of_ten_who_follow_a_link_at_once_is_logged_in(
    login: Connection, owner: Connection, ann: Account, at_once: AtOnce
) -> None:
    call(login, "request_mail", kind="recovery", email=ann.email)
    assert is_sent(login, owner, "recovery", ann.email)
    numbers = itertools.count()

    def follow(by: Connection) -> Any:
        return call(by, "verify", kind="recovery", token_hash="a token", refresh_hash=f"r{next(numbers)}")

    assert refusals(at_once(*[follow] * 10)) == {None: 1, "otp_expired": 9}


def test_one_of_ten_who_exchange_a_code_at_once_is_logged_in(
    login: Connection, owner: Connection, ann: Account, at_once: AtOnce
) -> None:
    mail = {"code_challenge": "verifier", "code_challenge_method": "plain"}
    call(login, "request_mail", kind="magiclink", email=ann.email, mail=mail)
    assert is_sent(login, owner, "magiclink", ann.email)
    call(login, "verify", kind="magiclink", token_hash="a token", auth_code_hash="code", refresh_hash="r")
    numbers = itertools.count()

    def exchange(by: Connection) -> Any:
        token = f"r{next(numbers)}"
        return call(by, "exchange_code", code_hash="code", verifier="verifier", refresh_hash=token)

    assert refusals(at_once(*[exchange] * 10)) == {None: 1, "flow_state_not_found": 9}


def test_one_of_five_who_show_the_same_code_of_an_app_is_believed(
    login: Connection, ann: Account, at_once: AtOnce
) -> None:
    made = call(login, "enroll_factor", claims=ann.claims)
    challenges = [
        call(login, "challenge_factor", claims=ann.claims, factor_id=made["id"], address=ADDRESS)["id"]
        for _ in range(5)
    ]

    def prove(challenge: str, by: Connection) -> Any:
        return call(
            by,
            "finish_verify_factor",
            claims=ann.claims,
            factor_id=made["id"],
            challenge_id=challenge,
            step=100,
            refresh_hash=f"for {challenge}",
        )

    answers = at_once(*[partial(prove, challenge) for challenge in challenges])
    assert refusals(answers) == {None: 1, "mfa_verification_failed": 4}


@pytest.mark.parametrize("email", ["ann@example.com", "nobody@example.com"])
def test_five_of_twenty_guesses_at_once_are_answered(
    email: str, login: Connection, ann: Account, at_once: AtOnce
) -> None:
    begun = call(login, "begin_login", email=email, address=ADDRESS)

    def guess(by: Connection) -> Any:
        # All of them were told at the same time that nothing is locked.
        found = {"user_id": begun["user_id"], "stored": begun["stored"]}
        return call(
            by, "finish_login", email=email, address=ADDRESS, matches=False, refresh_hash="r", **found
        )

    assert refusals(at_once(*[guess] * 20)) == {"invalid_credentials": 5, "over_request_rate_limit": 15}


def test_five_of_twenty_codes_that_are_tried_at_once_are_looked_at(
    login: Connection, owner: Connection, ann: Account, at_once: AtOnce
) -> None:
    call(login, "request_mail", kind="recovery", email=ann.email)
    assert is_sent(login, owner, "recovery", ann.email)

    def guess(number: int, by: Connection) -> Any:
        code = f"guess {number}"
        return call(by, "verify", kind="recovery", email=ann.email, code_hash=code, refresh_hash="r")

    answers = at_once(*[partial(guess, number) for number in range(20)])
    assert refusals(answers) == {"otp_expired": 5, "over_request_rate_limit": 15}


def test_ten_who_sign_up_with_one_address_at_once_are_one_account(owner: Connection, at_once: AtOnce) -> None:
    def sign_up(by: Connection) -> Any:
        return call(by, "sign_up", email="ann@example.com", refresh_hash="r")

    answers = at_once(*[sign_up] * 10)
    (account,) = owner.execute("select id::text from auth.users").fetchall()
    assert {answer["person"]["id"] for answer in answers} == set(account)
    assert owner.execute("select count(*) from public.organizations").fetchone() == (1,)


def test_one_of_two_who_want_the_same_address_gets_it(
    login: Connection, owner: Connection, at_once: AtOnce
) -> None:
    people = [new_account(login, email) for email in ("ann@example.com", "bob@example.com")]
    for person in people:
        call(login, "update_user", claims=person.claims, email="new@example.com")
        old, new = f"old of {person.email}", f"new of {person.email}"
        assert is_sent(login, owner, "email_change", person.email, old)
        assert is_sent(login, owner, "email_change", "new@example.com", new)
        call(login, "verify", kind="email_change", token_hash=old, refresh_hash="r")

    def agree(person: Account, by: Connection) -> str:
        token = f"new of {person.email}"
        try:
            answer = call(by, "verify", kind="email_change", token_hash=token, refresh_hash=token)
        except psycopg.errors.DatabaseError as error:
            return str(error.diag.message_primary)
        return str(answer["claims"]["email"])

    assert sorted(at_once(*[partial(agree, person) for person in people])) == [
        "email_exists",
        "new@example.com",
    ]


def test_a_session_is_ended_though_it_is_being_refreshed(
    login: Connection, owner: Connection, at_once: AtOnce
) -> None:
    for number in range(5):
        account = new_account(login, f"person-{number}@example.com")
        token = account.refresh_token

        def refresh(by: Connection, token: str = token) -> Any:
            return call(by, "refresh", token_hash=token, next_hash=f"{token}'")

        def log_out(by: Connection, claims: dict[str, Any] = account.claims) -> None:
            call(by, "log_out", claims=claims, scope="global")

        at_once(refresh, refresh, log_out, refresh)
        assert owner.execute("select from auth.sessions").fetchall() == []
        assert owner.execute("select from auth.refresh_tokens").fetchall() == []


# Everything


SECONDS = 2.0
EXPECTED = {"PT401", "PT403", "PT404", "PT422", "PT429"}
"""How something may be refused to whoever has just been logged out by somebody else."""


UNBOUND = """
    -- Circles are found at once, and the bound of mails is not what this is about.
    do $$ begin execute format('alter database %I set deadlock_timeout = 20', current_database()); end $$;
    create function private.unbound() returns trigger language plpgsql
    as $$ begin new.used := 0; return new; end $$;
    create trigger _100_unbound before insert or update on private.rate_windows
    for each row execute function private.unbound();
"""


EMAILS = ["ann@example.com", "ann.2@example.com"]
ROLES = ["customer", "agent", "team_lead"]
MEMBER = "select organization_id, id from public.members where user_id = %s::uuid"
UPDATE_MEMBER = "select private.update_member(%s, %s, null, %s, null, %s)"


class Window:
    """One of many windows in which this and that is done with one account."""

    def __init__(self, by: Connection, owner: Connection, shared: list[Account], number: int) -> None:
        self._by = by
        self._owner = owner
        self._shared = shared
        self._random = random.Random(number)
        self._words = (f"{number}-{each}" for each in itertools.count())
        self.refused: Counter[str] = Counter()

    def work(self) -> None:
        deeds = [
            self.log_in,
            self.refresh,
            self.log_out,
            self.change_password,
            self.change_address,
            self.follow_link,
            self.prove_factor,
            self.drop_factors,
            self.work_as_service,
            self.work_as_admin,
        ]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                self._random.choice(deeds)()
            except psycopg.Error as error:
                self.refused[error.sqlstate or str(error)] += 1

    @property
    def _account(self) -> Account:
        """One of the newest sessions of the account, whoever opened it."""
        return self._random.choice(self._shared[-8:])

    def log_in(self) -> None:
        account, token = self._shared[0], next(self._words)
        proof = {"user_id": account.id, "stored": PASSWORD, "refresh_hash": token}
        answer = call(self._by, "finish_login", email=self._random.choice(EMAILS), **proof)
        if answer["claims"]:
            self._shared.append(Account.of(answer, token))

    def refresh(self) -> None:
        token = self._account.refresh_token
        call(self._by, "refresh", token_hash=token, next_hash=f"{token}'")

    def log_out(self) -> None:
        scope = self._random.choice(["local", "others", "global"])
        call(self._by, "log_out", claims=self._account.claims, scope=scope)

    def change_password(self) -> None:
        call(self._by, "update_user", claims=self._account.claims, password_hash=PASSWORD)

    def change_address(self) -> None:
        email, token = self._random.choice(EMAILS), next(self._words)
        call(self._by, "update_user", claims=self._account.claims, email=email)
        if is_sent(self._by, self._owner, "email_change", email, token):
            call(self._by, "verify", kind="email_change", token_hash=token, refresh_hash=token)

    def follow_link(self) -> None:
        email, token = self._random.choice(EMAILS), next(self._words)
        call(self._by, "request_mail", kind="recovery", email=email)
        if is_sent(self._by, self._owner, "recovery", email, token):
            answer = call(self._by, "verify", kind="recovery", token_hash=token, refresh_hash=token)
            if answer["claims"]:
                self._shared.append(Account.of(answer, token))

    def prove_factor(self) -> None:
        claims = self._account.claims
        factor = {"factor_id": call(self._by, "enroll_factor", claims=claims)["id"]}
        challenge = call(self._by, "challenge_factor", claims=claims, address=ADDRESS, **factor)
        proof = {"challenge_id": challenge["id"], "step": 1, "refresh_hash": next(self._words), **factor}
        call(self._by, "finish_verify_factor", claims=claims, **proof)

    def drop_factors(self) -> None:
        account = self._account
        for factor in call(self._by, "admin_factors", user_id=account.id):
            if self._random.random() < 0.5:
                call(self._by, "unenroll_factor", claims=account.claims, factor_id=factor["id"])
            else:
                call(self._by, "admin_delete_factor", user_id=account.id, factor_id=factor["id"])

    def work_as_service(self) -> None:
        attributes = {"email": self._random.choice(EMAILS), "user_metadata": {"n": 1}}
        call(self._by, "admin_update", id=self._account.id, attributes=attributes)

    def work_as_admin(self) -> None:
        (member,) = self._owner.execute(MEMBER, [self._account.id]).fetchall()
        change = [self._random.choice(ROLES), self._random.random() < 0.9]
        self._owner.execute(UPDATE_MEMBER, [*member, *change])


def test_nobody_waits_for_anybody_in_a_circle(
    database: str, login: Connection, owner: Connection, at_once: AtOnce
) -> None:
    owner.execute(UNBOUND)
    founder = new_account(login, "founder@example.com").claims["app_metadata"]["organization_id"]
    shared = [new_account(login, EMAILS[0], data={"organization_id": founder})]
    windows: list[Window] = []

    def work(by: Connection) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            window = Window(by, connection, shared, len(windows))
            windows.append(window)
            window.work()

    at_once(*[work] * 8)
    refused = sum((window.refused for window in windows), Counter[str]())
    assert refused.keys() <= EXPECTED, refused
