"""Bindings: which changes of rows a join asks for.

In charge of the entries of `postgres_changes`: their form, the grammar of their filters, and what the relay
needs to know of them. Whether a column exists, and who sees which row, the database says.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from api.event_log import Event

MOST_BINDINGS = 100
MOST_CONDITIONS = 100
"""Of all entries together."""

MOST_VALUES = 100
LONGEST_FILTER = 10_000
EVENTS = frozenset({"*", "INSERT", "UPDATE", "DELETE"})
OPERATORS = frozenset(
    {
        *("eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike"),
        *("is", "match", "imatch", "isdistinct"),
    }
)
TRUTHS = frozenset({"null", "true", "false", "unknown"})

_IDS = frozenset({"id", "ticket_id", "member_id", "contact_id"})
"""The columns by whose values the relay finds who wants an event."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_CONDITION = re.compile(r"\s*([^=]+?)\s*=\s*(not\.)?([a-z]+)\.(.*)", re.ASCII | re.DOTALL)
_BACK_REFERENCE = re.compile(r"\\[1-9]")
_UNESCAPED = re.compile(r"\\(.)", re.DOTALL)


class InvalidBindingError(Exception):
    """An entry that cannot be served. The message says why, to whoever asked."""


class Condition(NamedTuple):
    """What a column has to be."""

    column: str
    op: str
    is_negated: bool
    values: tuple[str, ...]
    """Of `in` several, of anything else one."""

    def as_json(self) -> dict[str, Any]:
        """Return it as the database is asked."""
        value = {"values": self.values} if self.op == "in" else {"value": self.values[0]}
        return {"column": self.column, "op": self.op, "is_negated": self.is_negated, **value}

    @property
    def about(self) -> str | None:
        """The one id that a row has to hold, if it is about one."""
        if self.op != "eq" or self.is_negated or self.column not in _IDS:
            return None
        return self.values[0] if _UUID.fullmatch(self.values[0]) else None


class Bindings:
    """The entries of one join. `fault` is why they cannot be served, if they cannot."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]
        self._wanted: set[tuple[str, str, str]] = set()
        self.fault: str | None = None
        self.about: str | None = None
        self.wish = b""
        """What the database is asked: a JSON array, empty if nothing is wanted."""

        try:
            self._read()
        except InvalidBindingError as error:
            self.fault = str(error)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def echo(self) -> str:
        """The entries as they came, each with its id."""
        return msgspec.json.encode(self._entries).decode()

    @property
    def since(self) -> str | None:
        """The position to begin at, if an entry names one."""
        found = (entry.get("since") or entry.get("position") for entry in self._entries)
        return next((text for text in found if isinstance(text, str)), None)

    def wants(self, event: Event) -> bool:
        """Whether an event may be one of those asked for, before anybody looks at the row."""
        return any(
            (schema, table, operation) in self._wanted
            for schema in (event.schema, "*")
            for table in (event.table, "*")
            for operation in (event.operation, "*")
        )

    def _read(self) -> None:
        if len(self._entries) > MOST_BINDINGS:
            raise InvalidBindingError(f"at most {MOST_BINDINGS} changes can be asked for on one channel")
        wishes: list[dict[str, Any]] = []
        abouts: list[set[str]] = []
        count = 0
        for entry in self._entries:
            event, schema, table = (_name(entry, *of) for of in _NAMES)
            conditions = conditions_in(entry.get("filter"))
            if event not in EVENTS:
                raise InvalidBindingError(f"event must be one of {', '.join(sorted(EVENTS))}")
            count += len(conditions)
            if count > MOST_CONDITIONS:
                raise InvalidBindingError(f"a channel may have at most {MOST_CONDITIONS} conditions")
            self._wanted.add((schema, table, event))
            abouts.append({each.about for each in conditions if each.about})
            wishes.append(
                {
                    "id": entry["id"],
                    "event": event,
                    "schema": schema,
                    "table": table,
                    "conditions": [condition.as_json() for condition in conditions],
                    "select": _selection(entry.get("select")),
                }
            )
        if wishes:
            self.wish = msgspec.json.encode(wishes)
            self.about = min(set.intersection(*abouts), default=None)


_NAMES = (("event", "*"), ("schema", "public"), ("table", "*"))


def _name(entry: dict[str, Any], field: str, default: str) -> str:
    value = entry.get(field)
    if value is None or value == "":
        return default
    if not isinstance(value, str) or "\0" in value:
        raise InvalidBindingError(f"{field} must be a text")
    return value


def _selection(value: object) -> list[str] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InvalidBindingError("select must be a list of columns")
    if any("*" in name or "\0" in name for name in value):
        raise InvalidBindingError("select must name columns, without a wildcard")
    return value


# Filters


def conditions_in(text: object) -> list[Condition]:
    """Return the conditions of a filter, all of which have to hold. Raises InvalidBindingError."""
    if text is None:
        return []
    if not isinstance(text, str):
        raise InvalidBindingError("filter must be a text")
    if len(text) > LONGEST_FILTER or "\0" in text:
        raise InvalidBindingError(f"a filter may have at most {LONGEST_FILTER} characters, and no NUL")
    return [_condition(part) for part in split(text)] if text.strip() else []


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if not found or found[3] not in OPERATORS:
        raise InvalidBindingError(f"{text.strip()[:100]!r} is no condition such as status=eq.open")
    column, op, value = found[1], found[3], found[4]
    values = _list(value) if op == "in" else (unquoted(value),)
    if op == "is" and values[0].lower() not in TRUTHS:
        raise InvalidBindingError(f"is compares with {', '.join(sorted(TRUTHS))}")
    if op in {"match", "imatch"} and _BACK_REFERENCE.search(values[0]):
        # They alone make Postgres' expressions take for ever.
        raise InvalidBindingError("a pattern may not refer back to a part of itself")
    return Condition(column, op, found[2] is not None, values)


def _list(text: str) -> tuple[str, ...]:
    inner = text.strip()
    if not (inner.startswith("(") and inner.endswith(")")):
        raise InvalidBindingError("in compares with a list such as (open,closed)")
    values = tuple(unquoted(part.strip()) for part in split(inner[1:-1])) if inner[1:-1].strip() else ()
    if len(values) > MOST_VALUES:
        raise InvalidBindingError(f"in compares with at most {MOST_VALUES} values")
    return values


def split(text: str) -> Iterator[str]:
    """Split at commas, but not inside quotes, which stand around a whole value, or inside parentheses."""
    begin = depth = place = 0
    may_quote = True
    while place < len(text):
        sign = text[place]
        if sign == '"' and may_quote:
            place = _end_of_quotes(text, place)
        elif sign == "(":
            depth += 1
        elif sign == ")":
            depth = max(0, depth - 1)
        elif sign == "," and not depth:
            yield text[begin:place]
            begin = place + 1
        may_quote = sign in ".(," or (may_quote and sign == " ")
        place += 1
    yield text[begin:]


def _end_of_quotes(text: str, begin: int) -> int:
    place = begin + 1
    while place < len(text) and text[place] != '"':
        place += 2 if text[place] == "\\" else 1
    if place >= len(text):
        raise InvalidBindingError("a quote is not closed")
    return place


def unquoted(value: str) -> str:
    """Return a value without the quotes around it, and without the backslashes inside them."""
    if len(value) < 2 or value[0] != '"' or _end_of_quotes(value, 0) != len(value) - 1:
        return value
    return _UNESCAPED.sub(r"\1", value[1:-1])
