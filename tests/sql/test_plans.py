"""How statements get at their rows where there are many: by which index, and in how many pages.

Each is explained, or its scans are counted, as the role that runs it. Nothing here is about time: what reads
ten pages of a hundred thousand tickets reads hardly more of a million.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.actors import LOGIN, OWNER, Acting, Parameters, Row, Stage, World, build_world
from tests.databases import Server

# A hundred thousand tickets in the north and a fifth of that in the south, by turns, one a minute. Each
# requester has fifty or sixty of them, each agent two hundred or more; one in two hundred waits, and one in a
# hundred is deleted.
CROWD = """
    set session_replication_role = replica;
    set synchronous_commit = off;

    insert into public.organizations (name)
    select 'Organization ' || n from generate_series(1, 1000) as n;

    insert into public.members (organization_id, id, user_id, username, email, name)
    select %(north)s, md5('member ' || n)::uuid, gen_random_uuid(), n, n || '@crowd.example', n
    from generate_series(1, 5000) as n;

    insert into public.contacts (organization_id, member_id, name)
    select %(north)s, md5('member ' || n)::uuid, n from generate_series(1, 5000) as n;

    insert into public.categories (organization_id, name)
    select %(north)s, 'Category ' || n from generate_series(1, 1000) as n;

    insert into public.integration_tokens (organization_id, id, name, prefix, scopes)
    select %(north)s, md5('token ' || n)::uuid, 'Token ' || n, 'stk_', '{tickets:read}'
    from generate_series(1, 2000) as n;

    insert into private.integration_token_secrets (organization_id, token_id, hash)
    select t.organization_id, t.id, sha256(t.name::bytea) from public.integration_tokens as t
    where t.organization_id = %(north)s and t.prefix = 'stk_';

    insert into public.tickets (organization_id, subject, status, contact_id, assignee_id,
        integration_token_id, created_at, deleted_at)
    select case when n %% 6 = 0 then %(south)s::uuid else %(north)s end,
        'Ticket ' || n,
        case when n %% 200 = 9 then 'waiting' else 'closed' end,
        case when n %% 2000 = 7 then %(customer)s else md5('contact ' || n * 7919 %% 2000)::uuid end,
        case when n %% 200 = 3 then %(agent)s else md5('agent ' || n * 7919 %% 500)::uuid end,
        case when n %% 1000 = 11 then %(token)s
            when n %% 10 = 1 then md5('token ' || n * 7919 %% 100)::uuid end,
        now() - n * interval '1 minute',
        case when n %% 100 = 5 then now() end
    from generate_series(1, 120000) as n;

    insert into private.ticket_tallies
        (organization_id, status, priority, category_id, assignee_id, tickets, resolved, time_to_resolve,
        is_folded)
    select t.organization_id, t.status, t.priority, t.category_id, t.assignee_id, count(*),
        count(t.resolved_at), coalesce(sum(t.resolved_at - t.created_at), '0'), true
    from public.tickets as t
    where t.deleted_at is null
    group by t.organization_id, t.status, t.priority, t.category_id, t.assignee_id;

    -- Three comments on each of the newest tickets, and sixty on one; every other one is internal.
    insert into public.comments (organization_id, ticket_id, body, is_internal, ticket_contact_id,
        ticket_token_id, created_at)
    select t.organization_id, t.id, 'Comment ' || n, n %% 2 = 0, t.contact_id, t.integration_token_id,
        t.created_at + n * interval '1 second'
    from public.tickets as t
    cross join lateral generate_series(1, case when t.subject = 'Ticket 7' then 60 else 3 end) as n
    where t.organization_id = %(north)s and t.created_at > now() - interval '20000 minutes';

    insert into public.notifications (organization_id, member_id, type, title, created_at)
    select %(north)s, case when n %% 100 = 0 then %(agent)s else md5('agent ' || n * 7919 %% 500)::uuid end,
        'ticket_updated', 'Notification ' || n, now() - n * interval '1 minute'
    from generate_series(1, 50000) as n;

    insert into public.token_usage (organization_id, token_id, operation, status, duration_ms, request_id, at)
    select %(north)s, case when n %% 100 = 0 then %(token)s else md5('token ' || n * 7919 %% 100)::uuid end,
        'get_ticket', 200, 1, n, now() - n * interval '1 second'
    from generate_series(1, 50000) as n;

    insert into private.rate_windows (bucket, subject, window_start, used, last_grant)
    select 'tests', 'token:' || n, now(), 1, 1 from generate_series(1, 20000) as n;

    -- Ten thousand accounts, each with a session of two refresh tokens; one in ten was mailed a link.
    insert into auth.users (id, email, encrypted_password, email_confirmed_at)
    select md5('account ' || n)::uuid, 'account-' || n || '@crowd.example', 'hash', now()
    from generate_series(1, 10000) as n;

    insert into auth.identities (provider_id, provider, user_id, identity_data)
    select n, 'email', md5('account ' || n)::uuid, '{}' from generate_series(1, 10000) as n;

    insert into auth.sessions (id, user_id, created_at, aal)
    select md5('session ' || n)::uuid, md5('account ' || n)::uuid, now(), 'aal1'
    from generate_series(1, 10000) as n;

    insert into auth.refresh_tokens (token, parent, user_id, session_id, revoked, created_at, updated_at)
    select 'token ' || n || '.' || k, 'token ' || n || '.' || k - 1, md5('account ' || n)::uuid,
        md5('session ' || n)::uuid, k < 2, now(), now()
    from generate_series(1, 10000) as n, generate_series(1, 2) as k;

    insert into auth.one_time_tokens (id, user_id, token_type, token_hash, code_hash, relates_to, expires_at)
    select gen_random_uuid(), md5('account ' || n)::uuid, 'recovery_token', 'link ' || n, 'code ' || n,
        'account-' || n || '@crowd.example', now() + interval '1 hour'
    from generate_series(1, 10000, 10) as n;

    insert into auth.failed_attempts (subject, failures, last_failed_at)
    select 'address:' || n, 1, now() from generate_series(1, 10000) as n;

    insert into private.mails (kind, email, sent_at, next_attempt_at)
    select 'signup', n || '@crowd.example', case when n %% 100 > 0 then now() end,
        case when n %% 100 = 0 then now() - n * interval '1 second' end
    from generate_series(1, 20000) as n;

    -- Two days of events, a hundred a transaction; no server is so young that it has not had these.
    insert into private.events (xid, organization_id, type, table_name, operation, record, at)
    select (100 + n / 2 %% 500)::text::xid8, %(north)s, 'ticket.updated', 'tickets', 'UPDATE', '{}',
        now() + n %% 2 * interval '1 day'
    from generate_series(1, 50000) as n;
"""
EXPLAIN = "explain (analyze, buffers, timing off, summary off, format json) "
SCANS = """
    select c.relname, pg_stat_get_xact_numscans(c.oid)
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private', 'auth') and c.relkind in ('r', 'i')
"""
WRITES = """
    select n_tup_ins, n_tup_upd, n_tup_hot_upd, seq_scan, pg_table_size(relid)
    from pg_stat_user_tables where relid = 'private.rate_windows'::regclass
"""
ADMIT = """
    select from private.admit(array[1], array['tests'], array[%s::bytea], array[null]::jsonb[],
        array[null]::text[], array[1000000], array[null]::integer[], array[3600])
"""
ADMIT_PERSON = """
    select from private.admit(array[1], array['tests'], array[null]::bytea[], array[%s::jsonb],
        array[null]::text[], array[1000000], array[1000000], array[3600])
"""
GET_TICKET = "select body from integration_tickets.get_ticket(%s::jsonb, %s::uuid)"
LIST_TICKETS = "select support_platform.list_tickets(%s::jsonb, %s, null, %s, 1, 20)"
LIST_MESSAGES = "select body from support_platform.list_messages(%s::jsonb, %s::uuid, 1, 20)"
READ_EVENTS = "select id from private.read_events('300:300:', '303:303:', 0, 500)"
CALLS = 7
"""How often functions are called: after five calls their statements may be planned for any parameters."""


@pytest.fixture(scope="module")
def world(server: Server, template: str) -> Iterator[World]:
    """The world of two organizations, with a crowd in it."""
    with server.database(template) as url:
        world = build_world(url)
        fill(world)
        yield world


def fill(world: World) -> None:
    actors = world.north.actors
    values = {
        "north": world.north.id,
        "south": world.south.id,
        "customer": actors["customer"].contact_id,
        "agent": actors["agent"].member_id,
        "token": actors["token"].token_id,
    }
    with psycopg.connect(world.url, autocommit=True) as connection:
        psycopg.ClientCursor(connection).execute(CROWD.encode(), values)
        connection.execute("vacuum analyze")


def secret_hash(token: Acting) -> bytes:
    return hashlib.sha256(token.actor.secret.encode()).digest()


@dataclass(frozen=True)
class Plan:
    """What a statement did, as EXPLAIN tells it."""

    root: dict[str, Any]

    @property
    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])

    def each(self, key: str) -> Counter[str]:
        """Return what the nodes have under a key, and how many of them."""
        return Counter(node[key] for node in self.nodes if key in node)

    @property
    def pages(self) -> int:
        """How many pages were read, by the functions that it called too."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])

    @property
    def rows(self) -> int:
        return int(self.root["Actual Rows"])


def plan_of(acting: Acting, statement: str, params: Parameters = None) -> Plan:
    """Explain a statement by the cheapest of three runs: caches that are still empty cost pages as well."""
    plans = []
    for _ in range(3):
        acting.stage.come_anew()  # for the statement may have become somebody else
        plans.append(Plan(acting.value(EXPLAIN + statement, params)[0]["Plan"]))
    return min(plans, key=lambda plan: plan.pages)


def goes_by(plan: Plan, *indexes: str, pages: int) -> None:
    """Fail unless it finds rows by these indexes alone, in their order, in so many pages at most.

    And unless what policies ask is asked once: a SubPlan runs for each row, an InitPlan for all.
    """
    kinds = plan.each("Node Type")
    relations = plan.each("Parent Relationship")
    assert set(plan.each("Index Name")) == set(indexes)
    assert not kinds.keys() & {"Seq Scan", "Bitmap Heap Scan", "Sort", "Incremental Sort"}
    assert relations["InitPlan"]
    assert not relations["SubPlan"]
    assert plan.rows
    assert plan.pages <= pages


def scans(login: Acting, statement: str, params: Parameters = None) -> dict[str, int]:
    """Run a statement that answers something, and return how often it has scanned each table and index."""
    before = counted_scans(login.stage)
    assert login.rows(statement, params)
    return dict(counted_scans(login.stage) - before)


def fewest_scans(login: Acting, statement: str, params: Parameters = None) -> dict[str, int]:
    """Return the scans of the cheapest of some calls; planning may look into an index as well, and counts."""
    return min((scans(login, statement, params) for _ in range(CALLS)), key=lambda found: sum(found.values()))


def counted_scans(stage: Stage) -> Counter[str]:
    """Return how often this transaction has scanned each table and index."""
    return Counter(dict(Acting(OWNER, stage).rows(SCANS)))


@pytest.fixture
def login(stage: Stage) -> Acting:
    """The service, before it takes a role."""
    return Acting(LOGIN, stage)


@pytest.fixture
def customers_ticket(owner: Acting) -> str:
    """A ticket of the customer's with sixty comments."""
    return str(owner.value("select id from public.tickets where subject = 'Ticket 7'"))


@pytest.fixture
def tokens_ticket(owner: Acting) -> str:
    """A ticket of the integration's, in a category."""
    statement = """
        update public.tickets
        set category_id = (select id from public.categories where name = 'Category 500')
        where subject = 'Ticket 11'
        returning id
    """
    return str(owner.value(statement))


# Integrations


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_an_integration_finds_its_ticket_by_the_key(
    mode: str, owner: Acting, token: Acting, tokens_ticket: str
) -> None:
    body = owner.value("select prosrc from pg_proc where oid = 'integration_tickets.get_ticket'::regproc")
    (statement,) = re.findall(r"(?<=;)\s*(select .*?);", body, re.DOTALL)
    statement = statement.replace("into body, version", "").replace("get_ticket.ticket_id", "$1")
    owner.rows("select set_config('plan_cache_mode', %s, true)", [mode])
    token.rows(f"prepare get_ticket (uuid) as {statement}")
    plan = plan_of(token, f"execute get_ticket ('{tokens_ticket}')")
    goes_by(plan, "tickets_pkey", "categories_pkey", pages=10)
    for condition in plan.each("Index Cond"):
        assert re.search(r"organization_id = .* AND \(id = ", condition)


def test_the_service_answers_with_a_ticket_after_two_look_ups(
    login: Acting, token: Acting, tokens_ticket: str
) -> None:
    params = [json.dumps(token.actor.claims), tokens_ticket]
    assert fewest_scans(login, GET_TICKET, params) == {"tickets_pkey": 1, "categories_pkey": 1}
    assert plan_of(login, GET_TICKET, params).pages <= 10


def test_an_integration_finds_the_comments_that_it_missed_by_their_ticket(
    token: Acting, tokens_ticket: str
) -> None:
    plan = plan_of(
        token,
        "select * from public.comments where ticket_id = %s and ticket_version > 0"
        " order by created_at, id limit 50",
        [tokens_ticket],
    )
    goes_by(plan, "comments_organization_id_ticket_id_idx", pages=10)


# Requests


def test_a_token_is_admitted_after_four_look_ups(login: Acting, token: Acting) -> None:
    assert fewest_scans(login, ADMIT, [secret_hash(token)]) == {
        "integration_token_secrets_pkey": 1,
        "integration_tokens_pkey": 1,
        "organizations_pkey": 1,
        "rate_windows_pkey": 1,
    }
    assert plan_of(login, ADMIT, [secret_hash(token)]).pages <= 30


def test_counting_requests_updates_one_row_in_place(world: World, token: Acting) -> None:
    """Each in a transaction of its own: no index is written to, and the table does not grow."""
    with psycopg.connect(world.url, autocommit=True) as connection:

        def admit(times: int) -> Row:
            connection.execute("set session authorization authenticator")
            for _ in range(times):
                connection.execute(ADMIT, [secret_hash(token)])
            connection.execute("reset session authorization")
            connection.execute("select pg_stat_force_next_flush()")
            (row,) = connection.execute(WRITES).fetchall()
            return row

        before = admit(1)
        after = admit(200)
    assert tuple(new - old for old, new in zip(before, after, strict=True)) == (0, 200, 200, 0, 0)


def test_a_persons_claims_are_made_fresh_by_keys(login: Acting, agent: Acting, customer: Acting) -> None:
    for person in (agent, customer):
        found = scans(login, ADMIT_PERSON, [json.dumps(person.actor.claims)])
        assert not found.keys() & {"members", "organizations", "contacts", "rate_windows"}
        assert plan_of(login, ADMIT_PERSON, [json.dumps(person.actor.claims)]).pages <= 30


def test_the_claims_of_somebody_who_has_proved_nothing_are_made_fresh_by_keys_too(
    login: Acting, owner: Acting, agent: Acting
) -> None:
    owner.rows("update auth.users set confirmation_sent_at = null where id = %s", [agent.actor.claims["sub"]])
    found = scans(login, ADMIT_PERSON, [json.dumps(agent.actor.claims)])
    assert not found.keys() & {"members", "organizations", "contacts", "rate_windows", "users", "sessions"}
    assert plan_of(login, ADMIT_PERSON, [json.dumps(agent.actor.claims)]).pages <= 40


# Accounts


AUTH_CALLS = {
    "begin_login": (
        "('account-7@crowd.example', '192.0.2.1')",
        {"users_email_lower_key", "failed_attempts_pkey"},
    ),
    "finish_login": (
        "('account-7@crowd.example', '::1', md5('account 7')::uuid, false, 'hash', null, 'r', '{}')",
        {"users_pkey", "failed_attempts_pkey"},
    ),
    "refresh": (
        "('token 7.2', 'token 7.3', '{}')",
        {"refresh_tokens_token_key", "sessions_pkey", "users_pkey", "members_user_id_organization_id_idx"},
    ),
    "verify": (
        "('recovery', 'link 11', null, null, null, 'r', '{}')",
        {"one_time_tokens_token_hash_hash_idx", "users_pkey"},
    ),
    "verify by code": (
        "('recovery', null, 'account-21@crowd.example', 'code 21', null, 'r', '{}')",
        {"one_time_tokens_relates_to_hash_idx", "users_pkey"},
    ),
    "request_mail": ("('recovery', 'account-7@crowd.example', '{}')", {"rate_windows_pkey"}),
}


@pytest.mark.parametrize("name", AUTH_CALLS)
def test_the_auth_service_finds_what_it_looks_for_by_keys(name: str, login: Acting, owner: Acting) -> None:
    arguments, indexes = AUTH_CALLS[name]
    tables = set(
        owner.values("select tablename from pg_tables where schemaname in ('auth', 'public', 'private')")
    )
    found = scans(login, f"select from auth_service.{name.partition(' ')[0]}{arguments}")
    assert indexes <= found.keys()
    # Whoever has no second factor, and hardly anybody has, is looked up in an empty table.
    assert found.keys() & tables <= {"mfa_factors", "mfa_amr_claims"}


def test_a_worker_takes_what_is_due_without_reading_what_is_done(login: Acting) -> None:
    statement = "select id from private.claim_mails(5, 60)"
    found = scans(login, statement)
    assert found.keys() == {"mails_next_attempt_at_idx", "mails_pkey"}
    plan = plan_of(login, statement)
    assert plan.rows == 5
    assert plan.pages <= 150


# People


TICKET_LISTS = {
    "newest": ("true", "created_at"),
    "older": ("(created_at, id) < (%(at)s, %(id)s)", "created_at"),
    "older over PostgREST": ("created_at <= %(at)s and (created_at < %(at)s or id < %(id)s)", "created_at"),
    "of a status": ("status = 'waiting'", "status"),
    "of an assignee": ("assignee_id = %(agent)s", "assignee_id"),
    "of a requester": ("contact_id = %(customer)s", "contact_id"),
}


@pytest.mark.parametrize("name", TICKET_LISTS)
def test_an_agent_reads_a_page_of_tickets_in_the_order_of_an_index(
    name: str, owner: Acting, agent: Acting, customer: Acting
) -> None:
    condition, column = TICKET_LISTS[name]
    at, last = owner.row("select created_at, id from public.tickets where subject = 'Ticket 50000'")
    plan = plan_of(
        agent,
        f"select * from public.tickets where {condition} order by created_at desc, id desc limit 25",
        {"at": at, "id": last, "agent": agent.member_id, "customer": customer.contact_id},
    )
    goes_by(plan, f"tickets_organization_id_{column}_idx", pages=40)


def test_an_agent_counts_what_waits_without_reading_what_does_not(agent: Acting) -> None:
    plan = plan_of(agent, "select count(*) from public.tickets where status = 'waiting'")
    assert set(plan.each("Index Name")) == {"tickets_organization_id_status_idx"}
    assert plan.pages <= 650


def test_an_agent_finds_a_ticket_by_its_number(owner: Acting, agent: Acting, customers_ticket: str) -> None:
    number = owner.value("select number from public.tickets where id = %s", [customers_ticket])
    plan = plan_of(agent, "select * from public.tickets where number = %s", [number])
    goes_by(plan, "tickets_organization_id_number_key", pages=10)


def test_a_customer_who_asks_for_their_tickets_reads_a_page_of_them(customer: Acting) -> None:
    plan = plan_of(
        customer,
        "select * from public.tickets where contact_id = %s order by created_at desc, id desc limit 25",
        [customer.contact_id],
    )
    goes_by(plan, "tickets_organization_id_contact_id_idx", pages=40)


def test_a_conversation_is_read_in_order_by_its_ticket(
    agent: Acting, customer: Acting, customers_ticket: str
) -> None:
    statement = "select * from public.comments where ticket_id = %s order by created_at, id"
    for reader, rows in ((agent, 60), (customer, 30)):
        plan = plan_of(reader, statement, [customers_ticket])
        goes_by(plan, "comments_organization_id_ticket_id_idx", pages=10)
        assert plan.rows == rows


def test_an_agent_reads_their_newest_notifications(agent: Acting) -> None:
    plan = plan_of(agent, "select * from public.notifications order by created_at desc, id desc limit 20")
    goes_by(plan, "notifications_organization_id_member_id_idx", pages=30)


def test_an_admin_reads_what_a_token_did_last(admin: Acting, token: Acting) -> None:
    plan = plan_of(
        admin,
        "select * from public.token_usage where token_id = %s order by at desc limit 50",
        [token.token_id],
    )
    goes_by(plan, "token_usage_organization_id_token_id_at_idx", pages=60)


# Events


def test_the_service_reads_the_events_between_two_snapshots_by_the_key(owner: Acting, login: Acting) -> None:
    days = owner.values("select distinct tableoid::regclass::text from private.events where xid < '600'")
    days = [day.removeprefix("private.") for day in days]
    for _ in range(CALLS):
        found = scans(login, READ_EVENTS)
        assert [found.get(f"{day}_pkey") for day in days] == [1, 1]
        assert not found.keys() & set(days)
    plan = plan_of(login, READ_EVENTS)
    assert plan.rows == 300
    assert plan.pages <= 350


# The support-platform contract


@pytest.fixture
def fresh(owner: Acting) -> Callable[[Acting], str]:
    """Return a person's claims as the service gets them when it has admitted them."""

    def claims(acting: Acting) -> str:
        statement = "select private.fresh_claims(%s::jsonb)"
        return json.dumps(owner.value(statement, [json.dumps(acting.actor.claims)]))

    return claims


@pytest.mark.parametrize(("status", "priority"), [(None, None), ("resolved", None), (None, "low")])
def test_a_customers_list_and_its_total_read_their_tickets_alone(
    status: str | None, priority: str | None, login: Acting, customer: Acting, fresh: Callable[[Acting], str]
) -> None:
    params = [fresh(customer), status, priority]
    assert fewest_scans(login, LIST_TICKETS, params) == {"tickets_organization_id_contact_id_idx": 2}
    assert plan_of(login, LIST_TICKETS, params).pages <= 200


def test_an_agents_list_of_what_is_rare_reads_no_more_than_that(
    login: Acting, agent: Acting, fresh: Callable[[Acting], str]
) -> None:
    params = [fresh(agent), "in_progress", None]
    # Its total is kept.
    assert fewest_scans(login, LIST_TICKETS, params) == {
        "tickets_organization_id_status_idx": 1,
        "ticket_tallies_pkey": 1,
    }
    assert plan_of(login, LIST_TICKETS, params).pages <= 800


def test_a_page_of_messages_reads_the_ticket_and_its_conversation(
    *,
    login: Acting,
    agent: Acting,
    customer: Acting,
    customers_ticket: str,
    fresh: Callable[[Acting], str],
) -> None:
    for reader in (agent, customer):
        params = [fresh(reader), customers_ticket]
        found = fewest_scans(login, LIST_MESSAGES, params)
        assert found == {"tickets_pkey": 1, "comments_organization_id_ticket_id_idx": 2}
        assert plan_of(login, LIST_MESSAGES, params).pages <= 30


# The helpdesk contract


HELPDESK_LIST = "select body from helpdesk.list_tickets(%s::jsonb, %s::jsonb, 'page=', %s)"
HELPDESK_STATS = "select body from helpdesk.get_stats(%s::jsonb)"
CONVERSATIONS = {"comments_organization_id_ticket_id_idx": 20}


@pytest.fixture
def listing(fresh: Callable[[Acting], str]) -> Callable[..., list[Any]]:
    """Return what the contract's list of tickets is called with."""

    def params(acting: Acting, *, mine: bool = False, **query: str) -> list[Any]:
        asked = {"page": 1, "page_size": 20, "ordering": "-created_at", **query}
        return [fresh(acting), json.dumps(asked), mine]

    return params


def of_tickets(found: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in found.items() if name.startswith(("tickets", "comments"))}


def test_a_customers_list_reads_their_tickets_and_twenty_conversations(
    login: Acting, customer: Acting, fresh: Callable[[Acting], str], listing: Callable[..., list[Any]]
) -> None:
    params = listing(customer)
    # Once each for the total, for the page, and for what the policy on tags asks.
    assert of_tickets(fewest_scans(login, HELPDESK_LIST, params)) == {
        "tickets_organization_id_contact_id_idx": 3,
        **CONVERSATIONS,
    }
    assert plan_of(login, HELPDESK_LIST, params).pages <= 400
    assert plan_of(login, HELPDESK_STATS, [fresh(customer)]).pages <= 100


def test_an_agents_page_of_a_hundred_thousand_costs_hardly_more_than_its_total(
    login: Acting, agent: Acting, listing: Callable[..., list[Any]]
) -> None:
    params = listing(agent)
    found = of_tickets(fewest_scans(login, HELPDESK_LIST, params))
    assert found["tickets_organization_id_created_at_idx"] >= 1
    assert {name: found[name] for name in CONVERSATIONS} == CONVERSATIONS
    assert plan_of(login, HELPDESK_LIST, params).pages <= 600


@pytest.mark.parametrize(
    ("query", "column"), [({"status": "in_progress"}, "status"), ({"mine": True}, "assignee_id")]
)
def test_an_agents_filtered_list_goes_by_the_index_of_its_filter(
    query: dict[str, Any], column: str, login: Acting, agent: Acting, listing: Callable[..., list[Any]]
) -> None:
    params = listing(agent, **query)
    found = fewest_scans(login, HELPDESK_LIST, params)
    assert f"tickets_organization_id_{column}_idx" in found
    assert "tickets" not in found
    assert plan_of(login, HELPDESK_LIST, params).pages <= 1600


@pytest.mark.parametrize("name", ["agent", "customer"])
def test_a_search_goes_by_the_indexes_of_words_once(
    name: str, login: Acting, world: World, listing: Callable[..., list[Any]]
) -> None:
    params = listing(Acting(world.north.actors[name], login.stage), search="50007")
    found = fewest_scans(login, HELPDESK_LIST, params)
    assert (found["tickets_search_idx"], found["comments_search_idx"]) == (1, 1)
    assert not found.keys() & {"tickets", "comments"}
    assert plan_of(login, HELPDESK_LIST, params).pages <= 120


def test_a_word_that_is_everywhere_finds_the_newest_ten_thousand(agent: Acting, customer: Acting) -> None:
    newest = "select id from public.tickets where subject ilike '%ticket%' order by number desc limit 10000"
    assert set(agent.values("select private.search_tickets('ticket')")) == set(agent.values(newest))
    assert set(customer.values("select private.search_tickets('ticket')")) == set(customer.values(newest))


def test_the_numbers_of_a_dashboard_are_kept_or_read_from_the_few_tickets_they_are_about(
    login: Acting, agent: Acting, fresh: Callable[[Acting], str]
) -> None:
    params = [fresh(agent)]
    found = fewest_scans(login, HELPDESK_STATS, params)
    assert found.keys() & {"ticket_tallies", "ticket_tallies_pkey"}
    assert of_tickets(found) == {
        "tickets_organization_id_created_at_idx": 1,
        "tickets_organization_id_due_idx": 1,
        "tickets_organization_id_resolved_at_idx": 1,
    }
