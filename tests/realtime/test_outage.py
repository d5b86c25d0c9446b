"""A database that is away for a while: sockets stay, nothing committed is lost, nobody haunts the place."""

import asyncio
from typing import Any

from tests.desk import Desk, unique, wait_until
from tests.realtime.conftest import Open, Organization
from tests.realtime.test_presence import keyed, present
from tests.realtime.wire import Line

TICKETS = {"event": "*", "schema": "public", "table": "tickets"}
ACK = {"broadcast": {"ack": True, "self": True}}
CUT = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where usename = 'authenticator' and datname = current_database()
"""


def lock_out(desk: Desk) -> None:
    """Let the service's connections be lost, and let it get no new ones."""
    desk.sql("alter role authenticator nologin")
    desk.sql(CUT)


def let_in(desk: Desk) -> None:
    desk.sql("alter role authenticator login")


async def test_socket_outlives_lost_connections(another_desk: Any, open_line: Open, topic: str) -> None:
    desk: Desk = another_desk()
    north = Organization(desk, desk.organization(unique("North")))
    agent = north.person()
    line = await open_line(2, desk.publishable_key, desk.url)
    room = await line.join(topic, agent.token, changes=[TICKETS], **ACK)
    for number in range(3):
        desk.sql(CUT)
        north.ticket(f"{number}")
        desk.sql("select realtime.send('{}', %s, %s, false)", [f"{number}", topic])
        await room.hears(lambda room: len(room.rows) == len(room.messages))
    await room.hears(lambda room: room.says("subject") == ["0", "1", "2"])

    await room.hears(lambda room: [each["event"] for each in room.messages] == ["0", "1", "2"])


async def test_database_that_was_away_finds_everybody_as_they_are(
    another_desk: Any, open_line: Open, topic: str
) -> None:
    desk: Desk = another_desk()
    north = Organization(desk, desk.organization(unique("North")))
    agent = north.person()
    lines = [await open_line(1 + number % 2, desk.publishable_key, desk.url) for number in range(3)]
    rooms = [await _join(line, topic, agent.token, str(number)) for number, line in enumerate(lines)]
    everybody = {"0", "1", "2"}
    for room in rooms:
        await room.hears(lambda room: present(room).keys() == everybody)
    lock_out(desk)
    north.ticket("meanwhile")
    await lines[0].close()
    answer = await rooms[1].ask("broadcast", {"type": "broadcast", "event": "lost", "payload": {}})
    assert answer.reason == "The service is briefly unavailable; try again."
    assert (await lines[1].ask("phoenix", "heartbeat")).is_ok
    assert (await lines[1].refused("another", agent.token)).startswith("UnableToConnectToProject: ")
    # Long enough for another process to take this one for dead.
    await asyncio.sleep(9)
    desk.sql("delete from realtime.presences where key = '2'")
    let_in(desk)
    await asyncio.to_thread(
        wait_until,
        lambda: [row[0] for row in desk.sql("select key from realtime.presences order by 1")] == ["1", "2"],
        10,
        "those who are there are present, and who has gone is not",
    )
    for room in rooms[1:]:
        await room.hears(lambda room: present(room).keys() == {"1", "2"}, 10)
        await room.hears(lambda room: room.says("subject") == ["meanwhile"])
    assert (await rooms[1].ask("broadcast", {"type": "broadcast", "event": "x", "payload": {}})).is_ok
    for room in rooms[1:]:
        await room.hears(lambda room: [each["event"] for each in room.messages] == ["x"])


async def _join(line: Line, topic: str, token: str, key: str) -> Any:
    room = await line.join(topic, token, changes=[TICKETS], **ACK, **keyed(key))
    assert (await room.track({})).is_ok
    return room
