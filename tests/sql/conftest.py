"""The actors of the world, each acting on the one stage of a test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.actors import LOGIN, OWNER, SERVICE, VISITOR, Acting, Organization, Stage, World, build_world
from tests.databases import Connection, Server
from tests.sql.auth import Office
from tests.sql.threads import run_at_once


@pytest.fixture(scope="session")
def world(server: Server, template: str) -> Iterator[World]:
    """Two organizations with everything in them; what a test changes is rolled back."""
    with server.database(template) as url:
        yield build_world(url)


@pytest.fixture
def own_world(database: str) -> World:
    """A world in a database of the test's own, for what has to be committed."""
    return build_world(database)


@pytest.fixture
def connect(database: str) -> Iterator[Callable[[], Connection]]:
    """Connect to that database as the service's login, in autocommit, as its pool does."""
    with ExitStack() as stack:

        def connect() -> Connection:
            connection = stack.enter_context(psycopg.connect(database, autocommit=True))
            connection.execute("set session authorization authenticator")
            return connection

        yield connect


@pytest.fixture
def at_once(connect: Callable[[], Connection]) -> Callable[..., list[Any]]:
    """Do things at the same time, each on such a connection of its own; return what they answered."""

    def run(*tasks: Callable[[Connection], Any]) -> list[Any]:
        answers: list[Any] = [None] * len(tasks)

        def task(number: int, connection: Connection) -> Callable[[], None]:
            def work() -> None:
                answers[number] = tasks[number](connection)

            return work

        run_at_once(*[task(number, connect()) for number in range(len(tasks))])
        return answers

    return run


@pytest.fixture
def stage(world: World) -> Iterator[Stage]:
    with world.stage() as stage:
        yield stage


@pytest.fixture
def north(world: World) -> Organization:
    """The organization that the actors belong to, unless they are strangers."""
    return world.north


@pytest.fixture
def south(world: World) -> Organization:
    return world.south


@pytest.fixture
def owner(stage: Stage) -> Acting:
    """The owner of the database, who sees everything."""
    return Acting(OWNER, stage)


@pytest.fixture
def login(stage: Stage) -> Acting:
    """The service's own login, before it takes a role."""
    return Acting(LOGIN, stage)


@pytest.fixture
def office(stage: Stage, login: Acting, owner: Acting) -> Office:
    """The auth service, as the service calls it."""
    return Office(stage, login, owner)


@pytest.fixture
def visitor(stage: Stage) -> Acting:
    """Somebody without a credential."""
    return Acting(VISITOR, stage)


@pytest.fixture
def service(stage: Stage) -> Acting:
    """The holder of the service key."""
    return Acting(SERVICE, stage)


@pytest.fixture
def admin(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["admin"], stage)


@pytest.fixture
def team_lead(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["team_lead"], stage)


@pytest.fixture
def senior_agent(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["senior_agent"], stage)


@pytest.fixture
def agent(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["agent"], stage)


@pytest.fixture
def customer(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["customer"], stage)


@pytest.fixture
def other_customer(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["other_customer"], stage)


@pytest.fixture
def token(north: Organization, stage: Stage) -> Acting:
    """An integration of the organization, with every scope."""
    return Acting(north.actors["token"], stage)


@pytest.fixture
def other_token(north: Organization, stage: Stage) -> Acting:
    return Acting(north.actors["other_token"], stage)


@pytest.fixture
def stranger(south: Organization, stage: Stage) -> Acting:
    """An agent of the other organization."""
    return Acting(south.actors["agent"], stage)


@pytest.fixture
def foreign_admin(south: Organization, stage: Stage) -> Acting:
    return Acting(south.actors["admin"], stage)


@pytest.fixture
def foreign_token(south: Organization, stage: Stage) -> Acting:
    return Acting(south.actors["token"], stage)
