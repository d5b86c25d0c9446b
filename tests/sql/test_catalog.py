"""The house rules that the catalog can tell. Each test reads it, so what is new is held to them too."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from api.accounts import REFUSALS
from api.errors import WORDS
from api.migrations import SOURCES
from api.statements import split
from functions.integration_tickets import structs
from tests.actors import Acting, World, rolled_back

Rows = Callable[..., list[tuple[Any, ...]]]

PROJECT = SOURCES.parent
SNAPSHOTS = Path(__file__).parent / "snapshots"

CONTRACTS = {"helpdesk", "integration_tickets", "support_desk", "support_platform"}
SCHEMAS = ["public", "private", *sorted(CONTRACTS)]
AUTH_SERVICE = ["auth_service"]
"""Not on Supabase, which has an auth service of its own."""
REALTIME_SERVICE = ["realtime_service"]
"""Likewise."""
SERVICES = {"authenticator", "deskbase_definer", "supabase_realtime_admin"}
"""Who acts for the services, and is nobody's credential."""

ROLES = {
    "anon": "",
    "authenticated": "",
    "integration": "",
    "authenticator": "login",
    "service_role": "bypassrls",
    "deskbase_definer": "bypassrls",
}
EXPOSED_TABLES = [
    "article_votes",
    "articles",
    "attachments",
    "categories",
    "channel_accounts",
    "comments",
    "contact_identities",
    "contacts",
    "custom_fields",
    "group_members",
    "groups",
    "inbound_messages",
    "integration_tokens",
    "member_identities",
    "member_settings",
    "members",
    "notifications",
    "organizations",
    "satisfaction_ratings",
    "saved_filters",
    "sla_policies",
    "tags",
    "templates",
    "ticket_history",
    "ticket_tags",
    "tickets",
    "token_usage",
    "webhook_deliveries",
    "webhook_endpoints",
]
EXPOSED_FUNCTIONS = [
    "create_integration_token",
    "create_member",
    "deactivate_member",
    "disable_integration_token",
    "enable_integration_token",
    "enter_organization",
    "restore_ticket",
    "revoke_integration_token",
    "rotate_integration_token",
    "set_channel_secrets",
    "update_member",
]

KEYED_OTHERWISE = {
    "public.organizations": "is the tenant",
    "private.integration_token_secrets": "is found by hash, before the organization is known",
    "private.events": "is read across organizations, in the order of commits",
    "private.rate_windows": "counts subjects, which need not belong to an organization",
    "private.idempotency_keys": "is found by principal, which belongs to one organization",
    "private.mails": "is taken across organizations, in the order in which it is due",
}
COPIES = {
    "public.attachments.ticket_contact_id": "kept by trigger",
    "public.attachments.ticket_token_id": "kept by trigger",
    "public.comments.ticket_contact_id": "kept by trigger",
    "public.comments.ticket_token_id": "kept by trigger",
    "private.events.organization_id": "outlives what it tells of",
    "private.ticket_tallies.organization_id": "counts tickets, which have the reference",
    "private.ticket_tallies.category_id": "counts tickets, which have the reference",
    "private.ticket_tallies.assignee_id": "counts tickets, which have the reference",
}
"""Ids that are no references, each with its reason."""
LOGIN_REFERENCES = {"public.members.user_id"}
DEFINED_BY_THE_OWNER = {
    "private.create_member": "writes auth.users, which on Supabase only the role that migrates may",
    "private.update_member": "ends auth.sessions, likewise",
    "private.admin_create_member": "calls create_member, which nobody else may",
    "private.admin_update_member": "calls update_member, likewise",
    "private.enter_organization": "writes auth.users, likewise",
    "private.appoint": "calls update_member, likewise",
}
"""Definer functions of whoever applies the migrations, each with its reason."""
BELIEVES_CLAIMS = {
    "private.fresh_claims": "runs in PostgREST's pre-request, as the role of the JWT that is verified",
}
FOR_VISITORS = [
    "private.canonical",
    "private.claims",
    "private.closed_organization_ids",
    "private.contact_id",
    "private.has_scope",
    "private.is_admin",
    "private.is_agent",
    "private.is_lead",
    "private.member_id",
    "private.member_role",
    "private.new_canonical",
    "private.organization_id",
    "private.pre_request",
    "private.rfc3339",
    "private.token_id",
    "private.words",
]

TABLES = """
    select n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.oid
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = any (%(schemas)s) and c.relkind in ('r', 'p')
    order by 1, 2
"""
POLICIES = """
    select n.nspname || '.' || c.relname, p.polname, p.polcmd::text, p.polpermissive,
        array(select coalesce(r.rolname, 'public') from unnest(p.polroles) as u (oid)
            left join pg_roles as r on r.oid = u.oid order by 1),
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
    from pg_policy as p
    join pg_class as c on c.oid = p.polrelid join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = any (%(schemas)s)
    order by 1, 2
"""
REFERENCES = """
    select c.conname, n.nspname || '.' || t.relname, f.relname, fn.nspname,
        array(select a.attname::text from unnest(c.conkey) with ordinality as k (num, place)
            join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.num order by k.place),
        array(select a.attname::text from unnest(c.confkey) with ordinality as k (num, place)
            join pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.num order by k.place),
        c.confdeltype::text,
        array(select a.attname::text from unnest(c.confdelsetcols) as k (num)
            join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.num),
        exists (select from pg_index as i where i.indrelid = c.conrelid and i.indisvalid
            and (select array_agg(k) from unnest((i.indkey::int2[])[0:cardinality(c.conkey) - 1]) as k)
                @> c.conkey
            and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'))
    from pg_constraint as c
    join pg_class as t on t.oid = c.conrelid join pg_namespace as n on n.oid = t.relnamespace
    join pg_class as f on f.oid = c.confrelid join pg_namespace as fn on fn.oid = f.relnamespace
    where c.contype = 'f' and n.nspname = any (%(schemas)s)
    order by 2, 1
"""
FUNCTIONS = """
    select n.nspname, p.proname, p.prosecdef, coalesce(p.proconfig, '{}'), pg_get_userbyid(p.proowner),
        p.oid::regprocedure::text, p.prorettype = 'trigger'::regtype, p.prosrc, coalesce(p.proargnames, '{}'),
        array(select coalesce(r.rolname, 'public')
            from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as g
            left join pg_roles as r on r.oid = g.grantee
            where g.privilege_type = 'EXECUTE' and g.grantee <> p.proowner order by 1), p.oid
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname = any (%(schemas)s)
    order by 1, 2
"""
TRIGGERS = """
    select n.nspname || '.' || c.relname, t.tgname, p.proname
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid join pg_namespace as n on n.oid = c.relnamespace
    join pg_proc as p on p.oid = t.tgfoid
    where not t.tgisinternal and t.tgparentid = 0 and n.nspname = any (%(schemas)s)
    order by 1, 2
"""


@pytest.fixture
def rows(world: World) -> Iterator[Rows]:
    """Read the catalog as the owner."""
    with rolled_back(world.url) as stage:

        def read(statement: str, **params: Any) -> list[tuple[Any, ...]]:
            return stage.connection.execute(statement.encode(), {"schemas": SCHEMAS, **params}).fetchall()

        yield read


def is_snapshot(name: str, text: str) -> None:
    """Compare with the stored text; UPDATE_SNAPSHOTS=1 stores it instead, for the diff to be read."""
    path = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert text == path.read_text(), (
        f"if this is meant: UPDATE_SNAPSHOTS=1 pytest, and read the diff of {path}"
    )


# Tables


def test_row_security_is_enabled_and_forced_on_every_table(rows: Rows) -> None:
    tables = rows(TABLES)
    assert len(tables) > 30
    assert [f"{schema}.{name}" for schema, name, on, forced, *_ in tables if not (on and forced)] == []


def test_every_key_of_a_tenant_table_begins_with_its_organization(rows: Rows) -> None:
    keys = {
        f"{schema}.{name}": columns
        for schema, name, columns in rows("""
            select n.nspname, t.relname,
                array(select a.attname::text from unnest(c.conkey) with ordinality as k (num, place)
                    join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.num order by k.place)
            from pg_class as t join pg_namespace as n on n.oid = t.relnamespace
            left join pg_constraint as c on c.conrelid = t.oid and c.contype = 'p'
            where n.nspname = any (%(schemas)s) and t.relkind in ('r', 'p') and not t.relispartition
        """)
    }
    assert {
        name for name, columns in keys.items() if columns[:1] != ["organization_id"]
    } == KEYED_OTHERWISE.keys()


def test_every_reference_between_tenant_tables_carries_the_organization(rows: Rows) -> None:
    for name, table, target, target_schema, columns, target_columns, *_ in rows(REFERENCES):
        if target_schema == "auth":
            assert {f"{table}.{column}" for column in columns} <= LOGIN_REFERENCES, name
        elif target == "organizations":
            assert columns == ["organization_id"], name
        else:
            assert columns[0] == "organization_id", name
            assert target_columns[:2] == ["organization_id", "id"], name


def test_every_id_of_something_is_a_reference(rows: Rows) -> None:
    referring = {(table, column) for _, table, _, _, columns, *_ in rows(REFERENCES) for column in columns}
    for table, column in rows("""
        select n.nspname || '.' || c.relname, a.attname::text
        from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where n.nspname = any (%(schemas)s) and c.relkind in ('r', 'p') and not c.relispartition
            and a.atttypid = 'uuid'::regtype and a.attname ~ '_id$'
    """):
        assert (table, column) in referring or f"{table}.{column}" in COPIES, (table, column)


def test_every_reference_says_what_a_delete_does_and_never_takes_the_organization_away(rows: Rows) -> None:
    for name, _, _, _, columns, _, on_delete, emptied, *_ in rows(REFERENCES):
        assert on_delete in {"c", "n", "r"}, name
        if on_delete == "n" and "organization_id" in columns:
            assert emptied, name
            assert "organization_id" not in emptied, name


def test_every_reference_has_an_index(rows: Rows) -> None:
    assert [name for name, *_, is_indexed in rows(REFERENCES) if not is_indexed] == []


def test_columns_say_what_they_are(rows: Rows) -> None:
    for table, column, kind in rows("""
        select c.table_schema || '.' || c.table_name, c.column_name, c.data_type
        from information_schema.columns as c
        where c.table_schema = any (%(schemas)s)
    """):
        where = f"{table}.{column} {kind}"
        assert kind not in {"character varying", "character", "timestamp without time zone", "json"}, where
        assert column.endswith(("_at", "_start")) or column == "at" or kind != "timestamp with time zone", (
            where
        )
        assert not column.endswith("_at") or kind == "timestamp with time zone", where
        assert column.startswith(("is_", "has_")) or kind != "boolean" or table == "public.member_settings", (
            where
        )


def test_what_clients_write_as_text_has_a_limit(rows: Rows) -> None:
    writable = rows("""
        select c.oid::regclass::text, a.attname::text,
            coalesce(string_agg(pg_get_constraintdef(k.oid), ' '), '')
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_constraint as k on k.conrelid = c.oid and k.contype = 'c' and a.attnum = any (k.conkey)
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.atttypid = 'text'::regtype
            and exists (select from unnest(array['authenticated', 'integration']) as r
                where has_column_privilege(r, c.oid, a.attnum, 'insert')
                    or has_column_privilege(r, c.oid, a.attnum, 'update'))
        group by 1, 2
    """)
    assert len(writable) > 20
    limits = re.compile(r"length\(|= ANY|~ '\^")
    assert [f"{table}.{column}" for table, column, checks in writable if not limits.search(checks)] == []


# Policies


def test_a_policy_is_for_named_roles_and_one_command_and_only_widens(rows: Rows) -> None:
    commands = {"r": "select", "a": "insert", "w": "update", "d": "delete"}
    policies = rows(POLICIES)
    assert len(policies) > 60
    for table, name, command, is_permissive, roles, *_ in policies:
        assert is_permissive, (table, name)
        assert command in commands, (table, name)
        assert "public" not in roles, (table, name)
        assert re.fullmatch(rf"{commands[command]}_[a-z]+", name), (table, name)


def test_a_policy_checks_what_is_read_and_what_is_written(rows: Rows) -> None:
    for table, name, command, _, _, using, check in rows(POLICIES):
        assert (using is not None) == (command in "rwd"), (table, name)
        assert (check is not None) == (command in "aw"), (table, name)


def test_no_role_has_two_policies_for_one_command(rows: Rows) -> None:
    found = defaultdict(list)
    for table, name, command, _, roles, *_ in rows(POLICIES):
        for role in roles:
            found[table, command, role].append(name)
    assert {where: names for where, names in found.items() if len(names) > 1} == {}


def test_policies_call_functions_once_a_statement(rows: Rows) -> None:
    call = re.compile(r"(?<!SELECT )\b(?:private|auth|public)\.\w+\(|(?<!SELECT )\bcurrent_setting\(")
    for table, name, *_, using, check in rows(POLICIES):
        for expression in (using, check):
            assert not call.search(expression or ""), (table, name, expression)


def test_policies_of_members_and_integrations_begin_with_the_organization(rows: Rows) -> None:
    """An anchor for the reader: the first thing a policy says is whose rows it is about."""
    for table, name, _, _, roles, using, check in rows(POLICIES):
        if roles in (["anon"], ["deskbase_definer"]):
            continue
        column = "id" if table == "public.organizations" else "organization_id"
        for expression in filter(None, (using, check)):
            begin = rf"\(+{column} = \( SELECT private\.organization_id\(\) AS organization_id\)\)"
            assert re.match(begin, expression), (table, name, expression)


def test_no_client_has_a_policy_on_a_private_table(rows: Rows) -> None:
    """The definer passes by its policies there; they say that nobody was forgotten."""
    for table, name, _, _, roles, *_ in rows(POLICIES):
        assert not table.startswith("private.") or roles == ["deskbase_definer"], (table, name)


def test_no_rule_trusts_what_users_write_about_themselves(rows: Rows) -> None:
    texts = [f"{using} {check}" for *_, using, check in rows(POLICIES)]
    texts += [definition for (definition,) in rows("""
        select pg_get_functiondef(p.oid) from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
        where n.nspname = any (%(schemas)s)
    """)]  # fmt: skip
    assert not [text for text in texts if "user_metadata" in text]


# Functions


def test_definer_functions_are_pinned_private_and_owned_by_the_definer(rows: Rows) -> None:
    definers = [row for row in rows(FUNCTIONS) if row[2]]
    assert len(definers) > 20
    owners = {f"{row[0]}.{row[1]}" for row in definers if row[4] != "deskbase_definer"}
    assert owners == DEFINED_BY_THE_OWNER.keys()
    for schema, _, _, config, _, signature, *_ in definers:
        assert schema == "private", signature
        assert 'search_path=""' in config, signature


def test_nobody_but_those_named_may_call_a_function(rows: Rows) -> None:
    for schema, name, _, _, _, signature, _, _, _, callers, _ in rows(FUNCTIONS):
        assert "public" not in callers, signature
        assert "anon" not in callers or f"{schema}.{name}" in FOR_VISITORS, signature


def test_who_is_believed_about_claims_is_called_by_the_service_alone(rows: Rows) -> None:
    believing = [row for row in rows(FUNCTIONS) if {"claims", "verified"} & set(row[8]) and not row[6]]
    assert len(believing) > 5
    for schema, name, *_, callers, _ in believing:
        if f"{schema}.{name}" not in BELIEVES_CLAIMS:
            assert set(callers) <= SERVICES, name


def test_clients_reach_no_trigger_function(rows: Rows) -> None:
    for *_, signature, is_trigger, _, _, callers, _ in rows(FUNCTIONS):
        if is_trigger:
            assert set(callers) <= SERVICES - {"authenticator"}, signature


def test_the_definer_owns_functions_and_nothing_else(rows: Rows) -> None:
    assert rows("""
        select distinct d.classid::regclass::text
        from pg_shdepend as d
        where d.refclassid = 'pg_authid'::regclass and d.refobjid = 'deskbase_definer'::regrole
            and d.deptype = 'o'
            and d.dbid in (0, (select oid from pg_database where datname = current_database()))
    """) == [("pg_proc",)]


def test_the_roles_are_what_they_are_said_to_be(rows: Rows) -> None:
    found = dict[str, str](rows("""
        select rolname, array_to_string(array[
            case when rolsuper then 'superuser' end, case when rolinherit then 'inherit' end,
            case when rolcreaterole then 'createrole' end, case when rolcreatedb then 'createdb' end,
            case when rolcanlogin then 'login' end, case when rolbypassrls then 'bypassrls' end], ' ')
        from pg_roles
        where rolname = any (%(names)s)
    """, names=list(ROLES)))  # fmt: skip
    assert found == ROLES
    assert rows("""
        select array_agg(distinct roleid::regrole::text order by roleid::regrole::text)
        from pg_auth_members where member = 'authenticator'::regrole
    """) == [(["anon", "authenticated", "integration", "service_role"],)]


def test_the_service_may_read_and_write_no_table_itself(rows: Rows) -> None:
    assert (
        rows("""
        select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = any (%(schemas)s) and c.relkind in ('r', 'p', 'v', 'S')
            and has_any_column_privilege('authenticator', c.oid, 'select, insert, update')
    """)
        == []
    )


def test_every_function_says_its_volatility_in_the_source() -> None:
    for path in SOURCES.glob("*.sql"):
        for statement in split(path.read_text()):
            if found := re.search(r"^create function (\S+)\(", statement.text, re.MULTILINE):
                head = re.split(r"^(?:as \$|begin atomic|return\b)", statement.text, flags=re.MULTILINE)[0]
                assert re.search(r"\b(immutable|stable|volatile)\b", head), (path.name, found[1])


def test_exposed_functions_have_one_signature_and_a_pinned_path(rows: Rows) -> None:
    names = [row[1] for row in rows(FUNCTIONS) if row[0] == "public"]
    assert len(names) == len(set(names))
    for schema, _, _, config, _, signature, *_ in rows(FUNCTIONS):
        assert schema != "public" or 'search_path=""' in config, signature


# The auth service of a plain Postgres


def test_the_auth_service_s_functions_are_pinned_commented_and_its_role_s(rows: Rows) -> None:
    functions = rows(FUNCTIONS, schemas=AUTH_SERVICE)
    assert len(functions) > 40
    for _, _, is_definer, config, owner, signature, *_, callers, oid in functions:
        assert owner == "supabase_auth_admin", signature
        assert 'search_path=""' in config, signature
        assert set(callers) <= ({"authenticator"} if is_definer else set()), signature
        (comment,) = rows("select obj_description(%(oid)s, 'pg_proc')", oid=oid)
        assert comment[0], signature
    names = [name for _, name, *_ in functions]
    assert len(names) == len(set(names))


def test_nobody_but_the_service_s_login_may_enter_the_auth_service(rows: Rows) -> None:
    assert rows("""
        select r.rolname from pg_namespace as n, aclexplode(n.nspacl) as g
        left join pg_roles as r on r.oid = g.grantee
        where n.nspname = 'auth_service' and g.grantee <> n.nspowner
    """) == [("authenticator",)]


def test_the_auth_service_refuses_with_a_word_and_a_sentence(rows: Rows) -> None:
    refusals = set()
    for *_, signature, _, source, _, _, _ in rows(FUNCTIONS, schemas=AUTH_SERVICE):
        for statement in re.findall(r"\braise [^;]*;", source):
            pattern = r"raise sqlstate 'PT4\d\d' using message = '\w+',\s*detail = '"
            assert re.match(pattern, statement), (signature, statement)
        refusals |= set(re.findall(r"\brefusal := '(\w+)'", source))
    assert refusals == REFUSALS.keys()


# The realtime service of a plain Postgres


def test_the_realtime_service_s_functions_are_pinned_commented_and_the_login_s_alone(rows: Rows) -> None:
    functions = rows(FUNCTIONS, schemas=REALTIME_SERVICE)
    assert len(functions) > 20
    names = [name for _, name, *_ in functions]
    assert len(names) == len(set(names))
    for _, _, _, config, _, signature, is_trigger, _, _, callers, oid in functions:
        assert 'search_path=""' in config, signature
        assert set(callers) <= (set() if is_trigger else {"authenticator"}), signature
        (comment,) = rows("select obj_description(%(oid)s, 'pg_proc')", oid=oid)
        assert comment[0], signature


def test_nobody_but_the_service_s_login_may_enter_the_realtime_service(rows: Rows) -> None:
    assert rows("""
        select r.rolname from pg_namespace as n, aclexplode(n.nspacl) as g
        join pg_roles as r on r.oid = g.grantee
        where n.nspname = 'realtime_service' and g.grantee <> n.nspowner and r.rolname <> 'deskbase_definer'
    """) == [("authenticator",)]


def test_nobody_reads_what_processes_tell_each_other(rows: Rows) -> None:
    found = rows("""
        select t, r
        from unnest(array['realtime.signals', 'realtime.presences', 'realtime.processes']) as t,
            unnest(array['anon', 'authenticated', 'integration', 'service_role', 'authenticator']) as r
        where has_any_column_privilege(r, t, 'select, insert, update')
            or has_table_privilege(r, t, 'delete, truncate')
    """)
    assert found == []


# What is visible from outside


def test_what_is_exposed_is_what_is_meant_to_be(rows: Rows) -> None:
    assert [name for schema, name, *_ in rows(TABLES) if schema == "public"] == EXPOSED_TABLES
    assert [row[1] for row in rows(FUNCTIONS) if row[0] == "public"] == EXPOSED_FUNCTIONS
    assert rows("select viewname from pg_views where schemaname = 'public'") == []


def test_views_run_with_the_rights_of_their_reader(rows: Rows) -> None:
    assert (
        rows("""
        select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = any (%(schemas)s) and c.relkind in ('v', 'm')
            and (c.relkind = 'm' or not coalesce(c.reloptions, '{}')
                && array['security_invoker=true', 'security_invoker=on'])
    """)
        == []
    )


def test_grants_are_those_that_were_agreed_on(rows: Rows) -> None:
    grants = rows("""
        with objects as (
            select c.oid, c.relacl as acl, c.oid::regclass::text as name from pg_class as c
            where c.relnamespace::regnamespace::text = any (%(schemas)s::text[])
                and c.relkind in ('r', 'p', 'v') and not c.relispartition
        ), granted as (
            select o.name, g.grantee, lower(g.privilege_type) as verb, null as columns
            from objects as o, aclexplode(o.acl) as g
            union all
            select o.name, g.grantee, lower(g.privilege_type), string_agg(a.attname, ', ' order by a.attname)
            from objects as o join pg_attribute as a on a.attrelid = o.oid, aclexplode(a.attacl) as g
            group by 1, 2, 3
            union all
            select p.oid::regprocedure::text, g.grantee, lower(g.privilege_type), null
            from pg_proc as p, aclexplode(p.proacl) as g
            where p.pronamespace::regnamespace::text = any (%(schemas)s::text[]) and g.grantee <> p.proowner
            union all
            select 'schema ' || n.nspname, g.grantee, lower(g.privilege_type), null
            from pg_namespace as n, aclexplode(n.nspacl) as g
            where n.nspname = any (%(schemas)s::text[])
        )
        select r.rolname, g.name, g.verb || coalesce(' (' || g.columns || ')', '')
        from granted as g join pg_roles as r on r.oid = g.grantee
        where r.rolname in ('anon', 'authenticated', 'integration', 'service_role', 'authenticator',
                'supabase_auth_admin')
            and g.verb <> 'maintain'  -- since Postgres 17, as part of `all`
        order by 1, 2, 3
    """)
    granted = defaultdict(list)
    for role, name, verb in grants:
        granted[role, re.sub(r"^(?=[a-z_]+(\(|$))", "public.", name)].append(verb)
    alike = defaultdict(list)
    for (role, name), verbs in sorted(granted.items()):
        alike[role, "\n      ".join(verbs)].append(name)
    lines: list[str] = []
    last = ""
    for (role, granted_verbs), names in alike.items():
        lines += ["", role] if role != last else []
        lines += [f"  {name}" for name in names] + [f"      {granted_verbs}"]
        last = role
    is_snapshot("grants.txt", "\n".join(lines[1:]) + "\n")


def test_a_new_table_and_a_new_function_are_closed_until_they_are_opened(owner: Acting) -> None:
    owner.rows("create table public.brand_new (id integer)")
    owner.rows("create function public.brand_new() returns integer language sql immutable return 1")
    assert (
        owner.values("""
        select r from unnest(array['anon', 'authenticated', 'integration', 'authenticator']) as r
        where has_table_privilege(r, 'public.brand_new', 'select, insert, update, delete')
            or has_function_privilege(r, 'public.brand_new()', 'execute')
    """)
        == []
    )


# Words and names


def test_everything_has_a_comment(rows: Rows) -> None:
    assert (
        rows("""
        select o.name from (
            select n.nspname::text, obj_description(n.oid, 'pg_namespace') from pg_namespace as n
            where n.nspname = any (%(schemas)s)
            union all
            select c.oid::regclass::text, obj_description(c.oid, 'pg_class')
            from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
            where n.nspname = any (%(schemas)s) and c.relkind in ('r', 'p', 'v', 'm')
            union all
            select p.oid::regprocedure::text, obj_description(p.oid, 'pg_proc')
            from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
            where n.nspname = any (%(schemas)s)
            union all
            select t.oid::regtype::text, obj_description(t.oid, 'pg_type')
            from pg_type as t where t.typnamespace = 'public'::regnamespace and t.typtype in ('e', 'd')
            union all
            select r.rolname, shobj_description(r.oid, 'pg_authid') from pg_roles as r
            where r.rolname in ('integration', 'deskbase_definer')
        ) as o (name, words)
        where coalesce(length(o.words), 0) < 5
    """)
        == []
    )


def test_triggers_are_numbered_and_their_functions_named_after_them(rows: Rows) -> None:
    for table, name, function in rows(TRIGGERS, schemas=[*SCHEMAS, "auth"]):
        task = re.fullmatch(r"_\d{3}_([a-z_]+)", name)
        assert task, (table, name)
        bare = table.partition(".")[2]
        shared = re.fullmatch(rf"tg_(?:{bare}_)?_([a-z_]+)", function)
        assert shared, (table, name, function)
        assert task[1].startswith(shared[1]), (table, name, function)


def test_the_service_publishes_what_the_event_log_holds(rows: Rows) -> None:
    logged = {table for table, _, function in rows(TRIGGERS) if function == "tg__events"}
    published = rows("""
        select schemaname || '.' || tablename from pg_publication_tables where pubname = 'supabase_realtime'
    """)
    assert {table for (table,) in published} == logged


def test_constraints_and_indexes_are_named_after_their_table(rows: Rows) -> None:
    for table, name in rows("""
        select c.relname, k.conname from pg_constraint as k join pg_class as c on c.oid = k.conrelid
        join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = any (%(schemas)s) and k.contype <> 't' and not c.relispartition
    """):
        assert name.startswith(f"{table}_"), name
    for table, name, columns, is_constraint in rows("""
        select t.relname, c.relname,
            case when i.indexprs is null then
                (select string_agg(a.attname, '_' order by k.place)
                from unnest(i.indkey::int2[]) with ordinality as k (num, place)
                join pg_attribute as a on a.attrelid = t.oid and a.attnum = k.num) end,
            exists (select from pg_constraint as k where k.conindid = i.indexrelid)
        from pg_index as i join pg_class as c on c.oid = i.indexrelid join pg_class as t on t.oid = i.indrelid
        join pg_namespace as n on n.oid = t.relnamespace
        where n.nspname = any (%(schemas)s) and not t.relispartition
    """):
        if is_constraint:
            assert re.fullmatch(rf"{table}(_\w+)?_(pkey|key)", name), name
        elif len(name) < 63:  # Postgres cuts longer names
            assert re.fullmatch(rf"{table}_\w+_idx", name), name
            # The last columns of an index may be there for the order alone.
            middle = name.removeprefix(f"{table}_").removesuffix("_idx")
            assert columns is None or f"{columns}_".startswith(f"{middle}_"), (name, columns)


def test_the_contract_s_words_are_the_database_s(rows: Rows) -> None:
    checks = rows("""
        select t.typname, pg_get_constraintdef(k.oid)
        from pg_type as t join pg_constraint as k on k.contypid = t.oid
        where t.typnamespace = 'public'::regnamespace
    """)
    labels = {name: re.findall(r"'(\w+)'", check) for name, check in checks}
    assert list(get_args(structs.Priority)) == labels["ticket_priority"]
    word = "select integration_tickets.status_word(s) from unnest(%(all)s::public.ticket_status[]) as s"
    shown = {text for (text,) in rows(word, all=labels["ticket_status"])}
    assert set(get_args(structs.Status)) == shown


def test_refusals_use_published_words_and_a_sentence(rows: Rows) -> None:
    raised = set()
    for *_, signature, _, source, _, _, _ in rows(FUNCTIONS):
        for statement in re.findall(r"\braise (?!warning|insufficient_privilege)[^;]*;", source):
            found = re.match(r"raise sqlstate 'PT(\d{3})' using message = '(\w+)',\s*detail = ", statement)
            assert found, (signature, statement)
            raised.add(found[2])
    assert raised - WORDS.keys() == set()
    elsewhere = "\n".join(
        path.read_text()
        for folder in ("api", "functions")
        for path in (PROJECT / folder).rglob("*.py")
        if path.name != "errors.py"
    )
    errors = (PROJECT / "api" / "errors.py").read_text().partition("WORD_OF_STATUS")[2]
    assert [w for w in WORDS if w not in raised and f'"{w}"' not in elsewhere + errors] == []
