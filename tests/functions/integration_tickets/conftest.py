"""The actors of the integration-tickets contract."""

from collections.abc import Iterator

import httpx
import pytest

from tests.desk import Desk

BASE = "/integration-tickets"


class Partner(httpx.Client):
    """An outside system with an integration token."""

    def __init__(self, desk: Desk, token: str | None = None, *, base: str = BASE) -> None:
        self.token = token or desk.token(rate_limit=100_000)
        super().__init__(
            base_url=desk.url + base, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    def ticket(self, **fields: object) -> str:
        """Create a ticket and return its id."""
        answer = self.post("/tickets", json={"title": "The printer is on fire", **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["ticket"]["id"])


@pytest.fixture(scope="session")
def partner(desk: Desk) -> Iterator[Partner]:
    """A partner's system."""
    with Partner(desk) as client:
        yield client


@pytest.fixture(scope="session")
def colleague(desk: Desk) -> Iterator[Partner]:
    """Another system of the same organization."""
    with Partner(desk) as client:
        yield client


@pytest.fixture(scope="session")
def stranger(desk: Desk) -> Iterator[Partner]:
    """A system of another organization."""
    with Partner(desk, desk.token(organization=desk.organization(), rate_limit=100_000)) as client:
        yield client


@pytest.fixture
def ticket(partner: Partner) -> str:
    """A ticket that the partner has just made."""
    return partner.ticket()
