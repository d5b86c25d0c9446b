"""`deskbase up` as a person meets it: it starts, says what is wrong, recovers, and stops as a whole."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.desk import Desk, free_port, wait_until
from tests.smtp import MailServer, running

QUEUE_MAIL = "select private.queue_mail('password_changed', %s, null, '{}')"


@pytest.fixture
def make_desk() -> Iterator[Callable[..., Desk]]:
    """Make a desk on an embedded database of its own, not started yet; nothing of it outlives the test."""
    with ExitStack() as stack:

        def make(**settings: str) -> Desk:
            desk = Desk(settings)
            stack.callback(desk.remove)
            stack.callback(desk.destroy)
            return desk

        yield make


def refusal(desk: Desk) -> str:
    """Run `deskbase up`, which must refuse, and return the one sentence it says."""
    done = desk.run("up", check=False)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    return line


def child(desk: Desk, word: str) -> int:
    """Return the direct child of `deskbase up` whose command has the word in it."""
    assert desk.process
    return next(
        pid
        for pid, _ in sorted(desk.descendants())
        if word in Path(f"/proc/{pid}/cmdline").read_text() and _parent(pid) == desk.process.pid
    )


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_one_command_starts_everything_and_says_where(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.start()
    wait_until(lambda: "is ready" in desk.output())
    assert f"Deskbase is ready at {desk.url}" in desk.output().splitlines()
    assert httpx.get(f"{desk.url}/ready").status_code == 200
    assert httpx.get(f"{desk.postgrest_url}/", timeout=10).status_code == 200
    admins = desk.sql(
        "select u.email, m.role::text from auth.users as u join public.members as m on m.user_id = u.id"
    )
    assert admins == [("admin@example.com", "admin")]
    assert desk.stop() < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything_in_time_and_the_next_start_goes_on_from_there(
    make_desk: Callable[..., Desk], number: signal.Signals
) -> None:
    desk = make_desk()
    desk.start()
    organization = desk.first_organization()
    process = desk.process
    assert desk.stop(number) < 10
    assert process
    assert process.returncode == 0
    assert desk.output().splitlines()[-1] == "Stopped."
    secrets = (desk.data_dir / "secrets.json").read_text()
    desk.start()
    assert desk.first_organization() == organization
    assert (desk.data_dir / "secrets.json").read_text() == secrets
    assert desk.output().count("The first admin is") == 1
    desk.stop()


def test_the_generated_password_is_printed_once_and_no_other_secret_ever(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk()
    desk.start()
    desk.stop()
    desk.start()
    desk.stop()
    assert (
        len(re.findall(r"^The first admin is admin@example\.com, password \S+$", desk.output(), re.MULTILINE))
        == 1
    )
    logs = "".join(path.read_text() for path in (desk.data_dir / "logs").iterdir()) + desk.output()
    database_password = desk.db_url.split("//")[1].split("@")[0].removeprefix("postgres:")
    for secret in (desk.jwt_secret, desk.anon_key, desk.service_key, desk.secret_key, database_password):
        assert secret not in logs


def test_a_given_password_is_not_printed(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(DESKBASE_ADMIN_EMAIL="Boss@example.com", DESKBASE_ADMIN_PASSWORD="not-for-the-log")
    desk.start()
    assert "The first admin is Boss@example.com, password from DESKBASE_ADMIN_PASSWORD" in desk.output()
    assert "not-for-the-log" not in desk.output()
    hashed = desk.value("select encrypted_password from auth.users where email = 'boss@example.com'")
    assert hashed.startswith("$argon2id$")
    desk.stop()


def test_a_second_start_says_who_runs_already_and_changes_nothing(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.start()
    assert desk.process
    before = sorted(desk.descendants()), {path: path.stat().st_mtime_ns for path in desk.data_dir.iterdir()}
    assert refusal(desk) == (
        f"deskbase: Deskbase is already running on {desk.data_dir}: process {desk.process.pid}, "
        f"at {desk.url}. Nothing was changed."
    )
    after = sorted(desk.descendants()), {path: path.stat().st_mtime_ns for path in desk.data_dir.iterdir()}
    assert before[1] == after[1]
    assert httpx.get(f"{desk.url}/ready").status_code == 200
    desk.stop()


def test_a_taken_port_is_refused_before_anything_is_started(make_desk: Callable[..., Desk]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        desk = make_desk(DESKBASE_PORT=str(taken.getsockname()[1]))
        assert refusal(desk) == (
            f"deskbase: Port {taken.getsockname()[1]} on 127.0.0.1 is taken by another program. "
            "End that program or set DESKBASE_PORT to another port. Nothing was started."
        )
        assert not (desk.data_dir / "postgres").exists()


def test_a_bad_setting_is_refused_by_its_name(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(DESKBASE_SMTP_URL="smtp://me:hidden#1@mail.example.com")
    assert refusal(desk).startswith("deskbase: DESKBASE_SMTP_URL must be smtp://user:password@host:port or ")
    desk = make_desk(DESKBASE_WORKERS="many")
    assert refusal(desk) == "deskbase: DESKBASE_WORKERS must be a whole number from 1 up, not 'many'."
    assert not desk.data_dir.exists()


def test_an_unreachable_database_is_named_without_its_password(make_desk: Callable[..., Desk]) -> None:
    port = free_port()
    desk = make_desk(DESKBASE_DATABASE_URL=f"postgresql://me:hidden@127.0.0.1:{port}/desk")
    assert refusal(desk).startswith(f"deskbase: The database at me@127.0.0.1:{port}/desk cannot be reached: ")


def test_a_cluster_of_another_version_is_refused(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    (desk.data_dir / "postgres").mkdir(parents=True)
    (desk.data_dir / "postgres" / "PG_VERSION").write_text("14\n")
    assert "was made by PostgreSQL 14, and Deskbase brings 16 and 18" in refusal(desk)


def test_a_postgrest_that_was_named_and_is_not_there_is_refused(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(DESKBASE_POSTGREST_BIN="/nowhere/postgrest")
    assert refusal(desk) == (
        "deskbase: DESKBASE_POSTGREST_BIN is /nowhere/postgrest, which is no program that can be run."
    )


def test_without_postgrest_the_rest_runs_and_says_how_to_get_it(
    make_desk: Callable[..., Desk], tmp_path: Path
) -> None:
    # As in a checkout in which npm has installed nothing, on a machine without PostgREST.
    (tmp_path / "run.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom api import cli, postgrest\n"
        "postgrest.PACKAGE = Path('/nowhere')\nsys.exit(cli.main(['up']))\n"
    )
    desk = make_desk()
    environment = desk.environ | {"PATH": "/nowhere"}
    with subprocess.Popen(
        [sys.executable, tmp_path / "run.py"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "is ready" in line:
                break
        url = f"http://127.0.0.1:{environment['DESKBASE_PORT']}"
        keys = desk.run("status", "-o", "json").stdout
        answer = httpx.get(f"{url}/rest/v1/tickets", headers={"apikey": _key(keys)})
        process.terminate()
        process.stdout.read()
    assert "PostgREST was not found, so /rest/v1 answers 503." in "".join(lines)
    assert answer.status_code == 503
    assert "PostgREST" in answer.json()["message"]
    assert process.returncode == 0


def _key(status: str) -> str:
    found = re.search(r'"ANON_KEY": "([^"]+)"', status)
    assert found
    return found[1]


def test_what_dies_is_started_again(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.start()
    for word, address in (
        ("api.serve", f"{desk.url}/health"),
        ("api.worker", f"{desk.url}/health"),
        ("postgrest", f"{desk.postgrest_url}/"),
        ("bin/postgres", f"{desk.url}/ready"),
    ):
        killed = child(desk, word)
        os.kill(killed, signal.SIGKILL)
        wait_until(partial(_again, desk, word, killed), 15, f"{word} runs again")
        wait_until(partial(_answers, address), 15, f"{address} answers again")
    assert desk.output().count("ended unexpectedly") == 4
    desk.stop()


def _again(desk: Desk, word: str, killed: int) -> bool:
    try:
        return child(desk, word) != killed
    except (StopIteration, FileNotFoundError, ProcessLookupError):
        return False


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.HTTPError:
        return False


def test_when_the_supervisor_is_killed_everything_ends_and_the_next_start_works(
    make_desk: Callable[..., Desk],
) -> None:
    desk = make_desk()
    desk.start()
    below = desk.descendants()
    desk.run("token", "create", "--name", "kept")
    desk.kill()
    desk.start()
    assert not below & desk.descendants()
    assert "kept" in desk.run("token", "list").stdout
    desk.stop()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid, _ in below), 10, "all of the first has ended"
    )


def test_the_worker_of_a_desk_sends_mail_and_stops_in_time_while_a_server_hangs(
    make_desk: Callable[..., Desk],
) -> None:
    with running(MailServer()) as server:
        desk = make_desk(DESKBASE_SMTP_URL=server.url, DESKBASE_MAIL_FROM="Help <help@example.com>")
        desk.start()
        desk.sql(QUEUE_MAIL, ["first@example.com"])
        wait_until(lambda: server.recipients == ["first@example.com"], 15, "the mail is sent")
        assert server.deliveries[0].message["From"] == "Help <help@example.com>"
        server.keeps_waiting = True
        desk.sql(QUEUE_MAIL, ["second@example.com"])
        assert server.waiting.acquire(timeout=15)
        assert desk.stop() < 10
        assert "first@example.com" not in desk.output()


def test_without_a_mail_server_mail_is_in_the_data_folder(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.start()
    desk.sql(QUEUE_MAIL, ["somebody@example.com"])
    wait_until(lambda: list(desk.data_dir.glob("mail/*.eml")), 15, "the mail is written")
    (file,) = desk.data_dir.glob("mail/*.eml")
    assert "\nTo: somebody@example.com\n" in file.read_text()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    desk.stop()


def test_several_api_processes_share_the_port_and_stop_together(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(DESKBASE_WORKERS="2")
    desk.start()
    server = child(desk, "api.serve")
    workers = [pid for pid, _ in desk.descendants() if _parent(pid) == server]
    assert len(workers) == 2
    assert all(httpx.get(f"{desk.url}/health").is_success for _ in range(10))
    assert desk.stop() < 10


def test_an_embedded_postgres_16_does_as_well(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(DESKBASE_EMBEDDED_POSTGRES="16")
    desk.start()
    assert desk.value("show server_version").startswith("16.")
    desk.stop()
