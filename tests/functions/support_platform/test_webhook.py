"""The incoming webhook: what is signed and fresh is done once, and nothing else is done at all."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.desk import Desk, unique

from .conftest import Person, Sender, assert_error

RECEIVED = {"received": True}


def ticket_of(agent: Person, external_id: str, desk: Desk) -> dict[str, Any]:
    """Return the ticket of that name as an agent sees it."""
    statement = "select id::text from public.tickets where organization_id = %s and external_id = %s"
    ((found,),) = desk.sql(statement, [agent.member.organization_id, external_id])
    return dict(agent.get(f"/tickets/{found}").json())


def created(external_id: str, **fields: Any) -> bytes:
    data = {"external_id": external_id, "title": "From outside", **fields}
    return json.dumps({"event": "ticket.created", "data": data}).encode()


def test_sender_creates_changes_and_answers_a_ticket(
    desk: Desk, sender: Sender, first_agent: Person, external_id: str
) -> None:
    answer = sender.sends(
        "ticket.created", external_id=external_id, title="From outside", description="…", priority="high"
    )
    assert (answer.status_code, answer.json()) == (200, RECEIVED)
    assert answer.headers["x-ratelimit-limit"] == "10000"
    ticket = ticket_of(first_agent, external_id, desk)
    assert (ticket["title"], ticket["description"]) == ("From outside", "…")
    assert (ticket["status"], ticket["priority"]) == ("open", "high")
    answer = sender.sends("ticket.updated", external_id=external_id, status="resolved", title="Solved")
    assert (answer.status_code, answer.json()) == (200, RECEIVED)
    ticket = ticket_of(first_agent, external_id, desk)
    assert (ticket["title"], ticket["status"], ticket["priority"]) == ("Solved", "resolved", "high")
    answer = sender.sends("message.created", external_id=external_id, message_id=external_id, content="Bye")
    assert (answer.status_code, answer.json()) == (200, RECEIVED)
    (message,) = first_agent.get(f"/tickets/{ticket['id']}/messages").json()["items"]
    assert (message["content"], message["is_internal"]) == ("Bye", False)


def test_customers_and_strangers_see_nothing_of_it(
    desk: Desk, sender: Sender, first_agent: Person, stranger: Person, external_id: str
) -> None:
    sender.sends("ticket.created", external_id=external_id, title="x")
    ticket = ticket_of(first_agent, external_id, desk)["id"]
    with Person(desk, desk.member("customer")) as customer:
        for person in (customer, stranger):
            assert_error(person.get(f"/tickets/{ticket}"), 404)


@pytest.mark.parametrize(
    "signature", ["{}", "sha256={}", "SHA256={}", "sha256={:upper}", "{:upper}"], ids=repr
)
def test_signature_is_hex_in_any_case_with_or_without_its_name(
    sender: Sender, external_id: str, signature: str
) -> None:
    content = created(external_id)
    digest = sender.sign(content)
    written = signature.replace("{:upper}", digest.upper()).replace("{}", digest)
    assert sender.deliver(content, {"X-Signature": written}).status_code == 200


def test_what_is_not_signed_as_it_should_be_is_not_done(desk: Desk, sender: Sender, external_id: str) -> None:
    content = created(external_id)
    good = sender.sign(content)
    with Sender(desk, secret="another secret") as forger:
        forged = forger.sign(content)
    bad = [
        "",
        forged,
        good[:-1],
        good + "0",
        good[:-1] + "g",
        "sha1=" + good,
        f"{good},{good}",
        "ü",
    ]
    for signature in bad:
        headers = {b"X-Signature": signature.encode(), b"Content-Type": b"application/json"}
        answer = sender.post("/webhooks/incoming", content=content, headers=headers)
        assert_error(answer, 401, "Not authenticated")
    assert_error(sender.post("/webhooks/incoming", content=content), 401, "Not authenticated")
    for place in (0, len(content) // 2, len(content) - 1):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        assert_error(sender.deliver(changed, {"X-Signature": good}), 401, "Not authenticated")
    assert_error(sender.deliver(content + b" ", {"X-Signature": good}), 401, "Not authenticated")
    statement = "select count(*) from public.tickets where external_id = %s"
    assert desk.value(statement, [external_id]) == 0


def test_signature_comes_before_what_it_signs(sender: Sender, customer: Person) -> None:
    for content in (b"", b"{", b'{"event": "nothing"}'):
        assert_error(sender.deliver(content, {"X-Signature": "0" * 64}), 401, "Not authenticated")
    bearer = {"Authorization": f"Bearer {customer.jwt}", "X-Signature": "0"}
    assert_error(sender.deliver(b"{}", bearer), 401, "Not authenticated")


@pytest.mark.parametrize(
    ("timestamp", "status"),
    [(0, 200), (-290, 200), (290, 200), (-310, 401), (310, 401), (-86400, 401), ("now", 401), ("", 401),
     ("1e9", 401), ("9" * 40, 401)],
)  # fmt: skip
def test_timestamp_if_there_is_one_must_be_fresh(
    sender: Sender, external_id: str, timestamp: int | str, status: int
) -> None:
    given = str(int(time.time()) + timestamp) if isinstance(timestamp, int) else timestamp
    assert sender.deliver(created(external_id), {"X-Timestamp": given}).status_code == status


def test_ten_deliveries_of_one_ticket_make_one(desk: Desk, sender: Sender, external_id: str) -> None:
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda n: sender.deliver(created(external_id, title=str(n))), range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert desk.value("select count(*) from public.tickets where external_id = %s", [external_id]) == 1


def test_ten_deliveries_of_one_message_make_one(desk: Desk, sender: Sender, external_id: str) -> None:
    sender.deliver(created(external_id))
    message = {"external_id": external_id, "message_id": external_id, "content": "Hello"}
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: sender.sends("message.created", **message), range(10)))
    assert {answer.status_code for answer in answers} == {200}
    counted = """
        select count(*), max(t.version) from public.tickets as t
        join public.comments as c on c.organization_id = t.organization_id and c.ticket_id = t.id
        where t.external_id = %s
    """
    assert desk.sql(counted, [external_id]) == [(1, 2)]


def test_what_comes_before_its_ticket_is_not_found_and_sent_again(
    desk: Desk, sender: Sender, first_agent: Person, external_id: str
) -> None:
    message = {"external_id": external_id, "message_id": external_id, "content": "Hello"}
    for event, data in (("ticket.updated", {"external_id": external_id}), ("message.created", message)):
        assert_error(sender.sends(event, **data), 404, "Resource not found")
    sender.deliver(created(external_id))
    assert sender.sends("message.created", **message).status_code == 200
    ticket = ticket_of(first_agent, external_id, desk)
    assert first_agent.get(f"/tickets/{ticket['id']}/messages").json()["total"] == 1


def test_account_of_another_organization_has_a_secret_and_tickets_of_its_own(
    desk: Desk, sender: Sender, external_id: str
) -> None:
    organization, account = desk.organization(), unique("account")
    with Person(desk, desk.member("admin", organization), base="/rest/v1") as admin:
        admin.headers.update({"apikey": desk.publishable_key, "Prefer": "return=representation"})
        (made,) = admin.post(
            "/channel_accounts", json={"channel": "api", "external_account_id": account}
        ).json()
        secrets = {"id": made["id"], "app_secret": "their secret"}
        assert admin.post("/rpc/set_channel_secrets", json=secrets).is_success
    with (
        Sender(desk, secret="their secret", account=account) as other,
        Person(desk, desk.member("agent", organization)) as agent,
    ):
        assert other.deliver(created(external_id, title="Theirs")).status_code == 200
        assert sender.deliver(created(external_id, title="Ours")).status_code == 200
        assert [item["title"] for item in agent.get("/tickets").json()["items"]] == ["Theirs"]
        # Each secret is for its own account alone.
        for wrong in (Sender(desk, account=account), Sender(desk, secret="their secret")):
            with wrong:
                assert_error(wrong.deliver(created(external_id)), 401, "Not authenticated")
        desk.sql(
            "update public.channel_accounts set is_active = false where external_account_id = %s", [account]
        )
        assert_error(other.deliver(created(external_id)), 403, "Insufficient permissions")
