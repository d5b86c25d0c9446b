"""Runs the sample programs as their users would: a process of its own, an address and keys, a story."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from tests.desk import PROJECT, Desk

PYTHON_PROGRAM = Path(__file__).with_name("accounts.py")
NODE_PROGRAM = Path(__file__).with_name("accounts.mjs")
OLDEST_NODE = 22
SECONDS = 120

# supabase-py leaves connections open, and uses what postgrest-py, of the same release, calls deprecated.
WARNINGS = ("error", "ignore::ResourceWarning", "ignore:The '")


def told_in_python(desk: Desk, story: str) -> str:
    """Tell a story of accounts.py, in which every warning is an error, and return what it says."""
    warnings = [argument for warning in WARNINGS for argument in ("-W", warning)]
    return _output([sys.executable, *warnings, str(PYTHON_PROGRAM)], desk, story)


def told_in_node(desk: Desk, story: str) -> str:
    """Tell a story of accounts.mjs, and return what it says."""
    return _output([node(), str(NODE_PROGRAM)], desk, story)


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


def must_be_told(desk: Desk, command: list[str], story: str, needed: Iterable[str]) -> None:
    """Tell a story of a program that takes what it needs of `deskbase status` from its environment."""
    done = subprocess.run(
        [*command, story],
        env={**os.environ, **{name: desk.status[name] for name in needed}},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    told = (done.returncode, done.stdout, done.stderr)
    assert told == (0, f"{story}: as told\n", ""), f"{story}:\n{done.stdout}{done.stderr}"


def _output(command: list[str], desk: Desk, story: str) -> str:
    place = [desk.url, desk.publishable_key, desk.secret_key, str(desk.data_dir / "mail")]
    done = subprocess.run(
        [*command, *place, story], check=False, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{story}:\n{done.stdout}{done.stderr}"
    return done.stdout
