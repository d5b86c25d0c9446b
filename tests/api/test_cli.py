"""The other commands: what they print, and how they fail."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.desk import Desk, unique, wait_until

TOKEN = re.compile(r"stk_[0-9A-Za-z]{49}")
TICKETS = "/integration-tickets/tickets"


def failure(desk: Desk, *arguments: str, code: int = 1) -> str:
    """Run a command that must fail and return what it says on stderr."""
    done = desk.run(*arguments, check=False)
    assert done.returncode == code
    assert not done.stdout
    return done.stderr


def accepts(desk: Desk, token: str) -> bool:
    """Return whether the API lets the token in; this one's ticket does not exist."""
    address = f"{desk.url}{TICKETS}/00000000-0000-4000-8000-000000000000"
    status = httpx.get(address, headers={"Authorization": f"Bearer {token}"}).status_code
    assert status in {401, 404}
    return status == 404


@pytest.fixture
def name() -> str:
    return unique("command line")


@pytest.fixture
def unused_desk() -> Iterator[Desk]:
    """A data folder in which nothing was ever started."""
    desk = Desk({})
    yield desk
    desk.remove()


def test_status_shows_addresses_and_keys_that_work(desk: Desk) -> None:
    status = json.loads(desk.run("status", "-o", "json").stdout)
    assert status.keys() >= {"API_URL", "DB_URL", "ANON_KEY", "SERVICE_ROLE_KEY", "JWT_SECRET"}
    assert httpx.get(status["API_URL"] + "/health").status_code == 200
    assert status["REST_URL"] == status["API_URL"] + "/rest/v1"
    for name, role in (("ANON_KEY", "anon"), ("SERVICE_ROLE_KEY", "service_role")):
        assert jwt.decode(status[name], status["JWT_SECRET"], algorithms=["HS256"])["role"] == role
    bearer = {"Authorization": f"Bearer {status['SERVICE_ROLE_KEY']}"}
    assert httpx.get(f"{status['POSTGREST_URL']}/organizations", headers=bearer).status_code == 200


def test_status_as_env_is_read_back_by_a_shell(desk: Desk) -> None:
    lines = desk.run("status", "-o", "env").stdout.splitlines()
    read = dict(shlex.split(line)[0].split("=", 1) for line in lines)
    assert read == json.loads(desk.run("status", "-o", "json").stdout)


def test_status_of_an_unused_folder_says_what_to_do(unused_desk: Desk) -> None:
    assert failure(unused_desk, "status") == (
        f"deskbase: {unused_desk.data_dir} holds no Deskbase yet; start it with `deskbase up`.\n"
    )
    assert not unused_desk.data_dir.exists()


def test_commands_on_a_stopped_desk_start_its_database_for_themselves(unused_desk: Desk, name: str) -> None:
    unused_desk.run("migrate")
    status = unused_desk.run("status", check=False)
    assert status.returncode == 1
    assert "Anon key" in status.stdout
    assert "is not running" in status.stderr
    assert "There is no organization yet." in failure(unused_desk, "token", "create", "--name", name)
    assert not (unused_desk.data_dir / "postgres" / "postmaster.pid").exists()


def test_a_created_token_is_printed_alone_and_lets_its_holder_in(desk: Desk, name: str) -> None:
    done = desk.run("token", "create", "--name", name)
    assert TOKEN.fullmatch(done.stdout.strip())
    assert not done.stderr
    assert accepts(desk, done.stdout.strip())


def test_a_token_has_the_limit_scopes_and_end_it_was_given(desk: Desk, name: str) -> None:
    arguments = [
        "--rate-limit",
        "7",
        "--expires-days",
        "3",
        "--scope",
        "tickets:read",
        "--scope",
        "tickets:write",
    ]
    desk.run("token", "create", "--name", name, *arguments)
    (row,) = desk.sql(
        "select rate_limit, scopes, expires_at - now() between '71 hours' and '73 hours'"
        " from public.integration_tokens where name = %s",
        [name],
    )
    assert row == (7, ["tickets:read", "tickets:write"], True)


def test_a_token_is_switched_off_and_on_and_ended(desk: Desk, name: str) -> None:
    token = desk.run("token", "create", "--name", name).stdout.strip()
    desk.run("token", "disable", name)
    assert not accepts(desk, token)
    desk.run("token", "enable", name.upper())
    assert accepts(desk, token)
    assert desk.run("token", "revoke", name).stdout == f"Token {name} is now revoked.\n"
    assert not accepts(desk, token)
    assert "stays revoked" in failure(desk, "token", "enable", name)


def test_rotating_prints_a_new_token_and_keeps_the_old_one_for_the_grace(desk: Desk, name: str) -> None:
    first = desk.run("token", "create", "--name", name).stdout.strip()
    second = desk.run("token", "rotate", name, "--grace-seconds", "600").stdout.strip()
    assert TOKEN.fullmatch(second)
    assert accepts(desk, first)
    assert accepts(desk, second)
    third = desk.run("token", "rotate", name).stdout.strip()
    assert not accepts(desk, second)
    assert accepts(desk, third)


def test_a_list_shows_each_token_without_its_secret(desk: Desk, name: str) -> None:
    token = desk.run("token", "create", "--name", name).stdout.strip()
    listing = desk.run("token", "list").stdout
    (line,) = [line for line in listing.splitlines() if name in line]
    identifier = line.split()[0]
    assert listing.splitlines()[0].split()[:4] == ["ID", "NAME", "PREFIX", "STATUS"]
    assert "active" in line
    assert token not in listing
    desk.run("token", "disable", identifier)
    assert "disabled" in next(line for line in desk.run("token", "list").stdout.splitlines() if name in line)


def test_tokens_of_another_organization_are_reached_by_its_id_only(desk: Desk, name: str) -> None:
    other = desk.organization()
    desk.run("token", "create", "--name", name, "--organization", other)
    assert name not in desk.run("token", "list").stdout
    assert name in desk.run("token", "list", "--organization", other).stdout
    assert f"no integration token named {name}" in failure(desk, "token", "disable", name)
    desk.run("token", "disable", name, "--organization", other)


def test_what_cannot_be_is_refused_in_one_sentence(desk: Desk, name: str) -> None:
    desk.run("token", "create", "--name", name)
    assert failure(desk, "token", "create", "--name", name) == (
        "deskbase: There is already an integration token with that name.\n"
    )
    assert "no integration token named nobody" in failure(desk, "token", "revoke", "nobody")
    assert "not the id of an organization" in failure(desk, "token", "list", "--organization", "mine")
    unknown = "00000000-0000-4000-8000-000000000000"
    assert f"no organization {unknown}" in failure(desk, "token", "list", "--organization", unknown)
    scope = ["token", "create", "--name", unique("scope"), "--scope", "everything"]
    assert "integration_tokens_scopes_check" in failure(desk, *scope)


def test_another_worker_works_beside_the_desk_until_it_is_told_to_stop(desk: Desk) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", "worker"], env=desk.environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        next(line for line in process.stderr if "worker started" in line)
        logins = "select count(*) from pg_stat_activity where application_name = 'deskbase worker'"
        assert desk.value(f"{logins} and usename = 'authenticator'") >= 2
        process.terminate()
        assert "worker stopped" in process.stderr.read()
    assert process.returncode == 0


def test_a_worker_without_a_desk_says_what_it_needs(unused_desk: Desk) -> None:
    assert "holds no Deskbase yet; start it with `deskbase up`." in failure(unused_desk, "worker")
    unused_desk.environ["DESKBASE_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nothing"
    assert failure(unused_desk, "worker") == (
        "deskbase: DESKBASE_JWT_SECRET must be that of the desk for which this worker works.\n"
    )


def test_a_relay_serves_sockets_beside_the_desk_until_it_is_told_to_stop(desk: Desk) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", "relay"],
        env=desk.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        url = process.stdout.readline().removeprefix("The relay listens at ").strip()
        assert url.startswith("http://")
        assert url != desk.url
        wait_until(lambda: is_ready(url), 20, "the relay is ready")
        join = {"topic": "realtime:hall", "event": "phx_join", "payload": {}, "ref": "1", "join_ref": "1"}
        address = f"{url.replace('http', 'ws', 1)}/realtime/v1/websocket?apikey={desk.anon_key}&vsn=1.0.0"
        with connect(address) as socket:
            socket.send(json.dumps(join))
            assert json.loads(socket.recv(timeout=10))["payload"]["status"] == "ok"
            message = {"topic": "hall", "event": "said", "payload": {"at": "the desk"}}
            answer = httpx.post(
                f"{desk.url}/realtime/v1/api/broadcast",
                headers={"apikey": desk.anon_key},
                json={"messages": [message]},
            )
            assert answer.status_code == 202
            heard = [json.loads(socket.recv(timeout=10)) for _ in range(2)]
            assert heard[-1]["payload"]["payload"] == {"at": "the desk"}
            process.terminate()
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=10)
            assert closed.value.rcvd
            assert closed.value.rcvd.code == 1012
    assert process.returncode == 0


def test_a_relay_takes_no_port_that_is_taken(desk: Desk, unused_desk: Desk) -> None:
    taken = desk.environ["DESKBASE_PORT"]
    assert f"Port {taken} on 127.0.0.1 is taken" in failure(desk, "relay", "--port", taken)
    assert "holds no Deskbase yet" in failure(unused_desk, "relay")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["token"], ["token", "create"], ["token", "create", "--name", "x", "--rate-limit", "0"]],
)
def test_a_wrong_use_is_explained_with_exit_code_two(unused_desk: Desk, arguments: list[str]) -> None:
    assert "usage: deskbase" in failure(unused_desk, *arguments, code=2)
