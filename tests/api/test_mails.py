"""What mails say: every kind, in both of its forms, whatever people and organizations are called."""

import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from api.mail_links import Secret
from api.mailer import MailError
from api.mails import KINDS, WITH_SECRET, WITHOUT_LINK, Details, compose
from api.settings import Settings, SettingsError
from tests.desk import PROJECT

SETTINGS = Settings.load({"DESKBASE_PUBLIC_URL": "https://desk.example.com"}, None)
REDIRECT = "https://app.example.com/after?a=b&c=d#e"
EVERYTHING: dict[str, Any] = {
    "name": "Jane",
    "organization": "Larkspur",
    "redirect_to": REDIRECT,
    "minutes": 60,
    "new_email": "new@example.com",
}
LONGEST = 200
HOSTILE = [
    "Jane\r\nBcc: all@example.com",
    "<script>alert(1)</script>",
    "{{ link }}{% raw %}",
    "=?utf-8?q?Jane?=",
    '"Jane" & O\'Hara',
    "Zoë 山田 🦊",
    "\u202egnp.exe",
    "https//win.example/now",
    "Win at evil.example now",
    "jane@example.com",
    "a" * 5000,
    "   ",
    "",
]


class Page(HTMLParser):
    """What a reader of the HTML sees, and where its links lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attributes if name in {"href", "src"}]

    def handle_data(self, data: str) -> None:
        if "body" in self.tags:
            self.text += data


def made(kind: str, email: str = "jane@example.com", **details: Any) -> tuple[EmailMessage, Secret | None]:
    """Compose a mail and read it back as its recipient's program does."""
    secret = Secret.make() if kind in WITH_SECRET else None
    composed = compose(SETTINGS, kind, email, Details(**details), secret)
    return message_from_bytes(composed.as_bytes(policy=policy.SMTP), policy=policy.default), secret


def parts(message: EmailMessage) -> tuple[str, Page]:
    text, html = message.iter_parts()
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    return text.get_content().replace("\r\n", "\n"), Page(html.get_content())


def test_every_kind_has_its_words_and_no_words_are_without_a_kind() -> None:
    files = {path.stem for path in (PROJECT / "api" / "templates" / "mails").glob("*.jinja")}
    assert files == KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_mail_is_one_message_to_one_recipient_in_two_forms(kind: str) -> None:
    message, _ = made(kind, **EVERYTHING)
    assert message["To"] == "jane@example.com"
    assert message["From"] == "Deskbase <no-reply@desk.example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime
    assert re.fullmatch(r"<\S+@desk\.example\.com>", message["Message-ID"])
    assert message["Subject"]
    assert message.get_content_type() == "multipart/alternative"
    assert message.keys().count("To") == 1
    assert not {"Cc", "Bcc", "Reply-To"} & set(message.keys())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_mail_says_the_same_in_both_forms_and_loads_nothing(kind: str) -> None:
    text, page = parts(made(kind, **EVERYTHING)[0])
    assert re.findall(r"\w+", re.sub(r"https:\S+", "", text)) == re.findall(r"\w+", page.text)
    assert "desk.example.com" in text
    assert not page.tags & {"img", "script", "link", "iframe", "table"}
    assert max(map(len, text.splitlines())) <= LONGEST


@pytest.mark.parametrize("kind", sorted(WITH_SECRET - WITHOUT_LINK))
def test_a_link_stands_on_a_line_of_its_own_and_leads_to_verification(kind: str) -> None:
    message, secret = made(kind, **EVERYTHING)
    text, page = parts(message)
    (link,) = [line for line in text.splitlines() if line.startswith("https://")]
    assert page.links == [link]
    assert link.startswith("https://desk.example.com/auth/v1/verify?")
    assert secret
    assert parse_qs(urlsplit(link).query) == {
        "token": [secret.token],
        "type": [kind],
        "redirect_to": [REDIRECT],
    }
    assert link.encode() in message.as_bytes()


def test_a_link_without_a_way_back_has_none() -> None:
    _, page = parts(made("recovery")[0])
    assert page.links[0].endswith("&type=recovery")


@pytest.mark.parametrize("kind", sorted(WITH_SECRET))
def test_a_code_stands_on_a_line_of_its_own_with_the_time_that_it_has(kind: str) -> None:
    message, secret = made(kind, **EVERYTHING)
    text, page = parts(message)
    assert secret
    assert secret.code in text.splitlines()
    assert secret.code in page.text
    assert "for 60 minutes." in text
    assert "for 60 minutes." in page.text
    assert secret.code not in message["Subject"]


@pytest.mark.parametrize("kind", sorted((KINDS - WITH_SECRET) | WITHOUT_LINK))
def test_a_mail_that_needs_no_link_has_none(kind: str) -> None:
    text, page = parts(made(kind, **EVERYTHING)[0])
    assert "https://" not in text
    assert page.links == []


@pytest.mark.parametrize(
    ("minutes", "words"), [(5, "5 minutes"), (60, "60 minutes"), (90, "90 minutes"), (1440, "24 hours")]
)
def test_the_time_is_said_as_people_say_it(minutes: int, words: str) -> None:
    assert f"for {words}." in parts(made("signup", minutes=minutes)[0])[0]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_can_say_more_than_a_name(kind: str, name: str) -> None:
    ordinary, _ = made(kind, **EVERYTHING)
    message, _ = made(kind, **(EVERYTHING | {"name": name, "organization": name}))
    text, page = parts(message)
    assert message.keys() == ordinary.keys()
    assert message["To"] == "jane@example.com"
    assert "\n" not in message["Subject"]
    assert len(message["Subject"]) < LONGEST
    assert page.tags == parts(ordinary)[1].tags
    assert "evil.example" not in text + page.text
    assert "win.example" not in text + page.text
    assert "\u202e" not in text + page.text
    assert max(map(len, text.splitlines())) <= LONGEST + len(REDIRECT)


def test_a_name_of_any_script_is_written_as_it_is() -> None:
    message, _ = made("invite", name="Zoë 山田", organization="Søn & Co")
    text, page = parts(message)
    assert message["Subject"] == "You are invited to Søn & Co"
    assert text.startswith("Hello Zoë 山田,\n")
    assert "Søn & Co invites you" in text
    assert "Søn & Co invites you" in page.text


def test_a_mail_to_somebody_unknown_does_not_pass_on_a_strangers_words() -> None:
    text, page = parts(made("signup", name="Claim your prize")[0])
    assert "prize" not in text + page.text


def test_who_has_no_name_is_greeted_without() -> None:
    assert parts(made("recovery")[0])[0].startswith("Hello,\n")


@pytest.mark.parametrize(
    ("email", "recipient"),
    [
        ("jane@bücher.example", "jane@xn--bcher-kva.example"),
        ("jane@straße.example", "jane@xn--strae-oqa.example"),
        ("jane+desk@EXAMPLE.com", "jane+desk@EXAMPLE.com"),
    ],
)
def test_a_domain_is_written_for_every_mail_server(email: str, recipient: str) -> None:
    assert made("recovery", email)[0]["To"] == recipient


@pytest.mark.parametrize(
    "email",
    [
        "nobody",
        "@example.com",
        "jane@",
        "jane@exam ple.com",
        "jane@a.b>",
        "a@b, c@d.e",
        "jane@a.b\r\nBcc: x@y.z",
        "ja\nne@a.b",
        "jane@a..ü",
    ],
)
def test_what_is_no_address_is_sent_nothing_ever(email: str) -> None:
    with pytest.raises(MailError) as caught:
        made("recovery", email)
    assert (caught.value.word, caught.value.is_final) == ("address", True)


def test_a_kind_that_is_not_known_yet_is_left_for_later() -> None:
    with pytest.raises(MailError) as caught:
        made("greeting")
    assert (caught.value.word, caught.value.is_final) == ("kind", False)


def test_secrets_are_never_the_same_and_hashes_do_not_tell_them() -> None:
    secrets = [Secret.make() for _ in range(50)]
    assert len({secret.token for secret in secrets}) == 50
    assert all(re.fullmatch(r"\d{6}", secret.code) and len(secret.token) == 43 for secret in secrets)
    first = secrets[0]
    assert re.fullmatch(r"[0-9a-f]{64}", first.token_hash)
    hashed = first.code_hash("s" * 32, "Jane@example.com")
    assert hashed == first.code_hash("s" * 32, "jane@example.com")
    assert hashed not in {
        first.code_hash("t" * 32, "jane@example.com"),
        first.code_hash("s" * 32, "joan@example.com"),
    }


@pytest.mark.parametrize(
    ("environ", "sender"),
    [
        ({}, "Deskbase <no-reply@[127.0.0.1]>"),
        ({"DESKBASE_HOST": "::1"}, "Deskbase <no-reply@[IPv6:::1]>"),
        ({"DESKBASE_PUBLIC_URL": "https://bücher.example:8443"}, "Deskbase <no-reply@xn--bcher-kva.example>"),
        ({"DESKBASE_MAIL_FROM": "help@example.com"}, "help@example.com"),
        (
            {"DESKBASE_MAIL_FROM": '"Büro, Nord" <buero@bücher.example>'},
            '"Büro, Nord" <buero@xn--bcher-kva.example>',
        ),
    ],
)
def test_the_sender_is_the_one_that_was_set_or_follows_from_the_address(
    environ: dict[str, str], sender: str
) -> None:
    assert str(Settings.load(environ, None).sender) == sender


@pytest.mark.parametrize(
    "text",
    [
        "nobody",
        "Desk",
        "<>",
        "a@example.com, b@example.com",
        "Desk, Inc <a@example.com>",
        "Desk <a@ex ample.com>",
        "Desk <a@b..ü>",
        "Desk <büro@example.com>",
        "Desk\r\nBcc: b@example.com <a@example.com>",
    ],
)
def test_what_is_not_one_address_is_no_sender(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^DESKBASE_MAIL_FROM must be one address such as"):
        Settings.load({"DESKBASE_MAIL_FROM": text}, None)
