"""Metrics: what is counted and timed, for Prometheus.

In charge of the closed list of series and of adding them up over the worker processes of one server, each of
which keeps its figures in a folder that they share. Nothing here is per user, token or row.
"""

import os
import shutil
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The series of this process; with a folder, also of its fellow workers."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder:
            os.environ[_FOLDER] = str(_server_folder(folder))
        # prometheus_client decides when it is imported whether figures are shared.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._requests = Counter(
            "deskbase_requests",
            "Answered requests.",
            ["contract", "operation", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "deskbase_request_seconds",
            "Time from the request's head to the end of its answer.",
            ["contract"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.permits_asked = Histogram(
            "deskbase_limiter_batch",
            "Requests whose permits were asked for in one call.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self.usage_dropped = Counter(
            "deskbase_usage_dropped", "Usage rows that were given up.", registry=self._registry
        )
        self.subscriptions = Gauge(
            "deskbase_subscriptions",
            "Subscriptions under way.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.subscriptions_ended = Counter(
            "deskbase_subscriptions_ended",
            "Subscriptions that are over.",
            ["reason"],
            registry=self._registry,
        )
        self.messages = Counter("deskbase_messages", "Messages for sockets.", registry=self._registry)
        self._connections = Gauge(
            "deskbase_database_connections",
            "Connections to the database, and statements that wait for one.",
            ["state"],
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def answered(self, contract: str, operation: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (contract, operation, status)
        children = self._children.get(key)
        if children is None:
            children = self._requests.labels(contract, operation, str(status)), self._seconds.labels(contract)
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)

    def pool(self, total: int, idle: int, waiting: int) -> None:
        """Note the state of the pool."""
        self._connections.labels("open").set(total)
        self._connections.labels("idle").set(idle)
        self._connections.labels("waiting").set(waiting)

    def exposition(self) -> bytes:
        """Return every series as text; with several processes, of all of them."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        if _FOLDER not in os.environ:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)


def _server_folder(folder: Path) -> Path:
    """Return the folder of the server that started this worker, and delete those of servers that are gone."""
    server = folder / str(os.getppid())
    server.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other != server and not Path("/proc", other.name).exists():
            shutil.rmtree(other, ignore_errors=True)
    return server
