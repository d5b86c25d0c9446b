"""The two programs in the contract's document, run as they are but for names, password and address."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.desk import Desk, unique

from .conftest import BASE
from .test_auth import PASSWORD, Account

PYTHON = """
import requests

# Authenticate
response = requests.post('https://api.example.com/api/v1/auth/token/', {
    'username': 'your_username',
    'password': 'your_password'
})
token = response.json()['access']

# Make authenticated request
headers = {'Authorization': f'Bearer {token}'}
tickets = requests.get('https://api.example.com/api/v1/tickets/', headers=headers)
print(tickets.json())
"""
JAVASCRIPT = """
// Authenticate
const authResponse = await fetch('/api/v1/auth/token/', {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({
    username: 'your_username',
    password: 'your_password'
  })
});
const { access } = await authResponse.json();

// Make authenticated request
const ticketsResponse = await fetch('/api/v1/tickets/', {
  headers: { 'Authorization': `Bearer ${access}` }
});
const tickets = await ticketsResponse.json();
console.log(tickets);
"""


@pytest.fixture
def account(desk: Desk) -> Account:
    return Account(desk, unique("your.username"))


def filled(program: str, account: Account) -> str:
    return program.replace("your_username", account.username).replace("your_password", PASSWORD)


def run(*command: str) -> str:
    environ = {"PATH": os.environ["PATH"], "NO_PROXY": "*"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_example_prints_the_tickets(desk: Desk, account: Account) -> None:
    program = filled(PYTHON, account).replace("https://api.example.com/api/v1", desk.url + BASE)
    output = run(sys.executable, "-c", program)
    assert output == "{'count': 0, 'next': None, 'previous': None, 'results': []}\n"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_javascript_example_prints_the_tickets(desk: Desk, account: Account, tmp_path: Path) -> None:
    # In a page the addresses are relative to it; here something has to say to what.
    page = f"""
        const inPage = globalThis.fetch
        globalThis.fetch = (path, options) => inPage({json.dumps(desk.url + "/helpdesk")} + path, options)
    """
    program = tmp_path / "example.mjs"
    program.write_text(page + filled(JAVASCRIPT, account))
    assert run("node", str(program)) == "{ count: 0, next: null, previous: null, results: [] }\n"
