"""Where the history leads, as pg_dump sees it: another judge than the tool that writes migrations."""

import difflib
import subprocess

from api import migrate
from api.cluster import program_folder
from api.migrations import sources
from tests.databases import Server
from tests.supabase.conftest import CommandLine


def schema(url: str) -> list[str]:
    """Return a database's schema, without the dated partitions and the record of what was applied."""
    dump = subprocess.run(
        [
            program_folder(18) / "pg_dump",
            "--schema-only",
            "--exclude-table=private.events_2*",
            "--exclude-schema=supabase_migrations",
            url,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    # The key that psql is restricted with is another one each time.
    return [line for line in dump.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def difference(one: str, other: str) -> list[str]:
    """Return the lines in which two databases' schemas differ."""
    return list(difflib.unified_diff(schema(one), schema(other), one, other, lineterm=""))


def bootstrapped(url: str) -> None:
    """Give an empty database what a plain Postgres lacks of Supabase."""
    with migrate.connect(url) as connection:
        migrate.run_file(connection, migrate.BOOTSTRAP)


def with_services(url: str) -> None:
    """Give a database that has the schema what stands on it where there is no Supabase."""
    with migrate.connect(url) as connection:
        migrate.run_file(connection, migrate.AUTH_SERVICE)
        migrate.run_file(connection, migrate.REALTIME_SERVICE)
        connection.execute("select realtime_service.maintain()")


def test_history_and_sql_lead_to_the_same_schema(server: Server, template: str) -> None:
    with server.database() as url:
        with server.alone():
            bootstrapped(url)
            with migrate.connect(url) as connection:
                for path in sources():
                    migrate.run_file(connection, path)
            with_services(url)
        assert difference(server.url_of(template), url) == []


def test_the_command_line_applies_the_history_as_deskbase_does(
    server: Server, template: str, supabase: CommandLine
) -> None:
    versions = [migration.version for migration in migrate.read_migrations()]
    with server.database() as url:
        with server.alone():
            bootstrapped(url)
            answer = supabase.answer("migration", "list", f"--remote={url}")
            assert [(each["local"], each["remote"]) for each in answer["migrations"]] == [
                (version, "") for version in versions
            ]
            assert len(supabase.answer("migration", "up", f"--remote={url}", "--yes")["applied"]) == len(
                versions
            )
            with_services(url)
        assert difference(server.url_of(template), url) == []
        assert migrate.migrate(url, report=lambda _: None) == []


def test_migrating_again_changes_nothing(server: Server, template: str, database: str) -> None:
    with server.alone():
        assert migrate.migrate(database, report=lambda _: None) == []
    assert difference(server.url_of(template), database) == []


def test_the_comparison_sees_what_a_migration_might_forget(
    server: Server, template: str, database: str
) -> None:
    forgotten = {
        "grant delete on public.tags to anon": "+GRANT DELETE ON TABLE public.tags TO anon;",
        "alter table public.tags no force row level security": (
            "-ALTER TABLE ONLY public.tags FORCE ROW LEVEL SECURITY;"
        ),
        "alter function private.enter(jsonb) reset search_path": "-    SET search_path TO ''",
        "alter publication supabase_realtime add table public.tags": (
            "+ALTER PUBLICATION supabase_realtime ADD TABLE ONLY public.tags;"
        ),
        "comment on table public.tags is null": "-COMMENT ON TABLE public.tags IS",
    }
    with migrate.connect(database) as connection:
        for change in forgotten:
            connection.execute(change.encode())
    found = difference(server.url_of(template), database)
    for line in forgotten.values():
        assert any(each.startswith(line) for each in found), line
