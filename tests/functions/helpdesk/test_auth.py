"""Logging in with the contract's own paths."""

import time
from typing import Any

import httpx
import jwt
import pytest

from tests.desk import Desk, unique

from .conftest import BASE, User, assert_error, assert_invalid

PASSWORD = "correct horse battery staple"


class Account:
    """Somebody with a password."""

    def __init__(
        self, desk: Desk, username: str, organization: str | None = None, role: str = "agent"
    ) -> None:
        self.username = username
        self.email = f"{unique('person')}@example.com"
        self.organization = organization or desk.organization()
        answer = httpx.post(
            f"{desk.url}/auth/v1/admin/users",
            headers={"Authorization": f"Bearer {desk.service_key}"},
            json={
                "email": self.email,
                "password": PASSWORD,
                "email_confirm": True,
                "app_metadata": {"organization_id": self.organization, "role": role},
            },
        )
        assert answer.is_success, answer.text
        self.user_id = answer.json()["id"]
        desk.sql("update public.members set username = %s where user_id = %s", [username, self.user_id])


@pytest.fixture
def account(desk: Desk) -> Account:
    return Account(desk, unique("tech").replace("-", "."))


def obtain(desk: Desk, username: str, password: str = PASSWORD, **options: Any) -> httpx.Response:
    body = {"username": username, "password": password}
    return httpx.post(f"{desk.url}{BASE}/auth/token/", **(options or {"json": body}))


def tokens(desk: Desk, account: Account) -> dict[str, str]:
    answer = obtain(desk, account.username)
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def subject(access: str) -> str:
    """Whose token it is."""
    return str(jwt.decode(access, options={"verify_signature": False})["sub"])


def post(desk: Desk, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{desk.url}{BASE}/auth/token/{path}", json=body)


def reads(desk: Desk, access: str) -> httpx.Response:
    return httpx.get(f"{desk.url}{BASE}/tickets/", headers={"Authorization": f"Bearer {access}"})


def test_person_logs_in_by_name_or_address_in_any_case(desk: Desk, account: Account) -> None:
    for name in (account.username, account.username.upper(), account.email, f" {account.email.upper()} "):
        answer = obtain(desk, name)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"access", "refresh"}
        assert answer.headers["cache-control"] == "no-store"
        assert reads(desk, answer.json()["access"]).status_code == 200


@pytest.mark.parametrize("media_type", ["", "; charset=utf-8"])
def test_form_is_as_good_as_json(desk: Desk, account: Account, media_type: str) -> None:
    body = httpx.QueryParams(username=account.email, password=PASSWORD, next="/")
    content_type = {"Content-Type": f"application/x-www-form-urlencoded{media_type}"}
    answer = obtain(desk, "", content=str(body), headers=content_type)
    assert answer.status_code == 200
    assert reads(desk, answer.json()["access"]).status_code == 200


def test_nothing_tells_a_wrong_name_from_a_wrong_password(desk: Desk, account: Account) -> None:
    twins = [Account(desk, unique("twin")) for _ in range(2)]
    desk.sql(
        "update public.members set username = 'the.twins' where user_id = any (%s::uuid[])",
        [[twin.user_id for twin in twins]],
    )
    answers = [
        obtain(desk, account.username, "wrong"),
        obtain(desk, account.email, "wrong"),
        obtain(desk, unique("nobody")),
        obtain(desk, f"{unique('nobody')}@example.com"),
        obtain(desk, "the.twins"),
    ]
    for answer in answers:
        assert_error(answer, 401, "Authentication failed", "invalid_credentials")
    assert len({answer.text for answer in answers}) == 1
    for twin in twins:
        assert obtain(desk, twin.email).status_code == 200


def test_name_that_one_person_has_in_two_organizations_is_theirs(desk: Desk, account: Account) -> None:
    desk.sql(
        "insert into public.members (organization_id, user_id, username, email, name)"
        " select %s, user_id, username, email, name from public.members where user_id = %s",
        [desk.organization(), account.user_id],
    )
    assert obtain(desk, account.username).status_code == 200


def test_somebody_who_has_left_does_not_take_the_name_along(desk: Desk, account: Account) -> None:
    heir = Account(desk, account.username)
    assert_error(obtain(desk, account.username), 401, "Authentication failed")
    desk.sql("update public.members set is_active = false where user_id = %s", [account.user_id])
    assert subject(obtain(desk, account.username).json()["access"]) == heir.user_id


def test_credentials_are_needed(desk: Desk) -> None:
    needed = "This field is required."
    assert_invalid(post(desk, ""), username=needed, password=needed)
    assert_invalid(post(desk, "", username="x", password=None), password="This field may not be null.")
    assert_invalid(post(desk, "", username=" ", password="x"), username="This field may not be blank.")
    assert_invalid(post(desk, "", username=["x"], password="x"), username="Not a valid string.")
    assert_invalid(post(desk, "refresh/"), refresh=needed)
    assert_invalid(post(desk, "verify/"), token=needed)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for content in (b"", b"username=x", b"username&password"):
        assert_error(obtain(desk, "", content=content, headers=form), 400, "Validation failed")
    answer = obtain(desk, "", content=b"username=%ff&password=x", headers=form)
    assert_error(answer, 400, "Validation failed")
    answer = obtain(desk, "", content=b"username=a%00b&password=x", headers=form)
    assert_invalid(answer, username="Null characters are not allowed.")


def test_account_whose_address_is_not_confirmed_gets_no_token(desk: Desk, account: Account) -> None:
    desk.sql("update auth.users set email_confirmed_at = null where id = %s", [account.user_id])
    assert_error(obtain(desk, account.email), 401, "Authentication failed", "email_not_confirmed")


def test_guesses_are_throttled(desk: Desk, account: Account) -> None:
    for _ in range(5):
        assert_error(obtain(desk, account.username, "wrong"), 401, "Authentication failed")
    answer = obtain(desk, account.username)
    assert_error(answer, 429, "Request was throttled", "over_request_rate_limit")
    # The limit that is told of is the lock's.
    limit = {name: int(answer.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset")}
    assert (limit["limit"], limit["remaining"]) == (5, 0)
    assert abs(limit["reset"] - time.time() - int(answer.headers["retry-after"])) < 5


def test_refresh_answers_both_tokens_anew(desk: Desk, account: Account) -> None:
    first = tokens(desk, account)
    answer = post(desk, "refresh/", refresh=first["refresh"])
    assert answer.status_code == 200
    second = answer.json()
    assert set(second) == {"access", "refresh"}
    assert second["refresh"] != first["refresh"]
    assert reads(desk, second["access"]).status_code == 200


@pytest.mark.parametrize("token", ["x", "é", "a.b.c", "x" * 5000])
def test_token_of_nobody_is_no_refresh_and_no_access_token(desk: Desk, token: str) -> None:
    assert_error(post(desk, "refresh/", refresh=token), 401, "Authentication failed")
    assert_error(post(desk, "verify/", token=token), 401, "Authentication failed")


def test_verify_says_whether_a_token_is_good(desk: Desk, account: Account, agent: User) -> None:
    access = tokens(desk, account)["access"]
    answer = post(desk, "verify/", token=access)
    assert (answer.status_code, answer.json()) == (200, {})
    for other in (agent.token, f" {agent.token}\n"):
        assert post(desk, "verify/", token=other).status_code == 200
    for bad in (desk.anon_key, desk.service_key, desk.token(), desk.jwt(agent.member, exp=1), access + "x"):
        assert_error(post(desk, "verify/", token=bad), 401, "Authentication failed")
    desk.sql("delete from auth.sessions where user_id = %s", [account.user_id])
    assert_error(post(desk, "verify/", token=access), 401, "Authentication failed", "session_ended")
    assert_error(reads(desk, access), 401, "Authentication failed", "session_ended")


def test_session_that_lacks_its_second_factor_is_not_good_yet(desk: Desk, account: Account) -> None:
    access = tokens(desk, account)["access"]
    desk.sql(
        "insert into auth.mfa_factors (id, user_id, factor_type, status, secret, created_at, updated_at)"
        " values (gen_random_uuid(), %s, 'totp', 'verified', 'x', now(), now())",
        [account.user_id],
    )
    assert_error(reads(desk, access), 403, "Permission denied", "second_factor_required")
    assert_error(post(desk, "verify/", token=access), 401, "Authentication failed", "second_factor_required")


def test_tokens_are_those_of_the_other_contracts(desk: Desk, account: Account) -> None:
    access = tokens(desk, account)["access"]
    bearer = {"Authorization": f"Bearer {access}"}
    answer = httpx.get(f"{desk.rest_url}/tickets", headers=bearer)
    assert (answer.status_code, answer.json()) == (200, [])
