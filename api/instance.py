"""The one running instance of a data folder: who holds it, and where it can be reached.

In charge of the data folder itself, its lock (held for as long as the process lives, however it ends) and the
record that the command line reads. What runs inside is `api.supervisor`'s.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from api.failures import Failure

FILE = "running.json"


class AlreadyRunningError(Failure):
    """Another process holds the data folder."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What the holder of the data folder says about itself; an address is empty until it answers."""

    pid: int
    api_url: str
    postgrest_url: str = ""
    database_url: str = ""
    ready: bool = False


class Hold:
    """The data folder, held by this process."""

    def __init__(self, descriptor: int, *, ended_badly: bool) -> None:
        self._descriptor = descriptor
        self.ended_badly = ended_badly

    def publish(self, running: Running) -> None:
        """Say where this instance can be reached."""
        self._write(msgspec.json.encode(running))

    def clear(self) -> None:
        """Say that nothing runs any more; a record that stays tells of an end that was not orderly."""
        self._write(b"")

    def _write(self, content: bytes) -> None:
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


@contextmanager
def hold(data_dir: Path, api_url: str) -> Iterator[Hold]:
    """Hold the data folder, making it if need be. Raises AlreadyRunningError."""
    make_data_dir(data_dir)
    with _opened(data_dir / FILE, os.O_RDWR | os.O_CREAT) as descriptor:
        if not _lock(descriptor):
            raise AlreadyRunningError(_who(data_dir))
        held = Hold(descriptor, ended_badly=os.fstat(descriptor).st_size > 0)
        held.publish(Running(pid=os.getpid(), api_url=api_url))
        try:
            yield held
        finally:
            held.clear()


def running(data_dir: Path) -> Running | None:
    """Return what the holder of the data folder says about itself, or None if nobody holds it."""
    if not (data_dir / FILE).exists():
        return None
    with _opened(data_dir / FILE, os.O_RDONLY) as descriptor:
        if _lock(descriptor):
            return None
        try:
            return msgspec.json.decode(os.pread(descriptor, 65536, 0), type=Running)
        except msgspec.DecodeError:  # it is just beginning or ending
            return Running(pid=0, api_url="")


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder: private, but under root such that the account of Postgres can pass through."""
    try:
        data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"The data folder {data_dir} cannot be made: {error.strerror}.") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise Failure(f"The data folder {data_dir} cannot be written to by this user.")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise Failure(f"{path} cannot be opened by this user: {error.strerror}.") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _who(data_dir: Path) -> str:
    found = running(data_dir)
    if found is None or not found.api_url:
        return f"Another Deskbase is using {data_dir} at this moment. Nothing was changed; try again."
    return (
        f"Deskbase is already running on {data_dir}: process {found.pid}, at {found.api_url}. "
        "Nothing was changed."
    )
