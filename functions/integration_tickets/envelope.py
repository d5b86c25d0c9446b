"""The error envelope of the integration-tickets contract: `{error, message, details?}`.

In charge of turning every fault, whoever found it, into the contract's answer. `refuse` is registered once
for all routes; `envelope` serves what is refused before a route is reached.
"""

from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from api.door import Answer, visit_in
from api.errors import WORD_OF_STATUS, ApiError, SqlError, is_own_fault, of_database
from api.logs import Event, failure

REALM = b'Bearer realm="integration-tickets"'


def envelope(error: ApiError, request_id: bytes) -> Answer:
    """Make the answer for an error; a 5xx carries the request id and nothing else of ours."""
    body: dict[str, Any] = {"error": error.word, "message": error.sentence}
    if error.status >= 500:
        body["details"] = f"Request {request_id.decode()}"
    elif error.details is not None:
        body["details"] = _details(error.details)
    headers = [(b"content-type", b"application/json"), *error.headers]
    if error.status == 401:
        invalid = b', error="invalid_token"' if error.word == "invalid_token" else b""
        headers.append((b"www-authenticate", REALM + invalid))
    content = msgspec.json.encode(body)
    headers.append((b"content-length", b"%d" % len(content)))
    return error.status, headers, content


def refuse(request: Request[Any, Any, Any], fault: Exception) -> Response[bytes]:
    """Answer what a route or the router raised."""
    request_id = visit_in(request.scope).id
    error = _api_error(fault, request_id)
    status, headers, content = envelope(error, request_id)
    return Response(content, status_code=status, headers={k.decode(): v.decode() for k, v in headers})


def _details(text: str) -> str | msgspec.Raw:
    return msgspec.Raw(text.encode()) if text.startswith(("{", "[")) else text


def _api_error(fault: Exception, request_id: bytes) -> ApiError:
    if isinstance(fault, ApiError):
        return fault
    if isinstance(fault, SqlError):
        if is_own_fault(fault.state):
            failure(Event.STATEMENT_AT_FAULT, fault, state=fault.state, request_id=request_id.decode())
        return of_database(fault)
    if isinstance(fault, HTTPException) and fault.status_code in WORD_OF_STATUS:
        headers = tuple((k.lower().encode(), v.encode()) for k, v in (fault.headers or {}).items())
        return ApiError(fault.status_code, WORD_OF_STATUS[fault.status_code], headers=headers)
    failure(Event.REQUEST_FAILED, fault, request_id=request_id.decode())
    return ApiError(500, "internal_error")
