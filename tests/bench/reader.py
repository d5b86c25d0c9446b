"""Stands in for the relay: hears the bell and reads the event log from snapshot to snapshot.

Run as `python -m tests.bench.reader URL` it prints a line once it listens, and how many events it read once
its stdin ends and nothing is left.
"""

import select
import sys
import time

import psycopg

CHANNEL = "deskbase_events"
BATCH = 2000
# At most this often, so that what comes in meanwhile is one batch.
PAUSE_SECONDS = 0.01
LOOK_AGAIN_SECONDS = 0.005
IDLE_SECONDS = 1.0

NOW = "select s::text, pg_snapshot_xmax(s) > pg_snapshot_xmin(s) from pg_current_snapshot() as s"
READ = (
    "select id, xid::text, organization_id::text, type, record::text from private.read_events(%s, %s, %s, %s)"
)


class Reader:
    """A cursor in the log."""

    def __init__(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        self._connection = connection
        self._since = self._now()[0]
        self.count = 0

    def catch_up(self) -> bool:
        """Read what has become visible, and return whether transactions are still under way."""
        until, busy = self._now()
        after, size = 0, BATCH
        while size == BATCH:
            rows = self._connection.execute(READ, [self._since, until, after, BATCH]).fetchall()
            size = len(rows)
            self.count += size
            after = int(str(rows[-1][0])) if rows else after
        self._since = until
        return busy

    def _now(self) -> tuple[str, bool]:
        row = self._connection.execute(NOW).fetchone()
        return (str(row[0]), bool(row[1])) if row else ("", False)


def main() -> None:
    """Read until stdin ends."""
    with psycopg.connect(sys.argv[1], autocommit=True) as connection:
        connection.execute(f"listen {CHANNEL}".encode())
        reader = Reader(connection)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        busy = False
        while not _ended():
            _hear(connection, LOOK_AGAIN_SECONDS if busy else IDLE_SECONDS)
            busy = reader.catch_up()
            time.sleep(PAUSE_SECONDS)
        reader.catch_up()
        sys.stdout.write(f"{reader.count}\n")


def _hear(connection: "psycopg.Connection[tuple[object, ...]]", seconds: float) -> None:
    """Wait for the bell, however often it has rung."""
    for _ in connection.notifies(timeout=seconds, stop_after=1):
        pass


def _ended() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    main()
