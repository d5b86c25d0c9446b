"""What is taken away is gone with the next request, on every worker and every way in."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.desk import Desk, Member, wait_until
from tests.faults.clients import Everywhere, bearer, client_of, get

HEALTH = "/integration-tickets/"
ROWS = "/tickets?select=id&limit=1"
TOKEN_ID = """
    select s.token_id::text from private.integration_token_secrets as s
    where s.hash = sha256(convert_to(%s, 'UTF8'))
"""
DEACTIVATE = "update public.members set is_active = %s where organization_id = %s and id = %s"
END_SESSION = "delete from auth.sessions where id = %s"
BAN = "update auth.users set banned_until = now() + interval '1 hour' where id = %s"


@pytest.fixture
def everywhere(pair: tuple[Desk, Desk]) -> Iterator[Everywhere]:
    """A client with a connection to each of the six workers of two desks."""
    with Everywhere(*pair) as client:
        yield client


@pytest.fixture
def admin(far: Desk) -> Iterator[httpx.Client]:
    """The admin's client, who calls functions over PostgREST."""
    headers = {"apikey": far.anon_key, **bearer(far.jwt(far.member("admin")))}
    with client_of(far, headers) as client:
        yield client


def change(admin: httpx.Client, function: str, **arguments: object) -> str:
    """Let the admin change a token, and return the new secret if there is one."""
    answer = admin.post(f"/rest/v1/rpc/{function}_integration_token", json=arguments)
    assert answer.status_code == 200, answer.text
    return answer.json().get("token") or ""


def is_refused(everywhere: Everywhere, token: str) -> bool:
    """Whether every worker refuses the token; fails if they do not agree."""
    answers = [*everywhere.get(HEALTH, bearer(token)), *everywhere.get(f"/rest/v1{ROWS}", bearer(token))]
    (status,) = {answer.status_code for answer in answers}
    if status == 401:
        words = {answer.json().get("error", answer.json().get("code")) for answer in answers}
        assert words == {"invalid_token"}
    return status == 401


def test_a_token_is_refused_everywhere_while_it_is_disabled_and_for_good_when_it_is_revoked(
    far: Desk, everywhere: Everywhere, admin: httpx.Client
) -> None:
    token = far.token()
    token_id = far.value(TOKEN_ID, [token])
    assert not is_refused(everywhere, token)
    for _ in range(2):
        change(admin, "disable", id=token_id)
        assert is_refused(everywhere, token)
        change(admin, "enable", id=token_id)
        assert not is_refused(everywhere, token)
    change(admin, "revoke", id=token_id)
    assert is_refused(everywhere, token)


def test_a_rotated_token_is_refused_at_once_without_grace(
    far: Desk, everywhere: Everywhere, admin: httpx.Client
) -> None:
    old = far.token()
    assert not is_refused(everywhere, old)
    new = change(admin, "rotate", id=far.value(TOKEN_ID, [old]), grace_seconds=0)
    assert is_refused(everywhere, old)
    assert not is_refused(everywhere, new)


def test_a_rotated_token_lives_on_for_its_grace_and_no_longer(
    far: Desk, everywhere: Everywhere, admin: httpx.Client
) -> None:
    old = far.token()
    begun = time.monotonic()
    new = change(admin, "rotate", id=far.value(TOKEN_ID, [old]), grace_seconds=2)
    rotated = time.monotonic()
    assert everywhere.statuses(HEALTH, bearer(old)) == {200}
    wait_until(lambda: everywhere.statuses(HEALTH, bearer(old)) == {401}, 5, "the grace is over")
    assert time.monotonic() - begun >= 2
    assert time.monotonic() - rotated < 3
    assert is_refused(everywhere, old)
    assert not is_refused(everywhere, new)


def test_a_token_that_expires_is_refused_everywhere(far: Desk, everywhere: Everywhere) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=1.5)
    token = far.token(expires_at=expires_at)
    assert everywhere.statuses(HEALTH, bearer(token)) == {200}
    wait_until(lambda: everywhere.statuses(HEALTH, bearer(token)) == {401}, 5, "it has expired")
    assert datetime.now(UTC) >= expires_at
    assert is_refused(everywhere, token)


def deactivate(desk: Desk, member: Member, session: str) -> None:
    desk.sql(DEACTIVATE, [False, member.organization_id, member.id])


def end_session(desk: Desk, member: Member, session: str) -> None:
    desk.sql(END_SESSION, [session])


def ban(desk: Desk, member: Member, session: str) -> None:
    desk.sql(BAN, [member.user_id])


@pytest.mark.parametrize("take_away", [deactivate, end_session, ban])
@pytest.mark.parametrize("role", ["agent", "customer", "admin"])
def test_a_person_is_refused_at_once_behind_the_gateway_and_by_postgrest_itself(
    far: Desk, everywhere: Everywhere, role: str, take_away: Callable[[Desk, Member, str], None]
) -> None:
    member = far.member(role)
    session = far.session(member)
    headers = {"apikey": far.anon_key, **bearer(far.jwt(member, session_id=session))}
    assert everywhere.statuses(f"/rest/v1{ROWS}", headers) == {200}
    assert get(far.postgrest_url + ROWS, headers).status_code == 200
    take_away(far, member, session)
    answers = everywhere.get(f"/rest/v1{ROWS}", headers)
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(401, "session_ended")] * 6
    direct = get(far.postgrest_url + ROWS, headers)
    assert (direct.status_code, direct.json()["message"]) == (401, "session_ended")


def test_a_person_who_is_let_in_again_is_served_again(far: Desk, everywhere: Everywhere) -> None:
    member = far.member("agent")
    headers = {"apikey": far.anon_key, **bearer(far.jwt(member))}
    for is_active, status in ((True, 200), (False, 401), (True, 200)):
        far.sql(DEACTIVATE, [is_active, member.organization_id, member.id])
        assert everywhere.statuses(f"/rest/v1{ROWS}", headers) == {status}


def test_other_sessions_of_a_person_go_on_when_one_ends(far: Desk, everywhere: Everywhere) -> None:
    member = far.member("agent")
    sessions = [far.session(member) for _ in range(2)]
    here, there = (
        {"apikey": far.anon_key, **bearer(far.jwt(member, session_id=session))} for session in sessions
    )
    end_session(far, member, sessions[0])
    assert everywhere.statuses(f"/rest/v1{ROWS}", here) == {401}
    assert everywhere.statuses(f"/rest/v1{ROWS}", there) == {200}
