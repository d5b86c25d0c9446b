"""Request bodies: from bytes to a struct, and from a bad body to the fields that are at fault.

In charge of size, of JSON syntax, of what the struct declares, and of text that Postgres cannot store. What a
value means is SQL's business. In a struct, a field without a default is required: absent, blank, and null
where the field does not take it, are the same. Forms and query parameters are read by the same structs.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Annotated, Any, NoReturn, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import FieldInfo, fields

from api.door import Receive, Scope, drain, header
from api.errors import ApiError

LARGEST_BODY = 1024 * 1024
FORM = "application/x-www-form-urlencoded"
T = TypeVar("T", bound=msgspec.Struct)
JsonObject = Annotated[
    msgspec.Raw,
    msgspec.Meta(description="Any JSON object.", extra_json_schema={"type": ["object", "null"]}),
]
"""A field that is handed on as the JSON text it came as, so that no number changes."""

NO_NUL = {"pattern": r"^[^\u0000]*$"}
"""What a document says of a text that is stored: checked here, where what is wrong is named."""

NOT_BLANK = {"pattern": r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$"}
"""The same of one that has to say something: not only what Python takes for white space."""

_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])", re.ASCII)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,100}", re.ASCII)


class Problem(Enum):
    """What kind of thing is wrong with a field, for contracts that have sentences of their own."""

    MISSING = auto()
    NULL = auto()
    BLANK = auto()
    UNSTORABLE = auto()
    CHOICE = auto()
    LENGTH = auto()
    KIND = auto()
    SMALL = auto()
    """A number below the least."""

    LARGE = auto()
    """A number above the largest."""

    FORM = auto()
    """The right kind of thing, but of another form."""


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one field; `schema` is what was expected, in JSON Schema."""

    field: str
    word: str
    sentence: str
    problem: Problem
    schema: dict[str, Any]


class InvalidBodyError(ApiError):
    """A body that cannot be used; `faults` has one entry a field, none if it is not a JSON object.

    `given` is what was sent in such an object.
    """

    def __init__(self, faults: list[Fault], given: Mapping[str, Any] | None = None) -> None:
        self.faults = faults
        self.given = given or {}
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
    kind = _media_type(content_type)
    if kind not in {"", "application/json"} and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise ApiError(415, "unsupported_media_type")


def is_form(content_type: bytes | None) -> bool:
    """Whether a body says that it is what an HTML form sends."""
    return _media_type(content_type) == FORM


def _media_type(content_type: bytes | None) -> str:
    return (content_type or b"").decode("latin-1").split(";", 1)[0].strip().lower()


def decode(body: bytes, kind: type[T]) -> T:
    """Return the body as a struct. Raises InvalidBodyError, which names every field at fault."""
    try:
        text = body.decode()
        value = msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError):
        _explain(body, kind)
    if _SUSPICIOUS.search(text) or _is_doubtful(value):
        sent = _parse(body)
        if faults := _faults(sent, kind):
            raise InvalidBodyError(faults, sent)
    return value


def decode_form(body: bytes, kind: type[T]) -> T:
    """Return what a form sent as a struct. Raises InvalidBodyError, which names every field at fault."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise ApiError(400, "invalid_json", "The form is not encoded as it says.") from error
    return from_texts(dict(pairs), kind)


def from_texts(texts: Mapping[str, str], kind: type[T]) -> T:
    """Return texts, such as query parameters, as a struct. Raises InvalidBodyError."""
    try:
        value = msgspec.convert(texts, kind, strict=False)
    except msgspec.ValidationError:
        raise InvalidBodyError(_faults(texts, kind, strict=False), texts) from None
    if (not all(map(_is_storable, texts.values())) or _is_doubtful(value)) and (
        faults := _faults(texts, kind, strict=False)
    ):
        raise InvalidBodyError(faults, texts)
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
        elif field.required and _is_blank(item):
            return True
    return False


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _explain(body: bytes, kind: type[msgspec.Struct]) -> NoReturn:
    sent = _parse(body)
    raise InvalidBodyError(_faults(sent, kind), sent)


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


def _faults(sent: Mapping[str, Any], kind: type[msgspec.Struct], *, strict: bool = True) -> list[Fault]:
    found = [_fault(field, sent, strict=strict) for field in fields(kind)]
    return [fault for fault in found if fault]


def _fault(field: FieldInfo, sent: Mapping[str, Any], *, strict: bool) -> Fault | None:
    name, value = field.encode_name, sent.get(field.encode_name)
    is_storable, (schema, values) = _is_storable(value), _expected(value, field.type)
    refusal = _refusal(value, field.type, strict=strict) if is_storable else None
    if name not in sent:
        problem = Problem.MISSING if field.required else None
    elif value is None:
        problem = Problem.NULL if refusal else None
    elif _is_blank(value) and (field.required or (refusal and "enum" not in schema)):
        problem = Problem.BLANK
    elif not is_storable:
        problem = Problem.UNSTORABLE
    else:
        problem = _problem(values, schema, strict=strict) if refusal else None
    if problem is None:
        return None
    if field.required and problem in {Problem.MISSING, Problem.NULL, Problem.BLANK}:
        return Fault(name, "missing_required_field", f"{name} is required.", problem, schema)
    return Fault(name, "invalid_field", f"{name} {_says(problem, schema, refusal)}.", problem, schema)


def _refusal(value: Any, kind: Any, *, strict: bool) -> str | None:
    """Return why a value is not of a type, or None if it is."""
    if kind is JsonObject:
        return None if value is None or isinstance(value, dict) else "must be a JSON object"
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        return f"is not valid: {error}"
    return None


def _expected(value: Any, kind: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return what is expected, and what was given; where a list is one, what its items are to be."""
    schema = msgspec.json.schema(kind)
    schema = next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)
    if "items" in schema and isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        return schema["items"], value
    return schema, [value]


_KINDS: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}


def _problem(values: list[Any], schema: Mapping[str, Any], *, strict: bool) -> Problem:
    if "enum" in schema:
        return Problem.CHOICE
    kind = _KINDS.get(str(schema.get("type")), object)
    if kind is int and not strict:
        values = [int(value) if _WHOLE_NUMBER.fullmatch(value) else value for value in values]
    # For Python a boolean is an integer.
    if not all(isinstance(value, kind) and isinstance(value, bool) == (kind is bool) for value in values):
        return Problem.KIND
    largest = schema.get("maxItems" if kind is list else "maxLength")
    if largest is not None and any(len(value) > largest for value in values):
        return Problem.LENGTH
    if kind is int:
        if any(value < schema.get("minimum", value) for value in values):
            return Problem.SMALL
        if any(value > schema.get("maximum", value) for value in values):
            return Problem.LARGE
    return Problem.FORM


def _says(problem: Problem, schema: Mapping[str, Any], refusal: str | None) -> str:
    if problem is Problem.UNSTORABLE:
        return "may not hold NUL or half a surrogate pair"
    if problem is Problem.CHOICE:
        return f"must be one of {', '.join(schema['enum'])}"
    return refusal or ""


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_storable, value))
    return True
