"""The limiter: exact however many ask, aligned to the clock, two keys at once, never in a circle."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors import Acting, Organization, Stage, World
from tests.databases import Connection
from tests.desk import wait_until
from tests.sql.gate import LONG, Admission, Group, admit, of
from tests.sql.threads import run_at_once

USED = "select subject, used from private.rate_windows where bucket = 'tests' order by subject"


def granted(admissions: list[Admission]) -> int:
    return sum(admission.granted for admission in admissions)


def used_by(owner: Acting) -> dict[str, int]:
    """Return how much each subject has used."""
    return dict(owner.rows(USED))


# One subject


def test_as_many_pass_as_are_allowed_and_no_more(login: Acting) -> None:
    asks = [3, 3, 3, 3]
    answers = [admit(login, Group(wanted=wanted, address="::1", limit=10))[0] for wanted in asks]
    assert [answer.granted for answer in answers] == [3, 3, 3, 1]
    assert [answer.remaining for answer in answers] == [7, 4, 1, 0]
    assert {answer.rate_limit for answer in answers} == {10}
    assert admit(login, Group(address="::1", limit=10))[0][:1] == (0,)


def test_a_group_larger_than_the_limit_gets_what_there_is(login: Acting) -> None:
    assert admit(login, Group(wanted=50, address="::1", limit=10))[0].granted == 10


def test_subjects_and_buckets_are_counted_apart(login: Acting, token: Acting, agent: Acting) -> None:
    groups = [
        Group(address="::1", limit=1),
        Group(address="::2", limit=1),
        Group(address="::1", limit=1, bucket="others"),
        of(token.actor, limit=1),
        of(agent.actor, limit=1),
    ]
    assert [admission.granted for admission in admit(login, *groups)] == [1, 1, 1, 1, 1]
    assert [admission.granted for admission in admit(login, *groups)] == [0, 0, 0, 0, 0]


def test_answers_come_in_the_order_of_the_questions(login: Acting) -> None:
    order = list(range(20))
    random.shuffle(order)
    admissions = admit(login, *[Group(address=f"::{n}", limit=100 + n) for n in order])
    assert [admission.rate_limit for admission in admissions] == [100 + n for n in order]


def test_the_same_credential_twice_in_a_batch_is_counted_twice(login: Acting) -> None:
    group = Group(wanted=6, address="::1", limit=10)
    assert [admission.granted for admission in admit(login, group, group)] == [6, 4]


def test_a_token_has_its_own_limit_unless_another_is_given(
    login: Acting, token: Acting, owner: Acting
) -> None:
    owner.rows("update public.integration_tokens set rate_limit = 2 where id = %s", [token.token_id])
    owner.rows("delete from private.rate_windows")
    assert admit(login, of(token.actor, wanted=5))[0].granted == 2
    assert admit(login, of(token.actor, wanted=5, limit=4))[0].granted == 2


def test_a_person_without_a_limit_is_not_counted(login: Acting, agent: Acting, owner: Acting) -> None:
    owner.rows("delete from private.rate_windows")
    admission = admit(login, of(agent.actor, wanted=10_000))[0]
    assert (admission.granted, admission.rate_limit, admission.remaining) == (10_000, None, None)
    assert owner.rows(USED) == []


def test_a_limit_that_was_lowered_below_what_is_used_lets_nothing_through(login: Acting) -> None:
    admit(login, Group(wanted=8, address="::1", limit=10))
    admission = admit(login, Group(address="::1", limit=5))[0]
    assert (admission.granted, admission.remaining) == (0, 0)
    assert admit(login, Group(address="::1", limit=10))[0].remaining == 1


def test_a_refused_credential_is_not_counted(login: Acting, owner: Acting, north: Organization) -> None:
    owner.rows("delete from private.rate_windows")
    admit(login, of(north.actors["deactivated"], limit=5), Group(secret="stk_wrong", limit=5))
    assert owner.rows(USED) == []


# Windows


@pytest.mark.parametrize("seconds", [60, 3600, 86400])
def test_a_window_ends_when_the_clock_says_so(seconds: int, login: Acting, owner: Acting) -> None:
    resets_at = admit(login, Group(address="::1", limit=1, window_seconds=seconds))[0].resets_at
    now = owner.value("select extract(epoch from now())::float8")
    assert resets_at is not None
    assert resets_at % seconds == 0
    assert 0 < resets_at - now <= seconds
    assert admit(login, Group(address="::1", limit=1, window_seconds=seconds))[0].resets_at == resets_at


def test_a_new_window_begins_with_nothing_used(login: Acting, owner: Acting) -> None:
    group = Group(wanted=3, address="::1", limit=3)
    assert admit(login, group)[0].granted == 3
    owner.rows(
        "update private.rate_windows set window_start = window_start - %s * interval '1 second'", [LONG]
    )
    assert admit(login, Group(wanted=2, address="::1", limit=3))[0][0::4] == (2, 1)


def test_who_waited_over_the_turn_counts_in_the_window_that_is_there(login: Acting, owner: Acting) -> None:
    """Its own clock stands in the window before, since now() is the beginning of a transaction."""
    admit(login, Group(wanted=3, address="::1", limit=5))
    owner.rows(
        "update private.rate_windows set window_start = window_start + %s * interval '1 second'", [LONG]
    )
    admission = admit(login, Group(wanted=9, address="::1", limit=5))[0]
    assert (admission.granted, admission.remaining) == (2, 0)
    assert admit(login, Group(address="::1", limit=5))[0].granted == 0


def test_a_window_turns_by_itself(database: str, connect: Callable[[], Connection]) -> None:
    connection = connect()
    group = Group(wanted=5, address="::1", limit=5, window_seconds=1)

    def next_window() -> Admission | None:
        admission = admit(connection, group)[0]
        return admission if admission.granted else None

    windows = [wait_until(next_window, 5).resets_at for _ in range(3)]
    assert len(set(windows)) == 3
    assert windows == sorted(windows)


# Two keys


def test_the_tighter_of_two_limits_holds_and_is_shown(
    login: Acting, agent: Acting, admin: Acting, owner: Acting
) -> None:
    owner.rows("delete from private.rate_windows")
    admission = admit(login, of(agent.actor, wanted=4, limit=10, organization_limit=5))[0]
    assert (admission.granted, admission.rate_limit, admission.remaining) == (4, 5, 1)
    admission = admit(login, of(admin.actor, wanted=2, limit=2, organization_limit=9))[0]
    assert (admission.granted, admission.rate_limit, admission.remaining) == (2, 2, 0)


@pytest.mark.parametrize("name", ["agent", "token"])
def test_what_the_organization_refuses_is_given_back_to_the_one_who_asked(
    name: str, login: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows("delete from private.rate_windows")
    actor = north.actors[name]
    admission = admit(login, of(actor, wanted=8, limit=10, organization_limit=5))[0]
    assert (admission.granted, admission.remaining) == (5, 0)
    subject = f"token:{actor.token_id}" if actor.token_id else f"user:{actor.claims['sub']}"
    assert used_by(owner) == {subject: 5, f"organization:{north.id}": 5}
    assert admit(login, of(actor, wanted=8, limit=10, organization_limit=5))[0].granted == 0
    assert used_by(owner)[subject] == 5


def test_who_is_not_counted_gives_nothing_back(
    login: Acting, agent: Acting, owner: Acting, north: Organization
) -> None:
    owner.rows("delete from private.rate_windows")
    admit(login, of(agent.actor, wanted=3, limit=10))
    assert admit(login, of(agent.actor, wanted=8, organization_limit=5))[0].granted == 5
    assert used_by(owner)[f"user:{agent.actor.claims['sub']}"] == 3


def test_two_organizations_do_not_share_a_limit(login: Acting, agent: Acting, stranger: Acting) -> None:
    limits = {"wanted": 5, "limit": 10, "organization_limit": 5}
    assert granted(admit(login, of(agent.actor, **limits), of(stranger.actor, **limits))) == 10


def test_a_visitor_has_no_organization_to_be_limited_by(login: Acting) -> None:
    assert admit(login, Group(wanted=5, address="::1", limit=9, organization_limit=1))[0].granted == 5


# Any sequence


ASKS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["agent", "admin", "token"]),
            st.sampled_from(["one", "two"]),
            st.integers(1, 6),
            st.sampled_from([None, 4, 9]),
            st.sampled_from([None, 7]),
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=ASKS)
def test_no_sequence_of_batches_lets_too_many_or_too_few_through(
    batches: list[list[tuple[str, str, int, int | None, int | None]]],
    stage: Stage,
    login: Acting,
    owner: Acting,
    north: Organization,
) -> None:
    with stage.undone():
        owner.rows("delete from private.rate_windows")
        used: Counter[tuple[str, str]] = Counter()
        highest: Counter[tuple[str, str]] = Counter()
        for batch in batches:
            groups = [
                of(north.actors[name], bucket=bucket, wanted=wanted, limit=limit, organization_limit=shared)
                for name, bucket, wanted, limit, shared in batch
            ]
            for asked, admission in zip(batch, admit(login, *groups), strict=True):
                name, bucket, wanted, limit, shared = asked
                assert 0 <= admission.granted <= wanted
                own = 1000 if limit is None and name == "token" else limit
                for who, allowed in ((name, own), ("organization", shared)):
                    if allowed is not None:
                        used[bucket, who] += admission.granted
                        highest[bucket, who] = max(highest[bucket, who], allowed)
        assert all(count <= highest[key] for key, count in used.items())
        names = {f"user:{north.actors[name].claims['sub']}": name for name in ("agent", "admin")}
        names |= {f"token:{north['token']}": "token", f"organization:{north.id}": "organization"}
        counted = owner.rows("select bucket, subject, used from private.rate_windows")
        assert +Counter({(bucket, names[who]): count for bucket, who, count in counted}) == +used


# Many at once


def test_exactly_as_many_pass_as_are_allowed_however_many_ask_at_once(
    own_world: World, connect: Callable[[], Connection]
) -> None:
    token = own_world.north.actors["token"]
    answers: list[Admission] = []

    def ask(connection: Connection, seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def task() -> None:
            for _ in range(40):
                answers.extend(admit(connection, of(token, wanted=chance.randint(1, 5), limit=500)))

        return task

    run_at_once(*[ask(connect(), seed) for seed in range(12)])
    assert granted(answers) == 500
    remaining = [answer.remaining for answer in answers if answer.granted]
    assert len(set(remaining)) == len(remaining), "each grant saw a state of its own"
    assert min(remaining, key=lambda count: count or 0) == 0


def test_batches_that_meet_never_wait_in_a_circle(
    own_world: World, connect: Callable[[], Connection]
) -> None:
    people = [
        *[organization.actors[name] for organization in (own_world.north, own_world.south)
          for name in ("agent", "admin", "customer", "token", "other_token")],
    ]  # fmt: skip
    answers: list[Admission] = []

    def ask(connection: Connection, seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def task() -> None:
            for _ in range(40):
                groups = [
                    of(actor, bucket=bucket, limit=300, organization_limit=900)
                    for actor in people
                    for bucket in ("one", "two")
                ]
                chance.shuffle(groups)
                answers.extend(admit(connection, *groups))

        return task

    run_at_once(*[ask(connect(), seed) for seed in range(6)])
    # Each of ten asked 240 times in two buckets; an organization's five got 900 of 1200 in each.
    assert granted(answers) == 2 * 2 * 900
