"""The operations of the integration-tickets contract.

Each parses its request, makes one call and hands on the bytes that Postgres built. What a ticket is, and
which of them a token may touch, is decided there.
"""

import re
from typing import Any, TypeVar

from litestar import Request, get, patch, post
from msgspec import Struct

from api.bodies import check_media_type, decode, given, read
from api.db import Param
from api.door import Reply, header, visit_in
from api.errors import ApiError
from api.limits import Header
from api.openapi import DOCS

from . import docs
from .structs import AddComment, CreateTicket, UpdateStatus

CREATE_TICKET = b"select body, version from integration_tickets.create_ticket($1, $2, $3, $4, $5, $6, $7)"
GET_TICKET = b"select body, version from integration_tickets.get_ticket($1, $2)"
ADD_COMMENT = b"select body, version from integration_tickets.add_comment($1, $2, $3, $4, $5, $6)"
UPDATE_STATUS = b"select body, version from integration_tickets.update_ticket_status($1, $2, $3, $4)"

HEALTH = (
    b'{"status":"ok","endpoints":["POST /tickets","GET /tickets/:id","POST /tickets/:id/comments",'
    b'"PATCH /tickets/:id/status"]}'
)

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T", bound=Struct)

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"(\d{1,18})"', re.ASCII)


@get("/", operation_id="Health", summary="Health check", opt={DOCS: docs.HEALTH})
async def health(request: AnyRequest) -> Reply:  # noqa: ARG001
    """Say that the API is there and what it offers."""
    return _json(200, HEALTH)


@post("/tickets", operation_id="CreateTicket", summary="Create a ticket", opt={DOCS: docs.CREATE_TICKET})
async def create_ticket(request: AnyRequest) -> Reply:
    """Create a support ticket, which belongs to the token that creates it."""
    data, key = await _body(request, CreateTicket), _idempotency_key(request)
    return await _call(
        request, 201, CREATE_TICKET,
        data.title, data.description, data.priority, data.category, given(data.metadata), key,
    )  # fmt: skip


@get(
    "/tickets/{ticket_id:str}", operation_id="GetTicket", summary="Get a ticket", opt={DOCS: docs.GET_TICKET}
)
async def get_ticket(request: AnyRequest) -> Reply:
    """Answer a ticket that this token created."""
    return await _call(request, 200, GET_TICKET, _ticket_id(request))


@post(
    "/tickets/{ticket_id:str}/comments",
    operation_id="AddComment",
    summary="Add a comment",
    opt={DOCS: docs.ADD_COMMENT},
)
async def add_comment(request: AnyRequest) -> Reply:
    """Add a comment to a ticket that this token created."""
    ticket_id = _ticket_id(request)
    data, version, key = await _body(request, AddComment), _if_match(request), _idempotency_key(request)
    return await _call(
        request, 201, ADD_COMMENT, ticket_id, data.content, data.is_internal or False, version, key
    )


@patch(
    "/tickets/{ticket_id:str}/status",
    operation_id="UpdateTicketStatus",
    summary="Update a ticket's status",
    opt={DOCS: docs.UPDATE_STATUS},
)
async def update_ticket_status(request: AnyRequest) -> Reply:
    """Change the status of a ticket that this token created."""
    ticket_id = _ticket_id(request)
    data, version = await _body(request, UpdateStatus), _if_match(request)
    return await _call(request, 200, UPDATE_STATUS, ticket_id, data.status, version)


async def _call(request: AnyRequest, status: int, statement: bytes, *params: Param) -> Reply:
    """Make the one call, under the claims of the request's permit."""
    claims = visit_in(request.scope).claims
    body, version = await request.app.state.db.one(statement, (claims, *params))
    return _json(status, body, (b"etag", b'"%s"' % version))


def _json(status: int, body: bytes, *headers: Header) -> Reply:
    return Reply(
        status,
        body,
        [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers],
    )


async def _body(request: AnyRequest, kind: type[T]) -> T:
    scope: Any = request.scope
    check_media_type(header(scope, b"content-type"))
    return decode(await read(scope, request.receive), kind)


def _ticket_id(request: AnyRequest) -> str:
    text: str = request.path_params["ticket_id"]
    if not _UUID.fullmatch(text):
        raise ApiError(400, "invalid_field", "ticket_id must be a UUID.", "ticket_id")
    return text


def _idempotency_key(request: AnyRequest) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise ApiError(
            400,
            "invalid_field",
            "Idempotency-Key must be 1 to 255 visible ASCII characters.",
            "Idempotency-Key",
        )
    return key


def _if_match(request: AnyRequest) -> int | None:
    """Return the version that the client knows; None if it names none, or any (`*`)."""
    text = request.headers.get("if-match", "*").strip()
    if text == "*":
        return None
    if found := _ETAG.fullmatch(text):
        return int(found[1])
    raise ApiError(400, "invalid_field", 'If-Match must be an ETag such as "3", or *.', "If-Match")
