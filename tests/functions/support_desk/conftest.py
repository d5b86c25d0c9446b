"""The actors of the support-desk contract."""

import pytest

from tests.desk import Desk, Member


@pytest.fixture
def organization(desk: Desk) -> str:
    """The organization that the actors belong to, unless they are strangers."""
    return desk.organization()


@pytest.fixture
def agent(desk: Desk, organization: str) -> Member:
    return desk.member("agent", organization, name="Ann Agent")


@pytest.fixture
def colleague(desk: Desk, organization: str) -> Member:
    """Another agent."""
    return desk.member("agent", organization)


@pytest.fixture
def customer(desk: Desk, organization: str) -> Member:
    return desk.member("customer", organization)


@pytest.fixture
def other_customer(desk: Desk, organization: str) -> Member:
    """Another customer of the same organization."""
    return desk.member("customer", organization)


@pytest.fixture
def stranger(desk: Desk) -> Member:
    """An agent of another organization."""
    return desk.member("agent", desk.organization())
