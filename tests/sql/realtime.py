"""The realtime service's statements (`supabase/realtime.sql`), called as the service calls them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from tests.actors import Acting, Actor

EVENTS = """
    select coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'xid', e.xid::text, 'at', e.at)), '[]')
    from private.events as e where e.xid = pg_current_xact_id() and e.id > %s
"""
LAST = "select coalesce(max(id), 0) from private.events"
RENDER = "select id, body, wish from realtime_service.render_changes(%s, %s, %s) order by id, wish"
CHECK = "select to_jsonb(c) from realtime_service.check_channel(%s, %s, %s, %s) as c"
PUBLISH = "select place, fault from realtime_service.publish(%s)"

Json = dict[str, Any]


def binding(table: str = "tickets", schema: str = "public", **options: Any) -> Json:
    """Return an entry of postgres_changes as the service reads it."""
    return {
        "id": 1,
        "event": "*",
        "schema": schema,
        "table": table,
        "conditions": [],
        "select": None,
        **options,
    }


def condition(column: str, op: str, value: Any = None, *, is_negated: bool = False) -> Json:
    """Return a filter's condition as the service reads it."""
    key = "values" if op == "in" else "value"
    return {"column": column, "op": op, "is_negated": is_negated, key: value}


@dataclass(frozen=True)
class Told:
    """A message of the service's to one wish."""

    wish: int
    ids: list[int]
    data: Json

    @property
    def row(self) -> Json:
        return dict(self.data.get("record") or self.data["old_record"])


class Realtime:
    """What the service does for somebody, on one stage, where it leaves nothing behind."""

    def __init__(self, login: Acting, owner: Acting) -> None:
        self.login = login
        self.owner = owner
        self._since = 0

    def claims(self, actor: Actor) -> Jsonb:
        """Return the claims that somebody is admitted with."""
        if actor.role == "authenticated":
            return Jsonb(self.owner.value("select private.fresh_claims(%s)", [Jsonb(dict(actor.claims))]))
        return Jsonb(dict(actor.claims))

    def begin(self) -> None:
        """Look at nothing that has happened up to now."""
        self._since = self.owner.value(LAST)

    def told(self, who: Acting, *wishes: list[Json]) -> list[Told]:
        """Return what somebody is told of what has happened."""
        events, claims = self.owner.value(EVENTS, [self._since]), self.claims(who.actor)
        with self.login.stage.undone():
            rows = self.login.rows(RENDER, [claims, Jsonb(events), Jsonb(list(wishes))])
        found = [(wish, json.loads(body + "}")) for _, body, wish in rows]
        return [Told(wish, each["ids"], each["data"]) for wish, each in found]

    def check(self, who: Acting, *bindings: Json, topic: str = "room", is_private: bool = False) -> Json:
        """Return what somebody may do on a channel."""
        params = [self.claims(who.actor), topic, is_private, Jsonb(list(bindings))]
        with self.login.stage.undone():
            return dict(self.login.value(CHECK, params))

    def rights(self, who: Acting, topic: str) -> set[str]:
        """Return what somebody may do on a private channel, by name."""
        answer = self.check(who, topic=topic, is_private=True)
        return {name for name, value in answer.items() if value is True and name != "is_personal"}

    def fault(self, who: Acting, *bindings: Json) -> str | None:
        fault: str | None = self.check(who, *bindings)["fault"]
        return fault

    def publish(self, *operations: Json) -> list[tuple[int, str]]:
        return self.login.rows(PUBLISH, [Jsonb(list(operations))])


def ids(told: Iterable[Told]) -> list[Any]:
    """Return which rows somebody was told of."""
    return sorted(each.row["id"] for each in told)
