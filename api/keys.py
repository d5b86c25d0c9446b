"""The project's secrets: what is generated once and kept in the data folder, and what follows from it.

In charge of `secrets.json` (readable by its owner alone), of the API keys and of the key that signs access
tokens where the secret does not. API keys and the login password of `authenticator` are derived from the JWT
secret, so every machine that is given the same one has the same. Verifying what a request carries is left to
`api.credentials`.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from api.failures import Failure

FILE = "secrets.json"
ISSUER = "supabase"
ES256 = "ES256"
# Fixed, so that the same secret gives the same keys after every restart: from 2025 to 2100.
ISSUED_AT = 1_735_689_600
EXPIRES_AT = 4_102_444_800


class KeysError(Failure):
    """The file of generated secrets cannot be used."""


class Secrets(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is generated when a data folder is first used, and the signing key when that is first wanted."""

    jwt_secret: str
    admin_password: str
    postgres_password: str
    jwt_signing_key: str = ""


class ApiKeys(msgspec.Struct, frozen=True):
    """The four keys that Supabase clients may be created with."""

    anon: str
    service_role: str
    publishable: str
    secret: str


class _PrivateJwk(msgspec.Struct, frozen=True):
    """What of a private JWK (RFC 7517) counts."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: str
    y: str
    d: str
    kid: str = ""
    alg: Literal["ES256"] = "ES256"
    use: Literal["sig"] = "sig"


class SigningKey:
    """A key that signs access tokens (ES256), and its public half, which anyone may have."""

    def __init__(self, private_jwk: str) -> None:
        """Read a private JWK. Raises ValueError, which does not quote it."""
        try:
            given = msgspec.json.decode(private_jwk, type=_PrivateJwk)
            self._private = jwt.PyJWK(msgspec.structs.asdict(given)).key
            public = ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        except (msgspec.MsgspecError, jwt.PyJWTError, ValueError):
            raise ValueError("a private JWK of an EC key on P-256") from None
        self.private_jwk = private_jwk
        self.kid = given.kid or _thumbprint(public)
        self.public_jwk: dict[str, Any] = public | {
            "kid": self.kid,
            "alg": ES256,
            "use": "sig",
            "key_ops": ["verify"],
            "ext": True,
        }
        self.public = jwt.PyJWK(self.public_jwk)

    def sign(self, claims: dict[str, Any]) -> str:
        """Return a JWT with these claims."""
        return jwt.encode(claims, self._private, algorithm=ES256, headers={"kid": self.kid})


def load_secrets(data_dir: Path) -> Secrets | None:
    """Return the data folder's secrets, or None if it has none yet. Raises KeysError."""
    path = data_dir / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Secrets)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise KeysError(f"{path} belongs to another user; run this command as that user.") from error
    except msgspec.DecodeError as error:
        raise KeysError(f"{path} is damaged ({error}); restore it or move it away.") from error


def load_or_create_secrets(data_dir: Path) -> Secrets:
    """Return the data folder's secrets, making them the first time."""
    if existing := load_secrets(data_dir):
        return existing
    made = Secrets(
        jwt_secret=secrets.token_urlsafe(48),
        admin_password=secrets.token_urlsafe(15),
        postgres_password=secrets.token_urlsafe(24),
    )
    _write_once(data_dir / FILE, made)
    return load_secrets(data_dir) or made


def signing_key(wanted: str, data_dir: Path) -> SigningKey | None:
    """Return the key that DESKBASE_JWT_SIGNING_KEY means; None if the secret is to sign.

    The key that ES256 means is made and kept in the data folder the first time. Raises KeysError.
    """
    if wanted != ES256:
        return SigningKey(wanted) if wanted else None
    try:
        return SigningKey(_kept_signing_key(data_dir))
    except ValueError as error:
        raise KeysError(f"{data_dir / FILE} is damaged: jwt_signing_key is not {error}.") from error


def api_keys(jwt_secret: str) -> ApiKeys:
    """Return the API keys that belong to this JWT secret."""
    return ApiKeys(
        anon=_role_key(jwt_secret, "anon"),
        service_role=_role_key(jwt_secret, "service_role"),
        publishable=_short_key(jwt_secret, "sb_publishable_"),
        secret=_short_key(jwt_secret, "sb_secret_"),
    )


def authenticator_password(jwt_secret: str) -> str:
    """Return the login password that `authenticator` gets on a database of ours."""
    return _encode(_derive(jwt_secret, "authenticator"))


def mail_code_hash(jwt_secret: str, email: str, code: str) -> str:
    """Return what the database keeps of a mail's code: nobody without the secret can try the million."""
    key = _derive(jwt_secret, "mail codes")
    return hmac.new(key, f"{email.lower()}:{code}".encode(), hashlib.sha256).hexdigest()


def refresh_token_after(jwt_secret: str, token: str) -> str:
    """Return the refresh token that follows this one: the same each time, and nobody else can work it out."""
    key = _derive(jwt_secret, "refresh tokens")
    return _encode(hmac.digest(key, token.encode(), hashlib.sha256))


def secret_jwk(jwt_secret: str) -> dict[str, Any]:
    """Return the secret as a JWK."""
    return {"kty": "oct", "alg": "HS256", "k": _encode(jwt_secret.encode())}


def jwks(jwt_secret: str, signing: SigningKey | None = None) -> str:
    """Return the key set that PostgREST verifies JWTs with: the secret, and the signing key's public half.

    Not the bare secret, because PostgREST reads a text that starts with @ as the name of a file.
    """
    keys = [secret_jwk(jwt_secret), *([signing.public_jwk] if signing else [])]
    return msgspec.json.encode({"keys": keys}).decode()


def public_jwks(signing: SigningKey | None) -> bytes:
    """Return the key set that anyone may verify access tokens with; the secret is in none."""
    return msgspec.json.encode({"keys": [signing.public_jwk] if signing else []})


def _role_key(jwt_secret: str, role: str) -> str:
    claims = {"iss": ISSUER, "role": role, "iat": ISSUED_AT, "exp": EXPIRES_AT}
    return jwt.encode(claims, jwt_secret, algorithm="HS256")


def _short_key(jwt_secret: str, prefix: str) -> str:
    digest = _derive(jwt_secret, prefix)
    return f"{prefix}{_encode(digest[:16])}_{_encode(digest[16:22])}"


def _thumbprint(public: dict[str, Any]) -> str:
    """Return the name that follows from an EC key itself (RFC 7638)."""
    members = {name: public[name] for name in ("crv", "kty", "x", "y")}
    return _encode(hashlib.sha256(msgspec.json.encode(members)).digest())


def _derive(jwt_secret: str, purpose: str) -> bytes:
    return hmac.digest(jwt_secret.encode(), b"deskbase " + purpose.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _kept_signing_key(data_dir: Path) -> str:
    """Return the private JWK of the data folder, making it the first time."""
    if kept := load_or_create_secrets(data_dir).jwt_signing_key:
        return kept
    with _alone(data_dir):
        existing = load_or_create_secrets(data_dir)
        if existing.jwt_signing_key:
            return existing.jwt_signing_key
        made = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))
        _replace(data_dir / FILE, msgspec.structs.replace(existing, jwt_signing_key=made))
    return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the secrets in the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_once(path: Path, content: Secrets) -> None:
    """Put the file there whole and private, unless another process was first."""
    with _draft(path, content) as draft, contextlib.suppress(FileExistsError):
        os.link(draft, path)


def _replace(path: Path, content: Secrets) -> None:
    """Put the file there whole and private, in place of the one that is there."""
    with _draft(path, content) as draft:
        draft.replace(path)


@contextlib.contextmanager
def _draft(path: Path, content: Secrets) -> Iterator[Path]:
    """Give a file beside the path that holds all of the content; afterwards it is gone or has been moved."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
