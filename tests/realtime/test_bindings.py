"""Bindings: filters mean what they say, entries come back as they were sent, and faults have sentences."""

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.event_log import Event
from api.realtime.bindings import Bindings, Condition, InvalidBindingError, conditions_in

ID = "0b1c9f9e-8a55-4b0e-8a39-1c5f3f0c2d11"


def eq(column: str, value: str) -> Condition:
    return Condition(column, "eq", False, (value,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ("  ", []),
        ("status=eq.open", [eq("status", "open")]),
        ("status=eq.", [eq("status", "")]),
        ("url=eq.https://x.example/?a=b.c", [eq("url", "https://x.example/?a=b.c")]),
        ("n=gte.10,n=lt.20", [Condition("n", "gte", False, ("10",)), Condition("n", "lt", False, ("20",))]),
        (
            'org=eq.1,status=in.(open,"a,b")',
            [eq("org", "1"), Condition("status", "in", False, ("open", "a,b"))],
        ),
        ('a=eq."x,y",b=eq.2', [eq("a", "x,y"), eq("b", "2")]),
        (r'a=eq."say \"x\", \\ y"', [eq("a", 'say "x", \\ y')]),
        ('size=eq.5",b=eq.2', [eq("size", '5"'), eq("b", "2")]),
        ("a=match.^(x,y)$,b=eq.2", [Condition("a", "match", False, ("^(x,y)$",)), eq("b", "2")]),
        ("a=not.eq.x", [Condition("a", "eq", True, ("x",))]),
        ("a=not.in.(1, 2)", [Condition("a", "in", True, ("1", "2"))]),
        ("a=not.is.null", [Condition("a", "is", True, ("null",))]),
        ("a=is.NULL", [Condition("a", "is", False, ("NULL",))]),
        ("a=in.()", [Condition("a", "in", False, ())]),
        ("a=in.(x)", [Condition("a", "in", False, ("x",))]),
        ("a=eq.null", [eq("a", "null")]),
        (" a = eq.x , b=eq.y", [eq("a", "x "), eq("b", "y")]),
        ("a=ilike.%b%", [Condition("a", "ilike", False, ("%b%",))]),
        ("a=isdistinct.1", [Condition("a", "isdistinct", False, ("1",))]),
    ],
)
def test_filter_says_what_is_wanted(text: str | None, expected: list[Condition]) -> None:
    assert conditions_in(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "status",
        "status=open",
        "status=eq",
        "=eq.1",
        "status=equals.open",
        "status=eq.open,",
        ",status=eq.open",
        "a=eq.x,y",
        'a=eq."x',
        "a=in.x",
        "a=in.(1",
        "a=is.1",
        "a=not.not.eq.1",
        "a=match.(a*)\\1",
        "a=in.(" + ",".join("x" * 101) + ")",
        "a=eq.\0",
        "a=eq." + "x" * 10_001,
        5,
        ["a=eq.1"],
        {},
    ],
)
def test_filter_that_is_none_has_a_sentence(text: Any) -> None:
    with pytest.raises(InvalidBindingError, match=r"\w+ \w+"):
        conditions_in(text)


def test_list_of_a_hundred_values_is_allowed() -> None:
    (condition,) = conditions_in("a=in.(" + ",".join(map(str, range(100))) + ")")
    assert len(condition.values) == 100


@given(st.lists(st.tuples(st.from_regex("[a-z_]{1,9}", fullmatch=True), st.text()), min_size=1, max_size=5))
def test_quoted_values_come_through_whatever_is_in_them(pairs: list[tuple[str, str]]) -> None:
    pairs = [(column, value.replace("\0", "")) for column, value in pairs]

    def quote(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert conditions_in(",".join(f"{c}=eq.{quote(v)}" for c, v in pairs)) == [eq(c, v) for c, v in pairs]
    column = pairs[0][0]
    values = tuple(value for _, value in pairs)
    (condition,) = conditions_in(f"{column}=in.({','.join(map(quote, values))})")
    assert condition.values == values


@given(st.text())
def test_any_text_is_a_filter_or_has_a_fault(text: str) -> None:
    assert isinstance(Bindings([{"event": "*", "filter": text}]).fault, str | None)


# Entries


def test_entries_come_back_as_they_were_sent_with_ids_that_are_not_0() -> None:
    entries: list[dict[str, Any]] = [
        {"event": "*", "schema": "public", "table": "tickets", "filter": "org=eq.1"},
        {"event": "INSERT", "schema": "public", "extra": [1, {"x": None}]},
        {"event": "*", "schema": "public", "table": "tickets", "filter": "", "select": ["id", "title"]},
    ]
    echoed = json.loads(Bindings(entries).echo)
    assert [entry.pop("id") for entry in echoed] == [1, 2, 3]
    assert echoed == entries


def test_database_is_asked_for_what_entries_say() -> None:
    bindings = Bindings(
        [
            {"event": "UPDATE", "schema": "public", "table": "tickets", "filter": "n=in.(1,2),a=not.is.null"},
            {"event": "*", "schema": "other", "select": ["id"]},
        ]
    )
    assert json.loads(bindings.wish) == [
        {
            "id": 1,
            "event": "UPDATE",
            "schema": "public",
            "table": "tickets",
            "conditions": [
                {"column": "n", "op": "in", "is_negated": False, "values": ["1", "2"]},
                {"column": "a", "op": "is", "is_negated": True, "value": "null"},
            ],
            "select": None,
        },
        {
            "id": 2,
            "event": "*",
            "schema": "other",
            "table": "*",
            "conditions": [],
            "select": ["id"],
        },
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {"event": "insert"},
        {"event": 5},
        {"event": "*", "schema": 5},
        {"event": "*", "table": ["tickets"]},
        {"event": "*", "table": "a\0b"},
        {"event": "*", "filter": 5},
        {"event": "*", "select": "id"},
        {"event": "*", "select": ["*"]},
        {"event": "*", "select": ["id", 5]},
    ],
)
def test_entry_that_cannot_be_served_is_a_fault_of_all(entry: dict[str, Any]) -> None:
    bindings = Bindings([{"event": "*", "table": "tickets"}, entry])
    assert bindings.fault
    assert json.loads(bindings.echo)[1] == {**entry, "id": 2}
    assert not bindings.wish


def test_channel_has_at_most_a_hundred_entries() -> None:
    assert Bindings([{"event": "*"}] * 100).fault is None
    assert Bindings([{"event": "*"}] * 101).fault


def test_channel_has_at_most_a_hundred_conditions() -> None:
    condition = "a=eq.1"
    assert Bindings([{"event": "*", "filter": ",".join([condition] * 10)}] * 10).fault is None
    assert Bindings([{"event": "*", "filter": ",".join([condition] * 101)}]).fault
    assert Bindings([{"event": "*", "filter": ",".join([condition] * 11)}] * 10).fault


def event(table: str, operation: str, schema: str = "public") -> Event:
    return Event(1, None, "x", table, operation, {}, schema)


def test_only_events_that_an_entry_names_are_looked_at() -> None:
    bindings = Bindings(
        [{"event": "INSERT", "table": "tickets"}, {"event": "*", "schema": "other", "table": "*"}]
    )
    assert bindings.wants(event("tickets", "INSERT"))
    assert not bindings.wants(event("tickets", "UPDATE"))
    assert not bindings.wants(event("comments", "INSERT"))
    assert bindings.wants(event("anything", "DELETE", "other"))


@pytest.mark.parametrize(
    ("filters", "about"),
    [
        ([f"id=eq.{ID}"], ID),
        ([f'ticket_id=eq."{ID}"'], ID),
        ([f"status=eq.open,contact_id=eq.{ID}"], ID),
        ([f"id=eq.{ID}", f"ticket_id=eq.{ID},is_internal=eq.false"], ID),
        ([f"id=eq.{ID}", f"id=eq.{uuid4()}"], None),
        ([f"id=eq.{ID}", ""], None),
        ([f"id=not.eq.{ID}"], None),
        ([f"id=neq.{ID}"], None),
        ([f"group_id=eq.{ID}"], None),
        ([f"id=eq.{ID.upper()}"], None),
        (["id=eq.7"], None),
        ([], None),
    ],
)
def test_entries_are_about_one_id_if_each_of_them_asks_for_it(filters: list[str], about: str | None) -> None:
    bindings = Bindings([{"event": "*", "table": "tickets", "filter": each} for each in filters])
    assert bindings.fault is None
    assert bindings.about == about
