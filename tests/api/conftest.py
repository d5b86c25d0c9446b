"""What the tests of `api/` share beside the desks of everyone: data folders and empty databases."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.embedded import Embedded
from tests.databases import Server
from tests.desk import free_port

PASSWORD = "a password / with: signs"


@contextlib.contextmanager
def temporary_data_dir() -> Iterator[Path]:
    """Give a folder outside pytest's own, which is closed to the account that runs Postgres under root."""
    base = Path(tempfile.mkdtemp(prefix="desk-"))
    base.chmod(0o711)
    folder = base / "data"
    folder.mkdir(mode=0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(base)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with temporary_data_dir() as folder:
        yield folder


@pytest.fixture
def embedded(data_dir: Path) -> Iterator[Embedded]:
    """An embedded server that is not running yet and will not be running any more."""
    server = Embedded(data_dir, PASSWORD, port=free_port())
    yield server
    server.stop()


@pytest.fixture
def empty_database(server: Server) -> Iterator[str]:
    """The owner's address of a database with nothing in it."""
    with server.database() as url:
        yield url
