"""Frames: what goes over a socket, in the two versions of the protocol.

In charge of taking frames apart and putting them together, and of nothing else: it knows no channel. Version
1 speaks in objects, version 2 in arrays and, for broadcasts, in bytes. Payloads stay the JSON texts they are.
"""

from functools import lru_cache
from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""A topic, an event or a ref; whatever has a longer one is no frame."""

Ref = Text | int | None
Wire = str | bytes
"""A frame as it is sent."""

V1, V2 = 1, 2
SHARED_FRAMES = 32
"""How many frames that are the same for many sockets are kept while they are handed out."""

_PUSH, _BROADCAST = 3, 4
_BYTES, _JSON = 0, 1
_LONGEST_NAME = 255


class Message(msgspec.Struct):
    """A broadcast's content: its event, and its payload, which is JSON text or, if `is_binary`, anything."""

    event: str
    payload: bytes
    is_binary: bool = False
    persist: bool = False


class Frame(msgspec.Struct):
    """What a client says. `payload` is JSON text; a frame of bytes has its broadcast in `message`."""

    topic: str
    event: str
    payload: bytes
    ref: Ref = None
    join_ref: Ref = None
    message: Message | None = None


class _Object(msgspec.Struct):
    topic: Text
    event: Text
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    ref: Ref = None
    join_ref: Ref = None


class _Array(msgspec.Struct, array_like=True):
    join_ref: Ref
    ref: Ref
    topic: Text
    event: Text
    payload: msgspec.Raw


class _Persist(msgspec.Struct):
    persist: object = None


class _Given(msgspec.Struct):
    event: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")
    meta: _Persist | None = None


_object = msgspec.json.Decoder(_Object)
_array = msgspec.json.Decoder(_Array)
_given = msgspec.json.Decoder(_Given)
_meta = msgspec.json.Decoder(_Persist)
_anything = msgspec.json.Decoder()


# Coming in


def decode(version: int, wire: Wire) -> Frame | None:
    """Return what a frame says; None if it is none."""
    try:
        if isinstance(wire, bytes):
            return _decode_bytes(wire) if version == V2 else None
        found = _object.decode(wire) if version == V1 else _array.decode(wire)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return Frame(found.topic, found.event, bytes(found.payload), found.ref, found.join_ref)


def _decode_bytes(wire: bytes) -> Frame | None:
    """Read a broadcast. Raises ValueError if what it says is no text or no JSON."""
    if len(wire) < 7 or wire[0] != _PUSH or wire[6] not in {_BYTES, _JSON}:
        return None
    lengths, place = wire[1:6], 7
    parts: list[bytes] = []
    for length in lengths:
        parts.append(wire[place : place + length])
        place += length
    if place > len(wire):
        return None
    join_ref, ref, topic, event, meta = [part.decode() for part in parts]
    payload, is_binary = wire[place:], wire[6] == _BYTES
    if not is_binary:
        _anything.decode(payload.decode())
    persist = bool(meta and _meta.decode(meta).persist)
    message = Message(event, payload, is_binary, persist)
    return Frame(topic, "broadcast", b"{}", ref or None, join_ref or None, message)


def message_in(payload: bytes) -> Message | None:
    """Return the broadcast in a payload of JSON; None if there is none."""
    try:
        given = _given.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return None
    return Message(given.event, bytes(given.payload), persist=bool(given.meta and given.meta.persist))


# Going out


def reply(version: int, frame: Frame, status: str, response: str = "{}") -> str:
    """Answer a frame; the response is a JSON object."""
    payload = f'{{"status":"{status}","response":{response}}}'
    if version == V1:
        return _in_object(frame.topic, "phx_reply", payload, frame.ref)
    return f'[{_text(frame.join_ref)},{_text(frame.ref)},{quoted(frame.topic)},"phx_reply",{payload}]'


def push(version: int, topic: str, event: str, payload: str) -> str:
    """Tell something that was not asked for."""
    if version == V1:
        return _in_object(topic, event, payload, None)
    return f'[null,null,{quoted(topic)},"{event}",{payload}]'


def last(version: int, topic: str, event: str, join_ref: Ref) -> str:
    """End the channel that came with this join: `phx_close`, or `phx_error` after which clients come back."""
    if version == V1:
        return _in_object(topic, event, "{}", join_ref)
    return f'[{_text(join_ref)},{_text(join_ref)},{quoted(topic)},"{event}",{{}}]'


@lru_cache(SHARED_FRAMES)
def shared_push(version: int, topic: str, event: str, payload: str) -> str:
    """As `push`, for what many sockets are told."""
    return push(version, topic, event, payload)


@lru_cache(SHARED_FRAMES)
def change(version: int, topic: str, message: str) -> str:
    """Tell of a row's change; the message lacks its last brace, as a position took the place of one."""
    return push(version, topic, "postgres_changes", message + "}")


@lru_cache(SHARED_FRAMES)
def broadcast(version: int, topic: str, event: str, payload: str, meta: str) -> str:
    """Tell a broadcast whose payload is JSON; `meta` is a JSON object, or empty."""
    told = f',"meta":{meta}' if meta else ""
    content = "{}" if payload == "null" else payload
    return push(
        version,
        topic,
        "broadcast",
        f'{{"type":"broadcast","event":{quoted(event)},"payload":{content}{told}}}',
    )


@lru_cache(SHARED_FRAMES)
def binary_broadcast(topic: str, event: str, payload: bytes, meta: str) -> bytes | None:
    """Tell a broadcast of bytes, in version 2; None if a name is too long for it."""
    names = [topic.encode(), event.encode(), meta.encode()]
    if any(len(name) > _LONGEST_NAME for name in names):
        return None
    head = bytes([_BROADCAST, *map(len, names), _BYTES])
    return head + b"".join(names) + payload


def _in_object(topic: str, event: str, payload: str, ref: Ref) -> str:
    return f'{{"topic":{quoted(topic)},"event":"{event}","payload":{payload},"ref":{_text(ref)}}}'


def quoted(text: str) -> str:
    """Return a text as JSON."""
    return msgspec.json.encode(text).decode()


def _text(ref: Ref) -> str:
    if ref is None:
        return "null"
    return str(ref) if isinstance(ref, int) else quoted(ref)
