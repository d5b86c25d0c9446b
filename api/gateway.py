"""The gateway: `/rest/v1`, the real PostgREST behind the limiter.

In charge of the API keys that PostgREST does not know (it is given a JWT in their stead), of the permit, and
of handing bytes on in both directions as they come. What the answer is, PostgREST and row-level security say;
nothing of it is looked at.
"""

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, quote

import httpx
import msgspec

from api.credentials import Credential, Kind, anonymous, bearer_in
from api.door import Receive, Scope, Send, Visit, address_of, answer, drain, header, settle, visit_in
from api.errors import ApiError, UnavailableError
from api.limits import Header, Rule, token_rule
from api.logs import Event, failure, warning
from api.postgrest import HOW_TO_GET_IT
from api.services import Services
from api.settings import Limit

CONTRACT = "rest"
DEFAULT_LIMITS = {"user": Limit(6000, 60), "anonymous": Limit(1200, 60)}
LARGEST_BODY = 10 * 1024 * 1024
CONNECT_SECONDS, READ_SECONDS = 2.0, 60.0

_TIMEOUT = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS).as_dict()
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"authorization", b"apikey", b"host", b"expect", b"content-length"}
_NOT_RETURNED = _HOP_BY_HOP | {
    b"server",
    b"date",
    b"access-control-allow-origin",
    b"access-control-expose-headers",
}


class Gateway:
    """The ASGI app at `/rest/v1`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._credentials = services.credentials
        limits = services.settings.limits_of(CONTRACT, DEFAULT_LIMITS)
        self._rules = {
            Kind.USER: Rule(CONTRACT, limits.get("user"), limits.get("organization")),
            Kind.ANONYMOUS: Rule(CONTRACT, limits.get("anonymous")),
            Kind.TOKEN: token_rule(CONTRACT, limits.get("token")),
        }
        self._origin = httpx.URL(services.settings.postgrest_url) if services.settings.postgrest_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        visit, body = visit_in(scope), _Body(scope, receive)
        try:
            await self._pass_on(scope, body, send, visit)
        except ApiError as error:
            visit.permit = getattr(error, "permit", visit.permit)
            if not body.is_read:
                await drain(receive)
            await _refuse(error, send)
        except Exception as error:
            failure(Event.REQUEST_FAILED, error, request_id=visit.id.decode(), contract=CONTRACT)
            if visit.status:
                # Ending here would make half an answer look whole.
                raise
            await _refuse(ApiError(500, "internal_error"), send)
        finally:
            settle(self._services, CONTRACT, scope["method"], visit)

    async def _pass_on(self, scope: Scope, body: "_Body", send: Send, visit: Visit) -> None:
        if self._origin is None:
            raise ApiError(503, "unavailable", HOW_TO_GET_IT)
        bearer = await self._bearer(scope, visit)
        request = httpx.Request(
            scope["method"],
            self._origin.copy_with(raw_path=_target(scope)),
            headers=[*_request_headers(scope, bearer, self._origin.netloc), *body.headers],
            content=await body.content(),
            extensions={"timeout": _TIMEOUT},
        )
        response = await self._ask(request)
        try:
            await _stream(response, send)
        finally:
            await response.aclose()

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._services.http.handle_async_request(request)
        except _NOT_SENT as error:
            warning(Event.POSTGREST_LOST, error=type(error).__name__)
            raise UnavailableError from error
        except httpx.HTTPError as error:
            warning(Event.POSTGREST_LOST, error=type(error).__name__)
            raise ApiError(502, "unavailable") from error

    async def _bearer(self, scope: Scope, visit: Visit) -> str:
        """Take the permit, and return the JWT that PostgREST is to act on."""
        credential = await self._credential(scope)
        if credential.kind is Kind.SERVICE:
            return credential.bearer
        visit.permit = await self._services.limiter.permit(self._rules[credential.kind], credential)
        return credential.bearer or self._credentials.mint(visit.permit.claims)

    async def _credential(self, scope: Scope) -> Credential:
        """Work out who asks: the bearer; the key's role if that is absent, the key itself, or no JWT."""
        key, bearer = key_in(scope), _bearer(scope)
        role = self._credentials.role_of_key(key) if key else None
        if bearer and bearer != key and not bearer.startswith("sb_"):
            credential = await self._credentials.of_bearer(bearer)
            if credential.kind is not Kind.ANONYMOUS:
                return credential
            role = credential.role
        if role is None and bearer:
            role = self._credentials.role_of_key(bearer)
        if role is None:
            raise ApiError(401, "missing_token", "No API key found in request")
        if role == "service_role":
            return Credential(Kind.SERVICE, role, b"", bearer=self._credentials.mint_role(role))
        return anonymous(address_of(scope))


class _Body:
    """The body of a request on its way through: an iterator of its chunks that knows the bound."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._length = header(scope, b"content-length")
        self._is_chunked = header(scope, b"transfer-encoding") is not None
        self.is_read = False

    @property
    def headers(self) -> list[Header]:
        return [(b"content-length", self._length)] if self._length else []

    async def content(self) -> "_Body | bytes | None":
        """Return what to send on. Raises ApiError if it is too large.

        A body that does not say how long it is is read whole: PostgREST takes one that breaks off for a
        whole one, and would store the half of it.
        """
        if self._is_chunked:
            return b"".join([chunk async for chunk in self])
        if self._length in {None, b"0"}:
            return None
        if self._length.isdigit() and int(self._length) > LARGEST_BODY:
            raise ApiError(413, "payload_too_large")
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        while not self.is_read:
            message = await self._receive()
            if message["type"] != "http.request":
                self.is_read = True
                raise ApiError(400, "invalid_json", "The body ended too early.")
            self.is_read = not message.get("more_body", False)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > LARGEST_BODY:
                raise ApiError(413, "payload_too_large")
            if chunk:
                yield chunk


def key_in(scope: Scope) -> str | None:
    """Return the API key that a request carries, in its header or its query."""
    raw = header(scope, b"apikey")
    if raw is None and b"apikey=" in scope["query_string"]:
        raw = parse_qs(scope["query_string"]).get(b"apikey", [None])[0]
    return raw.decode("latin-1") if raw else None


def _bearer(scope: Scope) -> str | None:
    raw = header(scope, b"authorization")
    return None if raw is None else bearer_in(raw)


def _target(scope: Scope) -> bytes:
    """Return path and query as they came, without the part that leads here."""
    mount: bytes = scope["mount"].encode()
    raw: bytes = scope["raw_path"]
    path = raw[len(mount) :] or b"/" if raw.startswith(mount) else quote(scope["path"]).encode()
    query = b"&".join(part for part in scope["query_string"].split(b"&") if not part.startswith(b"apikey="))
    return path + b"?" + query if query else path


def _request_headers(scope: Scope, bearer: str, host: bytes) -> list[Header]:
    kept = [(name, value) for name, value in scope["headers"] if name not in _NOT_FORWARDED]
    return [(b"host", host), (b"authorization", b"Bearer " + bearer.encode()), *kept]


async def _stream(response: httpx.Response, send: Send) -> None:
    headers = [(name.lower(), value) for name, value in response.headers.raw]
    kept = [(name, value) for name, value in headers if name not in _NOT_RETURNED]
    await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
    async for chunk in response.stream:  # type: ignore[union-attr]
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(error: ApiError, send: Send) -> None:
    """Answer an error of our own in PostgREST's shape."""
    body = msgspec.json.encode(
        {"code": error.word, "message": error.sentence, "details": error.details, "hint": None}
    )
    headers: list[Header] = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        *error.headers,
    ]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await answer(send, error.status, headers, body)
