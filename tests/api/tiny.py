"""A contract of the tests' own with sockets, on the real server: `python -m tests.api.tiny`."""

from typing import Any

import msgspec

from api.app import Deskbase
from api.door import App, Receive, Scope, Send, answer
from api.errors import ApiError
from api.limits import Rule
from api.serve import serve
from api.services import Services
from api.settings import Limit, Settings
from api.sockets import Handler, Socket, Sockets
from api.watches import Watch
from tests.api.live import RENDER

RULE = Rule("tiny", Limit(500, 3600))


def handlers(services: Services) -> dict[str, Handler]:
    async def tell(socket: Socket) -> None:
        credential = await socket.credential(services.credentials)
        permit = await services.limiter.permit(RULE, credential)
        who: dict[str, Any] = msgspec.json.decode(permit.claims)["app_metadata"]
        watch = Watch(
            organization_id=who["organization_id"],
            claims=permit.claims,
            render=RENDER,
            about=socket.params.get("ticket_id"),
            since=socket.since,
            expires_at=credential.expires_at,
        )
        await socket.stream(await services.relay.subscribe(watch))

    async def fail(_: Socket) -> None:
        raise RuntimeError

    async def ask_too_much(_: Socket) -> None:
        await services.db.rows(b"do $$ begin raise sqlstate 'PT403' using message = 'forbidden'; end $$")

    return {
        "/ws/?": tell,
        r"/ws/tickets/(?P<ticket_id>[^/]+)": tell,
        "/ws/failing": fail,
        "/ws/refusing": ask_too_much,
    }


async def http(_scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, 204, [])


def envelope(error: ApiError, request_id: bytes) -> Any:
    return error.status, [(b"content-type", b"text/plain")], error.word.encode()


def application() -> App:
    services = Services(Settings.load(dotenv_path=None))
    mounts: dict[str, App] = {
        "/tiny": Sockets(http, handlers(services)),
        "/strict": Sockets(http, handlers(services), envelope),
        "/plain": http,
    }
    return Deskbase(services, mounts)


def main() -> None:
    serve("tests.api.tiny:application", Settings.load(dotenv_path=None))


if __name__ == "__main__":
    main()
