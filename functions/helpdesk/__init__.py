"""The helpdesk contract: customers and agents work on tickets, by number, with the JWT of their log-in."""

from litestar import Router

from api.contract import admit_people, create_contract, visitor
from api.door import App, Scope
from api.limits import Permit, Rule
from api.services import Services
from api.settings import Limit
from api.sockets import Sockets

from . import docs, routes, rows, sockets
from .envelope import envelope

CONTRACT = "helpdesk"
BASE = "/api/v1"
LIMITS = {"user": Limit(1000, 3600), "anonymous": Limit(100, 3600)}


def create_app(services: Services) -> App:
    """Make the contract's app. Who logs in or shows no good token is counted by address, others by name."""
    limits = services.settings.limits_of(CONTRACT, LIMITS)
    people = Rule(CONTRACT, limits["user"], limits.get("organization"))
    visitors = Rule(CONTRACT, limits["anonymous"])

    admit_somebody = admit_people(services, people, visitors)

    async def admit(scope: Scope) -> Permit:
        if scope["path"].removeprefix(BASE).rstrip("/") in routes.OPEN_PATHS:
            return await services.limiter.permit(visitors, visitor(scope))
        return await admit_somebody(scope)

    app = create_contract(
        services,
        CONTRACT,
        [Router(BASE, route_handlers=[*routes.HANDLERS, *rows.HANDLERS])],
        docs=docs.CONTRACT,
        admit=admit,
        envelope=envelope,
        base=BASE,
        also_documented_at=["/api"],
    )
    return Sockets(app, sockets.handlers(services, people), envelope)
