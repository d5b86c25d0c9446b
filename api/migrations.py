"""`make migration`: writing the migration that brings a database to the current state of `sql/`.

In charge of the files in `supabase/migrations`. Until the first release there is one, which is all of `sql/`
and is written anew; with a name a further one is written, by comparing two scratch databases with the
Supabase command line: one made by the migrations so far, one by `sql/`. Applying them is `api.migrate`'s.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from psycopg import sql

from api.embedded import Embedded
from api.failures import Failure
from api.migrate import (
    AUTH_SERVICE,
    BOOTSTRAP,
    MIGRATIONS,
    REALTIME_SERVICE,
    connect,
    maintain,
    migrate,
    run_file,
)

PROJECT = MIGRATIONS.parent.parent
SOURCES = PROJECT / "sql"
SUPABASE = PROJECT / "node_modules" / ".bin" / "supabase"
INITIAL = "20261124000000_initial.sql"
HEADER = (
    "-- The whole schema, generated from sql/ by `make migration`; "
    "until the first release it is regenerated, not added to.\n"
)


class MigrationsError(Failure):
    """The migration cannot be written."""


def sources() -> list[Path]:
    """Return the declarative files in the order in which they are applied."""
    return sorted(SOURCES.glob("*.sql"))


def initial() -> str:
    """Return the initial migration: all of `sql/`, one after another."""
    return HEADER + "".join(f"\n-- sql/{path.name}\n{path.read_text()}" for path in sources())


def write_initial() -> Path:
    """Write the initial migration anew. Raises MigrationsError once there are others."""
    if others := [path.name for path in MIGRATIONS.glob("*.sql") if path.name != INITIAL]:
        raise MigrationsError(f"There are migrations after the first ({others[0]}); give this one a NAME.")
    path = MIGRATIONS / INITIAL
    path.parent.mkdir(exist_ok=True)
    path.write_text(initial())
    return path


def write_next(name: str) -> Path | None:
    """Write the migration from the history so far to `sql/`; none is needed where they agree."""
    path = MIGRATIONS / f"{datetime.now(UTC):%Y%m%d%H%M%S}_{name}.sql"
    with tempfile.TemporaryDirectory(prefix="deskbase-") as folder:
        Path(folder).chmod(0o711)
        server = Embedded(Path(folder), "scratch")
        try:
            server.start()
            compare(server.url(), path)
        finally:
            server.stop()
    if path.exists() and path.read_text().strip():
        return path
    path.unlink(missing_ok=True)
    return None


def compare(server_url: str, output: Path) -> None:
    """Make both states as scratch databases of the server and write what leads from one to the other."""
    with connect(server_url) as connection:
        for database in ("base", "want"):
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    base, want = (
        urlsplit(server_url)._replace(path=f"/{database}").geturl() for database in ("base", "want")
    )
    migrate(base)
    with connect(want) as connection:
        run_file(connection, BOOTSTRAP)
    with connect(want) as connection:
        for path in sources():
            run_file(connection, path)
        for path in (AUTH_SERVICE, REALTIME_SERVICE):
            run_file(connection, path)
    maintain(want)  # as `migrate` does, so that both have the same partitions
    done = subprocess.run(
        [SUPABASE, "db", "diff", "--from", base, "--to", want, "-o", output],
        check=False,
        cwd=PROJECT,
        env=os.environ | {"SUPABASE_TELEMETRY_DISABLED": "1", "SUPABASE_NO_UPDATE_NOTIFIER": "1"},
    )
    if done.returncode:
        raise MigrationsError("`supabase db diff` failed; its messages are above.")


def main() -> int:
    """Write the migration that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m api.migrations", description=__doc__)
    parser.add_argument("name", nargs="?", help="what it does, in lower_case_words; without: the initial one")
    name = parser.parse_args().name
    try:
        path = write_next(name) if name else write_initial()
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    print(
        f"Wrote {path.relative_to(PROJECT)}; read it before you commit it."
        if path
        else "Nothing has changed."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
