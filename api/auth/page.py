"""The page where links in mails end when no front-end is configured.

In charge of its files and of what a browser may do with them. What came of a link stands in the part of the
address that is never sent here, so the page's script tells it; `PUT /user` beside it takes a new password.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Request, get

from api.door import Reply
from api.limits import Header

PATH = "/done"
_FILES = {
    PATH: ("done.html", b"text/html; charset=utf-8"),
    "/done.css": ("done.css", b"text/css; charset=utf-8"),
    "/done.js": ("done.js", b"text/javascript; charset=utf-8"),
}
_FOLDER = Path(__file__).with_name("assets")
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


class Page(NamedTuple):
    """A file as it is answered."""

    headers: tuple[Header, ...]
    body: bytes


@cache
def pages() -> dict[str, Page]:
    """Return the page and what it loads, by the path below the service's own."""
    return {path: _page((_FOLDER / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}


def _page(body: bytes, media_type: bytes) -> Page:
    headers = (
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", _POLICY),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
    )
    return Page(headers, body)


@get([*_FILES], operation_id="Done")
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Answer a file of the page."""
    page = pages()[request.scope["path"].rstrip("/")]
    return Reply(200, page.body, page.headers)


OPEN_PATHS = frozenset(_FILES)
HANDLERS: list[Any] = [show]
