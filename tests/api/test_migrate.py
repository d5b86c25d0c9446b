import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from api.embedded import Embedded
from api.migrate import BOOTSTRAP, MigrationError, connect, login_url, migrate, run_file
from tests.databases import Server
from tests.desk import PROJECT, free_port

RECORD = "select version, name, statements from supabase_migrations.schema_migrations order by version"
SUPABASE = PROJECT / "node_modules" / ".bin" / "supabase"
TRICKY = """\
-- A comment; with a semicolon
create table public.a (id integer, note text default 'x;y');

create function public.f() returns integer language plpgsql as $$
begin
    return 1; -- inside
end
$$;
create function public.g() returns integer language sql begin atomic select 1; select 2; end;
insert into public.a values (1, E'it\\'s; so');
;
-- nothing to do;
;
/* the end; */
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of migrations to fill."""
    return tmp_path


def write(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)


def run(url: str, folder: Path) -> tuple[list[str], list[str]]:
    """Migrate and return the versions applied and what was said."""
    said: list[str] = []
    return migrate(url, folder=folder, report=said.append), said


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_migrations_are_applied_in_order_recorded_and_not_repeated(empty_database: str, folder: Path) -> None:
    write(folder, "20260102000000_second.sql", "create table b (a_id integer references a (id));")
    write(folder, "20260101000000_first_one.sql", "create table a (id integer primary key);\nselect 1;")
    write(folder, "notes.sql", "this is no migration")
    assert run(empty_database, folder)[0] == ["20260101000000", "20260102000000"]
    assert run(empty_database, folder) == ([], [])
    assert rows(empty_database, RECORD) == [
        ("20260101000000", "first_one", ["create table a (id integer primary key)", "select 1"]),
        ("20260102000000", "second", ["create table b (a_id integer references a (id))"]),
    ]


def test_the_record_is_the_one_that_the_supabase_command_line_keeps(server: Server, folder: Path) -> None:
    project = folder / "supabase"
    (project / "migrations").mkdir(parents=True)
    (project / "config.toml").write_text((PROJECT / "supabase" / "config.toml").read_text())
    write(project / "migrations", "20260101000000_tricky.sql", TRICKY)
    with server.database() as ours, server.database() as theirs:
        run(ours, project / "migrations")
        with connect(theirs) as connection:
            run_file(connection, BOOTSTRAP)
        assert "tricky" in supabase(folder, "migration", "up", f"--remote={theirs}", "--yes")
        assert rows(ours, RECORD) == rows(theirs, RECORD)
        assert "up to date" in supabase(folder, "migration", "up", f"--remote={ours}", "--yes")
        assert "up to date" in supabase(folder, "db", "push", f"--remote={ours}", "--yes")
        assert run(theirs, project / "migrations") == ([], [])


def supabase(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [SUPABASE, *arguments],
        check=True,
        cwd=folder,
        env=os.environ | {"SUPABASE_TELEMETRY_DISABLED": "1", "SUPABASE_NO_UPDATE_NOTIFIER": "1"},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_a_failing_migration_names_its_line_and_leaves_nothing_behind(
    empty_database: str, folder: Path
) -> None:
    write(folder, "20260101000000_good.sql", "create table good ();")
    write(folder, "20260102000000_bad.sql", "create table bad ();\n\n-- why\nselect\n  nowhere;\n")
    with pytest.raises(MigrationError) as caught:
        run(empty_database, folder)
    assert str(caught.value) == (
        "20260102000000_bad.sql failed at line 5, and nothing of it was applied: "
        'column "nowhere" does not exist.'
    )
    assert [row[0] for row in rows(empty_database, RECORD)] == ["20260101000000"]
    assert rows(empty_database, "select to_regclass('good') is null, to_regclass('bad') is null") == [
        (False, True)
    ]


def test_a_failure_inside_a_statement_names_the_line_where_it_begins(
    empty_database: str, folder: Path
) -> None:
    write(folder, "20260101000000_bad.sql", "select 1;\n-- why\ndo $$\nbegin\n  raise 'no; never';\nend\n$$;")
    with pytest.raises(MigrationError, match=r"failed at line 3, .*: no; never\.$"):
        run(empty_database, folder)


def test_a_migration_that_was_forgotten_is_applied_later(empty_database: str, folder: Path) -> None:
    write(folder, "20260102000000_late.sql", "create table late ();")
    run(empty_database, folder)
    write(folder, "20260101000000_early.sql", "create table early ();")
    assert run(empty_database, folder)[0] == ["20260101000000"]


def test_a_changed_and_an_unknown_migration_are_mentioned(empty_database: str, folder: Path) -> None:
    write(folder, "20260101000000_first.sql", "create table a ();")
    write(folder, "20260102000000_second.sql", "create table b ();")
    run(empty_database, folder)
    write(folder, "20260101000000_first.sql", "create table c ();")
    (folder / "20260102000000_second.sql").unlink()
    assert run(empty_database, folder) == (
        [],
        [
            "The database has migration 20260102000000, which this version of Deskbase does not know.",
            "Migration 20260101000000 has changed since it was applied here, and is not applied again.",
        ],
    )


def test_two_who_migrate_at_once_apply_everything_once(empty_database: str, folder: Path) -> None:
    write(folder, "20260101000000_slow.sql", "create table slow ();\nselect pg_sleep(0.5);")
    results: list[tuple[list[str], list[str]]] = []
    threads = [threading.Thread(target=lambda: results.append(run(empty_database, folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied for applied, _ in results) == [[], [], [], ["20260101000000"]]
    assert sum("Waiting for another process" in " ".join(said) for _, said in results) == 3


def test_the_bootstrap_can_be_repeated_and_leaves_what_migrations_have_narrowed(
    empty_database: str, folder: Path
) -> None:
    write(
        folder,
        "20260101000000_narrow.sql",
        "alter default privileges in schema public revoke all on tables from anon;",
    )
    run(empty_database, folder)
    run(empty_database, folder)
    with connect(empty_database) as connection:
        connection.execute("create table public.later ()")
        granted = connection.execute(
            "select has_table_privilege('anon', 'public.later', 'select'),"
            " has_table_privilege('authenticated', 'public.later', 'select')"
        ).fetchone()
    assert granted == (False, True)


def test_the_auth_helpers_read_the_claims_of_a_request(empty_database: str, folder: Path) -> None:
    run(empty_database, folder)
    user = "3b6f1a52-0c5e-4d3a-9a51-6f6f5f0f4a11"
    with connect(empty_database) as connection:
        read = "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'iss'"
        assert connection.execute(read).fetchone() == (None, None, None, None)
        with connection.transaction():
            claims = f'{{"sub": "{user}", "role": "authenticated", "email": "a@b.c", "iss": "x"}}'
            connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            connection.execute("set local role authenticated")
            assert connection.execute(read).fetchone() == (user, "authenticated", "a@b.c", "x")
        assert connection.execute(read).fetchone() == (None, None, None, None)


def test_an_address_belongs_to_one_account_however_it_is_spelled(empty_database: str, folder: Path) -> None:
    run(empty_database, folder)
    with connect(empty_database) as connection:
        connection.execute("insert into auth.users (email) values ('a@example.com')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into auth.users (email) values ('A@Example.com')")
        connection.execute("update auth.users set deleted_at = now()")
        connection.execute("insert into auth.users (email) values ('A@Example.com')")


def test_clients_cannot_read_users_or_sessions(empty_database: str, folder: Path) -> None:
    run(empty_database, folder)
    with connect(empty_database) as connection:
        for role in ("anon", "authenticated", "service_role"):
            connection.execute(f"set role {role}".encode())
            for table in ("auth.users", "auth.sessions"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"select from {table}".encode())
            connection.execute("reset role")


def test_housekeeping_runs_after_migrating_where_there_is_any(empty_database: str, folder: Path) -> None:
    write(
        folder,
        "20260101000000_house.sql",
        "create schema private; create table private.kept ();"
        "create function private.maintain() returns void"
        " begin atomic insert into private.kept default values; end;",
    )
    run(empty_database, folder)
    run(empty_database, folder)
    assert rows(empty_database, "select count(*) from private.kept") == [(2,)]


def test_an_unreachable_database_is_named_without_its_password(folder: Path) -> None:
    with pytest.raises(MigrationError) as caught:
        run(f"postgresql://me:hidden@127.0.0.1:{free_port()}/desk", folder)
    assert str(caught.value).startswith("The database at me@127.0.0.1:")
    assert "cannot be reached: " in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_an_address_that_is_none_is_refused_without_being_shown(folder: Path) -> None:
    with pytest.raises(
        MigrationError, match=r"^DESKBASE_DATABASE_URL is not an address that Postgres understands\."
    ):
        run("postgresql://me:hid%zzden@:x:y/desk", folder)


@pytest.fixture
def old_server() -> Iterator[str]:
    """Something that greets as PostgreSQL 14 does, since no such server can be installed here."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4) + body

    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(
                message(b"R", bytes(4))
                + message(b"S", b"server_version\x0014.2\x00")
                + message(b"S", b"client_encoding\x00UTF8\x00")
                + message(b"Z", b"I")
            )
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet)
        thread.start()
        yield f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/desk?sslmode=disable&gssencmode=disable"
        thread.join()


def test_a_server_that_is_too_old_is_refused(old_server: str, folder: Path) -> None:
    with pytest.raises(MigrationError, match=r"is PostgreSQL 14; Deskbase needs 15 or newer\.$"):
        run(old_server, folder)


def test_the_api_logs_in_as_authenticator_with_the_password_it_is_given(
    embedded: Embedded, folder: Path
) -> None:
    embedded.start()
    run(embedded.url(), folder)
    with connect(login_url(embedded.url(), "it is: a/secret")) as connection:
        assert connection.execute("select current_user::text").fetchone() == ("authenticator",)


def test_an_owner_who_may_not_change_authenticator_stays_its_own_login(
    embedded: Embedded, folder: Path
) -> None:
    embedded.start()
    run(embedded.url(), folder)
    with connect(embedded.url()) as connection:
        connection.execute("create role weak login password 'weak'")
    weak = embedded.url().replace(embedded.url().split("//")[1].split("@")[0], "weak:weak")
    assert login_url(weak, "a secret") == weak


def test_migrating_is_a_command_of_its_own(data_dir: Path) -> None:
    environment = {"DESKBASE_DATA_DIR": str(data_dir), "DESKBASE_DB_PORT": str(free_port())}
    for expected in ("Applied 1; it is up to date.", "The database is up to date."):
        done = subprocess.run(
            [sys.executable, "-m", "api.cli", "migrate"],
            check=True,
            cwd=data_dir,
            env=os.environ | environment | {"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1] == expected
        assert not (data_dir / "postgres" / "postmaster.pid").exists()
