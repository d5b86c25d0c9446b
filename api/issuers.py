"""Outside issuers: JWTs that a party such as Cognito signed, for members who log in there.

In charge of each configured issuer's public keys (fetched when first needed, kept, renewed) and of what a JWT
of theirs has to say. Which member its bearer is, the database says.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import msgspec

from api.errors import UnavailableError
from api.jwts import InvalidTokenError, Jwt
from api.logs import Event, warning
from api.settings import Issuer

FRESH_SECONDS = 600
"""How long a key set is as good as new; a key that its issuer withdraws counts at most that much longer."""

KEPT_SECONDS = 24 * 3600
"""How long it is used while its server is away."""

PAUSE_SECONDS = 5
BURST = 5
"""How many fetches there may be at once because of keys that are not in the set, which anybody can name; then
one a pause."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 5.0
FETCH_SECONDS = 3.0
LARGEST_KEY_SET = 256 * 1024
SMALLEST_RSA_BITS = 2048
LONGEST_SUBJECT = 500
LONGEST_EMAIL = 254

# Only ASCII has one lower case that everybody agrees on: the Kelvin sign would become the letter k.
_EMAIL = re.compile(r"[!-?A-~]+@[!-?A-~]+", re.ASCII)
_FAULTS = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, msgspec.MsgspecError, ValueError)


@dataclass(frozen=True, slots=True)
class Outsider:
    """Whom a JWT is about, when it ends, and for how many seconds the key that proves it is up to date."""

    identity: dict[str, str]
    expires_at: float
    fresh_seconds: float


class Issuers:
    """The issuers that are configured."""

    def __init__(self, issuers: Iterable[Issuer], clock: Callable[[], float] = time.monotonic) -> None:
        self._http = httpx.AsyncClient(timeout=FETCH_SECONDS, headers={"accept-encoding": "identity"})
        self._issuers: dict[str, OutsideIssuer] = {}
        for each in issuers:
            known = self._issuers.setdefault(
                each.issuer, OutsideIssuer(each.issuer, KeySet(each.jwks_url, self._http, clock))
            )
            known.audiences.add(each.audience)

    def of(self, token: Jwt) -> "OutsideIssuer | None":
        """Return the issuer that a JWT names, if it is one of these."""
        return self._issuers.get(token.issuer() or "") if self._issuers else None

    async def close(self) -> None:
        """Stop fetching."""
        for issuer in self._issuers.values():
            await issuer.keys.close()
        await self._http.aclose()


class OutsideIssuer:
    """One issuer: whom its JWTs are for, and its keys."""

    def __init__(self, name: str, keys: "KeySet") -> None:
        self.name = name
        self.keys = keys
        self.audiences: set[str] = set()

    async def verify(self, token: Jwt) -> Outsider:
        """Return whom the JWT is about. Raises InvalidTokenError, or UnavailableError for want of its key."""
        key = await self.keys.find(token.kid)
        if not token.is_signed_by(key):
            raise InvalidTokenError
        claims = token.claims()
        subject = claims.get("sub")
        if claims.get("iss") != self.name or not self._is_for_us(claims):
            raise InvalidTokenError
        if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT:
            raise InvalidTokenError
        identity = {"issuer": self.name, "subject": subject, **_trusted_email(claims)}
        return Outsider(identity, float(claims["exp"]), self.keys.fresh_seconds)

    def _is_for_us(self, claims: dict[str, Any]) -> bool:
        """Cognito's access tokens have no audience, and name the client instead."""
        audience = claims["aud"] if "aud" in claims else claims.get("client_id")
        named = audience if isinstance(audience, list) else [audience]
        return any(isinstance(each, str) and each in self.audiences for each in named)


class KeySet:
    """The public keys at an address, by their ids."""

    def __init__(self, url: str, http: httpx.AsyncClient, clock: Callable[[], float]) -> None:
        self._url = url
        self._http = http
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._due_at = self._allowed_at = float("-inf")
        self._delay = 0.0
        self._fetching: asyncio.Task[None] | None = None

    @property
    def fresh_seconds(self) -> float:
        """How long there is no reason to fetch the set again."""
        return max(0.0, self._due_at - self._clock())

    async def find(self, kid: str | None) -> jwt.PyJWK:
        """Return the key of that id, or the only key for none. Raises InvalidTokenError or UnavailableError.

        A key that is not there, or a set that is none yet, is waited for, whereas an old set is renewed
        behind the scenes.
        """
        now = self._clock()
        if now - self._fetched_at > KEPT_SECONDS:
            self._keys = {}
        key = self._known(kid)
        if now >= (self._due_at if key else self._allowed_at):
            self._fetching = self._fetching or asyncio.create_task(self._fetch())
        if key is None and self._fetching:
            await asyncio.shield(self._fetching)
            key = self._known(kid)
        if key:
            return key
        raise UnavailableError if self._delay else InvalidTokenError

    def _known(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._keys = usable_keys(await self._download())
        except _FAULTS as error:
            warning(Event.ISSUER_LOST, error=type(error).__name__)
            self._delay = min(self._delay * 2 or FIRST_DELAY, LONGEST_DELAY)
            self._due_at = self._allowed_at = self._clock() + self._delay
        else:
            self._delay = 0.0
            self._fetched_at = self._clock()
            self._due_at = self._fetched_at + FRESH_SECONDS
            rested_since = self._fetched_at - (BURST - 1) * PAUSE_SECONDS
            self._allowed_at = max(self._allowed_at, rested_since) + PAUSE_SECONDS
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        async with self._http.stream("GET", self._url) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            content = b""
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > LARGEST_KEY_SET:
                    raise ValueError("too large")
            return content

    async def close(self) -> None:
        """Stop fetching."""
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Key(msgspec.Struct):
    """What of a public JWK (RFC 7517) counts."""

    kty: str
    kid: str | None = None
    use: str = "sig"
    alg: str | None = None
    crv: str | None = None
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None


def usable_keys(key_set: bytes) -> dict[str | None, jwt.PyJWK]:
    """Return the keys of a key set that we take signatures by. Raises MsgspecError if it is none."""
    found = [_usable(raw) for raw in msgspec.json.decode(key_set, type=_KeySet).keys]
    return {key.key_id: key for key in found if key}


def _usable(raw: msgspec.Raw) -> jwt.PyJWK | None:
    """Return an RSA key for RS256 or a P-256 key for ES256; None for any other."""
    try:
        given = msgspec.json.decode(raw, type=_Key)
        algorithm = {"RSA": "RS256", "EC": "ES256"}.get(given.kty)
        if algorithm is None or given.use != "sig" or given.alg not in {None, algorithm}:
            return None
        members = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
        key = jwt.PyJWK(members, algorithm)
    except (msgspec.MsgspecError, jwt.PyJWTError, ValueError):
        return None
    is_strong = key.key.key_size >= SMALLEST_RSA_BITS if given.kty == "RSA" else given.crv == "P-256"
    return key if is_strong else None


def _trusted_email(claims: dict[str, Any]) -> dict[str, str]:
    """Return the address that the issuer has verified, or says nothing about having verified."""
    email = claims.get("email")
    is_verified = str(claims.get("email_verified", True)).lower() == "true"
    if (
        not is_verified
        or not isinstance(email, str)
        or len(email) > LONGEST_EMAIL
        or not _EMAIL.fullmatch(email)
    ):
        return {}
    return {"email": email.lower()}
