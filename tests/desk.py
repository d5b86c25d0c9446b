"""A running Deskbase as a test sees it: real processes, a data folder of its own, its addresses and its keys.

In charge of starting `deskbase up`, of stopping it and proving that nothing of it is left, and of the few
things that many tests make: organizations, members, logins, tokens. Which database it runs on is the
business of `tests.databases`.
"""

import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 90
STOP_SECONDS = 10
PROGRAMS = {"DESKBASE_EMBEDDED_POSTGRES", "DESKBASE_POSTGREST_BIN"}
Row = tuple[Any, ...]

CREATE_TOKEN = "select private.create_token(%s, %s, %s, %s, %s) ->> 'token'"
CREATE_USER = """
    insert into auth.users (aud, role, email, email_confirmed_at, confirmation_sent_at)
    values ('authenticated', 'authenticated', %s, now(), now())
    returning id::text
"""
CREATE_MEMBER = """
    insert into public.members (organization_id, user_id, username, email, name, role)
    values (%s, %s, %s, %s, %s, %s)
    returning id::text
"""
CONTACT_OF = "select id::text from public.contacts where organization_id = %s and member_id = %s"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Member:
    """Somebody who can log in to an organization."""

    organization_id: str
    id: str
    user_id: str
    email: str
    username: str
    role: str
    contact_id: str | None


def wait_until(condition: Callable[[], Any], seconds: float = 10, what: str = "") -> Any:
    """Return the condition's value as soon as it is true; fail when it is not within the seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} seconds: {what or condition}")
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nothing listens on, below those that outgoing connections are given."""
    ports = random.sample(range(20200, 32000), 50)
    for port in ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def unique(word: str) -> str:
    """Return a name that no other test, worker or run uses."""
    return f"{word}-{next(_numbers)}-{secrets.token_hex(4)}"


class Desk:
    """`deskbase up` in a data folder of its own, and how to reach it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="desk-"))
        self._base.chmod(0o711)  # Postgres, which does not run as root, has to pass through
        self.data_dir = self._base / "data"
        self.environ = {
            **{name: text for name, text in os.environ.items() if _is_passed_on(name)},
            "DESKBASE_DATA_DIR": str(self.data_dir),
            "DESKBASE_PORT": str(free_port()),
            "DESKBASE_DB_PORT": str(free_port()),
            "PYTHONPATH": str(PROJECT),
            **environment,
        }
        self.log = self._base / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: psycopg.Connection[Row] | None = None
        self.status: dict[str, str] = {}

    # Addresses and keys

    @property
    def url(self) -> str:
        return self.status["API_URL"]

    @property
    def rest_url(self) -> str:
        """PostgREST behind the gateway."""
        return self.status["REST_URL"]

    @property
    def postgrest_url(self) -> str:
        """PostgREST itself."""
        return self.status["POSTGREST_URL"]

    @property
    def db_url(self) -> str:
        return self.status["DB_URL"]

    @property
    def anon_key(self) -> str:
        return self.status["ANON_KEY"]

    @property
    def service_key(self) -> str:
        return self.status["SERVICE_ROLE_KEY"]

    @property
    def publishable_key(self) -> str:
        return self.status["PUBLISHABLE_KEY"]

    @property
    def secret_key(self) -> str:
        return self.status["SECRET_KEY"]

    @property
    def jwt_secret(self) -> str:
        return self.status["JWT_SECRET"]

    # Life

    def start(self, *, until_ready: bool = True) -> None:
        """Start it and wait until /ready says yes; or, without, only until it has said where it is."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "up"],
                env=self.environ,
                cwd=self._base,  # no .env of the checkout
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{self.environ['DESKBASE_PORT']}"
        wait_until(lambda: self._answers(f"{url}/{'ready' if until_ready else 'health'}"), START_SECONDS, url)
        self.status = json.loads(self.run("status", "-o", "json").stdout)

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run another `deskbase` command on this data folder."""
        return subprocess.run(
            [sys.executable, "-m", "api.cli", *arguments],
            env=self.environ,
            cwd=self._base,
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def output(self) -> str:
        """Return what `deskbase up` has printed."""
        return self.log.read_text(errors="replace")

    def descendants(self) -> set[tuple[int, int]]:
        """Return the processes below `deskbase up`, each with its start time: numbers are used again."""
        return set(_descendants(self.process.pid)) if self.process else set()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Stop it; fail unless it ends in time and leaves no process. Return the seconds that it took."""
        if self.process is None:
            return 0.0
        self._disconnect()
        below = self.descendants()
        begun = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise AssertionError(f"did not stop within {STOP_SECONDS} seconds:\n{self._tail()}") from None
        took = time.monotonic() - begun
        self.process = None
        if left := [pid for pid, started in below if _start_time(pid) == started]:
            commands = [_command(pid) for pid in left]
            _kill(left)
            raise AssertionError(f"stopped, but left behind: {commands}")
        return took

    def kill(self) -> None:
        """End `deskbase up` itself without warning, as a crash would; its children are left to themselves."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def destroy(self) -> None:
        """End whatever there still is, in any way."""
        self._disconnect()
        if self.process:
            below = [pid for pid, _ in self.descendants()]
            self.process.kill()
            self.process.wait()
            self.process = None
            _kill(below)

    def remove(self) -> None:
        """Delete the data folder, wherever its database lies."""
        database = self.data_dir / "postgres"
        if database.is_symlink():
            shutil.rmtree(database.resolve().parent, ignore_errors=True)
        shutil.rmtree(self._base, ignore_errors=True)

    def _answers(self, url: str) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"`deskbase up` ended while it was starting:\n{self._tail()}")
        try:
            return httpx.get(url, timeout=5).is_success
        except httpx.HTTPError:
            return False

    def _tail(self) -> str:
        return self.output()[-4000:]

    # The database, as its owner

    def sql(
        self, statement: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement as the owner, in a transaction of its own, and return its rows."""
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = psycopg.connect(self.db_url, autocommit=True, application_name="tests")
        cursor = self._connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run a statement as the owner and return the first column of its first row."""
        return self.sql(statement, params)[0][0]

    def _disconnect(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    # What many tests make

    def first_organization(self) -> str:
        """Return the organization that commands mean when none is named."""
        return str(self.value("select private.first_organization_id()"))

    def organization(self, name: str | None = None) -> str:
        """Make an organization and return its id."""
        statement = "insert into public.organizations (name) values (%s) returning id"
        return str(self.value(statement, [name or unique("Organization")]))

    def member(self, role: str = "agent", organization: str | None = None, **columns: str) -> Member:
        """Make somebody who can log in, in the first organization unless another is named."""
        organization = organization or self.first_organization()
        username = columns.get("username") or unique(role).replace("_", "-")
        email = columns.get("email") or f"{username}@example.com"
        user = str(self.value(CREATE_USER, [email]))
        row = [organization, user, username, email, columns.get("name") or username, role]
        member = str(self.value(CREATE_MEMBER, row))
        contact = self.sql(CONTACT_OF, [organization, member])
        return Member(organization, member, user, email, username, role, contact[0][0] if contact else None)

    def session(self, member: Member) -> str:
        """Make a login session and return its id, for the claim `session_id`."""
        statement = "insert into auth.sessions (user_id) values (%s) returning id"
        return str(self.value(statement, [member.user_id]))

    def jwt(self, member: Member, **claims: Any) -> str:
        """Sign what a login would have answered; without a session unless `session_id` is given."""
        now = int(time.time())
        all_claims = {
            "iss": f"{self.url}/auth/v1",
            "sub": member.user_id,
            "aud": "authenticated",
            "role": "authenticated",
            "email": member.email,
            "aal": "aal1",
            "app_metadata": {
                "provider": "email",
                "organization_id": member.organization_id,
                "role": member.role,
            },
            "user_metadata": {},
            "iat": now,
            "exp": now + 3600,
            **claims,
        }
        present = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(present, self.jwt_secret, algorithm="HS256")

    def token(
        self,
        name: str | None = None,
        rate_limit: int | None = None,
        organization: str | None = None,
        scopes: Sequence[str] | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """Make an integration token and return its text."""
        organization = organization or self.first_organization()
        row = [
            organization,
            name or unique("token"),
            rate_limit,
            expires_at,
            list(scopes) if scopes else None,
        ]
        return str(self.value(CREATE_TOKEN, row))


def _is_passed_on(name: str) -> bool:
    """Return whether a desk gets the variable: tests set what it runs with, not which programs it finds."""
    return not name.startswith("DESKBASE_") or name in PROGRAMS


def _descendants(pid: int) -> Iterator[tuple[int, int]]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := process_fields(int(folder.name))):
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    waiting = list(parents.get(pid, []))
    while waiting:
        child = waiting.pop()
        if (started := _start_time(child)) is not None:
            yield child, started
        waiting += parents.get(child, [])


def _start_time(pid: int) -> int | None:
    fields = process_fields(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


def process_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return f"process {pid}"


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
