"""Fixtures for every test: one running Deskbase a worker, and more of them where a test needs its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.databases import Server, configured_server, migrated, running_desk
from tests.desk import Desk


@pytest.fixture(scope="session")
def chosen_server() -> Iterator[Server | None]:
    """The Postgres that TEST_DATABASE_URL chooses; None is each desk's own embedded one."""
    with configured_server() as server:
        yield server


@pytest.fixture(scope="session")
def desk(chosen_server: Server | None) -> Iterator[Desk]:
    """A running Deskbase, shared by the tests of this worker."""
    with running_desk(chosen_server) as desk:
        yield desk


@pytest.fixture
def another_desk(chosen_server: Server | None) -> Iterator[Callable[..., Desk]]:
    """Start a Deskbase of the test's own: `another_desk(DESKBASE_WORKERS="2")`."""
    with ExitStack() as stack:

        def start(*, until_ready: bool = True, **settings: str) -> Desk:
            return stack.enter_context(running_desk(chosen_server, until_ready=until_ready, **settings))

        yield start


@pytest.fixture(scope="session")
def server(chosen_server: Server | None, desk: Desk) -> Server:
    """The Postgres on which tests may make databases of their own."""
    return chosen_server or Server(desk.db_url)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database with the whole schema and no rows, to be copied."""
    with migrated(server) as name:
        yield name


@pytest.fixture
def database(server: Server, template: str) -> Iterator[str]:
    """The address of a database of the test's own, with the whole schema and no rows."""
    with server.database(template) as url:
        yield url
