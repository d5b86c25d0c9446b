"""The processes of a running desk, and which of them answered."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.desk import Desk

ESTABLISHED = "01"


def children(parent: int) -> list[int]:
    """Return the processes that this one has started and that still run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _fields(int(folder.name))) and fields[1] == str(parent):
            found.append(int(folder.name))
    return sorted(pid for pid in found if is_running(pid))


def is_running(pid: int) -> bool:
    """Return whether there is such a process that has not ended."""
    return _fields(pid)[:1] not in ([], ["Z"], ["X"])


def is_stopped(pid: int) -> bool:
    """Return whether a signal has stopped the process."""
    return _fields(pid)[:1] == ["T"]


def api_server(desk: Desk) -> int:
    """Return the process above the API's workers."""
    return _child(desk, "api.serve")


def api_workers(desk: Desk) -> list[int]:
    """Return the processes that answer requests."""
    return children(api_server(desk))


def postmaster(desk: Desk) -> int:
    """Return the embedded Postgres' first process."""
    return _child(desk, "bin/postgres")


def kill(*pids: int) -> None:
    """End processes without warning."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def workers_behind(desk: Desk, *answers: httpx.Response) -> list[int]:
    """Return which worker holds the connection over which each of these answers came."""
    holders = {inode: pid for pid in api_workers(desk) for inode in _sockets(pid)}
    connections = _connections(to=int(desk.environ["DESKBASE_PORT"]))
    ports = [a.extensions["network_stream"].get_extra_info("client_addr")[1] for a in answers]
    return [holders[connections[port]] for port in ports]


def _child(desk: Desk, word: str) -> int:
    assert desk.process
    (pid,) = [pid for pid in children(desk.process.pid) if word in _command(pid)]
    return pid


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _connections(*, to: int) -> dict[int, str]:
    """Return the sockets at the server's end of the connections to a port on loopback, by the client's port."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[column].partition(":")[2], 16) for column in (1, 2))
        if local == to and fields[3] == ESTABLISHED:
            found[remote] = fields[9]
    return found


def _sockets(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")
