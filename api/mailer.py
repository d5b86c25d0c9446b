"""The mailer: hands a message to the mail server, or writes it into a folder where there is none.

In charge of that conversation: encryption, log-in, time-outs, and whether a failure is for good. What a
message says is `api.mails`' business; trying again is the queue's.
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import secrets
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import unquote, urlsplit

import idna
import msgspec

STEP_SECONDS = 10.0
SEND_SECONDS = 25.0
_QUIT_SECONDS = 1.0
_CHOICES = {"": None, "starttls=required": True, "starttls=never": False}
_HOW_TO_WRITE_IT = (
    "smtp://user:password@host:port or smtps://…, with signs such as @ and # written as %40 and %23"
)
_BY_POLICY = "5.7."
"""Enhanced status of "not from you" (RFC 3463), as a relay says that does not know us."""

_DOMAIN = re.compile(r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]")


class MailError(Exception):
    """A message could not be sent. `word` says why; a final one would end the same way every time."""

    def __init__(self, word: str, code: int | None = None, *, is_final: bool = False) -> None:
        self.word = word
        self.code = code
        self.is_final = is_final
        super().__init__(word)


class Mailer(Protocol):
    """Whatever takes messages."""

    async def send(self, message: EmailMessage) -> None:
        """Send the message to the one recipient in it, or raise MailError."""


class SmtpServer(msgspec.Struct, frozen=True):
    """The mail server that messages are handed to.

    `start_tls` is for a conversation that begins in clear: True demands encryption, None takes it if offered.
    """

    host: str
    port: int
    user: str | None
    password: str | None
    use_tls: bool
    start_tls: bool | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `smtp://user:password@host:587` or `smtps://…`. Raises ValueError, which does not quote it.

        A password travels encrypted or not at all, but to this machine, where encryption is taken if it is
        offered and nobody's certificate is asked for. `?starttls=required` demands both; `?starttls=never` is
        for a relay without log-in whose certificate cannot be verified.
        """
        try:
            return cls._read(text)
        except (ValueError, KeyError):
            raise ValueError(_HOW_TO_WRITE_IT) from None

    @classmethod
    def _read(cls, text: str) -> Self:
        parts = urlsplit(text)
        host, user, use_tls = parts.hostname or "", parts.username, parts.scheme == "smtps"
        if parts.scheme not in {"smtp", "smtps"} or not host or parts.path not in {"", "/"} or parts.fragment:
            raise ValueError
        start_tls = _CHOICES[parts.query]
        is_local = _is_local(host)
        if start_tls is not None and (use_tls or (user and not start_tls and not is_local)):
            raise ValueError
        if not parts.query:
            start_tls = False if use_tls else True if user and not is_local else None
        return cls(
            host=host,
            port=parts.port or (465 if use_tls else 587 if user else 25),
            user=unquote(user) if user else None,
            password=unquote(parts.password or "") if user else None,
            use_tls=use_tls,
            start_tls=start_tls,
        )


class SmtpMailer:
    """Sends each message over a connection of its own."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server

    async def send(self, message: EmailMessage) -> None:
        """Hand the message over, within SEND_SECONDS. Raises MailError."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._converse(message)
        except TimeoutError as error:
            raise MailError("timeout") from error
        except OSError as error:
            raise MailError("unreachable") from error

    async def _converse(self, message: EmailMessage) -> None:
        # The settings import this module, and few who read them send mail.
        import aiosmtplib

        sender, recipient = (message[name].addresses[0] for name in ("From", "To"))
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            local_hostname=sender.domain,
            timeout=STEP_SECONDS,
            use_tls=server.use_tls,
            start_tls=server.start_tls,
            tls_context=self._tls_context,
        )
        # Not `async with`: when it is interrupted, that waits for the server to say goodbye.
        try:
            with _failures_in_words():
                await client.connect()
                await client.send_message(message, sender=sender.addr_spec, recipients=[recipient.addr_spec])
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit(timeout=_QUIT_SECONDS)
        finally:
            client.close()

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        """Reading the machine's certificates takes long, so once."""
        context = ssl.create_default_context()
        if self._server.start_tls is None and _is_local(self._server.host):
            # Local certificates seldom name this machine, and the same without encryption would do.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


class FolderMailer:
    """Writes each message into a file, whose names sort by time. Its owner alone can read them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, message: EmailMessage) -> None:
        """Write the message. Raises MailError."""
        try:
            await asyncio.to_thread(self._write, message)
        except OSError as error:
            raise MailError("folder") from error

    def _write(self, message: EmailMessage) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.eml"
        draft = self._folder / f".{name}"
        is_ascii = message["To"].addresses[0].addr_spec.isascii()
        content = message.as_bytes(policy=policy.default.clone(utf8=not is_ascii))
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._folder / name)


def create_mailer(server: SmtpServer | None, folder: Path) -> Mailer:
    """Return what sends to the server, or without one, writes into the folder."""
    return SmtpMailer(server) if server else FolderMailer(folder)


def ascii_domain(domain: str) -> str:
    """Return a domain in the form that every mail server understands. Raises ValueError."""
    encoded = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    if not _DOMAIN.fullmatch(encoded):
        raise ValueError(domain)
    return encoded


@contextlib.contextmanager
def _failures_in_words() -> Iterator[None]:
    """Turn what can go wrong in a conversation into MailError."""
    import aiosmtplib

    try:
        yield
    except aiosmtplib.SMTPRecipientsRefused as error:
        refusal = error.recipients[0]
        raise _refused(refusal.code, refusal.message) from error
    except aiosmtplib.SMTPAuthenticationError as error:
        raise MailError("login", error.code) from error
    except aiosmtplib.SMTPResponseException as error:
        raise MailError("deferred" if error.code < 500 else "rejected", error.code) from error
    except aiosmtplib.SMTPTimeoutError as error:
        raise MailError("timeout") from error
    except (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPServerDisconnected) as error:
        is_tls = isinstance(error.__cause__, ssl.SSLError)
        raise MailError("encryption" if is_tls else "unreachable") from error
    except ssl.SSLError as error:
        raise MailError("encryption") from error
    except aiosmtplib.SMTPException as error:  # no STARTTLS, no log-in, no addresses beyond ASCII
        raise MailError("unsupported") from error
    except ValueError as error:
        raise MailError("address", is_final=True) from error


def _refused(code: int, message: str) -> MailError:
    if code < 500:
        return MailError("deferred", code)
    if code == 530 or message.startswith(_BY_POLICY):
        return MailError("rejected", code)
    return MailError("refused", code, is_final=True)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
