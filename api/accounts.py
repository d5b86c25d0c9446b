"""Accounts: signing up, logging in and everything else that a person does with their own account.

In charge of what Postgres cannot do for `supabase/auth.sql`: comparing and hashing passwords, making tokens
and codes (the database is given their hashes alone), signing access tokens. Every way in that logs people in
stands on this: `/auth/v1` and the log-ins of the contracts. Words of refusals are Supabase Auth's.
"""

import hashlib
import re
import secrets
import time
from typing import Any, NamedTuple

import msgspec

from api.credentials import Credentials
from api.db import Database, Param, Row
from api.errors import ApiError
from api.keys import mail_code_hash, refresh_token_after
from api.passwords import LONGEST_BYTES, SHORTEST, Passwords, is_known_hash
from api.second_factors import new_secret, qr_code, step_of, uri
from api.settings import Settings

SIGN_UP = b"select claims, person, refusal from auth_service.sign_up($1, $2, $3, $4, $5, $6, $7)"
BEGIN_LOGIN = b"select user_id, stored, wait_seconds, allowed from auth_service.begin_login($1, $2)"
FINISH_LOGIN = (
    b"select claims, person, refusal, wait_seconds, allowed "
    b"from auth_service.finish_login($1, $2, $3, $4, $5, $6, $7, $8)"
)
HASH_CHANGED = b"hash_changed"
MOST_COMPARISONS = 3
"""A hash may be replaced by a better one while it is compared, and seldom twice."""

REFRESH = b"select claims, person, refusal from auth_service.refresh($1, $2, $3)"
EXCHANGE_CODE = (
    b"select claims, person, refusal, wait_seconds, allowed from auth_service.exchange_code($1, $2, $3, $4)"
)
VERIFY = (
    b"select claims, person, refusal, wait_seconds, allowed, has_code, is_half_done "
    b"from auth_service.verify($1, $2, $3, $4, $5, $6, $7)"
)
GET_USER = b"select auth_service.get_user($1)"
PASSWORD_OF = b"select auth_service.password_of($1)"
UPDATE_USER = b"select auth_service.update_user($1, $2, $3, $4, $5, $6, $7)"
LOG_OUT = b"select auth_service.log_out($1, $2)"
REQUEST_MAIL = b"select auth_service.request_mail($1, $2, $3, $4)"
REAUTHENTICATE = b"select auth_service.reauthenticate($1)"
ENROLL = b"select id, email from auth_service.enroll_factor($1, $2, $3)"
CHALLENGE = b"select auth_service.challenge_factor($1, $2, $3)"
BEGIN_VERIFY_FACTOR = (
    b"select secret, wait_seconds, allowed from auth_service.begin_verify_factor($1, $2, $3)"
)
FINISH_VERIFY_FACTOR = (
    b"select session_claims, person, refusal, wait_seconds, allowed "
    b"from auth_service.finish_verify_factor($1, $2, $3, $4, $5)"
)
UNENROLL = b"select auth_service.unenroll_factor($1, $2)"

REFUSALS = {
    "bad_code_verifier": (400, "code challenge does not match previously saved code verifier"),
    "email_not_confirmed": (400, "Email not confirmed"),
    "flow_state_not_found": (404, "invalid flow state, no valid flow state found"),
    "hash_changed": (503, "The password has just been changed; try again"),
    "invalid_credentials": (400, "Invalid login credentials"),
    "mfa_challenge_expired": (422, "MFA challenge has expired, verify against another challenge"),
    "mfa_verification_failed": (422, "Invalid TOTP code entered"),
    "otp_expired": (403, "Token has expired or is invalid"),
    "over_request_rate_limit": (429, "Too many wrong attempts; try again later"),
    "refresh_token_already_used": (400, "Invalid Refresh Token: Already Used"),
    "refresh_token_not_found": (400, "Invalid Refresh Token: Refresh Token Not Found"),
    "session_expired": (400, "Invalid Refresh Token: Session Expired"),
    "session_not_found": (403, "Session from session_id claim in JWT does not exist"),
    "user_banned": (400, "User is banned"),
}
"""What the database answers as `refusal`, because something of it must last: the status and the sentence."""

LARGEST_METADATA = 8192
"""Bytes of JSON: it is part of every access token, which has to fit into a header."""

LONGEST_LABEL = 80
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+")
_LONGEST_EMAIL = 255


class Visitor(NamedTuple):
    """Where a request comes from."""

    address: str
    agent: str | None = None

    def json(self) -> bytes:
        """Return it as what a session keeps of it."""
        return msgspec.json.encode({"address": self.address, "agent": self.agent})


class MailOptions(NamedTuple):
    """What whoever asks for a mail says about its link."""

    redirect_to: str | None = None
    code_challenge: str | None = None
    code_challenge_method: str | None = None

    def json(self) -> bytes:
        """Return what is given of it."""
        return msgspec.json.encode({name: text for name, text in self._asdict().items() if text})


class Opened(NamedTuple):
    """What following a link led to: a session, a code for whoever holds its verifier, or half a change."""

    session: bytes | None = None
    code: str | None = None


class WeakPasswordError(ApiError):
    """A password that is too short, too long or too common; `reasons` are Supabase Auth's words."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        sentence = (
            f"Password should be at least {SHORTEST} characters and at most {LONGEST_BYTES} bytes long."
            if "length" in reasons
            else "Password is known to be weak and easy to guess, please choose a different one."
        )
        super().__init__(422, "weak_password", sentence)


class Accounts:
    """The use cases. Each answers JSON bytes, or raises ApiError."""

    def __init__(
        self, db: Database, credentials: Credentials, passwords: Passwords, settings: Settings
    ) -> None:
        self._db = db
        self._credentials = credentials
        self._passwords = passwords
        self._settings = settings
        self._issuer = f"{settings.public_url}/auth/v1"

    # In and out

    async def sign_up(
        self, email: str, password: str, data: bytes, mail: MailOptions, visitor: Visitor
    ) -> bytes:
        """Make an account; answer a session if accounts confirm themselves, else the account to confirm."""
        address, metadata = normal_email(email), metadata_in(data)
        hashed = await self.hashed(password)
        token = new_token()
        row = await self._db.one(
            SIGN_UP,
            (
                address,
                hashed,
                metadata,
                mail.json(),
                self._settings.autoconfirm,
                digest(token),
                visitor.json(),
            ),
        )
        return self._session(row, token) if row[0] else self._person(row)

    async def log_in(self, email: str, password: str, visitor: Visitor) -> bytes:
        """Log in with a password. An unknown account takes as long as a wrong password."""
        token = new_token()
        for _ in range(MOST_COMPARISONS):
            user_id, stored, *lock = await self._db.one(BEGIN_LOGIN, (email, visitor.address))
            _check_lock(*lock)
            verdict = await self._passwords.verify(password, stored.decode() if stored else None)
            row = await self._db.one(
                FINISH_LOGIN,
                (
                    email,
                    visitor.address,
                    user_id,
                    verdict.matches,
                    stored,
                    verdict.rehash,
                    digest(token),
                    visitor.json(),
                ),
            )
            if row[2] != HASH_CHANGED:
                break
        return self._session(row, token)

    async def refresh(self, token: str, visitor: Visitor) -> bytes:
        """Exchange a refresh token for a new session text."""
        # The next one follows from this one, so a client that did not hear the answer can be given it again.
        following = refresh_token_after(self._settings.jwt_secret, token)
        row = await self._db.one(REFRESH, (digest(token), digest(following), visitor.json()))
        return self._session(row, following)

    async def exchange_code(self, code: str, verifier: str, visitor: Visitor) -> bytes:
        """Finish a log-in by link with the verifier of its challenge."""
        token = new_token()
        row = await self._db.one(EXCHANGE_CODE, (digest(code), verifier, digest(token), visitor.json()))
        return self._session(row, token)

    async def log_out(self, claims: bytes, scope: str) -> None:
        """End sessions: `global`, `local` or `others`."""
        await self._db.one(LOG_OUT, (claims, scope))

    # Mails and their links

    async def request_mail(
        self, kind: str, email: str, mail: MailOptions, new_user_metadata: bytes | None = None
    ) -> None:
        """Have a mail sent, if there is anybody to send it to; with metadata, make an account if need be."""
        metadata = None if new_user_metadata is None else metadata_in(new_user_metadata)
        await self._db.one(REQUEST_MAIL, (kind, normal_email(email), mail.json(), metadata))

    async def reauthenticate(self, claims: bytes) -> None:
        """Mail the caller a code."""
        await self._db.one(REAUTHENTICATE, (claims,))

    async def follow_link(self, kind: str, token: str, visitor: Visitor, *, by_browser: bool) -> Opened:
        """Take the token of a link, once."""
        return await self._verify(kind, (digest(token), None, None), visitor, by_browser=by_browser)

    async def enter_code(self, kind: str, email: str, code: str, visitor: Visitor) -> Opened:
        """Take the code of a mail, once, with the address that it was sent to."""
        hashed = self.code_hash(normal_email(email), code)
        return await self._verify(kind, (None, email, hashed), visitor, by_browser=False)

    def code_hash(self, email: str, code: str) -> str:
        """Return what is stored of a code."""
        return mail_code_hash(self._settings.jwt_secret, email, code)

    async def _verify(
        self, kind: str, proof: tuple[Param, Param, Param], visitor: Visitor, *, by_browser: bool
    ) -> Opened:
        token, code = new_token(), new_token()
        *row, has_code, is_half_done = await self._db.one(
            VERIFY,
            (kind, *proof, digest(code) if by_browser else None, digest(token), visitor.json()),
        )
        if has_code == b"t":
            return Opened(code=code)
        if is_half_done == b"t":
            return Opened()
        return Opened(session=self._session(tuple(row), token))

    # One's own account

    async def get_user(self, claims: bytes) -> bytes:
        """Answer the caller's account."""
        return _json(await self._db.one(GET_USER, (claims,)))

    async def update_user(
        self,
        claims: bytes,
        mail: MailOptions,
        *,
        email: str | None = None,
        password: str | None = None,
        current_password: str | None = None,
        nonce: str | None = None,
        data: bytes | None = None,
    ) -> bytes:
        """Change the caller's address, password or metadata, and answer the account."""
        address = normal_email(email) if email else None
        metadata = None if data is None else metadata_in(data)
        hashed = await self._new_password(claims, password, current_password) if password else None
        nonce_hash = await self._nonce_hash(claims, nonce) if nonce else None
        row = await self._db.one(
            UPDATE_USER,
            (claims, address, metadata, hashed, nonce_hash, mail.json(), self._settings.autoconfirm),
        )
        return _json(row)

    async def _new_password(self, claims: bytes, password: str, current: str | None) -> str:
        (stored,) = await self._db.one(PASSWORD_OF, (claims,))
        if not stored:
            return await self.hashed(password)
        if current is not None and not (await self._passwords.verify(current, stored.decode())).matches:
            raise _refused("invalid_credentials")
        if (await self._passwords.verify(password, stored.decode())).matches:
            raise ApiError(422, "same_password", "New password should be different from the old password.")
        return await self.hashed(password)

    async def _nonce_hash(self, claims: bytes, nonce: str) -> str:
        email = msgspec.json.decode(await self.get_user(claims))["email"]
        return self.code_hash(email, nonce)

    async def hashed(self, password: str) -> str:
        """Return a new password's hash. Raises WeakPasswordError."""
        if reasons := await self._passwords.weaknesses(password):
            raise WeakPasswordError(reasons)
        return await self._passwords.hash(password)

    # Second factors

    async def enroll(self, claims: bytes, friendly_name: str, issuer: str) -> bytes:
        """Add an authenticator app, and answer what it has to be shown."""
        secret = new_secret()
        id_, email = await self._db.one(ENROLL, (claims, friendly_name, secret))
        # Both names are part of an image that holds two kilobytes.
        address = uri(secret, issuer, (email or b"").decode()[:LONGEST_LABEL])
        return msgspec.json.encode(
            {
                "id": (id_ or b"").decode(),
                "type": "totp",
                "friendly_name": friendly_name,
                "totp": {"qr_code": qr_code(address), "secret": secret, "uri": address},
            }
        )

    async def challenge(self, claims: bytes, factor_id: str, visitor: Visitor) -> bytes:
        """Begin to prove a factor."""
        return _json(await self._db.one(CHALLENGE, (claims, factor_id, visitor.address)))

    async def verify_factor(self, claims: bytes, factor_id: str, challenge_id: str, code: str) -> bytes:
        """Prove a factor: answer the session, raised to `aal2`."""
        secret, *lock = await self._db.one(BEGIN_VERIFY_FACTOR, (claims, factor_id, challenge_id))
        _check_lock(*lock)
        step = step_of((secret or b"").decode(), code, time.time())
        token = new_token()
        row = await self._db.one(FINISH_VERIFY_FACTOR, (claims, factor_id, challenge_id, step, digest(token)))
        return self._session(row, token)

    async def unenroll(self, claims: bytes, factor_id: str) -> None:
        """Take a factor of the caller's away."""
        await self._db.one(UNENROLL, (claims, factor_id))

    # Answers

    def _person(self, row: Row) -> bytes:
        _, person, refusal, *lock = row
        if lock:
            _check_lock(*lock)
        if refusal is not None:
            raise _refused(refusal.decode())
        return person or b"null"

    def _session(self, row: Row, refresh_token: str) -> bytes:
        """Return the session text of a row: claims, person, refusal, a lock. Raises what it refuses."""
        person = self._person(row)
        now = int(time.time())
        lifetime = self._settings.jwt_expiry
        claims = msgspec.json.decode(row[0] or b"{}", type=dict[str, Any])
        claims |= {"iss": self._issuer, "iat": now, "exp": now + lifetime}
        return msgspec.json.encode(
            {
                "access_token": self._credentials.sign(claims),
                "token_type": "bearer",
                "expires_in": lifetime,
                "expires_at": now + lifetime,
                "refresh_token": refresh_token,
                "user": msgspec.Raw(person),
            }
        )


def normal_email(text: str) -> str:
    """Return an address as it is stored. Raises ApiError."""
    address = text.strip().lower()
    if len(address) > _LONGEST_EMAIL or not _EMAIL.fullmatch(address):
        raise invalid("Unable to validate email address: invalid format")
    return address


def metadata_in(data: bytes | None) -> bytes:
    """Return what somebody says about themselves, a JSON object. Raises ApiError if it is too much."""
    text = data or b"{}"
    if len(text) > LARGEST_METADATA:
        raise invalid(f"data may have {LARGEST_METADATA} bytes at most")
    return text


def known_hash(text: str) -> str:
    """Return a password hash that somebody brings along. Raises ApiError if it could never be matched."""
    if not is_known_hash(text):
        raise invalid("password_hash must be an argon2 or bcrypt hash")
    return text


def invalid(sentence: str) -> ApiError:
    """Make the refusal of a value that cannot be used."""
    return ApiError(400, "validation_failed", sentence)


def new_token() -> str:
    """Return 256 random bits as text."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """Return what is stored of a random token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _refused(word: str) -> ApiError:
    status, sentence = REFUSALS[word]
    return ApiError(status, word, sentence)


def _check_lock(wait: bytes | None, allowed: bytes | None) -> None:
    """Refuse what is locked, with how long, and how many wrong guesses it allows, as its limit."""
    if wait is None:
        return
    status, sentence = REFUSALS["over_request_rate_limit"]
    headers = (
        (b"retry-after", wait),
        (b"x-ratelimit-limit", allowed or b""),
        (b"x-ratelimit-remaining", b"0"),
        (b"x-ratelimit-reset", b"%d" % (time.time() + int(wait))),
    )
    raise ApiError(status, "over_request_rate_limit", sentence, headers=headers)


def _json(row: Row) -> bytes:
    (body,) = row
    return body or b"null"
