"""Integration tokens from the command line.

In charge of finding the token that a person means and of saying why a change is refused. What a token is, and
every change of one, is SQL (`private.create_token` and its kin).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from api.failures import Failure
from api.migrate import Connection

FIRST_ORGANIZATION = "select id from public.organizations order by created_at, id limit 1"
ORGANIZATION = "select id from public.organizations where id = %s"
FIND = """
    select id from public.integration_tokens
    where organization_id = %(organization)s
      and (id::text = lower(%(wanted)s) or lower(name) = lower(%(wanted)s))
    order by revoked_at is not null, created_at desc limit 1
"""
LIST = """
    select private.token_json(t, null)::text from public.integration_tokens as t
    where organization_id = %s order by created_at, id
"""
CREATE = "select private.create_token(%s, %s, %s, %s, %s)"
ROTATE = "select private.rotate_token(%s, %s, %s)"
CHANGES = {
    "disable": "select private.disable_token(%s, %s)",
    "enable": "select private.enable_token(%s, %s)",
    "revoke": "select private.revoke_token(%s, %s)",
}


class TokenError(Failure):
    """The token or organization that was named is not there, or the database refuses the change."""


class Token(msgspec.Struct, frozen=True):
    """A token as `token list` shows it."""

    id: UUID
    name: str
    prefix: str
    status: str
    rate_limit: int
    scopes: tuple[str, ...]
    expires_at: str | None = None
    last_used_at: str | None = None


def find_organization(connection: Connection, wanted: str | None) -> UUID:
    """Return the organization with that id, or the first one. Raises TokenError."""
    if wanted is None:
        found = _one(connection, FIRST_ORGANIZATION, [])
    else:
        found = _one(connection, ORGANIZATION, [_uuid(wanted)])
    if found is None:
        raise TokenError(f"There is no organization {wanted}." if wanted else "There is no organization yet.")
    return UUID(str(found))


def create_token(
    connection: Connection,
    organization: UUID,
    *,
    name: str,
    rate_limit: int | None,
    expires_at: datetime | None,
    scopes: Sequence[str] | None,
) -> str:
    """Make a token and return its text, which nobody can read again. Raises TokenError."""
    values = [organization, name, rate_limit, expires_at, list(scopes) if scopes else None]
    return _secret(_one(connection, CREATE, values))


def rotate_token(connection: Connection, organization: UUID, wanted: str, grace_seconds: int) -> str:
    """Give a token a new text and return it; the old one works for the grace. Raises TokenError."""
    return _secret(
        _one(connection, ROTATE, [organization, _find(connection, organization, wanted), grace_seconds])
    )


def change_token(connection: Connection, organization: UUID, wanted: str, change: str) -> None:
    """Disable, enable or revoke a token. Raises TokenError."""
    _one(connection, CHANGES[change], [organization, _find(connection, organization, wanted)])


def list_tokens(connection: Connection, organization: UUID) -> list[Token]:
    """Return the organization's tokens, the oldest first."""
    rows = connection.execute(LIST, [organization]).fetchall()
    return [msgspec.json.decode(str(text), type=Token) for (text,) in rows]


def _find(connection: Connection, organization: UUID, wanted: str) -> UUID:
    found = _one(connection, FIND, {"organization": organization, "wanted": wanted})
    if found is None:
        raise TokenError(f"There is no integration token named {wanted}, nor with that id.")
    return UUID(str(found))


def _one(connection: Connection, statement: str, values: Any) -> Any:
    try:
        row = connection.execute(statement.encode(), values).fetchone()
    except psycopg.Error as error:
        raise TokenError(_explain(error)) from error
    return row[0] if row else None


def _explain(error: psycopg.Error) -> str:
    diag = error.diag
    if isinstance(error, psycopg.errors.UniqueViolation):
        return "There is already an integration token with that name."
    if isinstance(error, psycopg.errors.CheckViolation):
        return f"The database refuses that value (rule {diag.constraint_name})."
    if (diag.sqlstate or "").startswith("PT"):
        return diag.message_detail or diag.message_primary or str(error)
    return f"The database refused: {diag.message_primary or error}."


def _secret(answer: Any) -> str:
    return str(answer["token"])


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise TokenError(f"{text} is not the id of an organization.") from error
