"""One API server: the application on granian, as `deskbase up` starts it (`python -m api.serve`).

In charge of granian's options. The application is `api.app`'s; restarting a server that has died is
`api.supervisor`'s.
"""

import os
from typing import Any

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.log import LogLevels

from api.processes import die_with_parent
from api.settings import Settings

STOP_SECONDS = 3


def application() -> Any:
    """Build the application inside a worker process, which is to end with the server that started it."""
    from api.app import create_app  # the server above the workers needs none of it

    die_with_parent(os.getppid())
    return create_app(Settings.load())


def main() -> None:
    """Serve until SIGTERM; requests under way are finished."""
    settings = Settings.load()
    Granian(
        "api.serve:application",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        factory=True,
        workers=settings.workers,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
        log_level=LogLevels.warning,
        websockets=True,
    ).serve()


if __name__ == "__main__":
    main()
