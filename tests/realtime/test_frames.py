"""Frames: what is read is what was meant, in both versions, and nothing unreadable does any harm."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.realtime import frames
from api.realtime.frames import V1, V2, Frame, Message
from tests.realtime.wire import parse, parse_bytes, pushed

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SHORT = NAMES.filter(lambda text: len(text.encode()) < 256)
REFS = st.none() | NAMES | st.integers(0, 2**53)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé"), inner, max_size=3),
    max_leaves=8,
)
VERSIONS = st.sampled_from([V1, V2])


def said(version: int, join_ref: Any, ref: Any, topic: str, event: str, payload: Any) -> str:  # noqa: PLR0917
    """Return a frame as clients of a version write it."""
    told: Any = [join_ref, ref, topic, event, payload]
    if version == V1:
        told = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
    return json.dumps(told)


@given(VERSIONS, REFS, REFS, NAMES, NAMES, JSON)
def test_frame_of_a_client_is_read_as_it_was_meant(  # noqa: PLR0917
    version: int, join_ref: Any, ref: Any, topic: str, event: str, payload: Any
) -> None:
    frame = frames.decode(version, said(version, join_ref, ref, topic, event, payload))
    assert frame
    assert (frame.join_ref, frame.ref, frame.topic, frame.event) == (join_ref, ref, topic, event)
    assert json.loads(frame.payload) == payload


@given(SHORT, SHORT, SHORT, SHORT, st.binary(), JSON)
def test_broadcast_of_bytes_is_read_as_it_was_meant(  # noqa: PLR0917
    join_ref: str, ref: str, topic: str, event: str, content: bytes, payload: Any
) -> None:
    binary = frames.decode(V2, pushed(join_ref, ref, topic, event, content, enc=0))
    assert binary == Frame(
        topic, "broadcast", b"{}", ref or None, join_ref or None, Message(event, content, is_binary=True)
    )
    text = json.dumps(payload).encode()
    meta = '{"persist":{"ttl":60}}'
    frame = frames.decode(V2, pushed(join_ref, ref, topic, event, text, meta))
    assert frame
    assert frame.message == Message(event, text, persist=True)


def test_recorded_broadcast_of_a_client_is_read() -> None:
    wire = bytes.fromhex("0301020e030001") + '610realtime:room1msg{"a":"é"}'.encode()
    frame = frames.decode(V2, wire)
    assert frame
    assert (frame.join_ref, frame.ref, frame.topic) == ("6", "10", "realtime:room1")
    assert frame.message == Message("msg", '{"a":"é"}'.encode())


@given(VERSIONS, st.text() | st.binary())
def test_nonsense_is_dropped(version: int, wire: str | bytes) -> None:
    frame = frames.decode(version, wire)
    assert frame is None or isinstance(frame, Frame)


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "null",
        "{}",
        "[]",
        '["1","1","t"]',
        '{"topic":1,"event":"e"}',
        '{"topic":"t"}',
        '{"topic":"t","event":"e","payload":{',
        '{"topic":"t","event":"e","ref":{}}',
        "[" * 100_000,
        '{"topic":"t","event":"e","payload":' + "[" * 100_000,
        b"",
        b"\x03",
        b"\x03\xff\xff\xff\xff\xff\x01",
        b"\x03\x01\x00\x00\x00\x00\x01\xff{}",
        b"\x03\x00\x00\x00\x00\x00\x01{",
        b"\x03\x00\x00\x00\x00\x00\x07{}",
        b"\x04\x00\x00\x00\x00\x00\x01{}",
    ],
    ids=range(18),
)
@pytest.mark.parametrize("version", [V1, V2])
def test_frame_that_is_none_is_dropped(version: int, wire: str | bytes) -> None:
    assert frames.decode(version, wire) is None


def test_bytes_of_a_client_of_version_1_are_dropped() -> None:
    assert frames.decode(V1, pushed("1", "2", "realtime:t", "e", b"{}")) is None


def test_client_of_version_1_may_leave_out_what_is_empty() -> None:
    frame = frames.decode(V1, '{"topic":"phoenix","event":"heartbeat","extra":1}')
    assert frame == Frame("phoenix", "heartbeat", b"{}")


@given(VERSIONS, REFS, REFS, NAMES, JSON)
def test_client_reads_answers_and_ends(
    version: int, join_ref: Any, ref: Any, topic: str, response: Any
) -> None:
    frame = Frame(topic, "x", b"", ref, join_ref)
    answer = parse(version, frames.reply(version, frame, "ok", json.dumps(response)))
    assert (answer.topic, answer.event, answer.ref) == (topic, "phx_reply", ref)
    assert answer.payload == {"status": "ok", "response": response}
    assert answer.join_ref == (join_ref if version == V2 else None)
    end = parse(version, frames.last(version, topic, "phx_close", join_ref))
    assert (end.topic, end.event, end.payload, end.ref) == (topic, "phx_close", {}, join_ref)


@given(VERSIONS, NAMES, NAMES, JSON)
def test_client_reads_pushes(version: int, topic: str, event: str, payload: Any) -> None:
    told = parse(version, frames.push(version, topic, "presence_diff", json.dumps(payload)))
    assert (told.topic, told.event, told.payload, told.ref) == (topic, "presence_diff", payload, None)
    message = parse(version, frames.broadcast(version, topic, event, json.dumps(payload), '{"id":"x"}'))
    assert message.payload == {
        "type": "broadcast",
        "event": event,
        "payload": {} if payload is None else payload,
        "meta": {"id": "x"},
    }
    change = parse(version, frames.change(version, topic, '{"ids":[1],"data":{"position":"p"}'))
    assert change.payload == {"ids": [1], "data": {"position": "p"}}


@given(SHORT, SHORT, st.binary())
def test_client_of_version_2_reads_broadcasts_of_bytes(topic: str, event: str, content: bytes) -> None:
    wire = frames.binary_broadcast(topic, event, content, '{"id":"x"}')
    assert wire
    told = parse_bytes(wire)
    assert (told.topic, told.payload["event"], told.payload["payload"]) == (topic, event, content)
    assert told.payload["meta"] == {"id": "x"}


def test_broadcast_of_bytes_with_a_name_that_is_too_long_is_none() -> None:
    assert frames.binary_broadcast("t" * 256, "e", b"", "") is None
