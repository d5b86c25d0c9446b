"""The embedded Postgres: a server that Deskbase starts and stops in its data folder.

In charge of the server's process, port, socket and password. Its files are `api.cluster`'s, what is inside
the database `api.migrate`'s. Only the holder of the data folder's lock (`api.instance`) may start one.
"""

import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import msgspec
import psycopg
from psycopg import sql

from api import cluster as clusters
from api.cluster import EmbeddedError
from api.processes import Account, free_ports, last_lines, open_log, port_is_free, spawn, wait_ended

FIRST_PORT = 54322
# Linux allows 107 bytes for a socket's path; Postgres appends `/.s.PGSQL.54322.lock`.
LONGEST_SOCKET_FOLDER = 85
START_SECONDS = 300
FAST_SECONDS, IMMEDIATE_SECONDS = 4.0, 1.0


class Record(msgspec.Struct, frozen=True):
    """What the data folder remembers about the embedded server between two runs."""

    port: int
    socket_dir: str


class Embedded:
    """One embedded server. `start` returns when it takes connections; `stop` when it has ended."""

    def __init__(self, data_dir: Path, password: str, *, port: int | None = None, major: int = 18) -> None:
        self.data_dir = data_dir
        self._password = password
        self._wanted_port = port
        self._new_major = major
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def port(self) -> int:
        return self._known().port

    @property
    def major(self) -> int:
        return clusters.major_of(clusters.find_cluster(self.data_dir)) or self._new_major

    def url(self) -> str:
        """Return the owner's address over loopback TCP, for any client."""
        login = f"postgres:{quote(self._password, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def socket_url(self, user: str = "postgres") -> str:
        """Return the address over the socket, which asks for no password and is its owner's alone."""
        known = self._known()
        return f"postgresql://{user}@/postgres?host={quote(known.socket_dir, safe='')}&port={known.port}"

    def start(self) -> None:
        """Make the cluster if there is none, and start the server. Raises EmbeddedError."""
        cluster = clusters.find_cluster(self.data_dir)
        account = clusters.account_for(cluster)
        major = clusters.major_of(cluster)
        programs = clusters.reachable_programs(major or self._new_major, account)
        if major is None:
            clusters.init_cluster(cluster, programs, account)
        clusters.end_leftover(cluster)
        clusters.configure(cluster, account)
        self._launch(cluster, programs, account)
        self._set_password()

    def stop(self) -> None:
        """Stop the server: its clients are disconnected, what is committed is safe."""
        if self._process is None:
            return
        _end(self._process)
        self._process = None

    def _launch(self, cluster: Path, programs: Path, account: Account | None) -> None:
        log = self.data_dir / "logs" / "postgres.log"
        sockets = self._socket_dir(cluster.parent, account)
        for port in self._ports():
            _forget_socket(sockets, port)
            self._save(Record(port=port, socket_dir=str(sockets)))
            with open_log(log) as output:
                self._process = spawn(
                    [programs / "postgres", "-D", cluster, "-k", sockets, "-p", str(port), "-h", "127.0.0.1"],
                    output=output,
                    account=account,
                    on_parent_death=signal.SIGINT,
                )
            if self._wait_ready():
                self._wanted_port = port  # a restart must not move: clients know the address
                return
            if port_is_free(port):
                break
        raise EmbeddedError(f"The embedded Postgres would not start. The end of {log}:\n{last_lines(log)}")

    def _wait_ready(self) -> bool:
        """Wait while the server starts, or recovers from a crash; return false if it ends instead."""
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            try:
                psycopg.connect(self.socket_url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return True
        self.stop()
        return False

    def _ports(self) -> Iterable[int]:
        """Return the ports to try: the one that was asked for, or the last one and then what is free."""
        if self._wanted_port is None:
            kept = self._load()
            first = [kept.port] if kept and port_is_free(kept.port) else []
            return [*first, *islice(free_ports(FIRST_PORT), 20)]
        if port_is_free(self._wanted_port):
            return [self._wanted_port]
        raise EmbeddedError(
            f"Port {self._wanted_port} on 127.0.0.1 is taken by another program; give the embedded Postgres "
            "another one with DESKBASE_DB_PORT, or leave that empty to let it find one."
        )

    def _socket_dir(self, base: Path, account: Account | None) -> Path:
        """Return a private folder for the socket with a path that is short enough."""
        folder = base / "socket"
        if len(os.fsencode(folder)) > LONGEST_SOCKET_FOLDER:
            kept = self._load()
            if kept and _is_private(Path(kept.socket_dir), account.uid if account else os.geteuid()):
                return Path(kept.socket_dir)
            folder = Path(tempfile.mkdtemp(prefix="deskbase-"))
        folder.mkdir(mode=0o700, exist_ok=True)
        clusters.give(folder, account)
        return folder

    def _set_password(self) -> None:
        """Give `postgres` its password for TCP; the server is sent the hash only."""
        with psycopg.connect(self.socket_url(), autocommit=True) as connection:
            hashed = connection.pgconn.encrypt_password(
                self._password.encode(), b"postgres", b"scram-sha-256"
            )
            connection.execute(sql.SQL("alter role postgres password {}").format(hashed.decode()))

    def _known(self) -> Record:
        if known := self._load():
            return known
        raise EmbeddedError(f"{self.data_dir} holds no embedded database yet; `deskbase up` makes one.")

    def _load(self) -> Record | None:
        try:
            return msgspec.json.decode((self.data_dir / "postgres.json").read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _save(self, record: Record) -> None:
        draft = self.data_dir / "postgres.json.new"
        draft.write_bytes(msgspec.json.encode(record))
        draft.replace(self.data_dir / "postgres.json")


def _is_private(folder: Path, owner: int) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and stat.S_IMODE(found.st_mode) == 0o700


def _forget_socket(folder: Path, port: int) -> None:
    """Remove what a server that was killed has left: whoever has its process number now, is not that server.

    The folder is this cluster's alone, and no server of it is running when one is started.
    """
    for name in (f".s.PGSQL.{port}.lock", f".s.PGSQL.{port}"):
        (folder / name).unlink(missing_ok=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Shut down fast, with a checkpoint; where that takes too long, at once: the next start recovers."""
    for number, seconds in ((signal.SIGINT, FAST_SECONDS), (signal.SIGQUIT, IMMEDIATE_SECONDS)):
        if process.poll() is None:
            process.send_signal(number)
        if wait_ended(process, seconds):
            return
    process.kill()
    process.wait()
