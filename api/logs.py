"""Logs: JSON lines on standard error, one per event worth a line.

In charge of the closed list of events and of how a line looks. Requests are counted (`api.metrics`), not
logged. No line carries a secret, a token, a body, a query string or a row: callers pass ids, counts, states
and names of code.
"""

import logging
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog


class Event(StrEnum):
    """Everything that is logged while the service runs."""

    STARTED = "service started"
    STOPPED = "service stopped"
    DATABASE_UP = "database up"
    DATABASE_LOST = "database lost"
    STATEMENT_AT_FAULT = "statement at fault"
    REQUEST_FAILED = "request failed"
    USAGE_DROPPED = "usage rows dropped"
    USAGE_REFUSED = "usage rows refused"
    POSTGREST_LOST = "postgrest lost"
    ISSUER_LOST = "issuer lost"
    WORKER_STARTED = "worker started"
    WORKER_STOPPED = "worker stopped"
    QUEUE_AT_FAULT = "queue at fault"
    MAIL_SENT = "mail sent"
    MAIL_DROPPED = "mail dropped"
    MAIL_FAILED = "mail failed"
    MAIL_AT_FAULT = "mail at fault"
    BELL_HEARD = "bell heard"
    BELL_LOST = "bell lost"
    RENDERING_AT_FAULT = "rendering at fault"
    RELAY_AT_FAULT = "relay at fault"
    SOCKET_FAILED = "socket failed"
    PROCESS_LOST = "process lost"
    SERVER_AT_FAULT = "server at fault"


_SERVER = ("uvicorn.error", "asyncio")

_log = structlog.get_logger("deskbase")


def configure() -> None:
    """Send every line to standard error as JSON, those on errors included that only the server sees."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("event"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    for name in _SERVER:
        logging.getLogger(name).handlers = [_Failures()]


def info(event: Event, **facts: object) -> None:
    """Log what an operator may want to know."""
    _log.info(event.value, **facts)


def warning(event: Event, **facts: object) -> None:
    """Log what an operator should look at."""
    _log.warning(event.value, **facts)


def failure(event: Event, error: BaseException, **facts: object) -> None:
    """Log an unexpected error: its type and where it came from, without its text, which may quote a row."""
    _log.error(event.value, error=type(error).__name__, at=_places(error), **facts)


class _Failures(logging.Handler):
    """Logs errors as `failure` does; what else a server has to say is about single clients."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one."""
        error = record.exc_info[1] if record.exc_info else None
        if error:
            failure(Event.SERVER_AT_FAULT, error)


def _places(error: BaseException) -> list[str]:
    frames: list[Any] = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
