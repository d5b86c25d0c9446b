"""Runs the embedded server's own pgbench, over the server's socket, with scripts written for one desk."""

import re
import subprocess
import tempfile
from pathlib import Path

from tests.bench.desk import Desk

TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
FAILED = re.compile(r"^number of failed transactions: ([0-9]+)", re.MULTILINE)

ADMIT = """\
select claims from private.admit(array[1], array['integration-tickets'],
    array[decode('{hash}', 'hex')], array[null]::jsonb[], array[null], array[null]::integer[],
    array[null]::integer[], array[3600]) \\gset
"""
GET = "select body, version from integration_tickets.get_ticket(:claims, '{ticket}');\n"
POST = """\
select body, version from integration_tickets.create_ticket(:claims, '{title}', '{description}', 'high',
    '{category}', '{metadata}', null);
"""
INSERT = """\
insert into public.tickets (organization_id, subject, description, channel)
values ('{organization}', '{title}', '{description}', 'api');
"""


class PgbenchError(Exception):
    """pgbench could not run its script."""


def run(desk: Desk, script: str, *, user: str, clients: int, seconds: float) -> float:
    """Return transactions a second, connecting not counted. Raises PgbenchError."""
    host, port = desk.socket
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.sql"
        path.write_text(script)
        how = ["-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds)))]
        where = ["-h", host, "-p", port, "-U", user, "postgres"]
        done = subprocess.run(
            [desk.pgbench, *how, "-f", path, *where],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
    found, failed = TPS.search(done.stdout), FAILED.search(done.stdout)
    if done.returncode or found is None or failed is None or failed[1] != "0":
        raise PgbenchError(f"{done.stdout}\n{done.stderr}".strip()[-2000:])
    return float(found[1])
