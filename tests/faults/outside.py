"""A Postgres that no desk looks after, so that it stays away for as long as a test wants.

In charge of starting one from the embedded programs and of the three ways in which it goes away: stopped,
killed, or frozen so that it answers nothing.
"""

import os
import shutil
import signal
import tempfile
from pathlib import Path

from api.embedded import Embedded
from tests.desk import free_port, wait_until
from tests.faults.processes import children, is_running, is_stopped, kill

PASSWORD = "outside"


class Outside:
    """One server, with one database in it."""

    def __init__(self) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="outside-"))
        self._base.chmod(0o711)  # Postgres, which does not run as root, has to pass through
        data_dir = self._base / "data"
        data_dir.mkdir(mode=0o711)
        self._server = Embedded(data_dir, PASSWORD, port=free_port())

    @property
    def url(self) -> str:
        """The owner's address."""
        return self._server.url()

    def start(self) -> None:
        """Start it and return as soon as it takes connections, which after a crash is after its recovery."""
        self._server.start()

    def stop(self) -> None:
        """Stop it as its administrator would: clients are told, and what is committed is safe."""
        self._server.stop()

    def kill(self) -> None:
        """End all of it without warning; what it had not written is lost, as if the power had gone."""
        processes = self._freeze()  # so that none is started meanwhile
        kill(*processes)
        wait_until(lambda: not any(map(is_running, processes)), 5, "the killed server has ended")
        assert not self._server.running

    def freeze(self) -> None:
        """Let it hold its connections and answer nothing."""
        self._freeze()

    def thaw(self) -> None:
        """Let a frozen one go on."""
        first = self._first()
        for pid in [first, *children(first)]:
            os.kill(pid, signal.SIGCONT)

    def bring_back(self) -> None:
        """Let it run, in whatever state it is."""
        if self._server.running:
            self.thaw()
        else:
            self.start()

    def remove(self) -> None:
        """Stop it in any case and delete its files, wherever they lie."""
        if self._server.running:
            self.thaw()
        self._server.stop()
        cluster = self._base / "data" / "postgres"
        if cluster.is_symlink():
            shutil.rmtree(cluster.resolve().parent, ignore_errors=True)
        shutil.rmtree(self._base, ignore_errors=True)

    def _freeze(self) -> list[int]:
        """Stop the process that starts the others, then all of those; return them."""
        first = self._first()
        os.kill(first, signal.SIGSTOP)
        wait_until(lambda: is_stopped(first), 5, "the server has stopped where it was")
        processes = [first, *children(first)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        return processes

    def _first(self) -> int:
        assert self._server.pid
        return self._server.pid
