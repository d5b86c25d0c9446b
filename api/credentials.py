"""Credentials: what a request's Authorization and apikey headers prove, without asking the database.

In charge of the form of integration tokens, of JWTs that the project signed (with its secret, or with its
signing key if it has one), of the API keys, and of the short-lived JWTs that PostgREST is given in their
stead. What JWTs of others prove, `api.issuers` says. Whether a token is still good, a session still open or a
member still active, the database says (`api.limits`); what the holder may do, row-level security says.
"""

import hashlib
import hmac
import re
import time
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

import jwt
import msgspec

from api.db import array
from api.issuers import Issuers, OutsideIssuer
from api.jwts import LONGEST_BEARER, InvalidTokenError, Jwt
from api.keys import ES256, SigningKey, api_keys, public_jwks, secret_jwk

PREFIX = "stk_"
_TOKEN = re.compile(r"stk_[0-9A-Za-z]{49}", re.ASCII)
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MINTED_SECONDS = 300
_CHECKSUM_LENGTH = 6
_KEPT = 4096
OUTSIDE = "outside"
"""The claim by which the database knows that it has to find out who somebody is."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)
_T = TypeVar("_T")
_NUL = b"\\u0000"


class Kind(Enum):
    """Who shows a credential."""

    TOKEN = "token"  # noqa: S105
    USER = "user"
    ANONYMOUS = "anonymous"
    SERVICE = "service"


class Credential:
    """What was proved, in the form in which the database is asked for its permit.

    `key` is the same for the same holder; `token_hash`, `claims` and `address` are elements of array texts.
    """

    __slots__ = ("address", "bearer", "claims", "expires_at", "key", "kind", "role", "token_hash")

    def __init__(
        self,
        kind: Kind,
        role: str,
        key: bytes,
        *,
        token_hash: bytes | None = None,
        claims: bytes | None = None,
        address: bytes | None = None,
        bearer: str = "",
        expires_at: float = float("inf"),
    ) -> None:
        self.kind = kind
        self.role = role
        self.key = kind.value.encode() + b":" + key
        self.token_hash = _element(token_hash)
        self.claims = _element(claims)
        self.address = _element(address)
        self.bearer = bearer
        self.expires_at = expires_at


def anonymous(address: str) -> Credential:
    """Return the credential of somebody who shows none: the address they call from."""
    raw = address.encode("ascii", "replace")
    return Credential(Kind.ANONYMOUS, "anon", raw, address=raw)


def bearer_in(header: bytes) -> str:
    """Return what an Authorization header carries. Raises ApiError if it is no Bearer header."""
    found = _BEARER.fullmatch(header) if len(header) <= LONGEST_BEARER else None
    if not found:
        raise InvalidTokenError
    return found[1].decode("ascii")


@lru_cache(_KEPT)
def token_credential(token: str) -> Credential:
    """Return the credential of a well-formed integration token. Raises ApiError for any other text."""
    if not _TOKEN.fullmatch(token) or checksum(token[:-_CHECKSUM_LENGTH]) != token[-_CHECKSUM_LENGTH:]:
        raise InvalidTokenError
    digest = hashlib.sha256(token.encode()).hexdigest().encode()
    return Credential(Kind.TOKEN, "integration", digest, token_hash=b"\\x" + digest)


def checksum(text: str) -> str:
    """Return the six characters that end a token which begins with `text`."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


class Credentials:
    """Verifies, signs and mints with the project's keys."""

    def __init__(
        self, jwt_secret: str, signing_key: SigningKey | None = None, issuers: Issuers | None = None
    ) -> None:
        self._secret = jwt_secret
        self._signing_key = signing_key
        self._issuers = issuers
        keys = api_keys(jwt_secret)
        self._short_keys = {keys.publishable: "anon", keys.secret: "service_role"}
        self._secret_key = jwt.PyJWK(secret_jwk(jwt_secret))
        self.public_jwks = public_jwks(signing_key)
        # A verdict on a text of ours never changes, but for its expiry, which is looked at each time.
        self._ours: dict[str, Credential] = {}
        self._theirs: dict[str, tuple[Credential, float]] = {}
        self._minted = lru_cache(_KEPT)(self._mint)

    async def of_bearer(self, token: str) -> Credential:
        """Return what an integration token, a JWT of ours or one of an outside issuer proves.

        Raises ApiError if it is none of these, or over; UnavailableError if the issuer's keys cannot be had.
        """
        if token.startswith(PREFIX):
            return token_credential(token)
        if known := self._known(token):
            return known
        credential, good_until = self._theirs.get(token, (None, 0.0))
        if credential and time.time() < good_until:
            return credential
        parsed = Jwt(token)
        if self._issuers and (issuer := self._issuers.of(parsed)):
            return await self._verify_theirs(token, parsed, issuer)
        return self._verify(token, parsed)

    def of_jwt(self, token: str) -> Credential:
        """Return what a JWT of ours proves. Raises ApiError if it is not ours, not for us, or over."""
        return self._known(token) or self._verify(token, Jwt(token))

    def role_of_key(self, key: str) -> str:
        """Return the role of an API key of either kind. Raises ApiError if it is none."""
        for known, role in self._short_keys.items():
            if hmac.compare_digest(known.encode(), key.encode()):
                return role
        credential = self.of_jwt(key)
        if credential.kind is Kind.USER:
            raise InvalidTokenError
        return credential.role

    def sign(self, claims: dict[str, Any]) -> str:
        """Return an access token with these claims and no others."""
        if self._signing_key:
            return self._signing_key.sign(claims)
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def mint(self, claims: bytes) -> str:
        """Return a JWT of ours with these claims (a JSON object) that is good for at least a minute."""
        return self._minted(claims, int(time.time()) // (MINTED_SECONDS - 60))

    def mint_role(self, role: str) -> str:
        """Return such a JWT for a role alone."""
        return self.mint(msgspec.json.encode({"role": role}))

    def _mint(self, claims: bytes, _period: int) -> str:
        now = int(time.time())
        payload = msgspec.json.decode(claims, type=dict[str, Any]) | {"iat": now, "exp": now + MINTED_SECONDS}
        return jwt.encode(payload, self._secret, algorithm="HS256")

    def _known(self, token: str) -> Credential | None:
        """Return what a JWT of ours has proved before. Raises ApiError if it is over."""
        credential = self._ours.get(token)
        if credential and credential.expires_at <= time.time():
            raise InvalidTokenError
        return credential

    def _verify(self, token: str, parsed: Jwt) -> Credential:
        key = self._secret_key
        if parsed.alg == ES256 and self._signing_key and parsed.kid in {None, self._signing_key.kid}:
            key = self._signing_key.public
        if not parsed.is_signed_by(key):
            raise InvalidTokenError
        credential = _credential_of(parsed.claims(), token)
        _keep(self._ours, token, credential)
        return credential

    async def _verify_theirs(self, token: str, parsed: Jwt, issuer: OutsideIssuer) -> Credential:
        person = await issuer.verify(parsed)
        text = _json({OUTSIDE: person.identity})
        credential = Credential(
            Kind.USER,
            "authenticated",
            hashlib.sha256(text).digest(),
            claims=text,
            expires_at=person.expires_at,
        )
        good_until = min(person.expires_at, time.time() + person.fresh_seconds)
        _keep(self._theirs, token, (credential, good_until))
        return credential


def _keep(verdicts: dict[str, _T], token: str, verdict: _T) -> None:
    """Add a verdict, in place of the oldest one if there are too many."""
    if len(verdicts) >= _KEPT:
        del verdicts[next(iter(verdicts))]
    verdicts[token] = verdict


def _credential_of(claims: dict[str, Any], token: str) -> Credential:
    """Return what the claims of a JWT of ours mean. Raises ApiError if they are not for us."""
    role = claims.get("role")
    expires_at = float(claims["exp"])
    if role in ("anon", "service_role"):
        kind = Kind.SERVICE if role == "service_role" else Kind.ANONYMOUS
        return Credential(kind, role, role.encode(), bearer=token, expires_at=expires_at)
    if role != "authenticated" or not _is_user(claims):
        raise InvalidTokenError
    text = _json(claims)
    key = claims["sub"].lower().encode() + str(claims.get("session_id")).encode()
    return Credential(
        Kind.USER,
        role,
        key + hashlib.sha256(text).digest(),
        claims=text,
        bearer=token,
        expires_at=expires_at,
    )


def _is_user(claims: dict[str, Any]) -> bool:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    ids = [claims.get("sub"), claims.get("session_id", claims.get("sub"))]
    return (
        "authenticated" in audiences
        and OUTSIDE not in claims
        and all(isinstance(i, str) and _UUID.fullmatch(i) for i in ids)
    )


def _json(claims: dict[str, Any]) -> bytes:
    """Return the claims as JSON that Postgres can store."""
    try:
        text = msgspec.json.encode(claims)
    except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidTokenError from error
    if _NUL in text:
        raise InvalidTokenError
    return text


def _element(item: bytes | None) -> bytes:
    return array([item])[1:-1]
