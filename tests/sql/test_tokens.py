"""Integration tokens: shown once, changed by admins alone, worth nothing once ended; scopes in policies."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors import Acting, Organization, Stage, World, token_of
from tests.databases import Connection
from tests.sql.gate import admit, of

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ALL_SCOPES = ["tickets:read", "tickets:write", "comments:write", "webhooks:manage"]
CREATE = "select public.create_integration_token(name => %(name)s)"
CREATE_SCOPED = "select public.create_integration_token(name => 'scoped', scopes => %s)"
ROTATE = "select public.rotate_integration_token(%s, %s)"
CHANGES = ["rotate", "disable", "enable", "revoke"]


def change(verb: str) -> str:
    return f"select public.{verb}_integration_token(%s)"


def base62(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        text = ALPHABET[digit] + text
    return text


@pytest.fixture
def is_alive(login: Acting) -> Callable[[Acting], bool]:
    """Ask whether a token lets its system in."""

    def ask(acting: Acting) -> bool:
        (admission,) = admit(login, of(acting.actor))
        assert admission.failure in (None, "invalid_token")
        assert (admission.granted == 1) == (admission.failure is None)
        return admission.failure is None

    return ask


@pytest.fixture
def scoped(admin: Acting, stage: Stage) -> Callable[[Sequence[str]], Acting]:
    """Make an integration that has these scopes."""

    def make(scopes: Sequence[str]) -> Acting:
        return Acting(token_of(stage, admin.value(CREATE_SCOPED, [list(scopes)])), stage)

    return make


# The text


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=32))
def test_bytes_are_written_in_base_62(data: bytes, owner: Acting) -> None:
    number = int.from_bytes(data, "big")
    assert owner.value("select private.base62(%s, 43)", [data]) == base62(number, 43)


def test_a_token_is_a_prefix_random_characters_and_a_checksum(admin: Acting) -> None:
    texts = {admin.value(CREATE, {"name": f"t{n}"})["token"] for n in range(20)}
    assert len(texts) == 20
    for text in texts:
        body, checksum = text[:-6], text[-6:]
        assert len(text) == 53
        assert body.startswith("stk_")
        assert set(body[4:] + checksum) <= set(ALPHABET)
        digest = hashlib.sha256(body.encode()).digest()
        assert checksum == base62(int.from_bytes(digest[:4], "big"), 6)


def test_the_text_of_a_token_is_stored_nowhere(admin: Acting, owner: Acting) -> None:
    text = admin.value(CREATE, {"name": "secret"})["token"]
    tables = owner.values("""
        select c.oid::regclass::text from pg_class as c
        where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and c.relkind in ('r', 'p')
    """)
    for table in tables:
        assert owner.rows(f"select 1 from {table} as t where strpos(t::text, %s) > 0", [text[12:]]) == [], (
            table
        )
    hashes = owner.values("select hash from private.integration_token_secrets")
    assert hashlib.sha256(text.encode()).digest() in hashes


# Making


def test_admin_makes_a_token_and_sees_its_text_this_once(admin: Acting, north: Organization) -> None:
    made = admin.value(CREATE, {"name": "  Shop "})
    text = made.pop("token")
    assert made.pop("created_at").endswith("Z")
    assert made == {
        "id": made["id"],
        "name": "Shop",
        "prefix": text[:12],
        "scopes": ALL_SCOPES,
        "rate_limit": 1000,
        "expires_at": None,
    }
    seen = admin.value("select to_jsonb(t) from public.integration_tokens as t where id = %s", [made["id"]])
    assert text[12:] not in json.dumps(seen)
    assert seen["created_by_member_id"] == admin.member_id
    assert seen["organization_id"] == north.id


def test_a_token_has_the_limit_the_scopes_and_the_end_that_were_asked_for(
    admin: Acting, stage: Stage, login: Acting
) -> None:
    made = admin.value(
        "select public.create_integration_token('x', 5, now() + interval '1 day', array['tickets:read'])"
    )
    assert (made["rate_limit"], made["scopes"]) == (5, ["tickets:read"])
    assert made["expires_at"].endswith("Z")
    (admission,) = admit(login, of(token_of(stage, made), wanted=9))
    assert (admission.granted, admission.rate_limit, admission.remaining) == (5, 5, 0)
    assert admission.claims
    assert admission.claims["app_metadata"]["scopes"] == ["tickets:read"]


@pytest.mark.parametrize("name", ["customer", "agent", "senior_agent", "team_lead"])
def test_nobody_but_an_admin_makes_or_changes_tokens(name: str, stage: Stage, north: Organization) -> None:
    acting = Acting(north.actors[name], stage)
    acting.refused("PT403", CREATE, {"name": "x"}, word="forbidden")
    for verb in CHANGES:
        acting.refused("PT403", change(verb), [north["token"]], word="forbidden")
    assert acting.rows("select 1 from public.integration_tokens") == []
    assert acting.count("update public.integration_tokens set name = 'x'") == 0


def test_integration_visitor_and_service_make_no_tokens(
    token: Acting, visitor: Acting, service: Acting
) -> None:
    for acting in (token, visitor, service):
        acting.refused("42501", CREATE, {"name": "x"})


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ("''", "23514"),
        ("null", "23502"),
        ("'x', 0", "23514"),
        ("'x', -1", "23514"),
        ("'x', null, now()", "PT400"),
        ("'x', null, now() - interval '1 day'", "PT400"),
        ("'x', null, null, array['everything']", "23514"),
        ("'x', null, null, array[null]::text[]", "23514"),
        ("'TOKEN'", "23505"),
    ],
)
def test_a_malformed_token_is_refused(arguments: str, state: str, admin: Acting) -> None:
    admin.refused(state, f"select public.create_integration_token({arguments})")


def test_a_name_is_free_again_once_its_token_is_revoked(admin: Acting, north: Organization) -> None:
    admin.refused("23505", CREATE, {"name": "token"})
    admin.rows(change("revoke"), [north["token"]])
    assert admin.value(CREATE, {"name": "token"})["name"] == "token"


def test_admin_changes_name_limit_and_end_and_nothing_else(admin: Acting, north: Organization) -> None:
    edit = "update public.integration_tokens set name = 'New', rate_limit = 7 where id = %s returning 1"
    assert admin.value(edit, [north["token"]]) == 1
    for column in ("prefix", "scopes", "revoked_at", "disabled_at", "created_by_member_id"):
        admin.refused("42501", f"update public.integration_tokens set {column} = {column}")
    admin.refused("42501", "delete from public.integration_tokens")
    admin.refused_insert("42501", "integration_tokens", name="x")


# Ending


def test_a_disabled_token_is_refused_until_it_is_enabled(
    admin: Acting, token: Acting, other_token: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    assert is_alive(token)
    assert admin.value(change("disable"), [token.token_id])["status"] == "disabled"
    assert not is_alive(token)
    assert is_alive(other_token)
    assert admin.value(change("enable"), [token.token_id])["status"] == "active"
    assert is_alive(token)


def test_a_revoked_token_stays_revoked(
    admin: Acting, token: Acting, owner: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    assert admin.value(change("revoke"), [token.token_id])["status"] == "revoked"
    assert not is_alive(token)
    for verb in CHANGES:
        admin.refused("PT409", change(verb), [token.token_id], word="token_revoked")
    secrets = "select 1 from private.integration_token_secrets where token_id = %s"
    assert owner.rows(secrets, [token.token_id]) == []
    tickets = "select 1 from public.tickets where integration_token_id = %s"
    assert owner.rows(tickets, [token.token_id]) == [(1,)], "its tickets keep their maker"


def test_an_expired_token_is_refused(
    admin: Acting, token: Acting, owner: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    expire = "update public.integration_tokens set expires_at = now() + %s where id = %s"
    owner.rows(expire, ["1 minute", token.token_id])
    assert is_alive(token)
    owner.rows(expire, ["0 seconds", token.token_id])
    assert not is_alive(token)
    state = (
        "select private.token_json(t, null) ->> 'status' from public.integration_tokens as t where id = %s"
    )
    assert owner.value(state, [token.token_id]) == "expired"


def test_a_token_ends_with_its_organization(
    *,
    owner: Acting,
    token: Acting,
    foreign_token: Acting,
    north: Organization,
    is_alive: Callable[[Acting], bool],
) -> None:
    owner.rows("update public.organizations set deleted_at = now() where id = %s", [north.id])
    assert not is_alive(token)
    assert is_alive(foreign_token)


def test_a_token_that_never_was_is_refused(login: Acting, token: Acting) -> None:
    wrong = token.actor.secret[:-1] + ("a" if token.actor.secret[-1] != "a" else "b")
    (admission,) = admit(login, of(type(token.actor)("x", "integration", {}, secret=wrong)))
    assert (admission.granted, admission.failure, admission.claims) == (0, "invalid_token", None)


def test_admin_does_not_change_a_token_of_another_organization(
    admin: Acting, foreign_token: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    for verb in CHANGES:
        admin.refused("PT404", change(verb), [foreign_token.token_id], word="not_found")
    assert is_alive(foreign_token)


# Rotating


def rotated(admin: Acting, stage: Stage, token: Acting, grace_seconds: int) -> Acting:
    answer = admin.value(ROTATE, [token.token_id, grace_seconds])
    assert answer["id"] == token.token_id
    return Acting(token_of(stage, answer), stage)


def test_rotating_gives_a_new_text_and_ends_the_old_one(
    admin: Acting, stage: Stage, token: Acting, north: Organization, is_alive: Callable[[Acting], bool]
) -> None:
    new = rotated(admin, stage, token, 0)
    assert is_alive(new)
    assert not is_alive(token)
    assert new.values("select id from public.tickets") == [north["token_ticket"]], "it is the same system"


def test_the_old_text_works_for_the_grace(
    admin: Acting, stage: Stage, token: Acting, owner: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    new = rotated(admin, stage, token, 3600)
    assert is_alive(new)
    assert is_alive(token)
    owner.rows("update private.integration_token_secrets set expires_at = now() where expires_at is not null")
    assert is_alive(new)
    assert not is_alive(token)


def test_rotating_again_gives_the_oldest_text_no_more_time(
    admin: Acting, stage: Stage, token: Acting, owner: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    second = rotated(admin, stage, token, 60)
    third = rotated(admin, stage, second, 3600)
    ends = owner.values(
        "select extract(epoch from expires_at - now())::integer from private.integration_token_secrets"
        " where token_id = %s order by 1",
        [token.token_id],
    )
    assert ends == [60, 3600, None]
    assert all(is_alive(each) for each in (token, second, third))


@pytest.mark.parametrize("grace", [-1, 2_592_001])
def test_a_grace_is_at_most_thirty_days(grace: int, admin: Acting, token: Acting) -> None:
    admin.refused("PT400", ROTATE, [token.token_id, grace], word="invalid_field")
    admin.rows(ROTATE, [token.token_id, 2_592_000])


def test_a_disabled_token_that_is_rotated_stays_disabled(
    admin: Acting, stage: Stage, token: Acting, is_alive: Callable[[Acting], bool]
) -> None:
    admin.rows(change("disable"), [token.token_id])
    secret = admin.value(ROTATE, [token.token_id, 60])["token"]
    new = Acting(type(token.actor)("new", "integration", {}, secret=secret), stage)
    assert not is_alive(new)
    admin.rows(change("enable"), [token.token_id])
    assert is_alive(new)


# Scopes


def test_reading_needs_its_scope(scoped: Callable[[Sequence[str]], Acting], owner: Acting) -> None:
    blind = scoped(["tickets:write", "comments:write"])
    blind.insert("tickets", subject="Made by a token that cannot read")
    ticket = owner.value("select id from public.tickets where integration_token_id = %s", [blind.token_id])
    blind.insert("comments", ticket_id=ticket, body="x")
    assert blind.values("select id from public.tickets") == []
    assert blind.values("select id from public.comments") == []
    assert len(owner.rows("select 1 from public.comments where ticket_id = %s", [ticket])) == 1


def test_writing_tickets_needs_its_scope(
    scoped: Callable[[Sequence[str]], Acting], owner: Acting, token: Acting, north: Organization
) -> None:
    reader = scoped(["tickets:read", "comments:write"])
    reader.refused_insert("42501", "tickets", subject="x")
    owner.rows("update public.tickets set integration_token_id = %s where id = %s",
               [reader.token_id, north["token_ticket"]])  # fmt: skip
    assert reader.values("select id from public.tickets") == [north["token_ticket"]]
    assert reader.count("update public.tickets set priority = 'low'") == 0
    assert owner.rows("select 1 from public.tickets where priority = 'low'") == []


def test_writing_comments_needs_its_scope(scoped: Callable[[Sequence[str]], Acting]) -> None:
    silent = scoped(["tickets:read", "tickets:write"])
    ticket = silent.insert_id("tickets", subject="x")
    silent.refused_insert("42501", "comments", ticket_id=ticket, body="x")


def test_webhooks_need_their_scope(
    scoped: Callable[[Sequence[str]], Acting], owner: Acting, north: Organization
) -> None:
    deaf = scoped(["tickets:read", "tickets:write", "comments:write"])
    owner.rows("update public.webhook_endpoints set integration_token_id = %s where id = %s",
               [deaf.token_id, north["token_endpoint"]])  # fmt: skip
    assert deaf.values("select id from public.webhook_endpoints") == []
    assert deaf.count("delete from public.webhook_endpoints") == 0
    owner.rows("update public.integration_tokens set scopes = array['webhooks:manage'] where id = %s",
               [north["other_token"]])  # fmt: skip


def test_a_scope_that_is_taken_away_is_gone_with_the_next_request(
    login: Acting, owner: Acting, token: Acting
) -> None:
    owner.rows("update public.integration_tokens set scopes = '{}' where id = %s", [token.token_id])
    (admission,) = admit(login, of(token.actor))
    assert admission.claims
    assert admission.claims["app_metadata"]["scopes"] == []


# Usage


RECORD = "select private.record_token_usage(%s::jsonb)"


def usage(organization: Organization, token: str, at: str) -> dict[str, object]:
    return {
        "organization_id": organization.id,
        "token_id": organization[token],
        "operation": "get_ticket",
        "status": 200,
        "duration_ms": 0.5,
        "request_id": "r",
        "at": at,
    }


def test_use_is_written_down_and_dated(
    login: Acting, admin: Acting, foreign_admin: Acting, north: Organization
) -> None:
    batch = [usage(north, "token", at) for at in ("2026-05-02T00:00:00Z", "2026-05-01T00:00:00Z")]
    login.rows(RECORD, [json.dumps(batch)])
    used = "select private.rfc3339(last_used_at) from public.integration_tokens where id = %s"
    assert admin.value(used, [north["token"]]) == "2026-05-02T00:00:00Z"
    login.rows(RECORD, [json.dumps([usage(north, "token", "2026-04-01T00:00:00Z")])])
    assert admin.value(used, [north["token"]]) == "2026-05-02T00:00:00Z", "an earlier use comes late"
    rows = "select count(*) from public.token_usage where token_id = %s and operation = 'get_ticket'"
    assert admin.value(rows, [north["token"]]) == 3
    assert foreign_admin.value(rows, [north["token"]]) == 0


def test_use_of_a_token_that_is_gone_is_dropped(login: Acting, owner: Acting, north: Organization) -> None:
    owner.rows("delete from public.integration_tokens where id = %s", [north["token"]])
    batch = [usage(north, name, "2026-05-01T00:00:00Z") for name in ("token", "other_token")]
    login.rows(RECORD, [json.dumps(batch)])
    written = owner.values("select token_id from public.token_usage where operation = 'get_ticket'")
    assert written == [north["other_token"]]


def test_only_the_service_writes_use_down(token: Acting, admin: Acting, service: Acting) -> None:
    for acting in (token, admin, service):
        acting.refused("42501", RECORD, ["[]"])


def test_processes_that_write_use_down_at_once_never_wait_in_a_circle(
    own_world: World, connect: Callable[[], Connection]
) -> None:
    names = [(own_world.north, "token"), (own_world.north, "other_token"), (own_world.south, "token")]
    batches = [json.dumps([usage(*name, "2026-05-01T00:00:00Z") for name in order] * 20)
               for order in (names, names[::-1])]  # fmt: skip
    failures: list[Exception] = []

    def write(connection: Connection, batch: str) -> None:
        try:
            for _ in range(30):
                connection.execute(RECORD, [batch])
        except Exception as failure:  # noqa: BLE001 - told to the test below
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(connect(), batches[n % 2])) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
