"""THE limiter: every request's permit, whichever way in it came.

In charge of asking the database for permits: requests that wait in this process are asked for together, in
one call of `private.admit` at a time, so that a hot counter costs one row lock a batch. The counting itself,
and whether the credential is still good, is the database's business, and so it holds across processes and
machines.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from api.credentials import Credential, Kind
from api.db import Database, Row
from api.errors import ApiError, SqlError, UnavailableError
from api.logs import Event, failure
from api.metrics import Metrics
from api.settings import Limit

ADMIT = (
    b"select granted, failure, claims, rate_limit, remaining, resets_at "
    b"from private.admit($1, $2, $3, $4, $5, $6, $7, $8, $9)"
)
ADMIT_SECONDS = 1.5
LARGEST_BATCH = 512
"""Groups in one call."""

TOKENS = "tokens"
"""The bucket in which a token's own limit is counted: one for every way in."""

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is counted against what: a contract's limit for one audience."""

    bucket: str
    subject: Limit | None = None
    organization: Limit | None = None

    @property
    def window_seconds(self) -> int:
        """The window of the subject; an integration token's own limit is per hour."""
        return self.subject.window_seconds if self.subject else 3600


def token_rule(contract: str, limit: Limit | None) -> Rule:
    """Return the rule for integration tokens: each token's own limit, or the contract's that overrides it."""
    return Rule(contract, limit) if limit else Rule(TOKENS)


class Permit:
    """What a request goes on with: the claims to act under, and where its limit stands, if it has one."""

    __slots__ = ("claims", "kind", "limit", "remaining", "resets_at")

    def __init__(
        self, kind: Kind, claims: bytes, limit: bytes | None, remaining: int, resets_at: bytes | None
    ) -> None:
        self.kind = kind
        self.claims = claims
        self.limit = limit
        self.remaining = remaining
        self.resets_at = resets_at

    def headers(self) -> list[Header]:
        """Return the X-RateLimit headers."""
        if self.limit is None or self.resets_at is None:
            return []
        return [
            (b"x-ratelimit-limit", self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", self.resets_at),
        ]


class LimitedError(ApiError):
    """A request over its limit. `permit` is the spent one, with the claims of whoever ran out."""

    def __init__(self, permit: Permit) -> None:
        seconds = max(1, int(permit.resets_at or 0) - int(time.time()))
        super().__init__(429, "rate_limit_exceeded", headers=((b"retry-after", b"%d" % seconds),))
        self.permit = permit


class _Group:
    """The requests of one holder against one rule that wait for the next call."""

    __slots__ = ("credential", "rule", "waiters")

    def __init__(self, rule: Rule, credential: Credential) -> None:
        self.rule = rule
        self.credential = credential
        self.waiters: list[asyncio.Future[Permit]] = []

    def fail(self, make: Callable[[], ApiError]) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(make())


class Limiter:
    """Hands out permits, in the order in which they were asked for."""

    def __init__(self, db: Database, metrics: Metrics) -> None:
        self._db = db
        self._metrics = metrics
        self._waiting: dict[tuple[str, bytes], _Group] = {}
        self._worker: asyncio.Task[None] | None = None

    def permit(self, rule: Rule, credential: Credential) -> "asyncio.Future[Permit]":
        """Ask for one permit. The future fails with 401, 429 (LimitedError) or 503 (UnavailableError)."""
        key = (rule.bucket, credential.key)
        group = self._waiting.get(key)
        if group is None:
            group = self._waiting[key] = _Group(rule, credential)
        future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        group.waiters.append(future)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return future

    async def _work(self) -> None:
        """Make one call after the other until nobody waits."""
        try:
            while batch := self._take():
                await self._admit(batch)
        finally:
            self._worker = None

    def _take(self) -> list[_Group]:
        """Take what waits, without those who have gone away meanwhile."""
        batch: list[_Group] = []
        while self._waiting and len(batch) < LARGEST_BATCH:
            group = self._waiting.pop(next(iter(self._waiting)))
            group.waiters = [waiter for waiter in group.waiters if not waiter.done()]
            if group.waiters:
                batch.append(group)
        return batch

    async def _admit(self, batch: list[_Group]) -> None:
        self._metrics.permits_asked.observe(sum(len(group.waiters) for group in batch))
        started = time.monotonic()
        try:
            rows = await self._db.rows(ADMIT, _arguments(batch), ADMIT_SECONDS)
            for group, row in zip(batch, rows, strict=True):
                _hand_out(group, row)
        except SqlError as error:
            await self._refused(batch, error)
        except UnavailableError:
            if time.monotonic() - started >= ADMIT_SECONDS:
                # A database that answers nothing would let those who came meanwhile wait as long once more.
                batch = [*batch, *self._take()]
        finally:
            # However the call ended, nobody is left waiting.
            for group in batch:
                group.fail(UnavailableError)

    async def _refused(self, batch: list[_Group], error: SqlError) -> None:
        """One group that the database cannot digest must not take the others with it."""
        if len(batch) > 1:
            for group in batch:
                await self._admit([group])
            return
        if error.state.startswith("22"):
            # Claims that hold no proper ids: signed by us, made by somebody else.
            batch[0].fail(lambda: ApiError(401, "invalid_token"))
            return
        failure(Event.STATEMENT_AT_FAULT, error, state=error.state)
        batch[0].fail(lambda: ApiError(500, "validation_failed"))


def _arguments(batch: list[_Group]) -> list[bytes]:
    columns = zip(*[_row(group) for group in batch], strict=True)
    return [b"{" + b",".join(column) + b"}" for column in columns]


def _row(group: _Group) -> tuple[bytes, ...]:
    rule, credential = group.rule, group.credential
    return (
        b"%d" % len(group.waiters),
        b'"' + rule.bucket.encode() + b'"',
        credential.token_hash,
        credential.claims,
        credential.address,
        _count(rule.subject),
        _count(rule.organization),
        b"%d" % rule.window_seconds,
        b"%d" % rule.organization.window_seconds if rule.organization else b"NULL",
    )


def _count(limit: Limit | None) -> bytes:
    return b"%d" % limit.count if limit else b"NULL"


def _hand_out(group: _Group, row: Row) -> None:
    granted_text, fault, claims, limit, remaining_text, resets_at = row
    if fault is not None:
        word = fault.decode()
        status = 403 if word == "second_factor_required" else 401
        group.fail(lambda: ApiError(status, word))
        return
    granted, remaining = int(granted_text or 0), int(remaining_text or 0)
    kind = group.credential.kind
    waiters = [waiter for waiter in group.waiters if not waiter.done()]
    for place, waiter in enumerate(waiters, start=1):
        if place <= granted:
            waiter.set_result(Permit(kind, claims or b"", limit, remaining + granted - place, resets_at))
        else:
            waiter.set_exception(LimitedError(Permit(kind, claims or b"", limit, 0, resets_at)))
