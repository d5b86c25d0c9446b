"""The operations of the integration-tickets contract.

Each parses its request, makes one call and hands on the bytes that Postgres built. What a ticket is, and
which of them a token may touch, is decided there.
"""

from typing import Any

from litestar import get, patch, post

from api.bodies import given
from api.contract import AnyRequest, body, call, idempotency_key, if_match, json_reply, path_uuid
from api.door import Reply
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


@get("/", operation_id="Health", summary="Health check", opt={DOCS: docs.HEALTH})
async def health(request: AnyRequest) -> Reply:  # noqa: ARG001
    """Say that the API is there and what it offers."""
    return json_reply(200, HEALTH)


@post("/tickets", operation_id="CreateTicket", summary="Create a ticket", opt={DOCS: docs.CREATE_TICKET})
async def create_ticket(request: AnyRequest) -> Reply:
    """Create a support ticket, which belongs to the token that creates it."""
    data, key = await body(request, CreateTicket), idempotency_key(request)
    return await call(
        request, 201, CREATE_TICKET,
        data.title, data.description, data.priority, data.category, given(data.metadata), key,
    )  # fmt: skip


@get(
    "/tickets/{ticket_id:str}", operation_id="GetTicket", summary="Get a ticket", opt={DOCS: docs.GET_TICKET}
)
async def get_ticket(request: AnyRequest) -> Reply:
    """Answer a ticket that this token created."""
    return await call(request, 200, GET_TICKET, path_uuid(request, "ticket_id"))


@post(
    "/tickets/{ticket_id:str}/comments",
    operation_id="AddComment",
    summary="Add a comment",
    opt={DOCS: docs.ADD_COMMENT},
)
async def add_comment(request: AnyRequest) -> Reply:
    """Add a comment to a ticket that this token created."""
    ticket_id = path_uuid(request, "ticket_id")
    data, version, key = await body(request, AddComment), if_match(request), idempotency_key(request)
    return await call(
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
    ticket_id = path_uuid(request, "ticket_id")
    data, version = await body(request, UpdateStatus), if_match(request)
    return await call(request, 200, UPDATE_STATUS, ticket_id, data.status, version)


HANDLERS: list[Any] = [health, create_ticket, get_ticket, add_comment, update_ticket_status]
