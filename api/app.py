"""The app: one ASGI application, which sends each request and each socket to the contract whose path it is.

In charge of the table of paths and of the life of the shared resources. What happens at the door of every
contract is in `api.door`; what a contract answers is its own business.
"""

import asyncio

import httpx
import msgspec

from api import auth, logs, realtime
from api.door import App, Receive, Scope, Send, answer, answer_preflight, begin, is_preflight, trust_proxies
from api.errors import SqlError, UnavailableError
from api.gateway import Gateway
from api.limits import Header
from api.metrics import CONTENT_TYPE
from api.openapi import ASSETS, ASSETS_PATH, asset
from api.services import Services
from api.settings import Settings
from api.sockets import Sockets
from functions import helpdesk, integration_tickets, support_desk, support_platform

FUNCTIONS = "/functions/v1"
_READY_SECONDS = 1.0
CONTRACTS = {
    "integration-tickets": integration_tickets.create_app,
    "support-platform": support_platform.create_app,
    "helpdesk": helpdesk.create_app,
    "support-desk": support_desk.create_app,
}
"""Every contract, by the name in its path. Adding one is a line here."""


def create_app(settings: Settings | None = None) -> App:
    """Make the application. Nothing is opened before its lifespan starts."""
    services = Services(settings or Settings.load())
    mounts: dict[str, App] = {
        "/rest/v1": Gateway(services),
        "/auth/v1": auth.create_app(services),
        "/realtime/v1": realtime.create_app(services),
    }
    for name, create in CONTRACTS.items():
        mounts[f"/{name}"] = mounts[f"{FUNCTIONS}/{name}"] = create(services)
    return Deskbase(services, mounts)


class Deskbase:
    """The dispatcher."""

    def __init__(self, services: Services, mounts: dict[str, App]) -> None:
        self._services = services
        self._root = Root(services)
        self._proxies = services.settings.trusted_proxies
        # The longest first, so that a path inside another's is found.
        self._mounts = sorted(mounts.items(), key=lambda item: -len(item[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the life of the process."""
        if self._proxies and scope["type"] != "lifespan":
            trust_proxies(scope, self._proxies)
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._open(scope, receive, send)

    async def close_sockets(self) -> None:
        """End every socket, which is told why. The server asks for it before it stops."""
        await self._services.relay.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = begin(scope, send)
        if is_preflight(scope):
            await answer_preflight(visit.send)
            return
        app, inner = self._find(scope)
        await app(inner, receive, visit.send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin(scope, send)
        app, inner = self._find(scope)
        if isinstance(app, Sockets):
            await app(inner, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4404})

    def _find(self, scope: Scope) -> tuple[App, Scope]:
        """Return whose path it is, and the scope as that app is to see it."""
        path: str = scope["path"]
        for mount, app in self._mounts:
            if path.startswith(mount) and path[len(mount) : len(mount) + 1] in {"", "/"}:
                return app, {**scope, "mount": mount, "path": path[len(mount) :] or "/", "root_path": ""}
        return self._root, scope

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open the resources when the server starts, close them when it stops."""
        await receive()
        logs.configure()
        await self._services.open()
        logs.info(logs.Event.STARTED)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._services.close()
        logs.info(logs.Event.STOPPED)
        await send({"type": "lifespan.shutdown.complete"})


class Root:
    """`/health` (this process), `/ready` (what it needs), `/metrics`, `/assets/`, and nothing else."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        if path == "/health":
            await _answer_json(send, 200, {"status": "ok"})
        elif path == "/ready":
            state = await self._state()
            await _answer_json(send, 200 if all(state.values()) else 503, state)
        elif path == "/metrics":
            body = self._services.metrics.exposition()
            await answer(send, 200, [(b"content-type", CONTENT_TYPE.encode())], body)
        elif path.startswith(ASSETS_PATH) and (name := path.removeprefix(ASSETS_PATH)) in ASSETS:
            await answer(send, 200, _asset_headers(name), asset(name))
        else:
            await _answer_json(send, 404, {"error": "not_found", "message": "There is nothing at this path."})

    async def _state(self) -> dict[str, bool]:
        database, postgrest = await asyncio.gather(self._database_is_ready(), self._postgrest_is_ready())
        return {"database": database, "postgrest": postgrest, "relay": self._services.relay.is_ready}

    async def _database_is_ready(self) -> bool:
        try:
            await self._services.db.one(b"select 1", (), _READY_SECONDS)
        except (SqlError, UnavailableError):
            return False
        return True

    async def _postgrest_is_ready(self) -> bool:
        """Ask PostgREST what it answers from memory; where there is none, all else is ready without it.

        Its own /ready follows its listener, which comes back up to half a minute after its requests do.
        """
        url = self._services.settings.postgrest_url
        if not url:
            return True
        try:
            async with asyncio.timeout(_READY_SECONDS):
                response = await self._services.http.handle_async_request(
                    httpx.Request("OPTIONS", f"{url}/tickets")
                )
                await response.aclose()
        except (httpx.HTTPError, TimeoutError):
            return False
        return response.is_success


def _asset_headers(name: str) -> list[Header]:
    media_type, _ = ASSETS[name]
    return [
        (b"content-type", media_type.encode()),
        (b"content-length", b"%d" % len(asset(name))),
        (b"cache-control", b"public, max-age=86400"),
        (b"x-content-type-options", b"nosniff"),
    ]


async def _answer_json(send: Send, status: int, value: object) -> None:
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await answer(send, status, headers, body)
