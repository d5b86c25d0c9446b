"""The links of mails, and the secrets in them that let the reader of a mail, and nobody else, go on.

In charge of their form alone. Who gets one is the database's business (`supabase/auth.sql`), which keeps
nothing of them but hashes.
"""

import secrets
from typing import NamedTuple, Self
from urllib.parse import quote, urlencode

from api.accounts import digest, new_token
from api.keys import mail_code_hash


class Secret(NamedTuple):
    """A token for a link, and six digits for those who type."""

    token: str
    code: str

    @classmethod
    def make(cls) -> Self:
        """Make a new one."""
        return cls(new_token(), f"{secrets.randbelow(1_000_000):06}")

    @property
    def token_hash(self) -> str:
        """What the database keeps of the token."""
        return digest(self.token)

    def code_hash(self, jwt_secret: str, email: str) -> str:
        """Return what the database keeps of the code that is sent to this address."""
        return mail_code_hash(jwt_secret, email, self.code)


def link(public_url: str, kind: str, token: str, redirect_to: str | None) -> str:
    """Return the address that a browser follows."""
    query = {"token": token, "type": kind} | ({"redirect_to": redirect_to} if redirect_to else {})
    return f"{public_url}/auth/v1/verify?{urlencode(query, quote_via=quote)}"
