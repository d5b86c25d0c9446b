"""The processes of a running desk, and which of them answered."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.desk import Desk, process_fields

ESTABLISHED, LISTENING = "01", "0A"


def children(parent: int) -> list[int]:
    """Return the processes that this one has started and that still run."""
    numbers = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return sorted(pid for pid in numbers if process_fields(pid)[1:2] == [str(parent)] and is_running(pid))


def is_running(pid: int) -> bool:
    """Return whether there is such a process that has not ended."""
    return process_fields(pid)[:1] not in ([], ["Z"], ["X"])


def is_stopped(pid: int) -> bool:
    """Return whether a signal has stopped the process."""
    return process_fields(pid)[:1] == ["T"]


def api_server(desk: Desk) -> int:
    """Return the process that `deskbase up` started for the API."""
    (server,) = _children_that_run(desk, "api.serve")
    return server


def api_workers(desk: Desk) -> list[int]:
    """Return the processes that answer requests: one alone does so itself."""
    servers = _children_that_run(desk, "api.serve")
    return [worker for server in servers for worker in children(server) or [server]]


def workers_that_listen(desk: Desk) -> list[int]:
    """Return those workers that take connections already."""
    sockets = {inode for _, inode in _tcp_sockets(LISTENING, port=int(desk.environ["DESKBASE_PORT"]))}
    return [pid for pid in api_workers(desk) if sockets & set(_sockets(pid))]


def postgrest(desk: Desk) -> list[int]:
    """Return PostgREST, if it runs at the moment."""
    return _children_that_run(desk, "postgrest")


def postmaster(desk: Desk) -> int:
    """Return the embedded Postgres' first process."""
    (first,) = _children_that_run(desk, "bin/postgres")
    return first


def kill(*pids: int) -> None:
    """End processes without warning."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it may end by itself when another one does
            os.kill(pid, signal.SIGKILL)


def kill_worker(desk: Desk) -> None:
    """End one of the API's workers."""
    kill(api_workers(desk)[0])


def kill_api(desk: Desk) -> None:
    """End the API with all its workers."""
    kill(api_server(desk), *api_workers(desk))


def kill_postmaster(desk: Desk) -> None:
    """End the first process of the embedded Postgres; the others then end by themselves."""
    kill(postmaster(desk))


def kill_postgres(desk: Desk) -> None:
    """End all of the embedded Postgres."""
    first = postmaster(desk)
    kill(first, *children(first))


def stop_postgres(desk: Desk) -> None:
    """Have the embedded Postgres end in order, connections and all."""
    os.kill(postmaster(desk), signal.SIGINT)


def kill_a_backend(desk: Desk) -> None:
    """End the server's end of one connection; Postgres then ends all others and recovers."""
    kill(next(pid for pid in children(postmaster(desk)) if "authenticator" in _command(pid)))


def workers_behind(desk: Desk, *answers: httpx.Response) -> list[int]:
    """Return which worker holds the connection over which each of these answers came."""
    holders = {inode: pid for pid in api_workers(desk) for inode in _sockets(pid)}
    connections = dict(_tcp_sockets(ESTABLISHED, port=int(desk.environ["DESKBASE_PORT"])))
    ports = [a.extensions["network_stream"].get_extra_info("client_addr")[1] for a in answers]
    return [holders[connections[port]] for port in ports]


def _children_that_run(desk: Desk, word: str) -> list[int]:
    """Return the children of `deskbase up` whose command has the word in it."""
    assert desk.process
    return [pid for pid in children(desk.process.pid) if word in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _tcp_sockets(state: str, *, port: int) -> Iterator[tuple[int, str]]:
    """Yield the sockets of a port on loopback: the port at the other end, and the socket's number."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[column].partition(":")[2], 16) for column in (1, 2))
        if local == port and fields[3] == state:
            yield remote, fields[9]


def _sockets(pid: int) -> Iterator[str]:
    """Yield the numbers of a process' sockets, as far as it lives to show them."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target.removeprefix("socket:[").removesuffix("]")
