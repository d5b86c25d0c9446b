"""The socket of the support-desk contract: what happens at the desk, to whoever works or asks there.

In charge of who gets in. What they are told, the contract's SQL says: of tickets and comments what all of a
role hear alike, and of notifications what each member hears alone, which is what their wish is for.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from api.errors import ApiError
from api.event_log import Event
from api.limits import Rule
from api.services import Services
from api.sockets import Handler, Socket
from api.watches import Watch

PATH = "/ws/?"
RENDER_EVENTS = b"select id, body, wish from support_desk.render_events($1, $2, $3)"
TOLD = frozenset(
    {"ticket.created", "ticket.updated", "comment.created", "comment.updated", "notification.created"}
)


def desk_socket(services: Services, rule: Rule) -> Handler:
    """Make the handler; opening one counts as a request."""

    async def handle(socket: Socket) -> None:
        credential = await socket.person(services.credentials)
        permit = await services.limiter.permit(rule, credential)
        expires_at, since = credential.expires_at, socket.since
        subscription = await services.relay.subscribe(_watch(permit.claims, expires_at, since))

        def go_on() -> None:
            services.relay.turn(subscription, _watch(subscription.claims, expires_at))

        subscription.on_renewal = go_on
        await socket.stream(subscription)

    return handle


def _watch(claims: bytes, expires_at: float, since: str | None = None) -> Watch:
    """Return what the holder of the claims watches. Raises ApiError for a member of nothing."""
    who: dict[str, Any] = msgspec.json.decode(claims)["app_metadata"]
    if "member_id" not in who:
        raise ApiError(403, "forbidden")
    return Watch(
        organization_id=who["organization_id"],
        claims=claims,
        render=RENDER_EVENTS,
        wants=_wants(who["member_id"], who.get("contact_id")),
        wish=msgspec.json.encode({"member_id": who["member_id"]}),
        since=since,
        expires_at=expires_at,
    )


def _wants(member_id: str, contact_id: str | None) -> Callable[[Event], bool]:
    """Return what tells events that may be worth asking about: a customer's are about their tickets."""

    def wants(event: Event) -> bool:
        if event.type not in TOLD:
            return False
        if event.table == "notifications":
            return event.ids.get("member_id") == member_id
        return contact_id is None or event.ids.get("contact_id") == contact_id

    return wants
