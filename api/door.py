"""The door: what happens to a request before and after its contract's app, the same for every way in.

In charge of the request id, of asking for the permit that a contract's rules demand, of the headers that
every answer carries (request id, limits, CORS), and of counting what was answered. It knows no contract:
which credentials one accepts and what its errors look like are given to it.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from api.credentials import Kind
from api.errors import ApiError
from api.limits import Header, Permit
from api.logs import Event, failure
from api.services import Services
from api.settings import Network
from api.usage import Use

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Answer = tuple[int, list[Header], bytes]

Address = IPv4Address | IPv6Address

VISIT = "deskbase"
"""Where a request's scope holds its Visit."""

_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
_EXPOSED = b", ".join(
    [
        b"x-request-id, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after",
        b"etag, location, www-authenticate, x-supabase-api-version, x-total-count, link, content-range",
        b"content-location, preference-applied",
    ]
)
_ALLOWED = b", ".join(
    [
        b"authorization, x-client-info, apikey, content-type, accept, x-supabase-api-version, accept-profile",
        b"content-profile, prefer, range, range-unit, x-upsert, x-metadata, cache-control, x-region",
        b"x-retry-count, traceparent, tracestate, baggage, idempotency-key, if-match, if-none-match",
        b"x-request-id",
    ]
)
_CORS: tuple[Header, ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", _EXPOSED),
)
_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (b"access-control-allow-headers", _ALLOWED),
    (b"access-control-max-age", b"86400"),
    (b"content-length", b"0"),
)
_DRAINED_BYTES = 16 * 1024 * 1024
_DRAIN_SECONDS = 2.0


class Visit:
    """One request on its way: its id, its permit or why it has none, and the status it was answered with."""

    __slots__ = ("_cors", "_send", "id", "permit", "refusal", "started", "status")

    def __init__(self, request_id: bytes, send: Send, *, cors: bool) -> None:
        self.id = request_id
        self.permit: Permit | None = None
        self.refusal: ApiError | None = None
        self.status = 0
        self.started = time.perf_counter()
        self._send = send
        self._cors = cors

    async def send(self, message: Any) -> None:
        """Send a message of the answer, with the headers that every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id)]
            # A lock has a limit of its own.
            if self.permit and not (
                self.status == 429 and any(n == b"x-ratelimit-limit" for n, _ in headers)
            ):
                headers += self.permit.headers()
            if self._cors:
                headers += _CORS
            message["headers"] = headers
        await self._send(message)

    @property
    def claims(self) -> bytes:
        """The claims that it was admitted under. Raises ApiError if it was not."""
        if self.refusal or self.permit is None:
            raise self.refusal or ApiError(401, "missing_token")
        return self.permit.claims

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self.started


def begin(scope: Scope, send: Send) -> Visit:
    """Begin a visit and leave it in the scope."""
    given = header(scope, b"x-request-id")
    request_id = given if given and _REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)
    visit = scope[VISIT] = Visit(request_id, send, cors=header(scope, b"origin") is not None)
    return visit


def visit_in(scope: Any) -> Visit:
    """Return the visit that a scope is part of."""
    visit: Visit = scope[VISIT]
    return visit


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def address_of(scope: Scope) -> str:
    """Return the address that a request comes from."""
    client = scope.get("client")
    return client[0] if client else "unknown"


def trust_proxies(scope: Scope, networks: Sequence[Network]) -> None:
    """Put the address that trusted proxies forward for in place of theirs.

    Each proxy adds, at the end, whom it was asked by. So the last one that is no trusted proxy is the caller;
    what stands before it, anybody may have written.
    """
    address = _ip(address_of(scope))
    if address is None or not _is_in(address, networks):
        return
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    for text in reversed(forwarded.decode("latin-1").split(",")):
        found = _ip(text.strip())
        if found is None:
            return
        scope["client"] = (str(found), 0)
        if not _is_in(found, networks):
            return


def _ip(text: str) -> Address | None:
    try:
        # Which interface of whose machine it was, is nobody's name.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def is_head(scope: Any) -> bool:
    """Whether only the head of the answer was asked for; routes are asked as for all of it."""
    return bool(scope.get("is_head"))


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if it may ask."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None


async def answer(send: Send, status: int, headers: Iterable[Header], body: bytes = b"") -> None:
    """Send a whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


async def answer_preflight(send: Send) -> None:
    """Allow a browser what our own rules, not its origin, decide about."""
    await answer(send, 204, _PREFLIGHT)


async def drain(receive: Receive) -> None:
    """Read and forget a body that nobody wants, within bounds, so that its sender gets to read our answer."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size < _DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def settle(services: Services, contract: str, operation: str, visit: Visit) -> None:
    """Count an answered request, and note it if a token made it."""
    seconds = visit.seconds
    services.metrics.answered(contract, operation, visit.status, seconds)
    permit = visit.permit
    if permit and permit.kind is Kind.TOKEN:
        at = time.time() - seconds
        services.usage.note(Use(permit.claims, operation, visit.status, seconds, visit.id, at))


class Reply:
    """A whole answer, as the ASGI app that a Litestar route may return.

    Litestar's own response class costs ten times as much.
    """

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, status: int, body: bytes, headers: Iterable[Header]) -> None:
        self._status = status
        self._body = body
        self._headers = headers

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        await answer(send, self._status, self._headers, self._body)


class Door:
    """Stands before one contract's app.

    `admit` asks for the permit, or raises ApiError; `envelope` makes the contract's error answer; paths in
    `open_paths` (documentation) are for everyone and cost nothing. An app that `tells_paths` says itself, of
    a visit with a 401 as its `refusal`, whether there is anything at the path at all.
    """

    def __init__(
        self,
        app: App,
        services: Services,
        *,
        contract: str,
        admit: Callable[[Scope], Awaitable[Permit]],
        envelope: Callable[[ApiError, bytes], Answer],
        open_paths: frozenset[str],
        tells_paths: bool = False,
    ) -> None:
        self._app = app
        self._services = services
        self._contract = contract
        self._admit = admit
        self._envelope = envelope
        self._open_paths = open_paths
        self._tells_paths = tells_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        visit = visit_in(scope)
        if scope["method"] == "HEAD":
            scope["method"], scope["is_head"] = "GET", True
        try:
            if scope["path"] not in self._open_paths:
                visit.permit = await self._admit(scope)
        except ApiError as error:
            visit.permit = getattr(error, "permit", None)
            await drain(receive)
            if error.status == 401 and self._tells_paths:
                visit.refusal = error
                await self._enter(scope, receive, send, visit)
            else:
                await answer(send, *self._envelope(error, visit.id))
        else:
            await self._enter(scope, receive, send, visit)
        finally:
            handler = scope.get("route_handler")
            settle(self._services, self._contract, getattr(handler, "operation_id", None) or "none", visit)

    async def _enter(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the last line of defence: no client sees a bare failure
            failure(Event.REQUEST_FAILED, error, request_id=visit.id.decode(), contract=self._contract)
            if not visit.status:
                await answer(send, *self._envelope(ApiError(500, "internal_error"), visit.id))
