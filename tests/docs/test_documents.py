"""The documents are true: commands run, links lead somewhere, and tables are those of the code."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import WORDS
from api.settings import variables
from tests.desk import PROJECT, Desk

README = PROJECT / "README.md"
INTEGRATIONS = PROJECT / "docs" / "EXTERNAL_INTEGRATIONS.md"
DOCUMENTS = [README, PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| (\d{3}) \| (.+?) \|", re.MULTILINE)
# What begins or ends a desk, and cannot be run beside the one that is tested.
NOT_RUN = ("make ",)


def _commands(document: Path) -> str:
    blocks = [block for block in BLOCK.findall(document.read_text()) if not block.startswith(NOT_RUN)]
    return "set -euo pipefail\n" + "\n".join(blocks)


def _run(desk: Desk, document: Path) -> "subprocess.CompletedProcess[str]":
    """Run all commands of a document, one after another, as somebody who pastes them would."""
    script = _commands(document).replace("http://127.0.0.1:8000", desk.url)
    script = script.replace(".venv/bin/deskbase", f"{sys.executable} -m api.cli")
    return subprocess.run(
        ["bash", "-c", script],
        cwd=PROJECT,
        env=os.environ | desk.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("document", [README, INTEGRATIONS], ids=lambda path: path.name)
def test_commands_of_a_document_run_as_they_are_written(desk: Desk, document: Path) -> None:
    done = _run(desk, document)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Order 4711 has not arrived" in done.stdout
    assert "All answers were as expected" in done.stdout


def _anchors(document: Path) -> set[str]:
    """Return the anchors that a heading gets: lower case, spaces as hyphens, no punctuation."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(document.read_text())
    }


def _links() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for link in LINK.findall(document.read_text()):
            if not link.startswith(("http://", "https://")):
                yield document, link


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document, link in _links():
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(f"{document.name}: {link}")
    assert broken == []


def test_the_contracts_link_to_troubleshooting_leads_somewhere() -> None:
    assert "troubleshooting" in _anchors(INTEGRATIONS)


def test_readme_lists_every_setting_with_its_meaning() -> None:
    rows = dict(re.findall(r"^\| `(DESKBASE_\w+)` \| .+? \| (.+) \|$", README.read_text(), re.MULTILINE))
    assert rows == {env.name: env.meaning for _, env in variables() if not env.internal}


def test_documented_errors_are_published_words() -> None:
    words = {
        word for _, words in ROW.findall(INTEGRATIONS.read_text()) for word in re.findall(r"`(\w+)`", words)
    }
    assert {"missing_token", "stale", "rate_limit_exceeded", "validation_failed"} <= words <= WORDS.keys()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_are_proper_bash(document: Path) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=_commands(document), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
