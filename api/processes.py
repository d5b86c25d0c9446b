"""Child processes and ports: what `api.embedded`, `api.postgrest` and `api.supervisor` have in common.

In charge of three promises: a child ends when its parent does, however the parent ended; a terminal's Ctrl-C
reaches only the parent, which stops its children in order; a child that dies is started again.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOG_KEPT_BYTES = 10_000_000
PR_SET_PDEATHSIG = 1
FIRST_DELAY, LONGEST_DELAY, HEALTHY_AFTER = 0.25, 30.0, 30.0

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Account:
    """Another user to run a program as; only root can."""

    name: str
    uid: int
    gid: int


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send this process the signal when the thread that started it ends.

    Elsewhere nothing is promised. Called in the child; `parent` is who it should still have.
    """
    if _libc is None:
        return
    _libc.prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
    account: Account | None = None,
    on_parent_death: signal.Signals = signal.SIGTERM,
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own that ends with this process."""
    parent = os.getpid()
    identity = (
        {"user": account.uid, "group": account.gid, "extra_groups": [], "cwd": "/", "umask": 0o077}
        if account
        else {}
    )
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [str(part) for part in command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
        # Runs after the user has been changed, which would clear what it sets. This process has one thread.
        preexec_fn=lambda: die_with_parent(parent, on_parent_death),  # noqa: PLW1509
        **identity,
    )


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending, readable by its owner; an old long one is set aside first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_KEPT_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def last_lines(path: Path, count: int = 5) -> str:
    """Return the end of a log, for a message about a program that would not start."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-count:])


def wait_ended(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Return whether the process ended within the time."""
    try:
        process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_group(pid: int) -> None:
    """Kill what is left of the session that `spawn` started, its children included."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


class Child:
    """A program that is kept running: `check` starts it again, at growing intervals, after it has died."""

    def __init__(self, name: str, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self.name = name
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._delay = FIRST_DELAY
        self._due: float | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the program, clearing away what an earlier run may have left."""
        if self._process:
            kill_group(self._process.pid)
        self._due = None
        self._process = self._start()
        self._started_at = time.monotonic()

    def check(self, report: Callable[[str], None]) -> None:
        """See to the program: note that it has died, or start it again when that is due."""
        if self.running or self._process is None:
            return
        now = time.monotonic()
        if self._due is None:
            if now - self._started_at > HEALTHY_AFTER:
                self._delay = FIRST_DELAY
            report(f"{self.name} ended unexpectedly ({self._outcome()}); starting it again.")
            self._due = now + self._delay
            self._delay = min(self._delay * 2, LONGEST_DELAY)
        if now >= self._due:
            self.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting."""
        if self.running and self._process:
            self._process.terminate()

    def stop(self, seconds: float) -> None:
        """Stop the program; after the given time it is killed, and its own children in any case."""
        if self._process is None:
            return
        self.ask_to_stop()
        wait_ended(self._process, seconds)
        kill_group(self._process.pid)
        self._process.wait()
        self._process = None

    def _outcome(self) -> str:
        code = self._process.returncode if self._process else 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(first: int) -> Iterator[int]:
    """Yield the ports from `first` up that are free on loopback now."""
    return (port for port in range(first, 65536) if port_is_free(port))
