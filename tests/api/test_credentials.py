"""What headers prove, without a database."""

import time
import timeit
from typing import Any

import jwt
import pytest

from api.credentials import Credentials, Kind, anonymous, bearer_in, checksum, token_credential
from api.errors import ApiError
from api.keys import api_keys
from tests.desk import Desk

SECRET = "a secret of the tests that is long enough for every algorithm that there is"
USER = "550e8400-e29b-41d4-a716-446655440000"


@pytest.fixture
def credentials() -> Credentials:
    return Credentials(SECRET)


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {
        "sub": USER,
        "role": "authenticated",
        "aud": "authenticated",
        "exp": int(time.time()) + 60,
        **changes,
    }
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, algorithm=algorithm)


def made_token(random: str = "0" * 43) -> str:
    return f"stk_{random}{checksum(f'stk_{random}')}"


def assert_refused(error: pytest.ExceptionInfo[ApiError]) -> None:
    assert (error.value.status, error.value.word) == (401, "invalid_token")


def test_tokens_of_the_database_pass_the_checksum(desk: Desk) -> None:
    for _ in range(5):
        secret = desk.value("select (private.new_secret()).secret")
        assert token_credential(secret).kind is Kind.TOKEN


def test_token_is_looked_up_by_its_hash(desk: Desk) -> None:
    token = desk.token()
    digest = desk.value("select encode(sha256(convert_to(%s, 'UTF8')), 'hex')", [token])
    assert digest.encode() in token_credential(token).token_hash


@pytest.mark.parametrize(
    "token",
    [
        "",
        "stk_",
        made_token()[:-1],
        made_token() + "0",
        made_token().swapcase(),
        made_token()[:-1] + "~",
        made_token("0" * 42 + "1")[:-6] + made_token()[-6:],
        "STK_" + made_token()[4:],
        made_token() + "\n",
    ],
)
def test_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(ApiError) as error:
        token_credential(token)
    assert_refused(error)


@pytest.mark.parametrize("header", [b"Bearer x", b"bearer x", b"BEARER   x", b"Bearer x  "])
def test_bearer_is_read_in_any_case(header: bytes) -> None:
    assert bearer_in(header) == "x"


@pytest.mark.parametrize(
    "header", [b"", b"Bearer", b"Bearer ", b"Bearer a b", b"Basic x", b"Bearerx", b"Bearer \xff"]
)
def test_anything_else_is_no_bearer(header: bytes) -> None:
    with pytest.raises(ApiError) as error:
        bearer_in(header)
    assert_refused(error)


def test_user_is_admitted_by_the_claims_of_the_jwt(credentials: Credentials) -> None:
    token = signed(app_metadata={"organization_id": USER})
    credential = credentials.of_jwt(token)
    assert (credential.kind, credential.role, credential.bearer) == (Kind.USER, "authenticated", token)
    assert USER.encode() in credential.claims


def test_audience_may_be_one_of_several(credentials: Credentials) -> None:
    assert credentials.of_jwt(signed(aud=["x", "authenticated"])).kind is Kind.USER


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_700_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"aud": None},
        {"aud": "somebody else"},
        {"sub": None},
        {"sub": "5"},
        {"sub": 5},
        {"session_id": "x"},
        {"role": None},
        {"role": "postgres"},
        {"role": "integration"},
        {"role": "authenticator"},
        {"user_metadata": {"name": "a\0b"}},
        {"user_metadata": {"name": "\ud800"}},
        {"secret": "another secret that is also long enough for every one of these algorithms"},
        {"algorithm": "HS512"},
    ],
    ids=repr,
)
def test_jwt_that_is_not_ours_or_over_is_refused(credentials: Credentials, changes: dict[str, Any]) -> None:
    token = signed(**changes)
    with pytest.raises(ApiError) as error:
        credentials.of_jwt(token)
    assert_refused(error)


def test_unsigned_or_broken_jwt_is_refused(credentials: Credentials) -> None:
    head, body, _ = signed().split(".")
    unsigned = jwt.encode(
        {"sub": USER, "role": "service_role", "exp": int(time.time()) + 60}, "", algorithm="none"
    )
    for token in (unsigned, f"{head}.{body}.", f"{head}.{body}", "a.b.c", "...", "x" * 5000, signed()[:-2]):
        with pytest.raises(ApiError) as error:
            credentials.of_jwt(token)
        assert_refused(error)


def test_verified_jwt_expires_all_the_same(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    token = signed(exp=int(time.time()) + 5)
    credentials.of_jwt(token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 14)
    credentials.of_jwt(token)
    monkeypatch.setattr(time, "time", lambda: now + 17)
    with pytest.raises(ApiError) as error:
        credentials.of_jwt(token)
    assert_refused(error)


def test_every_kind_of_api_key_has_its_role(credentials: Credentials) -> None:
    keys = api_keys(SECRET)
    assert credentials.role_of_key(keys.anon) == credentials.role_of_key(keys.publishable) == "anon"
    assert (
        credentials.role_of_key(keys.service_role) == credentials.role_of_key(keys.secret) == "service_role"
    )
    for key in ("", "x", "sb_secret_x", keys.secret[:-1], signed(), api_keys("x" * 70).anon):
        with pytest.raises(ApiError) as error:
            credentials.role_of_key(key)
        assert_refused(error)


def test_minted_jwt_carries_the_claims_for_a_while(credentials: Credentials) -> None:
    token = credentials.mint(b'{"role": "integration", "app_metadata": {"token_id": "x"}}')
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert (claims["role"], claims["app_metadata"]) == ("integration", {"token_id": "x"})
    assert 60 <= claims["exp"] - time.time() <= 300
    assert credentials.mint_role("anon") == credentials.mint_role("anon")


def test_holders_are_told_apart(credentials: Credentials) -> None:
    keys = {
        token_credential(made_token()).key,
        token_credential(made_token("1" * 43)).key,
        anonymous("127.0.0.1").key,
        anonymous("127.0.0.2").key,
        credentials.of_jwt(signed()).key,
        credentials.of_jwt(signed(session_id=USER)).key,
    }
    assert len(keys) == 6
    assert token_credential(made_token()).key == token_credential(made_token()).key


def test_check_costs_less_than_50_microseconds(credentials: Credentials) -> None:
    token = signed()
    rounds = 200
    first = (
        min(timeit.repeat(lambda: Credentials._verify(credentials, token), number=rounds, repeat=5)) / rounds
    )
    again = min(timeit.repeat(lambda: credentials.of_jwt(token), number=rounds, repeat=5)) / rounds
    assert again < 50e-6
    assert first < 200e-6
