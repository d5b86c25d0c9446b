"""The integration-tickets contract: outside systems work on their own tickets with an integration token."""

from api.contract import create_contract
from api.credentials import bearer_in, token_credential
from api.door import App, Scope, header
from api.errors import ApiError
from api.limits import Permit, token_rule
from api.services import Services

from . import docs, routes
from .envelope import envelope

CONTRACT = "integration-tickets"


def create_app(services: Services) -> App:
    """Make the contract's app. Every path of it but the documentation demands an integration token."""
    rule = token_rule(CONTRACT, services.settings.limits_of(CONTRACT, {}).get("token"))

    async def admit(scope: Scope) -> Permit:
        authorization = header(scope, b"authorization")
        if authorization is None:
            raise ApiError(401, "missing_token")
        return await services.limiter.permit(rule, token_credential(bearer_in(authorization)))

    return create_contract(
        services, CONTRACT, routes.HANDLERS, docs=docs.CONTRACT, admit=admit, envelope=envelope
    )
