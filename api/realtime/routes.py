"""Messages over HTTP: `/realtime/v1/api/broadcast`, in its two forms.

In charge of paths (which are split before they are decoded, as topics hold slashes and colons), bodies and
answers. Clients take 404 for a server that is too old, so that nothing below this path is answered with it.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from api.bodies import read
from api.credentials import bearer_in
from api.door import Receive, Reply, Scope, Send, address_of, drain, header, settle, visit_in
from api.errors import ApiError, SqlError, of_database
from api.gateway import key_in
from api.limits import Header
from api.logs import Event, failure
from api.services import Services

from .client import Shared
from .frames import Message
from .joins import LONGEST_TOPIC
from .publishing import Refused
from .questions import Room
from .talk import LONGEST_EVENT, operation
from .tokens import CONTRACT, Identity

PATH = "/api/broadcast"
MOST_MESSAGES = 100
_JSON, _BYTES = "application/json", "application/octet-stream"


class InvalidMessageError(ApiError):
    """Messages that cannot be sent; `errors` says what is wrong with which field."""

    def __init__(self, **errors: str) -> None:
        super().__init__(422, "invalid_field")
        self.errors = {field: [sentence] for field, sentence in errors.items()}


class _Given(msgspec.Struct):
    topic: str
    event: str
    payload: msgspec.Raw
    private: bool | None = False


class _Batch(msgspec.Struct):
    messages: list[_Given]


_batch = msgspec.json.Decoder(_Batch)
_anything = msgspec.json.Decoder()


class Routes:
    """The ASGI app for requests."""

    def __init__(self, services: Services, shared: Shared) -> None:
        self._services = services
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        visit = visit_in(scope)
        try:
            await self._send(scope, receive)
            answer = Reply(202, b"", [(b"content-length", b"0")])
        except ApiError as error:
            answer = Reply(*refusal(error))
        except SqlError as error:
            answer = Reply(*refusal(of_database(error)))
        except Exception as error:  # noqa: BLE001 - the last line of defence
            failure(Event.REQUEST_FAILED, error, request_id=visit.id.decode(), contract=CONTRACT)
            answer = Reply(*refusal(ApiError(500, "internal_error")))
        try:
            await answer(scope, receive, send)
        finally:
            settle(self._services, CONTRACT, "broadcast", visit)

    async def _send(self, scope: Scope, receive: Receive) -> None:
        try:
            parts = _parts(scope)
            identity = await self._identify(scope)
        except ApiError:
            await drain(receive)
            raise
        body = await read(scope, receive)
        if not parts:
            await self._send_batch(identity, body)
        else:
            room, message = _message(scope, parts, body)
            if not await self._may_write(identity, room):
                raise ApiError(403, "forbidden", "Unauthorized")
            await self._publish([(room, message)])

    async def _send_batch(self, identity: Identity, body: bytes) -> None:
        """Send what may be sent; the rest is passed over without a word, as Supabase does."""
        messages = [_checked(given) for given in _messages(body)]
        rooms = list({room for room, _ in messages})
        allowed = await asyncio.gather(*[self._may_write(identity, room) for room in rooms])
        open_rooms = {room for room, is_allowed in zip(rooms, allowed, strict=True) if is_allowed}
        await self._publish([(room, message) for room, message in messages if room in open_rooms])

    async def _publish(self, messages: list[tuple[Room, Message]]) -> None:
        publisher = self._shared.hub.publisher
        await publisher.room()
        futures = [publisher.broadcast(operation(room, message)) for room, message in messages]
        for error in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(error, Refused):
                raise InvalidMessageError(payload=str(error)) from error
            if isinstance(error, BaseException):
                raise error

    async def _may_write(self, identity: Identity, room: Room) -> bool:
        if not room[1]:
            return True
        try:
            return (await self._shared.hub.questions.check(identity.claims, room, b"")).writes_broadcast
        except SqlError:
            return False

    async def _identify(self, scope: Scope) -> Identity:
        """Return who asks. Raises ApiError, 401 whatever is wrong with key or token."""
        tokens = self._shared.tokens
        raw = header(scope, b"authorization")
        try:
            bearer = bearer_in(raw) if raw is not None else None
            key = tokens.key(key_in(scope) or bearer)
            return await tokens.identify(key, bearer, address_of(scope))
        except ApiError as error:
            if error.status == 401:
                raise ApiError(401, "invalid_token", "Unauthorized") from error
            raise


# Reading


def _parts(scope: Scope) -> list[str]:
    """Return topic and event of the path; none for the form without. Raises ApiError for another path."""
    if not scope["path"].startswith(PATH):
        raise ApiError(404, "not_found")
    if scope["method"] != "POST":
        raise ApiError(405, "method_not_allowed", headers=((b"allow", b"POST"),))
    mount: bytes = scope["mount"].encode()
    raw: bytes = scope["raw_path"].split(b"?")[0]
    path = (raw[len(mount) :] if raw.startswith(mount) else scope["path"].encode()).decode("latin-1")
    if path.rstrip("/") == PATH:
        return []
    topic, *rest = path.removeprefix(f"{PATH}/").split("/")
    if len(rest) != 2 or rest[0] != "events":
        raise InvalidMessageError(path="must be /api/broadcast/{topic}/events/{event}")
    try:
        return [unquote(topic, errors="strict"), unquote(rest[1], errors="strict")]
    except UnicodeDecodeError as error:
        raise InvalidMessageError(path="must be encoded in UTF-8") from error


def _message(scope: Scope, parts: list[str], body: bytes) -> tuple[Room, Message]:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    media_type = (header(scope, b"content-type") or b"").decode("latin-1").split(";")[0].strip().lower()
    if media_type not in {_JSON, _BYTES}:
        raise ApiError(415, "unsupported_media_type", f"The body must be sent as {_JSON} or {_BYTES}.")
    is_binary = media_type == _BYTES
    if not is_binary:
        _check_json(body)
    persist = query.get("persist", ["false"])[-1] == "true" or "persist[ttl]" in query
    room = _room(parts[0], is_private=query.get("private", ["false"])[-1] == "true")
    return room, Message(_event(parts[1]), body, is_binary, persist)


def _messages(body: bytes) -> list[_Given]:
    try:
        messages = _batch.decode(body).messages
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidMessageError(messages="must be a list of {topic, event, payload, private}") from error
    if len(messages) > MOST_MESSAGES:
        raise InvalidMessageError(messages=f"must be at most {MOST_MESSAGES}")
    return messages


def _checked(given: _Given) -> tuple[Room, Message]:
    return _room(given.topic, is_private=bool(given.private)), Message(
        _event(given.event), bytes(given.payload)
    )


def _room(topic: str, *, is_private: bool) -> Room:
    if not topic or len(topic.encode(errors="replace")) > LONGEST_TOPIC or "\0" in topic:
        raise InvalidMessageError(topic=f"must have 1 to {LONGEST_TOPIC} bytes")
    return topic, is_private


def _event(event: str) -> str:
    if not event or len(event.encode(errors="replace")) > LONGEST_EVENT or "\0" in event:
        raise InvalidMessageError(event=f"must have 1 to {LONGEST_EVENT} bytes")
    return event


def _check_json(body: bytes) -> None:
    try:
        _anything.decode(body.decode())
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidMessageError(payload="must be JSON") from error


# Refusing


def refusal(error: ApiError) -> tuple[int, bytes, list[Header]]:
    """Return the answer for an error, in Supabase Realtime's shapes."""
    said: dict[str, Any] = {"message": error.sentence}
    if isinstance(error, InvalidMessageError):
        said = {"errors": error.errors}
    content = msgspec.json.encode(said)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        *error.headers,
    ]
    return error.status, content, headers
