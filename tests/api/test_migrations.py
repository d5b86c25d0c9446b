"""Writing migrations: what `make migration` makes of `sql/`."""

import shutil
from pathlib import Path

import pytest

from api import migrations
from api.embedded import Embedded
from api.migrate import MIGRATIONS
from api.migrations import MigrationsError


def test_the_initial_migration_is_what_sql_holds_now() -> None:
    assert (MIGRATIONS / migrations.INITIAL).read_text() == migrations.initial()


def test_the_initial_migration_is_no_longer_written_once_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", tmp_path)
    assert migrations.write_initial().read_text() == migrations.initial()
    (tmp_path / "20270101000000_next.sql").touch()
    with pytest.raises(MigrationsError, match=r"^There are migrations after the first"):
        migrations.write_initial()


def test_a_change_in_sql_becomes_the_next_migration(
    embedded: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.start()
    output = tmp_path / "next.sql"
    sources = tmp_path / "sql"
    shutil.copytree(migrations.SOURCES, sources)
    monkeypatch.setattr(migrations, "SOURCES", sources)
    (sources / "99_more.sql").write_text("create table private.more (id integer primary key);")
    migrations.compare(embedded.url(), output)
    assert 'CREATE TABLE "private"."more"' in output.read_text()


def test_the_history_leads_to_what_sql_holds(embedded: Embedded, tmp_path: Path) -> None:
    embedded.start()
    output = tmp_path / "next.sql"
    migrations.compare(embedded.url(), output)
    assert not output.exists() or not output.read_text().strip()
