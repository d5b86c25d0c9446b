"""A mail server that tests send to: real SMTP, certificates of its own, and as unwilling as a test likes.

In charge of remembering what it accepted, and of refusing, keeping waiting and being away on demand.
"""

import asyncio
import contextlib
import ipaddress
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.desk import free_port

HOST = "127.0.0.1"
NAME = "mail.example.test"
"""A name that the certificates have and no resolver knows."""

OK = "250 OK"


@dataclass(frozen=True)
class Authority:
    """Whoever trusts the bundle trusts servers that use the context."""

    bundle: Path
    context: ssl.SSLContext


@dataclass(frozen=True)
class Delivery:
    """A mail that was accepted."""

    sender: str
    recipient: str
    message: EmailMessage
    is_encrypted: bool
    user: str | None


class MailServer:
    """The server. It is away until it is started, and may go and come back at the same port."""

    def __init__(
        self,
        authority: Authority | None = None,
        *,
        is_tls: bool = False,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.replies: deque[str] = deque()
        """What the next recipients are answered; when none is left, they are accepted."""

        self.keeps_waiting = False
        """Whether recipients are kept waiting until it is False again."""

        self.waiting = threading.Semaphore(0)
        """Released for every recipient that is kept waiting."""

        self.deliveries: list[Delivery] = []
        self._login = login
        context = authority.context if authority else None
        self._options = {"ssl_context" if is_tls else "tls_context": context}
        self._controller: Controller | None = None

    @property
    def url(self) -> str:
        return f"smtp://{HOST}:{self.port}"

    @property
    def recipients(self) -> list[str]:
        """Who has been sent something, in order."""
        return [delivery.recipient for delivery in self.deliveries]

    def start(self) -> None:
        """Be there."""
        self._controller = _Controller(
            self,
            hostname=HOST,
            port=self.port,
            authenticator=self._authenticate,
            auth_require_tls=False,
            **self._options,
        )
        self._controller.start()

    def stop(self) -> None:
        """Be away, for those as well who are connected."""
        if self._controller:
            self._controller.stop()
            self._controller = None

    # What aiosmtpd calls

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        given = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode())
        is_right = given == self._login
        return AuthResult(success=is_right, handled=False, auth_data=given[0] if given and is_right else None)

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._login and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return OK

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.keeps_waiting:
            self.waiting.release()
            while self.keeps_waiting:  # noqa: ASYNC110 - it is set in another thread
                await asyncio.sleep(0.02)
        reply = self.replies.popleft() if self.replies else OK
        if reply == OK:
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        (recipient,) = envelope.rcpt_tos
        content = envelope.original_content or b""
        self.deliveries.append(
            Delivery(
                sender=envelope.mail_from or "",
                recipient=recipient,
                message=message_from_bytes(content, policy=policy.default),
                is_encrypted=session.ssl is not None,
                user=session.auth_data,
            )
        )
        return OK


class _Smtp(SMTP):
    """Leaves no connection to be collected as garbage, which would be a warning."""

    transports: list[Any]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transports.append(transport)
        super().connection_made(transport)


class _Controller(Controller):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._transports: list[Any] = []
        super().__init__(*arguments, **options)

    def factory(self) -> SMTP:
        smtp = _Smtp(self.handler, **self.SMTP_kwargs)
        smtp.transports = self._transports
        return smtp

    def stop(self, no_assert: bool = False) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self.loop).result()
        super().stop(no_assert)

    async def _hang_up(self) -> None:
        if self.server:
            self.server.close()
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0.05)  # what follows from it


@contextlib.contextmanager
def running(server: MailServer) -> Iterator[MailServer]:
    """Run the server."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def make_authority(folder: Path) -> Authority:
    """Make an authority and a certificate for HOST and NAME in the folder."""
    root_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = _name("Tests")
    root = (
        _certificate(root_name, root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    names = [x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address(HOST))]
    server = (
        _certificate(_name("A mail server"), root_name, server_key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    bundle, chain = folder / "authority.pem", folder / "server.pem"
    bundle.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    chain.write_bytes(
        server.public_bytes(serialization.Encoding.PEM)
        + server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return Authority(bundle, context)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
