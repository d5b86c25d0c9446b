"""`/auth/v1`: accounts over HTTP, in the words of Supabase Auth, so that its clients work unchanged.

In charge of paths, of bodies and of the shape of answers and errors; the use cases are `api.accounts`'.
"""

from litestar import Litestar
from litestar.datastructures import State

from api.contract import refusal_by
from api.credentials import anonymous
from api.door import App, Door, Scope, address_of
from api.limits import Permit, Rule
from api.services import Services
from api.settings import Limit

from . import admin, links, page, routes
from .envelope import envelope
from .requests import check_key

CONTRACT = "auth"
DEFAULT_LIMITS = {"anonymous": Limit(1200, 60)}
"""By address, as most of its callers are nobody yet; guesses have locks of their own."""


def create_app(services: Services) -> App:
    """Make the app. Who calls is each route's own question: a stale session may still ask to log in."""
    app = Litestar(
        [*routes.HANDLERS, *links.HANDLERS, *admin.HANDLERS, *page.HANDLERS],
        state=State({"services": services, "accounts": services.accounts}),
        exception_handlers={Exception: refusal_by(envelope)},
        openapi_config=None,
        logging_config=None,
    )
    rule = Rule(CONTRACT, services.settings.limits_of(CONTRACT, DEFAULT_LIMITS).get("anonymous"))

    async def admit(scope: Scope) -> Permit:
        permit = await services.limiter.permit(rule, anonymous(address_of(scope)))
        check_key(scope, services.credentials, permit)
        return permit

    return Door(
        app,
        services,
        contract=CONTRACT,
        admit=admit,
        envelope=envelope,
        open_paths=routes.OPEN_PATHS | page.OPEN_PATHS,
    )
