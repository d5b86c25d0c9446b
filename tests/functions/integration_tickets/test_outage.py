"""A database that goes away, and a process that is killed."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.desk import Desk, unique, wait_until

from .conftest import Partner
from .test_errors import assert_error


class Caller(threading.Thread):
    """Creates tickets without a pause, and keeps what it was answered."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(daemon=True)
        self.mark = unique("Outage")
        self.answers: list[httpx.Response] = []
        self.slowest = 0.0
        self._partner = Partner(desk)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.005):
            begun = time.monotonic()
            try:
                self.answers.append(self._partner.post("/tickets", json={"title": self.mark}))
            except httpx.HTTPError:
                continue  # the process that would have answered is gone
            finally:
                self.slowest = max(self.slowest, time.monotonic() - begun)

    def stop(self) -> list[str]:
        """Stop, and return the ids of the tickets that were acknowledged."""
        self._over.set()
        self.join()
        self._partner.close()
        return [answer.json()["ticket"]["id"] for answer in self.answers if answer.status_code == 201]


def stored(desk: Desk, mark: str) -> set[str]:
    return {row[0] for row in desk.sql("select id::text from public.tickets where subject = %s", [mark])}


def postmaster(desk: Desk) -> int:
    folder = Path(desk.value("show data_directory"))
    return int((folder / "postmaster.pid").read_text().splitlines()[0])


def test_database_that_is_killed_is_a_503_and_comes_back(another_desk: Callable[..., Desk]) -> None:
    desk = another_desk()
    first = postmaster(desk)
    caller = Caller(desk)
    caller.start()
    wait_until(lambda: len(caller.answers) > 20)
    os.kill(first, signal.SIGKILL)
    refused = wait_until(lambda: next((a for a in caller.answers if a.status_code == 503), None))
    assert_error(refused, 503, "unavailable")
    wait_until(lambda: _answers(desk), 20)
    wait_until(lambda: all(a.status_code == 201 for a in caller.answers[-10:]), 3, "recovered")
    acknowledged = caller.stop()
    assert {answer.status_code for answer in caller.answers} == {201, 503}
    assert caller.slowest < 2
    assert set(acknowledged) <= stored(desk, caller.mark)


def test_nothing_acknowledged_is_lost_when_the_api_is_killed(another_desk: Callable[..., Desk]) -> None:
    desk = another_desk()
    caller = Caller(desk)
    caller.start()
    wait_until(lambda: len(caller.answers) > 20)
    for pid, _ in desk.descendants():
        if "api.serve" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    count = len(caller.answers)
    wait_until(lambda: len(caller.answers) > count + 20, 20)
    acknowledged = caller.stop()
    assert {answer.status_code for answer in caller.answers} == {201}
    assert set(acknowledged) <= stored(desk, caller.mark)


def _answers(desk: Desk) -> bool:
    try:
        return bool(desk.value("select true"))
    except Exception:  # noqa: BLE001  whatever a server that is starting says
        return False
