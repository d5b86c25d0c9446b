"""Broadcast: who hears what somebody says, and in which form."""

import asyncio
import json

from tests.desk import Desk
from tests.realtime.conftest import Open
from tests.realtime.wire import Json, Line, pushed, silence

ACK: Json = {"broadcast": {"ack": True, "self": False}}
ITSELF: Json = {"broadcast": {"ack": False, "self": True}}


async def test_message_is_heard_on_its_topic_and_nowhere_else(
    line: Line, open_line: Open, topic: str
) -> None:
    sender = await line.join(topic)
    others = [await (await open_line(version)).join(topic) for version in (1, 2)]
    elsewhere = await (await open_line()).join(f"{topic}-2")
    await sender.broadcast("msg", {"a": "é", "n": 1.5, "list": [1, None]})
    for other in others:
        (heard,) = await other.next("broadcast")
        assert heard.payload == {
            "type": "broadcast",
            "event": "msg",
            "payload": {"a": "é", "n": 1.5, "list": [1, None]},
        }
        assert heard.ref is None
    await silence()
    assert not sender.messages
    assert not elsewhere.messages


async def test_sender_hears_itself_if_it_wants_to(line: Line, topic: str) -> None:
    room = await line.join(topic, **ITSELF)
    await room.broadcast("msg", {"a": 1})
    (heard,) = await room.next("broadcast")
    assert heard.payload["payload"] == {"a": 1}


async def test_channels_of_one_socket_hear_each_other_by_topic(line: Line, topic: str) -> None:
    one, other = await line.join(topic, **ITSELF), await line.join(f"{topic}-2", **ITSELF)
    await one.broadcast("to one", {})
    await other.broadcast("to other", {})
    await one.next("broadcast")
    await other.next("broadcast")
    assert [each["event"] for each in one.messages] == ["to one"]
    assert [each["event"] for each in other.messages] == ["to other"]


async def test_messages_are_heard_in_their_order(line: Line, open_line: Open, topic: str) -> None:
    sender, hearer = await line.join(topic), await (await open_line(2)).join(topic)
    for number in range(300):
        await sender.broadcast("n", {"n": number})
    heard = await hearer.next("broadcast", 300)
    assert [each.payload["payload"]["n"] for each in heard] == list(range(300))


async def test_client_of_version_2_sends_bytes(open_line: Open, topic: str) -> None:
    line = await open_line(2)
    room = await line.join(topic, **ACK)
    old, new = [await (await open_line(version)).join(topic) for version in (1, 2)]
    await line.socket.send(pushed(room.join_ref, "77", room.topic, "json", b'{"a": 1}'))
    assert (await line.reply("77")).payload == {"status": "ok", "response": {}}
    await line.socket.send(pushed(room.join_ref, "78", room.topic, "bytes", b"\x00\xff{", enc=0))
    assert (await line.reply("78")).is_ok
    heard = await new.next("broadcast", 2)
    assert [each.payload["payload"] for each in heard] == [{"a": 1}, b"\x00\xff{"]
    await old.next("broadcast")
    await silence()
    assert [each["event"] for each in old.messages] == ["json"], "which cannot be given bytes"


async def test_message_is_acknowledged_if_the_channel_wants_that(line: Line, topic: str) -> None:
    room = await line.join(topic, **ACK)
    answer = await room.ask("broadcast", {"type": "broadcast", "event": "x", "payload": {}})
    assert answer.payload == {"status": "ok", "response": {}}
    silent = await line.join(f"{topic}-2")
    ref = await silent.broadcast("x", {})
    await silence()
    assert not [each for each in silent.heard if each.ref == ref]


async def test_message_without_a_payload_has_an_empty_one(line: Line, topic: str) -> None:
    room = await line.join(topic, **ITSELF)
    await room.say("broadcast", {"type": "broadcast", "event": "none"})
    await room.broadcast("null", None)
    heard = await room.next("broadcast", 2)
    assert [each.payload["payload"] for each in heard] == [{}, {}]


async def test_message_that_is_too_large_is_refused_and_a_large_one_is_not(line: Line, topic: str) -> None:
    room = await line.join(topic, broadcast={"ack": True, "self": True})
    large = {"type": "broadcast", "event": "x", "payload": {"text": "x" * 1_048_000}}
    assert (await room.ask("broadcast", large)).is_ok
    await room.next("broadcast")
    large["payload"] = {"text": "x" * 1_048_577}
    assert (await room.ask("broadcast", large)).reason.startswith("PayloadTooLarge")
    assert (await room.ask("broadcast", {"payload": {}})).reason.startswith("MalformedPayload")


async def test_message_that_cannot_be_stored_takes_no_other_with_it(
    line: Line, open_line: Open, topic: str
) -> None:
    room, hearer = await line.join(topic, **ACK), await (await open_line(2)).join(topic)
    texts = ["a", "\0", "b", "1e999999", "c"]
    refs = []
    for text in texts:
        payload = "1e999999" if text == "1e999999" else json.dumps({"text": text})
        await line.socket.send(_said(line.version, room.topic, room.join_ref, text, payload))
        refs.append(text)
    answers = [await line.reply(ref) for ref in refs]
    assert [answer.is_ok for answer in answers] == [True, False, True, False, True]
    heard = await hearer.next("broadcast", 3)
    assert [each.payload["payload"]["text"] for each in heard] == ["a", "b", "c"]


def _said(version: int, topic: str, join_ref: str, ref: str, payload: str) -> str:
    content = f'{{"type":"broadcast","event":"x","payload":{payload}}}'
    parts = [json.dumps(part) for part in (join_ref, ref, topic)]
    if version == 2:
        return f'[{",".join(parts)},"broadcast",{content}]'
    return (
        f'{{"join_ref":{parts[0]},"ref":{parts[1]},"topic":{parts[2]},'
        f'"event":"broadcast","payload":{content}}}'
    )


# From the database


async def test_database_sends_to_public_and_private_channels(desk: Desk, line: Line, topic: str) -> None:
    room = await line.join(topic)
    desk.sql("select realtime.send('{\"a\": 1}', 'event', %s, false)", [topic])
    (heard,) = await room.next("broadcast")
    assert heard.payload["event"] == "event"
    assert heard.payload["payload"].keys() == {"a", "id"}
    assert heard.payload["meta"] == {"id": heard.payload["payload"]["id"]}
    desk.sql("select realtime.send('{}', 'secret', %s, true)", [topic])
    await silence()
    assert len(room.messages) == 1


async def test_database_sends_when_it_commits_and_not_what_it_rolls_back(
    desk: Desk, line: Line, topic: str
) -> None:
    room = await line.join(topic)
    desk.sql("begin")
    desk.sql("select realtime.send('{}', 'undone', %s, false)", [topic])
    desk.sql("rollback")
    desk.sql("begin")
    desk.sql("select realtime.send('{}', 'done', %s, false)", [topic])
    await silence()
    assert not room.messages
    desk.sql("commit")
    await room.next("broadcast")
    assert [each["event"] for each in room.messages] == ["done"]


# Nothing is missed


async def test_nothing_that_is_said_after_the_answer_to_a_join_is_missed(
    line: Line, open_line: Open, topic: str
) -> None:
    sender = await line.join(topic, **ACK)
    other = await open_line(2)
    for number in range(20):
        room = await other.join(topic)
        await sender.broadcast("n", {"n": number})
        due = {"n": number}
        await room.hears(lambda room, due=due: due in [each["payload"] for each in room.messages])  # type: ignore[misc]
        if number % 2:
            await room.ask("phx_leave")


async def test_slow_reader_is_let_go_and_nobody_else_notices(line: Line, open_line: Open, topic: str) -> None:
    sender = await line.join(topic, **ACK)
    quick = await (await open_line(2)).join(topic)
    slow = await open_line(1, max_queue=1)
    room = await slow.join(topic)
    slow.socket.transport.pause_reading()
    count = 40
    for number in range(count):
        message = {"type": "broadcast", "event": "x", "payload": {"n": number, "text": "x" * 900_000}}
        assert (await sender.ask("broadcast", message)).is_ok
    heard = await quick.next("broadcast", count, 20)
    assert [each.payload["payload"]["n"] for each in heard] == list(range(count))
    slow.socket.transport.resume_reading()
    assert await slow.is_over(15) == (1013, "slow")
    assert len(room.messages) < count


# Two processes


async def test_processes_hear_each_other(two_processes: Desk, open_line: Open, topic: str) -> None:
    desk = two_processes
    lines = [await open_line(1 + number % 2, desk.publishable_key, desk.url) for number in range(12)]
    rooms = [await line.join(topic, **ITSELF) for line in lines]
    for number, room in enumerate(rooms):
        await room.broadcast("n", {"n": number})
    for room in rooms:
        heard = await room.next("broadcast", 12)
        assert sorted(each.payload["payload"]["n"] for each in heard) == list(range(12))
    count = "select count(distinct application_name || pid) from pg_stat_activity where application_name = %s"
    assert desk.value(count, ["deskbase relay"]) == 2, "both have some of them"
    await asyncio.gather(*[room.ask("phx_leave") for room in rooms])
