"""Supabase's own Python client, unchanged, reads and writes the desk through the gateway."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from postgrest.exceptions import APIError

from supabase import Client, ClientOptions, create_client
from tests.desk import Desk

Connect = Callable[[str], Client]
SignIn = Callable[[str, str], Client]

# supabase-py uses parameters that postgrest-py, of the same release, calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' parameter is deprecated:DeprecationWarning")


@pytest.fixture
def connect(desk: Desk) -> Iterator[Connect]:
    """Make clients with a key, and close what they themselves leave open."""
    with httpx.Client() as connections:
        yield lambda key: create_client(desk.url, key, ClientOptions(httpx_client=connections))


@pytest.fixture
def server(desk: Desk, connect: Connect) -> Client:
    """A back end that holds the secret key."""
    return connect(desk.secret_key)


@pytest.fixture
def signed_in(desk: Desk, connect: Connect) -> SignIn:
    """Make a client of somebody with a role in an organization."""
    return partial(_signed_in, desk, connect)


def _signed_in(desk: Desk, connect: Connect, role: str, organization: str) -> Client:
    client = connect(desk.publishable_key)
    client.options.headers["Authorization"] = f"Bearer {desk.jwt(desk.member(role, organization))}"
    return client


def data(request: Any) -> Any:
    """Send a request and return its data, which the client types as any JSON."""
    return request.execute().data


@pytest.mark.parametrize("key", ["anon_key", "publishable_key"])
def test_visitor_reads_published_articles_and_nothing_else(
    desk: Desk, connect: Connect, server: Client, key: str
) -> None:
    organization = desk.organization()
    for title, published in (("How to return a tent", True), ("What we pay for tents", False)):
        row = {"organization_id": organization, "title": title, "is_published": published}
        data(server.table("articles").insert(row))
    visitor = connect(getattr(desk, key))
    found = data(visitor.table("articles").select("title").eq("organization_id", organization))
    assert found == [{"title": "How to return a tent"}]
    with pytest.raises(APIError) as refusal:
        data(visitor.table("tickets").select("id"))
    assert refusal.value.code == "42501"


def test_customer_asks_and_agent_answers(desk: Desk, signed_in: SignIn) -> None:
    organization = desk.organization()
    customer, agent = signed_in("customer", organization), signed_in("agent", organization)
    (ticket,) = data(customer.table("tickets").insert({"subject": "My stove leaks", "priority": "high"}))
    assert (ticket["status"], ticket["organization_id"]) == ("new", organization)
    for body, internal in (("Turn it off.", False), ("Third one this week.", True)):
        row = {"ticket_id": ticket["id"], "body": body, "is_internal": internal}
        data(agent.table("comments").insert(row))
    seen = data(customer.table("tickets").select("status,comments(body)").eq("id", ticket["id"]).single())
    assert seen == {"status": "open", "comments": [{"body": "Turn it off."}]}


def test_stranger_sees_none_of_it_and_nobody_writes_elsewhere(desk: Desk, signed_in: SignIn) -> None:
    home, abroad = desk.organization(), desk.organization()
    (ticket,) = data(signed_in("customer", home).table("tickets").insert({"subject": "Mine"}))
    stranger = signed_in("admin", abroad)
    assert data(stranger.table("tickets").select("id").eq("id", ticket["id"])) == []
    with pytest.raises(APIError) as refusal:
        data(stranger.table("tickets").insert({"subject": "Yours", "organization_id": home}))
    assert refusal.value.code == "42501"


def test_admin_makes_a_token_and_an_agent_may_not(desk: Desk, signed_in: SignIn) -> None:
    organization = desk.organization()
    token = data(signed_in("admin", organization).rpc("create_integration_token", {"name": "Shop"}))
    assert token["token"].startswith(token["prefix"])
    with pytest.raises(APIError) as refusal:
        data(signed_in("agent", organization).rpc("create_integration_token", {"name": "Mine"}))
    assert refusal.value.message == "forbidden"
