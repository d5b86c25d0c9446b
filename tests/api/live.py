"""What the tests of everything live share: a world that is committed, and a contract that tells of it."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from tests.actors import Actor, Organization, Stage, World, build_world, connected, person
from tests.databases import Connection, Server
from tests.desk import unique

# A contract of the tests' own: what a reader sees of a ticket or a comment, if they see it.
SCHEMA = """
    create schema relay_tests;
    grant usage on schema relay_tests to authenticator;
    grant usage on schema relay_tests to authenticated, integration, service_role;
    create view relay_tests.things with (security_invoker = true) as
        select 'tickets' as kind, organization_id, id, subject as text from public.tickets
        union all select 'comments', organization_id, id, body from public.comments;
    grant select on relay_tests.things to authenticated, integration, service_role;
    create function relay_tests.render_events(claims jsonb, events jsonb) returns table (id bigint, body text)
    language plpgsql volatile
    as $$
    begin
        perform private.enter(claims);
        return query
        select e.id, json_build_object('number', e.id, 'event', e.type, 'id', t.id, 'text', t.text)::text
        from jsonb_to_recordset(events)
            as e (id bigint, organization_id uuid, type text, "table" text, ids jsonb)
        join relay_tests.things as t
            on t.kind = e.table and t.organization_id = e.organization_id and t.id::text = e.ids ->> 'id';
    end
    $$;
    grant execute on function relay_tests.render_events(jsonb, jsonb) to authenticator;
    create function relay_tests.render_titles(claims jsonb, events jsonb) returns table (id bigint, body text)
    language plpgsql volatile
    as $$
    begin
        perform private.enter(claims);
        return query
        select e.id, json_build_object('text', n.title)::text
        from jsonb_to_recordset(events) as e (id bigint, ids jsonb)
        join public.notifications as n on n.id::text = e.ids ->> 'id';
    end
    $$;
    grant execute on function relay_tests.render_titles(jsonb, jsonb) to authenticator;
    create function relay_tests.render_twice(claims jsonb, events jsonb) returns table (id bigint, body text)
    language sql volatile
    as $$
        select r.id, b.body
        from relay_tests.render_events(claims, events) as r
        cross join lateral (values (r.body), (json_build_object('again', r.id)::text)) as b (body)
    $$;
    grant execute on function relay_tests.render_twice(jsonb, jsonb) to authenticator;
    create function relay_tests.render_rows(claims jsonb, events jsonb) returns table (id bigint, body text)
    language sql volatile
    as $$
        select r.id, json_build_object('was', r.old_record -> 'priority', 'is', r.record -> 'priority')::text
        from private.logged_rows(events) as r
    $$;
    grant execute on function relay_tests.render_rows(jsonb, jsonb) to authenticator;
    create function relay_tests.render_wishes(claims jsonb, events jsonb, wishes jsonb)
    returns table (id bigint, body text, wish integer)
    language sql volatile
    as $$
        select r.id, r.body, (w.place - 1)::integer
        from relay_tests.render_events(claims, events) as r
        join jsonb_array_elements(wishes) with ordinality as w (wish, place)
            on r.body::json ->> 'text' ~ (w.wish ->> 'pattern')
        cross join lateral (select pg_sleep(coalesce((w.wish ->> 'sleep')::float, 0))) as s
        order by r.id
    $$;
    grant execute on function relay_tests.render_wishes(jsonb, jsonb, jsonb) to authenticator;
    create function relay_tests.render_own(claims jsonb, events jsonb, wishes jsonb)
    returns table (id bigint, body text, wish integer)
    language sql volatile
    as $$
        select r.id, json_build_object('text', r.record ->> 'text')::text, 0
        from private.logged_rows(events) as r
        where r.table_name = 'own'
    $$;
    grant execute on function relay_tests.render_own(jsonb, jsonb, jsonb) to authenticator;
"""
RENDER = b"select id, body from relay_tests.render_events($1, $2)"

INSERT = """
    insert into public.tickets (organization_id, subject, contact_id, integration_token_id)
    values (%s, %s, %s, %s) returning id::text
"""
COMMENT = """
    insert into public.comments (organization_id, ticket_id, body, is_internal) values (%s, %s, %s, %s)
"""
RENAME = "update public.tickets set subject = %s where id = %s"

Claims = dict[str, Any]


class Writer:
    """The desk itself, which writes outside of any request; each statement is a transaction."""

    def __init__(self, connection: Connection, organization: Organization) -> None:
        self.connection = connection
        self.organization = organization

    def value(self, statement: str, params: Sequence[Any] = ()) -> Any:
        row = self.connection.execute(statement.encode(), params).fetchone()
        assert row
        return row[0]

    def ticket(self, subject: str, of: Actor | None = None) -> str:
        """Make a ticket of somebody, or of nobody."""
        contact, token = (of.contact_id, of.token_id) if of else (None, None)
        return str(self.value(INSERT, [self.organization.id, subject, contact, token]))

    def rename(self, ticket: str, subject: str) -> None:
        self.connection.execute(RENAME, [subject, ticket])

    def comment(self, ticket: str, body: str, *, is_internal: bool = False) -> None:
        self.connection.execute(COMMENT, [self.organization.id, ticket, body, is_internal])

    def claims(self, actor: Actor) -> Claims:
        """Return what the actor is admitted under; a token's are so already."""
        if not actor.is_person:
            return dict(actor.claims)
        admitted: Claims = self.value("select private.fresh_claims(%s)", [json.dumps(actor.claims)])
        return admitted

    def newcomer(self, role: str = "agent") -> Actor:
        """Let somebody join the organization who is of no other test."""
        with connected(self.connection.info.dsn + f" password={self.connection.info.password}") as connection:
            actor = person(Stage(connection), self.organization.id, unique(role), role)
            connection.commit()
        return actor


@contextlib.contextmanager
def live_world(server: Server, template: str) -> Iterator[World]:
    """Make a world in which everything is committed, in a database of its own with that contract."""
    with server.database(template) as url:
        world = build_world(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SCHEMA)
        yield world
