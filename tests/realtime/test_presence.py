"""Presence: who is there, as everybody on a topic sees it."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.desk import Desk, wait_until
from tests.realtime.conftest import Open, Organization, Person
from tests.realtime.wire import Json, Line, Room, silence

SEES: Json = {"presence": {"key": "", "enabled": True}}


def keyed(key: str) -> Json:
    return {"presence": {"key": key, "enabled": True}}


def present(room: Room) -> dict[str, list[Json]]:
    """Return who is there, as a client that applies states and diffs knows it; metas without their refs."""
    metas: dict[str, dict[str, Json]] = {}
    for frame in room.heard:
        if frame.event == "presence_state":
            metas = {key: _by_ref(entry) for key, entry in frame.payload.items()}
        elif frame.event == "presence_diff":
            assert frame.payload.keys() == {"joins", "leaves"}
            for key, entry in frame.payload["joins"].items():
                metas.setdefault(key, {}).update(_by_ref(entry))
            for key, entry in frame.payload["leaves"].items():
                for ref in _by_ref(entry):
                    metas.get(key, {}).pop(ref, None)
    return {key: list(found.values()) for key, found in metas.items() if found}


def _by_ref(entry: Json) -> dict[str, Json]:
    return {
        meta["phx_ref"]: {name: each for name, each in meta.items() if not name.startswith("phx_")}
        for meta in entry["metas"]
    }


async def test_everybody_sees_who_is_there(line: Line, open_line: Open, topic: str) -> None:
    ann = await line.join(topic, **keyed("ann"))
    (state,) = await ann.next("presence_state")
    assert state.payload == {}
    answer = await ann.track({"name": "Ann"})
    assert answer.payload == {"status": "ok", "response": {}}
    await ann.hears(lambda room: present(room) == {"ann": [{"name": "Ann"}]})
    bob = await (await open_line(2)).join(topic, **keyed("bob"))
    (state,) = await bob.next("presence_state")
    assert state.payload["ann"]["metas"][0].keys() == {"phx_ref", "name"}
    await bob.track({"name": "Bob", "list": [1]})
    both = {"ann": [{"name": "Ann"}], "bob": [{"name": "Bob", "list": [1]}]}
    for room in (ann, bob):
        await room.hears(lambda room: present(room) == both)
    assert (await ann.untrack()).is_ok
    for room in (ann, bob):
        await room.hears(lambda room: present(room).keys() == {"bob"})


async def test_state_comes_before_diffs(line: Line, open_line: Open, topic: str) -> None:
    busy = await (await open_line()).join(topic, **keyed("busy"))
    over = False

    async def keep_busy() -> None:
        number = 0
        while not over:
            await busy.track({"n": number})
            number += 1
            await asyncio.sleep(0.08)

    task = asyncio.create_task(keep_busy())
    for _ in range(10):
        room = await line.join(topic, **SEES)
        await room.next("presence_diff", 1)
        events = [each.event for each in room.heard if each.event.startswith("presence")]
        assert events[0] == "presence_state"
        assert events.count("presence_state") == 1
        assert len(present(room)["busy"]) == 1
        await room.ask("phx_leave")
    over = True
    await task


async def test_tracking_again_is_one_diff_and_the_same_again_none(line: Line, topic: str) -> None:
    room = await line.join(topic, **keyed("me"))
    for payload in ({"n": 1}, {"n": 2}, {"n": 2}, {"n": 3}):
        assert (await room.track(payload)).is_ok
    await room.next("presence_diff", 3)
    await silence()
    first, second, third = (each.payload for each in room.of("presence_diff"))
    assert first["leaves"] == {}
    (old,), (new,) = first["joins"]["me"]["metas"], second["joins"]["me"]["metas"]
    assert new["phx_ref_prev"] == old["phx_ref"] != new["phx_ref"]
    assert second["leaves"] == {"me": {"metas": [old]}}
    assert third["joins"]["me"]["metas"][0]["n"] == 3


async def test_key_is_made_up_if_none_is_given_and_may_be_shared(
    line: Line, open_line: Open, topic: str
) -> None:
    nameless = [await (await open_line()).join(topic, **SEES) for _ in range(2)]
    for number, room in enumerate(nameless):
        await room.track({"n": number})
    shared = [await (await open_line(2)).join(topic, **keyed("shared")) for _ in range(2)]
    for number, room in enumerate(shared):
        await room.track({"n": number})
    viewer = await line.join(topic, **SEES)
    await viewer.hears(lambda room: len(present(room)) == 3)
    assert sorted(meta["n"] for meta in present(viewer)["shared"]) == [0, 1]
    await shared[0].ask("phx_leave")
    await viewer.hears(lambda room: present(room)["shared"] == [{"n": 1}])


@pytest.mark.parametrize("how", ["leaves", "closes", "vanishes", "joins anew"])
async def test_client_that_goes_is_seen_to_go(line: Line, open_line: Open, topic: str, how: str) -> None:
    viewer = await line.join(topic, **SEES)
    gone = await (await open_line()).join(topic, **keyed("gone"))
    await gone.track({})
    await viewer.hears(lambda room: "gone" in present(room))
    if how == "leaves":
        await gone.say("phx_leave")
    elif how == "closes":
        await gone.line.close()
    elif how == "vanishes":
        gone.line.socket.transport.abort()
    else:
        await gone.line.join(topic, **keyed("other"))
    await viewer.hears(lambda room: not present(room))


async def test_client_that_does_not_watch_is_seen_and_sees_nothing(
    line: Line, open_line: Open, topic: str
) -> None:
    viewer = await (await open_line()).join(topic, **SEES)
    shy = await line.join(topic, presence={"key": "shy", "enabled": False})
    assert (await shy.track({"n": 1})).is_ok
    await viewer.hears(lambda room: present(room) == {"shy": [{"n": 1}]})
    assert not [each for each in shy.heard if each.event.startswith("presence")]


async def test_what_is_tracked_has_to_be_a_map_of_some_size(line: Line, topic: str) -> None:
    room = await line.join(topic, **SEES)
    for payload in (5, "x", [1], None):
        assert (await room.track(payload)).reason == "Presence track payload must be a map"
    assert (await room.ask("presence", {"event": "dance"})).reason == "Presence track payload must be a map"
    assert (await room.track({"text": "x" * 70_000})).reason.startswith("PayloadTooLarge")
    assert (await room.track({"text": "\0"})).reason == "The payload holds what cannot be stored"
    assert (await room.track({"text": "fine"})).is_ok


async def test_client_that_tracks_too_often_is_refused_and_may_go_on(line: Line, topic: str) -> None:
    room = await line.join(topic, **SEES)
    answers = await asyncio.gather(*[room.track({"n": number}) for number in range(60)])
    refused = [answer for answer in answers if not answer.is_ok]
    assert 20 <= len(refused) <= 30
    assert {answer.reason for answer in refused} == {"Client presence rate limit exceeded"}
    await asyncio.sleep(0.3)
    assert (await room.track({"n": "later"})).is_ok


async def test_agents_see_each_other_on_a_ticket_under_their_own_names(
    line: Line, open_line: Open, north: Organization, agent: Person
) -> None:
    topic = f"desk:ticket:{north.ticket('watched')}"
    config: Any = {"private": True, **keyed("ann")}
    viewer = await line.join(topic, agent.token, **config)
    other = north.person()
    theirs = await (await open_line(2)).join(topic, other.token, private=True, **keyed("forged"))
    assert (await theirs.track({"state": "typing", "member_id": "forged"})).is_ok
    await viewer.hears(lambda room: "forged" in present(room))
    (meta,) = present(viewer)["forged"]
    assert meta.pop("since")
    assert meta == {"member_id": other.id, "name": other.member.username, "state": "typing"}
    assert (await theirs.track({"state": "sleeping"})).reason == "state is viewing or typing."


# Two processes


def processes(desk: Desk) -> list[int]:
    """Return the processes that serve."""
    found = []
    for pid, _ in desk.descendants():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"api.serve" in command and command[command.index(b"api.serve") + 1 :] != [b""]:
            found.append(pid)
    return found


async def test_presence_of_a_killed_process_leaves(two_processes: Desk, open_line: Open, topic: str) -> None:
    desk = two_processes
    lines = [await open_line(2, desk.publishable_key, desk.url) for _ in range(12)]
    rooms = []
    for number, line in enumerate(lines):
        rooms.append(await line.join(topic, **keyed(str(number))))
        await rooms[-1].track({"n": number})
    everybody = {str(number) for number in range(12)}
    for room in rooms:
        await room.hears(lambda room: present(room).keys() == everybody)
    pids = await asyncio.to_thread(wait_until, lambda: processes(desk), 5, "processes")
    assert len(pids) == 2, "both have some of them"
    os.kill(pids[0], signal.SIGKILL)
    begun = time.monotonic()
    await asyncio.sleep(0.5)
    alive = [number for number, line in enumerate(lines) if line.socket.close_code is None]
    assert 0 < len(alive) < 12
    for number in alive:
        await rooms[number].hears(lambda room: present(room).keys() == {str(n) for n in alive}, 20)
    assert time.monotonic() - begun < 14


async def test_server_that_stops_lets_everybody_go(another_desk: Any, open_line: Open, topic: str) -> None:
    desk: Desk = another_desk()
    room = await (await open_line(1, desk.publishable_key, desk.url)).join(topic, **SEES)
    await room.track({})
    assert desk.value("select count(*) from realtime.presences") == 1
    pids = processes(desk) or [pid for pid, _ in desk.descendants() if _serves(pid)]
    os.kill(pids[0], signal.SIGTERM)
    await room.line.is_over()
    await asyncio.to_thread(
        wait_until, lambda: desk.value("select count(*) from realtime.presences") == 0, 5, "nobody is present"
    )


def _serves(pid: int) -> bool:
    return b"api.serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
