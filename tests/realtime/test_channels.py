"""Channels: joining, leaving, joining again, and everything that clients send which they should not."""

import asyncio
import json
import random
from typing import Any

import pytest

from tests.desk import Desk, unique
from tests.realtime.conftest import Open, Organization, Person
from tests.realtime.wire import Json, Line, pushed, silence

TICKETS = {"event": "*", "schema": "public", "table": "tickets"}


async def test_join_is_answered_with_the_entries_as_they_were_sent(
    line: Line, agent: Person, topic: str
) -> None:
    entries: list[Json] = [
        {"event": "*", "schema": "public", "table": "tickets", "filter": "status=eq.open"},
        {"event": "INSERT", "schema": "public", "table": "tickets", "select": ["id", "subject"]},
    ]
    room, answer = await line.try_to_join(topic, agent.token, changes=entries)
    found = answer.payload["response"]["postgres_changes"]
    assert [entry.pop("id") for entry in found] == [1, 2]
    assert found == entries
    assert answer.ref == room.join_ref
    (system,) = await room.next("system")
    assert system.payload == {
        "channel": topic,
        "extension": "postgres_changes",
        "message": "Subscribed to PostgreSQL",
        "status": "ok",
    }


async def test_join_that_asks_for_nothing_is_answered_with_nothing(line: Line, topic: str) -> None:
    room, answer = await line.join_with(f"realtime:{topic}", {})
    assert answer.payload == {"status": "ok", "response": {"postgres_changes": []}}
    (state,) = await room.next("presence_state")
    assert state.payload == {}
    assert [each.event for each in room.heard] == ["phx_reply", "presence_state"]


@pytest.mark.parametrize(
    "config",
    [
        {"broadcast": None, "presence": None, "postgres_changes": None, "private": None},
        {"broadcast": {"ack": "true", "self": "false"}, "presence": {"enabled": "false", "key": 5}},
        {"private": "false", "postgres_changes_options": {"wait": "true", "timeout": 15000}},
        {"broadcast": [], "presence": "x", "postgres_changes_options": 5, "other": {}},
    ],
)
async def test_join_may_be_written_in_many_ways(line: Line, topic: str, config: dict[str, object]) -> None:
    payload = {"config": config, "version": "realtime-js/2", "access_token": None, "user_token": 5}
    _, answer = await line.join_with(f"realtime:{topic}", payload)
    assert answer.is_ok


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ([], "MalformedPayload"),
        ("x", "MalformedPayload"),
        ({"config": {"postgres_changes": {}}}, "MalformedPayload"),
        ({"config": {"postgres_changes": ["x"]}}, "MalformedPayload"),
        ({"config": {"presence": {"key": {}}}}, "MalformedPayload"),
        ({"config": {"presence": {"key": "x" * 256}}}, "MalformedPayload"),
        (
            {"config": {"broadcast": {"replay": {"since": 0}}}},
            "UnableToReplayMessages: Replay is not allowed",
        ),
        ({"config": {"private": True, "broadcast": {"replay": 5}}}, "Unauthorized"),
        (
            {"config": {"private": True, "broadcast": {"replay": {"limit": 26}}}},
            "UnableToReplayMessages: Replay params",
        ),
        (
            {"config": {"private": True, "broadcast": {"replay": {"since": "x"}}}},
            "UnableToReplayMessages: Replay params",
        ),
    ],
    ids=range(10),
)
async def test_join_that_makes_no_sense_is_refused_after_a_while(
    line: Line, topic: str, payload: object, reason: str
) -> None:
    begun = asyncio.get_running_loop().time()
    _, answer = await line.join_with(f"realtime:{topic}", payload)
    assert answer.reason.startswith(reason)
    assert asyncio.get_running_loop().time() - begun > 0.9
    assert (await line.ask("phoenix", "heartbeat")).is_ok


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "a\0b"])
async def test_join_of_no_proper_topic_is_refused(line: Line, name: str) -> None:
    assert (await line.refused(name)).startswith("TopicNameRequired: ")


async def test_what_is_far_too_long_is_refused_or_no_frame(line: Line, topic: str) -> None:
    config = {"config": {"postgres_changes": [{"event": "*", "filter": "x" * 300_000}]}}
    _, answer = await line.join_with(f"realtime:{topic}", config)
    assert answer.reason.startswith("MalformedPayload: ")
    for long in ("x" * 5000, "x" * 1_000_000):
        await line.say(f"realtime:{long}", "phx_join", {}, join_ref="j", ref="j")
        await line.say(f"realtime:{topic}", "phx_join", {}, join_ref=long, ref=long)
        await line.say(f"realtime:{topic}", long)
    assert (await line.ask("phoenix", "heartbeat")).is_ok
    assert not [each for each in line.heard if each.ref == "j"]


async def test_refusal_of_one_channel_keeps_no_other_waiting(line: Line, topic: str) -> None:
    refused = asyncio.create_task(line.refused(""))
    await line.join(topic)
    assert not refused.done()
    assert (await refused).startswith("TopicNameRequired")


async def test_heartbeat_is_answered(line: Line) -> None:
    answer = await line.ask("phoenix", "heartbeat")
    assert answer.payload == {"status": "ok", "response": {}}
    await line.say("phoenix", "heartbeat", ref=None)
    await line.until(lambda: any(each.ref is None for each in line.heard))


async def test_what_is_said_where_nobody_has_joined_is_unmatched(line: Line, topic: str) -> None:
    for where, event in [(f"realtime:{topic}", "broadcast"), ("phoenix", "x"), ("other", "phx_join")]:
        assert (await line.ask(where, event)).reason == "unmatched topic"
    assert (await line.ask(f"realtime:{topic}", "phx_leave")).is_ok


async def test_client_that_leaves_is_told_so_and_hears_no_more(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    room = await line.join(topic, agent.token, changes=[TICKETS])
    answer = await room.ask("phx_leave")
    assert answer.payload == {"status": "ok", "response": {}}
    (close,) = await room.next("phx_close")
    assert (close.ref, close.payload) == (room.join_ref, {})
    north.ticket("too late")
    await silence()
    assert not room.rows
    assert (await line.ask(room.topic, "broadcast", {"event": "x"})).reason == "unmatched topic"


async def test_second_join_of_a_topic_wins(
    line: Line, version: int, north: Organization, agent: Person, topic: str
) -> None:
    first = await line.join(topic, agent.token, changes=[TICKETS])
    second = await line.join(topic, agent.token, changes=[{**TICKETS, "event": "INSERT"}])
    closes = [(each.ref, each.join_ref) for each in first.of("phx_close")]
    assert closes == ([(first.join_ref, first.join_ref)] if version == 2 else [])
    north.ticket("once")
    await second.next("postgres_changes")
    await silence()
    assert second.says("subject") == ["once"]
    await first.say("phx_leave")
    await silence()
    north.ticket("still there")
    await second.hears(lambda room: room.says("subject") == ["once", "still there"])


async def test_join_and_leave_and_join_at_once_end_joined(line: Line, topic: str) -> None:
    where, config = f"realtime:{topic}", {"config": {"presence": {"enabled": False}}}
    await line.say(where, "phx_join", config, join_ref="a", ref="a")
    await line.say(where, "phx_leave", join_ref="a", ref="b")
    await line.say(where, "phx_join", config, join_ref="c", ref="c")
    assert (await line.reply("b")).is_ok
    assert (await line.reply("c")).is_ok
    await line.say(where, "phx_join", config, join_ref="d", ref="d")
    await line.say(where, "phx_join", config, join_ref="e", ref="e")
    assert (await line.reply("e")).is_ok
    await silence()
    answered = [each.ref for each in line.heard if each.event == "phx_reply"]
    # A join that is given up at once may just have been answered, but is not answered any more.
    assert [ref for ref in answered if ref not in {"a", "d"}] == ["b", "c", "e"]
    assert [ref for ref in answered if ref != "c"] == sorted(ref for ref in answered if ref != "c")
    assert len(answered) == len(set(answered))


async def test_what_is_said_before_the_answer_is_heard_after_it(
    line: Line, open_line: Open, topic: str
) -> None:
    other = await (await open_line()).join(topic)
    await line.say(f"realtime:{topic}", "phx_join", {}, join_ref="j", ref="j")
    await line.say(
        f"realtime:{topic}", "broadcast", {"type": "broadcast", "event": "early", "payload": {}}, join_ref="j"
    )
    (heard,) = await other.next("broadcast")
    assert heard.payload["event"] == "early"


async def test_socket_has_at_most_a_hundred_channels(line: Line, topic: str) -> None:
    rooms = await asyncio.gather(*[line.join(f"{topic}-{number}") for number in range(100)])
    assert await line.refused(f"{topic}-more") == "ChannelRateLimitReached: Too many channels"
    assert (await rooms[0].ask("phx_leave")).is_ok
    await line.join(f"{topic}-more")


async def test_client_that_says_nonsense_is_not_minded(line: Line, version: int, topic: str) -> None:
    room = await line.join(topic)
    nonsense: list[str | bytes] = ["", "x", "{}", "[]", "null", "[" * 50_000, b"", b"\x03", b"\xff" * 300]
    nonsense += [json.dumps({"topic": room.topic, "event": "broadcast", "payload": []})]
    nonsense += [
        json.dumps([room.join_ref, "9", room.topic, event, 5]) for event in ("broadcast", "presence")
    ]
    nonsense += [
        json.dumps([None, None, room.topic, "access_token", x]) for x in (5, None, {"access_token": 5})
    ]
    nonsense += [pushed(room.join_ref, "1", room.topic, "x", b"{", enc=1)]
    rng = random.Random(5)
    nonsense += [rng.randbytes(rng.randrange(200)) for _ in range(100)]
    for each in nonsense:
        await line.socket.send(each)
    for event in ("x", "presence", "broadcast", "phx_error", "phx_close", "system"):
        await room.say(event, {"event": 5})
    assert (await line.ask("phoenix", "heartbeat")).is_ok


async def test_client_that_sends_no_utf_8_is_closed(open_line: Open) -> None:
    line = await open_line()
    await line.socket.send(b"\xff\xfe", text=True)
    assert (await line.is_over())[0] == 1007


async def test_client_that_talks_too_much_is_listened_to_more_slowly(line: Line) -> None:
    begun = asyncio.get_running_loop().time()
    refs = [await line.say("phoenix", "heartbeat") for _ in range(1300)]
    await line.reply(refs[-1], seconds=20)
    assert asyncio.get_running_loop().time() - begun > 0.59
    assert len(line.heard) == 1300


async def test_sockets_are_told_that_the_server_stops(another_desk: Any, open_line: Open) -> None:
    desk: Desk = another_desk()
    lines = [await open_line(version, desk.publishable_key, desk.url) for version in (1, 2)]
    await lines[0].join(unique("room"))
    await asyncio.to_thread(desk.stop)
    for line in lines:
        assert await line.is_over() == (1012, "stopping")
