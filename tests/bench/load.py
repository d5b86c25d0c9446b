"""The load generator: keep-alive HTTP/1.1 connections driven by one epoll loop, in a process of its own.

On a small machine it shares the cores with what it measures, so it does as little as it can: requests are
bytes made before, of an answer only the status and the length are read, and its cost is part of the result.
Run as `python -m tests.bench.load` it takes a Job as JSON on stdin and answers a Result on stdout.
"""

import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import msgspec

RECEIVE_BYTES = 65536
HEAD_END = b"\r\n\r\n"
CHUNKED_END = b"\r\n0\r\n\r\n"
SILENCE_SECONDS = 5.0
SHOWN_BYTES = 600


class LoadError(Exception):
    """The server answered something else than what was asked of it."""


class Job(msgspec.Struct, frozen=True):
    """What to send where: one request for each connection, again and again; the warm-up does not count."""

    host: str
    port: int
    requests: list[str]
    status: int
    seconds: float
    warm_up_seconds: float = 0.5


class Result(msgspec.Struct, frozen=True):
    """What came back: answers a second, latencies in milliseconds, and the generator's own cost."""

    per_second: float
    p50_ms: float
    p99_ms: float
    generator_us_per_request: float


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    request: bytes
    sent_at: float = 0.0
    received: bytes = b""

    def send(self) -> None:
        self.received = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.request)


@dataclass(slots=True)
class _Reader:
    """Tells whether an answer is complete, and refuses one with another status than the expected."""

    expected: bytes
    length_marker: bytes = field(default=b"")

    def is_complete(self, data: bytes) -> bool:
        head_end = data.find(HEAD_END)
        if head_end < 0:
            return False
        if not data.startswith(self.expected):
            raise LoadError(data[:SHOWN_BYTES].decode(errors="replace"))
        at = (
            data.find(self.length_marker, 0, head_end) if self.length_marker else self._learn(data[:head_end])
        )
        if at < 0:
            return data.endswith(CHUNKED_END)
        at += len(self.length_marker)
        return len(data) >= head_end + len(HEAD_END) + int(data[at : data.index(b"\r", at)])

    def _learn(self, head: bytes) -> int:
        """Learn from the first answer how this server spells Content-Length; -1 if it sends chunks."""
        at = head.lower().find(b"\r\ncontent-length: ")
        if at >= 0:
            self.length_marker = head[at : at + len(b"\r\ncontent-length: ")]
        return at


def run(job: Job) -> Result:
    """Load the server for the job's time. Raises LoadError at the first answer that is not as expected."""
    reader = _Reader(b"HTTP/1.1 %d" % job.status)
    with select.epoll() as poll:
        connections = {}
        for request in job.requests:
            connection = _Connection(socket.create_connection((job.host, job.port)), request.encode())
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
            connection.send()
        try:
            _drive(poll, connections, reader, job.warm_up_seconds)
            cpu, started = time.process_time(), time.perf_counter()
            latencies = _drive(poll, connections, reader, job.seconds)
            elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
        finally:
            for connection in connections.values():
                connection.socket.close()
    return _summary(latencies, elapsed, spent)


def _drive(
    poll: select.epoll, connections: dict[int, _Connection], reader: _Reader, seconds: float
) -> list[float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        ready = poll.poll(SILENCE_SECONDS)
        if not ready:
            raise LoadError(f"The server has been silent for {SILENCE_SECONDS} seconds.")
        for number, _ in ready:
            connection = connections[number]
            data = connection.socket.recv(RECEIVE_BYTES)
            if not data:
                raise LoadError("The server closed a connection.")
            if connection.received:
                data = connection.received + data
            if reader.is_complete(data):
                latencies.append(time.perf_counter() - connection.sent_at)
                connection.send()
            else:
                connection.received = data
    return latencies


def _summary(latencies: list[float], elapsed: float, spent: float) -> Result:
    if not latencies:
        raise LoadError("The server answered nothing in time.")
    ordered = sorted(latencies)
    return Result(
        per_second=len(ordered) / elapsed,
        p50_ms=ordered[len(ordered) // 2] * 1000,
        p99_ms=ordered[len(ordered) * 99 // 100] * 1000,
        generator_us_per_request=spent / len(ordered) * 1e6,
    )


def run_apart(job: Job) -> Result:
    """Run the job in a process of its own. Raises LoadError."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=msgspec.json.encode(job),
        capture_output=True,
        check=False,
        timeout=job.seconds + job.warm_up_seconds + 30,
    )
    if done.returncode:
        raise LoadError(done.stderr.decode(errors="replace").strip())
    return msgspec.json.decode(done.stdout, type=Result)


def main() -> int:
    """Run the job on stdin."""
    try:
        result = run(msgspec.json.decode(sys.stdin.buffer.read(), type=Job))
    except (LoadError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
