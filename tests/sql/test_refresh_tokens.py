"""Refresh tokens: used once, but for a repeat of a moment ago; a stolen one ends its session."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.actors import Acting
from tests.sql.auth import VISITOR, Account, Office, call, next_token
from tests.sql.gate import admit, of

AGE = "update auth.refresh_tokens set updated_at = updated_at - %s::interval where token = %s"
LIVE = """
    select s.id, array(
        select r.token from auth.refresh_tokens as r where r.session_id = s.id and not r.revoked)
    from auth.sessions as s where s.user_id = %s::uuid
"""


@pytest.fixture
def account(office: Office) -> Account:
    return office.account("ann@example.com")


def test_a_token_is_exchanged_for_the_next_one(office: Office, account: Account) -> None:
    first = account.refresh_token
    for token in (first, next_token(first), next_token(next_token(first))):
        answer = office.refresh(token)
        assert answer["refusal"] is None
        assert answer["claims"] == account.claims
        assert answer["person"]["id"] == account.id
    seen = "select refreshed_at is not null, host(ip), user_agent from auth.sessions where id = %s::uuid"
    assert office.owner.row(seen, [account.session_id]) == (True, VISITOR["address"], VISITOR["agent"])


def test_a_repeat_within_ten_seconds_is_given_the_same_again(office: Office, account: Account) -> None:
    token = account.refresh_token
    first = office.refresh(token)
    office.owner.rows(AGE, ["9 seconds", token])
    assert office.refresh(token) == first
    assert office.owner.rows(LIVE, [account.id]) == [(account.session_id, [next_token(token)])]


def test_a_used_token_that_comes_later_ends_the_session(office: Office, account: Account) -> None:
    token = account.refresh_token
    office.refresh(token)
    office.owner.rows(AGE, ["10 seconds", token])
    assert office.refresh(token)["refusal"] == "refresh_token_already_used"
    assert office.refresh(next_token(token))["refusal"] == "refresh_token_not_found"
    assert office.sessions(account.id) == set()


def test_a_used_token_that_comes_after_its_successor_ends_the_session(
    office: Office, account: Account
) -> None:
    token = account.refresh_token
    office.refresh(token)
    office.refresh(next_token(token))
    assert office.refresh(token)["refusal"] == "refresh_token_already_used"
    assert office.sessions(account.id) == set()


def test_a_repeat_that_names_another_successor_ends_the_session(office: Office, account: Account) -> None:
    office.refresh(account.refresh_token)
    answer = office.call("refresh", token_hash=account.refresh_token, next_hash="another")
    assert answer["refusal"] == "refresh_token_already_used"
    assert office.sessions(account.id) == set()


def test_a_stolen_token_ends_its_own_session_alone(office: Office, account: Account) -> None:
    other = office.logged_in("ann@example.com")
    office.refresh(account.refresh_token)
    office.owner.rows(AGE, ["1 minute", account.refresh_token])
    office.refresh(account.refresh_token)
    assert office.sessions(account.id) == {other.session_id}
    assert office.refresh(other.refresh_token)["refusal"] is None


def test_a_token_that_never_was_changes_nothing(office: Office, account: Account) -> None:
    assert office.refresh("x")["refusal"] == "refresh_token_not_found"
    assert office.sessions(account.id) == {account.session_id}


def test_a_session_that_is_over_is_not_continued(office: Office, account: Account) -> None:
    office.owner.rows("update auth.sessions set not_after = now() where id = %s::uuid", [account.session_id])
    assert office.refresh(account.refresh_token)["refusal"] == "session_expired"
    assert office.sessions(account.id) == set()


ENDINGS = {
    "banned": "update auth.users set banned_until = 'infinity' where id = %s::uuid",
    "deleted": "update auth.users set deleted_at = now() where id = %s::uuid",
    "deactivated": "update public.members set is_active = false where user_id = %s::uuid",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whoever_may_not_come_in_any_more_is_given_no_token(
    ending: str, office: Office, account: Account
) -> None:
    office.owner.rows(ENDINGS[ending], [account.id])
    answer = office.refresh(account.refresh_token)
    assert (answer["refusal"], answer["claims"], answer["person"]) == ("user_banned", None, None)
    assert office.sessions(account.id) == set()


def test_a_changed_role_is_in_the_next_token(office: Office, account: Account, login: Acting) -> None:
    office.owner.rows("update public.members set role = 'agent' where user_id = %s::uuid", [account.id])
    answer = office.refresh(account.refresh_token)
    for metadata in (answer["claims"]["app_metadata"], answer["person"]["app_metadata"]):
        assert metadata["role"] == "agent"
    (admission,) = admit(login, of(account.actor))
    assert admission.claims
    assert admission.claims["app_metadata"]["role"] == "agent", "and counts before that"


def test_whoever_is_shut_out_of_one_organization_goes_on_in_another(
    office: Office, account: Account, owner: Acting, login: Acting
) -> None:
    home = account.claims["app_metadata"]["organization_id"]
    other = owner.insert_id("organizations", name="Other")
    owner.insert(
        "members",
        organization_id=other,
        user_id=account.id,
        username="ann",
        email=account.email,
        name="Ann",
        role="agent",
    )
    owner.rows(
        "update auth.users set raw_app_meta_data = raw_app_meta_data || jsonb_build_object("
        "'organization_id', %s::text) where id = %s::uuid",
        [other, account.id],
    )
    there = Account.of(office.refresh(account.refresh_token))
    assert there.claims["app_metadata"]["organization_id"] == other
    owner.rows("update public.members set is_active = false where organization_id = %s", [other])
    assert admit(login, of(there.actor))[0].failure == "session_ended"
    back = office.refresh(next_token(account.refresh_token))
    assert back["claims"]["app_metadata"]["organization_id"] == home
    assert back["person"]["app_metadata"]["organization_id"] == home


# Whatever is done in whatever order


class Session:
    """A session as it ought to be."""

    def __init__(self, token: str) -> None:
        self.tokens = [token]
        self.is_alive = True
        self.is_fresh = False
        """Whether the last exchange was a moment ago."""

    def refresh(self, position: int) -> str | None:
        """Exchange one of its tokens; return how that is refused."""
        if not self.is_alive:
            return "refresh_token_not_found"
        if position == len(self.tokens) - 1:
            self.tokens.append(next_token(self.tokens[-1]))
            self.is_fresh = True
        elif position != len(self.tokens) - 2 or not self.is_fresh:
            self.is_alive = False
            return "refresh_token_already_used"
        return None


class Sessions(RuleBasedStateMachine):
    """Somebody with a few sessions, and a thief who has every token that there ever was."""

    def __init__(self, office: Office) -> None:
        super().__init__()
        self._office = office
        self._email = f"{office.word('machine')}@example.com"
        self._sessions: list[Session] = []
        self._accounts: list[Account] = []

    @initialize()
    def sign_up(self) -> None:
        self._begin(self._office.account(self._email))

    @precondition(lambda self: len(self._sessions) < 4)
    @rule()
    def log_in(self) -> None:
        self._begin(self._office.logged_in(self._email))

    def _begin(self, account: Account) -> None:
        self._accounts.append(account)
        self._sessions.append(Session(account.refresh_token))

    @rule(data=st.data())
    def refresh_with_the_newest(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self._sessions))
        self._refresh(session, len(session.tokens) - 1)

    @rule(data=st.data())
    def refresh_with_any(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self._sessions))
        self._refresh(session, data.draw(st.integers(0, len(session.tokens) - 1)))

    def _refresh(self, session: Session, position: int) -> None:
        answer = self._office.refresh(session.tokens[position])
        assert answer["refusal"] == session.refresh(position)
        assert (answer["claims"] is None) == (answer["refusal"] is not None)

    @rule(data=st.data())
    def let_time_pass(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self._sessions))
        for token in session.tokens:
            self._office.owner.rows(AGE, ["11 seconds", token])
        session.is_fresh = False

    @rule(data=st.data(), scope=st.sampled_from(["local", "others", "global"]))
    def log_out(self, data: st.DataObject, scope: str) -> None:
        alive = [number for number, session in enumerate(self._sessions) if session.is_alive]
        if not alive:
            return
        mine = data.draw(st.sampled_from(alive))
        self._office.call("log_out", claims=self._accounts[mine].claims, scope=scope)
        for number, session in enumerate(self._sessions):
            if scope == "global" or (number == mine) == (scope == "local"):
                session.is_alive = False

    @precondition(lambda self: self._accounts)
    @invariant()
    def one_token_lives_in_each_session_that_does(self) -> None:
        expected = {
            account.session_id: [session.tokens[-1]]
            for account, session in zip(self._accounts, self._sessions, strict=True)
            if session.is_alive
        }
        assert dict[str, Any](self._office.owner.rows(LIVE, [self._accounts[0].id])) == expected


def test_no_order_of_events_revives_a_used_token(office: Office) -> None:
    run_state_machine_as_test(
        partial(Sessions, office),  # type: ignore[arg-type]  # anything that makes one will do
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# At once


def test_twenty_who_come_with_the_same_token_get_the_same_next_one(
    connect: Callable[[], Any], at_once: Callable[..., list[Any]]
) -> None:
    signed_up = call(connect(), "sign_up", email="ann@example.com", autoconfirm=True, refresh_hash="t")
    answers = at_once(*[lambda by: call(by, "refresh", token_hash="t", next_hash="t'")] * 20)
    assert {answer["refusal"] for answer in answers} == {None}
    assert {answer["claims"]["session_id"] for answer in answers} == {signed_up["claims"]["session_id"]}
    last = call(connect(), "refresh", token_hash="t'", next_hash="t''")
    assert last["refusal"] is None, "one successor was made, and nobody's session was ended"
