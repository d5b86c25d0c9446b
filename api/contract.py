"""What the apps of all contracts have in common: reading a request, answering one, showing the documentation.

In charge of the manner; a contract's paths, words, shapes and errors are in its own folder.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from msgspec import Struct

from api import openapi
from api.bodies import check_media_type, decode, decode_form, from_texts, is_form, read
from api.credentials import Credential, Kind, anonymous, bearer_in
from api.db import Database, Param
from api.door import Answer, App, Door, Reply, Scope, address_of, header, visit_in
from api.errors import WORD_OF_STATUS, ApiError, SqlError, is_own_fault, of_database
from api.limits import Header, Permit, Rule
from api.logs import Event, failure
from api.services import Services

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T", bound=Struct)

DOCUMENTATION = frozenset({"/docs", "/redoc", "/openapi.json"})

_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"(\d{1,18})"', re.ASCII)
_ID = re.compile(r"\d{1,19}", re.ASCII)
_LARGEST_ID = 2**63 - 1
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def create_contract(
    services: Services,
    name: str,
    handlers: Sequence[Any],
    *,
    docs: openapi.Contract,
    admit: Callable[[Scope], Awaitable[Permit]],
    envelope: Callable[[ApiError, bytes], Answer],
    base: str = "",
    also_documented_at: Sequence[str] = (),
    open_paths: frozenset[str] = frozenset(),
) -> App:
    """Make a contract's app: its handlers and its documentation behind the door.

    `base` is the part of the path that its document puts before every operation; the documentation can be
    had at other bases too. `open_paths` need no permit. What a route raises is answered by `envelope`.
    """
    bases = [base, *also_documented_at]
    app = Litestar(
        [*handlers, *_documentation(docs, bases)],
        state=State({"services": services, "db": services.db}),
        exception_handlers={Exception: refusal_by(envelope)},
        before_request=_begin,
        openapi_config=None,
        logging_config=None,
    )
    pages = {f"{each}{path}{slash}" for each in bases for path in DOCUMENTATION for slash in ("", "/")}
    return Door(
        app,
        services,
        contract=name,
        admit=admit,
        envelope=envelope,
        open_paths=open_paths | pages,
        tells_paths=True,
    )


async def _begin(request: AnyRequest) -> Response[None] | None:
    """Turn away who was not admitted, and say which methods a path has: of those the router forgets some."""
    if refusal := visit_in(request.scope).refusal:
        raise refusal
    if request.method != "OPTIONS":
        return None
    methods = request.app.route_handler_method_map[request.scope["path_template"]]
    return Response(None, status_code=204, headers={"Allow": ", ".join(sorted(methods))})


def _documentation(docs: openapi.Contract, bases: Sequence[str]) -> list[Any]:
    @get([f"{base}/openapi.json" for base in bases])
    async def show_document(request: AnyRequest) -> Reply:
        """Answer the OpenAPI document, with the address that it was asked for at as its server."""
        mount: Any = request.scope.get("mount", "")
        return _page(openapi.document(request.app, docs, mount), b"application/json")

    @get([f"{base}/docs" for base in bases])
    async def show_swagger(request: AnyRequest) -> Reply:  # noqa: ARG001
        """Show Swagger UI."""
        return _page(openapi.swagger_page(docs.title), b"text/html; charset=utf-8")

    @get([f"{base}/redoc" for base in bases])
    async def show_redoc(request: AnyRequest) -> Reply:  # noqa: ARG001
        """Show ReDoc."""
        return _page(openapi.redoc_page(docs.title), b"text/html; charset=utf-8")

    return [show_document, show_swagger, show_redoc]


def _page(content: bytes, media_type: bytes) -> Reply:
    return Reply(200, content, [(b"content-type", media_type), (b"content-length", b"%d" % len(content))])


# Errors


def api_error(fault: Exception, request_id: bytes) -> ApiError:
    """Return what a route or the router raised as a refusal; a fault of ours is logged, with the request."""
    if isinstance(fault, ApiError):
        return fault
    if isinstance(fault, SqlError):
        if is_own_fault(fault.state):
            failure(Event.STATEMENT_AT_FAULT, fault, state=fault.state, request_id=request_id.decode())
        return of_database(fault)
    if isinstance(fault, HTTPException) and fault.status_code in WORD_OF_STATUS:
        headers = tuple((k.lower().encode(), v.encode()) for k, v in (fault.headers or {}).items())
        return ApiError(fault.status_code, WORD_OF_STATUS[fault.status_code], headers=headers)
    failure(Event.REQUEST_FAILED, fault, request_id=request_id.decode())
    return ApiError(500, "internal_error")


def refusal_by(envelope: Callable[[ApiError, bytes], Answer]) -> Callable[[AnyRequest, Exception], Any]:
    """Return what answers whatever a route or the router raised, in this envelope."""

    def refuse(request: AnyRequest, fault: Exception) -> Response[bytes]:
        visit = visit_in(request.scope)
        error = api_error(fault, visit.id)
        if visit.refusal and error.status != 404:
            error = visit.refusal
        status, headers, content = envelope(error, visit.id)
        return Response(content, status_code=status, headers={k.decode(): v.decode() for k, v in headers})

    return refuse


# Credentials


async def person(services: Services, scope: Scope) -> Credential:
    """Return the credential of a person who logs in. Raises ApiError for none, and for any other kind."""
    authorization = header(scope, b"authorization")
    if authorization is None:
        raise ApiError(401, "missing_token")
    credential = await services.credentials.of_bearer(bearer_in(authorization))
    if credential.kind is not Kind.USER:
        raise ApiError(401, "invalid_token")
    return credential


def visitor(scope: Scope) -> Credential:
    """Return the credential of whoever shows none: their address."""
    return anonymous(address_of(scope))


class UnknownCallerError(ApiError):
    """A request without a credential that is good, which was counted for its address by `permit`."""

    def __init__(self, permit: Permit, word: str) -> None:
        super().__init__(401, word)
        self.permit = permit


def admit_people(
    services: Services, people: Rule, visitors: Rule | None
) -> Callable[[Scope], Awaitable[Permit]]:
    """Return what admits people by their JWTs. Whoever shows none that is good counts as a visitor.

    It raises ApiError, UnknownCallerError among them.
    """

    async def admit(scope: Scope) -> Permit:
        try:
            credential = await person(services, scope)
        except ApiError as error:
            if error.status != 401 or visitors is None:
                raise
            permit = await services.limiter.permit(visitors, visitor(scope))
            raise UnknownCallerError(permit, error.word) from error
        return await services.limiter.permit(people, credential)

    return admit


# Requests


async def body(request: AnyRequest, kind: type[T], *, or_form: bool = False) -> T:
    """Return the body, which is JSON or, if that will do, a form, as a struct.

    Raises ApiError, InvalidBodyError among them.
    """
    scope: Any = request.scope
    media_type = header(scope, b"content-type")
    if or_form and is_form(media_type):
        return decode_form(await read(scope, request.receive), kind)
    check_media_type(media_type)
    return decode(await read(scope, request.receive), kind)


def path_uuid(request: AnyRequest, name: str) -> str:
    """Return an id of the path. Raises ApiError 400 if it is no UUID."""
    text: str = request.path_params[name]
    if not _UUID.fullmatch(text):
        raise invalid(name, f"{name} must be a UUID.")
    return text


def path_number(request: AnyRequest, name: str) -> int:
    """Return an id of the path. Raises ApiError 400 if it is no number that an id could be."""
    text: str = request.path_params[name]
    if not _ID.fullmatch(text) or int(text) > _LARGEST_ID:
        raise invalid(name, f"{name} must be a whole number.")
    return int(text)


def parameters(request: AnyRequest, kind: type[T]) -> T:
    """Return the query parameters as a struct. Raises InvalidBodyError: an empty one is no absent one.

    Of one that is given more than once, the last counts.
    """
    return from_texts(dict(_asked(request)), kind)


def url_of_page(request: AnyRequest) -> str:
    """Return the address that was asked for, up to the number of a page of it.

    It begins with the public URL: whatever a proxy calls this process, and a client in its Host header, a
    client can follow it.
    """
    scope: Any = request.scope
    others = [(name, text) for name, text in _asked(request) if name != "page"]
    services: Services = request.app.state.services
    path = scope["raw_path"].decode("latin-1")
    return f"{services.settings.public_url}{path}?{urlencode([*others, ('page', '')])}"


def _asked(request: AnyRequest) -> list[tuple[str, str]]:
    query_string: bytes = request.scope["query_string"]
    return parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)


def idempotency_key(request: AnyRequest) -> str | None:
    """Return the key under which a repeat gets the first answer. Raises ApiError."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def if_match(request: AnyRequest) -> int | None:
    """Return the version that the client knows; None if it names none, or any (`*`). Raises ApiError."""
    text = request.headers.get("if-match", "*").strip()
    if text == "*":
        return None
    if found := _ETAG.fullmatch(text):
        return int(found[1])
    raise invalid("If-Match", 'If-Match must be an ETag such as "3", or *.')


def invalid(field: str, sentence: str) -> ApiError:
    """Make the refusal of one field, header or parameter."""
    return ApiError(400, "invalid_field", sentence, field)


# Answers


def json_reply(status: int, content: bytes, *headers: Header) -> Reply:
    """Answer JSON that Postgres built."""
    return Reply(
        status,
        content,
        [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            *headers,
        ],
    )


async def call(request: AnyRequest, status: int, statement: bytes, *params: Param) -> Reply:
    """Make the one call, under the claims of the permit: a statement that answers body and version."""
    db: Database = request.app.state.db
    content, version = await db.one(statement, (visit_in(request.scope).claims, *params))
    if status == 204:
        return Reply(status, b"", [])
    etag = () if version is None else ((b"etag", b'"%s"' % version),)
    return json_reply(status, content or b"", *etag)
