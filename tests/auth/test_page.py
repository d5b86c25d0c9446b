"""The page where links in mails end: what it may do, and in a browser, where there is one, what it says."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from api.auth.page import PATH, pages

BASE = "/auth/v1"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
with_browser = pytest.mark.skipif(not BROWSER, reason="there is no Chromium")


def headers_of(path: str) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in pages()[path].headers}


def text_of(path: str) -> str:
    return pages()[path].body.decode()


def test_page_loads_nothing_but_its_own_files() -> None:
    loaded = re.findall(r'(?:href|src)="([^"]*)"', text_of(PATH))
    assert {name.removeprefix(BASE) for name in loaded} == pages().keys() - {PATH}
    for path in pages():
        assert not re.search(r"https?:|//[a-z]|@import|url\(|import\(", text_of(path)), path


def test_page_has_no_script_or_style_that_its_policy_forbids() -> None:
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text_of(PATH))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text_of("/done.js")
    )


@pytest.mark.parametrize("path", sorted(pages()))
def test_browser_is_told_to_load_run_and_keep_as_little_as_possible(path: str) -> None:
    headers = headers_of(path)
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'", "'script'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-length"] == str(len(pages()[path].body))


def test_files_say_what_they_are() -> None:
    kinds = {path: headers_of(path)["content-type"].partition(";")[0] for path in pages()}
    assert kinds == {"/done": "text/html", "/done.css": "text/css", "/done.js": "text/javascript"}


def test_new_password_goes_to_the_service_and_nowhere_else() -> None:
    assert re.findall(r"fetch\(\"([^\"]*)\"", text_of("/done.js")) == [
        "/auth/v1/user",
        "/auth/v1/logout?scope=local",
    ]


# In a browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a server answers the pages, as the service does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages().get(self.path.partition("?")[0].removeprefix(BASE))
            self.send_response(200 if page else 404)
            for name, value in page.headers if page else ():
                self.send_header(name.decode(), value.decode())
            self.end_headers()
            self.wfile.write(page.body if page else b"")

        def do_POST(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{BASE}{PATH}"
        server.shutdown()
        thread.join()


def shown(address: str) -> str:
    """Return what a browser has made of the page at an address."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                BROWSER,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *(f"--user-data-dir={folder}", "--virtual-time-budget=3000", "--dump-dom", address),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    return done.stdout


def session(kind: str) -> str:
    """Return what the service puts into the address for somebody whose link was good."""
    claims = base64.urlsafe_b64encode(json.dumps({"email": "zoë@example.com"}).encode()).decode().rstrip("=")
    return f"#access_token=e30.{claims}.x&expires_in=3600&refresh_token=y&token_type=bearer&type={kind}"


@with_browser
@pytest.mark.parametrize(
    ("told", "heading"),
    [
        (session("signup"), "Your address is confirmed."),
        (session("email_change"), "Your new address is confirmed."),
        (session("constructor"), "Your link has worked."),
        ("?code=34e770dd-9ff9-416c-87fa-43b31d7ef225", "Your link has worked."),
        ("#message=Confirmation+link+accepted", "One more step."),
        ("#error=access_denied&error_code=otp_expired", "This link has expired or was used before."),
        ("?error=server_error&error_code=unexpected_failure", "This link did not work."),
        ("", "There is nothing to do here."),
    ],
)
def test_visitor_is_told_what_came_of_the_link(address: str, told: str, heading: str) -> None:
    page = shown(address + told)
    assert f">{heading}</h1>" in page
    assert re.search(r'<form [^>]*hidden=""', page)


@with_browser
@pytest.mark.parametrize(
    ("kind", "heading"), [("recovery", "Choose a new password."), ("invite", "Welcome!")]
)
def test_visitor_who_needs_a_password_is_asked_for_it(address: str, kind: str, heading: str) -> None:
    page = shown(address + session(kind))
    assert f">{heading}</h1>" in page
    assert "<form " in page
    assert not re.search(r"<form [^>]*hidden", page)


@with_browser
def test_visitor_is_shown_no_text_that_somebody_else_put_into_the_address(address: str) -> None:
    for told in ("#error_description=", "#message=", "#error=x&error_code=", session("") + "&message="):
        page = shown(f"{address}{told}Call+0900+<b>now</b>")
        assert "</h1>" in page
        assert "0900" not in page
