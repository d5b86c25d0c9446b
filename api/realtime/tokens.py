"""Tokens: who is behind a socket, a channel or a request, and in which words somebody is refused.

In charge of the API key of a handshake, of the token of a join, and of their permit. What they prove,
`api.credentials` says; what the holder may do, row-level security says.
"""

import time
from typing import Any, NamedTuple

import msgspec

from api.credentials import PREFIX, Credential, Kind, anonymous
from api.errors import ApiError
from api.jwts import Jwt, payload_of
from api.limits import Rule, token_rule
from api.services import Services
from api.settings import Limit

CONTRACT = "realtime"
DEFAULT_LIMITS = {"user": Limit(30_000, 60), "anonymous": Limit(30_000, 60)}
"""A join counts as one, and so does a message over HTTP; what is said on a channel does not."""

SERVICE = "service_role"
NOT_A_JWT = "The token provided is not a valid JWT"

_SERVICE_CLAIMS = b'{"role":"service_role"}'
_SHORT_KEY = "sb_"
_REASONS = {
    403: "Unauthorized",
    429: "ClientJoinRateLimitReached",
    503: "UnableToConnectToProject",
}


class Key(NamedTuple):
    """The API key of a socket or a request, and its role."""

    text: str
    role: str


class Identity(NamedTuple):
    """Who somebody is, as admitted."""

    claims: bytes
    organization_id: str | None
    expires_at: float
    token: str | None
    """The token that proves it; None if only the API key does."""


class Tokens:
    """Asks who is there."""

    def __init__(self, services: Services) -> None:
        self._credentials = services.credentials
        self._limiter = services.limiter
        limits = services.settings.limits_of(CONTRACT, DEFAULT_LIMITS)
        self._rules = {
            Kind.USER: Rule(CONTRACT, limits.get("user"), limits.get("organization")),
            Kind.ANONYMOUS: Rule(CONTRACT, limits.get("anonymous")),
            Kind.TOKEN: token_rule(CONTRACT, limits.get("token")),
        }

    def key(self, text: str | None) -> Key:
        """Return an API key. Raises ApiError 401 if it is missing or none."""
        if not text:
            raise ApiError(401, "missing_token", "API key is missing")
        try:
            return Key(text, self._credentials.role_of_key(text))
        except ApiError as error:
            reason, sentence = fault_of(text)
            if reason == "InvalidJWTToken" and sentence.startswith("Token has expired"):
                sentence = "Token has expired"
            else:
                sentence = NOT_A_JWT
            raise ApiError(401, "invalid_token", sentence) from error

    async def identify(self, key: Key, token: str | None, address: str) -> Identity:
        """Return who shows a token; without one of their own, the key's role. Raises ApiError."""
        credential, proof = await self._credential(key, token, address)
        if credential.kind is Kind.SERVICE:
            return Identity(_SERVICE_CLAIMS, None, credential.expires_at, proof)
        permit = await self._limiter.permit(self._rules[credential.kind], credential)
        holder: dict[str, Any] = msgspec.json.decode(permit.claims)
        organization_id = (holder.get("app_metadata") or {}).get("organization_id")
        return Identity(permit.claims, organization_id, credential.expires_at, proof)

    async def _credential(self, key: Key, token: str | None, address: str) -> tuple[Credential, str | None]:
        role, proof = key.role, None
        if own := own_token(key, token):
            credential = await self._credentials.of_bearer(own)
            if credential.kind is not Kind.ANONYMOUS:
                return credential, own
            role = credential.role
        if role == SERVICE:
            return Credential(Kind.SERVICE, role, b""), proof
        return anonymous(address), proof


def own_token(key: Key, token: object) -> str | None:
    """Return the token, if it says more than the key does."""
    if not isinstance(token, str) or not token or token == key.text or token.startswith(_SHORT_KEY):
        return None
    return token


# Refusals


def reason_of(error: ApiError, token: str | None) -> str:
    """Return why a channel is refused, in the words of Supabase Realtime."""
    if error.word == "invalid_token" and token and not token.startswith(PREFIX):
        return ": ".join(fault_of(token))
    if error.status == 401:
        return f"Unauthorized: {error.sentence}"
    return f"{_REASONS.get(error.status, 'UnknownErrorOnChannel')}: {error.sentence}"


def fault_of(token: str) -> tuple[str, str]:
    """Return what is wrong with a JWT that was refused. It is said to who showed it, so it may be guessed."""
    try:
        Jwt(token)
        claims = msgspec.json.decode(payload_of(token))
    except (ApiError, ValueError, msgspec.MsgspecError, RecursionError):
        return "MalformedJWT", NOT_A_JWT
    expires_at = claims.get("exp") if isinstance(claims, dict) else None
    if not isinstance(expires_at, int | float) or not claims.get("role"):
        return "InvalidJWTToken", "Fields `role` and `exp` are required in JWT"
    if expires_at <= time.time():
        return "InvalidJWTToken", f"Token has expired {int(time.time() - expires_at)} seconds ago"
    return "JwtSignatureError", "Failed to validate JWT signature"


def expired(expires_at: float) -> str:
    """Return the sentence for a token that has run out."""
    return f"Token has expired {max(0, int(time.time() - expires_at))} seconds ago"
