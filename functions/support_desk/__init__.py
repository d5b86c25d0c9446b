"""The support-desk contract: agents and customers at work. So far a socket; routes come to stand here."""

from api.contract import admit_people, create_contract
from api.door import App
from api.limits import Rule
from api.services import Services
from api.settings import Limit
from api.sockets import Sockets

from . import docs, sockets
from .envelope import envelope

CONTRACT = "support-desk"
BASE = "/api"
LIMITS = {"user": Limit(1000, 3600), "anonymous": Limit(100, 3600)}


def create_app(services: Services) -> App:
    """Make the contract's app. Who shows no good token is counted by address, everyone else by name."""
    limits = services.settings.limits_of(CONTRACT, LIMITS)
    people = Rule(CONTRACT, limits["user"], limits.get("organization"))
    visitors = Rule(CONTRACT, limits["anonymous"])

    app = create_contract(
        services,
        CONTRACT,
        [],
        docs=docs.CONTRACT,
        admit=admit_people(services, people, visitors),
        envelope=envelope,
        base=BASE,
        also_documented_at=[f"{BASE}/v1"],
    )
    return Sockets(app, {sockets.PATH: sockets.desk_socket(services, people)})
