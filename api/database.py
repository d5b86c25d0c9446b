"""The database of this installation: the embedded one, or the one that DESKBASE_DATABASE_URL names.

In charge of the owner's address for commands. The API has its own login and pool in `api.db`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from api.embedded import Embedded
from api.failures import Failure
from api.instance import hold, running
from api.keys import Secrets, load_secrets
from api.settings import Settings


def embedded_server(settings: Settings, secrets: Secrets) -> Embedded:
    """Return the embedded server of the data folder, running or not."""
    return Embedded(
        settings.data_dir,
        secrets.postgres_password,
        port=settings.db_port,
        major=settings.embedded_postgres,
    )


@contextmanager
def owner_database(settings: Settings, secrets: Secrets | None = None) -> Iterator[str]:
    """Give the owner's address; where nothing runs, the embedded server runs for as long as it is used.

    Without `secrets` a data folder that was never used is refused. Raises Failure.
    """
    if settings.database_url:
        yield settings.database_url
        return
    known = secrets or load_secrets(settings.data_dir)
    if known is None:
        raise Failure(f"{settings.data_dir} holds no Deskbase yet; start it with `deskbase up`.")
    server = embedded_server(settings, known)
    if running(settings.data_dir):
        yield server.socket_url()
        return
    with hold(settings.data_dir, ""):
        try:
            server.start()
            yield server.socket_url()
        finally:
            server.stop()
