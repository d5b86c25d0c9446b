"""The worker: what is done after the commit that asks for it (`deskbase worker`, and one beside every API).

In charge of taking work from queues, which are tables of the product, and of leaving none of it undone: what
a worker had in hand when it died is taken up again, by any of them, when its lease runs out. So work may be
done twice, and never not at all. What is queued, when it is tried again and when it is given up is SQL's
business.
"""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from api import logs, mails
from api.db import Database, Row
from api.errors import SqlError, UnavailableError
from api.logs import Event
from api.mail_links import Secret
from api.mailer import Mailer, MailError, create_mailer
from api.mails import Details
from api.passwords import Passwords
from api.settings import Settings

CONNECTIONS = 2
GRACE_SECONDS = 2.0
UNAVAILABLE_SECONDS = 0.5
REST_SECONDS = 30.0
"""After an error that nobody expected, and where the database knows nothing of a queue."""

UNKNOWN = frozenset({"3F000", "42883"})
"""No such schema or function: Supabase has an auth service of its own, and an older database fewer queues."""

CLAIM = b"select id, kind, email, data from private.claim_mails($1, $2)"
PREPARE = b"select auth_service.prepare_mail($1, $2, $3)"
FINISH = b"select private.finish_mail($1, $2, $3)"
MAILS_AT_ONCE = 5
BATCH = 20
# Longer than it takes to send a batch to a server that keeps everyone waiting.
LEASE_SECONDS = 120

WEAK = b"select id, weak from auth_service.weak_passwords($1)"
STRENGTHEN = b"select auth_service.strengthen_password($1, $2, $3)"
PASSWORDS = 10

FOLD = b"select private.fold_tallies()"
FEW_ROWS = 1000


class Queue(Protocol):
    """Something that there may be to do, and how long to wait when there is nothing."""

    name: str
    idle_seconds: float

    async def work(self) -> int:
        """Do what is due, or some of it, and return how much that was."""


class Mail(NamedTuple):
    """A mail that is ours to send until its lease runs out."""

    id: str
    kind: str
    email: str
    data: bytes

    @classmethod
    def of(cls, row: Row) -> "Mail":
        identifier, kind, email, data = (value or b"" for value in row)
        return cls(identifier.decode(), kind.decode(), email.decode(), data)


class Mails:
    """Outgoing mail."""

    name = "mails"
    idle_seconds = 0.5

    def __init__(self, db: Database, mailer: Mailer, settings: Settings) -> None:
        self._db = db
        self._mailer = mailer
        self._settings = settings
        self._slots = asyncio.Semaphore(MAILS_AT_ONCE)

    async def work(self) -> int:
        """Send a batch."""
        claimed = [Mail.of(row) for row in await self._db.rows(CLAIM, (BATCH, LEASE_SECONDS))]
        async with asyncio.TaskGroup() as group:
            for mail in claimed:
                group.create_task(self._see_to(mail))
        return len(claimed)

    async def _see_to(self, mail: Mail) -> None:
        """Send one mail and note what became of it; a database that is away leaves it to its lease."""
        async with self._slots:
            try:
                failure = await self._send(mail)
                word, is_final = (failure.word, failure.is_final) if failure else (None, False)
                await self._db.rows(FINISH, (mail.id, word, is_final))
            except UnavailableError:
                return
            except SqlError as error:
                logs.failure(Event.MAIL_AT_FAULT, error, mail=mail.id, kind=mail.kind, state=error.state)

    async def _send(self, mail: Mail) -> MailError | None:
        """Send one mail, or not if there is nobody to send it to. Return why it could not be sent."""
        try:
            secret = Secret.make() if mail.kind in mails.WITH_SECRET else None
            details = await self._prepare(mail, secret) if secret else mail.data
            if details is None:
                logs.info(Event.MAIL_DROPPED, mail=mail.id, kind=mail.kind)
                return None
            facts = msgspec.json.decode(details, type=Details)
            await self._mailer.send(mails.compose(self._settings, mail.kind, mail.email, facts, secret))
        except MailError as error:
            logs.warning(Event.MAIL_FAILED, mail=mail.id, kind=mail.kind, reason=error.word, code=error.code)
            return error
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one mail that cannot be made keeps no other waiting
            logs.failure(Event.MAIL_AT_FAULT, error, mail=mail.id, kind=mail.kind)
            return MailError("fault")
        logs.info(Event.MAIL_SENT, mail=mail.id, kind=mail.kind)
        return None

    async def _prepare(self, mail: Mail, secret: Secret) -> bytes | None:
        """Let the database keep the hashes of the secret, and return what it says of its reader."""
        code_hash = secret.code_hash(self._settings.jwt_secret, mail.email)
        (details,) = await self._db.one(PREPARE, (mail.id, secret.token_hash, code_hash))
        return details


class WeakPasswords:
    """Hashes of passwords that SQL made, which core Postgres cannot do as well as argon2id does."""

    name = "passwords"
    idle_seconds = 1.0

    def __init__(self, db: Database, passwords: Passwords) -> None:
        self._db = db
        self._passwords = passwords

    async def work(self) -> int:
        """Strengthen some of them; one that nobody understands stays as it is, and does not count."""
        done = 0
        for identifier, stored in await self._db.rows(WEAK, (PASSWORDS,)):
            weak = (stored or b"").decode()
            strong = await self._passwords.strengthen(weak)
            if strong != weak:
                await self._db.rows(STRENGTHEN, (identifier, weak, strong))
                done += 1
        return done


class Tallies:
    """What was counted lately, gathered so that whoever reads counts has few rows to sum up."""

    name = "tallies"
    idle_seconds = 5.0

    def __init__(self, db: Database) -> None:
        self._db = db

    async def work(self) -> int:
        """Fold some of it; a few rows can wait."""
        (folded,) = await self._db.one(FOLD)
        return int(folded or 0) // FEW_ROWS


async def serve(queues: Sequence[Queue], stopping: asyncio.Event) -> None:
    """Work until told to stop; what is under way then is given GRACE_SECONDS."""
    tasks = [asyncio.create_task(_keep_working(queue, stopping)) for queue in queues]
    await stopping.wait()
    _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


async def _keep_working(queue: Queue, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        if pause := await _pause_after_work(queue):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)


async def _pause_after_work(queue: Queue) -> float:
    try:
        return 0.0 if await queue.work() else queue.idle_seconds
    except UnavailableError:
        return UNAVAILABLE_SECONDS
    except SqlError as error:
        if error.state not in UNKNOWN:
            logs.failure(Event.QUEUE_AT_FAULT, error, queue=queue.name, state=error.state)
    except Exception as error:  # noqa: BLE001 - the other queues go on, and so does this one later
        logs.failure(Event.QUEUE_AT_FAULT, error, queue=queue.name)
    return REST_SECONDS


async def _run(settings: Settings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    mailer = create_mailer(settings.smtp, settings.data_dir / "mail")
    async with contextlib.AsyncExitStack() as stack:
        db = Database(settings.authenticator_url, size=CONNECTIONS, name="deskbase worker")
        stack.push_async_callback(db.close)
        await db.open()
        passwords = Passwords(db)
        stack.push_async_callback(passwords.close)
        logs.info(Event.WORKER_STARTED)
        await serve([Mails(db, mailer, settings), WeakPasswords(db, passwords), Tallies(db)], stopping)
    logs.info(Event.WORKER_STOPPED)


def run(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C. The settings name the database's login and the JWT secret."""
    logs.configure()
    asyncio.run(_run(settings))


if __name__ == "__main__":
    run(Settings.load())
