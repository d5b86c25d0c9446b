"""The helpdesk contract's log-ins, tickets and comments, and what is special about tags and templates.

Each parses its request, makes one call and hands on the bytes that Postgres built. What a ticket is, and who
may do what with it, is decided there.
"""

from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
from litestar import delete, get, patch, post, put

from api.auth.requests import visitor as visitor_of
from api.bodies import InvalidBodyError
from api.contract import (
    AnyRequest,
    body,
    call,
    idempotency_key,
    if_match,
    json_reply,
    parameters,
    path_number,
    url_of_page,
)
from api.credentials import Kind
from api.db import Database
from api.door import Reply, visit_in
from api.errors import ApiError
from api.limits import Rule
from api.openapi import DOCS
from api.services import Services

from . import docs, structs
from .envelope import faults_of

OPEN_PATHS = frozenset({"/auth/token", "/auth/token/refresh", "/auth/token/verify"})
UNCOUNTED = Rule("helpdesk verify")
"""Sets no limit: it asks whether a credential is still good, and counts nothing."""

EMAIL_OF = b"select private.email_of($1)"
REFERENCE_FAULTS = b"select body from helpdesk.reference_faults($1, $2)"
LIST_TICKETS = b"select body, version from helpdesk.list_tickets($1, $2, $3, $4)"
CREATE_TICKET = b"select body, version from helpdesk.create_ticket($1, $2, $3)"
GET_TICKET = b"select body, version from helpdesk.get_ticket($1, $2)"
UPDATE_TICKET = b"select body, version from helpdesk.update_ticket($1, $2, $3, $4, $5)"
DELETE_TICKET = b"select body, version from helpdesk.delete_ticket($1, $2, $3)"
ASSIGN_TICKET = b"select body, version from helpdesk.assign_ticket($1, $2, $3, $4, $5)"
CHANGE_STATUS = b"select body, version from helpdesk.change_status($1, $2, $3, $4, $5)"
GET_STATS = b"select body, version from helpdesk.get_stats($1)"
LIST_COMMENTS = b"select body, version from helpdesk.list_comments($1, $2, $3, $4)"
CREATE_COMMENT = b"select body, version from helpdesk.create_comment($1, $2, $3, $4, $5, $6)"
GET_COMMENT = b"select body, version from helpdesk.get_comment($1, $2, $3)"
UPDATE_COMMENT = b"select body, version from helpdesk.update_comment($1, $2, $3, $4)"
DELETE_COMMENT = b"select body, version from helpdesk.delete_comment($1, $2, $3)"
LIST_POPULAR_TAGS = b"select body, version from helpdesk.list_popular_tags($1)"
USE_TEMPLATE = b"select body, version from helpdesk.use_template($1, $2, $3, $4)"

NO_STORE = (b"cache-control", b"no-store")
REFERENCES = ("category", "assigned_to", "tags")
R = TypeVar("R")
T = TypeVar("T", bound=msgspec.Struct)
encode = msgspec.json.encode


# Authentication


class _Session(msgspec.Struct):
    access_token: str
    refresh_token: str


@post(
    "/auth/token",
    operation_id="ObtainToken",
    summary="Obtain access and refresh tokens",
    status_code=200,
    opt={DOCS: docs.OBTAIN_TOKEN},
)
async def obtain_token(request: AnyRequest) -> Reply:
    """Log in by username, or by e-mail address where several people have that username."""
    data = await body(request, structs.Login, or_form=True)
    name = data.username.strip().lower()
    if "@" not in name:
        (email,) = await _db(request).one(EMAIL_OF, (name,))
        # What is nobody's name, or several people's, fails as a wrong password does, and takes as long.
        name = email.decode() if email else name
    return await _tokens(_services(request).accounts.log_in(name, data.password, visitor_of(request)))


@post(
    "/auth/token/refresh",
    operation_id="RefreshToken",
    summary="Refresh the access token",
    status_code=200,
    opt={DOCS: docs.REFRESH_TOKEN},
)
async def refresh_token(request: AnyRequest) -> Reply:
    """Answer a new access token, and the refresh token that takes the place of the one given."""
    data = await body(request, structs.Refresh, or_form=True)
    return await _tokens(_services(request).accounts.refresh(data.refresh, visitor_of(request)))


@post(
    "/auth/token/verify",
    operation_id="VerifyToken",
    summary="Verify an access token",
    status_code=200,
    opt={DOCS: docs.VERIFY_TOKEN},
)
async def verify_token(request: AnyRequest) -> Reply:
    """Say whether an access token is good: signed, not expired, its session open, its holder active."""
    data, services = await body(request, structs.Verify, or_form=True), _services(request)
    credential = await services.credentials.of_bearer(data.token.strip())
    if credential.kind is not Kind.USER:
        raise ApiError(401, "invalid_token")
    await _authenticated(services.limiter.permit(UNCOUNTED, credential))
    return json_reply(200, b"{}")


async def _tokens(opening: Awaitable[bytes]) -> Reply:
    session = msgspec.json.decode(await _authenticated(opening), type=_Session)
    tokens = {"access": session.access_token, "refresh": session.refresh_token}
    return json_reply(200, encode(tokens), NO_STORE)


async def _authenticated(attempt: Awaitable[R]) -> R:
    """Return what an attempt brings; whoever is refused, for whichever reason, is not authenticated."""
    try:
        return await attempt
    except ApiError as error:
        if error.status in {400, 403}:
            raise ApiError(401, error.word, error.sentence) from error
        raise


# Tickets


@get(
    "/tickets",
    operation_id="ListTickets",
    summary="List tickets",
    opt={DOCS: docs.LIST_TICKETS},
)
async def list_tickets(request: AnyRequest) -> Reply:
    """List the tickets that the caller sees, the newest first."""
    asked = parameters(request, structs.TicketQuery)
    return await call(request, 200, LIST_TICKETS, encode(asked), url_of_page(request), False)


@get(
    "/tickets/my_tickets",
    operation_id="ListMyTickets",
    summary="Get my tickets",
    opt={DOCS: docs.LIST_TICKETS},
)
async def list_my_tickets(request: AnyRequest) -> Reply:
    """List the tickets that are assigned to the caller or were created by them."""
    asked = parameters(request, structs.TicketQuery)
    return await call(request, 200, LIST_TICKETS, encode(asked), url_of_page(request), True)


@get(
    "/tickets/stats",
    operation_id="GetTicketStats",
    summary="Get ticket statistics",
    opt={DOCS: docs.GET_TICKET_STATS},
)
async def get_stats(request: AnyRequest) -> Reply:
    """Count the tickets that the caller sees."""
    return await call(request, 200, GET_STATS)


@post(
    "/tickets",
    operation_id="CreateTicket",
    summary="Create a ticket",
    opt={DOCS: docs.CREATE_TICKET},
)
async def create_ticket(request: AnyRequest) -> Reply:
    """Create a ticket."""
    fields, key = await _ticket_fields(request, structs.CreateTicket), idempotency_key(request)
    return await call(request, 201, CREATE_TICKET, fields, key)


@get(
    "/tickets/{ticket_id:str}",
    operation_id="GetTicket",
    summary="Get ticket details",
    opt={DOCS: docs.GET_TICKET},
)
async def get_ticket(request: AnyRequest) -> Reply:
    """Answer a ticket."""
    return await call(request, 200, GET_TICKET, path_number(request, "ticket_id"))


@put(
    "/tickets/{ticket_id:str}",
    operation_id="ReplaceTicket",
    summary="Update a ticket",
    opt={DOCS: docs.REPLACE_TICKET},
)
async def replace_ticket(request: AnyRequest) -> Reply:
    """Replace a ticket: what is left out is emptied, but for its status and resolution."""
    return await _write_ticket(request, structs.ReplaceTicket, is_whole=True)


@patch(
    "/tickets/{ticket_id:str}",
    operation_id="UpdateTicket",
    summary="Update some fields of a ticket",
    opt={DOCS: docs.UPDATE_TICKET},
)
async def update_ticket(request: AnyRequest) -> Reply:
    """Change the given fields of a ticket."""
    return await _write_ticket(request, structs.UpdateTicket, is_whole=False)


async def _write_ticket(request: AnyRequest, kind: type[msgspec.Struct], *, is_whole: bool) -> Reply:
    ticket_id = path_number(request, "ticket_id")
    fields, version = await _ticket_fields(request, kind), if_match(request)
    return await call(request, 200, UPDATE_TICKET, ticket_id, fields, is_whole, version)


@delete(
    "/tickets/{ticket_id:str}",
    operation_id="DeleteTicket",
    summary="Delete a ticket",
    opt={DOCS: docs.DELETE_TICKET},
    status_code=200,
)
async def delete_ticket(request: AnyRequest) -> Reply:
    """Delete a ticket; an admin can restore it."""
    return await call(request, 204, DELETE_TICKET, path_number(request, "ticket_id"), if_match(request))


@post(
    "/tickets/{ticket_id:str}/assign",
    operation_id="AssignTicket",
    summary="Assign a ticket",
    status_code=200,
    opt={DOCS: docs.ASSIGN_TICKET},
)
async def assign_ticket(request: AnyRequest) -> Reply:
    """Give a ticket to an agent, or to nobody."""
    ticket_id, data = path_number(request, "ticket_id"), await body(request, structs.AssignTicket)
    version, key = if_match(request), idempotency_key(request)
    return await call(request, 200, ASSIGN_TICKET, ticket_id, data.user_id, version, key)


@post(
    "/tickets/{ticket_id:str}/change_status",
    operation_id="ChangeTicketStatus",
    summary="Change the status of a ticket",
    status_code=200,
    opt={DOCS: docs.CHANGE_TICKET_STATUS},
)
async def change_status(request: AnyRequest) -> Reply:
    """Change the status of a ticket, and say how it was resolved."""
    ticket_id, data = path_number(request, "ticket_id"), await body(request, structs.ChangeStatus)
    version, key = if_match(request), idempotency_key(request)
    return await call(request, 200, CHANGE_STATUS, ticket_id, encode(data), version, key)


async def _ticket_fields(request: AnyRequest, kind: type[T]) -> bytes:
    """Return the fields of a ticket as JSON. Raises ApiError, which tells of unknown references too."""
    try:
        return encode(await body(request, kind))
    except InvalidBodyError as error:
        if not error.faults:
            raise
        faults = faults_of(error)
        sound = {name: error.given[name] for name in REFERENCES if name in error.given and name not in faults}
        claims = visit_in(request.scope).claims
        (found,) = await _db(request).one(REFERENCE_FAULTS, (claims, encode(sound)))
        all_faults = encode(faults | msgspec.json.decode(found or b"{}"))
        raise ApiError(400, "invalid_field", details=all_faults.decode()) from error


# Comments


@get(
    "/tickets/{ticket_id:str}/comments",
    operation_id="ListComments",
    summary="List the comments of a ticket",
    opt={DOCS: docs.LIST_COMMENTS},
)
async def list_comments(request: AnyRequest) -> Reply:
    """List the comments of a ticket that the caller sees, the oldest first."""
    ticket_id, asked = path_number(request, "ticket_id"), parameters(request, structs.CommentQuery)
    return await call(request, 200, LIST_COMMENTS, ticket_id, encode(asked), url_of_page(request))


@post(
    "/tickets/{ticket_id:str}/comments",
    operation_id="CreateComment",
    summary="Comment on a ticket",
    opt={DOCS: docs.CREATE_COMMENT},
)
async def create_comment(request: AnyRequest) -> Reply:
    """Comment on a ticket; the ETag is the ticket's new one."""
    ticket_id, data = path_number(request, "ticket_id"), await body(request, structs.WriteComment)
    version, key = if_match(request), idempotency_key(request)
    is_internal = data.is_internal is True
    return await call(request, 201, CREATE_COMMENT, ticket_id, data.content, is_internal, version, key)


@get(
    "/tickets/{ticket_id:str}/comments/{id:str}",
    operation_id="GetComment",
    summary="Get a comment",
    opt={DOCS: docs.GET_COMMENT},
)
async def get_comment(request: AnyRequest) -> Reply:
    """Answer a comment."""
    return await call(request, 200, GET_COMMENT, *_comment(request))


@put(
    "/tickets/{ticket_id:str}/comments/{id:str}",
    operation_id="ReplaceComment",
    summary="Update a comment",
    opt={DOCS: docs.REPLACE_COMMENT},
)
async def replace_comment(request: AnyRequest) -> Reply:
    """Rewrite a comment, as its author or as a lead; whether it is internal stays, unless it is said."""
    ids, data = _comment(request), await body(request, structs.WriteComment)
    return await call(request, 200, UPDATE_COMMENT, *ids, encode(data))


@patch(
    "/tickets/{ticket_id:str}/comments/{id:str}",
    operation_id="UpdateComment",
    summary="Update some fields of a comment",
    opt={DOCS: docs.UPDATE_COMMENT},
)
async def update_comment(request: AnyRequest) -> Reply:
    """Change the given fields of a comment, as its author or as a lead."""
    ids, data = _comment(request), await body(request, structs.UpdateComment)
    return await call(request, 200, UPDATE_COMMENT, *ids, encode(data))


@delete(
    "/tickets/{ticket_id:str}/comments/{id:str}",
    operation_id="DeleteComment",
    summary="Delete a comment",
    opt={DOCS: docs.DELETE_COMMENT},
    status_code=200,
)
async def delete_comment(request: AnyRequest) -> Reply:
    """Delete a comment, as its author or as a lead."""
    return await call(request, 204, DELETE_COMMENT, *_comment(request))


def _comment(request: AnyRequest) -> tuple[int, int]:
    return path_number(request, "ticket_id"), path_number(request, "id")


# Tags and templates


@get(
    "/tags/popular",
    operation_id="ListPopularTags",
    summary="Get popular tags",
    opt={DOCS: docs.LIST_POPULAR_TAGS},
)
async def list_popular_tags(request: AnyRequest) -> Reply:
    """Answer the twenty tags that most tickets carry."""
    return await call(request, 200, LIST_POPULAR_TAGS)


@post(
    "/templates/{id:str}/use_template",
    operation_id="UseTemplate",
    summary="Use a template",
    status_code=200,
    opt={DOCS: docs.USE_TEMPLATE},
)
async def use_template(request: AnyRequest) -> Reply:
    """Fill the variables of a template in."""
    id_, data = path_number(request, "id"), await body(request, structs.UseTemplate)
    return await call(request, 200, USE_TEMPLATE, id_, encode(data.context), idempotency_key(request))


def _db(request: AnyRequest) -> Database:
    db: Database = request.app.state.db
    return db


def _services(request: AnyRequest) -> Services:
    services: Services = request.app.state.services
    return services


HANDLERS: list[Any] = [
    obtain_token,
    refresh_token,
    verify_token,
    list_tickets,
    list_my_tickets,
    get_stats,
    create_ticket,
    get_ticket,
    replace_ticket,
    update_ticket,
    delete_ticket,
    assign_ticket,
    change_status,
    list_comments,
    create_comment,
    get_comment,
    replace_comment,
    update_comment,
    delete_comment,
    list_popular_tags,
    use_template,
]
