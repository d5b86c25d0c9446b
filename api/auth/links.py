"""The links of mails: followed by a browser (`GET /verify`), or their token or code sent by a client."""

from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from litestar import get, post

from api.accounts import Opened, invalid
from api.bodies import InvalidBodyError
from api.door import Reply, is_head
from api.errors import ApiError

from .requests import (
    AnyRequest,
    accounts_of,
    allowed_redirect,
    answer,
    body,
    required,
    services_of,
    visitor,
)
from .structs import LinkKind, Verify

HALF_DONE = "Confirmation link accepted. Please proceed to confirm link sent to the other email"


@post("/verify", operation_id="Verify", status_code=200)
async def verify(request: AnyRequest) -> Reply:
    """Take the token of a link, or a code with the address it was sent to, and answer a session."""
    data = await body(request, Verify)
    accounts = accounts_of(request)
    if data.token_hash:
        opened = await accounts.follow_link(data.type, data.token_hash, visitor(request), by_browser=False)
    else:
        code = required(data.token, "Verify requires either a token or a token hash")
        email = required(data.email, "Only an email address or phone number should be provided on verify")
        opened = await accounts.enter_code(data.type, email, code, visitor(request))
    if opened.session is None:
        return answer(msgspec.json.encode({"code": "200", "msg": HALF_DONE}))
    return answer(opened.session)


@get("/verify", operation_id="FollowLink", status_code=303)
async def follow(request: AnyRequest) -> Reply:
    """Follow a link: send the browser on, with a session, a code or the reason why not."""
    if is_head(request.scope):
        # Whoever only looks at links, as mail filters do, does not use them up.
        return answer(b"")
    there = _destination(request)
    try:
        kind = msgspec.convert(request.query_params.get("type"), LinkKind)
    except msgspec.ValidationError as error:
        raise invalid("Verify requires a verification type") from error
    token = required(request.query_params.get("token"), "Verify requires a token")
    try:
        opened = await accounts_of(request).follow_link(kind, token, visitor(request), by_browser=True)
    except InvalidBodyError:
        raise
    except ApiError as error:
        if error.status >= 500:
            raise
        return _redirect(there, fragment=_fault(error))
    return _send_on(there, kind, opened)


def _send_on(there: str, kind: str, opened: Opened) -> Reply:
    if opened.code:
        separator = "&" if urlsplit(there).query else "?"
        address, _, fragment = there.partition("#")
        return _redirect(f"{address}{separator}{urlencode({'code': opened.code})}", fragment=fragment)
    if opened.session is None:
        return _redirect(there, fragment=urlencode({"message": HALF_DONE}))
    session = msgspec.json.decode(opened.session)
    names = ("access_token", "expires_at", "expires_in", "refresh_token", "token_type")
    return _redirect(there, fragment=urlencode({name: session[name] for name in names} | {"type": kind}))


def _fault(error: ApiError) -> str:
    sentence = "Email link is invalid or has expired" if error.word == "otp_expired" else error.sentence
    return urlencode({"error": "access_denied", "error_code": error.word, "error_description": sentence})


def _destination(request: AnyRequest) -> str:
    services = services_of(request)
    asked = allowed_redirect(services, request.query_params.get("redirect_to"))
    return asked or f"{services.settings.public_url}/auth/v1/done"


def _redirect(there: str, fragment: str) -> Reply:
    address = f"{there.partition('#')[0]}#{fragment}" if fragment else there
    # What is not ASCII is spelled as browsers would.
    location = quote(address, safe="%:/?#[]@!$&'()*+,;=~").encode()
    return Reply(
        303, b"", [(b"location", location), (b"cache-control", b"no-store"), (b"content-length", b"0")]
    )


HANDLERS: list[Any] = [verify, follow]
