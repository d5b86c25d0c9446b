"""Second factors: added, proved, taken away; and what a session that still owes one may not do."""

from typing import Any

from tests.actors import Acting
from tests.sql.auth import Office
from tests.sql.gate import admit, of

NOBODY = "00000000-0000-4000-8000-000000000000"
BAN = "update auth.users set banned_until = 'infinity' where lower(email) = lower(%s)"


def test_an_app_counts_once_it_has_shown_a_code(office: Office) -> None:
    account = office.account()
    factor = office.enroll(account, "phone")
    assert office.call("get_user", claims=account.claims)["factors"][0]["status"] == "unverified"
    begun = office.call(
        "begin_verify_factor",
        claims=account.claims,
        factor_id=factor,
        challenge_id=office.challenge(account, factor),
    )
    assert begun["secret"].startswith("secret-")
    assert begun["wait_seconds"] is None
    answer = office.prove(account, factor, 100)
    assert answer["session_claims"]["aal"] == "aal2"
    assert {each["method"] for each in answer["session_claims"]["amr"]} == {"otp", "totp"}
    assert answer["person"]["factors"][0]["status"] == "verified"
    assert answer["session_claims"]["session_id"] == account.session_id


def test_a_proved_session_has_a_new_refresh_token_and_the_old_one_is_void(office: Office) -> None:
    account = office.account()
    factor = office.enroll(account)
    answer = office.prove(account, factor, 100)
    assert answer["refusal"] is None
    assert office.refresh(account.refresh_token)["refusal"] == "refresh_token_already_used"
    assert office.sessions(account.id) == set(), "and whoever comes with it has stolen it"


def test_a_session_stays_proved_when_it_is_refreshed(office: Office) -> None:
    account = office.account()
    office.with_factor(account)
    (token,) = office.owner.values(
        "select token from auth.refresh_tokens where session_id = %s::uuid and not revoked",
        [account.session_id],
    )
    assert office.refresh(token)["claims"]["aal"] == "aal2"


def test_a_code_is_never_taken_twice_nor_an_older_one_after_it(office: Office) -> None:
    account = office.account()
    factor = office.with_factor(account, step=100)
    for step in (100, 99):
        assert office.prove(account, factor, step)["refusal"] == "mfa_verification_failed"
    assert office.prove(account, factor, 101)["refusal"] is None
    other = office.account()
    assert office.prove(other, office.enroll(other), 100)["refusal"] is None, "others have codes of their own"


def test_a_challenge_is_answered_once_within_five_minutes_and_by_its_own_factor(
    office: Office, owner: Acting
) -> None:
    account = office.account()
    factor = office.with_factor(account, step=1)
    used, old, other = (office.challenge(account, factor) for _ in range(3))
    assert office.prove(account, factor, 2, used)["refusal"] is None
    assert office.prove(account, factor, 3, used)["refusal"] == "mfa_challenge_expired"
    owner.rows(
        "update auth.mfa_challenges set created_at = now() - interval '5 minutes' where id = %s::uuid", [old]
    )
    assert office.prove(account, factor, 4, old)["refusal"] == "mfa_challenge_expired"
    second = office.enroll(account, "second")
    assert office.prove(account, second, 5, other)["refusal"] == "mfa_challenge_expired"
    for challenge in (used, old, NOBODY):
        office.refused(
            "PT422",
            "mfa_challenge_expired",
            "begin_verify_factor",
            claims=account.claims,
            factor_id=factor,
            challenge_id=challenge,
        )


def test_wrong_codes_lock_the_factor(office: Office) -> None:
    account = office.account()
    factor = office.with_factor(account, step=1)
    for _ in range(5):
        assert office.prove(account, factor, None)["refusal"] == "mfa_verification_failed"
    assert office.prove(account, factor, 2)["refusal"] == "over_request_rate_limit"
    begun = office.call(
        "begin_verify_factor",
        claims=account.claims,
        factor_id=factor,
        challenge_id=office.challenge(account, factor),
    )
    assert begun["wait_seconds"] == 30
    office.owner.rows("update auth.failed_attempts set locked_until = now()")
    assert office.prove(account, factor, 2)["refusal"] is None
    assert office.owner.rows("select from auth.failed_attempts") == []


def test_proving_a_factor_ends_the_other_sessions_that_have_not(office: Office, login: Acting) -> None:
    account = office.account("ann@example.com")
    proved = office.logged_in("ann@example.com")
    factor = office.with_factor(proved, step=1)
    unproved = office.logged_in("ann@example.com")
    assert admit(login, of(account.actor))[0].failure == "session_ended"
    assert office.prove(unproved, factor, 2)["refusal"] is None
    assert office.sessions(account.id) == {proved.session_id, unproved.session_id}


def test_other_apps_that_were_never_proved_are_dropped(office: Office) -> None:
    account = office.account()
    forgotten = office.enroll(account, "forgotten")
    factor = office.enroll(account, "phone")
    office.prove(account, factor, 1)
    (left,) = office.call("get_user", claims=account.claims)["factors"]
    assert left["id"] == factor
    office.refused(
        "PT404",
        "mfa_factor_not_found",
        "challenge_factor",
        claims=account.claims,
        factor_id=forgotten,
        address="::1",
    )


def test_a_name_of_a_factor_is_there_once(office: Office) -> None:
    account = office.account()
    office.enroll(account, "phone")
    office.enroll(account)
    office.enroll(account)
    office.refused(
        "PT422", "mfa_factor_name_conflict", "enroll_factor", claims=account.claims, friendly_name="phone"
    )
    office.enroll(office.account(), "phone")


def test_nobody_has_more_than_ten_factors(office: Office, owner: Acting) -> None:
    account = office.account()
    for number in range(10):
        office.enroll(account, f"app {number}")
    arguments = {"claims": account.claims, "friendly_name": "one more", "secret": "x"}
    office.refused("PT422", "too_many_enrolled_mfa_factors", "enroll_factor", **arguments)
    owner.rows("update auth.mfa_factors set created_at = now() - interval '2 days'")
    assert office.enroll(account, "one more"), "those that nobody finished are dropped after a day"


def test_a_session_without_the_factor_changes_nothing_that_matters(office: Office) -> None:
    factor = office.with_factor(office.account("ann@example.com"))
    account = office.logged_in("ann@example.com")
    assert account.claims["aal"] == "aal1"
    assert set(account.claims["app_metadata"]) == {"provider", "providers"}, "it says who, and grants nothing"
    claims = account.claims
    for change in ({"password_hash": "x"}, {"email": "new@example.com"}):
        for autoconfirm in (True, False):
            office.refused(
                "PT401", "insufficient_aal", "update_user", claims=claims, autoconfirm=autoconfirm, **change
            )
    office.refused("PT403", "insufficient_aal", "enroll_factor", claims=claims, friendly_name="mine")
    office.refused("PT422", "insufficient_aal", "unenroll_factor", claims=claims, factor_id=factor)
    assert office.call("get_user", claims=claims)["factors"][0]["id"] == factor
    assert office.refresh(account.refresh_token)["claims"]["aal"] == "aal1"
    office.call("log_out", claims=claims, scope="local")


def test_a_proved_session_changes_password_address_and_factors(office: Office) -> None:
    account = office.account("ann@example.com")
    office.with_factor(account)
    office.update(account, password_hash="new", email="new@example.com")
    second = office.enroll(account, "second")
    office.call("unenroll_factor", claims=account.claims, factor_id=second)


def test_dropping_the_factor_makes_sessions_what_they_were(office: Office, login: Acting) -> None:
    account = office.account("ann@example.com")
    factor = office.with_factor(account)
    owing = office.logged_in("ann@example.com")
    assert admit(login, of(owing.actor))[0].failure == "second_factor_required"
    office.call("unenroll_factor", claims=account.claims, factor_id=factor)
    aal = "select distinct aal::text from auth.sessions where user_id = %s::uuid"
    assert office.owner.values(aal, [account.id]) == ["aal1"]
    for each in (account, owing):
        assert admit(login, of(each.actor))[0].failure is None
    assert office.refresh(owing.refresh_token)["claims"]["app_metadata"]["role"] == "admin"


def test_one_of_two_factors_is_still_owed_when_the_other_is_dropped(office: Office, login: Acting) -> None:
    account = office.account()
    first = office.with_factor(account)
    second = office.enroll(account, "second")
    assert office.prove(account, second, 1)["refusal"] is None
    office.call("unenroll_factor", claims=account.claims, factor_id=second)
    assert admit(login, of(account.actor))[0].failure == "second_factor_required"
    assert office.prove(account, first, 2)["refusal"] is None
    assert admit(login, of(account.actor))[0].failure is None


def test_nobody_touches_a_factor_of_somebody_else_s(office: Office) -> None:
    account, thief = office.account(), office.account()
    factor = office.with_factor(account)
    challenge = office.challenge(account, factor)
    attempts: dict[str, dict[str, Any]] = {
        "challenge_factor": {"address": "::1"},
        "unenroll_factor": {},
        "begin_verify_factor": {"challenge_id": challenge},
        "finish_verify_factor": {"challenge_id": challenge, "step": 9, "refresh_hash": "x"},
    }
    for function, arguments in attempts.items():
        office.refused(
            "PT404", "mfa_factor_not_found", function, claims=thief.claims, factor_id=factor, **arguments
        )
