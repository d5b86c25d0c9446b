"""Private channels: policies on realtime.messages say who hears and who speaks; replay is theirs alone."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.desk import Desk, unique
from tests.realtime.conftest import Open, Organization, Person
from tests.realtime.wire import A_SECOND, Json, Line, pushed, silence

ACK: Json = {"broadcast": {"ack": True, "self": False}}

POLICIES = """
    create policy test_reads on realtime.messages for select to authenticated using (
        (extension = 'broadcast' and realtime.topic() ~ '^club:[a-z-]*reads')
        or (extension = 'presence' and realtime.topic() ~ '^club:[a-z-]*sees')
        or realtime.topic() = 'mine:' || (select auth.uid())::text);
    create policy test_writes on realtime.messages for insert to authenticated with check (
        (extension = 'broadcast' and realtime.topic() ~ '^club:[a-z-]*writes')
        or (extension = 'presence' and realtime.topic() ~ '^club:[a-z-]*shows')
        or realtime.topic() = 'mine:' || (select auth.uid())::text);
    create policy test_fails on realtime.messages for select to authenticated using (
        case when realtime.topic() like 'bad:%' then 1 / length(substr(realtime.topic(), 5, 0)) = 1 end);
"""


@pytest.fixture(scope="module", autouse=True)
def policies(desk: Desk) -> Iterator[None]:
    """What somebody might write in a migration of their own."""
    desk.sql(POLICIES)
    yield
    for name in ("reads", "writes", "fails"):
        desk.sql(f"drop policy test_{name} on realtime.messages")


def club(what: str) -> str:
    return f"club:{what}:{unique('x')}"


async def test_private_channel_is_for_those_whom_a_policy_lets_in(
    *, desk: Desk, line: Line, north: Organization, agent: Person, customer: Person
) -> None:
    ticket = north.ticket("watched", customer)
    topic = f"desk:ticket:{ticket}"
    await line.join(topic, agent.token, private=True)
    refusal = f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}"
    assert await line.refused(topic, customer.token, private=True) == refusal
    assert await line.refused(topic, None, private=True) == refusal
    assert await line.refused(topic, desk.publishable_key, private=True) == refusal
    assert await line.refused(topic, "stk_x", private=True) != refusal
    integration = desk.token(organization=north.id)
    assert await line.refused(topic, integration, private=True) == refusal


async def test_other_organization_is_refused(
    line: Line, north: Organization, stranger: Person, agent: Person
) -> None:
    topic = f"desk:ticket:{north.ticket('of north')}"
    assert (await line.refused(topic, stranger.token, private=True)).startswith("Unauthorized: ")
    for name in ("desk:ticket:x", "desk:ticket:", "desk:other", "x"):
        assert (await line.refused(name, agent.token, private=True)).startswith("Unauthorized: ")


async def test_service_role_may_join_everything(desk: Desk, open_line: Open, version: int) -> None:
    line = await open_line(version, desk.secret_key)
    await line.join(unique("anything"), private=True)


async def test_private_and_public_channels_of_one_name_are_two(
    line: Line, open_line: Open, agent: Person
) -> None:
    topic = club("reads-writes")
    private = await line.join(topic, agent.token, private=True, **ACK)
    public = await (await open_line(2)).join(topic, agent.token)
    await private.ask("broadcast", {"type": "broadcast", "event": "secret", "payload": {}})
    await public.broadcast("open", {})
    await silence()
    assert not private.messages
    assert not public.messages


@pytest.mark.parametrize(("what", "hears"), [("reads-writes", True), ("reads", False)])
async def test_message_without_the_right_to_write_is_dropped_without_a_word(
    *, line: Line, open_line: Open, agent: Person, what: str, hears: bool
) -> None:
    topic = club(what)
    room = await line.join(topic, agent.token, private=True, **ACK)
    other = await (await open_line(2)).join(topic, agent.token, private=True)
    ref = await room.broadcast("x", {})
    await silence()
    assert bool(other.messages) == hears
    assert bool([each for each in room.heard if each.ref == ref]) == hears


async def test_channel_of_presence_alone_hears_no_broadcasts(desk: Desk, line: Line, agent: Person) -> None:
    topic = club("sees-shows-writes")
    room = await line.join(topic, agent.token, private=True, presence={"enabled": True})
    assert (await room.track({"a": 1})).is_ok
    await room.next("presence_diff")
    desk.sql("select realtime.send('{}', 'x', %s, true)", [topic])
    await silence()
    assert not room.messages


async def test_channel_of_broadcasts_alone_sees_nobody(line: Line, agent: Person) -> None:
    topic = club("reads-writes")
    room = await line.join(topic, agent.token, private=True, presence={"enabled": True})
    assert (await room.track({})).reason.startswith("Unauthorized: ")
    await silence()
    assert not room.of("presence_state")


async def test_policy_may_ask_who_exactly_somebody_is(line: Line, agent: Person, stranger: Person) -> None:
    topic = f"mine:{agent.member.user_id}"
    await line.join(topic, agent.token, private=True)
    assert (await line.refused(topic, stranger.token, private=True)).startswith("Unauthorized: ")


async def test_policy_that_fails_is_a_refusal(line: Line, agent: Person) -> None:
    assert (await line.refused("bad:x", agent.token, private=True)).startswith("Unauthorized: ")


async def test_rights_are_asked_for_anew_when_a_token_comes(
    line: Line, agent: Person, stranger: Person
) -> None:
    topic = f"mine:{agent.member.user_id}"
    room = await line.join(topic, agent.token, private=True)
    await room.say("access_token", {"access_token": stranger.token})
    sentence = f"You no longer have permission to read from this Channel topic: {topic}"
    assert await room.is_closed() == sentence
    again = await line.join(topic, agent.token, private=True)
    await again.say("access_token", {"access_token": None})
    assert await again.is_closed() == sentence


async def test_agent_who_becomes_a_customer_loses_the_ticket_s_room_within_a_second(
    desk: Desk, line: Line, north: Organization, agent: Person
) -> None:
    person, topic = north.person(), f"desk:ticket:{north.ticket('watched')}"
    room = await line.join(topic, person.token, private=True)
    stays = await line.join(f"desk:ticket:{north.ticket('other')}", agent.token, private=True)
    desk.sql("update public.members set role = 'customer' where id = %s", [person.id])
    assert (await room.is_closed(A_SECOND)).startswith("You no longer have permission")
    assert not stays.of("phx_close")


@pytest.mark.parametrize(
    "deletion",
    [
        "update public.tickets set deleted_at = now() where id = %s",
        "delete from public.tickets where id = %s",
    ],
    ids=["softly", "for good"],
)
async def test_room_of_a_ticket_that_is_deleted_ends_within_a_second(
    *, desk: Desk, line: Line, north: Organization, agent: Person, deletion: str
) -> None:
    ticket = north.ticket("watched")
    topic = f"desk:ticket:{ticket}"
    room = await line.join(topic, agent.token, private=True)
    stays = await line.join(f"desk:ticket:{north.ticket('other')}", agent.token, private=True)
    north.rename(ticket, "renamed")
    await silence()
    assert not room.of("phx_close"), "a change that takes no right away ends nothing"
    desk.sql(deletion, [ticket])
    sentence = f"You no longer have permission to read from this Channel topic: {topic}"
    assert await room.is_closed(A_SECOND) == sentence
    assert not stays.of("phx_close")


async def test_visitor_who_is_refused_may_sign_in_and_try_again(
    line: Line, north: Organization, agent: Person
) -> None:
    topic = f"desk:ticket:{north.ticket('watched')}"
    await line.refused(topic, None, private=True)
    await line.join(topic, agent.token, private=True)


# Replay


def kept(desk: Desk, topic: str, *numbers: int) -> None:
    for number in numbers:
        desk.sql("select realtime.send(%s, 'n', %s, true)", [json.dumps({"n": number}), topic])


async def test_kept_messages_come_after_the_answer_and_once(desk: Desk, line: Line, agent: Person) -> None:
    topic, begun = club("reads-writes"), int(time.time() * 1000)
    kept(desk, topic, *range(30))
    room, answer = await line.try_to_join(
        topic, agent.token, private=True, broadcast={"replay": {"since": begun - 1000, "limit": 10}}
    )
    assert answer.is_ok
    kept(desk, topic, 30)
    heard = await room.next("broadcast", 11)
    assert [each.payload["payload"]["n"] for each in heard] == list(range(20, 31))
    assert [each.payload["meta"].get("replayed") for each in heard] == [True] * 10 + [None]
    assert room.heard[0].event == "phx_reply"
    later = await line.join(
        f"{topic}",
        agent.token,
        private=True,
        broadcast={"replay": {"since": int(time.time() * 1000) + 50_000}},
    )
    await silence()
    assert not later.messages


async def test_nothing_is_lost_or_told_twice_between_replay_and_what_happens(
    desk: Desk, open_line: Open, version: int, agent: Person
) -> None:
    topic, begun = club("reads-writes"), int(time.time() * 1000)
    line = await open_line(version)
    for number in range(20):
        kept(desk, topic, number)
        if number % 4 == 0:
            replay = {"replay": {"since": begun - 1000}}
            room = await line.join(topic, agent.token, private=True, broadcast=replay)
    await room.hears(lambda room: len(room.messages) >= 20)
    await silence()
    assert sorted(each["payload"]["n"] for each in room.messages) == list(range(20))


async def test_client_may_have_its_message_kept(open_line: Open, agent: Person) -> None:
    topic, line, begun = club("reads-writes"), await open_line(2), int(time.time() * 1000)
    room = await line.join(topic, agent.token, private=True, broadcast={"ack": True, "self": False})
    other = await (await open_line(1)).join(topic, agent.token, private=True)
    frame = pushed(room.join_ref, "9", room.topic, "kept", b'{"a": 1}', '{"persist":{"ttl":60}}')
    await line.socket.send(frame)
    assert (await line.reply("9")).is_ok
    (heard,) = await other.next("broadcast")
    back = await (await open_line(1)).join(
        topic, agent.token, private=True, broadcast={"replay": {"since": begun - 1000}}
    )
    (again,) = await back.next("broadcast")
    assert again.payload["payload"] == {"a": 1}
    assert again.payload["meta"] == {**heard.payload["meta"], "replayed": True}
    assert not room.messages, "its own, of which it does not want to hear"


async def test_nobody_is_told_what_was_kept_of_a_channel_they_may_not_read(
    desk: Desk, line: Line, agent: Person
) -> None:
    topic = club("sees")
    kept(desk, topic, 1)
    room = await line.join(topic, agent.token, private=True, broadcast={"replay": {"since": 0}})
    await silence()
    assert not room.messages


async def test_trigger_of_ones_own_tells_of_rows(desk: Desk, line: Line, agent: Person) -> None:
    name, topic = unique("things").replace("-", "_"), club("reads")
    desk.sql(f"create table public.{name} (id bigint primary key, text text)")
    desk.sql(
        f"""
        create function public.tell_{name}() returns trigger language plpgsql security definer as $$
        begin
            perform realtime.broadcast_changes(
                '{topic}', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
            return null;
        end $$"""
    )
    desk.sql(
        f"create trigger tell after insert or update or delete on public.{name}"
        f" for each row execute function public.tell_{name}()"
    )
    room = await line.join(topic, agent.token, private=True)
    desk.sql(f"insert into public.{name} values (1, 'a')")
    desk.sql(f"update public.{name} set text = 'b'")
    desk.sql(f"delete from public.{name}")
    heard = await room.next("broadcast", 3)
    assert [each.payload["event"] for each in heard] == ["INSERT", "UPDATE", "DELETE"]
    records: list[Any] = [
        (each.payload["payload"]["record"], each.payload["payload"]["old_record"]) for each in heard
    ]
    a, b = {"id": 1, "text": "a"}, {"id": 1, "text": "b"}
    assert records == [(a, None), (b, a), (None, b)]
    desk.sql(f"drop table public.{name}")
