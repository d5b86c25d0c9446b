"""Joins: what a client asks for when it joins a channel.

In charge of reading the payload of `phx_join`, which clients of all versions send a little differently.
"""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from .bindings import Bindings

TOPIC_PREFIX = "realtime:"
LONGEST_TOPIC = 255
LONGEST_KEY = 255
LARGEST_JOIN = 256 * 1024
MOST_REPLAYED = 25

_LATEST = 253_402_300_799_000
_SINCE = ("since", "position")


class RefusedJoinError(Exception):
    """A join that is refused; the message is the reason that the client is told."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Which kept messages a client wants: the latest so many since a time, in Unix milliseconds."""

    since: int
    size: int


@dataclass(frozen=True, slots=True)
class Join:
    """What a client wants of a channel."""

    name: str
    """The topic as policies know it."""

    token: str | None
    is_private: bool
    hears_itself: bool
    wants_acknowledgement: bool
    replay: Replay | None
    wants_presence: bool
    presence_key: str
    bindings: Bindings
    waits_for_changes: bool
    wants_to_know_when_ready: bool
    since: str | None

    @property
    def room(self) -> tuple[str, bool]:
        """Where it is."""
        return self.name, self.is_private


_object = msgspec.json.Decoder(dict[str, Any])


def read(topic: str, payload: bytes) -> Join:
    """Return what a join asks for. Raises RefusedJoinError."""
    name = topic.removeprefix(TOPIC_PREFIX)
    if not name:
        raise RefusedJoinError("TopicNameRequired: You must provide a topic name")
    if len(name.encode(errors="replace")) > LONGEST_TOPIC or "\0" in name:
        raise RefusedJoinError(
            f"TopicNameRequired: A topic name has at most {LONGEST_TOPIC} bytes, and no NUL"
        )
    if len(payload) > LARGEST_JOIN:
        raise RefusedJoinError(f"MalformedPayload: The payload has at most {LARGEST_JOIN} bytes")
    try:
        given = _object.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedJoinError("MalformedPayload: The payload must be an object") from error
    config = _map(given.get("config"))
    broadcast, presence = _map(config.get("broadcast")), _map(config.get("presence"))
    options = _map(config.get("postgres_changes_options"))
    is_private, bindings = _flag(config.get("private")), _bindings(config.get("postgres_changes"))
    return Join(
        name=name,
        token=_text(given.get("access_token")) or _text(given.get("user_token")),
        is_private=is_private,
        hears_itself=_flag(broadcast.get("self")),
        wants_acknowledgement=_flag(broadcast.get("ack")),
        replay=_replay(broadcast.get("replay"), is_private=is_private),
        wants_presence=_flag(presence.get("enabled", True)),
        presence_key=_key(presence.get("key")),
        bindings=bindings,
        waits_for_changes=_flag(options.get("wait")),
        wants_to_know_when_ready=_flag(broadcast.get("replication_ready")),
        since=_since(config, options, broadcast) or bindings.since,
    )


def _bindings(value: object) -> Bindings:
    if value is None:
        return Bindings([])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise RefusedJoinError("MalformedPayload: postgres_changes must be a list of objects")
    return Bindings(value)


def _replay(value: object, *, is_private: bool) -> Replay | None:
    if value is None:
        return None
    if not is_private:
        raise RefusedJoinError("UnableToReplayMessages: Replay is not allowed for public channels")
    given = _map(value)
    since, size = given.get("since", 0), given.get("limit", MOST_REPLAYED)
    if not (_is_number(since, 0, _LATEST) and _is_number(size, 1, MOST_REPLAYED)):
        raise RefusedJoinError("UnableToReplayMessages: Replay params are not valid")
    return Replay(int(since), int(size))


def _is_number(value: object, least: int, most: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _key(value: object) -> str:
    if value is None or value == "":
        return str(uuid4())
    if not isinstance(value, str | int | float) or len(str(value)) > LONGEST_KEY or "\0" in str(value):
        raise RefusedJoinError(
            f"MalformedPayload: presence.key must be a text of at most {LONGEST_KEY} characters"
        )
    return str(value)


def _since(*places: dict[str, Any]) -> str | None:
    found = (_text(place.get(name)) for place in places for name in _SINCE)
    return next((text for text in found if text), None)


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _flag(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
