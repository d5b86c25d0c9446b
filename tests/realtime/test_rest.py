"""Messages over HTTP: both forms, whom they reach, and how they are refused."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.desk import Desk, unique
from tests.realtime.conftest import Organization, Person
from tests.realtime.wire import Line, silence

PATH = "/realtime/v1/api/broadcast"


class Caller:
    """Somebody who sends messages."""

    def __init__(self, desk: Desk, bearer: str | None = None, key: str | None = None) -> None:
        key = key or desk.publishable_key
        headers = {"apikey": key, "Authorization": f"Bearer {bearer or key}"}
        self.http = httpx.Client(base_url=desk.url, headers=headers)

    def batch(self, *messages: Any) -> httpx.Response:
        return self.http.post(PATH, json={"messages": messages})

    def one(
        self, topic: str, event: str, content: bytes, media_type: str = "application/json", **query: str
    ) -> httpx.Response:
        return self.http.post(
            f"{PATH}/{quote(topic, safe='')}/events/{quote(event, safe='')}",
            content=content,
            headers={"Content-Type": media_type},
            params=query,
        )


Call = Callable[..., Caller]


@pytest.fixture
def call() -> Iterator[Call]:
    """Let somebody call: `call(desk, token)`."""
    with ExitStack() as stack:

        def begin(desk: Desk, bearer: str | None = None, key: str | None = None) -> Caller:
            caller = Caller(desk, bearer, key)
            stack.callback(caller.http.close)
            return caller

        yield begin


@pytest.fixture
def visitor(desk: Desk, call: Call) -> Caller:
    return call(desk)


@pytest.fixture
def as_agent(desk: Desk, call: Call, agent: Person) -> Caller:
    return call(desk, agent.token)


async def test_visitor_sends_several_messages(line: Line, visitor: Caller, topic: str) -> None:
    rooms = [await line.join(topic), await line.join(f"{topic}:2/x")]
    answer = visitor.batch(
        {"topic": topic, "event": "a", "payload": {"n": 1}},
        {"topic": f"{topic}:2/x", "event": "b", "payload": {"n": 2}, "private": False},
        {"topic": topic, "event": "c", "payload": {}},
    )
    assert (answer.status_code, answer.content) == (202, b"")
    await rooms[0].next("broadcast", 2)
    await rooms[1].next("broadcast")
    assert [each["event"] for each in rooms[0].messages] == ["a", "c"]
    assert rooms[1].messages == [{"type": "broadcast", "event": "b", "payload": {"n": 2}}]


async def test_visitor_sends_one_message_to_a_topic_with_any_name(
    line: Line, visitor: Caller, topic: str
) -> None:
    name = f"{topic}:1/2?é %2F"
    room = await line.join(name)
    answer = visitor.one(name, "an/event é", b'{"a": 1}')
    assert (answer.status_code, answer.content) == (202, b"")
    (heard,) = await room.next("broadcast")
    assert heard.payload == {"type": "broadcast", "event": "an/event é", "payload": {"a": 1}}


async def test_visitor_sends_bytes(line: Line, version: int, visitor: Caller, topic: str) -> None:
    room = await line.join(topic)
    assert visitor.one(topic, "b", b"\x00\xff", "application/octet-stream").status_code == 202
    if version == 2:
        (heard,) = await room.next("broadcast")
        assert heard.payload["payload"] == b"\x00\xff"
    else:
        await silence()
        assert not room.messages


async def test_private_message_needs_the_right_to_write(
    *,
    desk: Desk,
    line: Line,
    north: Organization,
    agent: Person,
    as_agent: Caller,
    visitor: Caller,
    call: Call,
) -> None:
    topic = f"desk:ticket:{north.ticket('watched')}"
    room = await line.join(topic, agent.token, private=True)
    assert as_agent.one(topic, "mine", b"{}", private="true").status_code == 202
    message = {"topic": topic, "event": "batch", "payload": {}, "private": True}
    assert as_agent.batch(message).status_code == 202
    await room.next("broadcast", 2)
    refused = visitor.one(topic, "theirs", b"{}", private="true")
    assert (refused.status_code, refused.json()) == (403, {"message": "Unauthorized"})
    other = call(desk, north.person("customer").token)
    assert other.one(topic, "theirs", b"{}", private="true").status_code == 403
    passed_over = visitor.batch({**message, "event": "theirs"})
    assert (passed_over.status_code, passed_over.content) == (202, b"")
    assert visitor.one(topic, "public", b"{}").status_code == 202
    await silence()
    assert [each["event"] for each in room.messages] == ["mine", "batch"]


async def test_service_sends_a_message_that_is_kept(
    desk: Desk, line: Line, north: Organization, agent: Person, call: Call
) -> None:
    topic = f"desk:ticket:{north.ticket('watched')}"
    service = call(desk, key=desk.secret_key)
    for query in ({"persist": "true"}, {"persist[ttl]": "5"}, {}):
        assert service.one(topic, "kept", b"{}", private="true", **query).status_code == 202
    room = await line.join(topic, agent.token, private=True, broadcast={"replay": {"since": 0}})
    await silence()
    assert len([each for each in room.messages if each.get("meta", {}).get("replayed")]) == 2


def test_caller_without_good_credentials_is_unauthorized(desk: Desk, agent: Person, topic: str) -> None:
    expired = desk.jwt(agent.member, exp=5)
    for headers in (
        {},
        {"apikey": "x"},
        {"apikey": desk.publishable_key, "Authorization": "Bearer x.y.z"},
        {"apikey": desk.publishable_key, "Authorization": f"Bearer {expired}"},
        {"apikey": desk.publishable_key, "Authorization": "Basic x"},
        {"Authorization": "Bearer sb_publishable_x"},
    ):
        for path in (PATH, f"{PATH}/{topic}/events/x"):
            answer = httpx.post(f"{desk.url}{path}", json={"messages": []}, headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"message": "Unauthorized"}), headers
            assert answer.headers["content-type"] == "application/json"


def test_key_may_be_in_the_query(desk: Desk, topic: str) -> None:
    answer = httpx.post(
        f"{desk.url}{PATH}?apikey={desk.anon_key}&vsn=2.0.0",
        json={"messages": [{"topic": topic, "event": "x", "payload": {}}]},
    )
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"messages": 5}',
        b'{"messages": [5]}',
        b'{"messages": [{"event": "x", "payload": {}}]}',
        b'{"messages": [{"topic": "", "event": "x", "payload": {}}]}',
        b'{"messages": [{"topic": "t", "event": "", "payload": {}}]}',
        b'{"messages": [{"topic": "t", "event": "x"}]}',
        b'{"messages": [{"topic": "t", "event": "x", "payload": {"a": "\\u0000"}}]}',
        b'{"messages": [{"topic": "a\\u0000", "event": "x", "payload": {}}]}',
        json.dumps({"messages": [{"topic": "t", "event": "x", "payload": {}}] * 101}).encode(),
        json.dumps({"messages": [{"topic": "t" * 256, "event": "x", "payload": {}}]}).encode(),
        b"[" * 100_000,
        b"\xff",
    ],
    ids=range(16),
)
def test_messages_that_are_none_are_unprocessable(visitor: Caller, content: bytes) -> None:
    answer = visitor.http.post(PATH, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert list(answer.json()) == ["errors"]


def test_message_that_is_none_is_unprocessable(visitor: Caller, topic: str) -> None:
    for content in (b"", b"x", b"{", b"\xff"):
        assert visitor.one(topic, "x", content).status_code == 422
    for path in (f"{PATH}/a/b/events/x", f"{PATH}/a", f"{PATH}/a/events", f"{PATH}/%ff/events/x"):
        answer = visitor.http.post(path, json={})
        assert (answer.status_code, list(answer.json())) == (422, ["errors"]), path
    answer = visitor.one(topic, "x", b"{}", "text/plain")
    assert answer.status_code == 415
    assert answer.json().keys() == {"message"}
    assert visitor.one(topic, "x", b'"' + b"x" * 1_100_000 + b'"').status_code == 413


def test_other_methods_and_paths_are_refused(visitor: Caller) -> None:
    assert visitor.http.get(PATH).status_code == 405
    assert visitor.http.post("/realtime/v1/nothing").status_code == 404


def test_browser_may_ask(visitor: Caller) -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = visitor.http.options(PATH, headers=headers)
    assert answer.status_code == 204


def test_caller_over_the_limit_is_told_so(another_desk: Any, call: Call) -> None:
    desk = another_desk(DESKBASE_LIMITS='{"realtime": {"anonymous": "2/hour"}}')
    visitor, message = call(desk), {"topic": unique("t"), "event": "x", "payload": {}}
    assert [visitor.batch(message).status_code for _ in range(3)] == [202, 202, 429]
    answer = visitor.batch(message)
    assert answer.json().keys() == {"message"}
    assert int(answer.headers["retry-after"]) > 0
