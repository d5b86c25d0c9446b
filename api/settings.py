"""The settings: one frozen record, read once from the environment and `.env`.

In charge of names, defaults, meaning and validity of every setting. Generated secrets are in `api.keys`; what
a contract's limits are when nobody overrides them is the contract's own business.
"""

import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.headerregistry import Address, HeaderRegistry
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints
from urllib.parse import urlsplit

import msgspec

from api.failures import Failure
from api.keys import ES256, SigningKey
from api.mailer import SmtpServer, ascii_domain

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Limits = Mapping[str, Mapping[str, "Limit"]]

WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
AUDIENCES = frozenset({"anonymous", "user", "organization", "token", "webhook"})
MINIMUM_SECRET_BYTES = 32
JWT_EXPIRY_SECONDS = range(120, 604_801)
# A star right after the host would match other hosts that begin alike.
_REDIRECT_URL = re.compile(
    r"[a-z][a-z0-9+.-]*://[^\s*/?#\\@]+(?:[/?#][^\s*\\]*\*?)?", re.ASCII | re.IGNORECASE
)


class SettingsError(Failure):
    """A setting has a value that cannot be used; the text names its variable."""


class Limit(msgspec.Struct, frozen=True):
    """How many requests one subject may make in one window that is aligned to the clock."""

    count: int
    window_seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `1000/hour` (second, minute, hour or day). Raises ValueError."""
        count, _, window = (part.strip() for part in text.partition("/"))
        if not (count.isascii() and count.isdigit()) or int(count) < 1 or window not in WINDOWS:
            raise ValueError(f"a limit such as 1000/hour (second, minute, hour or day), not {text!r}")
        return cls(int(count), WINDOWS[window])


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An outside party, such as Cognito, whose JWTs are accepted."""

    issuer: str
    audience: str
    jwks_url: str


@dataclass(frozen=True, slots=True)
class Env:
    """Where a field comes from: its variable, a line of meaning, and how its text is read."""

    name: str
    meaning: str
    read: Callable[[str], Any] = str
    internal: bool = False


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 65536:
        raise ValueError(f"a port from 1 to 65535, not {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"a whole number from 1 up, not {text!r}")
    return int(text)


def _flag(text: str) -> bool:
    word = text.lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"true or false, not {text!r}")


def _major(text: str) -> int:
    if text not in {"16", "18"}:
        raise ValueError(f"16 or 18, not {text!r}")
    return int(text)


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _email(text: str) -> str:
    name, _, domain = text.partition("@")
    if not name or not domain or any(character.isspace() for character in text):
        raise ValueError(f"an e-mail address, not {text!r}")
    return text


def _sender(text: str) -> Address:
    header: Any = HeaderRegistry()("from", text)
    try:
        (address,) = header.addresses
        sender = Address(address.display_name, address.username, ascii_domain(address.domain))
    except ValueError:
        sender = None
    if sender is None or header.defects:
        raise ValueError(f"one address such as Deskbase <desk@example.com>, not {text!r}")
    return sender


def _url(*schemes: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        scheme, separator, rest = text.partition("://")
        if not separator or not rest or scheme not in schemes:
            raise ValueError(f"an address that starts with {' or '.join(s + '://' for s in schemes)}")
        return text

    return read


_database_url = _url("postgresql", "postgres")
_web_url = _url("http", "https")


def _base_url(text: str) -> str:
    return _web_url(text).rstrip("/")


def _secret(text: str) -> str:
    if len(text.encode()) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"at least {MINIMUM_SECRET_BYTES} characters long")
    return text


def _signing_key(text: str) -> str:
    if text != ES256:
        try:
            SigningKey(text)
        except ValueError as error:
            raise ValueError(f"{ES256} or {error}") from None
    return text


def _jwt_expiry(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) not in JWT_EXPIRY_SECONDS:
        raise ValueError(
            f"seconds from {JWT_EXPIRY_SECONDS.start} to {JWT_EXPIRY_SECONDS.stop - 1}, not {text!r}"
        )
    return int(text)


def _redirect_urls(text: str) -> tuple[str, ...]:
    urls = tuple(url for part in text.split(",") if (url := part.strip()))
    for url in urls:
        if not _REDIRECT_URL.fullmatch(url):
            raise ValueError(f"addresses such as https://app.example.com/*, separated by commas, not {url!r}")
    return urls


def _limits(text: str) -> dict[str, dict[str, Limit]]:
    try:
        contracts = msgspec.json.decode(text, type=dict[str, dict[str, str]])
    except msgspec.DecodeError as error:
        raise ValueError(f'JSON such as {{"rest": {{"user": "600/minute"}}}} ({error})') from error
    for contract, limits in contracts.items():
        for audience in limits.keys() - AUDIENCES:
            raise ValueError(f"made of {', '.join(sorted(AUDIENCES))} inside {contract!r}, not {audience!r}")
    return {
        contract: {audience: Limit.parse(limit) for audience, limit in limits.items()}
        for contract, limits in contracts.items()
    }


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(f"networks such as 10.0.0.0/8, separated by commas ({error})") from error


def _issuers(text: str) -> tuple[Issuer, ...]:
    try:
        issuers = msgspec.json.decode(text, type=tuple[Issuer, ...])
    except msgspec.DecodeError as error:
        raise ValueError(f"a JSON list of objects with issuer, audience and jwks_url ({error})") from error
    for each in issuers:
        if not (each.issuer and each.audience and each.jwks_url.startswith(("http://", "https://"))):
            raise ValueError("a list with no empty issuer or audience, and with web addresses as jwks_url")
    if len({each.issuer for each in issuers}) < len({(each.issuer, each.jwks_url) for each in issuers}):
        raise ValueError("a list in which each issuer has one jwks_url")
    return issuers


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """Every setting. It prints without its values, because many of them are secret."""

    port: Annotated[int, Env("DESKBASE_PORT", "the port it listens on", _port)] = 8000
    host: Annotated[str, Env("DESKBASE_HOST", "the address it listens on")] = "127.0.0.1"
    data_dir: Annotated[
        Path,
        Env("DESKBASE_DATA_DIR", "embedded database, files, outgoing mail and generated secrets", _path),
    ] = dataclasses.field(default_factory=lambda: _path(".deskbase"))
    database_url: Annotated[
        str,
        Env("DESKBASE_DATABASE_URL", "any Postgres 15 or newer; empty: the embedded one", _database_url),
    ] = ""
    db_port: Annotated[
        int | None,
        Env(
            "DESKBASE_DB_PORT",
            "loopback port of the embedded Postgres; empty: 54322 or the next free one, then kept",
            _port,
        ),
    ] = None
    embedded_postgres: Annotated[
        int,
        Env("DESKBASE_EMBEDDED_POSTGRES", "major version of a new embedded database, 16 or 18", _major),
    ] = 18
    jwt_secret: Annotated[
        str,
        Env("DESKBASE_JWT_SECRET", "signs JWTs; empty: made once and kept in the data folder", _secret),
    ] = ""
    jwt_signing_key: Annotated[
        str,
        Env(
            "DESKBASE_JWT_SIGNING_KEY",
            "signs access tokens; empty: the JWT secret; `ES256`: a key made once and kept in the data "
            "folder; or a private JWK",
            _signing_key,
        ),
    ] = ""
    jwt_expiry: Annotated[
        int, Env("DESKBASE_JWT_EXPIRY", "seconds that an access token lives, from 120 to 604800", _jwt_expiry)
    ] = 3600
    admin_email: Annotated[
        str, Env("DESKBASE_ADMIN_EMAIL", "the first admin, made when there is none", _email)
    ] = "admin@example.com"
    admin_password: Annotated[
        str, Env("DESKBASE_ADMIN_PASSWORD", "the first admin's password; empty: made and printed once")
    ] = ""
    smtp: Annotated[
        SmtpServer | None,
        Env(
            "DESKBASE_SMTP_URL",
            "outgoing mail; empty: .eml files in mail/ of the data folder",
            SmtpServer.parse,
        ),
    ] = None
    mail_from: Annotated[
        Address | None,
        Env(
            "DESKBASE_MAIL_FROM",
            "sender of outgoing mail; empty: no-reply at the host of DESKBASE_PUBLIC_URL",
            _sender,
        ),
    ] = None
    autoconfirm: Annotated[
        bool, Env("DESKBASE_AUTOCONFIRM", "new accounts need no confirmation by mail", _flag)
    ] = False
    public_url: Annotated[
        str, Env("DESKBASE_PUBLIC_URL", "used in links; empty: http://HOST:PORT", _base_url)
    ] = ""
    redirect_urls: Annotated[
        tuple[str, ...],
        Env(
            "DESKBASE_REDIRECT_URLS",
            "addresses that links in mails may lead back to, separated by commas; `*` at the end of one "
            "matches what follows; the public URL always may",
            _redirect_urls,
        ),
    ] = ()
    workers: Annotated[int, Env("DESKBASE_WORKERS", "API processes", _positive)] = 1
    postgrest_bin: Annotated[
        str, Env("DESKBASE_POSTGREST_BIN", "PostgREST; empty: the one on PATH, else the pinned npm package")
    ] = ""
    facebook_app_secret: Annotated[
        str, Env("DESKBASE_FACEBOOK_APP_SECRET", "the first organization's; empty: its webhook answers 403")
    ] = ""
    facebook_verify_token: Annotated[
        str, Env("DESKBASE_FACEBOOK_VERIFY_TOKEN", "the first organization's; empty: its webhook answers 403")
    ] = ""
    whatsapp_app_secret: Annotated[
        str, Env("DESKBASE_WHATSAPP_APP_SECRET", "the first organization's; empty: its webhook answers 403")
    ] = ""
    whatsapp_verify_token: Annotated[
        str, Env("DESKBASE_WHATSAPP_VERIFY_TOKEN", "the first organization's; empty: its webhook answers 403")
    ] = ""
    twitter_consumer_secret: Annotated[
        str,
        Env("DESKBASE_TWITTER_CONSUMER_SECRET", "the first organization's; empty: its webhook answers 403"),
    ] = ""
    chatbot_secret: Annotated[
        str, Env("DESKBASE_CHATBOT_SECRET", "the first organization's; empty: its webhook answers 403")
    ] = ""
    incoming_webhook_secret: Annotated[
        str,
        Env("DESKBASE_INCOMING_WEBHOOK_SECRET", "the first organization's; empty: its webhook answers 403"),
    ] = ""
    limits: Annotated[
        Limits,
        Env("DESKBASE_LIMITS", "JSON that overrides each contract's documented limits", _limits),
    ] = dataclasses.field(default_factory=dict)
    allow_private_targets: Annotated[
        tuple[Network, ...],
        Env(
            "DESKBASE_ALLOW_PRIVATE_TARGETS",
            "networks that outgoing webhooks may reach although private",
            _networks,
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Env(
            "DESKBASE_TRUSTED_PROXIES",
            "networks of proxies in front, whose X-Forwarded-For says where a request comes from",
            _networks,
        ),
    ] = ()
    issuers: Annotated[
        tuple[Issuer, ...],
        Env(
            "DESKBASE_ISSUERS",
            "JSON list of outside JWT issuers: issuer, audience, jwks_url",
            _issuers,
        ),
    ] = ()
    authenticator_url: Annotated[
        str,
        Env(
            "DESKBASE_AUTHENTICATOR_URL",
            "database login of the API and PostgREST; empty: worked out by `deskbase up`",
            _database_url,
            internal=True,
        ),
    ] = ""
    postgrest_url: Annotated[
        str,
        Env(
            "DESKBASE_POSTGREST_URL",
            "where `deskbase up` runs PostgREST; empty: it could not be had",
            _base_url,
            internal=True,
        ),
    ] = ""

    @classmethod
    def load(
        cls, environ: Mapping[str, str] = os.environ, dotenv_path: Path | None = Path(".env")
    ) -> "Settings":
        """Read the environment, and `.env` for what it does not set. Raises SettingsError."""
        values = {**read_dotenv(dotenv_path), **{k: v for k, v in environ.items() if v}}
        given = {field: _read(env, values[env.name]) for field, env in variables() if values.get(env.name)}
        settings = cls(**given)
        return settings if settings.public_url else dataclasses.replace(settings, public_url=settings.api_url)

    @property
    def sender(self) -> Address:
        """Whom outgoing mail is from."""
        if self.mail_from:
            return self.mail_from
        host = urlsplit(self.public_url).hostname or "localhost"
        literal = f"[IPv6:{host}]" if ":" in host else f"[{host}]" if host[-1:].isdigit() else host
        return Address("Deskbase", "no-reply", ascii_domain(literal))

    @property
    def api_url(self) -> str:
        """Where a program on this machine reaches the API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def limits_of(self, contract: str, defaults: Mapping[str, Limit]) -> dict[str, Limit]:
        """Return the contract's documented limits with what DESKBASE_LIMITS overrides."""
        return {**defaults, **self.limits.get(contract, {})}


def variables() -> Iterator[tuple[str, Env]]:
    """Yield every field's name with its variable, in the order in which they are declared."""
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        for env in getattr(hint, "__metadata__", ()):
            yield name, env


def _read(env: Env, text: str) -> Any:
    try:
        return env.read(text)
    except ValueError as error:
        raise SettingsError(f"{env.name} must be {error}.") from error


def read_dotenv(path: Path | None) -> dict[str, str]:
    """Read `NAME=value` lines (`export`, quotes and # comments are understood); no file is no lines."""
    if path is None or not path.is_file():
        return {}
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        if not separator:
            raise SettingsError(f"Line {number} of {path} is not of the form NAME=value.")
        values[name.strip()] = _unquote(value.strip())
    return values


def _unquote(value: str) -> str:
    if value[:1] in {'"', "'"} and (end := value.find(value[0], 1)) > 0:
        return value[1:end]
    return value.split(" #", 1)[0].rstrip()
