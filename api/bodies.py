"""Request bodies: from bytes to a struct, and from a bad body to the fields that are at fault.

In charge of size, of JSON syntax, of what the struct declares, and of text that Postgres cannot store. What a
value means is SQL's business. In a struct, a field without a default is required: absent, null and blank are
the same.
"""

import json
import re
from typing import Annotated, Any, NoReturn, TypeVar, cast

import msgspec
from msgspec.structs import FieldInfo, fields

from api.door import Receive, Scope, drain, header
from api.errors import ApiError

LARGEST_BODY = 1024 * 1024
T = TypeVar("T", bound=msgspec.Struct)
JsonObject = Annotated[
    msgspec.Raw,
    msgspec.Meta(description="Any JSON object.", extra_json_schema={"type": ["object", "null"]}),
]
"""A field that is handed on as the JSON text it came as, so that no number changes."""

_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])", re.ASCII)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one field."""

    field: str
    word: str
    sentence: str


class InvalidBodyError(ApiError):
    """A body that cannot be used; `faults` has one entry a field, none if it is not a JSON object."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        if faults:
            super().__init__(400, faults[0].word, faults[0].sentence, faults[0].field)
        else:
            super().__init__(400, "invalid_json", "The body must be a JSON object.")


async def read(scope: Scope, receive: Receive) -> bytes:
    """Return the whole body. Raises ApiError 413 if it is too large, 400 if its sender hangs up."""
    announced = header(scope, b"content-length") or b"0"
    if announced.isdigit() and int(announced) > LARGEST_BODY:
        await drain(receive)
        raise ApiError(413, "payload_too_large")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ApiError(400, "invalid_json", "The body ended too early.")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST_BODY:
            if message.get("more_body", False):
                await drain(receive)
            raise ApiError(413, "payload_too_large")
        if not message.get("more_body", False):
            return b"".join(chunks)


def check_media_type(content_type: bytes | None) -> None:
    """Accept JSON, and a body that does not say what it is. Raises ApiError 415."""
    if content_type is None:
        return
    kind = content_type.split(b";", 1)[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise ApiError(415, "unsupported_media_type")


def decode(body: bytes, kind: type[T]) -> T:
    """Return the body as a struct. Raises InvalidBodyError, which names every field at fault."""
    try:
        text = body.decode()
        value = msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError):
        _explain(body, kind)
    if (_SUSPICIOUS.search(text) or _is_doubtful(value)) and (faults := _faults(_parse(body), kind)):
        raise InvalidBodyError(faults)
    return value


def given(value: msgspec.Raw) -> bytes | None:
    """Return a field that was kept as JSON text, or None if it was absent or null."""
    raw = bytes(value)
    return None if raw in {b"", b"null"} else raw


def _is_doubtful(value: msgspec.Struct) -> bool:
    """Whether there is a blank required text, or JSON text that is no object, which types do not tell."""
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, msgspec.Raw):
            if bytes(item)[:1] not in {b"", b"{"}:
                return True
        elif field.required and isinstance(item, str) and not item.strip():
            return True
    return False


def _explain(body: bytes, kind: type[msgspec.Struct]) -> NoReturn:
    raise InvalidBodyError(_faults(_parse(body), kind))


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json") from error
    if not isinstance(value, dict):
        raise InvalidBodyError([])
    return cast("dict[str, Any]", value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _faults(body: dict[str, Any], kind: type[msgspec.Struct]) -> list[Fault]:
    found = [_fault(field, body.get(field.encode_name)) for field in fields(kind)]
    return [fault for fault in found if fault]


def _fault(field: FieldInfo, value: Any) -> Fault | None:
    name = field.encode_name
    if value is None or (field.required and isinstance(value, str) and not value.strip()):
        missing = Fault(name, "missing_required_field", f"{name} is required.")
        return missing if field.required else None
    if _is_storable(value):
        problem = _type_problem(value, field.type)
    else:
        problem = "may not hold NUL or half a surrogate pair"
    return Fault(name, "invalid_field", f"{name} {problem}.") if problem else None


def _type_problem(value: Any, kind: Any) -> str | None:
    if kind is JsonObject:
        return None if isinstance(value, dict) else "must be a JSON object"
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        schema = msgspec.json.schema(kind)
        words = next((s["enum"] for s in (schema, *schema.get("anyOf", ())) if "enum" in s), None)
        return f"must be one of {', '.join(words)}" if words else f"is not valid: {error}"
    return None


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_storable, value))
    return True
