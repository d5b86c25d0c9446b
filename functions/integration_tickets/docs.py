"""What the OpenAPI document says beyond routes and structs: errors, headers and examples."""

from typing import Any

from api.errors import WORDS
from api.openapi import Contract, Docs, Parameter

from . import structs

_ID = "550e8400-e29b-41d4-a716-446655440000"
_NEW_TICKET = {
    "id": _ID,
    "title": "Issue with API integration",
    "description": "Detailed description of the issue",
    "status": "open",
    "priority": "high",
    "category": "Technical Support",
    "metadata": {"customer_id": "CUST-123", "reference_id": "EXT-456"},
    "created_at": "2024-01-15T10:30:00Z",
}
_TICKET = _NEW_TICKET | {"status": "in_progress", "updated_at": "2024-01-15T11:45:00Z"}

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

_ALWAYS = {
    401: ("missing_token", "invalid_token"),
    429: ("rate_limit_exceeded",),
    500: ("internal_error", "validation_failed"),
    503: ("unavailable",),
}
_WRITE = {
    400: ("missing_required_field", "invalid_field", "invalid_json"),
    403: ("insufficient_scope",),
    413: ("payload_too_large",),
    415: ("unsupported_media_type",),
}
_OWN_TICKET = {
    401: ("missing_token", "invalid_token", "not_authorized"),
    404: ("not_found",),
    412: ("stale",),
}

HEALTH = Docs(
    answer=structs.Health,
    example={
        "status": "ok",
        "endpoints": [
            "POST /tickets",
            "GET /tickets/:id",
            "POST /tickets/:id/comments",
            "PATCH /tickets/:id/status",
        ],
    },
    errors=_ALWAYS,
)
CREATE_TICKET = Docs(
    body=structs.CreateTicket,
    body_example={
        "title": "Issue with API integration",
        "description": "Detailed description of the issue",
        "priority": "high",
        "category": "Technical Support",
        "metadata": {"customer_id": "CUST-123", "reference_id": "EXT-456"},
    },
    answer=structs.TicketCreated,
    example={"ticket": _NEW_TICKET},
    parameters=(_IDEMPOTENCY_KEY,),
    headers=("ETag",),
    errors=_ALWAYS | _WRITE | {409: ("idempotency_conflict",)},
)
GET_TICKET = Docs(
    answer=structs.TicketFound,
    example={"ticket": _TICKET},
    headers=("ETag",),
    errors=_ALWAYS | {400: ("invalid_field",), 403: ("insufficient_scope",), 404: ("not_found",)},
)
ADD_COMMENT = Docs(
    body=structs.AddComment,
    body_example={
        "content": "We have received additional information from the customer.",
        "is_internal": False,
    },
    answer=structs.CommentCreated,
    example={"comment_id": "660e8400-e29b-41d4-a716-446655440111"},
    parameters=(_IDEMPOTENCY_KEY, _IF_MATCH),
    headers=("ETag",),
    errors=_ALWAYS | _WRITE | _OWN_TICKET | {409: ("idempotency_conflict",)},
)
UPDATE_STATUS = Docs(
    body=structs.UpdateStatus,
    body_example={"status": "resolved"},
    answer=structs.StatusUpdated,
    example={
        "success": True,
        "ticket": {"id": _ID, "status": "resolved", "updated_at": "2024-01-15T14:20:00Z"},
    },
    parameters=(_IF_MATCH,),
    headers=("ETag",),
    errors=_ALWAYS | _WRITE | _OWN_TICKET,
)


def _error_example(status: int, word: str) -> dict[str, Any]:
    example: dict[str, Any] = {"error": word, "message": WORDS[word]}
    if status >= 500:
        example["details"] = "Request 7f3c1b52c1f24a3c9a7f1d1f0a6e4b11"
    if word == "stale":
        example["details"] = {"version": 4, "comments": []}
    return example


CONTRACT = Contract(
    title="Integration tickets",
    version="1.0.0",
    description="Outside systems create, read, comment and close their tickets with an integration token.",
    security={
        "integrationToken": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "stk_…",
            "description": "An integration token, issued by an admin.",
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
