"""One Idempotency-Key makes one ticket, however often it is sent and whatever is killed meanwhile."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.desk import Desk, unique
from tests.faults.clients import (
    LARGE_LIMIT,
    NO_TLS,
    TICKETS,
    TIMEOUT,
    ask,
    async_client_of,
    bearer,
    client_of,
    eventually,
    raw_request,
)
from tests.faults.processes import kill_api, kill_postgres, kill_worker, workers_behind

IDS = "select t.subject, t.id::text from public.tickets as t where t.subject = any(%s)"
COMMENTS = "select count(*) from public.comments as c where c.ticket_id = %s"
KEYS, CLIENTS = 80, 8


async def sent_at_once(
    desks: tuple[Desk, ...], path: str, body: dict[str, str], headers: dict[str, str]
) -> list[httpx.Response]:
    """Post the same ten times at the same time, over ten connections, to the desks in turn."""
    async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT, verify=NO_TLS) as client:
        posts = [client.post(desks[number % len(desks)].url + path, json=body) for number in range(10)]
        answers = await asyncio.gather(*posts)
        workers = {
            worker
            for n, desk in enumerate(desks)
            for worker in workers_behind(desk, *answers[n :: len(desks)])
        }
    assert len(workers) > 1, "one worker got them all"
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["etag"] for answer in answers}) == 1
    return answers


@pytest.mark.parametrize("desks", [1, 2])
async def test_a_ticket_that_is_sent_ten_times_at_once_is_made_once(
    pair: tuple[Desk, Desk], desks: int
) -> None:
    title = unique("Once")
    headers = {**bearer(pair[0].token()), "Idempotency-Key": unique("key")}
    answers = await sent_at_once(pair[:desks], TICKETS, {"title": title}, headers)
    assert ask(pair[0].db_url, IDS, [[title]]) == [(title, answers[0].json()["ticket"]["id"])]


async def test_a_comment_that_is_sent_ten_times_at_once_is_made_once(pair: tuple[Desk, Desk]) -> None:
    headers = {**bearer(pair[0].token()), "Idempotency-Key": unique("key")}
    made = await sent_at_once(pair, TICKETS, {"title": "Commented"}, headers)
    ticket = made[0].json()["ticket"]["id"]
    await sent_at_once(pair, f"{TICKETS}/{ticket}/comments", {"content": "Once"}, headers)
    assert ask(pair[0].db_url, COMMENTS, [ticket]) == [(1,)]


def test_a_client_that_hangs_up_before_its_answer_and_repeats_finds_what_it_made(far: Desk) -> None:
    title, token = unique("Impatient"), far.token()
    headers = {**bearer(token), "Idempotency-Key": unique("key")}
    for _ in range(10):
        with socket.create_connection(
            ("127.0.0.1", int(far.environ["DESKBASE_PORT"])), timeout=TIMEOUT
        ) as line:
            line.sendall(raw_request("POST", TICKETS, headers, {"title": title}))
    with client_of(far, headers) as client:
        answer = client.post(TICKETS, json={"title": title})
    assert answer.status_code == 201
    assert ask(far.db_url, IDS, [[title]]) == [(title, answer.json()["ticket"]["id"])]


class Repeaters:
    """Clients that send each ticket with a key of its own until it is acknowledged, and then once more."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._headers = bearer(desk.token(rate_limit=LARGE_LIMIT))
        self._waiting = [unique("Key") for _ in range(KEYS)]
        self.made: dict[str, str] = {}
        """The id that was answered for each title, which is the key too."""
        self.repeats = 0

    def have_made(self, count: int) -> bool:
        return len(self.made) >= count

    async def run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(CLIENTS)))

    async def _work(self) -> None:
        async with async_client_of(self._desk, self._headers) as client:
            while self._waiting:
                title = self._waiting.pop()
                answers = [await self._insist(client, title) for _ in range(2)]
                assert answers[0] == answers[1]
                self.made[title] = answers[0]

    async def _insist(self, client: httpx.AsyncClient, title: str) -> str:
        while True:
            try:
                answer = await client.post(TICKETS, json={"title": title}, headers={"Idempotency-Key": title})
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == 201:
                    return str(answer.json()["ticket"]["id"])
                assert answer.status_code == 503, answer.text
            self.repeats += 1
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", [kill_worker, kill_api, kill_postgres])
async def test_a_client_that_repeats_what_a_kill_has_cut_off_never_makes_a_second_ticket(
    home: Desk, end: Callable[[Desk], None]
) -> None:
    repeaters = Repeaters(home)
    running = asyncio.create_task(repeaters.run())
    for made in (KEYS // 4, KEYS // 2):
        await eventually(partial(repeaters.have_made, made), 20, f"{made} tickets")
        end(home)
    await asyncio.wait_for(running, 30)
    assert repeaters.repeats, "nothing was cut off"
    assert len(repeaters.made) == KEYS
    rows = ask(home.db_url, IDS, [list(repeaters.made)])
    assert len(rows) == KEYS
    assert dict(rows) == repeaters.made
