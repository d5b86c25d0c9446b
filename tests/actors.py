"""The people and systems of two organizations, and the world that they have made.

In charge of what exists (`build_world`: every public table has rows in both organizations) and of acting:
an Actor enters as PostgREST or the service lets it in, on a Stage, which is one transaction that all actors
of a test share and that is rolled back. Every statement runs as `authenticator` that has taken the actor's
role, so rights and policies are the real ones; the owner, who sees all, is an actor too.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.string import TextLoader

from tests.databases import Connection

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any] | None

ADMIT_TOKEN = """
    select claims::jsonb from private.admit(array[1], array['world'], array[%s::bytea], array[null]::jsonb[],
        array[null]::text[], array[null]::integer[], array[null]::integer[], array[3600])
"""


class Refused(Exception):
    """A statement that was refused: how (SQLSTATE), with which word, and with which sentence."""

    def __init__(self, error: psycopg.Error) -> None:
        self.state = error.sqlstate or ""
        self.word = error.diag.message_primary or ""
        self.detail = error.diag.message_detail or ""
        self.constraint = error.diag.constraint_name or ""
        super().__init__(f"{self.state} {self.word}: {self.detail}")


@dataclass(frozen=True)
class Actor:
    """Somebody, or some system, with a credential."""

    name: str
    role: str
    claims: Mapping[str, Any]
    """What the verified credential says; for a token what the service has made of it."""
    member_id: str | None = None
    contact_id: str | None = None
    token_id: str | None = None
    secret: str = ""
    """An integration token's text."""

    @property
    def is_person(self) -> bool:
        return self.member_id is not None

    def __str__(self) -> str:
        return self.name


OWNER = Actor("owner", "", {})
VISITOR = Actor("visitor", "anon", {"role": "anon"})
LOGIN = Actor("authenticator", "none", {})
"""The service's own login, before it takes a role."""
AUTH_ADMIN = Actor("supabase_auth_admin", "none", {})
"""What the auth service writes accounts as: Supabase's own logs in as this role."""
SERVICE = Actor("service", "service_role", {"role": "service_role"})


class Stage:
    """One transaction on which actors take turns."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._acting: Actor | None = None
        # From here on the transaction is under way, and each attempt in it is a savepoint.
        connection.execute("select 1")

    def enter(self, actor: Actor) -> None:
        """Become the actor, if it is another one that acts at the moment."""
        if self._acting is actor:
            return
        self._acting = None
        with self.connection.transaction():
            self._leave()
            if actor is not OWNER:
                self._arrive(actor)
        self._acting = actor

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Take back what happens inside, so that the next attempt meets the same world."""
        with self.connection.transaction(force_rollback=True):
            yield
        self.come_anew()

    def come_anew(self) -> None:
        """Let the next actor enter again, though it be the same one: it may have become somebody else."""
        self._acting = None

    def _arrive(self, actor: Actor) -> None:
        execute = self.connection.execute
        if actor is AUTH_ADMIN:
            execute("set local session authorization supabase_auth_admin")
            return
        execute("set local session authorization authenticator")
        execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(actor.claims)])
        execute("select set_config('role', %s, true)", [actor.role])
        if actor is not LOGIN:
            # As PostgREST does; for a token the service has done as much before.
            execute("select private.pre_request()")

    def _leave(self) -> None:
        self.connection.execute("set local role none")
        self.connection.execute("set local session authorization default")
        self.connection.execute("select set_config('request.jwt.claims', '', true)")


@dataclass(frozen=True)
class Acting:
    """An actor on a stage: what tests are written with."""

    actor: Actor
    stage: Stage

    @property
    def name(self) -> str:
        return self.actor.name

    @property
    def member_id(self) -> str:
        assert self.actor.member_id
        return self.actor.member_id

    @property
    def contact_id(self) -> str:
        assert self.actor.contact_id
        return self.actor.contact_id

    @property
    def token_id(self) -> str:
        assert self.actor.token_id
        return self.actor.token_id

    def rows(self, statement: str, params: Parameters = None) -> list[Row]:
        """Run a statement and return its rows. Raises Refused, and the transaction goes on."""
        cursor = self._execute(statement, params)
        if cursor.description == []:  # `select from` has rows too, though nothing is in them
            return [()] * cursor.rowcount
        return cursor.fetchall() if cursor.description else []

    def row(self, statement: str, params: Parameters = None) -> Row:
        """Run a statement that answers exactly one row."""
        (row,) = self.rows(statement, params)
        return row

    def value(self, statement: str, params: Parameters = None) -> Any:
        """Run a statement that answers exactly one row, and return its first column."""
        return self.row(statement, params)[0]

    def values(self, statement: str, params: Parameters = None) -> list[Any]:
        """Run a statement and return the first column of each row."""
        return [row[0] for row in self.rows(statement, params)]

    def count(self, statement: str, params: Parameters = None) -> int:
        """Run a statement and return how many rows it has touched."""
        return self._execute(statement, params).rowcount

    def refusal(self, statement: str, params: Parameters = None) -> Refused | None:
        """Run a statement and return how it was refused, or None if it was not."""
        return refusal_of(lambda: self.rows(statement, params))

    def refused(self, state: str, statement: str, params: Parameters = None, word: str = "") -> Refused:
        """Run a statement that has to be refused in this way, and return the refusal."""
        refusal = self.refusal(statement, params)
        assert refusal, f"{self.name} was let through: {statement.strip()}"
        assert refusal.state == state, refusal
        assert not word or refusal.word == word, refusal
        return refusal

    def insert(self, table: str, /, **columns: Any) -> None:
        """Insert a row into a public table, without reading it back."""
        self._execute(*_insert(table, columns))

    def insert_id(self, table: str, /, **columns: Any) -> str:
        """Insert a row into a public table and return its id."""
        statement, params = _insert(table, columns)
        return str(self.value(statement + " returning id", params))

    def refused_insert(self, state: str, table: str, word: str = "", /, **columns: Any) -> Refused:
        """Insert a row that has to be refused in this way."""
        return self.refused(state, *_insert(table, columns), word=word)

    def _execute(self, statement: str, params: Parameters) -> psycopg.Cursor[Row]:
        try:
            self.stage.enter(self.actor)
            with self.stage.connection.transaction():
                return self.stage.connection.execute(statement.encode(), params)
        except psycopg.Error as error:
            raise Refused(error) from error


def refusal_of(action: Callable[[], object]) -> Refused | None:
    """Do something and return how it was refused, or None if it was not."""
    try:
        action()
    except Refused as refusal:
        return refusal
    return None


def _insert(table: str, columns: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    names = ", ".join(columns)
    places = ", ".join(f"%({name})s" for name in columns)
    return f"insert into public.{table} ({names}) values ({places})", dict(columns)


@dataclass(frozen=True)
class Organization:
    """One of the two: who is in it, and what is there, by name."""

    name: str
    id: str
    actors: dict[str, Actor] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.ids[name]


@dataclass(frozen=True)
class World:
    """Two organizations that shall never see each other."""

    url: str
    north: Organization
    south: Organization

    def other(self, organization: Organization) -> Organization:
        """Return the one that is not this one."""
        return self.south if organization is self.north else self.north

    @contextlib.contextmanager
    def stage(self) -> Iterator[Stage]:
        """Give a transaction on this world that is rolled back."""
        with rolled_back(self.url) as stage:
            yield stage


@contextlib.contextmanager
def rolled_back(url: str) -> Iterator[Stage]:
    """Give a transaction on a database that is rolled back."""
    with connected(url) as connection:
        yield Stage(connection)
        connection.rollback()


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Connect as the owner; ids are read as text, which is how JSON, claims and tests write them."""
    with psycopg.connect(url) as connection:
        connection.adapters.register_loader("uuid", TextLoader)
        yield connection


PEOPLE = {
    "admin": "admin",
    "team_lead": "team_lead",
    "senior_agent": "senior_agent",
    "agent": "agent",
    "customer": "customer",
    "other_customer": "customer",
    # These two cannot come in any more.
    "deactivated": "agent",
    "logged_out": "agent",
}
"""Who is in each organization, and as what."""

GONE = ("deactivated", "logged_out")


def build_world(url: str) -> World:
    """Fill an empty database with two organizations that have the same things in them."""
    with connected(url) as connection:
        stage = Stage(connection)
        north, south = (_Builder(stage, name).build() for name in ("north", "south"))
        connection.commit()
    return World(url, north, south)


def person(stage: Stage, organization: str, name: str, role: str) -> Actor:
    """Make a member with a login and a session, in the name of the owner."""
    owner = Acting(OWNER, stage)
    email = f"{name}@{organization[:8]}.example"
    user = owner.value(
        "insert into auth.users (aud, role, email, email_confirmed_at, confirmation_sent_at)"
        " values ('authenticated', 'authenticated', %s, now(), now()) returning id::text",
        [email],
    )
    session = owner.value("insert into auth.sessions (user_id) values (%s) returning id::text", [user])
    member = owner.insert_id(
        "members",
        organization_id=organization,
        user_id=user,
        username=name,
        email=email,
        name=name.replace("_", " ").title(),
        role=role,
    )
    contact = owner.values(
        "select id::text from public.contacts where organization_id = %s and member_id = %s",
        [organization, member],
    )
    claims = {
        "sub": user,
        "session_id": session,
        "role": "authenticated",
        "aud": "authenticated",
        "email": email,
        "aal": "aal1",
        "app_metadata": {"provider": "email", "organization_id": organization, "role": role},
        "user_metadata": {},
    }
    return Actor(name, "authenticated", claims, member_id=member, contact_id=contact[0] if contact else None)


def token_of(stage: Stage, answer: Mapping[str, Any]) -> Actor:
    """Return the integration that works with a token as it was answered when it was made."""
    secret = answer["token"]
    claims = Acting(OWNER, stage).value(ADMIT_TOKEN, [hashlib.sha256(secret.encode()).digest()])
    return Actor(answer["name"], "integration", claims, token_id=answer["id"], secret=secret)


class _Builder:
    """Makes one organization."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._owner = Acting(OWNER, stage)
        organization = self._owner.insert_id(
            "organizations", name=name, domain=f"{name}.example", settings='{"language": "en"}'
        )
        self._made = Organization(name, organization)

    def build(self) -> Organization:
        self._people()
        self._lists()
        self._integrations()
        self._tickets()
        self._conversation()
        self._knowledge()
        self._channels()
        self._webhooks()
        self._ends()
        return self._made

    def _acting(self, name: str) -> Acting:
        return Acting(self._made.actors[name], self._stage)

    def _by(self, who: str, label: str, table: str, /, **columns: Any) -> str:
        """Let somebody make a row and remember its id by a name."""
        self._made.ids[label] = self._acting(who).insert_id(table, **columns)
        return self._made.ids[label]

    def _given(self, label: str, table: str, /, **columns: Any) -> str:
        """Make a row that no client can make, and remember its id by a name."""
        columns["organization_id"] = self._made.id
        self._made.ids[label] = self._owner.insert_id(table, **columns)
        return self._made.ids[label]

    def _people(self) -> None:
        for name, role in PEOPLE.items():
            self._made.actors[name] = person(self._stage, self._made.id, name, role)
        for name in ("agent", "customer"):
            self._acting(name).insert("member_settings", phone="+49 30 1234567")
        self._given("outside_name", "member_identities",
                    member_id=self._made.actors["agent"].member_id, issuer="https://login.example",
                    subject=f"{self._made.name}|agent")  # fmt: skip
        self._by("agent", "sender", "contacts", name="Sender", email="sender@outside.example")
        self._by("agent", "identity", "contact_identities",
                 contact_id=self._made["sender"], channel="whatsapp", identity="+49 170 1234567")  # fmt: skip
        self._made.ids["contact"] = self._made.actors["customer"].contact_id or ""

    def _lists(self) -> None:
        group = self._by("team_lead", "group", "groups", name="Second line")
        agent = self._made.actors["agent"].member_id
        self._acting("team_lead").insert("group_members", group_id=group, member_id=agent)
        self._by("agent", "category", "categories", name="Delivery")
        self._by("agent", "tag", "tags", name="urgent")
        self._by("admin", "sla_policy", "sla_policies",
                 priority="high", first_response_minutes=60, resolution_minutes=480)  # fmt: skip
        self._by("admin", "custom_field", "custom_fields", key="order_number", label="Order", kind="text")
        self._by("agent", "template", "templates", title="Hello", content="Hello {name}")
        self._by("agent", "private_template", "templates", title="Mine", content="…", is_public=False)
        self._by("agent", "filter", "saved_filters", name="Mine", params='{"status": "open"}')
        self._by("agent", "public_filter", "saved_filters", name="Ours", is_public=True)
        self._by("customer", "customer_filter", "saved_filters", name="My open tickets")

    def _integrations(self) -> None:
        admin = self._acting("admin")
        for name in ("token", "other_token"):
            made = admin.value("select public.create_integration_token(%s)", [name])
            self._made.actors[name] = token_of(self._stage, made)
            self._made.ids[name] = made["id"]
            usage = {
                "organization_id": self._made.id,
                "token_id": made["id"],
                "operation": "create_ticket",
                "status": 201,
                "duration_ms": 1.5,
                "request_id": "1",
                "at": "2026-01-01T00:00:00Z",
            }
            self._owner.rows("select private.record_token_usage(%s::jsonb)", [json.dumps([usage])])

    def _tickets(self) -> None:
        self._by("customer", "ticket", "tickets", subject="Where is my order?", priority="high")
        self._by("other_customer", "other_ticket", "tickets", subject="Wrong colour")
        self._by("customer", "deleted_ticket", "tickets", subject="Never mind")
        self._by("agent", "walk_in", "tickets",
                 subject="Called about an invoice", contact_id=self._made["sender"], channel="phone",
                 category_id=self._made["category"], group_id=self._made["group"],
                 assignee_id=self._made.actors["senior_agent"].member_id)  # fmt: skip
        self._by("token", "token_ticket", "tickets", subject="Stock is low", channel="api")
        self._by("other_token", "other_token_ticket", "tickets", subject="Payment failed", channel="api")
        agent = self._acting("agent")
        agent.rows(
            "update public.tickets set assignee_id = %s, status = 'in_progress' where id = %s",
            [agent.member_id, self._made["ticket"]],
        )
        agent.insert("ticket_tags", ticket_id=self._made["ticket"], tag_id=self._made["tag"])
        self._acting("token").rows(
            "update public.tickets set status = 'in_progress' where id = %s", [self._made["token_ticket"]]
        )

    def _conversation(self) -> None:
        ticket = self._made["ticket"]
        self._by("agent", "reply", "comments", ticket_id=ticket, body="It is on its way.")
        self._by("agent", "note", "comments",
                 ticket_id=ticket, body="@senior_agent please look", is_internal=True)  # fmt: skip
        self._by("customer", "answer", "comments", ticket_id=ticket, body="Thank you.")
        self._by("other_customer", "other_answer", "comments",
                 ticket_id=self._made["other_ticket"], body="Any news?")  # fmt: skip
        self._by("customer", "deleted_comment", "comments",
                 ticket_id=self._made["deleted_ticket"], body="Forget it.")  # fmt: skip
        for who in ("token", "other_token"):
            mine = self._made[f"{who}_ticket"]
            self._by(who, f"{who}_comment", "comments", ticket_id=mine, body="Still so.")
            self._by(who, f"{who}_note", "comments", ticket_id=mine, body="Log…", is_internal=True)
        self._by("agent", "agent_note", "comments",
                 ticket_id=self._made["token_ticket"], body="Their fault.", is_internal=True)  # fmt: skip
        for name in ("reply", "note", "answer", "other_answer"):
            who = {"answer": "customer", "other_answer": "other_customer"}.get(name, "agent")
            self._by(who, f"{name}_file", "attachments",
                     comment_id=self._made[name], filename=f"{name}.txt", size=3)  # fmt: skip
        self._by("customer", "upload", "attachments", filename="photo.png", size=5)
        self._given("rating", "satisfaction_ratings",
                    ticket_id=ticket, contact_id=self._made["contact"],
                    assignee_id=self._made.actors["agent"].member_id, score=5)  # fmt: skip
        self._acting("agent").rows("delete from public.tickets where id = %s", [self._made["deleted_ticket"]])

    def _knowledge(self) -> None:
        self._by("agent", "article", "articles", title="Returns", content="Send it back.", is_published=True)
        self._by("agent", "draft", "articles", title="Refunds", content="To be written.")
        self._acting("customer").insert("article_votes", article_id=self._made["article"], is_helpful=True)

    def _channels(self) -> None:
        account = self._by("admin", "channel_account", "channel_accounts",
                           channel="whatsapp", external_account_id=f"{self._made.name}-1")  # fmt: skip
        self._owner.rows(
            "insert into private.channel_secrets (organization_id, channel_account_id, app_secret)"
            " values (%s, %s, 'secret')",
            [self._made.id, account],
        )
        self._given("inbound", "inbound_messages",
                    channel="whatsapp", channel_account_id=account, external_message_id="wamid.1",
                    sender="+49 170 1234567", payload="{}", ticket_id=self._made["walk_in"],
                    comment_id=self._made["answer"])  # fmt: skip

    def _webhooks(self) -> None:
        for who in ("token", "other_token"):
            self._given(f"{who}_endpoint", "webhook_endpoints",
                        integration_token_id=self._made[who], url="https://shop.example/hook",
                        events=["ticket.created"])  # fmt: skip
        self._owner.rows(
            "insert into private.webhook_secrets (organization_id, webhook_endpoint_id, secret)"
            " values (%s, %s, 'whsec_1')",
            [self._made.id, self._made["token_endpoint"]],
        )
        self._given("delivery", "webhook_deliveries",
                    webhook_endpoint_id=self._made["token_endpoint"], event_id=1, type="ticket.created",
                    ticket_id=self._made["token_ticket"], payload="{}")  # fmt: skip
        self._acting("token").rows("select private.begin_once('tests', 'key', '[]')")

    def _ends(self) -> None:
        self._owner.rows(
            "update public.members set is_active = false where id = %s",
            [self._made.actors["deactivated"].member_id],
        )
        self._owner.rows(
            "delete from auth.sessions where id = %s::uuid",
            [self._made.actors["logged_out"].claims["session_id"]],
        )
