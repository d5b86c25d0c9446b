"""`deskbase up`: the processes of one installation, started in order, watched, and stopped together.

In charge of that order, of restarting what dies, of the hourly housekeeping and of telling the person at the
console. How each part is run is its own module's business.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from api import migrate
from api.database import embedded_server
from api.embedded import Embedded
from api.failures import Failure
from api.instance import Hold, Running, hold
from api.keys import Secrets, authenticator_password, load_or_create_secrets, signing_key
from api.passwords import HASHER
from api.postgrest import HOW_TO_GET_IT, Postgrest, find_postgrest, kept_ports
from api.processes import Child, port_is_free, spawn
from api.settings import Settings

API, WORKER, POSTGREST = "The API", "The worker", "PostgREST"
API_START_SECONDS = 60
POSTGREST_START_SECONDS = 15
PORT_WAIT_SECONDS = 10
# After the signal, which all get at once; with Postgres' five together less than the ten that are promised.
STOP_SECONDS = {API: 4.0, WORKER: 3.0, POSTGREST: 0.5}
LOOK_SECONDS = 0.2
ASKED_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HOUSEKEEPING_SECONDS = 3600
HAS_FIRST_ADMIN = "select to_regprocedure('private.create_first_admin(text, text, text, text)') is not null"
CREATE_FIRST_ADMIN = "select private.create_first_admin(%s, %s, %s, %s)"


class UpError(Failure):
    """Deskbase cannot be started."""


def say(text: str) -> None:
    """Tell the person at the console, if there still is one."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def up(settings: Settings) -> None:
    """Run everything until SIGINT or SIGTERM. Raises Failure if it cannot be started."""
    program = find_postgrest(settings.postgrest_bin)
    with hold(settings.data_dir, settings.api_url) as held, _stopped_by_signals():
        _require_port(settings, held)
        desk = Desk(settings, load_or_create_secrets(settings.data_dir), program)
        try:
            desk.start(held)
            desk.watch()
        except KeyboardInterrupt:
            _ignore_signals()
            say("Stopping.")
            raise
        finally:
            _ignore_signals()
            desk.stop()


class Desk:
    """The processes of one installation."""

    def __init__(self, settings: Settings, secrets: Secrets, postgrest_program: Path | None) -> None:
        self._settings = settings
        self._secrets = secrets
        self._jwt_secret = settings.jwt_secret or secrets.jwt_secret
        self._signing_key = signing_key(settings.jwt_signing_key, settings.data_dir)
        self._program = postgrest_program
        self._embedded: Embedded | None = None
        self._owner_url = settings.database_url
        self._login_url = settings.authenticator_url
        self._postgrest: Postgrest | None = None
        self._children: dict[str, Child] = {}
        self._database_due = 0.0
        self._housekeeping_due = time.monotonic() + HOUSEKEEPING_SECONDS

    def start(self, held: Hold) -> None:
        """Start all of it, in the order in which the parts need each other."""
        settings = self._settings
        if not settings.database_url:
            self._start_embedded()
        migrate.migrate(self._owner_url, report=say)
        self._login_url = self._login_url or self._work_out_login()
        self._create_first_admin()
        self._start_postgrest()
        self._start_api()
        self._start_worker()
        held.publish(
            Running(
                pid=os.getpid(),
                api_url=settings.api_url,
                postgrest_url=self._postgrest.url if self._postgrest else "",
                ready=True,
            )
        )
        say(f"Deskbase is ready at {settings.api_url}")

    def watch(self) -> None:
        """Keep everything running, until a signal interrupts."""
        while True:
            self._check_database()
            for child in self._children.values():
                child.check(say)
            self._keep_house()
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Stop everything: what serves first, the database last."""
        begun = time.monotonic()
        for child in self._children.values():
            child.ask_to_stop()
        for name, seconds in STOP_SECONDS.items():
            if name in self._children:
                self._children[name].stop(begun + seconds - time.monotonic())
        if self._embedded:
            self._embedded.stop()

    def _start_embedded(self) -> None:
        self._embedded = embedded_server(self._settings, self._secrets)
        self._embedded.start()
        self._owner_url = self._embedded.socket_url()
        say(f"PostgreSQL {self._embedded.major} runs on port {self._embedded.port}.")

    def _work_out_login(self) -> str:
        password = authenticator_password(self._jwt_secret)
        if self._embedded is None:
            return migrate.login_url(self._owner_url, password)
        with migrate.connect(self._owner_url) as connection:
            migrate.set_login_password(connection, password)
        return self._embedded.socket_url("authenticator")

    def _create_first_admin(self) -> None:
        settings = self._settings
        password = settings.admin_password or self._secrets.admin_password
        with migrate.connect(self._owner_url) as connection:
            if not migrate.value(connection, HAS_FIRST_ADMIN):
                return
            row = (settings.admin_email, HASHER.hash(password), "Administrator", "My organization")
            made = connection.execute(CREATE_FIRST_ADMIN, row).fetchone()
        if made and made[0]:
            shown = "from DESKBASE_ADMIN_PASSWORD" if settings.admin_password else password
            say(f"The first admin is {settings.admin_email}, password {shown}")

    def _start_postgrest(self) -> None:
        if self._program is None:
            say(HOW_TO_GET_IT)
            return
        port, admin_port = kept_ports(self._settings.data_dir)
        postgrest = Postgrest(
            program=self._program,
            database_url=self._login_url,
            jwt_secret=self._jwt_secret,
            signing_key=self._signing_key,
            public_url=self._settings.public_url,
            port=port,
            admin_port=admin_port,
        )
        log = self._settings.data_dir / "logs" / "postgrest.log"
        self._postgrest = postgrest
        self._add(Child(POSTGREST, lambda: postgrest.spawn(log)))

    def _start_api(self) -> None:
        environment = self._service_environment()
        api = Child(API, lambda: spawn([sys.executable, "-m", "api.serve"], env=environment))
        self._add(api)
        if not _wait(lambda: not api.running or _answers(self._settings.api_url), API_START_SECONDS):
            raise UpError(f"The API did not answer within {API_START_SECONDS} seconds.")
        if not api.running:
            raise UpError("The API ended while it was starting; its messages are above.")
        postgrest = self._postgrest
        if postgrest and not _wait(postgrest.is_ready, POSTGREST_START_SECONDS):
            say(f"PostgREST is not ready yet; see {self._settings.data_dir / 'logs' / 'postgrest.log'}.")

    def _start_worker(self) -> None:
        environment = self._service_environment()
        self._add(Child(WORKER, lambda: spawn([sys.executable, "-m", "api.worker"], env=environment)))

    def _service_environment(self) -> dict[str, str]:
        """Return what our own programs read their settings from: the environment and what was worked out."""
        inherited = {name: text for name, text in os.environ.items() if name != "DESKBASE_ADMIN_PASSWORD"}
        return inherited | {
            "DESKBASE_DATA_DIR": str(self._settings.data_dir),
            "DESKBASE_JWT_SECRET": self._jwt_secret,
            "DESKBASE_JWT_SIGNING_KEY": self._signing_key.private_jwk if self._signing_key else "",
            "DESKBASE_AUTHENTICATOR_URL": self._login_url,
            "DESKBASE_POSTGREST_URL": self._postgrest.url if self._postgrest else "",
        }

    def _add(self, child: Child) -> None:
        self._children[child.name] = child
        child.start()

    def _check_database(self) -> None:
        embedded = self._embedded
        if embedded is None or embedded.running or time.monotonic() < self._database_due:
            return
        say("PostgreSQL ended unexpectedly; starting it again.")
        self._database_due = time.monotonic() + 1
        try:
            embedded.start()
        except Failure as failure:
            say(str(failure))

    def _keep_house(self) -> None:
        if time.monotonic() < self._housekeeping_due:
            return
        self._housekeeping_due = time.monotonic() + HOUSEKEEPING_SECONDS
        try:
            migrate.maintain(self._owner_url)
        except Failure as failure:
            say(f"The hourly housekeeping failed and is tried again in an hour. {failure}")


def _require_port(settings: Settings, held: Hold) -> None:
    """Refuse a taken port; after an end that was not orderly its last holder is given time to let go."""
    seconds = PORT_WAIT_SECONDS if held.ended_badly else 0
    if not _wait(lambda: port_is_free(settings.port, settings.host), seconds):
        raise UpError(
            f"Port {settings.port} on {settings.host} is taken by another program. "
            "End that program or set DESKBASE_PORT to another port. Nothing was started."
        )


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let the signals that ask a program to end interrupt it, as Ctrl-C does."""
    for number in ASKED_TO_STOP:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped.")


def _ignore_signals() -> None:
    """Let nothing interrupt the stopping, which ends in time by itself."""
    for number in ASKED_TO_STOP:
        signal.signal(number, signal.SIG_IGN)


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether the condition came true within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True
