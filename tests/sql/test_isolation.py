"""The proof that two organizations never meet: every table, every actor, every verb, found in the catalog.

A new table is walked as soon as it exists, and fails here until the world has rows of it. What an actor may
do inside their own organization is proved by the files beside this one; what customers and integrations may
see of it, here too, because that as well has to hold for tables that are still to come.
"""

import contextlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.actors import (
    GONE,
    LOGIN,
    PEOPLE,
    SERVICE,
    VISITOR,
    Acting,
    Actor,
    Organization,
    Refused,
    Stage,
    World,
    refusal_of,
)

INSIDE = [name for name in PEOPLE if name not in GONE] + ["token", "other_token"]
EVERYBODY = [f"{organization}.{name}" for organization in ("north", "south") for name in INSIDE] + ["visitor"]
WRITERS = [f"north.{name}" for name in INSIDE] + ["visitor"]

# How a write across organizations is refused: right or policy, composite key, trigger that finds nothing.
DENIED = {"42501", "23503", "PT400", "PT401", "PT403", "PT404"}
GLOBALLY_UNIQUE = {
    "channel_accounts": "tells whose a delivery is, so no two organizations may claim one account"
}
# Values for parameters of functions that would otherwise be refused before an id is looked at.
SENSIBLE = {"status": "open", "content": "text", "action": "revoke"}


@dataclass(frozen=True)
class Reference:
    """A foreign key to a tenant table; the organization, the first column of both sides, is left out."""

    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]

    def is_used_by(self, row: dict[str, Any], columns: Sequence[str]) -> bool:
        """Return whether the row, written with these columns, refers to something."""
        return all(row[column] and column in columns for column in self.columns)

    def to(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the values of the columns that refer to the row."""
        return {column: row[other] for column, other in zip(self.columns, self.target_columns, strict=True)}


@dataclass(frozen=True)
class Table:
    """A table as the catalog has it; `tenant` is the column that says whose a row is."""

    name: str
    tenant: str
    columns: tuple[str, ...]
    unique_texts: tuple[str, ...]
    references: tuple[Reference, ...]


TABLES = """
    select c.relname,
        array(select a.attname::text from pg_attribute as a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                and a.attidentity = '' and a.attgenerated = '' order by a.attnum),
        array(select distinct a.attname::text from pg_index as i, pg_attribute as a
            where i.indrelid = c.oid and i.indisunique and a.attrelid = c.oid and a.atttypid = 'text'::regtype
                and (a.attnum = any (i.indkey)
                    or pg_get_indexdef(i.indexrelid) ~ ('\\y' || a.attname || '\\y')))
    from pg_class as c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    order by 1
"""
REFERENCES = """
    select t.relname, k.conname,
        array(select a.attname::text from unnest(k.conkey) with ordinality as u (num, place)
            join pg_attribute as a on a.attrelid = t.oid and a.attnum = u.num
            where u.place > 1 order by u.place),
        f.relname,
        array(select a.attname::text from unnest(k.confkey) with ordinality as u (num, place)
            join pg_attribute as a on a.attrelid = f.oid and a.attnum = u.num
            where u.place > 1 order by u.place)
    from pg_constraint as k join pg_class as t on t.oid = k.conrelid join pg_class as f on f.oid = k.confrelid
    where k.contype = 'f' and cardinality(k.conkey) > 1 and t.relnamespace = 'public'::regnamespace
    order by 1, 2
"""
FUNCTIONS = """
    select p.oid::regproc::text, p.proargnames[1:p.pronargs], p.proargtypes::regtype[]::text[]
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    where has_schema_privilege(%(role)s, n.oid, 'usage') and n.nspname !~ '^(pg_|information_schema)'
        and has_function_privilege(%(role)s, p.oid, 'execute') and 'uuid'::regtype = any (p.proargtypes)
        and p.prorettype <> 'trigger'::regtype
        and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')
"""
PRIVATE_TABLES = """
    select relname from pg_class where relnamespace = 'private'::regnamespace and relkind in ('r', 'p')
"""


@dataclass(frozen=True)
class Walk:
    """The tables of a world, and what the walker has to know and to do at each."""

    world: World
    stage: Stage
    owner: Acting
    tables: tuple[Table, ...]

    def __getitem__(self, name: str) -> Table:
        (table,) = [table for table in self.tables if table.name == name]
        return table

    def find(self, name: str) -> tuple[Acting, Organization, Organization]:
        """Return the actor of that name, the organization they are in, and the foreign one."""
        where, _, who = name.rpartition(".")
        home = self.world.south if where == "south" else self.world.north
        actor = VISITOR if name == "visitor" else home.actors[who]
        return Acting(actor, self.stage), home, self.world.other(home)

    @contextlib.contextmanager
    def without_triggers(self) -> Iterator[None]:
        """Let policies and keys stand alone, so that no trigger refuses what they should have refused."""
        with self.stage.undone():
            for table in self.tables:
                self.owner.rows(f"alter table public.{table.name} disable trigger user")
            yield

    def attempt(self, action: Callable[[], object]) -> str | None:
        """Do something, take it back, and return the SQLSTATE with which it was refused, if it was."""
        with self.stage.undone():
            refusal = refusal_of(action)
        return refusal.state if refusal else None

    def copies(self, table: Table, organization: Organization) -> list[dict[str, Any]]:
        """Return the organization's rows of a table as they are."""
        statement = f"select to_jsonb(t) from public.{table.name} as t where t.{table.tenant} = %s"
        return self.owner.values(statement, [organization.id])

    def fingerprint(self, organization: Organization) -> list[Any]:
        """Return something that changes with any write to a row of the organization, even of the same."""
        parts = [
            f"select '{t.name}', md5(string_agg(t.ctid || t::text, '' order by t.ctid))"
            f" from public.{t.name} as t where t.{t.tenant} = %(id)s"
            for t in self.tables
        ]
        return sorted(self.owner.rows(" union all ".join(parts), {"id": organization.id}))

    def granted(self, actor: Actor, table: Table, verb: str) -> list[str]:
        """Return the columns that the actor's role may write in this way."""
        statement = "select c from unnest(%s::text[]) as c where has_column_privilege(%s, %s, c, %s)"
        return self.owner.values(statement, [list(table.columns), actor.role, f"public.{table.name}", verb])

    def functions(self, role: str) -> list[tuple[Any, ...]]:
        """Return the functions that take an id and that the role may call."""
        return self.owner.rows(FUNCTIONS, {"role": role})


@pytest.fixture
def walk(world: World, stage: Stage, owner: Acting) -> Walk:
    references: dict[str, list[Reference]] = {}
    for table, name, columns, target, target_columns in owner.rows(REFERENCES):
        found = Reference(name, tuple(columns), target, tuple(target_columns))
        references.setdefault(table, []).append(found)
    tables = tuple(
        Table(
            name,
            "id" if name == "organizations" else "organization_id",
            tuple(columns),
            tuple(unique_texts),
            tuple(references.get(name, [])),
        )
        for name, columns, unique_texts in owner.rows(TABLES)
    )
    assert len(tables) > 25
    return Walk(world, stage, owner, tables)


def insert_copy(acting: Acting, table: Table, columns: Sequence[str], row: dict[str, Any]) -> None:
    """Insert a copy of a row under a new id, with other texts where they have to be unique."""
    fresh = {**row, **{column: f"{row[column]}_copy" for column in table.unique_texts if row[column]}}
    if isinstance(row.get("id"), str):
        fresh["id"] = str(uuid.uuid4())
    names = ", ".join(columns)
    acting.rows(
        f"insert into public.{table.name} ({names}) "
        f"select {names} from jsonb_populate_record(null::public.{table.name}, %s::jsonb)",
        [json.dumps(fresh)],
    )


def overwrite(acting: Acting, table: Table, column: str, row: dict[str, Any]) -> None:
    """Write what the row has in a column into that of every row, without reading any of them."""
    value = f"(jsonb_populate_record(null::public.{table.name}, %s::jsonb)).{column}"
    acting.rows(f"update public.{table.name} set {column} = {value}", [json.dumps(row)])


def visible(acting: Acting, table: Table) -> list[dict[str, Any]]:
    """Return the rows of a table that the actor sees; none if the actor may not even ask."""
    try:
        return acting.values(f"select to_jsonb(t) from public.{table.name} as t")
    except Refused as refusal:
        if refusal.state == "42501":
            return []
        raise


# The world is whole


@pytest.mark.parametrize("name", ["north", "south"])
def test_every_table_has_rows_in_the_organization(name: str, walk: Walk) -> None:
    _, home, _ = walk.find(f"{name}.agent")
    assert [table.name for table in walk.tables if not walk.copies(table, home)] == []


@pytest.mark.parametrize("name", ["north", "south"])
def test_every_reference_is_used_in_the_organization(name: str, walk: Walk) -> None:
    _, home, _ = walk.find(f"{name}.agent")
    for table in walk.tables:
        rows = walk.copies(table, home)
        for reference in table.references:
            assert any(reference.is_used_by(row, table.columns) for row in rows), reference.name


# Reading


@pytest.mark.parametrize("name", EVERYBODY)
def test_nobody_reads_a_row_of_the_other_organization(name: str, walk: Walk) -> None:
    acting, home, _ = walk.find(name)
    seen = {table.name: {row[table.tenant] for row in visible(acting, table)} for table in walk.tables}
    if acting.actor is VISITOR:
        assert {table for table, found in seen.items() if found} == {"articles"}
        return
    assert {table: found for table, found in seen.items() if not found <= {home.id}} == {}
    assert seen["tickets"] == {home.id}, "sees their own, or the test proves nothing"


def test_the_proof_notices_a_policy_that_lets_one_row_through(walk: Walk, customer: Acting) -> None:
    tags = walk["tags"]
    assert len({row["organization_id"] for row in visible(customer, tags)}) == 1
    walk.owner.rows("create policy select_leak on public.tags for select to authenticated using (true)")
    assert len({row["organization_id"] for row in visible(customer, tags)}) == 2


@pytest.mark.parametrize(
    "name", ["visitor", "customer", "agent", "admin", "token", "service", "authenticator"]
)
def test_nobody_reads_a_private_table(name: str, walk: Walk, north: Organization) -> None:
    others = {"visitor": VISITOR, "service": SERVICE, "authenticator": LOGIN}
    acting = Acting(others.get(name) or north.actors[name], walk.stage)
    private = walk.owner.values(PRIVATE_TABLES)
    assert len(private) > 5
    for table in private:
        acting.refused("42501", f"select from private.{table}")


def test_visitors_see_published_articles_alone(walk: Walk, visitor: Acting) -> None:
    articles = visible(visitor, walk["articles"])
    assert len(articles) == 2
    assert all(article["is_published"] for article in articles)


# What customers and integrations see of their own organization

CUSTOMERS_SEE = {
    "article_votes",
    "articles",
    "attachments",
    "categories",
    "comments",
    "contacts",
    "custom_fields",
    "member_settings",
    "members",
    "notifications",
    "organizations",
    "satisfaction_ratings",
    "saved_filters",
    "tags",
    "ticket_tags",
    "tickets",
}
INTEGRATIONS_SEE = {"categories", "comments", "tags", "tickets", "webhook_endpoints"}


def is_owned(row: dict[str, Any], whose: dict[str, set[Any]]) -> bool:
    """Return whether every column that names a person, a token or a ticket names an allowed one."""
    return all(row[column] in allowed for column, allowed in whose.items() if column in row)


@pytest.mark.parametrize("name", ["north.customer", "north.other_customer"])
def test_customers_see_nothing_that_belongs_to_somebody_else_or_is_internal(name: str, walk: Walk) -> None:
    acting, home, _ = walk.find(name)
    staff = "select id from public.members where organization_id = %s and role >= 'agent'"
    tickets = "select id from public.tickets where contact_id = %s and deleted_at is null"
    whose: dict[str, set[Any]] = {
        "contact_id": {acting.contact_id},
        "ticket_contact_id": {acting.contact_id, None},
        "member_id": {acting.member_id},
        "owner_id": {acting.member_id},
        "uploaded_by_member_id": {acting.member_id, *walk.owner.values(staff, [home.id])},
        "ticket_id": {None, *walk.owner.values(tickets, [acting.contact_id])},
        "is_internal": {False},
        "is_published": {True},
        "ticket_deleted_at": {None},
        "deleted_at": {None},
    }
    seen = {table.name: visible(acting, table) for table in walk.tables}
    contact = [row for row in seen.pop("contacts") if row["id"] == acting.contact_id]
    assert len(contact) == 1
    for row in seen.pop("members"):
        assert row["id"] == acting.member_id or row["role"] != "customer", row
    for table, rows in seen.items():
        for row in rows:
            assert is_owned(row, whose), (table, row)


@pytest.mark.parametrize("name", ["north.token", "north.other_token"])
def test_integrations_see_nothing_that_others_made_or_that_is_internal(name: str, walk: Walk) -> None:
    acting, _, _ = walk.find(name)
    tickets = "select id from public.tickets where integration_token_id = %s and deleted_at is null"
    whose = {
        "integration_token_id": {acting.token_id},
        "token_id": {acting.token_id},
        "ticket_token_id": {acting.token_id},
        "ticket_id": set(walk.owner.values(tickets, [acting.token_id])),
        "ticket_deleted_at": {None},
        "deleted_at": {None},
    }
    for table in walk.tables:
        for row in visible(acting, table):
            assert is_owned(row, whose), (table.name, row)
            assert not row.get("is_internal") or row["author_token_id"] == acting.token_id, (table.name, row)


def test_customers_see_rows_of_these_tables_alone(walk: Walk, customer: Acting) -> None:
    assert {table.name for table in walk.tables if visible(customer, table)} == CUSTOMERS_SEE


def test_integrations_see_rows_of_these_tables_alone(walk: Walk, token: Acting) -> None:
    assert {table.name for table in walk.tables if visible(token, table)} == INTEGRATIONS_SEE


# Writing


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_inserts_a_row_into_the_other_organization(name: str, walk: Walk) -> None:
    acting, _, foreign = walk.find(name)
    for table in walk.tables:
        columns = walk.granted(acting.actor, table, "insert") or table.columns
        for row in walk.copies(table, foreign):
            insert = partial(insert_copy, acting, table, columns, row)
            assert walk.attempt(insert) == "42501", (table.name, row)


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_inserts_a_row_that_refers_to_the_other_organization(name: str, walk: Walk) -> None:
    acting, home, foreign = walk.find(name)
    for table in walk.tables:
        columns = walk.granted(acting.actor, table, "insert")
        for row in walk.copies(table, foreign) if table.tenant in columns else []:
            state = walk.attempt(partial(insert_copy, acting, table, columns, {**row, table.tenant: home.id}))
            if any(reference.is_used_by(row, columns) for reference in table.references):
                assert state in DENIED, (table.name, row)
            else:  # a copy of what it says, which refers to nothing
                assert state in {None, "23505", *DENIED}, (table.name, row)


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_lets_a_row_of_theirs_refer_to_the_other_organization(name: str, walk: Walk) -> None:
    acting, home, foreign = walk.find(name)
    for table in walk.tables:
        may_insert = walk.granted(acting.actor, table, "insert")
        may_update = walk.granted(acting.actor, table, "update")
        for reference in table.references:
            there = reference.to(walk.copies(walk[reference.target], foreign)[0])
            attempts: list[Callable[[], object]] = []
            if there.keys() <= set(may_insert):
                rows = walk.copies(table, home)[:3]
                attempts += [partial(insert_copy, acting, table, may_insert, {**r, **there}) for r in rows]
            if there.keys() <= set(may_update):
                changes = ", ".join(f"{column} = %({column})s" for column in there)
                attempts += [partial(acting.rows, f"update public.{table.name} set {changes}", there)]
            for attempt in attempts:
                must_not_refer(walk, table, there, home, attempt)


def must_not_refer(
    walk: Walk, table: Table, there: dict[str, Any], home: Organization, attempt: Callable[[], object]
) -> None:
    """Try to write; it is refused, touches no row, or a trigger puts the right reference in the place."""
    conditions = " and ".join(f"{column} = %({column})s" for column in there)
    referring = f"select from public.{table.name} where {table.tenant} = %(home)s and {conditions}"
    with walk.stage.undone():
        refusal = refusal_of(attempt)
        assert refusal is None or refusal.state in DENIED, (table.name, refusal)
        assert walk.owner.rows(referring, {"home": home.id, **there}) == [], table.name


@pytest.mark.parametrize("name", WRITERS)
def test_policies_alone_keep_writers_from_the_other_organization(name: str, walk: Walk) -> None:
    """Without a condition a statement asks for no right to read: only its own policy stands between."""
    acting, home, foreign = walk.find(name)
    before = walk.fingerprint(foreign)
    with walk.without_triggers():
        for table in walk.tables:
            may_insert = walk.granted(acting.actor, table, "insert")
            for row in walk.copies(table, foreign) if may_insert else []:
                insert = partial(insert_copy, acting, table, may_insert, row)
                assert walk.attempt(insert) == "42501", (table.name, row)
            states = [
                must_not_reach(walk, foreign, before, partial(overwrite, acting, table, column, row))
                for column in walk.granted(acting.actor, table, "update")
                for row in walk.copies(table, home)[:2]
            ]
            assert not states or None in states, f"no column of {table.name} could be tried"
            state = must_not_reach(
                walk, foreign, before, partial(acting.rows, f"delete from public.{table.name}")
            )
            assert state in {None, "42501"}, table.name


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_changes_or_deletes_a_row_of_the_other_organization(name: str, walk: Walk) -> None:
    acting, home, foreign = walk.find(name)
    before = walk.fingerprint(foreign)
    for table in walk.tables:
        for column in walk.granted(acting.actor, table, "update"):
            row = walk.copies(table, home)[0]
            must_not_reach(walk, foreign, before, partial(overwrite, acting, table, column, row))
        must_not_reach(walk, foreign, before, partial(acting.rows, f"delete from public.{table.name}"))


def must_not_reach(
    walk: Walk, foreign: Organization, before: list[Any], attempt: Callable[[], object]
) -> str | None:
    """Try to write without a condition; no foreign row may be touched. Return how it was refused."""
    with walk.stage.undone():
        refusal = refusal_of(attempt)
        assert refusal or walk.fingerprint(foreign) == before
    return refusal.state if refusal else None


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_finds_a_row_of_the_other_organization_to_change_or_delete(name: str, walk: Walk) -> None:
    acting, _, foreign = walk.find(name)
    for table in walk.tables:
        columns = walk.granted(acting.actor, table, "update")
        where = f"where {table.tenant} = '{foreign.id}'"
        if columns:
            assert acting.count(f"update public.{table.name} set {columns[0]} = {columns[0]} {where}") == 0
        refusal = acting.refusal(f"delete from public.{table.name} {where} returning 1")
        assert refusal is None or refusal.state == "42501", refusal
        if refusal is None:
            assert acting.rows(f"delete from public.{table.name} {where} returning 1") == []


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_moves_a_row_to_the_other_organization(name: str, walk: Walk) -> None:
    acting, _, foreign = walk.find(name)
    for table in walk.tables:
        acting.refused("42501", f"update public.{table.name} set {table.tenant} = %s", [foreign.id])


# Functions


@pytest.mark.parametrize("name", WRITERS)
def test_no_function_does_anything_with_an_id_of_the_other_organization(name: str, walk: Walk) -> None:
    acting, _, foreign = walk.find(name)
    before = walk.fingerprint(foreign)
    ids = {row["id"] for table in walk.tables for row in walk.copies(table, foreign) if "id" in row}
    for function, parameters, kinds in walk.functions(acting.actor.role):
        call = f"select {function}({', '.join(f'%s::{kind}' for kind in kinds)})"
        for foreign_id in (i for i in ids if isinstance(i, str)):
            values = [
                foreign_id if kind == "uuid" else SENSIBLE.get(parameter)
                for parameter, kind in zip(parameters, kinds, strict=True)
            ]
            with walk.stage.undone():
                refusal = acting.refusal(f"{call} is not null", values)
                assert refusal is None or refusal.state in DENIED, (function, refusal)
                if refusal is None:
                    assert acting.value(f"select coalesce(({call})::text, '')", values) == "", function
                    assert walk.fingerprint(foreign) == before, function


@pytest.mark.parametrize("name", [f"north.{name}" for name in INSIDE])
def test_no_entry_of_a_contract_finds_a_ticket_of_the_other_organization(name: str, walk: Walk) -> None:
    acting, _, foreign = walk.find(name)
    before = walk.fingerprint(foreign)
    claims = walk.owner.value("select private.claims_now(%s::jsonb)", [json.dumps(acting.actor.claims)])
    usable = "select nspname from pg_namespace where has_schema_privilege(%s, oid, 'usage')"
    theirs = set(walk.owner.values(usable, [acting.actor.role]))
    entries = [
        (function, parameters, kinds)
        for function, parameters, kinds in walk.functions("authenticator")
        if {"claims", "ticket_id"} <= set(parameters) and function.partition(".")[0] in theirs
    ]
    assert len(entries) > 2
    for function, parameters, kinds in entries:
        call = f"select {function}({', '.join(f'%s::{kind}' for kind in kinds)})"
        for ticket in walk.copies(walk["tickets"], foreign):
            values = SENSIBLE | {"claims": json.dumps(claims), "ticket_id": ticket["id"], "page": 1}
            with walk.stage.undone():
                arguments = [values.get(parameter) for parameter in parameters]
                Acting(LOGIN, walk.stage).refused("PT404", call, arguments, word="not_found")
    assert walk.fingerprint(foreign) == before


# Beneath the policies


@pytest.mark.parametrize("name", ["north", "south"])
def test_keys_refuse_a_reference_across_organizations_even_to_the_owner(name: str, walk: Walk) -> None:
    _, home, foreign = walk.find(f"{name}.agent")
    for table in walk.tables:
        for reference in table.references:
            there = reference.to(walk.copies(walk[reference.target], foreign)[0])
            changes = ", ".join(f"{column} = %({column})s" for column in there)
            conditions = " and ".join(f"{column} is not null" for column in there)
            one_row = (
                f"select ctid from public.{table.name}"
                f" where {table.tenant} = %(home)s and {conditions} limit 1"
            )
            with walk.stage.undone():
                # Without the triggers of the house, which might refuse before the key does.
                walk.owner.rows(f"alter table public.{table.name} disable trigger user")
                refusal = walk.owner.refused(
                    "23503",
                    f"update public.{table.name} set {changes} where ctid = ({one_row})",
                    {"home": home.id, **there},
                )
                assert refusal.constraint == reference.name


def test_only_these_tables_tell_that_another_organization_has_something(owner: Acting) -> None:
    """A unique index without the organization answers a guess at foreign rows, so each one has its reason."""
    telling = owner.values("""
        select distinct t.relname from pg_index as i join pg_class as t on t.oid = i.indrelid
        where t.relnamespace = 'public'::regnamespace and i.indisunique and t.relname <> 'organizations'
            and not exists (select from pg_attribute as a where a.attrelid = t.oid
                and a.attname = 'organization_id' and a.attnum = any (i.indkey::int2[]))
            -- What the server generates cannot be guessed at.
            and exists (select from pg_attribute as a
                where a.attrelid = t.oid and a.attnum = any (i.indkey::int2[]) and a.attidentity = ''
                    and has_column_privilege('authenticated', t.oid, a.attnum, 'insert'))
    """)
    assert set(telling) == set(GLOBALLY_UNIQUE)


# The proof itself


POLICIES = """
    select c.relname, p.polname, p.polcmd::text,
        array(select rolname from pg_roles where oid = any (p.polroles)),
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
    from pg_policy as p join pg_class as c on c.oid = p.polrelid
    where c.relnamespace = 'public'::regnamespace order by 1, 2
"""
ANCHOR = r"\((organization_id|id) = \( SELECT private\.organization_id\(\) AS organization_id\)\)"
# Such an id is nobody else's in any organization, so it stands for the organization as well.
OWN_ID = r"id = \( SELECT private\.(member|token)_id\(\)"


def leaks(walk: Walk, acting: Acting, table: Table, command: str, names: Sequence[Organization]) -> bool:
    """Return whether the walk would find a row of the other organization within the actor's reach."""
    home, foreign = names
    if command == "r":
        return any(row[table.tenant] != home.id for row in visible(acting, table))
    if command == "a":
        columns = walk.granted(acting.actor, table, "insert")
        rows = walk.copies(table, foreign)
        return any(walk.attempt(partial(insert_copy, acting, table, columns, row)) != "42501" for row in rows)
    attempts: list[Callable[[], object]] = [partial(acting.rows, f"delete from public.{table.name}")]
    if command == "w":
        columns = walk.granted(acting.actor, table, "update")
        rows = walk.copies(table, home)[:2]
        attempts = [partial(overwrite, acting, table, column, row) for column in columns for row in rows]
    before = walk.fingerprint(foreign)
    return any(reaches(walk, foreign, before, attempt) for attempt in attempts)


def reaches(walk: Walk, foreign: Organization, before: list[Any], attempt: Callable[[], object]) -> bool:
    with walk.stage.undone():
        return not refusal_of(attempt) and walk.fingerprint(foreign) != before


def test_the_walk_would_notice_any_policy_that_forgot_the_organization(walk: Walk) -> None:
    unnoticed = []
    policies = [policy for policy in walk.owner.rows(POLICIES) if policy[3] != ["anon"]]
    assert len(policies) > 80
    for name, policy, command, roles, using, check in policies:
        clauses = [
            f"{word} ({re.sub(ANCHOR, 'true', expression)})"
            for word, expression in (("using", using), ("with check", check))
            if expression
        ]
        with walk.without_triggers():
            walk.owner.rows(f"alter policy {policy} on public.{name} {' '.join(clauses)}")
            found = [walk.find(writer) for writer in WRITERS]
            if not any(
                leaks(walk, acting, walk[name], command, organizations)
                for acting, *organizations in found
                if acting.actor.role in roles
            ):
                unnoticed.append((name, policy, using or check))
    assert [place for *place, expression in unnoticed if not re.search(OWN_ID, expression)] == []
