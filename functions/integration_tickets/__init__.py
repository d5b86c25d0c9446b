"""The integration-tickets contract: outside systems work on their own tickets with an integration token."""

from typing import Any

from litestar import Litestar, Request, get
from litestar.datastructures import State

from api.credentials import bearer_in, token_credential
from api.door import App, Door, Reply, Scope, header
from api.errors import ApiError
from api.limits import Permit, token_rule
from api.openapi import document, redoc_page, swagger_page
from api.services import Services

from . import docs, routes
from .envelope import envelope, refuse

CONTRACT = "integration-tickets"
OPEN_PATHS = frozenset({"/docs", "/redoc", "/openapi.json", "/docs/", "/redoc/"})


def create_app(services: Services) -> App:
    """Make the contract's app. Every path of it but the documentation demands an integration token."""
    app = Litestar(
        [
            routes.health,
            routes.create_ticket,
            routes.get_ticket,
            routes.add_comment,
            routes.update_ticket_status,
            show_document,
            show_swagger,
            show_redoc,
        ],
        state=State({"db": services.db}),
        exception_handlers={Exception: refuse},
        openapi_config=None,
        logging_config=None,
    )
    rule = token_rule(CONTRACT, services.settings.limits_of(CONTRACT, {}).get("token"))

    async def admit(scope: Scope) -> Permit:
        authorization = header(scope, b"authorization")
        if authorization is None:
            raise ApiError(401, "missing_token")
        return await services.limiter.permit(rule, token_credential(bearer_in(authorization)))

    return Door(app, services, contract=CONTRACT, admit=admit, envelope=envelope, open_paths=OPEN_PATHS)


@get("/openapi.json")
async def show_document(request: Request[Any, Any, Any]) -> Reply:
    """Answer the OpenAPI document, with the address that it was asked for at as its server."""
    base: Any = request.scope.get("mount", "")
    return _page(document(request.app, docs.CONTRACT, base), b"application/json")


@get("/docs")
async def show_swagger(request: Request[Any, Any, Any]) -> Reply:  # noqa: ARG001
    """Show Swagger UI."""
    return _page(swagger_page(docs.CONTRACT.title), b"text/html; charset=utf-8")


@get("/redoc")
async def show_redoc(request: Request[Any, Any, Any]) -> Reply:  # noqa: ARG001
    """Show ReDoc."""
    return _page(redoc_page(docs.CONTRACT.title), b"text/html; charset=utf-8")


def _page(content: bytes, media_type: bytes) -> Reply:
    return Reply(200, content, [(b"content-type", media_type), (b"content-length", b"%d" % len(content))])
