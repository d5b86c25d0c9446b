"""What the support-platform contract takes and answers.

In charge of the shapes: they check request bodies and make the OpenAPI document. Answers are built by the
contract's SQL functions; their structs are documentation.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from api.bodies import NO_NUL, NOT_BLANK, JsonObject

Priority = Literal["low", "medium", "high"]
Status = Literal["open", "in_progress", "resolved"]
Event = Literal["ticket.created", "ticket.updated", "message.created"]
Title = Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema=NOT_BLANK)]
Text = Annotated[str, Meta(max_length=100_000, extra_json_schema=NO_NUL)]
Content = Annotated[str, Meta(min_length=1, max_length=100_000, extra_json_schema=NOT_BLANK)]
OutsideId = Annotated[str, Meta(min_length=1, max_length=320, extra_json_schema=NOT_BLANK)]


class Page(Struct):
    """Which page of a list is asked for."""

    page: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000_000,
            description="Page number; one past the end is empty.",
            extra_json_schema={"default": 1},
        ),
    ] = 1
    limit: Annotated[
        int, Meta(ge=1, le=100, description="Items per page.", extra_json_schema={"default": 20})
    ] = 20


class TicketFilter(Page):
    """Which tickets are asked for."""

    status: Status | UnsetType = UNSET
    category: UUID | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET


class Account(Struct):
    """The sender's account (channel `api`), whose organization and secret are meant; none: the first's."""

    account: Annotated[str, Meta(extra_json_schema=NO_NUL)] | UnsetType = UNSET


class CreateTicket(Struct):
    """A new ticket."""

    title: Title
    description: Text | None = None
    category_id: UUID | None = None
    priority: Priority | None = None


class SendMessage(Struct):
    """A new message; an internal one is for agents."""

    content: Content
    is_internal: bool | None = None


class Ticket(Struct):
    """A ticket."""

    id: UUID
    title: str
    description: str
    status: Status
    priority: Priority
    category_id: UUID | None
    created_at: datetime
    updated_at: datetime


class TicketPage(Struct):
    """A page of tickets, the newest first; a list of nothing has no pages."""

    items: list[Ticket]
    total: int
    page: int
    pages: int


class Message(Struct):
    """A message on a ticket."""

    id: UUID
    ticket_id: UUID
    content: str
    is_internal: bool
    created_at: datetime


class MessagePage(Struct):
    """A page of a ticket's messages, the oldest first; a list of nothing has no pages."""

    items: list[Message]
    total: int
    page: int
    pages: int


class Category(Struct):
    """What a ticket may be about."""

    id: UUID
    name: str
    description: str


# The incoming webhook: what each event has as its data.


class OutsideTicket(Struct, omit_defaults=True):
    """A ticket of the sender's; `external_id` is their name for it."""

    external_id: OutsideId
    title: Title
    description: Text | None = None
    priority: Priority | None = None
    status: Status | None = None
    category_id: UUID | None = None


class OutsideChange(Struct, omit_defaults=True):
    """What has changed of such a ticket; the rest stays. Null takes the category away."""

    external_id: OutsideId
    title: Title | None = None
    description: Text | None = None
    priority: Priority | None = None
    status: Status | None = None
    category_id: UUID | UnsetType | None = UNSET


class OutsideMessage(Struct, omit_defaults=True):
    """A message on such a ticket; `message_id` is the sender's name for it."""

    external_id: OutsideId
    message_id: OutsideId
    content: Content
    is_internal: bool | None = None


DATA: dict[str, type[Struct]] = {
    "ticket.created": OutsideTicket,
    "ticket.updated": OutsideChange,
    "message.created": OutsideMessage,
}


class Delivery(Struct):
    """A delivery, before it is known what its event has as data."""

    event: Event
    data: JsonObject


class TicketCreated(Struct, tag_field="event", tag="ticket.created"):
    """A ticket was made at the sender's."""

    data: OutsideTicket


class TicketUpdated(Struct, tag_field="event", tag="ticket.updated"):
    """A ticket was changed at the sender's."""

    data: OutsideChange


class MessageCreated(Struct, tag_field="event", tag="message.created"):
    """A message was written at the sender's."""

    data: OutsideMessage


AnyDelivery = TicketCreated | TicketUpdated | MessageCreated


class Received(Struct):
    """The answer to a delivery."""

    received: Literal[True]


class Error(Struct):
    """Every error."""

    detail: str | dict[str, Any]
