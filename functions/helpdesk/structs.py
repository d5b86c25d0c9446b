"""What the helpdesk contract takes and answers.

In charge of the shapes: they check bodies and query parameters and make the OpenAPI document. Answers are
built by the contract's SQL functions; their structs are documentation. UNSET is what was left out.
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, field

T = TypeVar("T")

Status = Literal["open", "in_progress", "resolved", "closed"]
Priority = Literal["low", "medium", "high", "urgent"]
Role = Literal["customer", "agent", "senior_agent", "team_lead", "admin"]
# At least one character that Python, JavaScript and Rust all do not hold to be a blank.
SOMETHING = r"[^\s\x1c-\x1f\x85]"
Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Moment = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
# What the framework takes for a moment; whether there is such a day, the database says.
SomeMoment = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,12})?)?"
        r"([Zz]|[+-][0-9]{2}:?[0-9]{2})?$(?!\n)",
        extra_json_schema={"format": "date-time"},
    ),
]
Text = Annotated[str, Meta(max_length=100_000)]
SomeText = Annotated[str, Meta(max_length=100_000, pattern=SOMETHING)]
Credential = Annotated[str, Meta(pattern=SOMETHING)]
Title = Annotated[str, Meta(max_length=500, pattern=SOMETHING)]
Name = Annotated[str, Meta(max_length=200, pattern=SOMETHING)]
TagName = Annotated[str, Meta(max_length=100, pattern=SOMETHING)]
Description = Annotated[str, Meta(max_length=10_000)]
# For Python `$` also stands before a newline at the end.
Color = Annotated[str, Meta(pattern=r"^#[0-9a-fA-F]{6}$(?!\n)", examples=["#007bff"])]
# Postgres takes words of up to 2046 bytes.
Search = Annotated[str, Meta(max_length=500)]
Variables = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^{}]+$")]], Meta(max_length=100)
]


def order_of(*names: str) -> Meta:
    """Return what an ordering by some of these fields looks like."""
    each = f"-?({'|'.join(names)})"
    return Meta(
        pattern=rf"^{each}(,{each})*$(?!\n)",
        description=f"Fields to order by, separated by commas, with - turned round: {', '.join(names)}.",
    )


# Query parameters


class Page(Struct):
    """Which page of a list."""

    page: Annotated[int, Meta(ge=1, le=10**12, description="Page number.")] = 1
    page_size: Annotated[int, Meta(ge=1, le=100, description="Number of items per page.")] = 20


class TicketQuery(Page):
    """Which tickets."""

    status: Annotated[Status, Meta(description="Filter by status.")] | UnsetType = UNSET
    priority: Annotated[Priority, Meta(description="Filter by priority.")] | UnsetType = UNSET
    category: Annotated[Id, Meta(description="Filter by category ID.")] | UnsetType = UNSET
    assigned_to: Annotated[Id, Meta(description="Filter by assigned user ID.")] | UnsetType = UNSET
    created_by: Annotated[Id, Meta(description="Filter by creator user ID.")] | UnsetType = UNSET
    tags: Annotated[Id, Meta(description="Filter by tag ID.")] | UnsetType = UNSET
    search: Annotated[Search, Meta(description="Search in title, description, and comments.")] | UnsetType = (
        UNSET
    )
    ordering: Annotated[str, order_of("created_at", "updated_at", "priority", "due_date")] = "-created_at"


class CommentQuery(Page):
    """Which comments."""

    ordering: Annotated[str, order_of("created_at", "updated_at")] = "created_at"


class RowQuery(Page):
    """Which rows."""

    search: Annotated[Search, Meta(description="Search in names and texts.")] | UnsetType = UNSET


class NamedQuery(RowQuery):
    """Which rows of those that have a name."""

    ordering: Annotated[str, order_of("name", "created_at")] = "name"


class TitledQuery(RowQuery):
    """Which rows of those that have a title."""

    ordering: Annotated[str, order_of("title", "category", "created_at", "updated_at")] = "title"


class UserQuery(RowQuery):
    """Which users."""

    ordering: Annotated[str, order_of("username", "email", "name", "created_at")] = "username"


# Bodies


class Login(Struct):
    """Who wants to log in; the username is the member's username or e-mail address."""

    username: Credential
    password: Credential


class Refresh(Struct):
    """A refresh token."""

    refresh: Credential


class Verify(Struct):
    """An access token."""

    token: Credential


class CreateTicket(Struct):
    """A new ticket. Assignee, due date and tags are the desk's: a customer who gives any is refused (403)."""

    title: Title
    description: Text | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    category: Id | UnsetType | None = UNSET
    assigned_to: Id | UnsetType | None = UNSET
    due_date: SomeMoment | UnsetType | None = UNSET
    tags: Annotated[list[Id], Meta(max_length=100)] | UnsetType = UNSET


class ReplaceTicket(CreateTicket):
    """A whole ticket; what is left out is emptied, but for its status and resolution."""

    status: Status | UnsetType = UNSET
    resolution: Text | UnsetType | None = UNSET


class UpdateTicket(Struct):
    """Some fields of a ticket."""

    title: Title | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    category: Id | UnsetType | None = UNSET
    assigned_to: Id | UnsetType | None = UNSET
    due_date: SomeMoment | UnsetType | None = UNSET
    tags: Annotated[list[Id], Meta(max_length=100)] | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    resolution: Text | UnsetType | None = UNSET


class AssignTicket(Struct):
    """Whom a ticket is given to; null for nobody."""

    user_id: Id | None


class ChangeStatus(Struct):
    """A new status, and how it was resolved."""

    status: Status
    resolution: Text | UnsetType | None = UNSET


class WriteComment(Struct):
    """A comment."""

    content: SomeText
    is_internal: bool | UnsetType = UNSET


class UpdateComment(Struct):
    """Some fields of a comment."""

    content: SomeText | UnsetType = UNSET
    is_internal: bool | UnsetType = UNSET


# The attributes of what follows are the columns of the tables.


class WriteCategory(Struct):
    """A category."""

    name: Name
    description: Description = ""
    color: Color | UnsetType = UNSET


class UpdateCategory(Struct):
    """Some fields of a category."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    color: Color | UnsetType = UNSET


class WriteTag(Struct):
    """A tag."""

    name: TagName
    description: Description = ""
    color: Color | UnsetType = UNSET


class UpdateTag(Struct):
    """Some fields of a tag."""

    name: TagName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    color: Color | UnsetType = UNSET


class WriteTemplate(Struct):
    """A text to answer with; its variables are those in braces, unless they are named."""

    title: Name
    content: SomeText
    category: Annotated[str, Meta(max_length=200)] = ""
    variables: Variables | UnsetType = UNSET
    is_public: bool | UnsetType = UNSET


class UpdateTemplate(Struct):
    """Some fields of a template."""

    title: Name | UnsetType = UNSET
    content: SomeText | UnsetType = UNSET
    category: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    variables: Variables | UnsetType = UNSET
    is_public: bool | UnsetType = UNSET


class WriteFilter(Struct):
    """A filter."""

    name: Name
    params: dict[str, Any] = field(name="filter_params", default_factory=dict)
    is_public: bool | UnsetType = UNSET


class UpdateFilter(Struct):
    """Some fields of a filter."""

    name: Name | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = field(name="filter_params", default=UNSET)
    is_public: bool | UnsetType = UNSET


class UseTemplate(Struct):
    """What stands for the variables of a template."""

    context: dict[str, Any] = {}


# Answers


class Listed(Struct, Generic[T]):
    """A page of a list."""

    count: int
    next: str | None
    previous: str | None
    results: list[T]


class Tokens(Struct):
    """An access token and the refresh token to get the next one with."""

    access: str
    refresh: str


class Verified(Struct):
    """Nothing, for all is well."""


class Person(Struct):
    """A user, where something else names them."""

    id: int
    username: str
    email: str


class Label(Struct):
    """A category or a tag, where a ticket names it."""

    id: int
    name: str
    color: str


class ListedTicket(Struct):
    """A ticket in a list."""

    id: int
    title: str
    status: Status
    status_display: str
    priority: Priority
    priority_display: str
    assigned_to: Person | None
    category: Label | None
    tags: list[Label]
    created_at: Moment
    updated_at: Moment
    due_date: Moment | None
    time_since_created: str
    comment_count: int


class Ticket(ListedTicket):
    """A ticket."""

    description: str
    created_by: Person | None
    resolution: str | None


class Stats(Struct):
    """The numbers of a dashboard; hours and days are UTC."""

    total_tickets: int
    open_tickets: int
    in_progress_tickets: int
    resolved_tickets: int
    closed_tickets: int
    overdue_tickets: int
    tickets_by_priority: dict[str, int]
    tickets_by_category: dict[str, int]
    avg_resolution_time: float
    tickets_created_today: int
    tickets_resolved_today: int


class Comment(Struct):
    """A comment."""

    id: int
    content: str
    is_internal: bool
    author: Person | None
    created_at: Moment
    updated_at: Moment


class Category(Struct):
    """A category."""

    id: int
    name: str
    description: str
    color: str
    created_at: Moment


class Tag(Category):
    """A tag."""


class PopularTag(Struct):
    """A tag and how many tickets carry it."""

    id: int
    name: str
    description: str
    color: str
    usage_count: int


class Template(Struct):
    """A text to answer with."""

    id: int
    title: str
    content: str
    category: str
    variables: list[str]
    is_public: bool
    created_by: Person | None
    created_at: Moment
    updated_at: Moment


class UsedTemplate(Struct):
    """A template with its variables filled in."""

    processed_content: str
    original_content: str
    variables: list[str]


class Filter(Struct):
    """A saved filter."""

    id: int
    name: str
    filter_params: dict[str, Any]
    is_public: bool
    created_by: Person | None
    created_at: Moment
    updated_at: Moment


class User(Struct):
    """A user."""

    id: int
    username: str
    email: str
    name: str
    role: Role
    is_active: bool


class Error(Struct):
    """Every error: of a validation, `details` has the fields at fault; of all else, `detail` and `code`."""

    error: str
    details: dict[str, Any]
