"""What the OpenAPI document says beyond routes and structs: errors, headers and examples."""

from typing import Any

from api.errors import WORDS, ApiError
from api.openapi import Contract, Docs, Parameter

from . import structs
from .envelope import detail_of

_ID = "550e8400-e29b-41d4-a716-446655440000"
_CATEGORY_ID = "770e8400-e29b-41d4-a716-446655440222"
_REQUEST_ID = b"7f3c1b52c1f24a3c9a7f1d1f0a6e4b11"
_TICKET = {
    "id": _ID,
    "title": "Can't login to account",
    "description": "Getting invalid credentials error",
    "status": "open",
    "priority": "high",
    "category_id": _CATEGORY_ID,
    "created_at": "2023-01-01T12:00:00Z",
    "updated_at": "2023-01-01T12:00:00Z",
}
_MESSAGE = {
    "id": "660e8400-e29b-41d4-a716-446655440111",
    "ticket_id": _ID,
    "content": "Have you tried resetting your password?",
    "is_internal": False,
    "created_at": "2023-01-01T12:05:00Z",
}

_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "A repeat with the same key within 24 hours gets the first answer and creates nothing.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
_IF_MATCH = Parameter(
    "If-Match",
    "header",
    "The ETag of the ticket as you know it; the write is refused with 412 if it has changed since.",
    {"type": "string", "pattern": '^(\\*|(W/)?"\\d{1,18}")$'},
)
_SIGNATURE = (
    Parameter(
        "X-Signature",
        "header",
        "Hex HMAC-SHA256 of the body with the webhook's secret; `sha256=` may stand before it.",
        {"type": "string"},
        is_required=True,
    ),
    Parameter(
        "X-Timestamp",
        "header",
        "When it was sent, Unix seconds. If given, it may not be off by more than five minutes.",
        {"type": "string", "pattern": "^\\d{1,12}$"},
    ),
)

_Words = dict[int, tuple[str, ...]]
_ALWAYS: _Words = {
    401: ("missing_token", "invalid_token"),
    403: ("forbidden", "second_factor_required"),
    429: ("rate_limit_exceeded",),
    500: ("internal_error", "validation_failed"),
    503: ("unavailable",),
}
_BAD: _Words = {400: ("invalid_field",)}
_NONE: _Words = {404: ("not_found",)}
_BODY: _Words = {
    400: ("missing_required_field", "invalid_field", "invalid_json"),
    413: ("payload_too_large",),
    415: ("unsupported_media_type",),
}

LIST_TICKETS = Docs(
    answer=structs.TicketPage,
    example={"items": [_TICKET], "total": 1, "page": 1, "pages": 1},
    query=structs.TicketFilter,
    errors=_ALWAYS | _BAD,
)
CREATE_TICKET = Docs(
    body=structs.CreateTicket,
    body_example={
        "title": "Can't login to account",
        "description": "Getting invalid credentials error",
        "priority": "high",
    },
    answer=structs.Ticket,
    example=_TICKET,
    parameters=(_IDEMPOTENCY_KEY,),
    headers=("ETag",),
    errors=_ALWAYS | _BODY | {409: ("idempotency_conflict",)},
)
GET_TICKET = Docs(answer=structs.Ticket, example=_TICKET, headers=("ETag",), errors=_ALWAYS | _BAD | _NONE)
LIST_MESSAGES = Docs(
    answer=structs.MessagePage,
    example={"items": [_MESSAGE], "total": 1, "page": 1, "pages": 1},
    query=structs.Page,
    headers=("ETag",),
    errors=_ALWAYS | _BAD | _NONE,
)
SEND_MESSAGE = Docs(
    body=structs.SendMessage,
    body_example={"content": "Have you tried resetting your password?", "is_internal": False},
    answer=structs.Message,
    example=_MESSAGE,
    parameters=(_IDEMPOTENCY_KEY, _IF_MATCH),
    headers=("ETag",),
    errors=_ALWAYS | _BODY | _NONE | {409: ("ticket_closed", "idempotency_conflict"), 412: ("stale",)},
)
LIST_CATEGORIES = Docs(
    answer=list[structs.Category],
    example=[{"id": _CATEGORY_ID, "name": "Billing", "description": "Billing and payment issues"}],
    errors=_ALWAYS,
)
RECEIVE_WEBHOOK = Docs(
    body=structs.AnyDelivery,
    body_example={
        "event": "ticket.created",
        "data": {"external_id": "CRM-17", "title": "Can't login to account", "priority": "high"},
    },
    answer=structs.Received,
    example={"received": True},
    query=structs.Account,
    parameters=_SIGNATURE,
    errors=_ALWAYS | _BODY | _NONE | {401: ("invalid_token",), 403: ("forbidden",)},
    is_open=True,
)


def _error_example(status: int, word: str) -> dict[str, Any]:
    details = '{"version": 4, "comments": []}' if word == "stale" else None
    return {"detail": detail_of(ApiError(status, word, WORDS[word], details), _REQUEST_ID)}


CONTRACT = Contract(
    title="Support platform",
    version="1.0.0",
    description=(
        "Customers and agents work on tickets with the JWT of their log-in. A socket at "
        "`/ws/tickets/{ticket_id}` beside this base tells what happens on a ticket: `message.received`, and "
        "`ticket.updated` when something changes that a ticket shows. Assigning it, or raising its priority "
        "from high to urgent (which is shown as high too), changes nothing of that and is not told. What is "
        "heard is the ticket or the message as it was then, at once and later by `?since=` alike."
    ),
    security={
        "jwt": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The access token of a log-in.",
        }
    },
    error=structs.Error,
    error_example=_error_example,
    path_parameters={
        "ticket_id": Parameter(
            "ticket_id", "path", "Ticket identifier.", {"type": "string", "format": "uuid"}, _ID
        )
    },
)
