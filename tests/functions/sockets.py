"""Those who listen on a contract's socket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.desk import Desk

SECONDS = 10


@contextmanager
def listening(
    desk: Desk, path: str, token: str | None, *, in_header: bool = False, since: str | None = None
) -> Iterator[Connection]:
    """Open the socket at a path, with the token in the address or in the header."""
    query = {"token": None if in_header else token, "since": since}
    text = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    headers = {"Authorization": f"Bearer {token}"} if in_header else {}
    url = f"{desk.url.replace('http', 'ws', 1)}{path}?{text}"
    with connect(
        url, additional_headers=headers, proxy=None, open_timeout=SECONDS, close_timeout=1
    ) as socket:
        yield socket


def heard(socket: Connection, count: int = 1) -> list[dict[str, Any]]:
    """Return the next messages."""
    messages = [json.loads(socket.recv(timeout=SECONDS)) for _ in range(count)]
    assert all(list(message) == ["event", "data", "position"] for message in messages)
    return messages


def ending(socket: Connection, seconds: float = SECONDS) -> tuple[int, str]:
    """Return what the socket is closed with; it may bring nothing before."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=seconds)
    assert closed.value.rcvd
    return closed.value.rcvd.code, closed.value.rcvd.reason
