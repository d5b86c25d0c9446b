"""The mails: which kinds there are, and what they say.

In charge of turning a queued mail into a message. Its words are in `templates/mails/`, one file a kind, which
is rendered once as text and once as HTML. Why a mail is queued is the database's business, sending it is
`api.mailer`'s.
"""

import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import make_msgid
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import msgspec

from api.mail_links import Secret
from api.mail_links import link as mail_link
from api.mailer import MailError, ascii_domain
from api.settings import Settings

WITH_SECRET = frozenset({"signup", "invite", "recovery", "magiclink", "email_change", "reauthentication"})
WITHOUT_LINK = frozenset({"reauthentication"})
KINDS = WITH_SECRET | {"account_exists", "password_changed", "added_to_organization"}

_TEMPLATES = Path(__file__).resolve().parent / "templates" / "mails"
_LONGEST_NAME = 80
_LONGEST_LINE = 998
# Quoted local parts, which nobody has, are left out.
_LOCAL = re.compile(r'[^\s"(),:;<>@\[\\\]]+')
_LINK_LIKE = re.compile(r"://|@|\w\.\w{2}")


class Details(msgspec.Struct, frozen=True):
    """What a mail's words need."""

    name: str | None = None
    organization: str | None = None
    redirect_to: str | None = None
    minutes: int = 60
    new_email: str | None = None


def compose(
    settings: Settings, kind: str, email: str, details: Details, secret: Secret | None = None
) -> EmailMessage:
    """Return the message to that one recipient. Raises MailError."""
    if kind not in KINDS:
        raise MailError("kind")
    words = _words(settings, kind, email, details, secret)
    message = EmailMessage()
    message["From"] = settings.sender
    message["To"] = _recipient(email)
    message["Subject"] = " ".join(_render(kind, "layout.subject", words).split())
    message["Date"] = datetime.now(UTC)
    message["Message-ID"] = make_msgid(domain=settings.sender.domain)
    message["Auto-Submitted"] = "auto-generated"
    text, html = _render(kind, "layout.txt", words), _render(kind, "layout.html", words)
    message.set_content(text, cte=_encoding(text))
    message.add_alternative(html, subtype="html", cte=_encoding(html))
    return message


def _words(
    settings: Settings, kind: str, email: str, details: Details, secret: Secret | None
) -> dict[str, str | None]:
    link = None
    if secret and kind not in WITHOUT_LINK:
        link = mail_link(settings.public_url, kind, secret.token, details.redirect_to)
    return {
        "site": urlsplit(settings.public_url).netloc,
        "email": email,
        # Whoever signs up may have given somebody else's address, and this mail is not theirs to write.
        "name": None if kind == "signup" else _plain(details.name),
        "organization": _plain(details.organization),
        "new_email": details.new_email,
        "link": link,
        "code": secret.code if secret else None,
        "duration": _duration(details.minutes),
    }


def _plain(name: str | None) -> str | None:
    """Return a name as one short line; none if mail programs could make a link of it.

    Anybody can have such a name, and have us send it to anybody.
    """
    printable = "".join(sign if sign.isprintable() else " " for sign in name or "")
    line = " ".join(printable.split())
    if not line or _LINK_LIKE.search(line):
        return None
    return line if len(line) <= _LONGEST_NAME else f"{line[:_LONGEST_NAME].rstrip()}…"


def _duration(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    return f"{minutes} minutes" if rest or hours < 2 else f"{hours} hours"


def _recipient(email: str) -> Address:
    local, _, domain = email.rpartition("@")
    if not _LOCAL.fullmatch(local) or not local.isprintable():
        raise MailError("address", is_final=True)
    try:
        return Address(username=local, domain=ascii_domain(domain))
    except ValueError as error:
        raise MailError("address", is_final=True) from error


def _encoding(text: str) -> str:
    """Leave lines as they are where that is allowed: a link can then be read in the raw message."""
    is_simple = text.isascii() and max(map(len, text.splitlines())) <= _LONGEST_LINE
    return "7bit" if is_simple else "quoted-printable"


def _render(kind: str, layout: str, words: dict[str, str | None]) -> str:
    template = _environments[layout].get_template(f"{kind}.jinja")
    return template.render(words, layout=layout)


def _environment(*, is_html: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=is_html,  # noqa: S701 - text is not HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )


_text_environment = _environment(is_html=False)
_environments = {
    "layout.subject": _text_environment,
    "layout.txt": _text_environment,
    "layout.html": _environment(is_html=True),
}
