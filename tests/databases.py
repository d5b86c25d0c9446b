"""The database servers that tests run on, and databases of a test's own.

One setting chooses: TEST_DATABASE_URL empty is the embedded Postgres of each worker's desk; an address is
that server, on which databases are made and dropped again; `docker` is Supabase's Postgres in a container.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from api import migrate
from tests.desk import Desk, unique

SETTING = "TEST_DATABASE_URL"
SUPABASE_IMAGE = "supabase/postgres:15.8.1.085"
# Roles belong to the whole server, so only one worker at a time may set databases up on it.
LOCK = 5_317_624_918_777
Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Server:
    """A Postgres on which databases can be made and dropped."""

    url: str

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Connect to its maintenance database as a superuser."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            yield connection

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other worker sets a database up on this server."""
        with self.connection() as connection:
            connection.execute("select pg_advisory_lock(%s)", [LOCK])
            yield

    @contextlib.contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """Make a database, empty or a copy of another; give its address; drop it."""
        name = unique("test").replace("-", "_")
        statement = sql.SQL("create database {} template {}").format(
            sql.Identifier(name), sql.Identifier(template or "template0")
        )
        with self.connection() as connection:
            connection.execute(statement)
        try:
            yield self.url_of(name)
        finally:
            with self.connection() as connection:
                connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def url_of(self, database: str) -> str:
        """Return the address of one of its databases."""
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()


@contextlib.contextmanager
def migrated(server: Server) -> Iterator[str]:
    """Make a database with the whole schema; give its name, for others to be copies of it."""
    with server.database() as url:
        with server.alone():
            migrate.migrate(url, report=lambda _: None)
        yield name_of(url)


def name_of(url: str) -> str:
    """Return the database that an address names."""
    return urlsplit(url).path.removeprefix("/")


@contextlib.contextmanager
def configured_server() -> Iterator[Server | None]:
    """Give the server that TEST_DATABASE_URL chooses; None is the embedded one."""
    setting = os.environ.get(SETTING, "")
    if setting == "docker":
        with _supabase_container() as url:
            yield Server(url)
    else:
        yield Server(setting) if setting else None


@contextlib.contextmanager
def running_desk(server: Server | None, *, until_ready: bool = True, **settings: str) -> Iterator[Desk]:
    """Run a desk, on a database of its own where a server is given; it has to stop well at the end."""
    with contextlib.ExitStack() as stack:
        if server:
            # `authenticator` is one role for the whole server, and its password follows from the secret.
            secret = hashlib.sha256(server.url.encode()).hexdigest()
            url = stack.enter_context(server.database())
            settings = {"DESKBASE_DATABASE_URL": url, "DESKBASE_JWT_SECRET": secret, **settings}
        desk = Desk(settings)
        stack.callback(desk.remove)
        stack.callback(desk.destroy)
        with server.alone() if server else contextlib.nullcontext():
            desk.start(until_ready=until_ready)
        yield desk
        desk.stop()


@contextlib.contextmanager
def _supabase_container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    ready = LogMessageWaitStrategy("database system is ready to accept connections", times=2)
    container = (
        DockerContainer(SUPABASE_IMAGE)
        .with_env("POSTGRES_PASSWORD", "postgres")
        .with_exposed_ports(5432)
        .waiting_for(ready)
    )
    with container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
        yield f"postgresql://supabase_admin:postgres@{host}:{port}/postgres?sslmode=disable"
