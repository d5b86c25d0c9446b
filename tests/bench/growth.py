"""What a hundred times as many tickets cost: lists, searches and dashboards in an organization of each size.

Both organizations are in the database of one desk, and an agent of each asks over HTTP, by turns. The tickets
are two years of a desk: all but the newest few thousand are resolved or closed.
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable

import msgspec

from api.migrate import Connection
from tests.bench.desk import Desk, agent_jwt

FEW, MANY = 10_000, 1_000_000
TARGET = 2.0
ROUNDS = 25
MOST_SECONDS = 4.0
HELPDESK, PLATFORM = "/helpdesk/api/v1", "/support-platform/v1"
WORD = "c4ca4238a0b923820dcc509a6f75849b"
"""In the description of one ticket, the first."""

LISTS = [
    "",
    "?status=open",
    "?status=resolved",
    "?priority=urgent",
    "?status=open&priority=high",
    "?category={category}",
    "?ordering=-priority",
    "?ordering=due_date",
    "?ordering=-due_date",
    "?status=open&ordering=-updated_at",
    f"?search={WORD}",
    "?search=w1234",
    "?search=arrived",
    "?search=arrived&status=open",
]
OPERATIONS = [
    *[f"{HELPDESK}/tickets/{query}" for query in LISTS],
    f"{HELPDESK}/tickets/my_tickets/",
    f"{HELPDESK}/tickets/stats/",
    f"{HELPDESK}/tags/popular/",
    f"{PLATFORM}/tickets",
    f"{PLATFORM}/tickets?status=open",
    f"{PLATFORM}/tickets?category_id={{category_id}}",
]
BESIDE_THE_TARGET = [f"{HELPDESK}/tickets/?ordering=-updated_at"]
"""Has no index: it would make every comment rewrite all of its ticket's index entries (docs/database.md)."""

SEED = """
    set session_replication_role = replica;

    insert into public.organizations (id, name) values (%(organization)s::uuid, %(organization)s::uuid::text);
    insert into public.categories (organization_id, id, name)
    select %(organization)s::uuid, md5(%(organization)s::uuid::text || 'category' || n)::uuid,
        'Category ' || n
    from generate_series(0, 14) as n;
    insert into public.members (organization_id, id, username, email, name, role)
    select %(organization)s::uuid, md5(%(organization)s::uuid::text || 'agent' || n)::uuid, n,
        n || '@bench.example', n, 'agent'
    from generate_series(0, 29) as n;
    insert into public.contacts (organization_id, id, name)
    select %(organization)s::uuid, md5(%(organization)s::uuid::text || 'contact' || n)::uuid, 'Contact ' || n
    from generate_series(0, %(count)s / 20) as n;

    insert into public.tickets (organization_id, subject, description, status, priority, category_id,
        contact_id, assignee_id, due_at, created_at, updated_at, resolved_at)
    select %(organization)s::uuid, 'Order ' || t.n || ' has not arrived',
        concat_ws(' ', 'It was to be here last week.', md5(t.n::text), 'w' || floor(3000 * random() ^ 3),
            'w' || floor(3000 * random() ^ 3), 'w' || floor(3000 * random() ^ 3)), t.status,
        (array['low', 'medium', 'high', 'urgent'])[1 + t.n %% 4],
        md5(%(organization)s::uuid::text || 'category' || t.n * 7919 %% 15)::uuid,
        md5(%(organization)s::uuid::text || 'contact' || t.n * 7919 %% (%(count)s / 20))::uuid,
        case when t.n %% 5 > 0
            then md5(%(organization)s::uuid::text || 'agent' || t.n * 7919 %% 30)::uuid end,
        case when t.n %% 3 = 0 then t.at + interval '3 days' end, t.at, t.at + interval '1 hour',
        case when t.status in ('resolved', 'closed') then t.at + interval '5 hours' end
    from (
        select n, now() - (%(count)s - n) * (interval '700 days' / %(count)s) as at,
            case when n > %(count)s - least(%(count)s / 10, 3000)
                then (array['new', 'open', 'in_progress', 'waiting', 'on_hold'])[1 + n %% 5]
                else (array['resolved', 'closed'])[1 + n %% 2] end as status
        from generate_series(1, %(count)s::bigint) as n
    ) as t;
    insert into private.ticket_tallies (organization_id, status, priority, category_id, assignee_id, tickets,
        resolved, time_to_resolve, is_folded)
    select t.organization_id, t.status, t.priority, t.category_id, t.assignee_id, count(*),
        count(t.resolved_at), coalesce(sum(t.resolved_at - t.created_at), '0'), true
    from public.tickets as t
    where t.organization_id = %(organization)s::uuid
    group by t.organization_id, t.status, t.priority, t.category_id, t.assignee_id;

    set session_replication_role = origin;
"""


class Growth(msgspec.Struct, frozen=True):
    """One operation's median latency in both organizations, in milliseconds, and their ratio."""

    operation: str
    ratio: float
    few_ms: float
    many_ms: float
    target: float | None


def measure(desk: Desk, say: Callable[[str], None]) -> list[Growth]:
    """Fill two organizations and ask in both. Raises DeskError."""
    with desk.owner() as connection:
        sides = []
        for count in (FEW, MANY):
            say(f"Filling an organization with {count:,} tickets …")
            sides.append(_filled(connection, count, desk.jwt_secret))
        connection.execute("vacuum analyze")
    return [_measured(desk, operation, sides) for operation in [*OPERATIONS, *BESIDE_THE_TARGET]]


class _Side(msgspec.Struct, frozen=True):
    """An organization: its agent's JWT, and one of its categories by both of its ids."""

    jwt: str
    category: int
    category_id: str


def _filled(connection: Connection, count: int, secret: str) -> _Side:
    row = connection.execute("select gen_random_uuid()").fetchone()
    organization = str(row[0]) if row else ""
    for statement in filter(str.strip, SEED.split(";")):
        connection.execute(statement.encode(), {"organization": organization, "count": count})
    category = connection.execute(
        "select number, id::text from public.categories where organization_id = %s limit 1", [organization]
    ).fetchone() or (0, "")
    return _Side(agent_jwt(connection, organization, secret), int(str(category[0])), str(category[1]))


def _measured(desk: Desk, operation: str, sides: list[_Side]) -> Growth:
    spent: list[list[float]] = [[] for _ in sides]
    client = http.client.HTTPConnection(*desk.api, timeout=30)
    deadline = time.monotonic() + MOST_SECONDS
    for _ in range(ROUNDS):
        for side, seconds in zip(sides, spent, strict=True):
            path = operation.format(category=side.category, category_id=side.category_id)
            began = time.perf_counter()
            client.request("GET", path, headers={"Authorization": f"Bearer {side.jwt}"})
            answer = client.getresponse()
            body = answer.read()
            seconds.append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {json.loads(body)}")
        if time.monotonic() > deadline:
            break
    client.close()
    few, many = (statistics.median(seconds) * 1000 for seconds in spent)
    target = None if operation in BESIDE_THE_TARGET else TARGET
    return Growth(operation, round(many / few, 2), round(few, 2), round(many, 2), target)
