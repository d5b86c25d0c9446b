"""The auth service's statements (`supabase/auth.sql`), called as the service calls them.

Hashes are all that they are ever given, so a word of a test's stands for that of a password, token or code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from tests.actors import Acting, Actor, Refused, Stage
from tests.databases import Connection

ADDRESS = "203.0.113.7"
VISITOR = {"address": ADDRESS, "agent": "tests"}
PASSWORD = "a hash"

# What most tests have nothing to say about.
DEFAULTS: dict[str, dict[str, Any]] = {
    "admin_create": {"password_hash": None},
    "admin_invite": {"data": {}, "mail": {}},
    "admin_link": {
        **dict.fromkeys(("new_email", "password_hash", "token_hash", "code_hash"), None),
        "data": {},
        "mail": {},
    },
    "admin_update": {"password_hash": None},
    "enroll_factor": {"friendly_name": "", "secret": "s"},
    "exchange_code": {"visitor": VISITOR},
    "finish_login": {"address": ADDRESS, "matches": True, "rehashed": None, "visitor": VISITOR},
    "refresh": {"visitor": VISITOR},
    "request_mail": {"mail": {}},
    "sign_up": {"password_hash": PASSWORD, "data": {}, "mail": {}, "autoconfirm": False, "visitor": VISITOR},
    "update_user": {
        **dict.fromkeys(("email", "data", "password_hash", "nonce_hash"), None),
        "mail": {},
        "autoconfirm": False,
    },
    "verify": {
        **dict.fromkeys(("token_hash", "email", "code_hash", "auth_code_hash"), None),
        "visitor": VISITOR,
    },
}

Answer = dict[str, Any]


def call(by: Acting | Connection, function: str, /, **arguments: Any) -> Any:
    """Call one of its functions; an answer of several columns is a dict."""
    statement, params = _statement(function, arguments)
    if isinstance(by, Acting):
        return _read(by.value(statement, params))
    row = by.execute(statement.encode(), params).fetchone()
    return _read(row[0] if row else None)


def _statement(function: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = {**DEFAULTS.get(function, {}), **arguments}
    names = ", ".join(f"{name} => %({name})s" for name in given)
    params = {name: Jsonb(each) if isinstance(each, dict) else each for name, each in given.items()}
    return f"select to_jsonb(a) from auth_service.{function}({names}) as a", params


def _read(answer: Any) -> Any:
    """Read the JSON texts in an answer, which the service sends as they are."""
    if isinstance(answer, dict):
        return {name: _read_text(each) for name, each in answer.items()}
    return _read_text(answer)


def _read_text(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in {"{", "["} else value


@dataclass(frozen=True)
class Account:
    """Somebody who has an account and is logged in."""

    id: str
    email: str
    claims: dict[str, Any]
    """What the access token of the session says."""
    refresh_token: str

    @classmethod
    def of(cls, answer: Answer, refresh_token: str = "") -> "Account":
        """Return whoever was logged in with this answer."""
        assert answer["refusal"] is None, answer
        claims = answer["claims"]
        return cls(claims["sub"], claims["email"], claims, refresh_token)

    @property
    def session_id(self) -> str:
        return str(self.claims["session_id"])

    @property
    def actor(self) -> Actor:
        """Who they are to PostgREST and to the gate."""
        return Actor(self.email, "authenticated", self.claims)


class Office:
    """People's dealings with the auth service, on one stage."""

    def __init__(self, stage: Stage, login: Acting, owner: Acting) -> None:
        self.stage = stage
        self.login = login
        self.owner = owner
        self._count = 0

    def word(self, kind: str) -> str:
        """Return a word that no other token, code or address has."""
        self._count += 1
        return f"{kind}-{self._count}"

    def call(self, function: str, /, **arguments: Any) -> Any:
        return call(self.login, function, **arguments)

    def refused(self, state: str, word: str, function: str, /, **arguments: Any) -> Refused:
        """Call a function that has to be refused in this way."""
        statement, params = _statement(function, arguments)
        return self.login.refused(state, statement, params, word=word)

    # In

    def sign_up(self, email: str, **options: Any) -> Answer:
        return dict(self.call("sign_up", email=email, refresh_hash=self.word("refresh"), **options))

    def log_in(self, email: str, *, address: str = ADDRESS, **options: Any) -> Answer:
        """Log in with the right password or, if it does not match, with a wrong one."""
        begun = self.call("begin_login", email=email, address=address)
        if begun["wait_seconds"] is not None:
            return {"refusal": "over_request_rate_limit", "wait_seconds": begun["wait_seconds"]}
        options = {"refresh_hash": self.word("refresh"), "matches": begun["stored"] is not None, **options}
        proof = {"user_id": begun["user_id"], "stored": begun["stored"]}
        return dict(self.call("finish_login", email=email, address=address, **proof, **options))

    def guess_wrong(self, email: str, times: int = 1) -> list[int | None]:
        """Log in with wrong passwords; return the wait after each. The lock is taken off in between."""
        waits = []
        for _ in range(times):
            answer = self.log_in(email, address="198.51.100.1", matches=False)
            assert answer["refusal"] == "invalid_credentials", answer
            waits.append(self.call("begin_login", email=email, address=ADDRESS)["wait_seconds"])
            self.owner.rows("update auth.failed_attempts set locked_until = now() where locked_until > now()")
        return waits

    def account(self, email: str | None = None, **options: Any) -> Account:
        """Sign up, follow the link of the mail, and be logged in."""
        email = email or f"{self.word('person')}@example.com"
        self.sign_up(email, **options)
        token = self.word("refresh")
        return Account.of(self.follow("signup", self.link(email, "signup"), token), token)

    def logged_in(self, email: str) -> Account:
        """Log in once more."""
        token = self.word("refresh")
        return Account.of(self.log_in(email, refresh_hash=token), token)

    def refresh(self, token: str) -> Answer:
        return dict(self.call("refresh", token_hash=token, next_hash=next_token(token)))

    # Mails

    def mails(self, email: str) -> list[str]:
        """Return the kinds of the mails that are queued for an address, in order."""
        return [kind for _, kind in self._queued(email)]

    def newest_mail(self, email: str, kind: str) -> str:
        return [each for each, its_kind in self._queued(email) if its_kind == kind][-1]

    def prepare(self, email: str, kind: str, token: str = "", code: str = "") -> Any:
        """Do what the worker does when it sends the last mail of that kind for an address."""
        mail = self.newest_mail(email, kind)
        token, code = token or self.word("token"), code or self.word("code")
        return self.call("prepare_mail", id=mail, token_hash=token, code_hash=code)

    def link(self, email: str, kind: str) -> str:
        """Send the last mail of that kind for an address, and return the token of its link."""
        token = self.word("token")
        assert self.prepare(email, kind, token), f"nobody to send {kind} to"
        return token

    def code(self, email: str, kind: str) -> str:
        """Send the last mail of that kind for an address, and return its code."""
        code = self.word("code")
        assert self.prepare(email, kind, code=code), f"nobody to send {kind} to"
        return code

    def mailed(self, email: str, kind: str, **mail: Any) -> str:
        """Ask for a mail, and return the token of its link."""
        self.call("request_mail", kind=kind, email=email, mail=mail)
        return self.link(email, kind)

    def follow(self, kind: str, token: str, refresh_token: str = "", **options: Any) -> Answer:
        """Follow the link of a mail."""
        refresh_token = refresh_token or self.word("refresh")
        return dict(self.call("verify", kind=kind, token_hash=token, refresh_hash=refresh_token, **options))

    def enter(self, kind: str, email: str, code: str) -> Answer:
        """Type the code of a mail."""
        refresh_token = self.word("refresh")
        return dict(self.call("verify", kind=kind, email=email, code_hash=code, refresh_hash=refresh_token))

    def _queued(self, email: str) -> list[tuple[str, str]]:
        return self.owner.rows(
            "select id, kind from private.mails where email = lower(%s) order by created_at", [email]
        )

    # One's own account

    def update(self, account: Account, **changes: Any) -> Any:
        """Change one's own address, metadata or password."""
        return self.call("update_user", claims=account.claims, **changes)

    def enroll(self, account: Account, name: str = "") -> str:
        made = self.call(
            "enroll_factor", claims=account.claims, friendly_name=name, secret=self.word("secret")
        )
        assert made["email"] == account.email
        return str(made["id"])

    def challenge(self, account: Account, factor: str) -> str:
        made = self.call("challenge_factor", claims=account.claims, factor_id=factor, address=ADDRESS)
        return str(made["id"])

    def prove(self, account: Account, factor: str, step: int | None, challenge: str | None = None) -> Answer:
        """Answer a challenge with the code of a time step; none is a wrong code."""
        question = {"factor_id": factor, "challenge_id": challenge or self.challenge(account, factor)}
        refresh_token = self.word("refresh")
        return dict(
            self.call(
                "finish_verify_factor",
                claims=account.claims,
                step=step,
                refresh_hash=refresh_token,
                **question,
            )
        )

    def with_factor(self, account: Account, step: int = 1) -> str:
        """Give an account a second factor, by which its session is proved."""
        factor = self.enroll(account)
        assert self.prove(account, factor, step)["refusal"] is None
        return factor

    # What is stored

    def user(self, email: str) -> dict[str, Any]:
        """Return the account of an address as its row has it; nothing if there is none."""
        rows = self.owner.values(
            "select to_jsonb(u) from auth.users as u where lower(email) = lower(%s) and deleted_at is null",
            [email],
        )
        return dict(rows[0]) if rows else {}

    def email_of(self, account: Account) -> str:
        """Return the address that an account has now."""
        return str(self.owner.value("select email from auth.users where id = %s::uuid", [account.id]))

    def sessions(self, account_id: str) -> set[str]:
        """Return the sessions of an account: those begun in one transaction have no order."""
        return set(self.owner.values("select id from auth.sessions where user_id = %s::uuid", [account_id]))


def next_token(token: str) -> str:
    """Return the token that a token is exchanged for, as the service derives it."""
    return f"{token}'"
