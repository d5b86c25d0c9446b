"""Sockets: how late, how many and at which price they are told, all by one API process.

Every socket hears of the same ticket, so each commit is as many deliveries as there are sockets. What a
delivery costs beyond the least possible is the ratio to `tests.bench.fanout`, which is measured in turns with
it. The listeners (`tests.bench.listeners`) and the writer share the machine with what they measure, and their
own delays are part of the latencies.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from api.migrate import Connection
from api.processes import free_ports
from tests.bench.desk import Desk
from tests.bench.fanout import CHANNEL
from tests.bench.listeners import MARK, Answer, Apart, Job, listening

HELD = 5000
EVENTS_A_SECOND = 4
LATENCY_SECONDS = 15
P99_MS = 250

BURST_SOCKETS = 1000
BURST_EVENTS = 200
BURST_ROUNDS = 5
FULL_SPEED_RATIO = 0.5

IDLE_MB = 150
PER_THOUSAND_MB = 40
SETTLE_SECONDS = 3.0
ANSWER_SECONDS = 60.0
BOUNDS_MS = (5, 10, 25, 50, 100, 150, 200, 250, 500, 1000, 2500)

RENAME = "update public.tickets set subject = %s where organization_id = %s and id = %s"
NOTIFY = "select pg_notify(%s, %s)"


class SocketError(Exception):
    """Sockets were not told everything."""


class SocketFigure(msgspec.Struct, frozen=True):
    """One figure; the target is at most, or where it is a ratio at least."""

    figure: str
    value: float
    unit: str
    target: float | None
    verdict: str


class Latencies(msgspec.Struct, frozen=True):
    """From the commit to the socket."""

    deliveries: int
    per_second: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    histogram: dict[str, int]


class SocketReport(msgspec.Struct, frozen=True):
    """What came of the group."""

    kind: str
    figures: list[SocketFigure]
    latencies: Latencies
    message_bytes: int
    ours_per_second: list[float]
    least_per_second: list[float]
    server_us_per_delivery: float
    listeners_us_per_delivery: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of socket: what it asks for, and what it says to hear of one ticket."""

    name: str
    path: str
    joins: str = ""
    joined: str = ""
    heartbeat: str = ""


def of_a_ticket(desk: Desk) -> Kind:
    """Return support-platform's socket of a ticket."""
    return Kind("support-platform", f"/support-platform/ws/tickets/{_ticket(desk)}?token={desk.agent_jwt}")


def of_realtime(desk: Desk) -> Kind:
    """Return a channel of Supabase's protocol with the changes of a ticket."""
    change = {"event": "*", "schema": "public", "table": "tickets", "filter": f"id=eq.{_ticket(desk)}"}
    config = {
        "broadcast": {"ack": False, "self": False},
        "presence": {"key": "", "enabled": False},
        "private": False,
        "postgres_changes": [change],
    }
    join = {
        "topic": "realtime:bench",
        "event": "phx_join",
        "ref": "1",
        "join_ref": "1",
        "payload": {"access_token": desk.agent_jwt, "config": config},
    }
    beat = {"topic": "phoenix", "event": "heartbeat", "ref": "2", "payload": {}}
    return Kind(
        "realtime",
        f"/realtime/v1/websocket?apikey={desk.anon_key}&vsn=1.0.0",
        joins=msgspec.json.encode(join).decode(),
        joined="Subscribed to PostgreSQL",
        heartbeat=msgspec.json.encode(beat).decode(),
    )


KINDS: dict[str, Callable[[Desk], Kind]] = {"ticket": of_a_ticket, "realtime": of_realtime}


def measure(desk: Desk, kind: Kind) -> SocketReport:
    """Hold sockets: silent, told at a steady pace, and told as fast as it goes."""
    pid = _server_of(desk.api[1])
    idle = _megabytes(pid)
    with desk.owner() as connection:
        writer = Writer(connection, desk)
        with listening(_job(desk.api, kind, HELD)) as listeners:
            time.sleep(SETTLE_SECONDS)
            held, spent = _megabytes(pid), _processor_seconds(pid)
            latencies, answer = _pace(writer, listeners)
            spent = _processor_seconds(pid) - spent
        ours, least = _compare(desk, kind, writer)
    each = [(one - other) * 1000 / HELD for one, other in zip(held, idle, strict=True)]
    ratio = statistics.median(one / other for one, other in zip(ours, least, strict=True))
    return SocketReport(
        kind=kind.name,
        figures=[
            _at_most(f"{HELD:,} sockets: commit to socket, p99", latencies.p99_ms, "ms", P99_MS),
            _at_most("idle API process, resident", idle[0], "MB", IDLE_MB),
            _at_most("idle API process, its own share", idle[1], "MB", None),
            _at_most("1,000 idle sockets, resident", each[0], "MB", PER_THOUSAND_MB),
            _at_most("1,000 idle sockets, own share", each[1], "MB", None),
            _at_least("deliveries over the least possible", ratio, "", FULL_SPEED_RATIO),
        ],
        latencies=latencies,
        message_bytes=answer.message_bytes,
        ours_per_second=[round(each) for each in ours],
        least_per_second=[round(each) for each in least],
        server_us_per_delivery=round(spent / answer.count * 1e6, 1),
        listeners_us_per_delivery=round(answer.seconds_of_processor / answer.count * 1e6, 1),
    )


class Writer:
    """Commits, each with a number; `committed` says when."""

    def __init__(self, connection: Connection, desk: Desk) -> None:
        self._connection = connection
        self._where = desk.organization_id, _ticket(desk)
        self._number = 0
        self.committed: dict[int, float] = {}

    def rename(self, count: int, pace: float = 0.0) -> range:
        """Rename the ticket that often, at most `pace` times a second; return the numbers."""
        return self._each(count, pace, lambda mark: (RENAME, (mark, *self._where)))

    def notify(self, count: int, size: int) -> range:
        """Notify that often, with that many bytes."""
        return self._each(count, 0, lambda mark: (NOTIFY, (CHANNEL, f"{mark} ".ljust(size, "."))))

    def _each(
        self, count: int, pace: float, statement: Callable[[str], tuple[str, tuple[str, ...]]]
    ) -> range:
        numbers = range(self._number, self._number + count)
        self._number += count
        began = time.monotonic()
        for place, number in enumerate(numbers):
            if pace:
                time.sleep(max(0.0, began + place / pace - time.monotonic()))
            text, params = statement(f"{MARK.decode()}{number:09}")
            self._connection.execute(text.encode(), params)
            self.committed[number] = time.monotonic()
        return numbers


def _pace(writer: Writer, listeners: Apart) -> tuple[Latencies, Answer]:
    count = EVENTS_A_SECOND * LATENCY_SECONDS
    numbers = writer.rename(count, EVENTS_A_SECOND)
    answer = _answered(listeners, numbers, HELD)
    late = sorted((at - writer.committed[n]) * 1000 for n, times in _arrivals(answer) for at in times)
    return (
        Latencies(
            deliveries=len(late),
            per_second=round(len(late) / LATENCY_SECONDS),
            p50_ms=round(late[len(late) // 2], 1),
            p99_ms=round(late[len(late) * 99 // 100], 1),
            most_ms=round(late[-1], 1),
            histogram=_histogram(late),
        ),
        answer,
    )


def _compare(desk: Desk, kind: Kind, writer: Writer) -> tuple[list[float], list[float]]:
    """Return the deliveries a second of both, round by round."""
    with (
        _fanout(desk) as address,
        listening(_job(desk.api, kind, BURST_SOCKETS)) as ours,
        listening(_job(address, Kind("least", "/"), BURST_SOCKETS)) as least,
    ):
        size = _answered(ours, writer.rename(1), BURST_SOCKETS).message_bytes
        rates: dict[Apart, list[float]] = {ours: [], least: []}
        for number in range(BURST_ROUNDS):
            for side in (ours, least) if number % 2 == 0 else (least, ours):
                time.sleep(SETTLE_SECONDS / 3)
                numbers = writer.rename(BURST_EVENTS) if side is ours else writer.notify(BURST_EVENTS, size)
                answer = _answered(side, numbers, BURST_SOCKETS)
                last = max(max(times) for _, times in _arrivals(answer))
                rates[side].append(answer.count / (last - writer.committed[numbers[0]]))
    return rates[ours], rates[least]


def _answered(listeners: Apart, numbers: range, sockets: int) -> Answer:
    answer = listeners.ask(numbers.start, numbers.stop, ANSWER_SECONDS)
    if answer.count != len(numbers) * sockets:
        raise SocketError(f"{answer.count:,} deliveries instead of {len(numbers) * sockets:,}")
    return answer


def _arrivals(answer: Answer) -> Iterator[tuple[int, "array[float]"]]:
    for number, content in zip(answer.numbers, answer.times, strict=True):
        times = array("d")
        times.frombytes(content)
        yield number, times


def _histogram(late: list[float]) -> dict[str, int]:
    """Return how many came within each bound, but not within the one before."""
    counts, begin = {}, 0
    for bound in BOUNDS_MS:
        end = sum(1 for each in late if each <= bound)
        counts[f"≤ {bound} ms"] = end - begin
        begin = end
    return counts | {"more": len(late) - begin}


def _job(address: tuple[str, int], kind: Kind, count: int) -> Job:
    return Job(*address, kind.path, count, kind.joins, kind.joined, kind.heartbeat)


def _ticket(desk: Desk) -> str:
    return desk.tokens[0].ticket_id


def _at_most(figure: str, value: float, unit: str, target: float | None) -> SocketFigure:
    reached = "" if target is None else "reached" if value <= target else "missed"
    return SocketFigure(figure, round(value, 1), unit, target, reached)


def _at_least(figure: str, value: float, unit: str, target: float) -> SocketFigure:
    return SocketFigure(figure, round(value, 2), unit, target, "reached" if value >= target else "missed")


@contextmanager
def _fanout(desk: Desk) -> Iterator[tuple[str, int]]:
    """Run the least that could do it."""
    host, port = desk.api[0], next(free_ports(desk.api[1] + 1))
    command = [sys.executable, "-m", "tests.bench.fanout", str(port)]
    with subprocess.Popen(command, env=os.environ | {"BENCH_DATABASE_URL": desk.owner_url}) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection((host, port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield host, port
        finally:
            process.terminate()


def _server_of(port: int) -> int:
    """Return the process that listens there."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{f[9]}]" for f in lines if f[3] == "0A" and int(f[1].partition(":")[2], 16) == port}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) in inodes:
                return int(link.parts[2])
        except OSError:  # it has ended, or the file is closed
            continue
    raise SocketError(f"nobody listens on port {port}")


def _megabytes(pid: int) -> tuple[float, float]:
    """Return what a process holds: resident, and its own share of what it shares with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    return sizes["Rss:"] / 1000, sizes["Pss:"] / 1000


def _processor_seconds(pid: int) -> float:
    """Return how long a process has run so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
