"""Bringing a database up to date: what a plain Postgres needs first, the migrations, then the auth service.

In charge of the order, of one transaction each, of the record that the Supabase command line keeps as well
(`supabase_migrations.schema_migrations`), and of the login of `authenticator`. What a migration does is SQL's
business; writing new ones is `api.migrations`'.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from api.failures import Failure
from api.statements import Statement, split

Connection = psycopg.Connection[tuple[object, ...]]
Report = Callable[[str], None]

SUPABASE = Path(__file__).resolve().parent.parent / "supabase"
BOOTSTRAP = SUPABASE / "bootstrap.sql"
AUTH_SERVICE = SUPABASE / "auth.sql"
REALTIME_SERVICE = SUPABASE / "realtime.sql"
MIGRATIONS = SUPABASE / "migrations"
OLDEST_SERVER = 15
# Any number, as long as nobody else uses it.
LOCK = 5_317_624_918_001

IS_SUPABASE = """
    select exists (select from pg_roles where rolname = 'supabase_auth_admin') and exists (
        select from pg_class where relname = 'schema_migrations' and relnamespace = to_regnamespace('auth'))
"""
CREATE_RECORD = """
    create schema if not exists supabase_migrations;
    create table if not exists supabase_migrations.schema_migrations (
        version text not null primary key, statements text[], name text
    );
"""
READ_RECORD = "select version, statements from supabase_migrations.schema_migrations"
WRITE_RECORD = """
    insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)
"""
MAINTENANCE = ("private.maintain()", "auth_service.maintain()", "realtime_service.maintain()")
HAS_FUNCTION = "select to_regprocedure('{}') is not null"
CLAIMS_HOOK = "private.custom_access_token_hook(jsonb)"
"""What the auth service stands on; a history of somebody's own may be without it."""


class MigrationError(Failure):
    """The database cannot be reached or cannot be brought up to date."""


class Migration(NamedTuple):
    """One file of the history."""

    path: Path
    version: str
    name: str
    statements: list[Statement]


def migrate(
    url: str, *, folder: Path = MIGRATIONS, bootstrap: Path = BOOTSTRAP, report: Report = print
) -> list[str]:
    """Apply what is missing and return the versions applied. Two at once wait for each other.

    Raises MigrationError; a migration that fails leaves nothing behind, those before it stay.
    """
    migrations = read_migrations(folder)
    with connect(url) as connection, _alone(connection, report):
        is_supabase = value(connection, IS_SUPABASE)
        if not is_supabase:
            run_file(connection, bootstrap)
        # A new connection, because the bootstrap may have set the database's search_path.
        with connect(url) as fresh:
            applied = _apply_missing(fresh, migrations, report)
            if not is_supabase and _has(fresh, CLAIMS_HOOK):
                run_file(fresh, AUTH_SERVICE)
                run_file(fresh, REALTIME_SERVICE)
            _maintain(fresh)
        return applied


def maintain(url: str) -> None:
    """Let the database see to its own housekeeping, where it has any."""
    with connect(url) as connection:
        _maintain(connection)


def login_url(url: str, password: str) -> str:
    """Return the address that the API and PostgREST log in with.

    On a database of ours that is `authenticator`, which is given the password. Where Supabase or a missing
    right keeps us from that, or the server does not take it, it is the address itself.
    """
    with connect(url) as connection:
        if value(connection, IS_SUPABASE) or not set_login_password(connection, password):
            return url
    candidate = _with_user(url, "authenticator", password)
    try:
        psycopg.connect(candidate, connect_timeout=10).close()
    except psycopg.OperationalError:
        return url
    return candidate


def set_login_password(connection: Connection, password: str) -> bool:
    """Let `authenticator` log in with the password; return false if this user may not do that."""
    hashed = connection.pgconn.encrypt_password(
        password.encode(), b"authenticator", b"scram-sha-256"
    ).decode()
    try:
        connection.execute(sql.SQL("alter role authenticator login password {}").format(hashed))
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def read_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """Return the files `<version>_<name>.sql` in order."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        version, _, name = path.stem.partition("_")
        if version.isdigit():
            found.append(Migration(path, version, name, list(split(path.read_text()))))
    return found


def run_file(connection: Connection, path: Path) -> None:
    """Run a script in one transaction. Raises MigrationError with the line that failed."""
    _run(connection, path, list(split(path.read_text())))


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Connect as the database's owner, in autocommit. Raises MigrationError, for errors of the body too."""
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="deskbase")
    except psycopg.ProgrammingError as error:
        raise MigrationError("DESKBASE_DATABASE_URL is not an address that Postgres understands.") from error
    except psycopg.OperationalError as error:
        raise MigrationError(
            f"The database at {describe(url)} cannot be reached: {_first_line(error)}"
        ) from error
    with connection:
        major = connection.info.server_version // 10000
        if major < OLDEST_SERVER:
            raise MigrationError(
                f"The database at {describe(url)} is PostgreSQL {major}; "
                f"Deskbase needs {OLDEST_SERVER} or newer."
            )
        try:
            yield connection
        except psycopg.Error as error:
            raise MigrationError(f"The database at {describe(url)} refused: {_explain(error)}") from error


def value(connection: Connection, statement: str) -> object:
    """Return the first column of the statement's first row."""
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def describe(url: str) -> str:
    """Return the address without its password."""
    parts = conninfo_to_dict(url)
    where = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"
    return f"{parts.get('user', 'postgres')}@{where}/{parts.get('dbname', 'postgres')}"


@contextmanager
def _alone(connection: Connection, report: Report) -> Iterator[None]:
    """Hold the lock of those who migrate; it goes with the connection, should this process die."""
    if not value(connection, f"select pg_try_advisory_lock({LOCK})"):
        report("Waiting for another process that is migrating this database.")
        connection.execute(f"select pg_advisory_lock({LOCK})")
    yield
    # The server may take a moment to notice that a connection is closed.
    connection.execute(f"select pg_advisory_unlock({LOCK})")


def _apply_missing(connection: Connection, migrations: list[Migration], report: Report) -> list[str]:
    connection.execute(CREATE_RECORD)
    applied = {str(version): statements for version, statements in connection.execute(READ_RECORD)}
    _mention_differences(migrations, applied, report)
    missing = [migration for migration in migrations if migration.version not in applied]
    for migration in missing:
        report(f"Applying migration {migration.path.name}.")
        _apply(connection, migration)
    return [migration.version for migration in missing]


def _maintain(connection: Connection) -> None:
    for function in MAINTENANCE:
        if _has(connection, function):
            connection.execute(f"select {function}".encode())


def _has(connection: Connection, function: str) -> bool:
    return bool(value(connection, HAS_FUNCTION.format(function)))


def _apply(connection: Connection, migration: Migration) -> None:
    record = (migration.version, [statement.text for statement in migration.statements], migration.name)
    with connection.transaction():
        _run(connection, migration.path, migration.statements)
        connection.execute(WRITE_RECORD, record)


def _run(connection: Connection, path: Path, statements: list[Statement]) -> None:
    with connection.transaction():
        for statement in statements:
            try:
                connection.execute(statement.text.encode())
            except psycopg.Error as error:
                raise MigrationError(
                    f"{path.name} failed at line {_line(statement, error)}, and nothing of it was applied: "
                    f"{_explain(error)}"
                ) from error


def _mention_differences(migrations: list[Migration], applied: dict[str, object], report: Report) -> None:
    known = {migration.version: [s.text for s in migration.statements] for migration in migrations}
    for version in sorted(applied.keys() - known.keys()):
        report(f"The database has migration {version}, which this version of Deskbase does not know.")
    for version, texts in known.items():
        if applied.get(version, texts) not in (texts, None):
            report(f"Migration {version} has changed since it was applied here, and is not applied again.")


def _line(statement: Statement, error: psycopg.Error) -> int:
    position = error.diag.statement_position
    if position is None:
        return statement.line
    return statement.text_line + statement.text.count("\n", 0, int(position) - 1)


def _explain(error: psycopg.Error) -> str:
    diag = error.diag
    parts = [diag.message_primary or _first_line(error), diag.message_detail, diag.message_hint]
    return " ".join(part.rstrip(".") + "." for part in parts if part)


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]


def _with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{quote(password, safe='')}@{host}"))
