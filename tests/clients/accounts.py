"""Accounts with supabase-py, as it comes: what people do with their own, and a back end with everybody's.

    python tests/clients/accounts.py API_URL PUBLISHABLE_KEY SECRET_KEY MAIL_FOLDER [STORY...]

`deskbase status` prints the first three; where no mail server is set, mail is written into DATA_DIR/mail.
Each story is a program of its own, and ends with an exception at the first thing that is not as it is told.
"""

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx
import pyotp
from postgrest.exceptions import APIError
from supabase_auth import SyncMemoryStorage, SyncSupportedStorage
from supabase_auth.errors import (
    AuthApiError,
    AuthError,
    AuthImplicitGrantRedirectError,
    AuthSessionMissingError,
    AuthWeakPasswordError,
)
from supabase_auth.types import CodeExchangeParams, Session, User

from supabase import Client, ClientOptions, acreate_client, create_client

PASSWORD = "a heron stands in the reeds"
NEW_PASSWORD = "two herons stand in the reeds"
FRONT_END = "http://127.0.0.1:3000/welcome"
"""Where links lead back to. Nothing needs to answer there: the session is in the address itself."""

MAILS = "[!.]*.eml"

T = TypeVar("T")
_LINK = re.compile(r"^https?://\S+/auth/v1/verify\?\S+", re.MULTILINE)
_CODE = re.compile(r"^\d{6}$", re.MULTILINE)


class Mail(NamedTuple):
    """What somebody reads in their mailbox."""

    to: str
    subject: str
    link: str
    code: str


class Person(NamedTuple):
    """Somebody who is logged in."""

    id: str
    email: str
    client: Client


class Deskbase:
    """Where it is, and what is different for each story: clients, people, their mail."""

    def __init__(self, url: str, key: str, secret_key: str, mail_folder: str) -> None:
        self.url = url
        self.key = key
        self.secret_key = secret_key
        self._mail_folder = Path(mail_folder)
        self._opened = set(self._mail_folder.glob(MAILS))
        self._unread: list[Mail] = []

    def visitor(self, options: ClientOptions | None = None) -> Client:
        """Return what a browser or an app uses: nobody is logged in yet."""
        return create_client(self.url, self.key, options)

    def back_end(self) -> Client:
        """Return what a server of one's own uses, and nobody else may ever get hold of."""
        return create_client(self.url, self.secret_key)

    def address(self, name: str) -> str:
        """Return an address that nobody has used."""
        return f"{name}-{secrets.token_hex(4)}@example.com"

    def person(self, name: str, **data: str) -> Person:
        """Make somebody who needs no confirmation, and log them in."""
        email, client = self.address(name), self.visitor()
        metadata = {"name": name.title(), "organization": f"{name.title()} Ltd", **data}
        self.back_end().auth.admin.create_user(
            {"email": email, "password": PASSWORD, "email_confirm": True, "user_metadata": metadata}
        )
        return Person(log_in(client, email).id, email, client)

    def mail_to(self, address: str) -> Mail:
        """Wait for the next mail to an address, and read it."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            new = set(self._mail_folder.glob(MAILS)) - self._opened
            self._opened |= new
            self._unread += [_opened(path) for path in sorted(new)]
            for mail in self._unread:
                if mail.to == address:
                    self._unread.remove(mail)
                    return mail
            time.sleep(0.05)
        raise AssertionError(f"no mail to {address}")


def _opened(path: Path) -> Mail:
    message = BytesParser(policy=policy.default).parsebytes(path.read_bytes())
    body = message.get_body(("plain",))
    text = body.get_content() if body else ""
    link, code = _LINK.search(text), _CODE.search(text)
    return Mail(message["To"], message["Subject"], link[0] if link else "", code[0] if code else "")


def follow(link: str) -> dict[str, str]:
    """Follow a link as a browser does, and return what it comes back to the front-end with."""
    answer = httpx.get(link)
    place = urlsplit(answer.headers["location"])
    assert answer.status_code == 303
    assert place._replace(query="", fragment="").geturl() == FRONT_END
    return dict(parse_qsl(place.query)) | dict(parse_qsl(place.fragment))


def some(value: T | None) -> T:
    """Return what has to be there."""
    assert value is not None
    return value


def session_of(client: Client) -> Session:
    """Return the session of somebody who is logged in."""
    return some(client.auth.get_session())


def me(client: Client) -> User:
    """Ask the server who is logged in."""
    return some(client.auth.get_user()).user


def rows(request: Any) -> Any:
    """Send a query, and return its rows."""
    return request.execute().data


def log_in(client: Client, email: str, password: str = PASSWORD) -> User:
    """Log somebody in with a password."""
    return some(client.auth.sign_in_with_password({"email": email, "password": password}).user)


def exchange(client: Client, code: str) -> User:
    """Finish a log-in by link; the client remembers the verifier itself."""
    params: CodeExchangeParams = {"auth_code": code, "code_verifier": "", "redirect_to": ""}
    return some(client.auth.exchange_code_for_session(params).user)


class Refusal:
    """What a call was refused with."""

    error: Any = None


@contextmanager
def refused(code: str, kind: type[Exception] = AuthApiError) -> Iterator[Refusal]:
    """Expect the refusal with this code, in the client's class for it."""
    refusal = Refusal()
    try:
        yield refusal
    except (AuthError, APIError) as error:
        refusal.error = error
    assert refusal.error, f"not refused: {code}"
    text = f"{refusal.error!r}: {refusal.error.code}"
    assert code in {refusal.error.code, refusal.error.message}, text
    assert isinstance(refusal.error, (kind, APIError)), text


def founder(desk: Deskbase) -> None:
    """Signs up, founds an organization by that, confirms the address, works, and leaves."""
    ada, email = desk.visitor(), desk.address("ada")
    answer = ada.auth.sign_up(
        {
            "email": email,
            "password": PASSWORD,
            "options": {"data": {"name": "Ada", "organization": "Ada Ltd"}, "email_redirect_to": FRONT_END},
        }
    )
    assert answer.session is None
    assert some(answer.user).email == email
    with refused("email_not_confirmed"):
        log_in(ada, email)

    # supabase-py binds a link to the client that asked for it (PKCE): it leads to a code, not to a session.
    found = follow(desk.mail_to(email).link)
    exchange(ada, found["code"])
    assert me(ada).email_confirmed_at is not None

    metadata = log_in(ada, email).app_metadata
    assert metadata["role"] == "admin"
    assert rows(ada.table("organizations").select("id,name")) == [
        {"id": metadata["organization_id"], "name": "Ada Ltd"}
    ]
    (ticket,) = rows(ada.table("tickets").insert({"subject": "The kettle is broken", "priority": "high"}))
    grace = desk.person("grace")
    assert rows(grace.client.table("tickets").select("id")) == []
    assert rows(ada.table("tickets").select("id")) == [{"id": ticket["id"]}]

    first = session_of(ada)
    second = some(ada.auth.refresh_session().session)
    assert second.refresh_token != first.refresh_token
    for session in (first, second):
        assert some(ada.auth.get_user(session.access_token)).user.email == email
    assert rows(ada.table("tickets").select("id")) == [{"id": ticket["id"]}]

    ada.auth.sign_out()
    assert ada.auth.get_session() is None
    with refused("session_not_found"):
        ada.auth.get_user(second.access_token)
    with refused("refresh_token_not_found"):
        ada.auth.refresh_session(second.refresh_token)
    late = desk.visitor()
    late.postgrest.auth(second.access_token)
    with refused("session_ended"):
        rows(late.table("tickets").select("id"))
    with refused("42501"):  # as nobody, that is
        rows(ada.table("tickets").select("id"))


def customer(desk: Deskbase) -> None:
    """Joins an organization that is there already, and sees nothing there but their own."""
    ada = desk.person("ada")
    organization_id = me(ada.client).app_metadata["organization_id"]
    carl, email = desk.visitor(), desk.address("carl")
    data = {"name": "Carl", "organization_id": organization_id}
    carl.auth.sign_up({"email": email, "password": PASSWORD, "options": {"data": data}})
    answer = carl.auth.verify_otp({"email": email, "token": desk.mail_to(email).code, "type": "signup"})
    assert some(answer.user).app_metadata["role"] == "customer"

    rows(ada.client.table("tickets").insert({"subject": "Order more tea"}))
    (ticket,) = rows(carl.table("tickets").insert({"subject": "My order is late"}))
    assert rows(carl.table("tickets").select("subject")) == [{"subject": "My order is late"}]
    seen = rows(ada.client.table("tickets").select("subject").order("created_at"))
    assert seen == [{"subject": "Order more tea"}, {"subject": "My order is late"}]
    assert ticket["organization_id"] == organization_id
    with refused("forbidden"):
        rows(carl.rpc("create_integration_token", {"name": "Mine"}))


def own_account(desk: Deskbase) -> None:
    """Changes what is said of them, and the password, which ends their other sessions."""
    ada = desk.person("ada")
    phone = desk.visitor()
    log_in(phone, ada.email)
    events: list[str] = []
    ada.client.auth.on_auth_state_change(lambda event, _: events.append(event))

    user = ada.client.auth.update_user({"data": {"language": "en", "nickname": "A"}}).user
    before = {"name": "Ada", "organization": "Ada Ltd"}
    assert user.user_metadata == {**before, "language": "en", "nickname": "A"}
    user = ada.client.auth.update_user({"data": {"nickname": None}}).user
    assert user.user_metadata == {**before, "language": "en"}
    assert user.app_metadata["role"] == "admin"
    identities = ada.client.auth.get_user_identities().identities
    assert [identity.provider for identity in identities] == ["email"]

    with refused("same_password"):
        ada.client.auth.update_user({"password": PASSWORD})
    with refused("invalid_credentials"):
        ada.client.auth.update_user({"password": NEW_PASSWORD, "current_password": "a crane"})
    ada.client.auth.update_user({"password": NEW_PASSWORD, "current_password": PASSWORD})
    assert events == ["USER_UPDATED"] * 3
    assert desk.mail_to(ada.email).subject == "Your password was changed"

    assert me(ada.client).email == ada.email
    with refused("session_not_found"):
        phone.auth.get_user()
    with refused("invalid_credentials"):
        log_in(phone, ada.email)
    log_in(phone, ada.email, NEW_PASSWORD)


def nonce(desk: Deskbase) -> None:
    """Proves by a code in a mail that it is still them."""
    ada = desk.person("ada")
    ada.client.auth.reauthenticate()
    mail = desk.mail_to(ada.email)
    assert mail.link == ""
    with refused("reauthentication_not_valid"):
        ada.client.auth.update_user({"password": NEW_PASSWORD, "nonce": other_than(mail.code)})
    ada.client.auth.update_user({"password": NEW_PASSWORD, "nonce": mail.code})
    with refused("reauthentication_not_valid"):
        ada.client.auth.update_user({"password": PASSWORD, "nonce": mail.code})


def second_factor(desk: Deskbase) -> None:
    """Adds an authenticator app, and from then on needs it."""
    ada = desk.person("ada")
    auth = ada.client.auth
    made = auth.mfa.enroll({"factor_type": "totp", "friendly_name": "Telephone", "issuer": "Ada Ltd"})
    app = some(made.totp)
    assert app.qr_code.startswith("data:image/svg+xml;utf-8,<svg")
    assert app.uri.startswith("otpauth://totp/Ada%20Ltd:")
    code = pyotp.parse_uri(app.uri)
    assert isinstance(code, pyotp.TOTP)
    with refused("mfa_factor_name_conflict"):
        auth.mfa.enroll({"factor_type": "totp", "friendly_name": "Telephone"})
    assert [factor.status for factor in auth.mfa.list_factors().all] == ["unverified"]

    challenge = auth.mfa.challenge({"factor_id": made.id})
    assert challenge.expires_at > time.time()
    with refused("mfa_verification_failed"):
        auth.mfa.verify({"factor_id": made.id, "challenge_id": challenge.id, "code": other_than(code.now())})
    now = time.time()
    auth.mfa.verify({"factor_id": made.id, "challenge_id": challenge.id, "code": code.at(now)})
    level = auth.mfa.get_authenticator_assurance_level()
    assert (level.current_level, level.next_level) == ("aal2", "aal2")
    assert {entry.method for entry in level.current_authentication_methods} == {"totp", "password"}
    assert [factor.friendly_name for factor in auth.mfa.list_factors().totp] == ["Telephone"]
    assert session_of(ada.client).user.factors
    assert rows(ada.client.table("tickets").select("id")) == []

    # The next log-in is half of one.
    again = desk.visitor()
    log_in(again, ada.email)
    level = again.auth.mfa.get_authenticator_assurance_level()
    assert (level.current_level, level.next_level) == ("aal1", "aal2")
    with refused("second_factor_required"):
        rows(again.table("tickets").select("id"))
    with refused("insufficient_aal"):
        again.auth.update_user({"password": NEW_PASSWORD})
    with refused("insufficient_aal"):
        again.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "Mine"})
    with refused("insufficient_aal"):
        again.auth.mfa.unenroll({"factor_id": made.id})
    with refused("mfa_verification_failed"):  # a code counts once
        again.auth.mfa.challenge_and_verify({"factor_id": made.id, "code": code.at(now)})
    # Nobody likes to wait for the next one, and clocks may be half a minute apart.
    again.auth.mfa.challenge_and_verify({"factor_id": made.id, "code": code.at(now + 30)})
    assert rows(again.table("tickets").select("id")) == []

    assert again.auth.mfa.unenroll({"factor_id": made.id}).id == made.id
    again.auth.refresh_session()
    level = again.auth.mfa.get_authenticator_assurance_level()
    assert (level.current_level, level.next_level) == ("aal1", "aal1")
    assert again.auth.mfa.list_factors().all == []


def recovery_by_link(desk: Deskbase) -> None:
    """Has forgotten the password, and follows the link of a mail."""
    ada = desk.person("ada")
    ada.client.auth.sign_out()
    events: list[str] = []
    ada.client.auth.on_auth_state_change(lambda event, _: events.append(event))
    ada.client.auth.reset_password_for_email(ada.email, {"redirect_to": FRONT_END})
    link = desk.mail_to(ada.email).link
    found = follow(link)
    assert follow(link)["error_code"] == "otp_expired"  # it worked once

    # Whoever else reads along has no use for the code, and cannot spoil it.
    thief = desk.visitor()
    thief.auth.reset_password_for_email(desk.address("thief"))
    with refused("bad_code_verifier"):
        exchange(thief, found["code"])
    assert exchange(ada.client, found["code"]).id == ada.id
    assert events == ["PASSWORD_RECOVERY"]
    ada.client.auth.update_user({"password": NEW_PASSWORD})
    log_in(ada.client, ada.email, NEW_PASSWORD)


def recovery_by_code(desk: Deskbase) -> None:
    """Has forgotten the password, and types the six digits of a mail."""
    ada = desk.person("ada")
    app = desk.visitor()
    events: list[str] = []
    app.auth.on_auth_state_change(lambda event, _: events.append(event))
    app.auth.reset_password_for_email(ada.email)
    code = desk.mail_to(ada.email).code
    with refused("otp_expired"):
        app.auth.verify_otp({"email": ada.email, "token": other_than(code), "type": "recovery"})
    app.auth.verify_otp({"email": ada.email, "token": code, "type": "recovery"})
    assert events == ["PASSWORD_RECOVERY"]
    with refused("otp_expired"):
        app.auth.verify_otp({"email": ada.email, "token": code, "type": "recovery"})
    app.auth.update_user({"password": NEW_PASSWORD})

    # Whether an address has an account is nobody's business, so the answer is the same.
    app.auth.reset_password_for_email(desk.address("nobody"))


def magic_link(desk: Deskbase) -> None:
    """Logs in without a password: by link, by code, and as somebody who had no account."""
    ada = desk.person("ada")
    options = {"email_redirect_to": FRONT_END, "should_create_user": False}
    by_link = desk.visitor()
    by_link.auth.sign_in_with_otp({"email": ada.email, "options": options})  # type: ignore[typeddict-item]
    found = follow(desk.mail_to(ada.email).link)
    assert exchange(by_link, found["code"]).id == ada.id

    by_code = desk.visitor()
    by_code.auth.sign_in_with_otp({"email": ada.email})
    answer = by_code.auth.verify_otp(
        {"email": ada.email, "token": desk.mail_to(ada.email).code, "type": "email"}
    )
    assert some(answer.user).id == ada.id
    methods = by_code.auth.mfa.get_authenticator_assurance_level().current_authentication_methods
    assert [entry.method for entry in methods] == ["otp"]

    newcomer, email = desk.visitor(), desk.address("newcomer")
    newcomer.auth.sign_in_with_otp({"email": email, "options": {"data": {"organization": "New Ltd"}}})
    newcomer.auth.verify_otp({"email": email, "token": desk.mail_to(email).code, "type": "magiclink"})
    assert rows(newcomer.table("organizations").select("name")) == [{"name": "New Ltd"}]


def implicit_link(desk: Deskbase) -> None:
    """Uses a client whose links lead to a session directly, which is what supabase-js does by default."""
    ada = desk.person("ada")
    events: list[str] = []
    with httpx.Client() as connections:
        page = desk.visitor(ClientOptions(flow_type="implicit", httpx_client=connections))
        page.auth.on_auth_state_change(lambda event, _: events.append(event))
        page.auth.reset_password_for_email(ada.email, {"redirect_to": FRONT_END})
        link = desk.mail_to(ada.email).link
        address = httpx.get(link).headers["location"]
        page.auth.initialize(url=address)
        assert events == ["SIGNED_IN", "PASSWORD_RECOVERY"]
        assert session_of(page).user.id == ada.id
        with refused("Email link is invalid or has expired", AuthImplicitGrantRedirectError):
            page.auth.initialize(url=httpx.get(link).headers["location"])


def new_address(desk: Deskbase) -> None:
    """Changes the address, to which both the old and the new one have to agree."""
    ada = desk.person("ada")
    email = desk.address("countess")
    user = ada.client.auth.update_user({"email": email}, {"email_redirect_to": FRONT_END}).user
    assert (user.email, user.new_email) == (ada.email, email)
    first = follow(desk.mail_to(ada.email).link)
    assert first["message"].startswith("Confirmation link accepted")
    assert me(ada.client).email == ada.email
    second = follow(desk.mail_to(email).link)
    exchange(ada.client, second["code"])
    user = me(ada.client)
    assert (user.email, user.new_email) == (email, None)
    assert [identity.identity_data["email"] for identity in user.identities or []] == [email]
    log_in(ada.client, email)

    # The same with codes, of which the first is answered with half a yes.
    third = desk.address("duchess")
    ada.client.auth.update_user({"email": third})
    code = desk.mail_to(third).code
    half = ada.client.auth.verify_otp({"email": third, "token": code, "type": "email_change"})
    assert (half.session, half.user) == (None, None)
    code = desk.mail_to(email).code
    whole = ada.client.auth.verify_otp({"email": email, "token": code, "type": "email_change"})
    assert some(whole.user).email == third


def resent_mails(desk: Deskbase) -> None:
    """Asks once more for a mail that did not come; the link of the first one is void."""
    ada, email = desk.visitor(), desk.address("ada")
    ada.auth.sign_up({"email": email, "password": PASSWORD, "options": {"email_redirect_to": FRONT_END}})
    first = desk.mail_to(email)
    answer = ada.auth.resend({"type": "signup", "email": email, "options": {"email_redirect_to": FRONT_END}})
    assert (answer.user, answer.session) == (None, None)
    second = desk.mail_to(email)
    assert follow(first.link)["error_code"] == "otp_expired"
    found = follow(second.link)  # a resent link is not bound to the client
    ada.auth.set_session(found["access_token"], found["refresh_token"])

    new = desk.address("countess")
    ada.auth.update_user({"email": new})
    desk.mail_to(email), desk.mail_to(new)
    ada.auth.resend({"type": "email_change", "email": email})
    for address in (email, new):
        ada.auth.verify_otp({"email": address, "token": desk.mail_to(address).code, "type": "email_change"})
    assert me(ada).email == new


def log_outs(desk: Deskbase) -> None:
    """Ends this session, the others, or all of them."""
    ada = desk.person("ada")
    devices = [ada.client, desk.visitor(), desk.visitor(), desk.visitor()]
    for device in devices[1:]:
        log_in(device, ada.email)
    tokens = [session_of(device).access_token for device in devices]

    def still_in() -> list[bool]:
        return [_stands(desk.visitor(), token) for token in tokens]

    devices[0].auth.sign_out({"scope": "local"})
    assert still_in() == [False, True, True, True]
    devices[1].auth.sign_out({"scope": "others"})
    assert still_in() == [False, True, False, False]
    assert devices[1].auth.get_session()
    devices[1].auth.sign_out({"scope": "global"})
    assert still_in() == [False, False, False, False]
    devices[2].auth.sign_out()  # ended already, which is no error
    log_in(ada.client, ada.email)
    desk.back_end().auth.admin.sign_out(session_of(ada.client).access_token)
    with refused("session_not_found"):
        ada.client.auth.get_user()


def _stands(client: Client, token: str) -> bool:
    """Return whether the session of an access token has not ended."""
    try:
        return client.auth.get_user(token) is not None
    except AuthApiError as error:
        if str(error.code) != "session_not_found":
            raise
        return False


class Store(SyncMemoryStorage):
    """Where an app keeps its session, for instance a file; here one whose clock can be moved."""

    def lasts(self, seconds: int) -> None:
        """Let the stored session be good for so long from now."""
        for name, text in list(self.storage.items()):
            session = json.loads(text)
            self.set_item(name, json.dumps(session | {"expires_at": int(time.time()) + seconds}))


def coming_back(desk: Deskbase) -> None:
    """Comes back to an app that kept the session, which is refreshed when it is time."""
    ada = desk.person("ada")
    store = Store()
    with httpx.Client() as connections:
        app = _with_store(desk, store, connections)
        log_in(app, ada.email)
        first = session_of(app)

        # Overdue: whoever asks for the session gets the next one.
        store.lasts(-60)
        second = session_of(_with_store(desk, store, connections))
        assert second.refresh_token != first.refresh_token

        # Nearly: a timer sees to it.
        events: list[str] = []
        app = _with_store(desk, store, connections)
        app.auth.on_auth_state_change(lambda event, _: events.append(event))
        store.lasts(12)
        app.auth.initialize()
        _wait_for(lambda: "TOKEN_REFRESHED" in events)
        third = session_of(app)
        assert third.refresh_token != second.refresh_token

        # Who did not hear the answer asks once more, and is given the same.
        tabs = [desk.visitor().auth.refresh_session(third.refresh_token).session for _ in range(2)]
        assert some(tabs[0]).refresh_token == some(tabs[1]).refresh_token

        # A refresh token that was used before the last one is somebody else's by now.
        with refused("refresh_token_already_used"):
            app.auth.refresh_session(first.refresh_token)
        with refused("refresh_token_not_found"):
            app.auth.refresh_session(third.refresh_token)
        with refused("session_not_found"):
            app.auth.get_user(third.access_token)


def _with_store(desk: Deskbase, store: SyncSupportedStorage, connections: httpx.Client) -> Client:
    return desk.visitor(ClientOptions(storage=store, httpx_client=connections))


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def claims(desk: Deskbase) -> None:
    """Reads what the access token says, after the server, or its public key, has vouched for it."""
    ada = desk.person("ada")
    asked: list[str] = []
    note = {"request": [lambda request: asked.append(request.url.path)]}
    with httpx.Client(event_hooks=note) as connections:
        app = desk.visitor(ClientOptions(httpx_client=connections))
        log_in(app, ada.email)
        asked.clear()
        for _ in range(2):
            found = some(app.auth.get_claims())
        said: Any = found["claims"]
        assert said["iss"] == f"{desk.url}/auth/v1"
        assert (said["sub"], said["role"], said["aal"]) == (ada.id, "authenticated", "aal1")
        assert said["app_metadata"]["role"] == "admin"
        assert said["user_metadata"] == {"name": "Ada", "organization": "Ada Ltd"}
        if found["headers"]["alg"] == "ES256":
            assert asked == ["/auth/v1/.well-known/jwks.json"]
        else:
            assert asked == ["/auth/v1/user"] * 2
        print(found["headers"]["alg"])


def administration(desk: Deskbase) -> None:
    """Is not a person but a back end: makes accounts, finds, changes, bans and deletes them."""
    admin = desk.back_end().auth.admin
    email = desk.address("ada")
    made = admin.create_user(
        {
            "email": email,
            "password": PASSWORD,
            "email_confirm": True,
            "user_metadata": {"name": "Ada", "organization": "Ada Ltd"},
        }
    ).user
    organization_id = made.app_metadata["organization_id"]
    agents = []
    for number in range(3):
        metadata = {"organization_id": organization_id, "role": "agent"}
        agents.append(
            admin.create_user(
                {"email": desk.address(f"agent{number}"), "email_confirm": True, "app_metadata": metadata}
            ).user
        )
    assert {agent.app_metadata["role"] for agent in agents} == {"agent"}
    with refused("email_exists"):
        admin.create_user({"email": email.upper(), "password": PASSWORD})
    unconfirmed = admin.create_user({"email": desk.address("new"), "password": PASSWORD}).user
    assert unconfirmed.email_confirmed_at is None

    # Other people may come in meanwhile, so the pages are walked until all four have been seen.
    everybody = {user.id for page in _pages(admin.list_users) for user in page}
    assert {made.id, *(agent.id for agent in agents)} <= everybody
    assert len(admin.list_users(page=1, per_page=2)) == 2
    assert admin.list_users(page=100_000, per_page=1000) == []
    assert len(admin.list_users()) <= 50

    assert admin.get_user_by_id(made.id).user.email == email
    with refused("user_not_found"):
        admin.get_user_by_id("00000000-0000-4000-8000-000000000000")
    new_email = desk.address("countess")
    changed = admin.update_user_by_id(
        made.id, {"email": new_email, "password": NEW_PASSWORD, "user_metadata": {"title": "Countess"}}
    ).user
    assert changed.email == new_email
    assert changed.user_metadata == {"name": "Ada", "organization": "Ada Ltd", "title": "Countess"}
    _let_in(desk, unconfirmed, organization_id)
    ada = desk.visitor()
    log_in(ada, new_email, NEW_PASSWORD)

    admin.update_user_by_id(made.id, {"ban_duration": "24h"})
    with refused("session_not_found"):
        ada.auth.get_user()
    with refused("user_banned"):
        log_in(desk.visitor(), new_email, NEW_PASSWORD)
    admin.update_user_by_id(made.id, {"ban_duration": "none"})
    log_in(ada, new_email, NEW_PASSWORD)

    factor = ada.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "Lost"})
    assert [each.id for each in admin.mfa.list_factors({"user_id": made.id})] == [factor.id]
    admin.mfa.delete_factor({"user_id": made.id, "id": factor.id})
    assert admin.mfa.list_factors({"user_id": made.id}) == []

    admin.delete_user(agents[0].id)
    with refused("user_not_found"):
        admin.get_user_by_id(agents[0].id)
    admin.delete_user(made.id, should_soft_delete=True)
    with refused("invalid_credentials"):
        log_in(desk.visitor(), new_email, NEW_PASSWORD)
    with refused("user_not_found"):
        ada.auth.get_user()

    # Nobody else may do any of it.
    for stranger in (desk.visitor(), desk.person("grace").client):
        with refused("not_admin"):
            stranger.auth.admin.list_users()


def _let_in(desk: Deskbase, user: User, organization_id: str) -> None:
    """Nobody said where: a member of nothing, until somebody does."""
    assert "organization_id" not in user.app_metadata
    for role in ("customer", "team_lead"):
        metadata = {"organization_id": organization_id, "role": role}
        told = desk.back_end().auth.admin.update_user_by_id(user.id, {"app_metadata": metadata}).user
        assert told.app_metadata.items() >= metadata.items()


def _pages(list_users: Callable[..., list[User]]) -> Iterator[list[User]]:
    number = 1
    while page := list_users(page=number, per_page=100):
        yield page
        number += 1


def invitation(desk: Deskbase) -> None:
    """Is invited by a back end, and chooses the password."""
    admin = desk.back_end().auth.admin
    organization_id = me(desk.person("ada").client).app_metadata["organization_id"]
    email = desk.address("grace")
    user = admin.invite_user_by_email(
        email, {"data": {"name": "Grace", "organization_id": organization_id}, "redirect_to": FRONT_END}
    ).user
    assert user.invited_at is not None
    grace = desk.visitor()
    found = follow(desk.mail_to(email).link)
    assert found["type"] == "invite"
    grace.auth.set_session(found["access_token"], found["refresh_token"])
    grace.auth.update_user({"password": PASSWORD})
    log_in(grace, email)
    assert me(grace).app_metadata["organization_id"] == organization_id
    with refused("email_exists"):
        admin.invite_user_by_email(email)


def generated_links(desk: Deskbase) -> None:
    """Gets the link from a back end that sends its own mail."""
    admin = desk.back_end().auth.admin
    email = desk.address("ada")
    signup = admin.generate_link(
        {
            "type": "signup",
            "email": email,
            "password": PASSWORD,
            "options": {"data": {"name": "Ada"}, "redirect_to": FRONT_END},
        }
    )
    assert signup.user.email == email
    assert signup.properties.verification_type == "signup"
    assert signup.properties.redirect_to == FRONT_END
    assert follow(signup.properties.action_link)["type"] == "signup"
    ada = desk.visitor()
    log_in(ada, email)

    by_hash = admin.generate_link({"type": "magiclink", "email": email}).properties
    answer = desk.visitor().auth.verify_otp({"token_hash": by_hash.hashed_token, "type": "magiclink"})
    assert some(answer.user).email == email
    by_code = admin.generate_link({"type": "recovery", "email": email}).properties
    answer = desk.visitor().auth.verify_otp({"email": email, "token": by_code.email_otp, "type": "recovery"})
    assert some(answer.user).email == email
    invited = admin.generate_link({"type": "invite", "email": desk.address("grace")})
    answer = desk.visitor().auth.verify_otp({"token_hash": invited.properties.hashed_token, "type": "invite"})
    assert some(answer.user).id == invited.user.id

    new = desk.address("countess")
    current = admin.generate_link({"type": "email_change_current", "email": email, "new_email": new})
    other = admin.generate_link({"type": "email_change_new", "email": email, "new_email": new})
    for properties in (current.properties, other.properties):
        desk.visitor().auth.verify_otp({"token_hash": properties.hashed_token, "type": "email_change"})
    assert me(ada).email == new
    with refused("user_not_found"):
        admin.generate_link({"type": "recovery", "email": desk.address("nobody")})


def mistakes(desk: Deskbase) -> None:
    """Does what does not work, and is told so in the client's own classes."""
    ada = desk.person("ada")
    visitor = desk.visitor()
    for password, reason in (("short", "length"), ("password123", "pwned")):
        with refused("weak_password", AuthWeakPasswordError) as refusal:
            visitor.auth.sign_up({"email": desk.address("weak"), "password": password})
        assert (refusal.error.status, refusal.error.reasons) == (422, [reason])
    with refused("invalid_credentials") as refusal:
        log_in(visitor, ada.email, NEW_PASSWORD)
    assert (refusal.error.status, refusal.error.message) == (400, "Invalid login credentials")
    for needs_session in (
        lambda: visitor.auth.update_user({"data": {}}),
        visitor.auth.refresh_session,
        visitor.auth.reauthenticate,
        lambda: visitor.auth.mfa.enroll({"factor_type": "totp"}),
    ):
        with refused("Auth session missing!", AuthSessionMissingError):
            needs_session()
    assert visitor.auth.get_user() is None
    with refused("validation_failed"):
        visitor.auth.sign_up({"email": "no address", "password": PASSWORD})
    with refused("bad_jwt"):
        visitor.auth.get_user("no.jwt.atall")
    with refused("anonymous_provider_disabled"):
        visitor.auth.sign_in_anonymously()
    with refused("phone_provider_disabled"):
        visitor.auth.sign_in_with_password({"phone": "+15550100", "password": PASSWORD})

    # Who has an account signs up again: the answer is that of a newcomer, and the owner is told.
    answer = visitor.auth.sign_up({"email": ada.email, "password": NEW_PASSWORD})
    assert some(answer.user).identities == []
    assert answer.session is None
    assert desk.mail_to(ada.email).subject == "You already have an account"
    with refused("invalid_credentials"):
        log_in(visitor, ada.email, NEW_PASSWORD)


def asynchronous(desk: Deskbase) -> None:
    """Does the main things with the asynchronous client."""
    asyncio.run(_asynchronous(desk))


async def _asynchronous(desk: Deskbase) -> None:
    ada = await acreate_client(desk.url, desk.key)
    email = desk.address("ada")
    await ada.auth.sign_up(
        {"email": email, "password": PASSWORD, "options": {"email_redirect_to": FRONT_END}}
    )
    found = follow(await asyncio.to_thread(lambda: desk.mail_to(email).link))
    params: CodeExchangeParams = {"auth_code": found["code"], "code_verifier": "", "redirect_to": ""}
    await ada.auth.exchange_code_for_session(params)
    events: list[str] = []
    ada.auth.on_auth_state_change(lambda event, _: events.append(event))
    await ada.auth.sign_in_with_password({"email": email, "password": PASSWORD})
    made_ticket = await ada.table("tickets").insert({"subject": "The kettle is broken"}).execute()

    made = await ada.auth.mfa.enroll({"factor_type": "totp", "friendly_name": "Telephone"})
    code = pyotp.TOTP(some(made.totp).secret).now()
    await ada.auth.mfa.challenge_and_verify({"factor_id": made.id, "code": code})
    level = await ada.auth.mfa.get_authenticator_assurance_level()
    assert level.current_level == "aal2"
    seen = await ada.table("tickets").select("*").execute()
    assert seen.data == made_ticket.data

    await ada.auth.refresh_session()
    token = some(await ada.auth.get_session()).access_token
    assert some(await ada.auth.get_claims())["claims"]["aal"] == "aal2"
    await ada.auth.sign_out()
    with refused("session_not_found"):
        await ada.auth.get_user(token)
    assert events == ["SIGNED_IN", "MFA_CHALLENGE_VERIFIED", "TOKEN_REFRESHED", "SIGNED_OUT"]


def other_than(code: str) -> str:
    """Return six digits that are wrong."""
    return f"{(int(code) + 1) % 1_000_000:06}"


STORIES = [
    founder,
    customer,
    own_account,
    nonce,
    second_factor,
    recovery_by_link,
    recovery_by_code,
    magic_link,
    implicit_link,
    new_address,
    resent_mails,
    log_outs,
    coming_back,
    claims,
    administration,
    invitation,
    generated_links,
    mistakes,
    asynchronous,
]


def main() -> None:
    """Tell the stories that are named, or all."""
    *place, names = [*sys.argv[1:5], sys.argv[5:]]
    for story in STORIES:
        if not names or story.__name__ in names:
            story(Deskbase(*place))
            print(f"{story.__name__}: as told")


if __name__ == "__main__":
    main()
