"""The operations of the support-platform contract.

Each parses its request, makes one call and hands on the bytes that Postgres built. What a ticket is, and
who may see or write what, is decided there.
"""

from typing import Any

import msgspec
from litestar import get, post
from msgspec import UNSET

from api.bodies import check_media_type, decode, read
from api.contract import (
    AnyRequest,
    body,
    call,
    idempotency_key,
    if_match,
    json_reply,
    parameters,
    path_uuid,
)
from api.db import Database
from api.door import Reply, header
from api.errors import ApiError
from api.jwts import InvalidTokenError
from api.openapi import DOCS
from api.services import Services
from api.signatures import is_fresh, is_signed

from . import docs
from .structs import DATA, Account, CreateTicket, Delivery, Page, SendMessage, TicketFilter

BASE = "/v1"
WEBHOOK = f"{BASE}/webhooks/incoming"

LIST_TICKETS = b"select support_platform.list_tickets($1, $2, $3, $4, $5, $6), null"
CREATE_TICKET = b"select body, version from support_platform.create_ticket($1, $2, $3, $4, $5, $6)"
GET_TICKET = b"select body, version from support_platform.get_ticket($1, $2)"
LIST_MESSAGES = b"select body, version from support_platform.list_messages($1, $2, $3, $4)"
SEND_MESSAGE = b"select body, version from support_platform.send_message($1, $2, $3, $4, $5, $6)"
LIST_CATEGORIES = b"select support_platform.list_categories($1), null"
CHANNEL_SECRET = b"select organization_id, app_secret from private.channel_secret('api', $1)"
RECEIVE_WEBHOOK = b"select support_platform.receive_webhook($1, $2, $3)"


@get(f"{BASE}/tickets", operation_id="ListTickets", summary="List tickets", opt={DOCS: docs.LIST_TICKETS})
async def list_tickets(request: AnyRequest) -> Reply:
    """Answer a page of the tickets that the caller sees: their own, or as an agent the organization's."""
    asked = parameters(request, TicketFilter)
    return await call(
        request,
        200,
        LIST_TICKETS,
        asked.status or None,
        asked.category or None,
        asked.priority or None,
        asked.page,
        asked.limit,
    )


@post(
    f"{BASE}/tickets", operation_id="CreateTicket", summary="Create a ticket", opt={DOCS: docs.CREATE_TICKET}
)
async def create_ticket(request: AnyRequest) -> Reply:
    """Create a ticket in the caller's name."""
    data, key = await body(request, CreateTicket), idempotency_key(request)
    return await call(
        request, 201, CREATE_TICKET, data.title, data.description, data.category_id, data.priority, key
    )


@get(
    f"{BASE}/tickets/{{ticket_id:str}}",
    operation_id="GetTicket",
    summary="Get a ticket",
    opt={DOCS: docs.GET_TICKET},
)
async def get_ticket(request: AnyRequest) -> Reply:
    """Answer one ticket."""
    return await call(request, 200, GET_TICKET, path_uuid(request, "ticket_id"))


@get(
    f"{BASE}/tickets/{{ticket_id:str}}/messages",
    operation_id="ListMessages",
    summary="List messages",
    opt={DOCS: docs.LIST_MESSAGES},
)
async def list_messages(request: AnyRequest) -> Reply:
    """Answer a page of a ticket's messages, the oldest first; customers see those that are not internal."""
    ticket_id, asked = path_uuid(request, "ticket_id"), parameters(request, Page)
    return await call(request, 200, LIST_MESSAGES, ticket_id, asked.page, asked.limit)


@post(
    f"{BASE}/tickets/{{ticket_id:str}}/messages",
    operation_id="SendMessage",
    summary="Send a message",
    opt={DOCS: docs.SEND_MESSAGE},
)
async def send_message(request: AnyRequest) -> Reply:
    """Send a message on a ticket in the caller's name; agents may make it internal."""
    ticket_id = path_uuid(request, "ticket_id")
    data, version, key = await body(request, SendMessage), if_match(request), idempotency_key(request)
    return await call(
        request, 201, SEND_MESSAGE, ticket_id, data.content, data.is_internal or False, version, key
    )


@get(
    f"{BASE}/categories",
    operation_id="ListCategories",
    summary="List categories",
    opt={DOCS: docs.LIST_CATEGORIES},
)
async def list_categories(request: AnyRequest) -> Reply:
    """Answer the organization's categories, by name."""
    return await call(request, 200, LIST_CATEGORIES)


@post(
    WEBHOOK,
    operation_id="ReceiveWebhook",
    summary="Incoming webhook",
    status_code=200,
    opt={DOCS: docs.RECEIVE_WEBHOOK},
)
async def receive_webhook(request: AnyRequest) -> Reply:
    """Take over what happened at the sender's; the same delivery twice is one."""
    scope: Any = request.scope
    content = await read(scope, request.receive)
    organization_id, secret = await _signer(request)
    if not secret:
        raise ApiError(403, "forbidden")
    signature, timestamp = header(scope, b"x-signature"), header(scope, b"x-timestamp")
    if not is_signed(secret, content, signature) or not (timestamp is None or is_fresh(timestamp)):
        raise InvalidTokenError
    check_media_type(header(scope, b"content-type"))
    delivery = decode(content, Delivery)
    data = msgspec.json.encode(decode(bytes(delivery.data), DATA[delivery.event]))
    db: Database = request.app.state.db
    (answer,) = await db.one(RECEIVE_WEBHOOK, (organization_id, delivery.event, data))
    return json_reply(200, answer or b"")


async def _signer(request: AnyRequest) -> tuple[bytes | None, str]:
    """Return whose delivery it is, None being the first organization's, and the secret that signs it."""
    services: Services = request.app.state.services
    account = parameters(request, Account).account
    if account is UNSET:
        return None, services.settings.incoming_webhook_secret
    organization_id, secret = await services.db.one(CHANNEL_SECRET, (account,))
    return organization_id, (secret or b"").decode()


HANDLERS: list[Any] = [
    list_tickets,
    create_ticket,
    get_ticket,
    list_messages,
    send_message,
    list_categories,
    receive_webhook,
]
