"""The desks that are broken here: one as everybody runs it, and two that share an outside database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import httpx
import pytest

from tests.databases import running_desk
from tests.desk import Desk, wait_until
from tests.faults.clients import get
from tests.faults.outside import Outside

USER_LIMIT, ANONYMOUS_LIMIT = 20, 10
SHARED_SECRET = "two desks on one database sign with one secret"


@pytest.fixture(scope="session")
def single_desk() -> Iterator[Desk]:
    """The processes behind `home`, in whatever state the last test has left them."""
    with running_desk(None) as desk:
        yield desk


@pytest.fixture
def home(single_desk: Desk) -> Desk:
    """A desk with one worker and its embedded Postgres, to be broken."""
    whole_again(single_desk)
    return single_desk


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    """A Postgres beside all desks, which runs whenever a test begins."""
    server = Outside()
    with ExitStack() as stack:
        stack.callback(server.remove)
        server.start()
        yield server


@pytest.fixture(scope="session")
def two_desks(outside: Outside) -> Iterator[tuple[Desk, Desk]]:
    """The processes behind `pair`, in whatever state the last test has left them."""
    limits = f'{{"rest": {{"user": "{USER_LIMIT}/hour", "anonymous": "{ANONYMOUS_LIMIT}/hour"}}}}'

    def run() -> AbstractContextManager[Desk]:
        return running_desk(
            None,
            DESKBASE_DATABASE_URL=outside.url,
            DESKBASE_JWT_SECRET=SHARED_SECRET,
            DESKBASE_LIMITS=limits,
            DESKBASE_WORKERS="3",
        )

    with run() as one, run() as other:
        yield one, other


@pytest.fixture
def pair(two_desks: tuple[Desk, Desk], outside: Outside) -> tuple[Desk, Desk]:
    """Two desks on the outside database, with three workers each."""
    outside.bring_back()
    for desk in two_desks:
        whole_again(desk)
    return two_desks


@pytest.fixture
def far(pair: tuple[Desk, Desk]) -> Desk:
    """A desk with three workers on the outside database."""
    return pair[0]


def whole_again(desk: Desk) -> None:
    """Make good what the test before has broken."""
    if desk.process is None or desk.process.poll() is not None:
        desk.start()
    desk._disconnect()
    wait_until(partial(_has_database, desk), 10, "the desk has its database again")


def _has_database(desk: Desk) -> bool:
    try:
        return bool(get(f"{desk.url}/ready", timeout=5).json()["database"])
    except httpx.TransportError:
        return False
