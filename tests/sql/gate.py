"""The gate that every request passes: `private.admit`, called as the service calls it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.actors import Acting, Actor
from tests.databases import Connection

ADMIT = """
    select granted, failure, claims::jsonb, rate_limit, remaining, resets_at
    from private.admit(%s::integer[], %s::text[], %s::bytea[], %s::jsonb[], %s::text[], %s::integer[],
        %s::integer[], %s::integer[])
"""
# So long that no window turns while the tests run: the next one begins in 2033.
LONG = 1_000_000_000


@dataclass(frozen=True)
class Group:
    """Requests with one credential that wait together."""

    wanted: int = 1
    bucket: str = "tests"
    secret: str | None = None
    claims: Mapping[str, Any] | None = None
    address: str | None = None
    limit: int | None = None
    organization_limit: int | None = None
    window_seconds: int | None = LONG


class Admission(NamedTuple):
    """What the gate answers to a group."""

    granted: int
    failure: str | None
    claims: dict[str, Any] | None
    rate_limit: int | None
    remaining: int | None
    resets_at: int | None


def of(actor: Actor, **options: Any) -> Group:
    """Return a group with the actor's credential."""
    if actor.secret:
        return Group(secret=actor.secret, **options)
    return Group(claims=actor.claims, **options)


def admit(login: Acting | Connection, *groups: Group) -> list[Admission]:
    """Ask for all groups in one call, as one process of the service does."""
    arrays = [
        [group.wanted for group in groups],
        [group.bucket for group in groups],
        [hashlib.sha256(group.secret.encode()).digest() if group.secret else None for group in groups],
        [json.dumps(group.claims) if group.claims else None for group in groups],
        [group.address for group in groups],
        [group.limit for group in groups],
        [group.organization_limit for group in groups],
        [group.window_seconds for group in groups],
    ]
    run: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
    if isinstance(login, Acting):
        run = login.rows
    else:
        connection = login

        def run(statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
            return connection.execute(statement.encode(), values).fetchall()

    return [Admission(*row) for row in run(ADMIT, arrays)]
