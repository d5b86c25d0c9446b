"""What the routes of `/auth/v1` have in common: reading a request and answering one."""

import ipaddress
import re
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from litestar import Request
from msgspec import Struct

from api.accounts import Accounts, MailOptions, Visitor, invalid
from api.bodies import check_media_type, decode, read
from api.credentials import Credentials, Kind, bearer_in
from api.door import Reply, Scope, address_of, header
from api.errors import ApiError
from api.gateway import key_in
from api.jwts import InvalidTokenError, payload_of
from api.limits import Header, Permit
from api.services import Services

from .envelope import API_VERSION
from .structs import Challenge

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T", bound=Struct)

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_BEARER = re.compile(rb"bearer +[^ ]", re.IGNORECASE)
_CHALLENGE = re.compile(r"[\w.~-]{43,128}", re.ASCII)
# No user, no password, and nothing after a bracket, of which the parser takes no notice.
_AUTHORITY = re.compile(r"(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d*)?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LONGEST_AGENT = 255


def services_of(request: AnyRequest) -> Services:
    """Return the shared resources."""
    services: Services = request.app.state.services
    return services


def accounts_of(request: AnyRequest) -> Accounts:
    """Return the use cases."""
    return services_of(request).accounts


async def body(request: AnyRequest, kind: type[T]) -> T:
    """Return the body; an empty one is an object without fields."""
    scope: Any = request.scope
    raw = await read(scope, request.receive)
    if raw:
        check_media_type(header(scope, b"content-type"))
    return decode(raw or b"{}", kind)


def answer(content: bytes, status: int = 200, *headers: Header) -> Reply:
    """Answer JSON that nobody may keep."""
    return Reply(
        status,
        content,
        [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            (b"cache-control", b"no-store"),
            API_VERSION,
            *headers,
        ],
    )


def no_content() -> Reply:
    """Answer that it is done."""
    return Reply(204, b"", [(b"cache-control", b"no-store"), API_VERSION])


def visitor(request: AnyRequest) -> Visitor:
    """Return where the request comes from."""
    scope: Any = request.scope
    agent = (header(scope, b"user-agent") or b"").decode("ascii", "replace")[:_LONGEST_AGENT]
    return Visitor(_ip(address_of(scope)), agent.replace("\0", "") or None)


async def user_claims(request: AnyRequest) -> bytes:
    """Return the claims of the access token in the Authorization header, one of ours. Raises ApiError."""
    token = _bearer(request)
    credential = _credentials(request).of_jwt(token)
    if credential.kind is not Kind.USER:
        raise ApiError(403, "bad_jwt", "invalid claim: missing sub claim")
    return payload_of(token)


async def require_service(request: AnyRequest) -> None:
    """Let whoever shows the service role key in, as bearer, or as API key and no other bearer.

    Raises ApiError for anyone else.
    """
    scope: Any = request.scope
    credentials, key = _credentials(request), key_in(scope)
    token = _bearer(request) if key is None or header(scope, b"authorization") else key
    if token == key or token.startswith("sb_"):
        role = credentials.role_of_key(token)
    else:
        role = (await credentials.of_bearer(token)).role
    if role != "service_role":
        raise ApiError(403, "not_admin", "User not allowed")


class WrongKeyError(ApiError):
    """An API key that is none of ours, in a request that was counted by `permit`."""

    def __init__(self, permit: Permit | None) -> None:
        super().__init__(401, "no_authorization", "Invalid API key")
        self.permit = permit


def check_key(scope: Scope, credentials: Credentials, permit: Permit | None = None) -> None:
    """Refuse an API key that is none. Raises ApiError.

    None at all will do: links are followed without one, and the key says no more than that nobody asks.
    """
    key = key_in(scope)
    if key is None:
        return
    try:
        credentials.role_of_key(key)
    except InvalidTokenError:
        raise WrongKeyError(permit) from None


def _bearer(request: AnyRequest) -> str:
    scope: Any = request.scope
    authorization = header(scope, b"authorization") or b""
    if not _BEARER.match(authorization):
        raise ApiError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    return bearer_in(authorization)


def _credentials(request: AnyRequest) -> Credentials:
    return services_of(request).credentials


def required(value: str | None, sentence: str) -> str:
    """Return a field that cannot be left out. Raises ApiError with the sentence."""
    if not value:
        raise invalid(sentence)
    return value


def path_id(request: AnyRequest, name: str, word: str, sentence: str) -> str:
    """Return an id of the path; what is no UUID is not found either."""
    text: str = request.path_params[name]
    if not UUID.fullmatch(text):
        raise ApiError(404, word, sentence)
    return text


def mail_options(request: AnyRequest, given: Challenge | None = None) -> MailOptions:
    """Return where the link of a mail leads and what it is bound to. Raises ApiError."""
    redirect_to = allowed_redirect(services_of(request), request.query_params.get("redirect_to"))
    if given is None or not given.code_challenge:
        return MailOptions(redirect_to)
    method = (given.code_challenge_method or "plain").lower()
    if method not in {"s256", "plain"} or not _CHALLENGE.fullmatch(given.code_challenge):
        raise invalid("code challenge has to be between 43 and 128 characters, its method s256 or plain")
    return MailOptions(redirect_to, given.code_challenge, method)


def allowed_redirect(services: Services, address: str | None) -> str | None:
    """Return an address that a link may lead to, because the settings say so; else None.

    A session goes with the reader there, so an address of somebody else's choice would give it away.
    """
    if not address or len(address) > 2000 or not address.isprintable() or "\\" in address:
        return None
    public = services.settings.public_url
    try:
        there, here = urlsplit(address), urlsplit(public)
        there_port = there.port
    except ValueError:
        return None
    if not _AUTHORITY.fullmatch(there.netloc):
        return None
    if (there.scheme, there.hostname, there_port) == (here.scheme, here.hostname, here.port):
        return address
    # On somebody's own machine their own front-end, on whatever port.
    if here.hostname in _LOOPBACK and there.hostname in _LOOPBACK and there.scheme in {"http", "https"}:
        return address
    return address if any(_matches(address, each) for each in services.settings.redirect_urls) else None


def _matches(address: str, allowed: str) -> bool:
    if not allowed.endswith("*"):
        return address == allowed
    # With dots in its path a browser would go elsewhere than the text says.
    is_straight = {".", ".."}.isdisjoint(unquote(urlsplit(address).path).split("/"))
    return is_straight and address.startswith(allowed[:-1])


def _ip(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - what stands for an address that is not known
