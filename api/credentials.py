"""Credentials: what a request's Authorization and apikey headers prove, without asking the database.

In charge of the form of integration tokens, of JWTs signed with the project's secret, of the API keys, and of
the short-lived JWTs that PostgREST is given in their stead. Whether a token is still good, a session still
open or a member still active, the database says (`api.limits`); what the holder may do, row-level security
says.
"""

import hashlib
import hmac
import re
import time
from enum import Enum
from functools import lru_cache
from typing import Any

import jwt
import msgspec

from api.db import array
from api.errors import ApiError
from api.keys import api_keys

PREFIX = "stk_"
_TOKEN = re.compile(r"stk_[0-9A-Za-z]{49}", re.ASCII)
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LEEWAY_SECONDS = 10
MINTED_SECONDS = 300
LONGEST_BEARER = 16_384
_CHECKSUM_LENGTH = 6
_KEPT = 4096
_ROLES = frozenset({"anon", "authenticated", "service_role"})
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)
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
        raise _invalid()
    return found[1].decode("ascii")


@lru_cache(_KEPT)
def token_credential(token: str) -> Credential:
    """Return the credential of a well-formed integration token. Raises ApiError for any other text."""
    if not _TOKEN.fullmatch(token) or checksum(token[:-_CHECKSUM_LENGTH]) != token[-_CHECKSUM_LENGTH:]:
        raise _invalid()
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
    """Verifies and mints with the project's secret."""

    def __init__(self, jwt_secret: str) -> None:
        self._secret = jwt_secret
        keys = api_keys(jwt_secret)
        self._short_keys = {keys.publishable: "anon", keys.secret: "service_role"}
        # A verdict on a text never changes, but for its expiry, which is looked at each time.
        self._verified = lru_cache(_KEPT)(self._verify)
        self._minted = lru_cache(_KEPT)(self._mint)

    def of_jwt(self, token: str) -> Credential:
        """Return what a JWT of ours proves. Raises ApiError if it is not ours, not for us, or over."""
        credential = self._verified(token)
        if credential.expires_at + LEEWAY_SECONDS < time.time():
            raise _invalid()
        return credential

    def role_of_key(self, key: str) -> str:
        """Return the role of an API key of either kind. Raises ApiError if it is none."""
        for known, role in self._short_keys.items():
            if hmac.compare_digest(known.encode(), key.encode()):
                return role
        credential = self.of_jwt(key)
        if credential.kind is Kind.USER:
            raise _invalid()
        return credential.role

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

    def _verify(self, token: str) -> Credential:
        claims = self._claims_in(token)
        role = claims.get("role")
        if role not in _ROLES:
            raise _invalid()
        expires_at = float(claims["exp"])
        if role != "authenticated":
            kind = Kind.SERVICE if role == "service_role" else Kind.ANONYMOUS
            return Credential(kind, role, role.encode(), bearer=token, expires_at=expires_at)
        _check_user(claims)
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

    def _claims_in(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp"], "verify_aud": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid() from error
        return claims


def _check_user(claims: dict[str, Any]) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    ids = [claims.get("sub"), claims.get("session_id", claims.get("sub"))]
    if "authenticated" not in audiences or not all(isinstance(i, str) and _UUID.fullmatch(i) for i in ids):
        raise _invalid()


def _json(claims: dict[str, Any]) -> bytes:
    """Return the claims as JSON that Postgres can store."""
    try:
        text = msgspec.json.encode(claims)
    except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError, RecursionError) as error:
        raise _invalid() from error
    if _NUL in text:
        raise _invalid()
    return text


def _element(item: bytes | None) -> bytes:
    return array([item])[1:-1]


def _invalid() -> ApiError:
    return ApiError(401, "invalid_token")
