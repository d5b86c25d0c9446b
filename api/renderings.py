"""Renderings: events become messages, once for all who may see the same.

In charge of asking the database, which says what an audience sees of an event and in which words, and of what
happens when such a statement fails: it ends those who asked for it, and nobody else.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from api.db import Database, Row
from api.errors import SqlError, UnavailableError, status_of
from api.event_log import Event, Span
from api.logs import Event as Log
from api.logs import failure
from api.watches import FAULT, UNAVAILABLE

RENDER_SECONDS = 3.0
RETRY_SECONDS = 0.1
NO_WISH = (b"",)
_AT_ONCE = 4
_TRIES = 3
_PASSING = frozenset({"40001", "40P01"})


class RenderingError(Exception):
    """Events cannot be turned into messages; `reason` is why those who asked are to be ended."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Renderings:
    """Asks for renderings, a few at a time, so that requests find connections too."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def messages(
        self,
        statement: bytes,
        audience: bytes,
        span: Span,
        events: Sequence[Event],
        wishes: Sequence[bytes] = NO_WISH,
    ) -> dict[tuple[int, bytes], list[str]]:
        """Return the messages for each event that the audience may see, and wish. Raises RenderingError.

        While the database is away, it waits.
        """
        if not events:
            return {}
        params = [audience, _array([event.json for event in events])]
        if any(wishes):
            params.append(_array(wishes))
        async with self._slots:
            rows = await self._ask(statement, params)
        bodies: defaultdict[tuple[int, bytes], list[bytes]] = defaultdict(list)
        for event_id, body, *place in rows:
            if body:
                wish = wishes[int(place[0] or 0)] if place else b""
                bodies[int(event_id or 0), wish].append(body)
        return {key: _positioned(span, key[0], texts) for key, texts in bodies.items()}

    async def _ask(self, statement: bytes, params: list[bytes]) -> list[Row]:
        clock, refusals = asyncio.get_running_loop().time, 0
        while True:
            begun = clock()
            try:
                return await self._db.rows(statement, params, RENDER_SECONDS)
            except UnavailableError as error:
                # One that is slow must not keep all others waiting; who asked for it may come back.
                if clock() - begun >= RENDER_SECONDS:
                    failure(Log.RENDERING_AT_FAULT, error, state="timeout")
                    raise RenderingError(UNAVAILABLE) from error
            except SqlError as error:
                refusals += 1
                if refusals == _TRIES or not _is_passing(error.state):
                    failure(Log.RENDERING_AT_FAULT, error, state=error.state)
                    raise RenderingError(FAULT) from error
            await asyncio.sleep(RETRY_SECONDS)


def _is_passing(state: str) -> bool:
    return state in _PASSING or status_of(state) == 503


def _array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _positioned(span: Span, event_id: int, bodies: list[bytes]) -> list[str]:
    """Put positions into the messages of one event: the last one leaves it behind."""
    told = [*range(1, len(bodies)), 0]
    return [
        f'{body[:-1].decode()},"position":"{span.position(event_id, count)}"}}'
        for body, count in zip(bodies, told, strict=True)
    ]
