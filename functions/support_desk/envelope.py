"""The error envelope of the support-desk contract: `{success: false, error: {code, message, details}}`.

In charge of turning every fault, whoever found it, into the contract's answer; its codes are our words in
capitals.
"""

from typing import Any

import msgspec

from api.door import Answer
from api.errors import ApiError

REALM = b'Bearer realm="support-desk"'


def envelope(error: ApiError, request_id: bytes) -> Answer:
    """Make the answer for an error; a 5xx names the request and nothing else of ours."""
    headers = [(b"content-type", b"application/json"), *error.headers]
    if error.status == 401:
        invalid = b"" if error.word == "missing_token" else b', error="invalid_token"'
        headers.append((b"www-authenticate", REALM + invalid))
    content = msgspec.json.encode({"success": False, "error": fault_of(error, request_id)})
    headers.append((b"content-length", b"%d" % len(content)))
    return error.status, headers, content


def fault_of(error: ApiError, request_id: bytes) -> dict[str, Any]:
    """Return what the contract says of an error."""
    return {"code": error.word.upper(), "message": error.sentence, "details": _details(error, request_id)}


def _details(error: ApiError, request_id: bytes) -> dict[str, Any]:
    if error.status >= 500:
        return {"request_id": request_id.decode()}
    if error.details and error.details.startswith("{"):
        found: dict[str, Any] = msgspec.json.decode(error.details)
        return found
    return {error.details: [error.sentence]} if error.details else {}
