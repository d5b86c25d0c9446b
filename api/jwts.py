"""JWTs taken apart: their compact form, their signature, and the times in their claims.

In charge of what is the same for every JWT, whoever signed it. Which key counts, and what the claims have to
say, is the business of `api.credentials` (ours) and `api.issuers` (those of others). PyJWT does the signing
and the cryptography; the form is read here, because its reading, a loop over every character, takes five
times as long as all the rest of a check.
"""

import binascii
import time
from typing import Any, TypeGuard, TypeVar

import jwt
import msgspec

from api.errors import ApiError

LEEWAY_SECONDS = 10
"""How far an issuer's clock may be ahead of ours."""

LONGEST_BEARER = 16_384
_END_OF_TIME = 2**53
# Signs of the standard alphabet, which JWTs do not use, become one of no alphabet.
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_T = TypeVar("_T")


class InvalidTokenError(ApiError):
    """The token is malformed, not for us, or over, or nobody whom we know signed it."""

    def __init__(self) -> None:
        super().__init__(401, "invalid_token")


class _Header(msgspec.Struct):
    """What of a header counts. A key in it, or the address of one, does not."""

    alg: str
    kid: str | None = None
    crit: object = None


class _Issued(msgspec.Struct):
    iss: str | None = None


_header = msgspec.json.Decoder(_Header)
_issued = msgspec.json.Decoder(_Issued)
_claims = msgspec.json.Decoder(dict[str, Any])


class Jwt:
    """A JWT, of which nothing is to be believed before its signature has been checked."""

    __slots__ = ("_payload", "_signature", "_signed", "alg", "kid")

    def __init__(self, token: str) -> None:
        """Take it apart. Raises InvalidTokenError if it is malformed, or demands what nobody here knows."""
        if len(token) > LONGEST_BEARER:
            raise InvalidTokenError
        try:
            self._signed, _, signature = token.encode().rpartition(b".")
            head, _, payload = self._signed.partition(b".")
            header = _header.decode(_decoded(head))
            self._payload = _decoded(payload)
            self._signature = _decoded(signature)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise InvalidTokenError from error
        if header.crit is not None:
            raise InvalidTokenError
        self.alg = header.alg
        self.kid = header.kid

    def is_signed_by(self, key: jwt.PyJWK) -> bool:
        """Whether the holder of the key signed it, in the one algorithm that the key is for."""
        return self.alg == key.algorithm_name and key.Algorithm.verify(self._signed, key.key, self._signature)

    def issuer(self) -> str | None:
        """Return who issued it, as it says itself. Raises InvalidTokenError if it holds no claims."""
        return self._read(_issued).iss

    def claims(self) -> dict[str, Any]:
        """Return its claims. Raises InvalidTokenError if it holds none, is over or has not begun."""
        claims = self._read(_claims)
        now = time.time()
        ends_at, begins_at = claims.get("exp"), claims.get("nbf", 0)
        if not (_is_moment(ends_at) and _is_moment(begins_at)):
            raise InvalidTokenError
        if ends_at <= now or begins_at - LEEWAY_SECONDS > now:
            raise InvalidTokenError
        return claims

    def _read(self, decoder: msgspec.json.Decoder[_T]) -> _T:
        try:
            return decoder.decode(self._payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidTokenError from error


def payload_of(token: str) -> bytes:
    """Return the claims of a JWT that has been verified, as the JSON text they are."""
    return _decoded(token.encode().split(b".")[1])


def _decoded(part: bytes) -> bytes:
    """Decode base64url. Raises ValueError unless the bytes have no other spelling."""
    spelled = part.translate(_STANDARD) + b"=" * (-len(part) % 4)
    decoded = binascii.a2b_base64(spelled)
    if binascii.b2a_base64(decoded, newline=False) != spelled:
        raise ValueError("not base64url")
    return decoded


def _is_moment(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _END_OF_TIME
