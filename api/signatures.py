"""Signatures of what comes in: whether a body was signed with a shared secret, and whether it is fresh.

In charge of the comparison. Whose secret it is, and which headers carry what, is each webhook's own.
"""

import hashlib
import hmac
import re
import time

FRESH_SECONDS = 300
_PREFIX = b"sha256="
_TIMESTAMP = re.compile(rb"\d{1,12}", re.ASCII)


def is_signed(secret: str, content: bytes, signature: bytes | None) -> bool:
    """Whether the signature is the hex HMAC-SHA256 of the content; `sha256=` may stand before it."""
    expected = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest().encode()
    return hmac.compare_digest(expected, (signature or b"").lower().removeprefix(_PREFIX))


def is_fresh(timestamp: bytes) -> bool:
    """Whether the Unix seconds are within FRESH_SECONDS of now, either way."""
    return bool(_TIMESTAMP.fullmatch(timestamp)) and abs(time.time() - int(timestamp)) <= FRESH_SECONDS
