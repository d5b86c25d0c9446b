"""The auth service's SQL: signing up, logging in and out, one's own account.

What time does is done by moving the stored moments, for a test is one transaction and its clock stands still.
Links, second factors, what admins do, refresh tokens and what several do at once have files of their own.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.actors import AUTH_ADMIN, Acting, Organization, Stage
from tests.sql.auth import ADDRESS, PASSWORD, VISITOR, Account, Office
from tests.sql.gate import admit, of

NOBODY = "00000000-0000-4000-8000-000000000000"
BAN = "update auth.users set banned_until = 'infinity' where lower(email) = lower(%s)"


# Who may call


def functions(owner: Acting, *, is_definer: bool) -> list[str]:
    return owner.values(
        """
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = 'auth_service'::regnamespace and p.prosecdef = %s
        """,
        [is_definer],
    )


def test_the_service_s_login_calls_the_entries_and_nothing_behind_them(owner: Acting) -> None:
    may = "select has_function_privilege('authenticator', %s, 'execute')"
    entries, helpers = functions(owner, is_definer=True), functions(owner, is_definer=False)
    assert len(entries) > 25
    assert len(helpers) > 10
    assert [each for each in entries if not owner.value(may, [each])] == ["auth_service.maintain()"]
    assert [each for each in helpers if owner.value(may, [each])] == []


def test_no_client_reaches_the_auth_service_or_its_tables(
    visitor: Acting, customer: Acting, admin: Acting, token: Acting, service: Acting
) -> None:
    for acting in (visitor, customer, admin, token, service):
        acting.refused("42501", "select auth_service.admin_list(1, 10)")
        for table in ("users", "sessions", "refresh_tokens", "one_time_tokens", "mfa_factors", "identities"):
            acting.refused("42501", f"select from auth.{table}")


def test_the_service_s_login_reads_no_table_of_accounts(login: Acting, owner: Acting) -> None:
    tables = owner.values("select tablename from pg_tables where schemaname = 'auth'")
    assert len(tables) >= 10
    for table in tables:
        login.refused("42501", f"select from auth.{table}")


# Signing up


def test_a_stranger_who_signs_up_is_mailed_a_link_and_is_not_logged_in(office: Office) -> None:
    answer = office.sign_up("Ann@Example.com", data={"name": "Ann"})
    assert (answer["claims"], answer["refusal"]) == (None, None)
    assert answer["person"]["email"] == "ann@example.com"
    assert answer["person"]["user_metadata"] == {"name": "Ann"}
    assert office.mails("ann@example.com") == ["signup"]
    user = office.user("ann@example.com")
    assert (user["encrypted_password"], user["email_confirmed_at"]) == (PASSWORD, None)
    assert office.sessions(user["id"]) == set()


def test_whoever_follows_the_link_is_confirmed_and_logged_in(office: Office) -> None:
    account = office.account("ann@example.com", data={"name": "Ann"})
    user = office.user("ann@example.com")
    assert user["email_confirmed_at"]
    assert office.sessions(account.id) == {account.session_id}
    assert account.claims["app_metadata"]["role"] == "admin"
    assert account.actor.claims["amr"][0]["method"] == "otp"


def known_addresses(office: Office) -> dict[str, str]:
    """Return addresses that an account has, in every state, and one that none has."""
    office.account("confirmed@example.com")
    office.sign_up("waiting@example.com")
    office.call("admin_invite", email="invited@example.com")
    office.call("admin_create", attributes={"email": "made@example.com"}, password_hash="theirs")
    return {
        "nobody": "nobody@example.com",
        "confirmed": "confirmed@example.com",
        "waiting": "waiting@example.com",
        "invited": "invited@example.com",
        "made": "made@example.com",
    }


def test_a_sign_up_is_answered_alike_whether_the_address_has_an_account_or_not(office: Office) -> None:
    shapes = set()
    for email in known_addresses(office).values():
        data = {"name": "Mallory"}
        first, second = office.sign_up(email, data=data), office.sign_up(email, data=data)
        assert first == second, "even the id is the same each time"
        assert (first["claims"], first["refusal"]) == (None, None)
        assert first["person"]["identities"] == []
        assert first["person"]["user_metadata"] == data
        shapes.add(tuple(sorted((key, type(value).__name__) for key, value in first["person"].items())))
    assert len(shapes) == 1


@pytest.mark.parametrize("organization", [NOBODY, "not an id", 7, {"a": 1}])
def test_an_unknown_organization_is_refused_alike_for_every_address(
    organization: Any, office: Office
) -> None:
    asked = {"data": {"organization_id": organization}, "refresh_hash": "r"}
    by_link = {"new_user_metadata": {"organization_id": organization}}
    sentences = set()
    for email in known_addresses(office).values():
        for function, arguments in (("sign_up", asked), ("request_mail", {"kind": "magiclink", **by_link})):
            refusal = office.refused("PT400", "validation_failed", function, email=email, **arguments)
            sentences.add(refusal.detail)
    assert len(sentences) == 1
    assert office.user("nobody@example.com") == {}


def test_the_owner_of_an_address_is_told_what_somebody_tried_with_it(office: Office) -> None:
    expected = {
        "nobody": ["signup"],
        "confirmed": ["account_exists"],
        "waiting": ["signup"],
        "invited": ["invite"],
        "made": ["signup"],
    }
    for state, email in known_addresses(office).items():
        before = office.mails(email)
        office.sign_up(email)
        assert office.mails(email)[len(before) :] == expected[state], state


def test_a_sign_up_chooses_no_password_for_an_account_of_somebody_else(office: Office) -> None:
    addresses = known_addresses(office)
    for email in addresses.values():
        office.sign_up(email, password_hash="Mallory's")
    passwords = {state: office.user(email)["encrypted_password"] for state, email in addresses.items()}
    assert passwords.pop("confirmed") == PASSWORD
    assert passwords.pop("invited") == "", "it is chosen by whoever follows the link"
    # Until somebody has proved to read the mail of an address, the last word counts.
    assert passwords == {"nobody": "Mallory's", "waiting": "Mallory's", "made": "Mallory's"}


def test_a_sign_up_chooses_no_password_for_an_account_that_the_server_gave_a_role(
    office: Office, north: Organization
) -> None:
    attributes = {"email": "agent@x.example", "app_metadata": {"organization_id": north.id, "role": "agent"}}
    office.call("admin_create", attributes=attributes, password_hash="theirs")
    office.sign_up("agent@x.example", password_hash="Mallory's", data={"name": "Mallory"})
    user = office.user("agent@x.example")
    assert (user["encrypted_password"], user["raw_user_meta_data"]) == ("theirs", {})


MEMBERSHIPS = "select organization_id, role::text, name from public.members where user_id = %s::uuid"


def test_a_sign_up_that_nobody_confirmed_is_begun_anew_with_its_organization(
    office: Office, owner: Acting, north: Organization, south: Organization
) -> None:
    organizations = "select count(*) from public.organizations"
    before = owner.value(organizations)
    attempts: list[tuple[dict[str, Any], int, tuple[str | None, str]]] = [
        ({"name": "Mallory", "organization_id": south.id}, 0, (south.id, "customer")),
        ({"name": "Mallory", "organization": "Mallory's"}, 1, (None, "admin")),
        ({"name": "Ann", "organization_id": north.id}, 0, (north.id, "customer")),
    ]
    for data, founded, (organization, role) in attempts:
        user = office.sign_up("ann@example.com", data=data)["person"]["id"]
        ((member_of, *rest),) = owner.rows(MEMBERSHIPS, [user])
        assert rest == [role, data["name"]]
        assert organization in (None, member_of)
        assert owner.value(organizations) == before + founded, "what was founded in vain is gone"
    account = Account.of(office.follow("signup", office.link("ann@example.com", "signup")))
    assert account.claims["app_metadata"]["organization_id"] == north.id


def test_an_organization_with_somebody_else_in_it_outlives_the_sign_up_that_founded_it(
    office: Office, owner: Acting
) -> None:
    user = office.sign_up("ann@example.com")["person"]["id"]
    ((organization, *_),) = owner.rows(MEMBERSHIPS, [user])
    office.account("bob@example.com", data={"organization_id": organization})
    office.sign_up("ann@example.com")
    assert owner.rows("select from public.organizations where id = %s", [organization]) == [()]
    assert owner.values("select email from public.members where organization_id = %s", [organization]) == [
        "bob@example.com"
    ]


def test_nobody_undoes_an_account_that_is_in_use(office: Office, owner: Acting, stage: Stage) -> None:
    account = office.account()
    forget = "select private.forget_memberships(%s::uuid)"
    Acting(AUTH_ADMIN, stage).refused("PT403", forget, [account.id], word="forbidden")
    assert len(owner.rows(MEMBERSHIPS, [account.id])) == 1


def test_only_the_last_link_of_a_sign_up_works(office: Office) -> None:
    office.sign_up("ann@example.com")
    first = office.link("ann@example.com", "signup")
    office.sign_up("ann@example.com")
    second = office.link("ann@example.com", "signup")
    assert office.follow("signup", first)["refusal"] == "otp_expired"
    assert office.follow("signup", second)["claims"]


def test_where_accounts_confirm_themselves_a_sign_up_is_logged_in_at_once(office: Office) -> None:
    answer = office.sign_up("ann@example.com", autoconfirm=True, data={"name": "Ann"})
    assert answer["claims"]["email"] == "ann@example.com"
    assert answer["claims"]["app_metadata"]["role"] == "admin"
    assert answer["person"]["email_confirmed_at"]
    assert office.mails("ann@example.com") == []
    office.refused(
        "PT422", "user_already_exists", "sign_up", email="ANN@example.com", autoconfirm=True, refresh_hash="x"
    )


def test_an_address_is_sent_twelve_mails_an_hour_whoever_asks_and_whether_it_is_known(office: Office) -> None:
    office.account("known@example.com")
    office.owner.rows("delete from private.rate_windows")
    for email in ("known@example.com", "UNKNOWN@example.com"):
        for _ in range(6):
            office.sign_up(email)
            office.call("request_mail", kind="recovery", email=email.upper(), mail={})
        for kind in ("recovery", "magiclink"):
            office.refused("PT429", "over_email_send_rate_limit", "request_mail", kind=kind, email=email)


def test_metadata_that_would_not_fit_into_a_token_is_refused(office: Office) -> None:
    account = office.account()
    for big in ({"name": "x" * 8200}, {"name": "ä" * 1400}):
        office.refused("PT400", "validation_failed", "update_user", claims=account.claims, data=big)
    office.update(account, data={"name": "x" * 8000})


# Logging in


def test_a_member_logs_in_and_the_token_says_who_they_are(office: Office) -> None:
    account = office.account("ann@example.com", data={"name": "Ann"})
    answer = office.log_in("ANN@example.com")
    claims = answer["claims"]
    assert answer["refusal"] is None
    assert claims.keys() == {
        *("sub", "aud", "role", "email", "phone", "app_metadata", "user_metadata"),
        *("aal", "amr", "session_id", "is_anonymous"),
    }
    assert (claims["sub"], claims["aud"], claims["role"]) == (account.id, "authenticated", "authenticated")
    assert (claims["aal"], claims["amr"][0]["method"]) == ("aal1", "password")
    assert claims["user_metadata"] == {"name": "Ann"}
    member = office.owner.row(
        "select organization_id, id, role::text from public.members where user_id = %s::uuid", [account.id]
    )
    app_metadata = claims["app_metadata"]
    assert tuple(app_metadata[key] for key in ("organization_id", "member_id", "role")) == member
    assert app_metadata["provider"] == "email"
    assert answer["person"]["last_sign_in_at"]
    assert answer["person"]["identities"][0]["email"] == "ann@example.com"
    session = "select host(ip), user_agent, aal::text from auth.sessions where id = %s::uuid"
    assert office.owner.row(session, [claims["session_id"]]) == ("203.0.113.7", "tests", "aal1")


def test_an_unknown_address_and_a_wrong_password_are_refused_alike(office: Office) -> None:
    office.account("ann@example.com")
    office.call("admin_create", attributes={"email": "bare@example.com"})
    answers = [
        office.log_in(email, matches=False)
        for email in ("ann@example.com", "nobody@example.com", "bare@example.com")
    ]
    assert answers[0]["refusal"] == "invalid_credentials"
    assert answers == [answers[0]] * 3


@pytest.mark.parametrize("stored", [None, ""])
def test_an_account_without_a_password_matches_none(stored: str | None, office: Office) -> None:
    attributes = {"email": "bare@example.com", "email_confirm": True}
    user = office.call("admin_create", attributes=attributes)["id"]
    office.owner.rows("update auth.users set encrypted_password = %s where id = %s::uuid", [stored, user])
    assert office.call("begin_login", email="bare@example.com", address="::1")["stored"] is None
    proof = {"user_id": user, "stored": stored, "refresh_hash": "r"}
    answer = office.call("finish_login", email="bare@example.com", **proof)
    assert answer["refusal"] == "invalid_credentials"


@pytest.mark.parametrize("matches", [False, None])
def test_a_password_matches_only_if_it_is_said_to(matches: bool | None, office: Office) -> None:
    office.account("ann@example.com")
    assert office.log_in("ann@example.com", matches=matches)["refusal"] == "invalid_credentials"


@pytest.mark.parametrize(("matches", "refusal"), [(True, "hash_changed"), (False, "invalid_credentials")])
def test_a_password_whose_hash_was_changed_while_it_was_compared_opens_nothing(
    matches: bool, refusal: str, office: Office
) -> None:
    """It may be a better hash of the same one, so the right password is compared again, and is no guess."""
    office.account("ann@example.com")
    begun = office.call("begin_login", email="ann@example.com", address="::1")
    office.owner.rows("update auth.users set encrypted_password = 'new' where email = 'ann@example.com'")
    answer = office.call(
        "finish_login",
        email="ann@example.com",
        address="::1",
        user_id=begun["user_id"],
        matches=matches,
        stored=begun["stored"],
        refresh_hash="x",
    )
    assert (answer["refusal"], answer["claims"]) == (refusal, None)
    counted = office.owner.rows("select from auth.failed_attempts where subject like 'account:%'")
    assert len(counted) == (0 if matches else 1)


def test_whoever_may_not_come_in_is_told_so_only_with_the_right_password(
    office: Office, owner: Acting
) -> None:
    office.sign_up("waiting@example.com")
    office.account("banned@example.com")
    owner.rows(BAN, ["banned@example.com"])
    out = office.account("deactivated@example.com")
    owner.rows("update public.members set is_active = false where user_id = %s::uuid", [out.id])
    closed = office.account("closed@example.com")
    owner.rows(
        "update public.organizations set deleted_at = now() where id = %s",
        [closed.claims["app_metadata"]["organization_id"]],
    )
    refusals = {
        "waiting@example.com": "email_not_confirmed",
        "banned@example.com": "user_banned",
        "deactivated@example.com": "user_banned",
        "closed@example.com": "user_banned",
    }
    for email, refusal in refusals.items():
        assert office.log_in(email, matches=False)["refusal"] == "invalid_credentials"
        answer = office.log_in(email)
        assert (answer["refusal"], answer["claims"]) == (refusal, None)
    assert len(office.sessions(out.id)) == 1, "no session is left of a log-in that was refused"


def test_a_stronger_hash_takes_the_place_of_a_weaker_one(office: Office) -> None:
    office.account("ann@example.com")
    office.log_in("ann@example.com", matches=False, rehashed="wrong")
    assert office.user("ann@example.com")["encrypted_password"] == PASSWORD
    office.log_in("ann@example.com", rehashed="stronger")
    assert office.user("ann@example.com")["encrypted_password"] == "stronger"


# Guessing


@pytest.mark.parametrize("email", ["ann@example.com", "nobody@example.com"])
def test_the_fifth_wrong_guess_locks_an_account_and_each_one_after_it_for_longer(
    email: str, office: Office
) -> None:
    office.account("ann@example.com")
    assert office.guess_wrong(email, 12) == [None] * 4 + [30, 60, 120, 240, 480, 900, 900, 900]


def test_a_locked_account_is_closed_to_the_right_password_too(office: Office) -> None:
    office.account("ann@example.com")
    office.guess_wrong("ann@example.com", 4)
    office.log_in("ann@example.com", matches=False)
    begun = office.call("begin_login", email="Ann@example.com", address="192.0.2.1")
    assert begun == {"user_id": None, "stored": None, "wait_seconds": 30, "allowed": 5}
    answer = office.call(
        "finish_login",
        email="ann@example.com",
        address="192.0.2.1",
        user_id=office.user("ann@example.com")["id"],
        matches=True,
        stored=PASSWORD,
        rehashed=None,
        refresh_hash="x",
        visitor=VISITOR,
    )
    assert (answer["refusal"], answer["wait_seconds"], answer["claims"]) == (
        "over_request_rate_limit",
        30,
        None,
    )
    assert office.call("begin_login", email="bob@example.com", address="192.0.2.1")["wait_seconds"] is None


FAILURES = "select failures from auth.failed_attempts where subject = 'address:198.51.100.1'"


def test_the_right_password_makes_up_for_wrong_ones_of_the_account_at_its_address_too(office: Office) -> None:
    office.account("ann@example.com")
    office.guess_wrong("ann@example.com", 4)
    office.guess_wrong("bob@example.com", 3)
    assert office.owner.value(FAILURES) == 7
    assert office.log_in("ann@example.com", address="198.51.100.1")["claims"]
    assert office.owner.value(FAILURES) == 3, "whoever guesses at others is not made better by it"
    assert office.guess_wrong("ann@example.com", 4) == [None] * 4
    assert office.log_in("ann@example.com", address="198.51.100.1")["claims"]
    assert office.log_in("ann@example.com", address="198.51.100.1")["claims"]
    assert office.owner.value(FAILURES) == 3


def test_an_hour_without_a_wrong_guess_forgets_those_before(office: Office) -> None:
    age = "update auth.failed_attempts set last_failed_at = now() - %s::interval"
    office.guess_wrong("ann@example.com", 6)
    office.owner.rows(age, ["59 minutes"])
    assert office.guess_wrong("ann@example.com") == [120]
    office.owner.rows(age, ["61 minutes"])
    assert office.guess_wrong("ann@example.com", 5) == [None] * 4 + [30]


def test_the_fiftieth_wrong_guess_locks_an_address_for_every_account(office: Office) -> None:
    office.account("ann@example.com")
    for number in range(50):
        assert office.log_in("ann@example.com")["refusal"] is None, number
        office.log_in(f"guess-{number}@example.com", matches=False)
    locked = office.call("begin_login", email="ann@example.com", address=ADDRESS)
    assert locked == {"user_id": None, "stored": None, "wait_seconds": 60, "allowed": 50}
    assert office.log_in("ann@example.com", address="192.0.2.9")["claims"]


def passed(office: Office, time: str) -> None:
    """Let time pass for whoever guessed."""
    office.owner.rows(
        "update auth.failed_attempts set last_failed_at = last_failed_at - %s::interval,"
        " locked_until = locked_until - %s::interval",
        [time, time],
    )


def guesses(office: Office, address: str = ADDRESS) -> int:
    """Guess at one account after the other until the address is locked; return how many guesses counted."""
    for count in range(100):
        if office.log_in(f"{office.word('victim')}@example.com", address=address, matches=False)[
            "refusal"
        ] != ("invalid_credentials"):
            return count
    raise AssertionError("never locked")


def test_an_address_is_locked_for_a_minute_and_never_for_longer(office: Office) -> None:
    assert guesses(office) == 50
    for _ in range(5):
        assert office.call("begin_login", email="x@example.com", address=ADDRESS)["wait_seconds"] == 60
        passed(office, "59 seconds")
        assert office.call("begin_login", email="x@example.com", address=ADDRESS)["wait_seconds"] == 1
        passed(office, "1 second")
        assert guesses(office) == 10, "as many as a minute forgives"


def test_whoever_guesses_at_many_accounts_gets_no_more_than_ten_a_minute(office: Office) -> None:
    counted = guesses(office)
    for _ in range(120):
        passed(office, "30 seconds")
        begun = office.call("begin_login", email="x@example.com", address=ADDRESS)
        counted += guesses(office) if begun["wait_seconds"] is None else 0
    assert 600 <= counted <= 50 + 60 * 10


def test_an_account_of_one_s_own_is_no_way_to_guess_on(office: Office) -> None:
    office.account("mallory@example.com")
    counted = 0
    for number in range(100):
        assert office.log_in("mallory@example.com", matches=False)["refusal"] in {
            "invalid_credentials",
            "over_request_rate_limit",
        }
        office.log_in("mallory@example.com")
        answer = office.log_in(f"victim-{number}@example.com", matches=False)
        counted += answer["refusal"] == "invalid_credentials"
    assert counted <= 50


def test_an_office_of_people_who_mistype_now_and_then_is_never_locked_out(office: Office) -> None:
    for number in range(100):
        email = f"colleague-{number}@example.com"
        office.account(email)
        office.log_in(email, matches=False)
        assert office.log_in(email)["claims"], number


def test_wrong_guesses_of_an_address_are_forgiven_one_by_one(office: Office) -> None:
    at = "update auth.failed_attempts set last_failed_at = last_failed_at - %s::interval"
    subject = f"select failures from auth.failed_attempts where subject = 'address:{ADDRESS}'"
    for _ in range(30):
        office.log_in(f"{office.word('x')}@example.com", matches=False)
    # Every four seconds: of two guesses one is forgiven, or a little more.
    for _ in range(30):
        office.owner.rows(at, ["4 seconds"])
        office.log_in(f"{office.word('x')}@example.com", matches=False)
    assert office.owner.value(subject) == 30 + 30 - 30 * 4 // 6
    office.owner.rows(at, ["1 day"])
    office.log_in("x@example.com", matches=False)
    assert office.owner.value(subject) == 1


def test_addresses_that_were_guessed_at_are_not_kept(office: Office) -> None:
    office.log_in("ann@example.com", matches=False)
    office.enter("recovery", "ann@example.com", "000000")
    assert "ann" not in office.owner.value("select string_agg(f::text, ' ') from auth.failed_attempts as f")


# Logging out


@pytest.mark.parametrize(
    ("scope", "left"), [("local", {"second", "third"}), ("others", {"first"}), ("global", set())]
)
def test_a_member_ends_this_session_the_others_or_all(
    scope: str, left: set[str], office: Office, login: Acting, stage: Stage
) -> None:
    sessions = {"first": office.account("ann@example.com")}
    sessions |= {name: office.logged_in("ann@example.com") for name in ("second", "third")}
    other = office.account()
    office.call("log_out", claims=sessions["first"].claims, scope=scope)
    for name, account in sessions.items():
        (admission,) = admit(login, of(account.actor))
        assert admission.failure == (None if name in left else "session_ended"), name
        refreshed = office.refresh(account.refresh_token)["refusal"]
        assert refreshed == (None if name in left else "refresh_token_not_found"), name
        if name not in left:
            Acting(account.actor, stage).refused("PT401", "select", word="session_ended")
            office.refused("PT403", "session_not_found", "get_user", claims=account.claims)
    assert admit(login, of(other.actor))[0].failure is None


def test_whoever_is_gone_has_no_account_to_ask_for(office: Office, owner: Acting) -> None:
    account, banned = office.account(), office.account()
    assert office.call("get_user", claims=account.claims)["id"] == account.id
    owner.rows("delete from auth.users where id = %s::uuid", [account.id])
    office.refused("PT403", "user_not_found", "get_user", claims=account.claims)
    owner.rows(BAN, [banned.email])
    office.refused("PT403", "session_not_found", "get_user", claims=banned.claims)


def test_an_account_is_shown_without_its_secrets(office: Office) -> None:
    account = office.account("ann@example.com")
    office.with_factor(account)
    shown = office.call("get_user", claims=account.claims)
    assert shown["factors"][0].keys() == {
        *("id", "friendly_name", "factor_type", "status", "created_at", "updated_at")
    }
    for secret in (PASSWORD, "secret-"):
        assert secret not in str(shown)


# Another password, other metadata


def test_a_new_password_ends_the_other_sessions_and_the_links(office: Office, login: Acting) -> None:
    account = office.account("ann@example.com")
    other = office.logged_in("ann@example.com")
    office.call("request_mail", kind="recovery", email="ann@example.com")
    link = office.link("ann@example.com", "recovery")
    assert office.call("password_of", claims=account.claims) == PASSWORD
    office.update(account, password_hash="new")
    assert office.user("ann@example.com")["encrypted_password"] == "new"
    assert office.sessions(account.id) == {account.session_id}
    assert admit(login, of(other.actor))[0].failure == "session_ended"
    assert office.refresh(other.refresh_token)["refusal"] == "refresh_token_not_found"
    assert office.refresh(account.refresh_token)["claims"]
    assert office.follow("recovery", link)["refusal"] == "otp_expired"
    assert office.mails("ann@example.com")[-1] == "password_changed"


def is_proved(office: Office, email: str) -> bool:
    """Return whether an account is known to be its reader's, whoever has made it."""
    return bool(office.user(email)["confirmation_sent_at"])


def test_whoever_chooses_a_password_by_a_link_has_proved_to_read_the_mail(office: Office) -> None:
    for email in ("ann@example.com", "bob@example.com"):
        office.sign_up(email, autoconfirm=True)
    by_password = office.logged_in("ann@example.com")
    by_link = Account.of(office.follow("recovery", office.mailed("bob@example.com", "recovery")))
    assert not is_proved(office, "bob@example.com"), "the password is still that of whoever signed up"
    for account in (by_password, by_link):
        office.update(account, password_hash="new")
    assert not is_proved(office, "ann@example.com")
    assert is_proved(office, "bob@example.com")


def test_an_address_that_nobody_agreed_to_is_not_proved(office: Office) -> None:
    account = office.account("ann@example.com")
    assert is_proved(office, "ann@example.com")
    office.update(account, email="agreed@example.com")
    for email in ("ann@example.com", "agreed@example.com"):
        office.follow("email_change", office.link(email, "email_change"))
    assert is_proved(office, "agreed@example.com")
    office.update(account, email="claimed@example.com", autoconfirm=True)
    assert not is_proved(office, "claimed@example.com")
    other = office.account("bob@example.com")
    office.call("admin_update", id=other.id, attributes={"email": "set@example.com"})
    assert not is_proved(office, "set@example.com")


def test_metadata_is_merged_and_null_takes_a_key_away(office: Office) -> None:
    account = office.account(data={"name": "Ann", "color": "red"})
    shown = office.update(account, data={"color": None, "size": 3})
    assert shown["user_metadata"] == {"name": "Ann", "size": 3}


def test_no_metadata_of_one_s_own_is_believed(office: Office, login: Acting, south: Organization) -> None:
    account = office.account(data={"name": "Ann"})
    claimed = {
        "role": "admin",
        "organization_id": south.id,
        "member_id": NOBODY,
        "app_metadata": {"role": "x"},
    }
    office.update(account, data=claimed)
    claims = office.refresh(account.refresh_token)["claims"]
    assert claims["app_metadata"] == account.claims["app_metadata"]
    (admission,) = admit(login, of(account.actor))
    assert admission.claims
    assert admission.claims["app_metadata"] == account.claims["app_metadata"]


def test_a_nonce_from_the_mail_is_good_once(office: Office) -> None:
    account = office.account("ann@example.com")
    office.call("reauthenticate", claims=account.claims)
    nonce = office.code("ann@example.com", "reauthentication")
    changes: Mapping[str, Any] = {
        "email": None,
        "data": None,
        "password_hash": "new",
        "mail": {},
        "autoconfirm": False,
    }
    for wrong in ("a guess", office.word("code")):
        office.refused(
            "PT422",
            "reauthentication_not_valid",
            "update_user",
            claims=account.claims,
            nonce_hash=wrong,
            **changes,
        )
    office.update(account, password_hash="new", nonce_hash=nonce)
    office.refused(
        "PT422",
        "reauthentication_not_valid",
        "update_user",
        claims=account.claims,
        nonce_hash=nonce,
        **changes,
    )
    assert office.follow("magiclink", nonce)["refusal"] == "otp_expired", "and it logs nobody in"
