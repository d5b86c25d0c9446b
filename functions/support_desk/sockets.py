"""The socket of the support-desk contract: what happens at the desk, to whoever works or asks there.

In charge of who gets in. What they are told, the contract's SQL says: of tickets and comments what all of a
role hear alike, and of notifications what each member hears alone, which is what their wish is for.
"""

from typing import Any

import msgspec

from api.credentials import Kind
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
        credential = await socket.credential(services.credentials)
        if credential.kind is not Kind.USER:
            raise ApiError(401, "invalid_token")
        permit = await services.limiter.permit(rule, credential)
        who: dict[str, Any] = msgspec.json.decode(permit.claims)["app_metadata"]
        if "member_id" not in who:
            raise ApiError(403, "forbidden")
        watch = Watch(
            organization_id=who["organization_id"],
            claims=permit.claims,
            render=RENDER_EVENTS,
            wants=_wants(who["member_id"]),
            wish=msgspec.json.encode({"member_id": who["member_id"]}),
            since=socket.since,
            expires_at=credential.expires_at,
        )
        await socket.stream(await services.relay.subscribe(watch))

    return handle


def _wants(member_id: str) -> Any:
    """Return what tells events that the contract tells of; of notifications, only one's own."""

    def wants(event: Event) -> bool:
        return event.type in TOLD and (
            event.table != "notifications" or event.ids.get("member_id") == member_id
        )

    return wants
