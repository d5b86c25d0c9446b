"""A client that misbehaves hurts itself alone: everybody else is served meanwhile."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.desk import Desk, unique
from tests.faults.clients import LARGE_LIMIT, TICKETS, TIMEOUT, ask, bearer, client_of, get, raw_request

HEALTH = "/integration-tickets/"
SERVED_WITHIN = 2.0
USED = "select count(*) from public.token_usage as u where u.request_id like %s"
LINGER_FOR_NO_TIME = struct.pack("ii", 1, 0)


class Rogue:
    """A client with a token of its own and a wish to be a nuisance."""

    def __init__(self, desk: Desk) -> None:
        self.headers = bearer(desk.token(rate_limit=LARGE_LIMIT))
        self._port = int(desk.environ["DESKBASE_PORT"])
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def line(self, sent: bytes = b"") -> socket.socket:
        """Open a connection and send something."""
        line = self._stack.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT))
        line.sendall(sent)
        return line


@pytest.fixture
def rogue(home: Desk) -> Iterator[Rogue]:
    rogue = Rogue(home)
    yield rogue
    rogue.close()


@pytest.fixture
def others(home: Desk) -> Iterator[Callable[[], None]]:
    """A check that somebody else, and a newcomer, are served in time."""
    headers = bearer(home.token(rate_limit=LARGE_LIMIT))
    with client_of(home, headers, SERVED_WITHIN) as regular:
        made = regular.post(TICKETS, json={"title": "Regular"}).json()["ticket"]["id"]

        def are_served() -> None:
            for _ in range(10):
                assert regular.get(f"{TICKETS}/{made}").status_code == 200
                assert regular.post(TICKETS, json={"title": "Regular"}).status_code == 201
            assert get(f"{home.url}/health", timeout=SERVED_WITHIN).status_code == 200
            assert get(f"{home.url}/ready", timeout=SERVED_WITHIN).status_code == 200

        yield are_served
        are_served()


def received(line: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := line.recv(65536):
            content += chunk
    return content


def status_of(content: bytes) -> int:
    return int(content.split(b" ", 2)[1]) if content else 0


def test_others_are_served_while_bodies_arrive_a_byte_at_a_time(
    rogue: Rogue, others: Callable[[], None]
) -> None:
    whole = raw_request("POST", TICKETS, rogue.headers, {"title": "Drop by drop"})
    head, body = whole[: whole.index(b"\r\n\r\n") + 4], whole[whole.index(b"\r\n\r\n") + 4 :]
    lines = [rogue.line(head) for _ in range(60)]
    for number in range(len(body) - 1):
        for line in lines:
            line.sendall(body[number : number + 1])
        if number % 6 == 0:
            others()
    for line in lines:
        line.sendall(body[-1:])
    assert {status_of(line.recv(65536)) for line in lines} == {201}


def test_others_are_served_while_requests_never_get_beyond_their_first_lines(
    rogue: Rogue, others: Callable[[], None]
) -> None:
    for _ in range(100):
        rogue.line(b"POST /integration-tickets/tickets HTTP/1.1\r\nHost: x\r\nX-Endless: ")
    others()


def test_others_are_served_beside_two_hundred_idle_connections(
    home: Desk, rogue: Rogue, others: Callable[[], None]
) -> None:
    request = raw_request("GET", HEALTH, rogue.headers)
    lines = [rogue.line(request) for _ in range(200)]
    assert {status_of(line.recv(65536)) for line in lines} == {200}
    others()
    for line in lines:
        line.sendall(request)
    assert {status_of(line.recv(65536)) for line in lines} == {200}


def test_a_client_that_has_closed_its_half_of_the_line_gets_its_answer_and_others_theirs(
    rogue: Rogue, others: Callable[[], None]
) -> None:
    request = raw_request("POST", TICKETS, rogue.headers, {"title": "That is all I have to say"})
    lines = [rogue.line(request) for _ in range(50)]
    for line in lines:
        line.shutdown(socket.SHUT_WR)
    others()
    assert {status_of(received(line)) for line in lines} <= {201, 0}


def test_others_are_served_while_clients_slam_the_door(rogue: Rogue, others: Callable[[], None]) -> None:
    request = raw_request("POST", TICKETS, rogue.headers, {"title": "Never mind"})
    for number in range(150):
        line = rogue.line(request if number % 2 else request[:-5])
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_FOR_NO_TIME)
        line.close()
    others()


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in chunks"])
def test_bodies_of_two_megabytes_are_refused_and_others_are_served(
    home: Desk, rogue: Rogue, others: Callable[[], None], announced: bool
) -> None:
    body = b'{"title": "' + b"x" * 2_000_000 + b'"}'
    parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]

    def send(_: int) -> httpx.Response:
        return client.post(TICKETS, content=body if announced else iter(parts))

    headers = {**rogue.headers, "Content-Type": "application/json"}
    with (
        client_of(home, headers) as client,
        ThreadPoolExecutor(6) as threads,
    ):
        answers = threads.map(send, range(24))
        others()
        for answer in answers:
            assert answer.status_code == 413
            assert answer.json()["error"] == "payload_too_large"


@pytest.mark.parametrize(
    "body",
    [
        b'{"title": "Deep", "metadata": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b'{"title": "Deep", "metadata": {"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
        b"[" * 10_000 + b"]" * 10_000,
        b"[" * 500_000,
    ],
    ids=["objects", "arrays", "nothing else", "never closed"],
)
def test_deep_nesting_is_a_bad_request_and_others_are_served(
    home: Desk, rogue: Rogue, others: Callable[[], None], body: bytes
) -> None:
    headers = {**rogue.headers, "Content-Type": "application/json"}
    with client_of(home, headers) as client:
        for _ in range(10):
            answer = client.post(TICKETS, content=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"] in {"invalid_json", "invalid_field"}
    others()


def test_requests_that_do_not_wait_for_answers_are_answered_in_order_and_others_are_served(
    rogue: Rogue, others: Callable[[], None]
) -> None:
    count = 100
    requests = [
        raw_request("GET", HEALTH, {**rogue.headers, "X-Request-ID": f"pipelined-{number}"})
        for number in range(count)
    ]
    requests[-1] = requests[-1].replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nConnection: close")
    lines = [rogue.line(b"".join(requests)) for _ in range(5)]
    others()
    for line in lines:
        content = received(line)
        places = [content.find(f"x-request-id: pipelined-{number}\r".encode()) for number in range(count)]
        assert content.count(b"HTTP/1.1 200") == count
        assert -1 not in places
        assert places == sorted(places)


def test_others_are_served_while_one_token_runs_against_its_limit(
    home: Desk, others: Callable[[], None]
) -> None:
    spent = bearer(home.token(rate_limit=1))
    deadline = time.monotonic() + 1.5

    def hammer(_: int) -> set[int]:
        statuses = set()
        with client_of(home, spent) as client:
            while time.monotonic() < deadline:
                statuses.add(client.get(HEALTH).status_code)
        return statuses

    with ThreadPoolExecutor(8) as threads:
        hammering = threads.map(hammer, range(8))
        others()
        assert set().union(*hammering) == {200, 429}


def test_a_client_that_never_finishes_delays_no_stop_and_takes_no_usage_along(
    home: Desk, rogue: Rogue
) -> None:
    unfinished = raw_request("POST", TICKETS, {**rogue.headers, "Content-Length": "1000"}) + b"{"
    for _ in range(20):
        rogue.line(unfinished)
    mark = unique("before-the-stop")
    with client_of(home, rogue.headers) as client:
        for number in range(20):
            assert client.get(HEALTH, headers={"X-Request-ID": f"{mark}-{number}"}).is_success
    assert home.stop() < 10
    home.start()
    assert ask(home.db_url, USED, [f"{mark}%"]) == [(20,)]
