"""What the OpenAPI document says beyond routes and structs: errors, headers and examples."""

from collections.abc import Mapping
from typing import Any

from api.errors import WORDS
from api.openapi import Contract, Docs, Parameter

from . import structs
from .envelope import title_of

IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "A repeat with the same key within 24 hours gets the first answer and changes nothing.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
IF_MATCH = Parameter(
    "If-Match",
    "header",
    "The ETag of the ticket as you know it; the write is refused with 412 if it has changed since.",
    {"type": "string", "pattern": '^(\\*|(W/)?"\\d{1,18}")$'},
)

Errors = dict[int, tuple[str, ...]]
ALWAYS: Errors = {
    401: ("missing_token", "invalid_token", "session_ended"),
    403: ("forbidden", "second_factor_required"),
    429: ("rate_limit_exceeded",),
    500: ("internal_error", "validation_failed"),
    503: ("unavailable",),
}
READ = ALWAYS | {400: ("invalid_field",)}
FOUND = READ | {404: ("not_found",)}
_BODY: Errors = {
    400: ("missing_required_field", "invalid_field", "invalid_json"),
    413: ("payload_too_large",),
    415: ("unsupported_media_type",),
}
LOG_IN = ALWAYS | _BODY
WRITE = ALWAYS | _BODY
CHANGE = FOUND | _BODY
ONCE: Errors = {409: ("idempotency_conflict",)}
CLOSED: Errors = {409: ("idempotency_conflict", "ticket_closed")}
VERSIONED: Errors = {412: ("stale",)}

PERSON = {"id": 2, "username": "tech1", "email": "tech1@example.com"}
LISTED_TICKET = {
    "id": 1,
    "title": "Login issue",
    "status": "open",
    "status_display": "Open",
    "priority": "high",
    "priority_display": "High",
    "assigned_to": PERSON,
    "category": {"id": 1, "name": "Technical", "color": "#007bff"},
    "tags": [{"id": 1, "name": "login", "color": "#28a745"}],
    "created_at": "2024-01-15T10:30:00Z",
    "updated_at": "2024-01-15T11:00:00Z",
    "due_date": "2024-01-16T17:00:00Z",
    "time_since_created": "2 hours ago",
    "comment_count": 3,
}
TICKET = LISTED_TICKET | {
    "description": "Detailed description of the issue",
    "created_by": {"id": 7, "username": "jane", "email": "jane@example.com"},
    "resolution": None,
}
STATS = {
    "total_tickets": 150,
    "open_tickets": 45,
    "in_progress_tickets": 30,
    "resolved_tickets": 60,
    "closed_tickets": 15,
    "overdue_tickets": 8,
    "tickets_by_priority": {"low": 20, "medium": 80, "high": 40, "urgent": 10},
    "tickets_by_category": {"Technical": 80, "Billing": 30, "General": 40},
    "avg_resolution_time": 24.5,
    "tickets_created_today": 5,
    "tickets_resolved_today": 8,
}
COMMENT = {
    "id": 1,
    "content": "This is a comment on the ticket",
    "is_internal": False,
    "author": PERSON,
    "created_at": "2024-01-15T10:45:00Z",
    "updated_at": "2024-01-15T10:45:00Z",
}
POPULAR_TAG = {"id": 1, "name": "login", "description": "", "color": "#28a745", "usage_count": 12}
USED_TEMPLATE = {
    "processed_content": "Hello John Doe, thank you for contacting us regarding login problem.",
    "original_content": "Hello {customer_name}, thank you for contacting us regarding {issue_type}.",
    "variables": ["customer_name", "issue_type"],
}


def page_of(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return a list with one row in it."""
    return {"count": 1, "next": None, "previous": None, "results": [example]}


def _error_example(status: int, word: str) -> dict[str, Any]:
    if status == 400:
        sentences = {"title": ["This field is required."], "priority": ["Invalid choice."]}
        return {"error": title_of(status), "details": sentences}
    more = {"version": 4, "comments": []} if word == "stale" else {}
    return {"error": title_of(status), "details": {"detail": WORDS[word], "code": word, **more}}


OBTAIN_TOKEN = Docs(
    structs.Tokens,
    {"access": "eyJ…", "refresh": "aW8…"},
    body=structs.Login,
    body_example={"username": "your_username", "password": "your_password"},
    takes_form=True,
    is_open=True,
    errors=LOG_IN,
)
REFRESH_TOKEN = Docs(
    structs.Tokens,
    {"access": "eyJ…", "refresh": "aW9…"},
    body=structs.Refresh,
    body_example={"refresh": "aW8…"},
    takes_form=True,
    is_open=True,
    errors=LOG_IN,
)
VERIFY_TOKEN = Docs(
    structs.Verified,
    {},
    body=structs.Verify,
    body_example={"token": "eyJ…"},
    takes_form=True,
    is_open=True,
    errors=LOG_IN,
)
LIST_TICKETS = Docs(
    structs.Listed[structs.ListedTicket],
    page_of(LISTED_TICKET),
    query=structs.TicketQuery,
    errors=READ,
)
GET_TICKET_STATS = Docs(structs.Stats, STATS, errors=ALWAYS)
CREATE_TICKET = Docs(
    structs.Ticket,
    TICKET,
    body=structs.CreateTicket,
    body_example={
        "title": "New ticket title",
        "description": "Detailed description of the issue",
        "priority": "medium",
        "due_date": "2024-01-20T17:00:00Z",
    },
    parameters=(IDEMPOTENCY_KEY,),
    headers=("ETag",),
    errors=WRITE | ONCE,
)
GET_TICKET = Docs(structs.Ticket, TICKET, headers=("ETag",), errors=FOUND)
REPLACE_TICKET = Docs(
    structs.Ticket,
    TICKET,
    body=structs.ReplaceTicket,
    body_example={"title": "Login issue", "priority": "high"},
    parameters=(IF_MATCH,),
    headers=("ETag",),
    errors=CHANGE | CLOSED | VERSIONED,
)
UPDATE_TICKET = Docs(
    structs.Ticket,
    TICKET,
    body=structs.UpdateTicket,
    body_example={"priority": "urgent"},
    parameters=(IF_MATCH,),
    headers=("ETag",),
    errors=CHANGE | CLOSED | VERSIONED,
)
DELETE_TICKET = Docs(parameters=(IF_MATCH,), errors=FOUND | VERSIONED)
ASSIGN_TICKET = Docs(
    structs.Ticket,
    TICKET,
    body=structs.AssignTicket,
    body_example={"user_id": None},
    parameters=(IDEMPOTENCY_KEY, IF_MATCH),
    headers=("ETag",),
    errors=CHANGE | CLOSED | VERSIONED,
)
CHANGE_TICKET_STATUS = Docs(
    structs.Ticket,
    TICKET,
    body=structs.ChangeStatus,
    body_example={
        "status": "resolved",
        "resolution": "Issue resolved by updating configuration",
    },
    parameters=(IDEMPOTENCY_KEY, IF_MATCH),
    headers=("ETag",),
    errors=CHANGE | CLOSED | VERSIONED,
)
LIST_COMMENTS = Docs(
    structs.Listed[structs.Comment],
    page_of(COMMENT),
    query=structs.CommentQuery,
    errors=FOUND,
)
CREATE_COMMENT = Docs(
    structs.Comment,
    COMMENT,
    body=structs.WriteComment,
    body_example={"content": "This is a comment on the ticket", "is_internal": False},
    parameters=(IDEMPOTENCY_KEY, IF_MATCH),
    headers=("ETag",),
    errors=CHANGE | CLOSED | VERSIONED,
)
GET_COMMENT = Docs(structs.Comment, COMMENT, errors=FOUND)
REPLACE_COMMENT = Docs(
    structs.Comment,
    COMMENT,
    body=structs.WriteComment,
    body_example={"content": "This is what I meant"},
    errors=CHANGE,
)
UPDATE_COMMENT = Docs(
    structs.Comment,
    COMMENT,
    body=structs.UpdateComment,
    body_example={"content": "This is what I meant"},
    errors=CHANGE,
)
DELETE_COMMENT = Docs(errors=FOUND)
LIST_POPULAR_TAGS = Docs(list[structs.PopularTag], [POPULAR_TAG], errors=ALWAYS)
USE_TEMPLATE = Docs(
    structs.UsedTemplate,
    USED_TEMPLATE,
    body=structs.UseTemplate,
    body_example={"context": {"customer_name": "John Doe", "issue_type": "login problem"}},
    parameters=(IDEMPOTENCY_KEY,),
    errors=CHANGE | ONCE,
)

CONTRACT = Contract(
    title="Helpdesk",
    version="1.0.0",
    description="Tickets and all around them, for the agents of a help desk and for its customers.",
    security={
        "jwt": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The access token that auth/token/ answers.",
        }
    },
    error=structs.Error,
    error_example=_error_example,
    path_parameters={
        name: Parameter(
            name, "path", description, {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}, "1"
        )
        for name, description in (("ticket_id", "Ticket."), ("id", "What it is about."))
    },
    slash="/",
)
