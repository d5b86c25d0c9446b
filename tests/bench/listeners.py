"""Holds thousands of websockets that listen, in a process of its own driven by one epoll loop.

On a small machine it shares the cores with what it measures, so it does as little as it can: of a message
only the number is read that the writer has put into it. Run as `python -m tests.bench.listeners` it takes a
Job as a line of JSON on stdin, and a Question a line from then on; it answers each with a line.
"""

import resource
import select
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import msgspec

RECEIVE_BYTES = 65536
OPENING_AT_ONCE = 100
OPEN_SECONDS = 180.0
HEARTBEAT_SECONDS = 20.0
SHOWN_BYTES = 400
MARK, DIGITS = b"bench-", 9
"""What stands before the number in a message, and how long that is."""

_PING, _PONG, _CLOSE = 0x89, 0x8A, 0x88
_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class ListenerError(Exception):
    """A socket was refused, or closed by the server."""


class Job(msgspec.Struct, frozen=True):
    """Sockets to open. Each says `joins`, if anything, and listens once it is told `joined`."""

    host: str
    port: int
    path: str
    count: int
    joins: str = ""
    joined: str = ""
    heartbeat: str = ""


class Question(msgspec.Struct, frozen=True):
    """Which messages every socket is to have, and how long to wait for them at most."""

    begin: int
    end: int
    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """When each message came, to each socket: arrays of doubles, seconds of the system's monotonic clock.

    The processor's time is since the last answer.
    """

    count: int
    numbers: list[int]
    times: list[bytes]
    message_bytes: int
    seconds_of_processor: float


class _Line:
    """One websocket."""

    __slots__ = ("is_open", "listens", "rest", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rest = b""
        self.is_open = self.listens = False


class Listeners:
    """All of them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._poll = select.epoll()
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._lines: dict[int, _Line] = {}
        self._listening = 0
        self._times: dict[int, array[float]] = {}
        self._message_bytes = 0
        self._heartbeats: Iterator[_Line] = iter(())
        self._beaten_at = time.monotonic()
        self._spent = 0.0

    def open(self) -> None:
        """Open all, some at a time, and wait until all listen."""
        deadline = time.monotonic() + OPEN_SECONDS
        while self._listening < self._job.count:
            while len(self._lines) < min(self._job.count, self._listening + OPENING_AT_ONCE):
                self._begin()
            self._turn(0.1)
            if time.monotonic() > deadline:
                raise ListenerError(f"{self._listening} of {self._job.count} listen")
        self._spent = time.process_time()

    def until_asked(self) -> bytes:
        """Go on listening until there is a line on stdin; return it."""
        self._poll.register(0, select.EPOLLIN)
        while not self._turn(1.0):
            pass
        self._poll.unregister(0)
        return sys.stdin.buffer.readline()

    def answer(self, question: Question) -> Answer:
        """Listen until every socket has been told everything that is asked about."""
        deadline = time.monotonic() + question.seconds
        numbers = range(question.begin, question.end)
        while not self._have(numbers) and time.monotonic() < deadline:
            self._turn(0.05)
        spent, self._spent = self._spent, time.process_time()
        times = [self._times.pop(number, array("d")) for number in numbers]
        return Answer(
            count=sum(map(len, times)),
            numbers=list(numbers),
            times=[each.tobytes() for each in times],
            message_bytes=self._message_bytes,
            seconds_of_processor=self._spent - spent,
        )

    def _have(self, numbers: range) -> bool:
        return all(len(self._times.get(number, ())) >= self._job.count for number in reversed(numbers))

    def _begin(self) -> None:
        job = self._job
        line = _Line(socket.create_connection((job.host, job.port), timeout=10))
        line.socket.settimeout(0)
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLIN)
        line.socket.sendall(_HANDSHAKE.format(path=job.path, host=job.host, port=job.port).encode())

    def _turn(self, seconds: float) -> bool:
        """Read what there is. Return whether somebody asks."""
        is_asked = False
        for number, _ in self._poll.poll(seconds):
            if number == 0:
                is_asked = True
            else:
                self._read(self._lines[number])
        if self._job.heartbeat and self._listening == self._job.count:
            self._beat()
        return is_asked

    def _read(self, line: _Line) -> None:
        try:
            received = line.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        now = time.monotonic()
        if not received:
            raise ListenerError("The server closed a connection.")
        data = line.rest + self._buffer[:received]
        at = 0 if line.is_open else self._opened(line, data)
        size = len(data)
        while size - at >= 2:
            length, begin = data[at + 1], at + 2
            if length == 126:
                begin += 2
                length = int.from_bytes(data[at + 2 : begin])
            elif length == 127:
                begin += 8
                length = int.from_bytes(data[at + 2 : begin])
            if begin + length > size:
                break
            mark = data.find(MARK, begin, begin + length)
            if mark >= 0:
                self._note(int(data[mark + len(MARK) : mark + len(MARK) + DIGITS]), length, now)
            else:
                self._hear(line, data[at], data[begin : begin + length])
            at = begin + length
        line.rest = data[at:] if at < size else b""

    def _opened(self, line: _Line, data: bytes) -> int:
        """Return where the frames begin, which is after the answer to the handshake."""
        end = data.find(b"\r\n\r\n")
        if end < 0 or not data.startswith(b"HTTP/1.1 101"):
            raise ListenerError(data[:SHOWN_BYTES].decode(errors="replace"))
        line.is_open = True
        if self._job.joins:
            line.socket.sendall(_frame(0x81, self._job.joins.encode()))
        else:
            self._listens(line)
        return end + 4

    def _listens(self, line: _Line) -> None:
        line.listens = True
        self._listening += 1

    def _note(self, number: int, size: int, now: float) -> None:
        times = self._times.get(number)
        if times is None:
            times = self._times[number] = array("d")
            self._message_bytes = size
        times.append(now)

    def _hear(self, line: _Line, kind: int, content: bytes) -> None:
        if kind == _PING:
            line.socket.sendall(_frame(_PONG, content))
        elif kind == _CLOSE:
            raise ListenerError(f"The server closed a socket: {content!r}")
        elif not line.listens and self._job.joined.encode() in content:
            self._listens(line)

    def _beat(self) -> None:
        """Let a few say that they are there, so that all have done so in time."""
        now = time.monotonic()
        due = int((now - self._beaten_at) / HEARTBEAT_SECONDS * len(self._lines))
        if not due:
            return
        self._beaten_at = now
        beat = _frame(0x81, self._job.heartbeat.encode())
        for _ in range(min(due, len(self._lines))):
            line = next(self._heartbeats, None)
            if line is None:
                self._heartbeats = iter(list(self._lines.values()))
                line = next(self._heartbeats)
            line.socket.sendall(beat)


def _frame(kind: int, content: bytes) -> bytes:
    """Return a client's frame; its mask is zeros."""
    size = len(content)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
    return bytes([kind]) + length + bytes(4) + content


class Apart:
    """The process, as the measurement sees it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def ask(self, begin: int, end: int, seconds: float) -> Answer:
        """Return what came of the messages from `begin` to before `end`. Raises ListenerError."""
        _input(self._process).write(msgspec.json.encode(Question(begin, end, seconds)) + b"\n")
        _input(self._process).flush()
        return msgspec.json.decode(_line(self._process), type=Answer)


@contextmanager
def listening(job: Job) -> Iterator[Apart]:
    """Open sockets in a process of its own, and close them. Raises ListenerError."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.listeners"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            _input(process).write(msgspec.json.encode(job) + b"\n")
            _input(process).flush()
            _line(process)
            yield Apart(process)
        finally:
            process.kill()


def _input(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    if process.stdin is None:
        raise OSError("no input")
    return process.stdin


def _line(process: "subprocess.Popen[bytes]") -> bytes:
    if process.stdout is None or process.stderr is None:
        raise OSError("no output")
    if line := process.stdout.readline():
        return line
    raise ListenerError(process.stderr.read().decode(errors="replace").strip() or "The listeners ended.")


def main() -> int:
    """Do the job on stdin."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listeners = Listeners(msgspec.json.decode(sys.stdin.buffer.readline(), type=Job))
    try:
        listeners.open()
        _say(b"{}")
        while line := listeners.until_asked():
            _say(msgspec.json.encode(listeners.answer(msgspec.json.decode(line, type=Question))))
    except (ListenerError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
