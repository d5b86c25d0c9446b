"""The socket of the helpdesk contract: each user's own new notifications."""

from typing import Any

import msgspec

from api.errors import ApiError
from api.event_log import Event
from api.limits import Rule
from api.services import Services
from api.sockets import Handler, Socket
from api.watches import Watch, personal

RENDER = b"select id, body from helpdesk.render_events($1, $2)"


def handlers(services: Services, people: Rule) -> dict[str, Handler]:
    """Make the sockets; opening one counts as a request."""

    async def tell_notifications(socket: Socket) -> None:
        credential = await socket.person(services.credentials)
        permit = await services.limiter.permit(people, credential)
        who: dict[str, Any] = msgspec.json.decode(permit.claims)["app_metadata"]
        if "member_id" not in who:
            raise ApiError(403, "forbidden")
        watch = Watch(
            organization_id=who["organization_id"],
            claims=permit.claims,
            render=RENDER,
            wants=_is_new_notification,
            about=who["member_id"],
            audience=personal,
            since=socket.since,
            expires_at=credential.expires_at,
        )
        await socket.stream(await services.relay.subscribe(watch))

    return {"/ws/notifications/?": tell_notifications}


def _is_new_notification(event: Event) -> bool:
    return event.type == "notification.created"
