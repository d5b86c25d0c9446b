"""The socket of the support-platform contract: what happens on one ticket, to those who see it.

In charge of who gets in and of letting go whoever sees the ticket no more; what they are told, the
contract's SQL says.
"""

import asyncio
from typing import Any
from uuid import UUID

import msgspec

from api.errors import ApiError, SqlError, UnavailableError
from api.event_log import Event
from api.limits import Rule
from api.services import Services
from api.sockets import Handler, Socket
from api.watches import UNAVAILABLE, Message, Outbox, Watch

PATH = r"/ws/tickets/(?P<ticket_id>[^/]+)/?"
WATCH_TICKET = b"select support_platform.watch_ticket($1, $2)"
RENDER_EVENTS = b"select id, body from support_platform.render_events($1, $2)"
LOST = '{"event":"ticket.lost"'
LOST_REASON = "not_found"


class TicketOutbox(Outbox):
    """An outbox that ends when its ticket is seen no more."""

    def passes(self, message: Message) -> bool:
        """Whether a message is to be sent; that the ticket is lost is none, and ends it."""
        if isinstance(message, str) and message.startswith(LOST):
            self.end(LOST_REASON)
        return super().passes(message)


def ticket_socket(services: Services, rule: Rule) -> Handler:
    """Make the handler; a handshake is counted as a request."""

    async def handle(socket: Socket) -> None:
        credential = await socket.person(services.credentials)
        permit = await services.limiter.permit(rule, credential)
        ticket_id, organization_id = ticket_in(socket), organization_in(permit.claims)
        watch = Watch(
            organization_id=organization_id,
            claims=permit.claims,
            render=RENDER_EVENTS,
            wants=is_of_a_conversation,
            about=ticket_id,
            since=socket.since,
            expires_at=credential.expires_at,
        )
        subscription = await services.relay.subscribe(watch, TicketOutbox())

        async def look() -> None:
            """See that whoever listens sees the ticket. Raises SqlError and UnavailableError."""
            await services.db.rows(WATCH_TICKET, (subscription.claims, ticket_id))

        async def look_again() -> None:
            try:
                await look()
            except SqlError:
                subscription.outbox.end(LOST_REASON)
            except UnavailableError:
                subscription.outbox.end(UNAVAILABLE)

        looking: set[asyncio.Task[None]] = set()
        subscription.on_renewal = lambda: looking.add(asyncio.create_task(look_again()))
        try:
            # After the beginning: who loses the ticket from here on is told so.
            await look()
            await socket.stream(subscription)
            if subscription.reason == LOST_REASON:
                await look()
                raise ApiError(404, "not_found")
        finally:
            subscription.close()
            for task in looking:
                task.cancel()

    return handle


def ticket_in(socket: Socket) -> str:
    """Return the ticket that the path names. Raises ApiError 404 for what is no id."""
    try:
        return str(UUID(socket.params["ticket_id"]))
    except ValueError:
        raise ApiError(404, "not_found") from None


def organization_in(claims: bytes) -> str:
    """Return whose tickets the holder of the claims may see. Raises ApiError 404 for a member of nothing."""
    metadata: dict[str, Any] = msgspec.json.decode(claims)["app_metadata"]
    if "organization_id" not in metadata:
        raise ApiError(404, "not_found")
    return str(metadata["organization_id"])


def is_of_a_conversation(event: Event) -> bool:
    """Whether something happened to a ticket or a message."""
    return event.table in {"tickets", "comments"}
