"""The mailer against real SMTP: encryption, log-in, refusals; and the folder where there is no server."""

import asyncio
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from api import mailer
from api.mailer import FolderMailer, MailError, SmtpMailer, SmtpServer, create_mailer
from tests.smtp import HOST, NAME, Authority, MailServer, make_authority, running

PASSWORD = "p@ss:w/rd?#"
IN_URL = "p%40ss%3Aw%2Frd%3F%23"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The authority, which this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    return authority


@pytest.fixture
def serve() -> Iterator[Callable[[MailServer], MailServer]]:
    """Run a server until the test is over."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(running(server))


@pytest.fixture
def from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server's name lead to this machine, as DNS would do with one elsewhere."""
    resolve = socket.getaddrinfo

    def resolve_ours(host: object, *args: object, **kwargs: object) -> object:
        return resolve(HOST if host == NAME else host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_ours)


def message(recipient: str = "jane@example.com", sender: str = "Desk <desk@example.com>") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = sender, recipient, "Hello"
    made.set_content("A line.\n.\nAnother line.\n")
    return made


def smtp(
    server: MailServer, *, host: str = HOST, user: str = "", scheme: str = "smtp", query: str = ""
) -> SmtpMailer:
    login = f"{user}:{IN_URL}@" if user else ""
    return SmtpMailer(SmtpServer.parse(f"{scheme}://{login}{host}:{server.port}{query}"))


async def failure(sending: SmtpMailer, sent: EmailMessage | None = None) -> tuple[str, int | None, bool]:
    with pytest.raises(MailError) as caught:
        await sending.send(sent or message())
    return caught.value.word, caught.value.code, caught.value.is_final


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# Addresses of servers


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.com", SmtpServer("mail.example.com", 25, None, None, False, None)),
        ("smtp://mail.example.com:2525/", SmtpServer("mail.example.com", 2525, None, None, False, None)),
        ("smtp://me:x@mail.example.com", SmtpServer("mail.example.com", 587, "me", "x", False, True)),
        (f"smtps://a%40b.c:{IN_URL}@m.example", SmtpServer("m.example", 465, "a@b.c", PASSWORD, True, False)),
        ("smtp://me:x@localhost", SmtpServer("localhost", 587, "me", "x", False, None)),
        ("smtp://[::1]", SmtpServer("::1", 25, None, None, False, None)),
        ("smtp://127.0.0.1?starttls=required", SmtpServer("127.0.0.1", 25, None, None, False, True)),
        ("smtp://relay.internal?starttls=never", SmtpServer("relay.internal", 25, None, None, False, False)),
    ],
)
def test_an_address_says_where_and_how(url: str, server: SmtpServer) -> None:
    assert SmtpServer.parse(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "http://mail.example.com",
        "smtp://",
        "smtp://me:hidden#1@mail.example.com",
        "smtp://me:hidden/1@mail.example.com",
        "smtp://me:hidden?1@mail.example.com",
        "smtp://me:hidden@mail.example.com:port",
        "smtp://me:hidden@mail.example.com:70000",
        "smtp://me:hidden@mail.example.com?starttls=never",
        "smtp://me:hidden@mail.example.com?starttls=perhaps",
        "smtps://me:hidden@mail.example.com?starttls=required",
        "smtp://me:hidden@mail.example.com?verify=no",
        "smtp://me:hidden@mail.example.com/folder",
    ],
)
def test_an_address_that_means_nothing_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"^smtp://user:password@host:port") as caught:
        SmtpServer.parse(url)
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__


# Sending


async def test_a_message_reaches_its_recipient_whole(serve: Callable[[MailServer], MailServer]) -> None:
    server = serve(MailServer())
    await smtp(server).send(message())
    (delivery,) = server.deliveries
    assert (delivery.sender, delivery.recipient) == ("desk@example.com", "jane@example.com")
    assert delivery.message["Subject"] == "Hello"
    assert delivery.message.get_content().splitlines() == ["A line.", ".", "Another line."]
    assert not delivery.is_encrypted


async def test_encryption_from_the_start(
    serve: Callable[[MailServer], MailServer], trusted: Authority
) -> None:
    server = serve(MailServer(trusted, is_tls=True, login=("me", PASSWORD)))
    await smtp(server, scheme="smtps", user="me").send(message())
    assert server.deliveries[0].user == "me"


async def test_encryption_is_taken_where_it_is_offered(
    serve: Callable[[MailServer], MailServer], trusted: Authority, from_outside: None
) -> None:
    offering, plain = serve(MailServer(trusted)), serve(MailServer())
    await smtp(offering, host=NAME).send(message())
    await smtp(plain, host=NAME).send(message())
    assert offering.deliveries[0].is_encrypted
    assert not plain.deliveries[0].is_encrypted


async def test_a_password_travels_encrypted_or_not_at_all(
    serve: Callable[[MailServer], MailServer], trusted: Authority, from_outside: None
) -> None:
    login = ("me", PASSWORD)
    offering, plain = serve(MailServer(trusted, login=login)), serve(MailServer(login=login))
    await smtp(offering, host=NAME, user="me").send(message())
    assert (offering.deliveries[0].user, offering.deliveries[0].is_encrypted) == ("me", True)
    assert await failure(smtp(plain, host=NAME, user="me")) == ("unsupported", None, False)
    await smtp(plain, user="me").send(message())
    assert plain.deliveries[0].user == "me"


async def test_on_this_machine_encryption_is_taken_whoever_made_the_certificate(
    serve: Callable[[MailServer], MailServer], authority: Authority
) -> None:
    server = serve(MailServer(authority, login=("me", PASSWORD)))
    await smtp(server, host="localhost", user="me").send(message())
    assert (server.deliveries[0].user, server.deliveries[0].is_encrypted) == ("me", True)


async def test_encryption_that_is_required_is_not_done_without(
    serve: Callable[[MailServer], MailServer], trusted: Authority
) -> None:
    offering, plain = serve(MailServer(trusted)), serve(MailServer())
    await smtp(offering, query="?starttls=required").send(message())
    assert offering.deliveries[0].is_encrypted
    assert await failure(smtp(plain, query="?starttls=required")) == ("unsupported", None, False)


@pytest.mark.parametrize(("scheme", "query"), [("smtp", "?starttls=required"), ("smtps", ""), ("smtp", "")])
async def test_a_stranger_with_a_certificate_of_their_own_gets_nothing(
    serve: Callable[[MailServer], MailServer],
    authority: Authority,
    from_outside: None,
    scheme: str,
    query: str,
) -> None:
    server = serve(MailServer(authority, is_tls=scheme == "smtps"))
    assert await failure(smtp(server, host=NAME, scheme=scheme, query=query)) == ("encryption", None, False)
    assert not server.deliveries


async def test_a_certificate_for_another_name_is_refused(
    serve: Callable[[MailServer], MailServer], trusted: Authority
) -> None:
    server = serve(MailServer(trusted))
    elsewhere = smtp(server, host="localhost", query="?starttls=required")
    assert await failure(elsewhere) == ("encryption", None, False)


async def test_a_wrong_password_is_no_fault_of_the_recipient(
    serve: Callable[[MailServer], MailServer],
) -> None:
    server = serve(MailServer(login=("me", "another")))
    assert await failure(smtp(server, user="me")) == ("login", 535, False)
    assert await failure(smtp(server)) == ("rejected", 530, False)


async def test_who_is_asked_to_come_back_may_come_back(serve: Callable[[MailServer], MailServer]) -> None:
    server = serve(MailServer())
    server.replies.append("450 4.2.1 Later")
    assert await failure(smtp(server)) == ("deferred", 450, False)
    await smtp(server).send(message())
    assert server.recipients == ["jane@example.com"]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("550 5.1.1 No such user", ("refused", 550, True)),
        ("553 Not here", ("refused", 553, True)),
        ("554 5.7.1 Relay access denied", ("rejected", 554, False)),
        ("530 Log in first", ("rejected", 530, False)),
    ],
)
async def test_a_refused_recipient_is_told_from_a_refused_relay(
    serve: Callable[[MailServer], MailServer], reply: str, outcome: tuple[str, int, bool]
) -> None:
    server = serve(MailServer())
    server.replies.append(reply)
    assert await failure(smtp(server)) == outcome


async def test_a_server_that_hangs_is_left(
    serve: Callable[[MailServer], MailServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(MailServer())
    server.keeps_waiting = True
    monkeypatch.setattr(mailer, "STEP_SECONDS", 0.3)
    assert await failure(smtp(server)) == ("timeout", None, False)
    monkeypatch.setattr(mailer, "STEP_SECONDS", 10)
    monkeypatch.setattr(mailer, "SEND_SECONDS", 0.3)
    assert await failure(smtp(server)) == ("timeout", None, False)


async def test_a_server_that_never_says_a_word_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailer, "STEP_SECONDS", 0.3)
    with socket.create_server((HOST, 0)) as silent:
        mute = SmtpMailer(SmtpServer.parse(f"smtp://{HOST}:{silent.getsockname()[1]}"))
        assert await failure(mute) == ("timeout", None, False)


async def test_who_stops_sending_stops_at_once(serve: Callable[[MailServer], MailServer]) -> None:
    server = serve(MailServer())
    server.keeps_waiting = True
    sending = asyncio.create_task(smtp(server).send(message()))
    await asyncio.to_thread(server.waiting.acquire)
    begun = time.monotonic()
    sending.cancel()
    await asyncio.wait([sending])
    assert time.monotonic() - begun < 1


async def test_a_server_may_be_away_and_come_back(serve: Callable[[MailServer], MailServer]) -> None:
    server = MailServer()
    assert await failure(smtp(server)) == ("unreachable", None, False)
    serve(server)
    await smtp(server).send(message())
    server.stop()
    assert await failure(smtp(server)) == ("unreachable", None, False)
    server.start()
    await smtp(server).send(message())
    assert len(server.deliveries) == 2


async def test_an_address_beyond_ascii_is_sent_as_it_is(serve: Callable[[MailServer], MailServer]) -> None:
    server = serve(MailServer())
    await smtp(server).send(message("jürgen@example.com"))
    assert server.recipients == ["jürgen@example.com"]
    assert server.deliveries[0].message["To"] == "jürgen@example.com"


# The folder


async def test_without_a_server_messages_are_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mail"
    writing = create_mailer(None, folder)
    for number in range(3):
        await writing.send(message(f"{number}@example.com"))
    files = files_in(folder)
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.eml", file.name) for file in files)
    read = [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]
    assert [each["To"] for each in read] == ["0@example.com", "1@example.com", "2@example.com"]
    assert read[0].get_content() == "A line.\n.\nAnother line.\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_file_holds_an_address_beyond_ascii(tmp_path: Path) -> None:
    await FolderMailer(tmp_path).send(message("jürgen@example.com"))
    (file,) = files_in(tmp_path)
    assert "\nTo: jürgen@example.com\n" in file.read_text()


async def test_a_folder_that_cannot_be_written_is_a_failure_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("in the way")
    with pytest.raises(MailError) as caught:
        await FolderMailer(tmp_path / "mail").send(message())
    assert (caught.value.word, caught.value.is_final) == ("folder", False)
