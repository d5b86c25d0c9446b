"""Renewals: whether those who listen still may, and as whom.

In charge of asking the database about the claims of all subscriptions at once. A log-out, a deactivated
member, a disabled token and a changed role reach a socket within a second, as they reach the next request.
"""

import asyncio
import time
from collections import defaultdict

from api.db import Database
from api.errors import SqlError, UnavailableError
from api.logs import Event, failure
from api.subscriptions import Subscription, Subscriptions
from api.watches import SESSION_ENDED

CHANGED_CLAIMS = b"select place, fresh from private.changed_claims($1)"
CHECK_SECONDS = 0.8


class Renewals:
    """Keeps the claims of subscriptions fresh."""

    def __init__(self, db: Database, subscriptions: Subscriptions) -> None:
        self._db = db
        self._subscriptions = subscriptions

    async def keep(self) -> None:
        """Check again and again until cancelled, with rests that are no shorter than the work."""
        clock, took = asyncio.get_running_loop().time, 0.0
        while True:
            await asyncio.sleep(max(CHECK_SECONDS, took))
            begun = clock()
            try:
                await self.check()
            except UnavailableError:
                pass
            except SqlError as error:
                failure(Event.STATEMENT_AT_FAULT, error, state=error.state)
            took = clock() - begun

    async def check(self) -> None:
        """End those whose credential is over; let the others go on as who they are now."""
        holders = self._holders()
        claims = list(holders)
        for place, fresh in await self._db.rows(CHANGED_CLAIMS, [claims]):
            for subscription in holders[claims[int(place or 0) - 1]]:
                if fresh is None:
                    subscription.outbox.end(SESSION_ENDED)
                else:
                    subscription.renew(fresh)

    def _holders(self) -> dict[bytes, list[Subscription]]:
        """Return the subscriptions by their claims, and end those whose time is over."""
        now = time.time()
        holders: defaultdict[bytes, list[Subscription]] = defaultdict(list)
        for subscription in self._subscriptions:
            if subscription.expires_at <= now:
                subscription.outbox.end(SESSION_ENDED)
            else:
                holders[subscription.claims].append(subscription)
        return holders
