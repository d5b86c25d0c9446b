"""The command `deskbase`: its words, its output and its exit codes.

In charge of the command line alone; the work is in the module of that name. A failure is one sentence
on stderr and exit code 1, a wrong use of the command is exit code 2.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from api import demo, migrate, status, supervisor, tokens
from api.database import owner_database
from api.failures import Failure
from api.instance import make_data_dir, running
from api.keys import authenticator_password, load_or_create_secrets, load_secrets
from api.processes import die_with_parent, free_ports, port_is_free
from api.settings import Settings

Command = Callable[[Settings, argparse.Namespace], int]
LARGEST_NUMBER = 1_000_000_000
FORMATS = {"env": status.as_env, "json": status.as_json, "text": status.as_text}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = _parser().parse_args(arguments)
    command: Command = given.command
    try:
        return command(Settings.load(), given)
    except Failure as failure:
        print(f"deskbase: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _up(settings: Settings, given: argparse.Namespace) -> int:
    if given.end_with_parent:
        die_with_parent(os.getppid())
    supervisor.up(settings)
    return 0


def _migrate(settings: Settings, _: argparse.Namespace) -> int:
    make_data_dir(settings.data_dir)
    secrets = load_or_create_secrets(settings.data_dir)
    with owner_database(settings, secrets) as url:
        applied = migrate.migrate(url)
        migrate.login_url(url, authenticator_password(settings.jwt_secret or secrets.jwt_secret))
    print("The database is up to date." if not applied else f"Applied {len(applied)}; it is up to date.")
    return 0


def _status(settings: Settings, given: argparse.Namespace) -> int:
    values, problem = status.read_status(settings)
    print(FORMATS[given.output](values))
    if problem:
        raise Failure(problem)
    return 0


def _demo(settings: Settings, given: argparse.Namespace) -> int:
    demo.load(settings, given.password)
    return 0


def _worker(settings: Settings, _: argparse.Namespace) -> int:
    from api import worker  # which no other command has to wait for

    with _beside(settings, "worker works") as joined:
        worker.run(joined)
    return 0


def _relay(settings: Settings, given: argparse.Namespace) -> int:
    from api import serve  # which no other command has to wait for

    found = running(settings.data_dir)
    port = given.port or next(free_ports(settings.port + 1))
    if not port_is_free(port, settings.host):
        raise Failure(f"Port {port} on {settings.host} is taken by another program; choose another --port.")
    with _beside(settings, "relay listens") as joined:
        # The server's processes load their settings from the environment.
        os.environ |= {
            "DESKBASE_DATA_DIR": str(joined.data_dir),
            "DESKBASE_PORT": str(port),
            "DESKBASE_PUBLIC_URL": joined.public_url,
            "DESKBASE_JWT_SECRET": joined.jwt_secret,
            "DESKBASE_AUTHENTICATOR_URL": joined.authenticator_url,
            "DESKBASE_POSTGREST_URL": joined.postgrest_url or (found.postgrest_url if found else ""),
        }
        print(f"The relay listens at {Settings.load().api_url}", flush=True)
        serve.serve("api.serve:application", Settings.load())
    return 0


@contextlib.contextmanager
def _beside(settings: Settings, what: str) -> Iterator[Settings]:
    """Give the settings of a process that works beside a desk, wherever that runs. Raises Failure."""
    secrets = load_secrets(settings.data_dir)
    jwt_secret = settings.jwt_secret or (secrets.jwt_secret if secrets else "")
    if settings.database_url and not jwt_secret:
        raise Failure(f"DESKBASE_JWT_SECRET must be that of the desk for which this {what}.")
    with owner_database(settings, secrets) as url:
        login = migrate.login_url(url, authenticator_password(jwt_secret))
        yield dataclasses.replace(settings, jwt_secret=jwt_secret, authenticator_url=login)


def _create_token(settings: Settings, given: argparse.Namespace) -> int:
    expires_at = datetime.now(UTC) + timedelta(days=given.expires_days) if given.expires_days else None
    with owner_database(settings) as url, migrate.connect(url) as connection:
        token = tokens.create_token(
            connection,
            tokens.find_organization(connection, given.organization),
            name=given.name,
            rate_limit=given.rate_limit,
            expires_at=expires_at,
            scopes=given.scope,
        )
    print(token)
    return 0


def _rotate_token(settings: Settings, given: argparse.Namespace) -> int:
    with owner_database(settings) as url, migrate.connect(url) as connection:
        organization = tokens.find_organization(connection, given.organization)
        print(tokens.rotate_token(connection, organization, given.token, given.grace_seconds))
    return 0


def _change_token(settings: Settings, given: argparse.Namespace) -> int:
    with owner_database(settings) as url, migrate.connect(url) as connection:
        organization = tokens.find_organization(connection, given.organization)
        tokens.change_token(connection, organization, given.token, given.change)
    print(f"Token {given.token} is now {given.change}d.")
    return 0


def _list_tokens(settings: Settings, given: argparse.Namespace) -> int:
    with owner_database(settings) as url, migrate.connect(url) as connection:
        found = tokens.list_tokens(connection, tokens.find_organization(connection, given.organization))
    heading = ("ID", "NAME", "PREFIX", "STATUS", "LIMIT/HOUR", "EXPIRES", "LAST USED", "SCOPES")
    rows = [heading] + [
        (
            str(token.id),
            token.name,
            token.prefix,
            token.status,
            str(token.rate_limit),
            token.expires_at or "never",
            token.last_used_at or "never",
            " ".join(token.scopes),
        )
        for token in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deskbase", description="A support desk that is a Postgres database."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    started = _command(commands, "up", _up, "start everything and keep it running until Ctrl-C")
    started.add_argument(
        "--end-with-parent", action="store_true", help="end, too, when the caller does (Linux)"
    )
    _command(commands, "migrate", _migrate, "bring the database up to date")
    shown = _command(commands, "status", _status, "show addresses and keys")
    shown.add_argument("-o", "--output", choices=sorted(FORMATS), default="text", help="how to write them")
    loaded = _command(commands, "demo", _demo, "load a believable organization, once")
    loaded.add_argument("--password", metavar="TEXT", help="everyone's password (one is made and printed)")
    _command(commands, "worker", _worker, "send mail and the like, beside what a running desk does itself")
    relay = _command(commands, "relay", _relay, "serve sockets, beside what a running desk serves itself")
    relay.add_argument("--port", type=_positive, metavar="N", help="where (the next free one)")
    group = commands.add_parser(
        "token", help="manage integration tokens", description="Manage integration tokens."
    )
    _token_commands(group.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _token_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    create = _command(commands, "create", _create_token, "make a token and print it, this once")
    create.add_argument("--name", required=True, help="what it is for")
    create.add_argument("--rate-limit", type=_positive, metavar="N", help="requests an hour (1000)")
    create.add_argument("--expires-days", type=_positive, metavar="N", help="days until it expires (never)")
    create.add_argument(
        "--scope", action="append", metavar="S", help="what it may do, repeatable (everything)"
    )
    listing = _command(commands, "list", _list_tokens, "list the tokens")
    rotate = _command(commands, "rotate", _rotate_token, "give a token a new secret and print it, this once")
    rotate.add_argument(
        "--grace-seconds",
        type=_natural,
        default=0,
        metavar="N",
        help="how long the old one goes on working (0)",
    )
    changes = [rotate]
    for change, text in (
        ("disable", "switch a token off"),
        ("enable", "switch a token on again"),
        ("revoke", "end a token for good"),
    ):
        changes.append(_command(commands, change, _change_token, text))
        changes[-1].set_defaults(change=change)
    for command in changes:
        command.add_argument("token", metavar="NAME_OR_ID")
    for command in (create, listing, *changes):
        command.add_argument("--organization", metavar="ID", help="whose token (the first organization's)")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=command)
    return parser


def _positive(text: str) -> int:
    if (number := _natural(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return number


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > LARGEST_NUMBER:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number up to {LARGEST_NUMBER}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
