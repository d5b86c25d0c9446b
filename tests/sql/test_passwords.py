"""Passwords in the database: which are refused, and what is stored of those that arrive in plain text."""

import base64
import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.passwords import LONGEST_BYTES, SHORTEST, is_known_hash, weaknesses
from tests.actors import Acting

CHECK = "select private.check_password(%s)"
HASH = "select private.hash_password(%s)"
PBKDF2 = "select private.pbkdf2_sha512(%s, %s, %s)"
HAS_PGCRYPTO = "select to_regprocedure('extensions.crypt(text, text)') is not null"
COMMON = "select private.common_passwords()"
GOOD = ["correct horse", "ä" * 36, "x" * 71 + "y", " 8 signs", "p4$s'\"\\{},"]
SHORT = ["", "x", "7 signs", "äöüßäöü"]
LONG = ["x" * 73, "ä" * 37]
COMMON_ONES = ["password", "PassWord1", "12345678", "QWERTYUIOP", "deskbase"]


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def test_the_list_is_of_passwords_that_are_long_enough_in_lower_case_and_in_order(owner: Acting) -> None:
    common = owner.value(COMMON)
    assert len(common) > 1000
    assert common == sorted(set(common))
    assert [word for word in common if len(word) < SHORTEST or word != word.lower()] == []


def test_the_service_may_read_the_list_and_nobody_else(
    login: Acting, visitor: Acting, customer: Acting, service: Acting, token: Acting
) -> None:
    assert "password" in login.value(COMMON)
    for acting in (visitor, customer, service, token):
        acting.refused("42501", COMMON)


def test_nobody_has_passwords_checked_or_hashed_by_the_database_directly(
    login: Acting, visitor: Acting, admin: Acting, service: Acting, token: Acting
) -> None:
    for acting in (login, visitor, admin, service, token):
        acting.refused("42501", CHECK, ["correct horse"])
        acting.refused("42501", HASH, ["correct horse"])
        acting.refused("42501", PBKDF2, ["correct horse", b"salt", 1])


def test_a_good_password_passes(owner: Acting) -> None:
    for password in GOOD:
        owner.rows(CHECK, [password])


@pytest.mark.parametrize("password", [None, *SHORT])
def test_a_short_password_is_refused(owner: Acting, password: str | None) -> None:
    refusal = owner.refused("PT422", CHECK, [password], word="weak_password")
    assert refusal.detail == "A password has at least 8 characters."


@pytest.mark.parametrize("password", LONG)
def test_a_password_that_bcrypt_would_cut_is_refused(owner: Acting, password: str) -> None:
    refusal = owner.refused("PT422", CHECK, [password], word="weak_password")
    assert refusal.detail == "A password has at most 72 bytes."


@pytest.mark.parametrize("password", COMMON_ONES)
def test_a_common_password_is_refused_in_any_case(owner: Acting, password: str) -> None:
    refusal = owner.refused("PT422", CHECK, [password], word="weak_password")
    assert "guessed first" in refusal.detail


def test_the_service_and_the_database_refuse_the_same_passwords(owner: Acting) -> None:
    common = frozenset(owner.value(COMMON))
    for password in [*GOOD, *SHORT, *LONG, *COMMON_ONES, "x" * LONGEST_BYTES, "x" * SHORTEST]:
        is_refused = owner.refusal(CHECK, [password]) is not None
        assert is_refused == bool(weaknesses(password, common)), password


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    password=st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=150),
    salt=st.binary(max_size=40),
    iterations=st.integers(1, 20),
)
def test_the_database_computes_pbkdf2(owner: Acting, password: str, salt: bytes, iterations: int) -> None:
    expected = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    assert owner.value(PBKDF2, [password, salt, iterations]) == expected


def test_a_hash_is_one_that_the_service_verifies_and_never_the_same_twice(owner: Acting) -> None:
    hashes = {owner.value(HASH, ["correct horse"]) for _ in range(3)}
    assert len(hashes) == 3
    assert all(map(is_known_hash, hashes))
    kind = "$2a$10$" if owner.value(HAS_PGCRYPTO) else "$pbkdf2-sha512$"
    assert all(stored.startswith(kind) for stored in hashes)


def test_without_pgcrypto_a_hash_is_pbkdf2_with_a_salt_of_16_bytes(owner: Acting) -> None:
    # Within the transaction there is none, whatever the server has.
    owner.rows("drop extension if exists pgcrypto")
    _, kind, iterations, salt, digest = owner.value(HASH, ["correct horse ä"]).split("$")
    assert (kind, len(decoded(salt))) == ("pbkdf2-sha512", 16)
    assert int(iterations) >= 30_000
    expected = hashlib.pbkdf2_hmac("sha512", "correct horse ä".encode(), decoded(salt), int(iterations))
    assert decoded(digest) == expected


def test_without_a_password_there_is_no_hash(owner: Acting) -> None:
    assert owner.value(HASH, [None]) is None
