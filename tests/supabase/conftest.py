"""The Supabase command line, a folder for it to work in, and a Postgres that has plpgsql_check."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from api.cluster import account_for, configure, give, init_cluster
from api.migrate import OLDEST_SERVER, SUPABASE
from api.processes import open_log, spawn, wait_ended
from tests.databases import Server, migrated
from tests.desk import PROJECT, free_port, wait_until

PROGRAM = PROJECT / "node_modules" / ".bin" / "supabase"
HAS_CHECK = "select exists (select from pg_available_extensions where name = 'plpgsql_check')"
HOW_TO_GET_IT = (
    "no Postgres here has plpgsql_check, which `supabase db lint` needs; on Debian or Ubuntu: "
    "apt-get install postgresql-15-plpgsql-check (or a newer number), elsewhere set TEST_DATABASE_URL"
)


class CommandLine:
    """`supabase`, at work in a folder that has what the project's own has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(SUPABASE, folder / "supabase", ignore=shutil.ignore_patterns(".*"))

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, however it ends."""
        return subprocess.run(
            [PROGRAM, *arguments],
            check=False,
            cwd=self._folder,
            env=os.environ
            | {
                "HOME": str(self._folder),
                "SUPABASE_TELEMETRY_DISABLED": "1",
                "SUPABASE_NO_UPDATE_NOTIFIER": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def output(self, *arguments: str) -> str:
        """Run a command that has to succeed, and return what it prints."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answer(self, *arguments: str) -> dict[str, Any]:
        """Run a command that has to succeed, and return its answer for programs."""
        return dict(json.loads(self.output(*arguments, "--output-format", "json")))


@pytest.fixture(scope="session")
def supabase(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("supabase"))


@pytest.fixture(scope="session")
def checked_database(server: Server) -> Iterator[str]:
    """The address of a database with the whole schema on a server that has plpgsql_check."""
    with contextlib.ExitStack() as stack:
        if not has_check(server):
            server = stack.enter_context(running_server(debian_programs()))
        yield server.url_of(stack.enter_context(migrated(server)))


def has_check(server: Server) -> bool:
    """Return whether the server has plpgsql_check."""
    with server.connection() as connection:
        return connection.execute(HAS_CHECK).fetchone() == (True,)


def debian_programs() -> Path:
    """Return the folder of the newest Postgres of Debian's that has plpgsql_check.

    Without one the test is skipped, but where CI promises to have everything it fails.
    """
    controls = Path("/usr/share/postgresql").glob("*/extension/plpgsql_check.control")
    for major in sorted((int(control.parts[-3]) for control in controls), reverse=True):
        programs = Path(f"/usr/lib/postgresql/{major}/bin")
        if major >= OLDEST_SERVER and (programs / "postgres").exists():
            return programs
    if os.environ.get("CI") == "true":
        pytest.fail(HOW_TO_GET_IT)
    pytest.skip(HOW_TO_GET_IT)


@contextlib.contextmanager
def running_server(programs: Path) -> Iterator[Server]:
    """Run a Postgres of these programs in a folder of its own, as the account that Deskbase would choose."""
    base = Path(tempfile.mkdtemp(prefix="desk-"))
    base.chmod(0o711)  # Postgres, which does not run as root, has to pass through
    cluster, sockets, port = base / "postgres", base / "socket", free_port()
    account = account_for(cluster)
    try:
        init_cluster(cluster, programs, account)
        configure(cluster, account)
        sockets.mkdir(mode=0o700)
        give(sockets, account)
        with open_log(base / "postgres.log") as log:
            process = spawn(
                [
                    programs / "postgres",
                    "-F",
                    "-D",
                    cluster,
                    "-k",
                    sockets,
                    "-p",
                    str(port),
                    "-h",
                    "127.0.0.1",
                ],
                output=log,
                account=account,
                on_parent_death=signal.SIGINT,
            )
        try:
            wait_until(lambda: admits_owner(sockets, port), 30, f"a Postgres of {programs}")
            yield Server(f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable")
        finally:
            process.send_signal(signal.SIGINT)
            assert wait_ended(process, 10)
    finally:
        shutil.rmtree(base)


def admits_owner(sockets: Path, port: int) -> bool:
    """Give the owner a password for TCP, once the server takes connections."""
    try:
        with psycopg.connect(host=str(sockets), port=port, user="postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("alter role postgres password {}").format("postgres"))
    except psycopg.OperationalError:
        return False
    return True
