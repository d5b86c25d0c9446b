"""The example programs are run as a user runs them."""

import os
import re
import subprocess
import sys

import pytest

from tests.clients.programs import node
from tests.desk import PROJECT, Desk

from .conftest import MOUNT, SECRET, Person

PROGRAMS = ["support_platform.py", "support_platform.mjs"]


def run(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error"] if program.endswith(".py") else [node()]
    return subprocess.run(
        [*command, str(PROJECT / "examples" / program)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_walks_through_everything(desk: Desk, customer: Person, category: str, program: str) -> None:
    counted = "select count(*) from public.tickets where subject = 'From our own system'"
    before = desk.value(counted)
    done = run(program, TOKEN=customer.jwt, BASE_URL=desk.url + MOUNT, WEBHOOK_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"There is a category Billing\.\n"
        r"The ticket is [0-9a-f-]{36}, open\.\n"
        r"Heard message\.received: It began this morning\.\n"
        r"\d+ tickets are open\.\n"
        r'The delivery was answered with \{"received":true\}\.\n',
        done.stdout,
    )
    assert desk.value(counted) == before + 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_fails_loudly_with_a_wrong_token(desk: Desk, program: str) -> None:
    done = run(program, TOKEN="wrong", BASE_URL=desk.url + MOUNT)
    assert done.returncode == 1
    assert "401" in done.stderr
