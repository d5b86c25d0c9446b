"""Walks through the support-platform API: a ticket, its socket, a message, and a signed delivery.

pip install httpx websockets
export TOKEN="eyJ…"                                    the access token of a log-in
export BASE_URL="http://127.0.0.1:8000/support-platform"
export WEBHOOK_SECRET="…"                              DESKBASE_INCOMING_WEBHOOK_SECRET; without: no delivery
python examples/support_platform.py
"""

import hashlib
import hmac
import json
import os
import uuid

import httpx
from websockets.sync.client import connect

BASE_URL = os.environ["BASE_URL"].rstrip("/")
TOKEN = os.environ["TOKEN"]
SECRET = os.environ.get("WEBHOOK_SECRET", "")


def main() -> None:
    """Do it all once."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{BASE_URL}/v1", headers=headers, timeout=30) as client:
        for category in client.get("/categories").raise_for_status().json():
            print(f"There is a category {category['name']}.")
        ticket = create_ticket(client)
        talk(client, ticket["id"])
        page = client.get("/tickets", params={"status": "open", "limit": 5}).raise_for_status().json()
        print(f"{page['total']} tickets are open.")
    if SECRET:
        deliver("ticket.created", external_id=str(uuid.uuid4()), title="From our own system")


def create_ticket(client: httpx.Client) -> dict[str, str]:
    """Create a ticket; however often this is repeated with the key, there is one."""
    body = {"title": "Can't login to account", "priority": "high"}
    answer = client.post("/tickets", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
    ticket: dict[str, str] = answer.raise_for_status().json()
    print(f"The ticket is {ticket['id']}, {ticket['status']}.")
    return ticket


def talk(client: httpx.Client, ticket_id: str) -> None:
    """Send a message while listening; `since=` with the last position would bring what was missed."""
    address = BASE_URL.replace("http", "ws", 1)
    with connect(f"{address}/ws/tickets/{ticket_id}?token={TOKEN}") as socket:
        etag = client.get(f"/tickets/{ticket_id}").raise_for_status().headers["ETag"]
        # Refused with 412 if somebody has answered since.
        message = {"content": "It began this morning."}
        path = f"/tickets/{ticket_id}/messages"
        client.post(path, json=message, headers={"If-Match": etag}).raise_for_status()
        heard = json.loads(socket.recv(timeout=10))
        print(f"Heard {heard['event']}: {heard['data']['content']}")


def deliver(event: str, **data: str) -> None:
    """Tell Deskbase what happened in another system."""
    content = json.dumps({"event": event, "data": data}).encode()
    signature = hmac.new(SECRET.encode(), content, hashlib.sha256).hexdigest()
    headers = {"X-Signature": signature, "Content-Type": "application/json"}
    answer = httpx.post(f"{BASE_URL}/v1/webhooks/incoming", content=content, headers=headers)
    print(f"The delivery was answered with {answer.raise_for_status().text}.")


if __name__ == "__main__":
    main()
