"""JWTs of outside issuers, with a server of keys that rotates, goes away, comes back and answers nonsense."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.warnings import InsecureKeyLengthWarning

from api import issuers as module
from api.credentials import Credential, Credentials, Kind, checksum
from api.errors import ApiError
from api.issuers import Issuers
from api.settings import Issuer
from tests.databases import Server, running_desk
from tests.desk import Desk, Member, free_port, unique, wait_until

SECRET = "a secret of the tests that is long enough for every algorithm that there is"
ISSUER = "https://issuer.example/pool"
AUDIENCE = "the-client"
SUBJECT = "8a6e0804-2bd0-4672-b79d-d97027f9071a"


class Key:
    """A key pair of an issuer."""

    def __init__(self, kid: str | None, kind: str = "RS256", bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = kind
        self.private: Any = (
            rsa.generate_private_key(65537, bits)
            if kind == "RS256"
            else ec.generate_private_key(ec.SECP256R1() if kind == "ES256" else ec.SECP384R1())
        )

    def public(self, **changes: Any) -> dict[str, Any]:
        """Return the JWK that the issuer publishes; None removes a member."""
        writes: Any = RSAAlgorithm if self.algorithm == "RS256" else ECAlgorithm
        jwk = writes.to_jwk(self.private.public_key(), as_dict=True)
        jwk = jwk | {"kid": self.kid, "use": "sig", "alg": self.algorithm, **changes}
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Sign what the issuer would say, with changes; None removes a claim."""
        all_headers = ({"kid": self.kid} if self.kid else {}) | (headers or {})
        return jwt.encode(claims_of(**changes), self.private, algorithm=self.algorithm, headers=all_headers)


def claims_of(**changes: Any) -> dict[str, Any]:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": int(time.time()) + 3600, **changes}
    return {name: value for name, value in claims.items() if value is not None}


class KeyServer:
    """The address of an issuer's keys: real sockets, and every fault that a test asks for."""

    def __init__(self) -> None:
        self.content = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/keys"

    def publish(self, *keys: Key | dict[str, Any]) -> None:
        jwks = [key.public() if isinstance(key, Key) else key for key in keys]
        self.content = json.dumps({"keys": jwks}).encode()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                outer.may_answer.wait(30)
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.content)

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(ConnectionError):  # of those who have gone away
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Clock:
    """The time by which key sets grow old."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def rsa_key() -> Key:
    return Key("rsa-1")


@pytest.fixture(scope="module")
def ec_key() -> Key:
    return Key("ec-1", "ES256")


@pytest.fixture(scope="module")
def new_key() -> Key:
    """The key that the issuer signs with next."""
    return Key("ec-2", "ES256")


@pytest.fixture
def server(rsa_key: Key, ec_key: Key) -> Iterator[KeyServer]:
    server = KeyServer()
    server.publish(rsa_key, ec_key)
    yield server
    server.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def knowing_nothing(
    server: KeyServer, clock: Clock | None = None, audiences: Sequence[str] = (AUDIENCE,)
) -> AsyncIterator[Credentials]:
    """Give credentials that have not asked the server yet."""
    issuers = Issuers([Issuer(ISSUER, each, server.url) for each in audiences], clock or Clock())
    yield Credentials(SECRET, issuers=issuers)
    await issuers.close()


@pytest.fixture
async def credentials(server: KeyServer, clock: Clock) -> AsyncIterator[Credentials]:
    async with knowing_nothing(server, clock) as credentials:
        yield credentials


def identity_in(credential: Credential) -> Any:
    text = credential.claims.decode().removeprefix('"').removesuffix('"').replace('\\"', '"')
    return json.loads(text)


async def refusal(credentials: Credentials, token: str) -> tuple[int, str]:
    with pytest.raises(ApiError) as error:
        await credentials.of_bearer(token)
    return error.value.status, error.value.word


async def assert_invalid(credentials: Credentials, token: str) -> None:
    assert await refusal(credentials, token) == (401, "invalid_token")


async def assert_unavailable(credentials: Credentials, token: str) -> None:
    assert await refusal(credentials, token) == (503, "unavailable")


async def assert_good(credentials: Credentials, token: str) -> None:
    assert (await credentials.of_bearer(token)).kind is Kind.USER


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition)


# Who is proved, and who is not


async def test_jwt_of_either_algorithm_proves_who_its_bearer_is_outside(
    credentials: Credentials, rsa_key: Key, ec_key: Key
) -> None:
    ends_at = int(time.time()) + 1000
    for key in (rsa_key, ec_key):
        credential = await credentials.of_bearer(key.sign(exp=ends_at, role="service_role"))
        assert (credential.kind, credential.role) == (Kind.USER, "authenticated")
        assert identity_in(credential) == {"outside": {"issuer": ISSUER, "subject": SUBJECT}}
        # PostgREST could not verify the JWT, so it is given one of ours.
        assert (credential.bearer, credential.expires_at) == ("", ends_at)


async def test_different_people_are_told_apart(credentials: Credentials, ec_key: Key) -> None:
    tokens = (ec_key.sign(), ec_key.sign(jti="another"), ec_key.sign(sub="somebody else"))
    one, same, other = [(await credentials.of_bearer(token)).key for token in tokens]
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("claims", "email"),
    [
        ({"email": "Ann@Example.COM"}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": True}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": "true"}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": False}, None),
        ({"email": "ann@example.com", "email_verified": "false"}, None),
        ({"email": "ann@example.com", "email_verified": 0}, None),
        ({"email": "ann@example.com", "email_verified": "no"}, None),
        ({"email": "ann"}, None),
        ({"email": ""}, None),
        ({"email": "ann @example.com"}, None),
        ({"email": "ann@example.com\n"}, None),
        ({"email": "ann@example.com\0"}, None),
        ({"email": "ann@b@example.com"}, None),
        ({"email": "\u212aann@example.com"}, None),
        ({"email": ["ann@example.com"]}, None),
        ({"email": "a" * 250 + "@example.com"}, None),
        ({}, None),
    ],
    ids=range(17),
)
async def test_address_counts_if_it_is_one_and_not_said_to_be_unverified(
    credentials: Credentials, ec_key: Key, claims: dict[str, Any], email: str | None
) -> None:
    credential = await credentials.of_bearer(ec_key.sign(**claims))
    assert identity_in(credential)["outside"].get("email") == email


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["somebody", AUDIENCE]},
        {"aud": None, "client_id": AUDIENCE},
        {"aud": AUDIENCE, "client_id": "somebody"},
        {"nbf": 1},
        {"iat": 4_000_000_000},
    ],
    ids=repr,
)
async def test_jwt_for_us_is_accepted(credentials: Credentials, ec_key: Key, changes: dict[str, Any]) -> None:
    await assert_good(credentials, ec_key.sign(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": ISSUER + "/"},
        {"iss": ISSUER.upper()},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "somebody"},
        {"aud": ["somebody"]},
        {"aud": []},
        {"aud": ""},
        {"aud": {AUDIENCE: AUDIENCE}},
        {"aud": [[AUDIENCE]]},
        {"aud": None},
        {"aud": None, "client_id": "somebody"},
        {"aud": None, "client_id": {AUDIENCE: 1}},
        {"aud": "somebody", "client_id": AUDIENCE},
        {"exp": 1_700_000_000},
        {"exp": None},
        {"exp": "4000000000"},
        {"exp": True},
        {"exp": 10**400},
        {"nbf": 4_000_000_000},
        {"nbf": "1"},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": "x" * 501},
        {"sub": "a\0b"},
        {"sub": "\ud800"},
    ],
    ids=repr,
)
async def test_jwt_that_is_not_for_us_or_over_is_refused(
    credentials: Credentials, ec_key: Key, changes: dict[str, Any]
) -> None:
    header = {"alg": "ES256", "kid": ec_key.kid}
    await assert_invalid(credentials, hand_made(header, claims_of(**changes), ec_key.private))


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hand_made(header: dict[str, Any], claims: dict[str, Any], key: Any) -> str:
    """Sign what no library would: with an EC key, or with bytes that are taken for a secret."""
    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    if isinstance(key, bytes):
        signature = hmac.digest(key, text.encode(), hashlib.sha256)
    else:
        signature = ECAlgorithm(ECAlgorithm.SHA256).sign(text.encode(), key)
    return f"{text}.{encoded(signature)}"


async def test_stranger_cannot_forge_a_jwt(credentials: Credentials, rsa_key: Key, ec_key: Key) -> None:
    stranger, stranger_ec = Key(rsa_key.kid), Key(ec_key.kid, "ES256")
    injected = {"jwk": stranger.public(), "x5u": "https://evil.example/", "jku": "https://evil.example/keys"}
    good = ec_key.sign()
    head, body, signature = good.split(".")
    other_body = encoded(json.dumps(claims_of(sub="somebody else")).encode())
    await assert_good(credentials, good)
    for token in (
        stranger.sign(),
        stranger.sign(injected),
        stranger.sign(injected | {"kid": ec_key.kid}),
        stranger_ec.sign(),
        stranger_ec.sign({"jwk": stranger_ec.public()}),
        jwt.encode(claims_of(), "", algorithm="none"),
        jwt.encode(claims_of(), "", algorithm="none", headers={"kid": ec_key.kid}),
        jwt.encode(claims_of(), SECRET, algorithm="HS256"),
        jwt.encode(claims_of(role="service_role"), SECRET, algorithm="HS256", headers={"kid": rsa_key.kid}),
        f"{head}.{other_body}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{good}=",
        hand_made({"alg": "ES256", "kid": ec_key.kid, "crit": ["x"]}, claims_of(), ec_key.private),
        hand_made({"alg": "RS256", "kid": ec_key.kid}, claims_of(), ec_key.private),
        hand_made({"alg": "ES384", "kid": ec_key.kid}, claims_of(), ec_key.private),
        jwt.encode(claims_of(), rsa_key.private, algorithm="RS512", headers={"kid": rsa_key.kid}),
        jwt.encode(claims_of(), rsa_key.private, algorithm="PS256", headers={"kid": rsa_key.kid}),
    ):
        await assert_invalid(credentials, token)


async def test_public_key_is_no_secret(credentials: Credentials, rsa_key: Key, ec_key: Key) -> None:
    for key in (rsa_key, ec_key):
        public = key.private.public_key()
        for secret in (
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            json.dumps(key.public()).encode(),
        ):
            for algorithm in ("HS256", key.algorithm):
                header = {"alg": algorithm, "kid": key.kid}
                await assert_invalid(credentials, hand_made(header, claims_of(), secret))


async def test_only_one_key_needs_no_name(credentials: Credentials, server: KeyServer, ec_key: Key) -> None:
    nameless = hand_made({"alg": "ES256"}, claims_of(), ec_key.private)
    await assert_invalid(credentials, nameless)  # there are two
    server.publish(ec_key.public(kid=None))
    async with knowing_nothing(server) as other:
        await assert_good(other, nameless)
        await assert_invalid(other, ec_key.sign())


async def test_issuer_may_have_several_audiences(server: KeyServer, ec_key: Key) -> None:
    async with knowing_nothing(server, audiences=("one", "two")) as credentials:
        for audience in ("one", "two"):
            await assert_good(credentials, ec_key.sign(aud=audience))
        await assert_invalid(credentials, ec_key.sign(aud="three"))
    assert server.requests == 1


async def test_weak_and_foreign_keys_are_not_used(server: KeyServer, ec_key: Key, rsa_key: Key) -> None:
    weak, other_curve = Key("weak", bits=1024), Key("p384", "ES384")
    with pytest.warns(InsecureKeyLengthWarning):
        by_weak = weak.sign()
    secret = base64.urlsafe_b64encode(SECRET.encode()).decode()
    server.publish(
        ec_key,
        weak,
        other_curve,
        ec_key.public(kid="for-encryption", use="enc"),
        ec_key.public(kid="other-algorithm", alg="ES384"),
        rsa_key.public(kid="rsa-pss", alg="PS256"),
        {"kty": "oct", "kid": "secret", "k": secret},
        {"kty": "OKP", "crv": "Ed25519", "kid": "okp", "x": "AAAA"},
        {"kty": "EC", "crv": "P-256", "kid": "off-the-curve", "x": "A" * 43, "y": "A" * 43},
        {"kty": "RSA", "kid": "no-numbers"},
        {"kty": ["RSA"], "kid": "no-type"},
    )
    server.content = server.content.replace(b'"keys": [', b'"keys": [5, null, [], "x", ')
    async with knowing_nothing(server) as credentials:
        await assert_good(credentials, ec_key.sign())
        for token in (
            by_weak,
            other_curve.sign(),
            ec_key.sign({"kid": "for-encryption"}),
            ec_key.sign({"kid": "other-algorithm"}),
            rsa_key.sign({"kid": "rsa-pss"}),
            jwt.encode(claims_of(), SECRET, algorithm="HS256", headers={"kid": "secret"}),
            *(ec_key.sign({"kid": kid}) for kid in ("okp", "off-the-curve", "no-numbers", "no-type")),
        ):
            await assert_invalid(credentials, token)


async def test_own_credentials_are_what_they_were(credentials: Credentials, server: KeyServer) -> None:
    own = {"sub": SUBJECT, "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 60}
    for issuer in (None, "http://127.0.0.1:8000/auth/v1", "https://unknown.example"):
        claims = own | ({"iss": issuer} if issuer else {})
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        assert (await credentials.of_bearer(token)).bearer == token
    token = f"stk_{'0' * 43}"
    assert (await credentials.of_bearer(token + checksum(token))).kind is Kind.TOKEN
    assert server.requests == 0


async def test_jwt_from_outside_is_neither_an_api_key_nor_ours(credentials: Credentials, ec_key: Key) -> None:
    token = ec_key.sign(role="service_role")
    await assert_good(credentials, token)
    for ask in (credentials.role_of_key, credentials.of_jwt):
        with pytest.raises(ApiError) as error:
            ask(token)
        assert (error.value.status, error.value.word) == (401, "invalid_token")


# Keys that come and go


async def test_keys_are_fetched_once_when_they_are_first_needed(
    credentials: Credentials, server: KeyServer, ec_key: Key, rsa_key: Key
) -> None:
    assert server.requests == 0
    tokens = [key.sign(n=number) for number in range(20) for key in (ec_key, rsa_key)]
    await asyncio.gather(*(assert_good(credentials, token) for token in tokens))
    assert server.requests == 1


async def test_verdict_is_kept_but_no_longer_than_the_jwt(
    credentials: Credentials, ec_key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = ec_key.sign(exp=int(time.time()) + 60)
    assert await credentials.of_bearer(token) is await credentials.of_bearer(token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 59)
    await assert_good(credentials, token)
    monkeypatch.setattr(time, "time", lambda: now + 61)
    await assert_invalid(credentials, token)


async def test_new_key_is_found_at_once_and_an_old_one_still_counts(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key, new_key: Key
) -> None:
    await assert_good(credentials, ec_key.sign())
    server.publish(ec_key, new_key)
    tokens = [new_key.sign(n=number) for number in range(20)]
    await asyncio.gather(*(assert_good(credentials, token) for token in [*tokens, ec_key.sign()]))
    assert server.requests == 2


async def test_flood_of_unknown_keys_is_no_flood_of_requests(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key, new_key: Key
) -> None:
    await assert_good(credentials, ec_key.sign())
    for number in range(module.BURST):
        await assert_invalid(credentials, new_key.sign(n=number))
    assert server.requests == module.BURST
    for _ in range(3):
        clock.now += module.PAUSE_SECONDS
        flood = [new_key.sign({"kid": f"unknown-{number}"}) for number in range(20)]
        await asyncio.gather(*(assert_invalid(credentials, token) for token in flood))
        await assert_invalid(credentials, new_key.sign())
        await assert_good(credentials, ec_key.sign(jti=unique("jwt")))
    assert server.requests == module.BURST + 3
    server.publish(ec_key, new_key)
    await assert_invalid(credentials, new_key.sign())
    clock.now += module.PAUSE_SECONDS
    await assert_good(credentials, new_key.sign())


async def test_old_keys_are_renewed_while_nobody_waits(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key, new_key: Key
) -> None:
    await assert_good(credentials, ec_key.sign())
    clock.now += module.FRESH_SECONDS
    server.may_answer.clear()
    for number in range(20):
        await assert_good(credentials, ec_key.sign(n=number))
    await until(lambda: server.requests == 2)
    server.publish(new_key)
    server.may_answer.set()
    await assert_good(credentials, new_key.sign())
    assert server.requests == 2


async def test_withdrawn_key_stops_counting_even_for_what_it_has_proved(
    server: KeyServer, ec_key: Key, new_key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, clock, now = ec_key.sign(), Clock(), time.time()
    async with knowing_nothing(server, clock) as credentials:
        await assert_good(credentials, token)
        server.publish(new_key)
        await assert_good(credentials, token)
        clock.now += module.FRESH_SECONDS + 1
        monkeypatch.setattr(time, "time", lambda: now + module.FRESH_SECONDS + 1)
        await assert_good(credentials, token)  # and the keys are renewed meanwhile
        await assert_good(credentials, new_key.sign())
        await assert_invalid(credentials, token)


async def test_keys_are_remembered_for_a_day_while_their_server_is_away(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key, new_key: Key
) -> None:
    await assert_good(credentials, ec_key.sign())
    server.stop()
    clock.now += module.FRESH_SECONDS
    for hours in range(23):
        await assert_good(credentials, ec_key.sign(n=hours))
        # A key that is not known cannot be judged.
        await assert_unavailable(credentials, new_key.sign(n=hours))
        clock.now += 3600
    clock.now += 3600
    await assert_unavailable(credentials, ec_key.sign())
    server.start()
    server.publish(ec_key, new_key)
    clock.now += module.LONGEST_DELAY
    await assert_good(credentials, ec_key.sign())
    await assert_good(credentials, new_key.sign())


async def test_server_that_is_away_is_asked_at_growing_intervals(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key
) -> None:
    server.status = 500
    asked_at = []
    for second in range(200):
        before = server.requests
        for number in range(3):
            await assert_unavailable(credentials, ec_key.sign(n=number))
        asked_at += [second] * (server.requests - before)
        clock.now += 1
    assert asked_at == [0, 1, 3, *range(7, 200, 5)]
    server.status = 200
    clock.now += module.LONGEST_DELAY
    await assert_good(credentials, ec_key.sign())


@pytest.mark.parametrize(
    "fault",
    [
        (200, {}, b""),
        (200, {}, b"nonsense"),
        (200, {}, b"[]"),
        (200, {}, b"{}"),
        (200, {}, b'{"keys": {}}'),
        (200, {}, b"\xff"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"keys": [' + b" " * module.LARGEST_KEY_SET + b"]}"),
        (200, {"Content-Encoding": "gzip"}, b'{"keys": []'),
        (200, {"Content-Length": "1000"}, b'{"keys": []}'),
        (404, {}, None),
        (500, {}, None),
        (204, {}, None),
        (302, {"Location": "/elsewhere"}, None),
    ],
    ids=range(14),
)
async def test_answer_that_is_no_key_set_changes_nothing(
    credentials: Credentials,
    server: KeyServer,
    clock: Clock,
    ec_key: Key,
    fault: tuple[int, dict[str, str], bytes | None],
) -> None:
    good = server.content

    def answer(status: int, headers: dict[str, str], content: bytes | None) -> None:
        server.status, server.headers = status, headers
        server.content = good if content is None else content

    answer(*fault)
    await assert_unavailable(credentials, ec_key.sign())
    answer(200, {}, good)
    clock.now += module.FIRST_DELAY
    await assert_good(credentials, ec_key.sign())
    answer(*fault)
    clock.now += module.FRESH_SECONDS
    await assert_good(credentials, ec_key.sign(n=1))
    await until(lambda: server.requests == 3)
    await assert_unavailable(credentials, ec_key.sign({"kid": "unknown"}))
    await assert_good(credentials, ec_key.sign(n=2))


async def test_issuer_may_withdraw_all_its_keys(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key
) -> None:
    await assert_good(credentials, ec_key.sign())
    server.publish()
    clock.now += module.PAUSE_SECONDS
    await assert_invalid(credentials, ec_key.sign({"kid": "unknown"}))
    await assert_invalid(credentials, ec_key.sign(n=1))


async def test_slow_server_is_not_waited_for_long(
    credentials: Credentials, server: KeyServer, clock: Clock, ec_key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH_SECONDS", 0.2)
    server.may_answer.clear()
    began = time.monotonic()
    await asyncio.gather(*(assert_unavailable(credentials, ec_key.sign(n=number)) for number in range(20)))
    assert time.monotonic() - began < 2
    assert server.requests == 1
    server.may_answer.set()
    monkeypatch.undo()
    clock.now += module.FIRST_DELAY
    await assert_good(credentials, ec_key.sign())


async def test_whoever_gives_up_waiting_does_not_take_the_others_along(
    credentials: Credentials, server: KeyServer, ec_key: Key
) -> None:
    server.may_answer.clear()
    one, other = (asyncio.create_task(assert_good(credentials, ec_key.sign(n=n))) for n in range(2))
    await until(lambda: server.requests == 1)
    one.cancel()
    await asyncio.wait([one])
    server.may_answer.set()
    await other
    assert server.requests == 1


async def test_fetch_that_is_under_way_ends_with_the_service(server: KeyServer, ec_key: Key) -> None:
    server.may_answer.clear()
    async with knowing_nothing(server) as credentials:
        waiting = asyncio.create_task(credentials.of_bearer(ec_key.sign()))
        await until(lambda: server.requests == 1)
    with pytest.raises(asyncio.CancelledError):
        await waiting


# With everything: a desk, its database, PostgREST


@pytest.fixture(scope="module")
def issuer_server(rsa_key: Key, ec_key: Key) -> Iterator[KeyServer]:
    server = KeyServer()
    server.publish(rsa_key, ec_key)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def outside_desk(chosen_server: Server | None, issuer_server: KeyServer) -> Iterator[Desk]:
    """A desk that accepts JWTs of the issuer."""
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": issuer_server.url}]
    with running_desk(chosen_server, DESKBASE_ISSUERS=json.dumps(issuers)) as desk:
        yield desk


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def organizations_of(desk: Desk, token: str) -> Any:
    answer = httpx.get(f"{desk.rest_url}/organizations?select=id", headers=bearer(token))
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["code"])


def add_identity(desk: Desk, member: Member, subject: str) -> None:
    desk.sql(
        "insert into public.member_identities (organization_id, member_id, issuer, subject)"
        " values (%s, %s, %s, %s)",
        [member.organization_id, member.id, ISSUER, subject],
    )


def test_member_is_known_by_the_name_that_the_issuer_gives_them(
    outside_desk: Desk, rsa_key: Key, ec_key: Key
) -> None:
    desk, subject = outside_desk, unique("subject")
    member = desk.member("agent", desk.organization())
    add_identity(desk, member, subject)
    for key in (rsa_key, ec_key):
        assert organizations_of(desk, key.sign(sub=subject)) == [{"id": member.organization_id}]
    # Their name counts, whatever address they have outside.
    other = desk.member("agent", desk.organization())
    token = ec_key.sign(sub=subject, email=other.email)
    assert organizations_of(desk, token) == [{"id": member.organization_id}]


def test_member_is_known_by_a_verified_address(outside_desk: Desk, ec_key: Key) -> None:
    desk = outside_desk
    member = desk.member("agent", desk.organization())
    email = member.email.upper()
    token = ec_key.sign(sub=unique("subject"), email=email, email_verified=True)
    assert organizations_of(desk, token) == [{"id": member.organization_id}]
    unverified = ec_key.sign(sub=unique("subject"), email=email, email_verified=False)
    assert organizations_of(desk, unverified) == (401, "invalid_token")


def test_whoever_is_no_active_member_is_refused(outside_desk: Desk, ec_key: Key) -> None:
    desk = outside_desk
    stranger = ec_key.sign(sub=unique("subject"), email=f"{unique('nobody')}@example.com")
    assert organizations_of(desk, stranger) == (401, "invalid_token")
    member = desk.member("agent", desk.organization())
    token = ec_key.sign(sub=unique("subject"), email=member.email)
    assert organizations_of(desk, token) == [{"id": member.organization_id}]
    desk.sql("update public.members set is_active = false where id = %s", [member.id])
    assert organizations_of(desk, token) == (401, "invalid_token")


def test_member_from_outside_writes_and_reads_as_themselves(outside_desk: Desk, ec_key: Key) -> None:
    desk = outside_desk
    member = desk.member("customer", desk.organization())
    other = desk.member("customer", member.organization_id)
    headers = bearer(ec_key.sign(sub=unique("subject"), email=member.email))
    url, mark = f"{desk.rest_url}/tickets?select=subject,contact_id", unique("Outside")
    created = httpx.post(url, headers=headers | {"Prefer": "return=representation"}, json={"subject": mark})
    assert (created.status_code, created.json()) == (
        201,
        [{"subject": mark, "contact_id": member.contact_id}],
    )
    assert created.headers["x-ratelimit-limit"] == "6000"
    assert httpx.get(url, headers=headers).json() == created.json()
    theirs = bearer(ec_key.sign(sub=unique("subject"), email=other.email))
    assert httpx.get(url, headers=theirs).json() == []


def test_desk_refuses_what_the_issuer_did_not_sign_for_it(
    outside_desk: Desk, desk: Desk, ec_key: Key
) -> None:
    member = outside_desk.member("agent", outside_desk.organization())
    email, stranger = member.email, Key(ec_key.kid, "ES256")
    for token in (
        stranger.sign(email=email),
        ec_key.sign(email=email, aud="somebody"),
        ec_key.sign(email=email, exp=1),
        ec_key.sign(email=email, iss="https://another.example"),
    ):
        assert organizations_of(outside_desk, token) == (401, "invalid_token")
    token = ec_key.sign(email=email)
    assert organizations_of(outside_desk, token) == [{"id": member.organization_id}]
    assert organizations_of(desk, token) == (401, "invalid_token")  # it has not been told of the issuer
    direct = httpx.get(f"{outside_desk.postgrest_url}/organizations", headers=bearer(token))
    assert direct.status_code == 401


def test_outage_of_the_issuer_is_told_from_a_bad_token(
    another_desk: Callable[..., Desk], ec_key: Key
) -> None:
    server = KeyServer()
    server.publish(ec_key)
    server.stop()
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": server.url}]
    desk = another_desk(DESKBASE_ISSUERS=json.dumps(issuers))
    member = desk.member("agent", desk.organization())
    token = ec_key.sign(email=member.email)
    assert organizations_of(desk, token) == (503, "unavailable")
    assert organizations_of(desk, "nonsense") == (401, "invalid_token")
    assert organizations_of(desk, desk.jwt(member)) == [{"id": member.organization_id}]
    server.start()
    try:
        wait_until(lambda: organizations_of(desk, token) == [{"id": member.organization_id}])
    finally:
        server.stop()
