"""The error envelope of the integration-tickets contract: `{error, message, details?}`.

In charge of turning every fault, whoever found it, into the contract's answer.
"""

from typing import Any

import msgspec

from api.door import Answer
from api.errors import ApiError

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


def _details(text: str) -> str | msgspec.Raw:
    return msgspec.Raw(text.encode()) if text.startswith(("{", "[")) else text
