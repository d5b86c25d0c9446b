"""The examples are run as a user runs them: the script by bash, the Postman collection request by request."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.desk import PROJECT, Desk

SCRIPT = PROJECT / "examples" / "integration_examples.sh"
COLLECTION = PROJECT / "examples" / "integration_tickets.postman_collection.json"
MOUNTS = ["/integration-tickets", "/functions/v1/integration-tickets"]
OPERATIONS = {
    ("GET", "/"),
    ("POST", "/tickets"),
    ("GET", "/tickets/{{ticket_id}}"),
    ("POST", "/tickets/{{ticket_id}}/comments"),
    ("PATCH", "/tickets/{{ticket_id}}/status"),
}

VALUE = r"pm\.response\.json\(\)\.(?P<path>[\w.]+)"
STATUS = re.compile(r'pm\.test\(".*", \(\) => pm\.response\.to\.have\.status\((?P<status>\d+)\)\);')
EQUALS = re.compile(
    rf'pm\.test\(".*", \(\) => pm\.expect\({VALUE}\)\.to\.eql\('
    r'("(?P<text>[^"]*)"|pm\.collectionVariables\.get\("(?P<variable>\w+)"\))\)\);'
)
KEEP = re.compile(rf'pm\.collectionVariables\.set\("(?P<name>\w+)", {VALUE}\);')
KEEP_HEADER = re.compile(
    r'pm\.collectionVariables\.set\("(?P<name>\w+)", pm\.response\.headers\.get\("(?P<header>[\w-]+)"\)\);'
)


def _run(desk: Desk, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        ["bash", str(SCRIPT)], env=path | environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("mount", MOUNTS)
def test_script_runs_its_whole_flow(desk: Desk, mount: str) -> None:
    done = _run(desk, TOKEN=desk.token(), BASE_URL=desk.url + mount)
    assert done.returncode == 0, done.stdout + done.stderr
    (ticket,) = re.findall(r"the ticket was ([0-9a-f-]{36})\.", done.stdout)
    assert desk.value("select status::text from public.tickets where id = %s", [ticket]) == "closed"
    assert desk.sql(
        "select body, is_internal from public.comments where ticket_id = %s order by created_at", [ticket]
    ) == [
        ("Customer has been contacted and we are investigating.", False),
        ("The warehouse has the parcel.", True),
    ]


def test_script_fails_loudly_with_a_wrong_token(desk: Desk) -> None:
    done = _run(desk, TOKEN="stk_wrong", BASE_URL=desk.url + MOUNTS[0])
    assert done.returncode == 1
    assert "should have been answered with 200" in done.stderr


def test_script_fails_loudly_at_its_limit(desk: Desk) -> None:
    done = _run(desk, TOKEN=desk.token(rate_limit=3), BASE_URL=desk.url + MOUNTS[0])
    assert done.returncode == 1
    assert "rate_limit_exceeded" in done.stdout


def test_script_says_what_it_needs(desk: Desk) -> None:
    assert "set TOKEN" in _run(desk, BASE_URL=desk.url).stderr
    assert "set BASE_URL" in _run(desk, TOKEN="stk_").stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_script_is_clean() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _items(folder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in folder["item"]:
        if "item" in item:
            yield from _items(item)
        else:
            yield item


class Runner:
    """Does what Postman does with the parts of a collection that ours uses, and refuses all others."""

    def __init__(self, collection: dict[str, Any], **variables: str) -> None:
        self.collection = collection
        self.variables = {v["key"]: v["value"] for v in collection["variable"]} | variables

    def run(self) -> None:
        for item in _items(self.collection):
            self._check(item, self._send(item["request"]))

    def _send(self, request: dict[str, Any]) -> httpx.Response:
        headers = {h["key"]: self._filled(h["value"]) for h in request["header"]}
        auth = request.get("auth", self.collection["auth"])
        if auth["type"] == "bearer":
            headers["Authorization"] = f"Bearer {self._filled(auth['bearer'][0]['value'])}"
        body = self._filled(request["body"]["raw"]) if "body" in request else None
        url = self._filled(request["url"]["raw"])
        assert "/".join([*request["url"]["host"], *request["url"]["path"]]) == request["url"]["raw"]
        return httpx.request(request["method"], url, headers=headers, content=body, timeout=30)

    def _check(self, item: dict[str, Any], response: httpx.Response) -> None:
        where = f"{item['name']}: {response.status_code} {response.text}"
        (event,) = item["event"]
        assert any(STATUS.fullmatch(line) for line in event["script"]["exec"]), where
        for line in event["script"]["exec"]:
            if found := STATUS.fullmatch(line):
                assert response.status_code == int(found["status"]), where
            elif found := EQUALS.fullmatch(line):
                expected = self.variables[found["variable"]] if found["variable"] else found["text"]
                assert _at(response, found["path"]) == expected, where
            elif found := KEEP.fullmatch(line):
                self.variables[found["name"]] = _at(response, found["path"])
            elif found := KEEP_HEADER.fullmatch(line):
                self.variables[found["name"]] = response.headers[found["header"]]
            else:
                raise AssertionError(f"{item['name']}: the runner does not know {line}")

    def _filled(self, text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: self.variables[found[1]], text)


def _at(response: httpx.Response, path: str) -> Any:
    value = response.json()
    for name in path.split("."):
        value = value[name]
    return value


@pytest.mark.parametrize("mount", MOUNTS)
def test_postman_collection_runs_and_its_own_tests_pass(desk: Desk, mount: str) -> None:
    runner = Runner(_collection(), base_url=desk.url + mount, token=desk.token())
    runner.run()
    status = "select status::text from public.tickets where id = %s"
    assert desk.value(status, [runner.variables["ticket_id"]]) == "closed"


def test_postman_collection_has_every_operation_and_no_secret() -> None:
    collection = _collection()
    assert collection["info"]["schema"].endswith("/v2.1.0/collection.json")
    requests = [item["request"] for item in _items(collection)]
    found = {(r["method"], r["url"]["raw"].removeprefix("{{base_url}}")) for r in requests}
    assert found >= OPERATIONS
    assert {v["key"]: v["value"] for v in collection["variable"]}["token"] == ""


def _collection() -> dict[str, Any]:
    return dict(json.loads(Path(COLLECTION).read_text()))
