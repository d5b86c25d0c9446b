"""What headers prove, without a database."""

import asyncio
import base64
import hashlib
import hmac
import json
import string
import time
import timeit
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from api import credentials as module
from api.credentials import Credentials, Kind, anonymous, bearer_in, checksum, token_credential
from api.errors import ApiError
from api.jwts import Jwt
from api.keys import SigningKey, api_keys
from tests.desk import Desk

SECRET = "a secret of the tests that is long enough for every algorithm that there is"
USER = "550e8400-e29b-41d4-a716-446655440000"


@pytest.fixture
def credentials() -> Credentials:
    return Credentials(SECRET)


@pytest.fixture(scope="module")
def signing_key() -> SigningKey:
    return SigningKey(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))


@pytest.fixture
def signing(signing_key: SigningKey) -> Credentials:
    """Credentials of a project with a signing key."""
    return Credentials(SECRET, signing_key)


def claims_of(**changes: Any) -> dict[str, Any]:
    claims = {
        "sub": USER,
        "role": "authenticated",
        "aud": "authenticated",
        "exp": int(time.time()) + 60,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    return jwt.encode(claims_of(**changes), secret, algorithm=algorithm)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hand_signed(header: Any, payload: Any, secret: bytes = SECRET.encode()) -> str:
    """Sign what no library would, texts and bytes as they are."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, payload)]
    text = ".".join(encoded(part) for part in parts)
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


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
        {"exp": "4000000000"},
        {"exp": True},
        {"exp": 10**400},
        {"nbf": "1"},
        {"outside": {"issuer": "https://issuer.example", "subject": "somebody"}},
        {"role": ["authenticated"]},
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


@pytest.mark.parametrize(
    "token",
    [
        hand_signed({"alg": "none"}, claims_of()),
        hand_signed({"alg": "hs256"}, claims_of()),
        hand_signed({"alg": ["HS256"]}, claims_of()),
        hand_signed({"typ": "JWT"}, claims_of()),
        hand_signed({"alg": "HS256", "crit": ["b64"], "b64": False}, claims_of()),
        hand_signed({"alg": "HS256", "crit": []}, claims_of()),
        hand_signed({"alg": "HS256", "kid": 5}, claims_of()),
        hand_signed([], claims_of()),
        hand_signed(b"", claims_of()),
        hand_signed(b"[" * 5000, claims_of()),
        hand_signed({"alg": "HS256"}, []),
        hand_signed({"alg": "HS256"}, b""),
        hand_signed({"alg": "HS256"}, b"{"),
        hand_signed({"alg": "HS256"}, b"[" * 5000),
        hand_signed({"alg": "HS256"}, b'{"exp": 1e999}'),
        hand_signed({"alg": "HS256"}, b'{"exp": NaN}'),
        hand_signed({"alg": "HS256"}, claims_of(user_metadata="x" * 16_384)),
        hand_signed({"alg": "ES256"}, claims_of()),
    ],
    ids=range(18),
)
def test_jwt_that_no_library_would_make_is_refused(credentials: Credentials, token: str) -> None:
    with pytest.raises(ApiError) as error:
        credentials.of_jwt(token)
    assert_refused(error)


def test_jwt_that_is_spelled_otherwise_is_refused(credentials: Credentials) -> None:
    token = hand_signed({"alg": "HS256"}, claims_of(user_metadata={"name": "?>?>?>?>"}))
    assert credentials.of_jwt(token).kind is Kind.USER
    last = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    # The last character of a signature has two bits that mean nothing.
    twin = token[:-1] + last[last.index(token[-1]) ^ 1]
    for other in (
        twin,
        f"{token}=",
        f"{token}\n",
        f" {token}",
        f"{token}.",
        f"{token}.e30",
        token.replace(".", "=."),
        token.replace(".", ".!"),
        token.replace(".", ".\u00e9"),
        token.replace(".", ".\ud800"),
        token.replace("-", "+").replace("_", "/"),
    ):
        assert other != token
        with pytest.raises(ApiError) as error:
            credentials.of_jwt(other)
        assert_refused(error)


def test_access_token_is_signed_by_the_secret_unless_there_is_a_signing_key(
    credentials: Credentials, signing: Credentials, signing_key: SigningKey
) -> None:
    claims = claims_of(email="ann@example.com")
    by_secret, by_key = credentials.sign(claims), signing.sign(claims)
    assert jwt.get_unverified_header(by_secret) == {"alg": "HS256", "typ": "JWT"}
    assert jwt.decode(by_secret, SECRET, algorithms=["HS256"], audience="authenticated") == claims
    assert jwt.get_unverified_header(by_key) == {"alg": "ES256", "typ": "JWT", "kid": signing_key.kid}
    (public,) = jwt.PyJWKSet.from_json(signing.public_jwks.decode()).keys
    assert jwt.decode(by_key, public, audience="authenticated") == claims


def test_project_with_a_signing_key_accepts_tokens_of_both(signing: Credentials) -> None:
    claims = claims_of()
    for token in (signing.sign(claims), signed(), signing.mint(b'{"role": "anon"}'), api_keys(SECRET).anon):
        assert signing.of_jwt(token).bearer == token
    assert jwt.get_unverified_header(signing.mint(b'{"role": "anon"}'))["alg"] == "HS256"


def test_project_without_a_signing_key_accepts_no_other_tokens(
    credentials: Credentials, signing: Credentials
) -> None:
    with pytest.raises(ApiError) as error:
        credentials.of_jwt(signing.sign(claims_of()))
    assert_refused(error)
    assert json.loads(credentials.public_jwks) == {"keys": []}


def test_jwt_of_the_signing_key_needs_no_kid_and_no_wrong_one(signing: Credentials) -> None:
    key = signing._signing_key
    assert key
    private = key._private
    assert signing.of_jwt(jwt.encode(claims_of(), private, algorithm="ES256")).kind is Kind.USER
    with pytest.raises(ApiError) as error:
        signing.of_jwt(jwt.encode(claims_of(), private, algorithm="ES256", headers={"kid": "another"}))
    assert_refused(error)


def test_stranger_cannot_forge_a_token_of_the_signing_key(
    signing: Credentials, signing_key: SigningKey
) -> None:
    kid = {"kid": signing_key.kid}
    stranger = ec.generate_private_key(ec.SECP256R1())
    own = ECAlgorithm.to_jwk(stranger.public_key(), as_dict=True)
    public = signing_key.public.key
    spellings = [
        json.dumps(signing_key.public_jwk).encode(),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
    ]
    for token in (
        jwt.encode(claims_of(), stranger, algorithm="ES256", headers=kid),
        jwt.encode(claims_of(), stranger, algorithm="ES256", headers=kid | {"jwk": own}),
        jwt.encode(claims_of(), stranger, algorithm="ES256", headers={"jku": "https://evil.example/keys"}),
        hand_signed({"alg": "none", **kid}, claims_of()),
        hand_signed({"alg": "ES256", **kid}, claims_of()),
        *(hand_signed({"alg": "HS256", **kid}, claims_of(), secret) for secret in spellings),
        *(hand_signed({"alg": "ES256", **kid}, claims_of(), secret) for secret in spellings),
    ):
        with pytest.raises(ApiError) as error:
            signing.of_jwt(token)
        assert_refused(error)


async def test_every_kind_of_bearer_is_understood(signing: Credentials) -> None:
    kinds = [
        (await signing.of_bearer(token)).kind
        for token in (made_token(), signed(), signing.sign(claims_of()), api_keys(SECRET).service_role)
    ]
    assert kinds == [Kind.TOKEN, Kind.USER, Kind.USER, Kind.SERVICE]
    for token in ("", "stk_", "nonsense", signed(exp=1), signed(iss="https://issuer.example", exp=1)):
        with pytest.raises(ApiError) as error:
            await signing.of_bearer(token)
        assert_refused(error)


def test_as_many_verdicts_are_kept_as_there_is_room_for(
    credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    tokens = [signed(n=number) for number in range(5)]
    kept = [credentials.of_jwt(token) for token in tokens]
    again = [credentials.of_jwt(token) for token in reversed(tokens)][::-1]
    assert [old is new for old, new in zip(kept, again, strict=True)] == [False, False, True, True, True]


def test_verified_jwt_expires_all_the_same(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    token = signed(exp=int(time.time()) + 5)
    credentials.of_jwt(token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4)
    credentials.of_jwt(token)
    monkeypatch.setattr(time, "time", lambda: now + 6)
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

    async def ask() -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            await credentials.of_bearer(token)
        return (time.perf_counter() - began) / rounds

    first = timeit.repeat(lambda: credentials._verify(token, Jwt(token)), number=rounds, repeat=10)
    assert min(first) / rounds < 50e-6
    assert min(asyncio.run(ask()) for _ in range(10)) < 5e-6
