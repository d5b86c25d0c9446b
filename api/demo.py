"""`deskbase demo`: a believable organization to look at, with people who can log in.

In charge of what SQL cannot do: passwords and the integration token's secret. What the organization is and
what happened in it is `supabase/seed.sql`, which the Supabase command line loads as well.
"""

import secrets
from collections.abc import Callable

import psycopg

from api.database import owner_database
from api.failures import Failure
from api.migrate import SUPABASE, Connection, connect
from api.passwords import HASHER
from api.settings import Settings

SEED = SUPABASE / "seed.sql"
ORGANIZATION = "1a25b900-0000-4000-8000-000000000001"
Report = Callable[[str], None]

IS_MIGRATED = "select to_regclass('public.organizations') is not null"
IS_LOADED = "select exists (select from public.organizations where id = %s)"
TO_BE_LET_IN = """
    select u.id, u.email, m.role::text from public.members as m join auth.users as u on u.id = m.user_id
    where m.organization_id = %s and u.encrypted_password is null order by m.role desc, u.email
"""
LET_IN = "update auth.users set encrypted_password = %s where id = %s"
TO_BE_KEYED = """
    select t.id, t.name from public.integration_tokens as t
    where t.organization_id = %s and t.revoked_at is null and not exists (
        select from private.integration_token_secrets as s
        where s.organization_id = t.organization_id and s.token_id = t.id)
"""
KEY = "select private.rotate_token(%s, %s, 0) ->> 'token'"


class DemoError(Failure):
    """The organization cannot be loaded."""


def load(settings: Settings, password: str | None = None, report: Report = print) -> None:
    """Load the organization; what is there already stays as it is.

    Everyone in it who has no password yet gets the given one, or one that is made and reported now; likewise
    its integration token is given its secret. Both are shown this once. Raises Failure.
    """
    with owner_database(settings) as url, connect(url) as connection:
        if not _value(connection, IS_MIGRATED):
            raise DemoError("The database is empty; run `deskbase migrate` or `deskbase up` first.")
        try:
            with connection.transaction():
                _load(connection, password, report)
        except psycopg.Error as error:
            raise DemoError(f"The organization could not be loaded: {error.diag.message_primary}.") from error


def _load(connection: Connection, password: str | None, report: Report) -> None:
    was_there = _value(connection, IS_LOADED, ORGANIZATION)
    if not was_there:
        connection.execute(SEED.read_bytes())
    people = connection.execute(TO_BE_LET_IN, [ORGANIZATION]).fetchall()
    tokens = connection.execute(TO_BE_KEYED, [ORGANIZATION]).fetchall()
    if was_there and not people and not tokens:
        report(f"Larkspur Outdoor ({ORGANIZATION}) is there already; nothing was changed.")
        return
    report(f"Larkspur Outdoor is organization {ORGANIZATION}.")
    if people:
        _give_passwords(connection, people, password, report)
    for token_id, name in tokens:
        secret = _value(connection, KEY, ORGANIZATION, token_id)
        report(f"Integration token “{name}”: {secret}")


def _give_passwords(
    connection: Connection, people: list[tuple[object, ...]], given: str | None, report: Report
) -> None:
    password = given or secrets.token_urlsafe(12)
    for user_id, email, role in people:
        connection.execute(LET_IN, [HASHER.hash(password), user_id])
        report(f"  {email!s:<28} {str(role).replace('_', ' ')}")
    report("Password of each of them: " + ("as given" if given else password))


def _value(connection: Connection, statement: str, *values: object) -> object:
    row = connection.execute(statement.encode(), values).fetchone()
    return row[0] if row else None
