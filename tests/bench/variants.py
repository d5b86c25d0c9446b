"""What is measured: each variant does one thing in one way for some seconds, and answers its rate."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from tests.bench import pgbench
from tests.bench.desk import Desk, Token
from tests.bench.load import Job, Result, run_apart

CLIENTS = 16
COLUMNS = "id,subject,description,status,priority,category_label,metadata,created_at,updated_at"
TITLE = "Order 4711 has not arrived"
DESCRIPTION = "It was to be here last week. The carrier knows nothing of it."
CATEGORY = "Delivery"
METADATA = {"customer_id": "CUST-123", "reference_id": "EXT-456"}
EVENT_TRIGGERS = ("_900_events", "_900_events_update")


class VariantError(Exception):
    """A measurement did not do what it was to do."""


@dataclass
class Variant:
    """One way of doing one thing, and what it reached in each round."""

    name: str
    label: str
    measure: Callable[[float], float]
    rates: list[float] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


def all_of(desk: Desk) -> dict[str, list[Variant]]:
    """Return the variants by group; those of a group are compared with each other."""
    return {
        "get": [
            _http("get", "Deskbase, one token", desk.api, [get(desk, desk.tokens[0])] * CLIENTS, 200),
            _http("get-spread", "Deskbase, 16 tokens", desk.api, [get(desk, t) for t in desk.tokens], 200),
            _http("get-postgrest", "PostgREST", desk.postgrest, [_get_postgrest(desk)] * CLIENTS, 200),
            Variant("get-pgbench", "pgbench", _pgbench(desk, pgbench.ADMIT + pgbench.GET)),
        ],
        "post": [
            _http("post", "Deskbase, one token", desk.api, [_post(desk, desk.tokens[0])] * CLIENTS, 201),
            _http("post-spread", "Deskbase, 16 tokens", desk.api, [_post(desk, t) for t in desk.tokens], 201),
            _http("post-postgrest", "PostgREST", desk.postgrest, [_post_postgrest(desk)] * CLIENTS, 201),
            Variant("post-pgbench", "pgbench", _pgbench(desk, pgbench.ADMIT + pgbench.POST)),
        ],
        "events": [
            Variant("events-on", "events on, read as they come", lambda seconds: _with_events(desk, seconds)),
            Variant("events-off", "events off", lambda seconds: _without_events(desk, seconds)),
        ],
    }


def _http(name: str, label: str, address: tuple[str, int], requests: list[str], status: int) -> Variant:
    results: list[Result] = []

    def measure(seconds: float) -> float:
        result = run_apart(Job(*address, requests, status, seconds))
        results.append(result)
        return result.per_second

    return Variant(name, label, measure, results=results)


def request(line: str, address: tuple[str, int], bearer: str, body: object = None, *headers: str) -> str:
    """Return the text of a request."""
    content = "" if body is None else msgspec.json.encode(body).decode()
    given = [
        f"{line} HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        f"Authorization: Bearer {bearer}",
        *headers,
    ]
    if content:
        given += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*given, "", content])


def get(desk: Desk, token: Token) -> str:
    """Return the request for the ticket of a token."""
    return request(f"GET /integration-tickets/tickets/{token.ticket_id}", desk.api, token.text)


def _post(desk: Desk, token: Token) -> str:
    body = {
        "title": TITLE,
        "description": DESCRIPTION,
        "priority": "high",
        "category": CATEGORY,
        "metadata": METADATA,
    }
    return request("POST /integration-tickets/tickets", desk.api, token.text, body)


def _get_postgrest(desk: Desk) -> str:
    path = f"/tickets?id=eq.{desk.tokens[0].ticket_id}&select={COLUMNS}"
    return request(f"GET {path}", desk.postgrest, desk.agent_jwt)


def _post_postgrest(desk: Desk) -> str:
    body = {
        "subject": TITLE,
        "description": DESCRIPTION,
        "priority": "high",
        "channel": "api",
        "category_label": CATEGORY,
        "metadata": METADATA,
    }
    prefer = "Prefer: return=representation"
    return request(f"POST /tickets?select={COLUMNS}", desk.postgrest, desk.agent_jwt, body, prefer)


def _pgbench(desk: Desk, script: str) -> Callable[[float], float]:
    filled = script.format(
        hash=desk.tokens[0].hash,
        ticket=desk.tokens[0].ticket_id,
        title=TITLE,
        description=DESCRIPTION,
        category=CATEGORY,
        # pgbench would take what follows a colon for a variable of its own.
        metadata=msgspec.json.encode(METADATA).decode().replace(":", ": "),
    )
    return lambda seconds: pgbench.run(desk, filled, user="authenticator", clients=CLIENTS, seconds=seconds)


def _inserts(desk: Desk, seconds: float) -> float:
    script = pgbench.INSERT.format(organization=desk.organization_id, title=TITLE, description=DESCRIPTION)
    return pgbench.run(desk, script, user="postgres", clients=CLIENTS, seconds=seconds)


def _with_events(desk: Desk, seconds: float) -> float:
    before = _tickets(desk)
    with _reader(desk) as read:
        rate = _inserts(desk, seconds)
    if read != [_tickets(desk) - before]:
        raise VariantError(f"{_tickets(desk) - before} tickets were inserted, and {read} events were read.")
    return rate


def _without_events(desk: Desk, seconds: float) -> float:
    _switch_events(desk, "disable")
    try:
        return _inserts(desk, seconds)
    finally:
        _switch_events(desk, "enable")


def _switch_events(desk: Desk, action: str) -> None:
    with desk.owner() as connection:
        for trigger in EVENT_TRIGGERS:
            connection.execute(f"alter table public.tickets {action} trigger {trigger}".encode())


def _tickets(desk: Desk) -> int:
    with desk.owner() as connection:
        row = connection.execute("select count(*) from public.tickets").fetchone()
    return int(str(row[0])) if row else 0


@contextmanager
def _reader(desk: Desk) -> Iterator[list[int]]:
    """Run the reader of the log meanwhile; afterwards the list holds how many events it read."""
    command = [sys.executable, "-m", "tests.bench.reader", desk.owner_url]
    counts: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or not process.stdout.readline():
            raise VariantError("The reader of the event log did not start.")
        yield counts
        counts.append(int(process.communicate(timeout=30)[0] or -1))
