"""Passwords: hashing them, verifying them against every kind of hash that is stored, and telling weak ones.

In charge of the forms of hashes and of the time they take: hashing has threads of its own, behind the
requests' in priority, so that logins keep nobody else waiting. Who has which hash is the database's business,
and so is the list of common passwords.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

import argon2
import bcrypt
import msgspec

from api.db import Database
from api.errors import UnavailableError

SHORTEST = 8
LONGEST_BYTES = 72
"""As Supabase Auth, whose bcrypt would not look at the rest."""

# What OWASP recommends at least, which is about 20 ms. One lane, so that a hash takes one core and no more.
HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
DUMMY = (
    f"$argon2id$v=19$m={HASHER.memory_cost},t={HASHER.time_cost},p={HASHER.parallelism}${'A' * 22}${'A' * 43}"
)
"""What is verified, in vain, where there is nothing to verify: it takes as long."""

LONGEST_QUEUE = 200
COMMON = b"select array_to_json(private.common_passwords())"

_DIGEST = "sha512"
# What a stored hash may cost: whoever brings hashes along must not bring the service down.
_MOST_MEMORY = 262_144
_MOST_PASSES = 16
_MOST_LANES = 16
_MOST_ROUNDS = 14
_MOST_ITERATIONS = 2_000_000
_LONGEST_HASH = 255

_BASE64 = "[A-Za-z0-9+/]"
_ARGON2 = (
    r"\$argon2(?:id|i)\$v=(?:16|19)\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,3})"
    rf"\${_BASE64}{{11,}}\${_BASE64}{{16,}}"
)
_IS_ARGON2 = re.compile(_ARGON2, re.ASCII)
_IS_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_IS_PBKDF2 = re.compile(
    r"\$pbkdf2-sha512\$(?P<iterations>\d{1,7})\$(?P<salt>[\w-]{11,})\$"
    rf"(?:(?P<hash>[\w-]{{86}})|(?P<outer>{_ARGON2}))",
    re.ASCII,
)
"""As SQL makes it, or strengthened: in place of its hash the argon2id of that hash."""

P = ParamSpec("P")
T = TypeVar("T")
Matches = Callable[[bytes], bool]


class Verdict(NamedTuple):
    """Whether the password is right and, if it is, what should be stored in place of an outdated hash."""

    matches: bool
    rehash: str | None = None


class Passwords:
    """Hashes and verifies without holding up the event loop. Nothing runs before it is first used."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._common: frozenset[str] | None = None
        self._threads = _cores()
        self._pool = ThreadPoolExecutor(self._threads, "passwords", initializer=_step_back)
        self._taken = 0

    async def hash(self, password: str) -> str:
        """Return what is to be stored of a password. Raises UnavailableError when too many wait."""
        return await self._run(_hash, password)

    async def verify(self, password: str, stored: str | None) -> Verdict:
        """Compare a password with what is stored of it; None, where there is no such account, takes as long.

        A hash that nobody understands matches nothing. Raises UnavailableError when too many wait.
        """
        return await self._run(_verify, password, stored)

    async def strengthen(self, stored: str) -> str:
        """Return a plain PBKDF2 hash, which SQL makes, with argon2id around it; others as they are."""
        return await self._run(_strengthen, stored)

    async def weaknesses(self, password: str) -> list[str]:
        """Return why a password is refused; see `weaknesses`. Raises UnavailableError or SqlError."""
        return weaknesses(password, await self._common_passwords())

    async def close(self) -> None:
        """Finish the hashes that are being made; those that wait are cancelled."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def _common_passwords(self) -> frozenset[str]:
        if self._common is None:
            (text,) = await self._db.one(COMMON)
            self._common = msgspec.json.decode(text or b"[]", type=frozenset[str])
        return self._common

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._taken >= self._threads + LONGEST_QUEUE:
            raise UnavailableError
        self._taken += 1
        try:
            job = partial(function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._pool, job)
        finally:
            self._taken -= 1


def weaknesses(password: str, common: frozenset[str]) -> list[str]:
    """Return Supabase's words for why a password is refused: `length`, `pwned`; none if it will do."""
    reasons = []
    if len(password) < SHORTEST or len(_secret(password)) > LONGEST_BYTES:
        reasons.append("length")
    if password.lower() in common:
        reasons.append("pwned")
    return reasons


def is_known_hash(text: str) -> bool:
    """Whether a hash from elsewhere can be stored: argon2, bcrypt or PBKDF2 as above, at a bearable cost."""
    return _reader(text) is not None


def _hash(password: str) -> str:
    return HASHER.hash(_secret(password))


def _verify(password: str, stored: str | None) -> Verdict:
    secret = _secret(password)
    matches = _reader(stored or "") or partial(_matches_argon2, DUMMY)
    try:
        is_right = matches(secret)
    except (ValueError, argon2.exceptions.Argon2Error):
        # It only looked like a hash.
        is_right = _matches_argon2(DUMMY, secret)
    return Verdict(is_right, _hash(password) if is_right and _is_outdated(stored or "") else None)


def _strengthen(stored: str) -> str:
    found = _IS_PBKDF2.fullmatch(stored)
    if not found or not found["hash"]:
        return stored
    inner = stored.removesuffix(found["hash"])
    return inner + HASHER.hash(_decode(found["hash"]))


def _reader(stored: str) -> Matches | None:
    """Return what compares a secret with this hash, or None if nothing can, or it would cost too much."""
    if len(stored) > _LONGEST_HASH:
        return None
    if found := _IS_ARGON2.fullmatch(stored):
        return partial(_matches_argon2, stored) if _is_bearable(*found.groups()) else None
    if found := _IS_BCRYPT.fullmatch(stored):
        return partial(_matches_bcrypt, stored) if 4 <= int(found[1]) <= _MOST_ROUNDS else None
    if (found := _IS_PBKDF2.fullmatch(stored)) and 1 <= int(found["iterations"]) <= _MOST_ITERATIONS:
        return partial(_matches_pbkdf2, found)
    return None


def _is_bearable(memory: str, passes: str, lanes: str) -> bool:
    return int(memory) <= _MOST_MEMORY and int(passes) <= _MOST_PASSES and int(lanes) <= _MOST_LANES


def _matches_argon2(stored: str, secret: bytes) -> bool:
    try:
        return HASHER.verify(stored, secret)
    except argon2.exceptions.VerifyMismatchError:
        return False


def _matches_bcrypt(stored: str, secret: bytes) -> bool:
    return bcrypt.checkpw(secret[:LONGEST_BYTES], stored.encode())


def _matches_pbkdf2(found: re.Match[str], secret: bytes) -> bool:
    inner = hashlib.pbkdf2_hmac(_DIGEST, secret, _decode(found["salt"]), int(found["iterations"]))
    if found["outer"]:
        return _matches_argon2(found["outer"], inner)
    return hmac.compare_digest(inner, _decode(found["hash"]))


def _is_outdated(stored: str) -> bool:
    """Whether it is anything but argon2id at least as costly as ours."""
    if not stored.startswith("$argon2id$"):
        return True
    found = argon2.extract_parameters(stored)
    work = found.memory_cost * found.time_cost
    return (
        found.version < argon2.low_level.ARGON2_VERSION
        or found.memory_cost < HASHER.memory_cost
        or work < HASHER.memory_cost * HASHER.time_cost
        or found.hash_len < HASHER.hash_len
    )


def _secret(password: str) -> bytes:
    # Halves of pairs, which JSON can spell, are no reason to fail: nobody's password has them.
    return password.encode("utf-8", "surrogatepass")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _step_back() -> None:
    """Let the thread take the time that requests leave. Only Linux gives threads priorities of their own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
