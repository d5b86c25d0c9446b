"""The error envelope of the support-platform contract: `{detail}`, in the contract's own sentences."""

from typing import Any

import msgspec

from api.door import Answer
from api.errors import ApiError

REALM = b'Bearer realm="support-platform"'
NOT_AUTHENTICATED = "Not authenticated"
DETAILS = {"forbidden": "Insufficient permissions", "not_found": "Resource not found"}


def envelope(error: ApiError, request_id: bytes) -> Answer:
    """Make the answer for an error; a 5xx names the request and nothing else of ours."""
    headers = [(b"content-type", b"application/json"), *error.headers]
    if error.status == 401:
        invalid = b"" if error.word == "missing_token" else b', error="invalid_token"'
        headers.append((b"www-authenticate", REALM + invalid))
    content = msgspec.json.encode({"detail": detail_of(error, request_id)})
    headers.append((b"content-length", b"%d" % len(content)))
    return error.status, headers, content


def detail_of(error: ApiError, request_id: bytes) -> Any:
    """Return what the contract says of an error; of a stale write it is an object with what was missed."""
    if error.word == "stale" and error.details:
        return {"message": error.sentence, **msgspec.json.decode(error.details)}
    if error.status == 401:
        return NOT_AUTHENTICATED
    if error.status == 400:
        return f"Invalid request parameters: {error.sentence}"
    if error.status >= 500:
        return f"{error.sentence} Request {request_id.decode()}"
    return DETAILS.get(error.word, error.sentence)
