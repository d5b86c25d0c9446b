"""After any history of log-ins, refreshes, repeats, thefts and log-outs those are in who should be."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .conftest import People, Session, assert_answer, assert_error, new_password

AGE = """
    update auth.refresh_tokens set updated_at = updated_at - interval '11 seconds'
    where session_id = %s and revoked
"""
some = st.integers(0, 5)


@dataclass
class Family:
    """A session as it should be: its refresh tokens in order, the last one unused, and how many are old."""

    newest: Session
    tokens: list[str]
    old: set[str] = field(default_factory=set)
    is_alive: bool = True


class Sessions(RuleBasedStateMachine):
    """One person, all their sessions."""

    def __init__(self, people: People) -> None:
        super().__init__()
        self.desk = people.desk
        self.person = people.person()
        self.families: list[Family] = []

    @rule()
    def log_in(self) -> None:
        session = self.person.log_in()
        self.families.append(Family(session, [session.refresh_token]))

    @precondition(lambda self: self.families)
    @rule(which=some)
    def go_on(self, which: int) -> None:
        family = self._of(which)
        if session := self._refresh(family, -1):
            assert session.refresh_token not in family.tokens
            family.newest = session
            family.tokens.append(session.refresh_token)

    @precondition(lambda self: any(len(family.tokens) > 1 for family in self.families))
    @rule(which=some)
    def ask_again(self, which: int) -> None:
        family = self._of(which, at_least=2)
        if session := self._refresh(family, -2):
            assert session.refresh_token == family.tokens[-1]

    @precondition(lambda self: any(len(family.tokens) > 2 for family in self.families))
    @rule(which=some)
    def steal(self, which: int) -> None:
        assert self._refresh(self._of(which, at_least=3), -3) is None

    @precondition(lambda self: self.families)
    @rule(which=some)
    def wait_ten_seconds(self, which: int) -> None:
        family = self._of(which)
        self.desk.sql(AGE, [family.newest.id])
        family.old |= set(family.tokens[:-1])

    @precondition(lambda self: self.families)
    @rule(which=some, scope=st.sampled_from(["local", "others", "global"]))
    def log_out(self, which: int, scope: str) -> None:
        family = self._of(which)
        answer = self.person.visitor.post(f"/logout?scope={scope}", headers=family.newest.headers)
        if family.is_alive:
            assert_answer(answer, 204)
            self._end(but=None if scope == "global" else family, only=family if scope == "local" else None)
        else:
            assert_error(answer, 403, "session_not_found")

    @precondition(lambda self: any(family.is_alive for family in self.families))
    @rule(which=some)
    def change_the_password(self, which: int) -> None:
        alive = [family for family in self.families if family.is_alive]
        family, self.person.password = alive[which % len(alive)], new_password()
        body = {"password": self.person.password}
        assert_answer(self.person.visitor.put("/user", headers=family.newest.headers, json=body))
        self._end(but=family)

    @invariant()
    def those_and_no_others_are_in(self) -> None:
        for family in self.families:
            answer = self.person.visitor.get("/user", headers=family.newest.headers)
            assert answer.is_success == family.is_alive, answer.text

    def _of(self, which: int, at_least: int = 1) -> Family:
        families = [family for family in self.families if len(family.tokens) >= at_least]
        return families[which % len(families)]

    def _refresh(self, family: Family, position: int) -> Session | None:
        """Show one of its refresh tokens, and return the session if there should be one."""
        token = family.tokens[position]
        answer = self.person.visitor.refresh(token)
        if not family.is_alive:
            assert_error(answer, 400, "refresh_token_not_found")
            return None
        if position == -1 or (position == -2 and token not in family.old):
            session = Session.of(answer)
            assert session.id == family.newest.id
            return session
        assert_error(answer, 400, "refresh_token_already_used")
        family.is_alive = False
        return None

    def _end(self, *, but: Family | None, only: Family | None = None) -> None:
        for family in self.families:
            if only is not None:
                family.is_alive &= family is not only
            else:
                family.is_alive &= family is but


def test_person_is_in_with_the_sessions_that_nothing_has_ended(people: People) -> None:
    class Here(Sessions):
        def __init__(self) -> None:
            super().__init__(people)

    few = settings(
        max_examples=6, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Here, settings=few)
