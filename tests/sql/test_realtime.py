"""Changes of rows: told to exactly those whom Postgres itself shows the row, and who filtered for it."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors import Acting, Organization, refusal_of
from tests.sql.realtime import Json, Realtime, binding, condition, ids


@pytest.fixture
def realtime(login: Acting, owner: Acting) -> Realtime:
    """The realtime service."""
    return Realtime(login, owner)


@pytest.fixture
def everybody(request: pytest.FixtureRequest) -> list[Acting]:
    names = ("visitor", "service", "admin", "agent", "customer", "other_customer", "token", "stranger")
    return [request.getfixturevalue(name) for name in names]


def seen(who: Acting, table: str, columns: str = "id") -> list[Any]:
    """Return what a plain select shows somebody; nothing if they may not even ask."""
    found: list[Any] = []
    refused = refusal_of(lambda: found.extend(who.values(f"select {columns} from {table}")))
    return [] if refused else sorted(found)


# Who is told


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("tickets", "update public.tickets set subject = subject || '!'"),
        ("comments", "update public.comments set body = body || '!'"),
        ("notifications", "update public.notifications set title = title || '!'"),
    ],
)
def test_people_are_told_of_the_rows_that_they_see_and_of_no_other(
    table: str, change: str, realtime: Realtime, everybody: list[Acting]
) -> None:
    realtime.begin()
    realtime.owner.rows(change)
    told = {who.name: ids(realtime.told(who, [binding(table)])) for who in everybody}
    assert told == {who.name: seen(who, f"public.{table}", "id::text") for who in everybody}
    assert len(told["service"]) > len(told["agent"]) > 0
    assert told["visitor"] == []


MINE = "create policy a on {} for select to authenticated using (owner = (select private.contact_id()))"
POLICIES = {
    "no row-level security": "",
    "nobody": "alter table {} enable row level security",
    "one's own": f"alter table {{}} enable row level security; {MINE}",
    "for all, of everybody": """
        alter table {} enable row level security; create policy a on {} using (not is_secret)""",
    "restrictive beside permissive": """
        alter table {} enable row level security;
        create policy a on {} for select using (true);
        create policy b on {} as restrictive for select to authenticated using (not is_secret);
        create policy c on {} as restrictive using (id <> 3)""",
    "restrictive alone": """
        alter table {} enable row level security;
        create policy a on {} as restrictive for select using (true)""",
    "several that allow": f"""
        alter table {{}} enable row level security; {MINE};
        create policy b on {{}} to anon, authenticated using (id = 1);
        create policy c on {{}} for update to authenticated using (true);
        create policy d on {{}} for select to integration using ((select private.token_id()) is not null)""",
    "a sub-select that names the row": """
        alter table {} enable row level security;
        create policy a on {} for select to authenticated using (exists (
            select from public.tickets as t where t.organization_id = {}.organization_id
                and t.contact_id = {}.owner))""",
    "a column in quotes": """
        alter table {} enable row level security;
        create policy a on {} for select using ("A ""Name" = 'x')""",
    "the row as a whole": """
        alter table {} enable row level security;
        create policy a on {} for select using ((to_jsonb({}.*) ->> 'id')::integer > 2)""",
    "who asks": """
        alter table {} enable row level security;
        create policy a on {} for select using (current_user = 'authenticated')""",
    "the claims themselves": """
        alter table {} enable row level security;
        create policy a on {} for select
        using (organization_id = ((select auth.jwt()) #>> '{{app_metadata,organization_id}}')::uuid)""",
    "the table of somebody who asks": """
        alter table {} enable row level security; alter table {} owner to authenticated""",
    "the same, forced": """
        alter table {} enable row level security; alter table {} force row level security;
        alter table {} owner to authenticated""",
    "some columns alone": """
        alter table {} enable row level security; create policy a on {} for select using (id > 2);
        revoke select on {} from authenticated, anon; grant select (id, title) on {} to authenticated""",
}
"""Rules for one's own table, by what is special about them."""

NAMES = [
    "public.notes",
    'elsewhere."Mixed ""Case"',
    *(f"public._{name}" for name in "ebcdmorsv"),
    "public._row",
]


def make_table(owner: Acting, name: str, rules: str) -> None:
    """Make a published table, under rules; its rows are everybody's and nobody's, by turns."""
    schema = name.partition(".")[0]
    bare = name.partition(".")[2]
    owner.rows(f"""
        create schema if not exists {schema};
        grant usage on schema {schema} to anon, authenticated, integration, service_role;
        create table {name} (id bigint primary key, organization_id uuid, owner uuid, title text,
            is_secret boolean not null default false, "A ""Name" text, extra json);
        grant select on {name} to anon, authenticated, integration, service_role;
        {rules.replace("{}.", bare + ".").replace("{}", name).replace("{{", "{").replace("}}", "}")};
        alter publication supabase_realtime add table {name}
    """)


def fill(owner: Acting, name: str, north: Organization, south: Organization) -> None:
    people = [north.actors["customer"].contact_id, north.actors["other_customer"].contact_id, None]
    for number in range(1, 9):
        organization = south.id if number == 8 else north.id
        owner.rows(
            f"insert into {name} values (%s, %s, %s, 'a title', %s, %s, '{{\"a\": 1}}')",
            [number, organization, people[number % 3], number % 2 == 0, "x" if number > 4 else None],
        )


def wish_for(name: str) -> list[Json]:
    schema, _, bare = name.partition(".")
    return [binding(bare.strip('"').replace('""', '"'), schema)]


@pytest.mark.parametrize("rules", POLICIES)
def test_whatever_the_policies_people_are_told_of_what_they_see(
    rules: str, *, realtime: Realtime, everybody: list[Acting], north: Organization, south: Organization
) -> None:
    name = NAMES[0]
    make_table(realtime.owner, name, POLICIES[rules])
    fill(realtime.owner, name, north, south)
    visible = {who.name: seen(who, name) for who in everybody}
    assert {who.name: ids(realtime.told(who, wish_for(name))) for who in everybody} == visible
    assert visible["service"] == list(range(1, 9))

    # A row that is gone is judged by what it was.
    realtime.begin()
    realtime.owner.rows(f"delete from {name}")
    assert {who.name: ids(realtime.told(who, wish_for(name))) for who in everybody} == visible


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_name_people_are_told_of_what_they_see(
    name: str, *, realtime: Realtime, everybody: list[Acting], north: Organization, south: Organization
) -> None:
    make_table(realtime.owner, name, POLICIES["a sub-select that names the row"])
    fill(realtime.owner, name, north, south)
    wish = [{**entry, "conditions": [condition("id", "lt", "100")]} for entry in wish_for(name)]
    told = {who.name: ids(realtime.told(who, wish)) for who in everybody}
    assert told == {who.name: seen(who, name) for who in everybody}
    assert told["customer"]
    assert all(realtime.fault(who, *wish) is None for who in everybody)


def test_schema_that_one_may_not_enter_is_as_silent_as_closed(
    realtime: Realtime, agent: Acting, service: Acting, north: Organization, south: Organization
) -> None:
    name = "elsewhere.notes"
    make_table(realtime.owner, name, "")
    fill(realtime.owner, name, north, south)
    realtime.owner.rows("revoke usage on schema elsewhere from authenticated")
    assert realtime.told(agent, wish_for(name)) == []
    assert realtime.fault(agent, *wish_for(name)) is None
    assert len(realtime.told(service, wish_for(name))) == 8


def test_columns_that_one_may_not_read_are_not_told_nor_filtered_by(
    realtime: Realtime, agent: Acting, service: Acting, north: Organization, south: Organization
) -> None:
    name = NAMES[0]
    make_table(realtime.owner, name, POLICIES["some columns alone"])
    fill(realtime.owner, name, north, south)
    (first, *_) = realtime.told(agent, wish_for(name))
    assert first.data["record"] == {"id": 3, "title": "a title"}
    assert [each["name"] for each in first.data["columns"]] == ["id", "title"]
    guess = [binding("notes", conditions=[condition("is_secret", "is", "true")])]
    assert realtime.fault(agent, *guess) == "there is no column is_secret to filter by"
    assert realtime.told(agent, guess) == [], "nor if the right was lost after the join"
    assert realtime.fault(agent, binding("notes", select=["owner"])) == "there is no column owner to select"
    assert len(realtime.told(service, guess)) == 4


def test_column_that_is_gone_meets_no_condition(
    realtime: Realtime, agent: Acting, north: Organization, south: Organization
) -> None:
    make_table(realtime.owner, NAMES[0], "")
    wish = [binding("notes", conditions=[condition("title", "eq", "a title")])]
    assert realtime.fault(agent, *wish) is None
    realtime.owner.rows("alter table public.notes rename title to heading")
    fill(realtime.owner, NAMES[0], north, south)
    assert realtime.told(agent, wish) == []
    assert len(realtime.told(agent, [binding("notes")])) == 8


# What is told


def test_old_row_is_told_whole_to_those_who_saw_it_and_by_its_key_to_others(
    realtime: Realtime, agent: Acting, customer: Acting, service: Acting, north: Organization
) -> None:
    comment = realtime.owner.insert_id(
        "comments", organization_id=north.id, ticket_id=north["ticket"], body="a", is_internal=True
    )
    realtime.begin()
    realtime.owner.rows("update public.comments set is_internal = false where id = %s", [comment])
    (told,) = realtime.told(agent, [binding("comments")])
    assert (told.data["old_record"]["body"], told.data["old_record"]["is_internal"]) == ("a", True)
    (told,) = realtime.told(customer, [binding("comments")])
    assert told.data["record"]["body"] == "a"
    assert told.data["old_record"] == {"organization_id": north.id, "id": comment}
    realtime.begin()
    realtime.owner.rows("update public.comments set is_internal = true where id = %s", [comment])
    assert realtime.told(customer, [binding("comments")]) == [], "what is hidden now is not told"
    assert len(realtime.told(service, [binding("comments")])) == 1


def test_columns_bear_their_types_and_values_are_native(realtime: Realtime, service: Acting) -> None:
    realtime.owner.rows("""
        create table public.kinds (id bigint primary key, words text[], price numeric(6, 2), data jsonb,
            flag boolean, "when" timestamptz, mood public.ticket_priority, short varchar(3));
        grant select on public.kinds to service_role;
        alter publication supabase_realtime add table public.kinds;
        insert into public.kinds
        values (9007199254740993, '{a,null}', 1.50, '{"a": [1]}', true, '2026-01-01Z', 'low', 'abc')
    """)
    (told,) = realtime.told(service, [binding("kinds")])
    assert {each["name"]: each["type"] for each in told.data["columns"]} == {
        "id": "int8",
        "words": "_text",
        "price": "numeric",
        "data": "jsonb",
        "flag": "bool",
        "when": "timestamptz",
        "mood": "ticket_priority",
        "short": "varchar",
    }
    record = told.data["record"]
    assert (record["id"], record["words"], record["price"]) == (9007199254740993, ["a", None], 1.5)
    assert (record["data"], record["flag"]) == ({"a": [1]}, True)


def test_selection_keeps_the_key_and_differing_ones_are_told_apart(
    realtime: Realtime, agent: Acting, north: Organization
) -> None:
    realtime.begin()
    ticket = realtime.owner.insert_id("tickets", organization_id=north.id, subject="x")
    whole = binding()
    chosen = binding(id=2, select=["subject"])
    same = binding(id=3, select=["subject"], event="INSERT")
    other = binding(id=4, event="DELETE")
    told = realtime.told(agent, [whole, chosen, same, other])
    assert sorted(each.ids for each in told) == [[1], [2, 3]]
    (short,) = [each for each in told if each.ids == [2, 3]]
    assert short.data["record"] == {"organization_id": north.id, "id": ticket, "subject": "x"}


def test_each_wish_is_answered_by_its_place(realtime: Realtime, agent: Acting, north: Organization) -> None:
    realtime.begin()
    for subject in ("a", "b"):
        realtime.owner.insert_id("tickets", organization_id=north.id, subject=subject)
    wishes = [[binding(conditions=[condition("subject", "eq", value)])] for value in ("b", "c", "a")]
    wishes.append([binding("*")])
    told = [(each.wish, each.row["subject"]) for each in realtime.told(agent, *wishes)]
    assert sorted(told) == [(0, "b"), (2, "a"), (3, "a"), (3, "b")]


@pytest.mark.parametrize("change", ["insert", "update", "shrink", "delete"])
def test_row_that_is_too_large_is_told_without_its_large_values(
    change: str, realtime: Realtime, service: Acting
) -> None:
    realtime.owner.rows("""
        create table public.large (id integer primary key, small text, big text);
        grant select on public.large to service_role;
        alter publication supabase_realtime add table public.large;
        insert into public.large values (1, 'x', repeat('y', 1100000))
    """)
    if change != "insert":
        realtime.begin()
    changes = {
        "insert": "select",
        "update": "update public.large set small = 'z'",
        "shrink": "update public.large set big = ''",
        "delete": "delete from public.large",
    }
    realtime.owner.rows(changes[change])
    (told,) = realtime.told(service, [binding("large")])
    assert told.data["errors"] == ["Error 413: Payload Too Large"]
    assert told.row["id"] == 1
    assert all(len(each.get("big", "")) < 100 for each in (told.row, told.data.get("old_record", {})))


# Filters

TYPES = {
    "n": "integer",
    "t": "text",
    "b": "boolean",
    "d": "date",
    "p": "numeric",
    "v": "varchar",
    "tags": "text[]",
}
TEXTS = st.text("abAB%_\\é ,\"(){}'", max_size=4)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(-3, 3),
    "t": TEXTS,
    "b": st.booleans(),
    "d": st.dates().map(str),
    "p": st.decimals(-3, 3, places=2).map(str),
    "v": st.text("ab", max_size=3),
    "tags": st.lists(st.text("ab", max_size=2), max_size=2),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}),
    min_size=1,
    max_size=5,
)
PLAIN = {
    "eq": "=",
    "neq": "<>",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "isdistinct": "is distinct from",
}
PATTERNS = {"like": "like", "ilike": "ilike", "match": "~", "imatch": "~*"}


@st.composite
def conditions(draw: st.DrawFn) -> tuple[Json, str, list[Any]]:
    """Draw a condition, and the same as plain SQL with parameters."""
    column = draw(st.sampled_from(list(TYPES)))
    op = draw(st.sampled_from([*PLAIN, *PATTERNS, "in", "is"]))
    is_negated = draw(st.booleans())
    params: list[Any] = []
    given: Any
    if op in PATTERNS:
        pattern = st.text("abAB%_é .", max_size=4)
        given = draw(pattern)
        text, params = f"{column}::text {PATTERNS[op]} %s", [given]
    elif op == "is":
        given = draw(
            st.sampled_from(["null", "true", "false", "unknown"] if column == "b" else ["null", "NULL"])
        )
        text = f"{column} is {given}"
    elif op == "in":
        column = column if column != "tags" else "t"
        given = [_text(each) for each in draw(st.lists(VALUES[column], max_size=3))]
        text, params = f"{column} = any (%s::text[]::{TYPES[column]}[])", [given]
    else:
        # Longer than the column, too: nothing is cut.
        given = _text(draw(st.text("ab", max_size=5) if column == "v" else VALUES[column]))
        text, params = f"{column} {PLAIN[op]} %s::text::{TYPES[column]}", [given]
    return condition(column, op, given, is_negated=is_negated), f"{'not ' * is_negated}({text})", params


def _text(value: Any) -> str:
    """Return a value as a filter says it."""
    if isinstance(value, list):
        return "{" + ",".join(f'"{each}"' for each in value) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, wanted=st.lists(st.lists(conditions(), min_size=1, max_size=2), min_size=1, max_size=6))
def test_filters_find_what_plain_sql_finds(
    rows: list[Json], wanted: list[list[tuple[Json, str, list[Any]]]], realtime: Realtime, service: Acting
) -> None:
    with realtime.login.stage.undone():
        realtime.owner.rows("""
            create table public.things (id integer primary key generated always as identity,
                n integer, t text, b boolean, d date, p numeric(4, 1), v varchar(3), tags text[]);
            grant select on public.things to service_role;
            alter publication supabase_realtime add table public.things
        """)
        for row in rows:
            names = ", ".join(row)
            places = ", ".join(f"%({name})s" for name in row)
            realtime.owner.rows(f"insert into public.things ({names}) values ({places})", row)
        wishes = [[binding("things", conditions=[each[0] for each in group])] for group in wanted]
        assert realtime.fault(service, *[entry for wish in wishes for entry in wish]) is None
        told = realtime.told(service, *wishes)
        for place, group in enumerate(wanted):
            where = " and ".join(text for _, text, _ in group)
            params = [param for _, _, given in group for param in given]
            expected = realtime.owner.values(f"select id from public.things where {where} order by 1", params)
            assert ids(each for each in told if each.wish == place) == expected, where


@pytest.mark.parametrize(
    "wrong",
    [
        binding("organizations"),
        binding("nothing"),
        binding("tickets", "private"),
        binding(conditions=[condition("nothing", "eq", "x")]),
        binding(conditions=[condition("id", "eq", "x")]),
        binding(conditions=[condition("id", "like", "x\\")]),
        binding(conditions=[condition("id", "match", "(")]),
        binding(conditions=[condition("id", "imatch", "[")]),
        binding(conditions=[condition("id", "in", ["x"])]),
        binding(conditions=[condition("id", "is", "true")]),
        binding(conditions=[condition("id", "is", "x")]),
        binding(conditions=[condition("id", "sounds", "x")]),
        binding(conditions=[condition("version", "eq", "9" * 30)]),
        binding(conditions=[condition("priority", "eq", "whenever")]),
        binding(conditions=[condition("created_at", "gt", "yesterday evening")]),
        binding(select=["nothing"]),
        binding("*", select=["id"]),
        binding("*", conditions=[condition("id", "is", "null")]),
        binding(conditions=[condition("ctid", "eq", "(0,1)")]),
    ],
    ids=lambda wrong: str([wrong["table"], *wrong["conditions"], wrong["select"]]),
)
def test_what_cannot_be_served_is_said_at_the_join(wrong: Json, realtime: Realtime, agent: Acting) -> None:
    assert realtime.fault(agent, binding(), wrong)
    assert realtime.fault(agent, binding()) is None


def test_filter_cannot_break_out_of_its_statement(
    realtime: Realtime, agent: Acting, north: Organization
) -> None:
    realtime.begin()
    realtime.owner.insert_id("tickets", organization_id=north.id, subject="x")
    for text in ("x' or true --", '"; drop table x', "$1", "%s", "{}"):
        wish = [binding(conditions=[condition("subject", "eq", text)])]
        assert realtime.fault(agent, *wish) is None
        assert realtime.told(agent, wish) == []
        assert realtime.fault(agent, binding(conditions=[condition(text, "eq", "x")]))


def test_policy_whose_functions_the_role_may_not_name_is_said_at_the_join(
    realtime: Realtime, agent: Acting, service: Acting
) -> None:
    realtime.owner.rows("""
        create schema inner_life;
        create function inner_life.knows(x uuid) returns boolean language sql stable as 'select true';
        grant execute on function inner_life.knows(uuid) to public
    """)
    rules = """alter table {} enable row level security;
        create policy a on {} for select using (inner_life.knows(owner))"""
    make_table(realtime.owner, NAMES[0], rules)
    assert realtime.fault(agent, binding("notes")) == "permission denied for schema inner_life"
    realtime.owner.rows("grant usage on schema inner_life to authenticated")
    assert realtime.fault(agent, binding("notes")) is None
    assert realtime.fault(service, binding("notes")) is None


# Who shares an audience


@pytest.mark.parametrize(
    ("table", "expected"), [("tickets", False), ("comments", False), ("notifications", True)]
)
def test_staff_of_a_role_share_what_is_told_of_the_desk_s_tables_but_for_notifications(
    table: str, expected: bool, realtime: Realtime, agent: Acting
) -> None:
    assert realtime.check(agent, binding(table))["is_personal"] is expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("true", False),
        ("organization_id = (select private.organization_id()) and not is_secret", False),
        ("lower(title) = 'x' or (owner = (select private.contact_id()))", False),
        ("owner = (select auth.uid())", True),
        ("current_user = 'authenticated'", True),
        ("title = current_setting('request.jwt.claims', true)", True),
        ("exists (select from public.tickets as t where t.id = owner)", True),
        ("(select auth.jwt()) ->> 'aal' = 'aal2'", True),
        ('public."Is mine"(owner)', True),
        ("\"Odd\".lower(title) = 'x'", True),
    ],
)
def test_policy_that_may_ask_who_exactly_it_is_is_known(
    policy: str, expected: bool, realtime: Realtime, agent: Acting
) -> None:
    realtime.owner.rows("""
        create schema "Odd";
        create function "Odd".lower(x text) returns text language sql as 'select current_user::text';
        create function public."Is mine"(x uuid) returns boolean language sql as 'select x = auth.uid()'
    """)
    make_table(
        realtime.owner,
        NAMES[0],
        f"alter table {{}} enable row level security; create policy a on {{}} for select using ({policy})",
    )
    assert realtime.check(agent, binding("notes"))["is_personal"] is expected
