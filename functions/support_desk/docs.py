"""What the OpenAPI document says beyond routes and structs: errors, security and the socket."""

from typing import Any

from api.errors import WORDS, ApiError
from api.openapi import Contract

from . import structs
from .envelope import fault_of

_REQUEST_ID = b"7f3c1b52c1f24a3c9a7f1d1f0a6e4b11"


def _error_example(status: int, word: str) -> dict[str, Any]:
    return {"success": False, "error": fault_of(ApiError(status, word, WORDS[word]), _REQUEST_ID)}


CONTRACT = Contract(
    title="Support desk",
    version="1.0.0",
    description=(
        "Agents and customers work with the JWT of their log-in. The socket at `/ws`, beside this base, "
        "tells agents of every ticket and comment of their organization, customers of their own tickets and "
        "of public comments, and each member of their own notifications: `ticket.created`, "
        "`ticket.updated`, `ticket.assigned`, `comment.added`, `notification.new`, as "
        "`{event, data, position}`. `?since=` with a position tells first what was missed. A ticket that is "
        "created with an assignee is `ticket.created` alone; a change that also assigns it is both, the "
        "assignment last. A comment that is made public later is `comment.added` to the customer. `link` is "
        "a path after the address of the desk, and nobody is told of a deletion."
    ),
    security={
        "jwt": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The access token of a log-in.",
        }
    },
    error=structs.Error,
    error_example=_error_example,
    path_parameters={},
)
