"""The error envelope of Supabase Auth, in the form that every version of its clients reads.

In charge of its error codes: what other parts of the house call a fault, is translated here.
"""

import time
from typing import Any

import msgspec

from api.accounts import WeakPasswordError
from api.door import Answer
from api.errors import ApiError
from api.limits import Header

API_VERSION: Header = (b"x-supabase-api-version", b"2024-01-01")

MAILS_AN_HOUR = b"12"
"""As many as `private.take_mail` lets go to one address."""

_CODES = {
    "conflict": (422, "conflict"),
    "forbidden": (403, "not_admin"),
    "internal_error": (500, "unexpected_failure"),
    "invalid_field": (400, "validation_failed"),
    "invalid_json": (400, "bad_json"),
    "invalid_token": (403, "bad_jwt"),
    "method_not_allowed": (405, "method_not_allowed"),
    "missing_required_field": (400, "validation_failed"),
    "missing_token": (401, "no_authorization"),
    "not_found": (404, "not_found"),
    "payload_too_large": (413, "payload_too_large"),
    "rate_limit_exceeded": (429, "over_request_rate_limit"),
    "unavailable": (503, "request_timeout"),
    "unsupported_media_type": (415, "bad_json"),
}
"""Words of the house, with the status and the code of Supabase Auth for them."""


def envelope(error: ApiError, request_id: bytes) -> Answer:
    """Make the answer for an error: old and new clients each find the code where they look for it."""
    status, code = _CODES.get(error.word, (error.status, error.word))
    body: dict[str, Any] = {
        "code": code,
        "error_code": code,
        "message": error.sentence,
        "msg": error.sentence,
    }
    if isinstance(error, WeakPasswordError):
        body["weak_password"] = {"reasons": error.reasons}
    if status >= 500:
        body["error_id"] = request_id.decode()
    content = msgspec.json.encode(body)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
        API_VERSION,
        *error.headers,
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if code == "over_email_send_rate_limit":
        # Mails are counted by the hour of the clock.
        now = int(time.time())
        wait = 3600 - now % 3600
        headers += [
            (b"retry-after", b"%d" % wait),
            (b"x-ratelimit-limit", MAILS_AN_HOUR),
            (b"x-ratelimit-remaining", b"0"),
            (b"x-ratelimit-reset", b"%d" % (now + wait)),
        ]
    return status, headers, content
