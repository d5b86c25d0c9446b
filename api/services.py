"""The resources that every contract shares, and their life.

In charge of making them (closed, so that nothing happens at import), opening them in order and closing them
in reverse.
"""

from contextlib import AsyncExitStack

import httpx

from api.accounts import Accounts
from api.credentials import Credentials
from api.db import Database
from api.issuers import Issuers
from api.keys import signing_key
from api.limits import Limiter
from api.metrics import Metrics
from api.passwords import Passwords
from api.relay import Relay
from api.settings import Settings
from api.usage import UsageLog

POOL_SIZE = 10
"""Connections of one process: they keep several cores of Postgres busy, and leave room for more processes."""

PROXIED_CONNECTIONS = 64


class Services:
    """What a contract is given when its app is made."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.data_dir / "metrics" if settings.workers > 1 else None)
        self.issuers = Issuers(settings.issuers)
        self.credentials = Credentials(
            settings.jwt_secret, signing_key(settings.jwt_signing_key, settings.data_dir), self.issuers
        )
        self.db = Database(settings.authenticator_url, size=POOL_SIZE, name="deskbase api")
        self.passwords = Passwords(self.db)
        self.accounts = Accounts(self.db, self.credentials, self.passwords, settings)
        self.limiter = Limiter(self.db, self.metrics)
        self.usage = UsageLog(self.db, self.metrics)
        self.relay = Relay(settings.authenticator_url, self.db, self.metrics)
        self.http = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(
                max_connections=PROXIED_CONNECTIONS, max_keepalive_connections=PROXIED_CONNECTIONS
            )
        )
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Open everything. A database that is away is waited for by the pool, and not here."""
        self._stack.push_async_callback(self.http.aclose)
        self._stack.push_async_callback(self.issuers.close)
        await self.db.open()
        self._stack.push_async_callback(self.db.close)
        self._stack.push_async_callback(self.passwords.close)
        self.usage.open()
        self._stack.push_async_callback(self.usage.close)
        self._stack.push_async_callback(self.relay.close)

    async def close(self) -> None:
        """Close everything; the usage log is written first."""
        await self._stack.aclose()
