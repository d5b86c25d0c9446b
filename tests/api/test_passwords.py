"""Passwords: every kind of hash, equal trouble for unknown accounts, and an event loop that goes on."""

import asyncio
import base64
import hashlib
import os
import sys
import threading
from collections.abc import AsyncIterator

import argon2
import bcrypt
import pytest

from api import passwords as module
from api.db import Database
from api.errors import UnavailableError
from api.keys import authenticator_password
from api.migrate import login_url
from api.passwords import DUMMY, HASHER, Passwords, is_known_hash, weaknesses
from tests.desk import Desk

RIGHT, WRONG = "correct horse ä", "correct horse a"
COMMON = frozenset({"password", "12345678"})


def pbkdf2(password: str, iterations: int = 1000) -> str:
    """Hash as SQL does."""
    salt = os.urandom(16)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    texts = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (salt, digest)]
    return "$".join(["", "pbkdf2-sha512", str(iterations), *texts])


def blowfish(prefix: str) -> str:
    hashed = bcrypt.hashpw(RIGHT.encode(), bcrypt.gensalt(4)).decode()
    return f"${prefix}${hashed[4:]}"


STRONG = argon2.PasswordHasher(time_cost=3, memory_cost=32_768, parallelism=1)
WEAK = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
OTHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=argon2.Type.I)
CURRENT = {"argon2id": HASHER.hash(RIGHT), "stronger argon2id": STRONG.hash(RIGHT)}
OUTDATED = {
    "weaker argon2id": WEAK.hash(RIGHT),
    "argon2i": OTHER.hash(RIGHT),
    "bcrypt 2a": blowfish("2a"),
    "bcrypt 2b": blowfish("2b"),
    "bcrypt 2y": blowfish("2y"),
    "pbkdf2": pbkdf2(RIGHT),
}
HASHES = CURRENT | OUTDATED
MALFORMED = {
    "empty": "",
    "plain text": RIGHT,
    "no hash": "$argon2id$v=19$m=19456,t=2,p=1$",
    "broken base64": CURRENT["argon2id"][:-2],  # 41 signs are the base64 of nothing
    "too little memory for its lanes": CURRENT["argon2id"].replace("m=19456", "m=1"),
    "too much memory": CURRENT["argon2id"].replace("m=19456", "m=9999999"),
    "too many passes": CURRENT["argon2id"].replace("t=2", "t=999"),
    "bcrypt cut": OUTDATED["bcrypt 2a"][:-1],
    "bcrypt for hours": OUTDATED["bcrypt 2a"].replace("$04$", "$31$"),
    "bcrypt with a bad salt": "$2a$04$" + "." * 21 + "9" + "." * 31,
    "pbkdf2 of nothing": "$pbkdf2-sha512$0$" + "A" * 22 + "$" + "A" * 86,
    "pbkdf2 for hours": "$pbkdf2-sha512$9999999$" + "A" * 22 + "$" + "A" * 86,
    "pbkdf2 with a bad salt": "$pbkdf2-sha512$1$" + "A" * 21 + "$" + "A" * 86,
    "a line more": CURRENT["argon2id"] + "\n",
    "other digits": CURRENT["argon2id"].replace("t=2", "t=٢"),
}


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(Database("postgresql:///nothing", size=1))
    yield made
    await made.close()


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The argon2 hashes that have been compared with, which takes what their parameters say."""
    seen: list[str] = []
    verify = argon2.PasswordHasher.verify

    def note(hasher: argon2.PasswordHasher, stored: str, secret: bytes) -> bool:
        seen.append(stored)
        return verify(hasher, stored, secret)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", note)
    return seen


async def test_password_is_hashed_as_owasp_recommends(passwords: Passwords) -> None:
    stored = await passwords.hash(RIGHT)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert stored != await passwords.hash(RIGHT)
    assert await passwords.verify(RIGHT, stored) == (True, None)


@pytest.mark.parametrize("kind", HASHES)
async def test_right_password_matches_and_a_wrong_one_does_not(passwords: Passwords, kind: str) -> None:
    assert is_known_hash(HASHES[kind])
    assert (await passwords.verify(RIGHT, HASHES[kind])).matches
    for wrong in (WRONG, "", RIGHT + " ", RIGHT.upper(), "\ud800"):
        assert await passwords.verify(wrong, HASHES[kind]) == (False, None)


@pytest.mark.parametrize("kind", OUTDATED)
async def test_outdated_hash_is_to_be_replaced(passwords: Passwords, kind: str) -> None:
    verdict = await passwords.verify(RIGHT, OUTDATED[kind])
    assert verdict.rehash
    assert argon2.extract_parameters(verdict.rehash) == argon2.extract_parameters(DUMMY)
    assert await passwords.verify(RIGHT, verdict.rehash) == (True, None)


@pytest.mark.parametrize("kind", CURRENT)
async def test_hash_that_is_strong_enough_stays(passwords: Passwords, kind: str) -> None:
    assert await passwords.verify(RIGHT, CURRENT[kind]) == (True, None)


async def test_hash_of_sql_is_verified_and_strengthened_without_the_password(
    desk: Desk, passwords: Passwords
) -> None:
    stored = desk.value("select private.hash_password(%s)", [RIGHT])
    strong = await passwords.strengthen(stored)
    for each in (stored, strong):
        assert is_known_hash(each)
        verdict = await passwords.verify(RIGHT, each)
        assert verdict.matches
        assert verdict.rehash
        assert not (await passwords.verify(WRONG, each)).matches


async def test_plain_pbkdf2_is_strengthened_once_and_others_stay_as_they_are(passwords: Passwords) -> None:
    strong = await passwords.strengthen(OUTDATED["pbkdf2"])
    inner, _, outer = strong.rpartition("$$")
    assert OUTDATED["pbkdf2"].startswith(f"{inner}$")
    assert argon2.extract_parameters(f"${outer}") == argon2.extract_parameters(DUMMY)
    assert (await passwords.verify(RIGHT, strong)).matches
    assert await passwords.verify(WRONG, strong) == (False, None)
    for other in (strong, CURRENT["argon2id"], OUTDATED["bcrypt 2a"], "", "x"):
        assert await passwords.strengthen(other) == other


@pytest.mark.parametrize("kind", MALFORMED)
async def test_malformed_hash_matches_nothing_and_costs_as_much(
    passwords: Passwords, verified: list[str], kind: str
) -> None:
    for password in (RIGHT, "", MALFORMED[kind]):
        assert await passwords.verify(password, MALFORMED[kind]) == (False, None)
        assert verified[-1] == DUMMY


async def test_unknown_account_costs_as_much_as_a_known_one(
    passwords: Passwords, verified: list[str]
) -> None:
    known = await passwords.hash(RIGHT)
    assert await passwords.verify(WRONG, known) == (False, None)
    assert await passwords.verify(WRONG, None) == (False, None)
    assert verified == [known, DUMMY]
    assert argon2.extract_parameters(DUMMY) == argon2.extract_parameters(known)


async def test_event_loop_goes_on_while_passwords_are_verified(passwords: Passwords) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    verdicts = await asyncio.gather(*[passwords.verify(RIGHT, CURRENT["argon2id"]) for _ in range(50)])
    turning.cancel()
    assert all(verdict.matches for verdict in verdicts)
    # If the loop itself did the work there would be one turn between two of them.
    assert turns > 1000


async def test_too_many_logins_at_once_are_turned_away_and_the_others_served(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_QUEUE", 3)
    tries = [passwords.verify(RIGHT, CURRENT["argon2id"]) for _ in range(40)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    served = [outcome for outcome in outcomes if outcome == (True, None)]
    turned_away = [outcome for outcome in outcomes if isinstance(outcome, UnavailableError)]
    assert len(served) == passwords._threads + 3
    assert len(served) + len(turned_away) == 40
    assert await passwords.verify(RIGHT, CURRENT["argon2id"]) == (True, None)


async def test_those_who_went_away_make_room(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_QUEUE", 3)
    tries = [asyncio.create_task(passwords.hash(RIGHT)) for _ in range(passwords._threads + 3)]
    await asyncio.sleep(0)
    for each in tries:
        each.cancel()
    await asyncio.gather(*tries, return_exceptions=True)
    assert await passwords.hash(RIGHT)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
async def test_hashing_stands_behind_requests(passwords: Passwords) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    here = priority()
    assert await passwords._run(priority) > here
    assert priority() == here


@pytest.mark.parametrize(
    ("password", "reasons"),
    [
        ("a fine one", []),
        ("x" * 72, []),
        ("ä" * 36, []),
        ("", ["length"]),
        ("7 signs", ["length"]),
        ("x" * 73, ["length"]),
        ("ä" * 37, ["length"]),
        ("PassWord", ["pwned"]),
    ],
)
def test_weak_passwords_are_told_in_supabase_s_words(password: str, reasons: list[str]) -> None:
    assert weaknesses(password, COMMON) == reasons


async def test_common_passwords_are_the_database_s_and_read_once(desk: Desk) -> None:
    db = Database(login_url(desk.db_url, authenticator_password(desk.jwt_secret)), size=1)
    passwords = Passwords(db)
    with pytest.raises(UnavailableError):
        await passwords.weaknesses("sunshine")
    await db.open()
    assert await passwords.weaknesses("SunShine") == ["pwned"]
    await db.close()
    assert await passwords.weaknesses("sunshine") == ["pwned"]
    assert await passwords.weaknesses("correct horse") == []
    await passwords.close()
