"""The project's secrets: what is generated once and kept in the data folder, and what follows from it.

In charge of `secrets.json` (readable by its owner alone) and of the API keys. API keys and the login password
of `authenticator` are derived from the JWT secret, so every machine that is given the same one has the same.
Verifying what a request carries is left to `api.credentials`.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

import jwt
import msgspec

from api.failures import Failure

FILE = "secrets.json"
ISSUER = "supabase"
# Fixed, so that the same secret gives the same keys after every restart: from 2025 to 2100.
ISSUED_AT = 1_735_689_600
EXPIRES_AT = 4_102_444_800


class KeysError(Failure):
    """The file of generated secrets cannot be used."""


class Secrets(msgspec.Struct, frozen=True):
    """What is generated when a data folder is first used."""

    jwt_secret: str
    admin_password: str
    postgres_password: str


class ApiKeys(msgspec.Struct, frozen=True):
    """The four keys that Supabase clients may be created with."""

    anon: str
    service_role: str
    publishable: str
    secret: str


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
    _write_once(data_dir / FILE, msgspec.json.format(msgspec.json.encode(made)))
    return load_secrets(data_dir) or made


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


def jwks(jwt_secret: str) -> str:
    """Return the secret as the key set that PostgREST verifies JWTs with.

    Not the bare text, because PostgREST reads a text that starts with @ as the name of a file.
    """
    key = {"kty": "oct", "alg": "HS256", "k": _encode(jwt_secret.encode())}
    return msgspec.json.encode({"keys": [key]}).decode()


def _role_key(jwt_secret: str, role: str) -> str:
    claims = {"iss": ISSUER, "role": role, "iat": ISSUED_AT, "exp": EXPIRES_AT}
    return jwt.encode(claims, jwt_secret, algorithm="HS256")


def _short_key(jwt_secret: str, prefix: str) -> str:
    digest = _derive(jwt_secret, prefix)
    return f"{prefix}{_encode(digest[:16])}_{_encode(digest[16:22])}"


def _derive(jwt_secret: str, purpose: str) -> bytes:
    return hmac.digest(jwt_secret.encode(), b"deskbase " + purpose.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _write_once(path: Path, content: bytes) -> None:
    """Put the file there whole and private, unless another process was first."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.") as draft:
        draft.write(content + b"\n")
        draft.flush()
        os.fsync(draft.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, path)
