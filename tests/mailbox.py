"""The mail that a desk has sent: the files that it writes where there is no mail server.

In charge of waiting for a letter, and of reading in it what its reader would: the link and the six digits.
"""

import email
import re
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.desk import wait_until

SECONDS = 15

_LINK = re.compile(r"^https?://\S+/auth/v1/verify\?\S+$", re.MULTILINE)
_CODE = re.compile(r"^\d{6}$", re.MULTILINE)


@dataclass(frozen=True)
class Letter:
    """A mail as its reader has it."""

    file: str
    message: EmailMessage

    @property
    def to(self) -> str:
        return str(self.message["To"])

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        """What it says, as plain text."""
        part = self.message.get_body(("plain",))
        assert part is not None, "the mail has no plain text"
        return str(part.get_content())

    @property
    def link(self) -> str:
        """The one link to follow."""
        (link,) = _LINK.findall(self.text)
        return str(link)

    @property
    def code(self) -> str:
        """The six digits for those who type."""
        (code,) = _CODE.findall(self.text)
        return str(code)

    @property
    def query(self) -> dict[str, str]:
        """What the link carries: `token`, `type` and, if it leads on, `redirect_to`."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.link).query).items()}

    @property
    def token(self) -> str:
        return self.query["token"]

    @property
    def kind(self) -> str:
        """What its link is for, as the link says; empty if there is none."""
        return self.query["type"] if _LINK.search(self.text) else ""


class Mailbox:
    """All letters of a desk, whoever they are for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Letter] = {}

    def letters(
        self, to: str = "", kind: str = "", subject: str = "", after: Letter | None = None
    ) -> list[Letter]:
        """Return those that are there by now, in order: to this reader, of this kind, after that one."""
        return [
            letter
            for letter in self._all()
            if (not to or letter.to == to)
            and (not kind or letter.kind == kind)
            and subject.lower() in letter.subject.lower()
            and (after is None or letter.file > after.file)
        ]

    def letter(
        self,
        to: str,
        kind: str = "",
        subject: str = "",
        after: Letter | None = None,
        *,
        seconds: float = SECONDS,
    ) -> Letter:
        """Wait for such a letter, and return the newest."""

        wanted = partial(self.letters, to, kind, subject, after)
        found: list[Letter] = wait_until(wanted, seconds, f"a letter {kind}{subject} to {to}")
        return found[-1]

    def _all(self) -> list[Letter]:
        names = sorted(path.name for path in self._folder.glob("[!.]*.eml"))
        for name in names:
            if name not in self._read:
                self._read[name] = _letter(self._folder / name)
        return [self._read[name] for name in names]


def _letter(path: Path) -> Letter:
    message: EmailMessage = email.message_from_bytes(path.read_bytes(), policy=policy.default)
    return Letter(path.name, message)
