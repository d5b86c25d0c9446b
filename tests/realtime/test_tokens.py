"""Tokens: who is let in, in which words others are refused, and what becomes of a holder who changes."""

import time
from typing import Any

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.desk import Desk
from tests.realtime.conftest import Open, Organization, Person
from tests.realtime.wire import A_SECOND, Line, Room, opened, silence

TICKETS = {"event": "*", "schema": "public", "table": "tickets"}


def signed(desk: Desk, **claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"iat": now, "exp": now + 3600, **claims}, desk.jwt_secret, algorithm="HS256")


# The handshake


async def test_every_key_of_the_project_opens_a_socket(desk: Desk, version: int, topic: str) -> None:
    for key in (desk.publishable_key, desk.secret_key, desk.anon_key, desk.service_key):
        async with opened(desk.url, key, version) as line:
            await line.join(topic)
    header = {"apikey": desk.publishable_key}
    async with opened(desk.url, None, version, additional_headers=header) as line:
        await line.join(topic)


@pytest.mark.parametrize("kind", ["none", "nonsense", "other", "expired", "user"])
async def test_handshake_without_a_good_key_is_refused(desk: Desk, agent: Person, kind: str) -> None:
    key, sentence = {
        "none": (None, "API key is missing"),
        "nonsense": ("nonsense", "The token provided is not a valid JWT"),
        "other": ("sb_publishable_other", "The token provided is not a valid JWT"),
        "expired": (signed(desk, role="anon", exp=int(time.time()) - 60), "Token has expired"),
        "user": (agent.token, "The token provided is not a valid JWT"),
    }[kind]
    with pytest.raises(InvalidStatus) as error:
        async with opened(desk.url, key):
            pass
    response = error.value.response
    assert response.status_code == 401
    assert response.body == f'{{"error":"{sentence}"}}'.encode()
    assert response.headers["content-type"] == "application/json"


async def test_other_path_is_no_socket(desk: Desk) -> None:
    from websockets.asyncio.client import connect

    for path in ("", "/", "/websockets", "/api/broadcast"):
        with pytest.raises(InvalidStatus) as error:
            async with connect(f"ws{desk.url[4:]}/realtime/v1{path}?apikey={desk.publishable_key}"):
                pass
        assert error.value.response.status_code == 404


# The token of a join


async def test_join_is_refused_in_the_words_of_the_fault(
    desk: Desk, line: Line, north: Organization, agent: Person, topic: str
) -> None:
    now = int(time.time())
    member = agent.member
    forged = jwt.encode({"role": "authenticated", "exp": now + 60}, "x" * 32, algorithm="HS256")
    gone, out = north.person(), north.person()
    desk.sql("update public.members set is_active = false where id = %s", [gone.id])
    desk.sql("delete from auth.sessions where id = %s", [out.session_id])
    for token, reason in [
        ("x", "MalformedJWT: The token provided is not a valid JWT"),
        ("a.b.c", "MalformedJWT: The token provided is not a valid JWT"),
        ("x" * 20_000, "MalformedJWT: The token provided is not a valid JWT"),
        (forged, "JwtSignatureError: Failed to validate JWT signature"),
        (desk.jwt(member, role=None), "InvalidJWTToken: Fields `role` and `exp` are required in JWT"),
        (gone.token, "Unauthorized: The session has ended; sign in again."),
        (out.token, "Unauthorized: The session has ended; sign in again."),
        ("stk_x", "Unauthorized: The token is invalid, expired, disabled or revoked."),
    ]:
        assert await line.refused(topic, token) == reason, token[:30]
    expired = await line.refused(topic, desk.jwt(member, exp=now - 100))
    assert expired.startswith("InvalidJWTToken: Token has expired 10")
    assert expired.endswith(" seconds ago")


async def test_factor_that_is_still_owed_is_a_refusal(
    desk: Desk, line: Line, north: Organization, topic: str
) -> None:
    person = north.person()
    desk.sql(
        "insert into auth.mfa_factors (id, user_id, friendly_name, factor_type, status, secret,"
        " created_at, updated_at)"
        " values (gen_random_uuid(), %s, 'app', 'totp', 'verified', 'x', now(), now())",
        [person.member.user_id],
    )
    reason = await line.refused(topic, person.token)
    assert reason == "Unauthorized: The second factor has to be verified first."


async def test_too_many_joins_are_refused(
    another_desk: Any, open_line: Open, version: int, topic: str
) -> None:
    desk = another_desk(DESKBASE_LIMITS='{"realtime": {"anonymous": "3/hour"}}')
    line = await open_line(version, desk.publishable_key, desk.url)
    for number in range(3):
        await line.join(f"{topic}-{number}")
    assert (await line.refused(topic)).startswith("ClientJoinRateLimitReached: ")


async def test_channel_without_a_token_of_its_own_is_the_keys(
    desk: Desk, open_line: Open, version: int, north: Organization, topic: str
) -> None:
    visitor = await open_line(version)
    service = await open_line(version, desk.secret_key)
    rooms: list[Room] = []
    for token in (None, "", desk.publishable_key, desk.secret_key, "sb_anything"):
        rooms.append(await visitor.join(f"{topic}-{len(rooms)}", token, changes=[TICKETS]))
    told = await service.join(topic, desk.publishable_key, changes=[TICKETS])
    subject = f"for the service of {topic}"
    north.ticket(subject)
    await told.hears(lambda room: subject in room.says("subject"))
    await silence()
    assert not any(room.rows for room in rooms)


async def test_token_may_have_its_other_name(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    config = {"postgres_changes": [TICKETS]}
    room, _ = await line.join_with(f"realtime:{topic}", {"user_token": agent.token, "config": config})
    north.ticket("heard")
    await room.next("postgres_changes")


# Tokens that come later


async def test_visitor_who_signs_in_hears_as_who_they_are(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    room = await line.join(topic, changes=[TICKETS])
    north.ticket("before")
    await silence()
    await room.say("access_token", {"access_token": agent.token})
    await silence()
    north.ticket("after")
    await room.next("postgres_changes")
    assert room.says("subject") == ["after"]
    assert not room.of("phx_reply")[1:], "it is never answered"


@pytest.mark.parametrize("token", [None, "sb_publishable_x", "key"])
async def test_user_who_signs_out_hears_as_the_keys_role(
    *, desk: Desk, line: Line, north: Organization, agent: Person, topic: str, token: str | None
) -> None:
    room = await line.join(topic, agent.token, changes=[TICKETS])
    north.ticket("before")
    await room.next("postgres_changes")
    await room.say("access_token", {"access_token": desk.publishable_key if token == "key" else token})
    await silence()
    north.ticket("after")
    await silence()
    assert room.says("subject") == ["before"]
    assert not room.of("phx_close")


async def test_user_whose_token_is_renewed_misses_nothing(
    line: Line, north: Organization, agent: Person, topic: str
) -> None:
    room = await line.join(topic, agent.token, changes=[TICKETS])
    for number in range(20):
        token = agent.desk.jwt(agent.member, session_id=agent.session_id, n=number)
        await room.say("access_token", {"access_token": token})
        north.ticket(str(number))
    await room.next("postgres_changes", 20)
    assert room.says("subject") == [str(number) for number in range(20)]


async def test_bad_token_that_comes_later_ends_the_channel_alone(
    line: Line, agent: Person, topic: str
) -> None:
    room, other = await line.join(topic, agent.token), await line.join(f"{topic}-2", agent.token)
    await room.say("access_token", {"access_token": "x.y.z"})
    assert await room.is_closed() == "MalformedJWT: The token provided is not a valid JWT"
    again, answer = await line.try_to_join(topic, agent.token)
    assert answer.is_ok
    expired = agent.desk.jwt(agent.member, exp=int(time.time()) - 50)
    await again.say("access_token", {"access_token": expired})
    message = await again.is_closed()
    assert message.startswith("Token has expired 5")
    assert not other.of("phx_close")


# Holders who change


async def test_token_that_runs_out_ends_the_channel_alone(
    desk: Desk, line: Line, agent: Person, topic: str
) -> None:
    room = await line.join(topic, desk.jwt(agent.member, exp=int(time.time()) + 1), changes=[TICKETS])
    other = await line.join(f"{topic}-2", agent.token)
    message = await room.is_closed(2 + A_SECOND)
    assert message.startswith("Token has expired ")
    (system,) = [each for each in room.of("system") if each.payload["status"] == "error"]
    assert system.payload | {"message": ""} == {
        "channel": topic,
        "extension": "system",
        "message": "",
        "status": "error",
    }
    (close,) = room.of("phx_close")
    assert close.ref == room.join_ref
    assert not other.of("phx_close")


async def test_token_that_is_renewed_in_time_does_not_run_out(
    desk: Desk, line: Line, agent: Person, topic: str
) -> None:
    room = await line.join(topic, desk.jwt(agent.member, exp=int(time.time()) + 2), changes=[TICKETS])
    await room.say("access_token", {"access_token": agent.token})
    with pytest.raises(AssertionError):
        await room.is_closed(4)


@pytest.mark.parametrize("what", ["logs out", "is deactivated"])
async def test_member_who_is_gone_hears_no_more_within_a_second(
    *, desk: Desk, line: Line, north: Organization, agent: Person, topic: str, what: str
) -> None:
    leaver = north.person()
    room = await line.join(topic, leaver.token, changes=[TICKETS])
    stays = await line.join(f"{topic}-2", agent.token, changes=[TICKETS])
    if what == "logs out":
        desk.sql("delete from auth.sessions where id = %s", [leaver.session_id])
    else:
        desk.sql("update public.members set is_active = false where id = %s", [leaver.id])
    assert await room.is_closed(A_SECOND) == "The session has ended; sign in again."
    north.ticket("too late")
    await stays.next("postgres_changes")
    assert not room.rows


async def test_agent_who_becomes_a_customer_hears_what_a_customer_may_see(
    desk: Desk, line: Line, north: Organization, agent: Person, topic: str
) -> None:
    person = north.person()
    room = await line.join(topic, person.token, changes=[TICKETS])
    stays = await line.join(f"{topic}-2", agent.token, changes=[TICKETS])
    desk.sql("update public.members set role = 'customer' where id = %s", [person.id])
    contact = desk.value("select id from public.contacts where member_id = %s", [person.id])
    deadline = time.monotonic() + A_SECOND
    while time.monotonic() < deadline:
        await silence()
    north.ticket("another's")
    desk.sql(
        "insert into public.tickets (organization_id, subject, contact_id) values (%s, 'now mine', %s)",
        [north.id, contact],
    )
    await stays.next("postgres_changes", 2)
    await room.next("postgres_changes")
    assert room.says("subject") == ["now mine"]
