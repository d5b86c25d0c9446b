"""The worker: what is queued is done once if nothing breaks, and at least once whatever breaks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg import sql

from api import worker
from api.db import Database
from api.keys import authenticator_password
from api.mailer import SmtpServer, create_mailer
from api.migrate import login_url
from api.passwords import Passwords
from api.settings import Settings
from api.worker import Mails, Tallies, WeakPasswords
from tests.databases import Server, name_of
from tests.desk import CREATE_USER, PROJECT, Desk, unique, wait_until
from tests.smtp import MailServer, running

QUEUE = "select private.queue_mail(%s, %s, null, %s)"
STATE = """
    select attempts, error, sent_at is not null, failed_at is not null,
        round(extract(epoch from next_attempt_at - now()))::integer
    from private.mails where email = %s
"""
COUNTS = "select is_folded, tickets from private.ticket_tallies"
UNSENT = "select count(*) from private.mails where sent_at is null"
DUE = "update private.mails set next_attempt_at = now() where next_attempt_at is not null"
TABLES = """
    select c.oid::regclass::text from pg_class as c
    where c.relkind = 'r' and c.relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema')
"""
END_ALL = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
HASHES = """
    select token_hash = encode(sha256(%s), 'hex'), code_hash ~ '^[0-9a-f]{64}$' from auth.one_time_tokens
    where relates_to = %s
"""
Row = tuple[Any, ...]


class Desktop:
    """A database of the test's own, its settings, and the workers and the mail server of the test."""

    def __init__(self, url: str, settings: Settings, folder: Path, server: MailServer) -> None:
        self.url = url
        self.settings = settings
        self.server = server
        self.log = folder / "worker.log"
        self._folder = folder
        self._connection: psycopg.Connection[Row] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def ask(self, statement: str, *params: object) -> list[Row]:
        """Run a statement as the owner."""
        if self._connection is None:
            self._connection = psycopg.connect(self.url, autocommit=True)
        cursor = self._connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []

    def user(self, *, is_confirmed: bool = True) -> str:
        """Make somebody with an account and return their address."""
        email = f"{unique('somebody')}@example.com"
        self.ask(CREATE_USER, email)
        if not is_confirmed:
            self.ask("update auth.users set email_confirmed_at = null where email = %s", email)
        return email

    def queue(self, kind: str = "password_changed", email: str = "", data: str = "{}") -> str:
        """Queue a mail and return whom it is to."""
        email = email or f"{unique('somebody')}@example.com"
        self.ask(QUEUE, kind, email, data)
        return email

    def state(self, email: str) -> Row:
        """Return what became of a mail so far, and in how many seconds it is due."""
        return self.ask(STATE, email)[0]

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a worker."""
        environ = {name: text for name, text in os.environ.items() if not name.startswith("DESKBASE_")} | {
            "DESKBASE_AUTHENTICATOR_URL": self.settings.authenticator_url,
            "DESKBASE_JWT_SECRET": self.settings.jwt_secret,
            "DESKBASE_DATA_DIR": str(self.settings.data_dir),
            "DESKBASE_SMTP_URL": self.server.url,
            "DESKBASE_PUBLIC_URL": self.settings.public_url,
            "PYTHONPATH": str(PROJECT),
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.worker"], env=environ, cwd=self._folder, stderr=log
            )
        self._workers.append(process)
        return process

    @contextmanager
    def database_away(self, server: Server) -> Iterator[None]:
        """Let nobody into the database for a while, and end those who are in."""
        self._disconnect()
        name = name_of(self.url)
        allow = sql.SQL("alter database {} allow_connections {}")
        with server.connection() as connection:
            connection.execute(allow.format(sql.Identifier(name), sql.Literal(False)))
            connection.execute(END_ALL, [name])
            yield
            connection.execute(allow.format(sql.Identifier(name), sql.Literal(True)))

    def close(self) -> None:
        """End everything."""
        for process in self._workers:
            process.kill()
            process.wait()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


@pytest.fixture
def desktop(database: str, desk: Desk, tmp_path: Path) -> Iterator[Desktop]:
    settings = Settings(
        data_dir=tmp_path,
        authenticator_url=login_url(database, authenticator_password(desk.jwt_secret)),
        jwt_secret=desk.jwt_secret,
        public_url="https://desk.example.com",
    )
    with ExitStack() as stack:
        server = stack.enter_context(running(MailServer()))
        desktop = Desktop(database, replace(settings, smtp=SmtpServer.parse(server.url)), tmp_path, server)
        stack.callback(desktop.close)
        yield desktop


@pytest.fixture
async def db(desktop: Desktop) -> AsyncIterator[Database]:
    database = Database(desktop.settings.authenticator_url, size=2)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def mails(desktop: Desktop, db: Database) -> Mails:
    return Mails(db, create_mailer(desktop.settings.smtp, desktop.settings.data_dir), desktop.settings)


@pytest.fixture
async def passwords(db: Database) -> AsyncIterator[Passwords]:
    made = Passwords(db)
    yield made
    await made.close()


def secrets_in(message: EmailMessage) -> tuple[str, str]:
    """Return the token and the code of a mail, as its reader finds them."""
    body = message.get_body(("plain",))
    assert body
    lines = body.get_content().splitlines()
    (link,) = [line for line in lines if line.startswith("https://")]
    (code,) = [line for line in lines if line.isdigit()]
    return parse_qs(urlsplit(link).query)["token"][0], code


# One mail


async def test_a_mail_is_sent_and_noted(desktop: Desktop, mails: Mails) -> None:
    email = desktop.queue()
    assert await mails.work() == 1
    assert desktop.server.recipients == [email]
    assert desktop.state(email) == (1, None, True, False, None)
    assert await mails.work() == 0


async def test_a_mail_brings_a_secret_of_which_the_database_has_hashes_alone(
    desktop: Desktop, mails: Mails
) -> None:
    email = desktop.queue("recovery", desktop.user(), '{"redirect_to": "https://app.example.com/"}')
    await mails.work()
    token, code = secrets_in(desktop.server.deliveries[0].message)
    in_no_fraction = rf"(^|[^.\d]){code}(?!\d)"
    assert desktop.ask(HASHES, token.encode(), email) == [(True, True)]
    for (table,) in desktop.ask(TABLES):
        rows = f"select count(*) from {table} as t where"
        assert desktop.ask(f"{rows} position(%s in t::text) > 0", token) == [(0,)], table
        assert desktop.ask(f"{rows} t::text ~ %s", in_no_fraction) == [(0,)], table


async def test_a_mail_with_nobody_to_read_it_is_dropped(desktop: Desktop, mails: Mails) -> None:
    confirmed, unknown = desktop.user(), "unknown@example.com"
    desktop.queue("signup", confirmed)
    desktop.queue("recovery", unknown)
    assert await mails.work() == 2
    assert desktop.server.deliveries == []
    assert desktop.state(confirmed)[2] is desktop.state(unknown)[2] is True


# What fails


async def test_a_failure_is_tried_again_after_twice_as_long_each_time(desktop: Desktop, mails: Mails) -> None:
    email = desktop.queue()
    desktop.server.replies.extend(["450 Later"] * 3)
    for attempt, seconds in enumerate([10, 20, 40], start=1):
        await mails.work()
        attempts, error, is_sent, is_given_up, due = desktop.state(email)
        assert (attempts, error, is_sent, is_given_up) == (attempt, "deferred", False, False)
        assert seconds - 2 <= due <= seconds
        assert await mails.work() == 0
        desktop.ask(DUE)
    await mails.work()
    assert desktop.state(email) == (4, None, True, False, None)
    assert desktop.server.recipients == [email]


async def test_a_new_attempt_brings_a_new_secret_and_voids_the_last(desktop: Desktop, mails: Mails) -> None:
    desktop.queue("recovery", desktop.user())
    desktop.queue("recovery", desktop.ask("select email from private.mails")[0][0])
    await mails.work()
    hashes = desktop.ask("select token_hash from auth.one_time_tokens")
    assert len(hashes) == 1
    tokens = {secrets_in(delivery.message)[0] for delivery in desktop.server.deliveries}
    assert len(tokens) == 2


async def test_after_a_day_a_mail_is_given_up(desktop: Desktop, mails: Mails) -> None:
    email = desktop.queue()
    desktop.ask("update private.mails set created_at = now() - interval '25 hours'")
    desktop.server.stop()
    await mails.work()
    assert desktop.state(email) == (1, "unreachable", False, True, None)
    assert await mails.work() == 0


async def test_a_refused_recipient_is_given_up_at_once(desktop: Desktop, mails: Mails) -> None:
    email = desktop.queue()
    desktop.server.replies.append("550 5.1.1 No such user")
    await mails.work()
    assert desktop.state(email) == (1, "refused", False, True, None)


async def test_a_server_may_be_away_and_come_back(desktop: Desktop, mails: Mails) -> None:
    email = desktop.queue()
    desktop.server.stop()
    await mails.work()
    assert desktop.state(email)[1] == "unreachable"
    desktop.server.start()
    desktop.ask(DUE)
    await mails.work()
    assert desktop.server.recipients == [email]


async def test_one_mail_at_fault_keeps_no_other_waiting(desktop: Desktop, mails: Mails) -> None:
    broken, unknown = desktop.queue(data='{"minutes": "many"}'), desktop.queue("greeting")
    whole = desktop.queue()
    assert await mails.work() == 3
    assert desktop.server.recipients == [whole]
    assert desktop.state(broken)[1] == "fault"
    assert desktop.state(unknown)[1] == "kind"


def test_a_worker_that_loses_the_database_in_mid_send_goes_on_when_it_is_back(
    desktop: Desktop, server: Server
) -> None:
    email = desktop.queue()
    desktop.server.keeps_waiting = True
    process = desktop.start()
    assert desktop.server.waiting.acquire(timeout=20)
    with desktop.database_away(server):
        desktop.server.keeps_waiting = False
        wait_until(lambda: desktop.server.recipients, what="the mail was sent")
        assert process.poll() is None
    later = desktop.queue()
    wait_until(lambda: later in desktop.server.recipients, what="the worker goes on")
    assert desktop.state(email)[2] is False  # sent, but not noted: it comes again when the lease is over


# Processes


def test_two_workers_share_the_work_and_send_everything_once(desktop: Desktop) -> None:
    emails = sorted(desktop.queue() for _ in range(50))
    workers = [desktop.start(), desktop.start()]
    wait_until(lambda: desktop.ask(UNSENT) == [(0,)], 30, "everything is sent")
    assert sorted(desktop.server.recipients) == emails
    log = desktop.log.read_text()
    assert log.count("mail sent") == 50
    assert not any(email in log for email in emails)
    assert all(process.poll() is None for process in workers)


def test_what_a_killed_worker_had_in_hand_is_sent_when_its_lease_is_over(desktop: Desktop) -> None:
    email = desktop.queue("recovery", desktop.user())
    desktop.server.keeps_waiting = True
    process = desktop.start()
    assert desktop.server.waiting.acquire(timeout=20)
    process.kill()
    process.wait()
    desktop.server.keeps_waiting = False
    attempts, _, is_sent, _, due = desktop.state(email)
    assert (attempts, is_sent) == (1, False)
    assert worker.LEASE_SECONDS - 30 < due <= worker.LEASE_SECONDS
    desktop.start()
    desktop.ask(DUE)
    wait_until(lambda: desktop.state(email)[2], 20, "the mail is sent")
    assert desktop.server.recipients == [email]
    assert desktop.state(email)[:2] == (2, None)


def test_a_worker_that_is_told_to_stop_finishes_what_takes_a_moment(desktop: Desktop) -> None:
    email = desktop.queue()
    desktop.server.keeps_waiting = True
    process = desktop.start()
    assert desktop.server.waiting.acquire(timeout=20)
    process.terminate()
    desktop.server.keeps_waiting = False
    assert process.wait(worker.GRACE_SECONDS + 1) == 0
    assert desktop.state(email)[2]
    assert desktop.log.read_text().splitlines()[-1].count("worker stopped") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_server_that_hangs(
    desktop: Desktop, number: signal.Signals
) -> None:
    email = desktop.queue()
    desktop.server.keeps_waiting = True
    process = desktop.start()
    assert desktop.server.waiting.acquire(timeout=20)
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == 0
    assert worker.GRACE_SECONDS - 0.5 < time.monotonic() - begun < worker.GRACE_SECONDS + 1
    assert desktop.state(email)[:3] == (1, None, False)


def test_an_idle_worker_sends_what_comes_within_a_second_and_logs_no_secret(desktop: Desktop) -> None:
    desktop.start()
    wait_until(lambda: "worker started" in desktop.log.read_text(), 20)
    begun = time.monotonic()
    email = desktop.queue("magiclink", desktop.user())
    wait_until(lambda: desktop.server.deliveries, what="the mail is sent")
    assert time.monotonic() - begun < 2
    wait_until(lambda: "mail sent" in desktop.log.read_text())
    log = desktop.log.read_text()
    assert not any(secret in log for secret in (*secrets_in(desktop.server.deliveries[0].message), email))


def test_a_worker_waits_for_a_database_that_is_away(desktop: Desktop, server: Server) -> None:
    with desktop.database_away(server):
        process = desktop.start()
        wait_until(lambda: "worker started" in desktop.log.read_text(), 20)
        assert process.poll() is None
    email = desktop.queue()
    wait_until(lambda: desktop.server.recipients == [email], what="the mail is sent")


# Passwords


async def test_a_password_that_sql_hashed_is_strengthened_and_goes_on_working(
    desktop: Desktop, db: Database, passwords: Passwords
) -> None:
    email, without = desktop.user(), desktop.user()
    desktop.ask(
        "update auth.users set encrypted_password = private.hash_password('correct horse') where email = %s",
        email,
    )
    queue = WeakPasswords(db, passwords)
    assert await queue.work() == 1
    assert await queue.work() == 0
    stored = "select encrypted_password from auth.users where email = %s"
    strong = desktop.ask(stored, email)[0][0]
    assert "$argon2id$" in strong
    assert (await passwords.verify("correct horse", strong)).matches
    assert not (await passwords.verify("incorrect horse", strong)).matches
    assert desktop.ask(stored, without) == [(None,)]


async def test_a_password_that_nobody_understands_stays_and_keeps_nobody_busy(
    desktop: Desktop, db: Database, passwords: Passwords
) -> None:
    email = desktop.user()
    desktop.ask("update auth.users set encrypted_password = '$pbkdf2-sha512$x' where email = %s", email)
    assert await WeakPasswords(db, passwords).work() == 0


# Counts


async def test_what_was_counted_lately_is_gathered_and_adds_up_to_the_same(
    desktop: Desktop, db: Database
) -> None:
    ((organization,),) = desktop.ask("insert into public.organizations (name) values ('x') returning id")
    for _ in range(5):
        desktop.ask(
            "insert into public.tickets (organization_id, subject) values (%s, 'x')", str(organization)
        )
    assert desktop.ask(COUNTS) == [(False, 1)] * 5
    await Tallies(db).work()
    assert desktop.ask(COUNTS) == [(True, 5)]


def test_without_an_auth_service_of_ours_its_queue_rests_and_the_others_go_on(desktop: Desktop) -> None:
    desktop.ask("drop schema auth_service cascade")
    desktop.start()
    email = desktop.queue()
    wait_until(lambda: desktop.server.recipients == [email], 20, "the mail is sent")
    assert "at fault" not in desktop.log.read_text()
