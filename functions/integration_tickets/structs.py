"""What the integration-tickets contract takes and answers.

In charge of the shapes: they check request bodies and make the OpenAPI document. Answers are built by the
contract's SQL functions; their structs are documentation.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Raw, Struct, field

from api.bodies import NO_NUL, NOT_BLANK, JsonObject

Priority = Literal["low", "medium", "high", "urgent"]
Status = Literal["open", "in_progress", "waiting", "resolved", "closed"]
Text = Annotated[str, Meta(max_length=100_000, extra_json_schema=NO_NUL)]


class CreateTicket(Struct):
    """A new ticket."""

    title: Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema=NOT_BLANK)]
    description: Text | None = None
    priority: Priority | None = None
    category: Annotated[str, Meta(max_length=200, extra_json_schema=NO_NUL)] | None = None
    metadata: JsonObject = field(default_factory=Raw)


class AddComment(Struct):
    """A new comment."""

    content: Annotated[str, Meta(min_length=1, max_length=100_000, extra_json_schema=NOT_BLANK)]
    is_internal: bool | None = None


class UpdateStatus(Struct):
    """A new status."""

    status: Status


class NewTicket(Struct):
    """A ticket as it was created."""

    id: UUID
    title: str
    description: str | None
    status: Status
    priority: Priority
    category: str | None
    metadata: dict[str, Any]
    created_at: datetime


class Ticket(NewTicket):
    """A ticket."""

    updated_at: datetime


class TicketCreated(Struct):
    """The answer to a new ticket."""

    ticket: NewTicket


class TicketFound(Struct):
    """The answer to a look-up."""

    ticket: Ticket


class CommentCreated(Struct):
    """The answer to a new comment."""

    comment_id: UUID


class TicketStatus(Struct):
    """What a change of status answers of the ticket."""

    id: UUID
    status: Status
    updated_at: datetime


class StatusUpdated(Struct):
    """The answer to a new status."""

    success: Literal[True]
    ticket: TicketStatus


class Health(Struct):
    """The answer of the health check."""

    status: Literal["ok"]
    endpoints: list[str]


class Error(Struct, omit_defaults=True):
    """Every error."""

    error: str
    message: str
    details: str | dict[str, Any] | None = None
