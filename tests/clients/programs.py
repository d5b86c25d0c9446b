"""Runs the sample programs as their users would: a process of its own, an address and keys, a story."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.desk import PROJECT, Desk

PYTHON_PROGRAM = Path(__file__).with_name("accounts.py")
NODE_PROGRAM = Path(__file__).with_name("accounts.mjs")
CHANNELS_IN_PYTHON = Path(__file__).with_name("channels.py")
CHANNELS_IN_NODE = Path(__file__).with_name("channels.mjs")
OLDEST_NODE = 22
SECONDS = 120

# supabase-py leaves connections open, and uses what postgrest-py, of the same release, calls deprecated.
WARNINGS = ("error", "ignore::ResourceWarning", "ignore:The '")


def told_in_python(desk: Desk, story: str, program: Path = PYTHON_PROGRAM) -> str:
    """Tell a story of a program, in which every warning is an error, and return what it says."""
    warnings = [argument for warning in WARNINGS for argument in ("-W", warning)]
    return _output([sys.executable, *warnings, str(program)], desk, story)


def told_in_node(desk: Desk, story: str, program: Path = NODE_PROGRAM) -> str:
    """Tell a story of a program, and return what it says."""
    return _output([node(), str(program)], desk, story)


@cache
def node() -> str:
    """Return a Node that supabase-js works with."""
    for program in (shutil.which("node"), PROJECT / ".venv/node/bin/node"):
        if program and _major(str(program)) >= OLDEST_NODE:
            return str(program)
    pytest.fail(
        f"supabase-js needs Node {OLDEST_NODE} or newer, which `make test` installs where it is missing"
    )


def _major(program: str) -> int:
    try:
        done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=30)
    except OSError:
        return 0
    number = done.stdout.strip().removeprefix("v").partition(".")[0]
    return int(number) if number.isdigit() else 0


def _output(command: list[str], desk: Desk, story: str) -> str:
    is_of_accounts = command[-1].rpartition("/")[2].startswith("accounts")
    last = str(desk.data_dir / "mail") if is_of_accounts else desk.db_url
    place = [desk.url, desk.publishable_key, desk.secret_key, last]
    done = subprocess.run(
        [*command, *place, story], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{story}:\n{done.stdout}{done.stderr}"
    return done.stdout
