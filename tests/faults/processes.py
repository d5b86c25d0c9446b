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


def worker_behind(desk: Desk, answer: httpx.Response) -> int:
    """Return which worker holds the connection over which this answer came."""
    stream = answer.extensions["network_stream"]
    ours, theirs = stream.get_extra_info("client_addr"), stream.get_extra_info("server_addr")
    inode = _inode(local=theirs[1], remote=ours[1])
    return next(pid for pid in api_workers(desk) if inode in _sockets(pid))


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


def _inode(*, local: int, remote: int) -> str:
    """Return the number of the socket at the server's end of a connection on loopback."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(fields[column].partition(":")[2], 16) for column in (1, 2)]
        if ports == [local, remote] and fields[3] == ESTABLISHED:
            return fields[9]
    raise AssertionError(f"no connection from port {remote} to port {local}")


def _sockets(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")
