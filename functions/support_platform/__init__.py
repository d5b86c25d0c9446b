"""The support-platform contract: customers and agents work on tickets with the JWT of their log-in."""

from api.contract import admit_people, create_contract, visitor
from api.door import App, Scope
from api.limits import Permit, Rule
from api.services import Services
from api.settings import Limit
from api.sockets import Sockets

from . import docs, routes, sockets
from .envelope import envelope

CONTRACT = "support-platform"
LIMITS = {"user": Limit(100, 60), "organization": Limit(1000, 60)}
WEBHOOK_LIMIT = Limit(10_000, 60)


def create_app(services: Services) -> App:
    """Make the contract's app. It demands a person's JWT, and of the incoming webhook a signature."""
    limits = services.settings.limits_of(CONTRACT, LIMITS)
    people = Rule(CONTRACT, limits["user"], limits["organization"])
    # The document sets senders no limit; they are counted by their address.
    senders = Rule(CONTRACT, limits.get("webhook", limits.get("anonymous", WEBHOOK_LIMIT)))

    visitors = Rule(CONTRACT, limits["anonymous"]) if "anonymous" in limits else None
    admit_somebody = admit_people(services, people, visitors)

    async def admit(scope: Scope) -> Permit:
        if scope["path"].rstrip("/") == routes.WEBHOOK:
            return await services.limiter.permit(senders, visitor(scope))
        return await admit_somebody(scope)

    contract = create_contract(
        services,
        CONTRACT,
        routes.HANDLERS,
        docs=docs.CONTRACT,
        admit=admit,
        envelope=envelope,
        base=routes.BASE,
    )
    return Sockets(contract, {sockets.PATH: sockets.ticket_socket(services, people)})
