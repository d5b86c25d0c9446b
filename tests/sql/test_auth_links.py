"""The auth service's mails: what is kept of their secrets, and what a link or a code does, once."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.actors import Acting, Organization
from tests.sql.auth import VISITOR, Account, Office

NOBODY = "00000000-0000-4000-8000-000000000000"
BAN = "update auth.users set banned_until = 'infinity' where lower(email) = lower(%s)"


# Mails


KINDS = {
    "signup": ("confirmation_token", 1440),
    "invite": ("confirmation_token", 1440),
    "recovery": ("recovery_token", 60),
    "magiclink": ("recovery_token", 60),
    "reauthentication": ("reauthentication_token", 60),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mail_is_prepared_with_what_its_text_needs_and_its_hashes_are_kept(
    kind: str, office: Office, owner: Acting
) -> None:
    user = office.sign_up("ann@example.com", data={"name": "Ann"})["person"]["id"]
    mail = {"redirect_to": "https://desk.example/in"}
    office.call("request_mail", kind=kind, email="Ann@example.com", mail=mail)
    token_type, minutes = KINDS[kind]
    assert office.prepare("ann@example.com", kind, "a token", "a code") == {
        "kind": kind,
        "email": "ann@example.com",
        "name": "Ann",
        "organization": None,
        "redirect_to": "https://desk.example/in",
        "minutes": minutes,
        "new_email": None,
    }
    kept = """
        select token_type::text, token_hash, code_hash, relates_to,
            extract(epoch from expires_at - now())::integer
        from auth.one_time_tokens where user_id = %s::uuid
    """
    row = (token_type, "a token", "a code", "ann@example.com", minutes * 60)
    assert owner.rows(kept, [user]) == [row]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mail_to_nobody_is_dropped(kind: str, office: Office, owner: Acting) -> None:
    for email in ("deleted@example.com", "banned@example.com"):
        office.sign_up(email)
    owner.rows("update auth.users set deleted_at = now() where email = 'deleted@example.com'")
    owner.rows(BAN, ["banned@example.com"])
    for email in ("nobody@example.com", "deleted@example.com", "banned@example.com"):
        office.call("request_mail", kind=kind, email=email)
        assert office.prepare(email, kind) is None, email
    assert owner.rows("select from auth.one_time_tokens") == []


@pytest.mark.parametrize("kind", ["signup", "invite"])
def test_nobody_is_asked_to_confirm_an_address_twice(kind: str, office: Office) -> None:
    office.account("ann@example.com")
    office.call("request_mail", kind=kind, email="ann@example.com")
    assert office.prepare("ann@example.com", kind) is None


def test_a_mail_that_is_not_there_is_nobody_s(office: Office) -> None:
    assert office.call("prepare_mail", id=NOBODY, token_hash="t", code_hash="c") is None


def test_an_invitation_names_the_organization(office: Office, north: Organization) -> None:
    data = {"organization_id": north.id, "name": "Bob"}
    office.call("admin_invite", email="bob@example.com", data=data)
    prepared = office.prepare("bob@example.com", "invite")
    assert (prepared["organization"], prepared["name"]) == ("north", "Bob")


def test_a_link_without_an_account_is_asked_for_like_any_other(office: Office) -> None:
    for data in (None, {"name": "New"}):
        office.call("request_mail", kind="magiclink", email="new@example.com", new_user_metadata=data)
        assert (office.prepare("new@example.com", "magiclink") is None) == (data is None)
    answer = office.follow("magiclink", office.link("new@example.com", "magiclink"))
    assert answer["claims"]["user_metadata"] == {"name": "New"}


# Links and codes


@pytest.mark.parametrize("kind", ["recovery", "magiclink"])
@pytest.mark.parametrize("way", ["link", "code"])
def test_a_link_and_its_code_log_in_once(kind: str, way: str, office: Office) -> None:
    account = office.account("ann@example.com")
    office.call("request_mail", kind=kind, email="ann@example.com")
    token, code = "a token", "a code"
    office.prepare("ann@example.com", kind, token, code)

    def use() -> dict[str, Any]:
        if way == "link":
            return office.follow(kind, token)
        return office.enter(kind, "ANN@example.com", code)

    answer = use()
    assert answer["claims"]["sub"] == account.id
    assert answer["claims"]["amr"][0]["method"] == "otp"
    assert use()["refusal"] == "otp_expired"
    assert office.follow(kind, token)["refusal"] == "otp_expired", "the other half is used up as well"
    assert office.enter(kind, "ann@example.com", code)["refusal"] == "otp_expired"


def test_a_link_does_only_what_it_was_made_for(office: Office) -> None:
    account = office.account("ann@example.com")
    office.update(account, email="new@example.com")
    made = {}
    for kind in ("recovery", "reauthentication"):
        office.call("request_mail", kind=kind, email="ann@example.com")
        made[kind] = office.link("ann@example.com", kind)
    made["email_change"] = office.link("ann@example.com", "email_change")
    fitting = {"recovery": {"recovery", "magiclink", "email"}, "email_change": {"email_change"}}
    kinds = ["signup", "invite", "recovery", "magiclink", "email", "email_change", "reauthentication", "x"]
    for kind, token in made.items():
        for other in kinds:
            if other not in fitting.get(kind, set()):
                assert office.follow(other, token)["refusal"] == "otp_expired", (kind, other)
    assert office.follow("email", made["recovery"])["claims"], "it was not used up by those"


@pytest.mark.parametrize("order", [("first", "last"), ("last", "first")])
def test_the_link_that_was_asked_for_last_is_the_one_that_works(
    order: tuple[str, str], office: Office, owner: Acting
) -> None:
    office.account("ann@example.com")
    mails = {}
    for name in ("first", "last"):
        office.call("request_mail", kind="recovery", email="ann@example.com")
        owner.rows("update private.mails set created_at = created_at - interval '1 second'")
        mails[name] = office.newest_mail("ann@example.com", "recovery")
    for name in order:
        prepared = office.call("prepare_mail", id=mails[name], token_hash=name, code_hash=f"code of {name}")
        assert prepared, "both are sent, in whatever order"
    assert office.follow("recovery", "first")["refusal"] == "otp_expired"
    assert office.enter("recovery", "ann@example.com", "code of first")["refusal"] == "otp_expired"
    assert office.follow("recovery", "last")["claims"]


def test_a_code_is_worth_something_with_its_own_address_alone(office: Office) -> None:
    for email in ("ann@example.com", "bob@example.com"):
        office.account(email)
    office.call("request_mail", kind="recovery", email="ann@example.com")
    code = office.code("ann@example.com", "recovery")
    assert office.enter("recovery", "bob@example.com", code)["refusal"] == "otp_expired"
    assert office.enter("recovery", "ann@example.com", code)["claims"]


def test_a_link_expires(office: Office, owner: Acting) -> None:
    office.account("ann@example.com")
    office.call("request_mail", kind="recovery", email="ann@example.com")
    office.prepare("ann@example.com", "recovery", "a token", "a code")
    owner.rows("update auth.one_time_tokens set expires_at = now()")
    assert office.follow("recovery", "a token")["refusal"] == "otp_expired"
    assert office.enter("recovery", "ann@example.com", "a code")["refusal"] == "otp_expired"
    owner.rows("update auth.one_time_tokens set expires_at = now() + interval '1 second'")
    assert office.follow("recovery", "a token")["claims"]


def test_guessing_at_codes_locks_the_address_and_no_link(office: Office) -> None:
    office.account("ann@example.com")
    office.call("request_mail", kind="recovery", email="ann@example.com")
    office.prepare("ann@example.com", "recovery", "a token", "a code")
    guesses = [office.enter("recovery", "Ann@example.com", f"guess {n}")["refusal"] for n in range(6)]
    assert guesses == ["otp_expired"] * 5 + ["over_request_rate_limit"]
    assert office.enter("recovery", "ann@example.com", "a code")["refusal"] == "over_request_rate_limit"
    assert office.enter("recovery", "bob@example.com", "a code")["refusal"] == "otp_expired"
    assert office.follow("recovery", "a token")["claims"]


def test_wrong_links_count_against_nobody(office: Office, owner: Acting) -> None:
    for number in range(10):
        assert office.follow("recovery", f"guess {number}")["refusal"] == "otp_expired"
    assert owner.rows("select from auth.failed_attempts") == []


def test_a_link_of_somebody_who_may_not_come_in_is_spent(office: Office, owner: Acting) -> None:
    office.account("ann@example.com")
    office.call("request_mail", kind="recovery", email="ann@example.com")
    token = office.link("ann@example.com", "recovery")
    owner.rows(BAN, ["ann@example.com"])
    assert office.follow("recovery", token)["refusal"] == "user_banned"
    owner.rows("update auth.users set banned_until = null")
    assert office.follow("recovery", token)["refusal"] == "otp_expired"


def test_a_way_in_by_mail_confirms_an_address_and_keeps_no_password_from_before(office: Office) -> None:
    office.sign_up("ann@example.com", password_hash="whoever's")
    office.call("request_mail", kind="magiclink", email="ann@example.com")
    assert office.follow("magiclink", office.link("ann@example.com", "magiclink"))["claims"]
    user = office.user("ann@example.com")
    assert user["email_confirmed_at"]
    assert user["encrypted_password"] == ""


def test_an_invitation_is_accepted_by_its_link_and_then_has_a_password(
    office: Office, north: Organization
) -> None:
    office.call("admin_invite", email="bob@example.com", data={"organization_id": north.id})
    answer = office.follow("invite", office.link("bob@example.com", "invite"))
    assert answer["claims"]["app_metadata"]["organization_id"] == north.id
    assert answer["claims"]["app_metadata"]["role"] == "customer"
    account = Account(answer["claims"]["sub"], "bob@example.com", answer["claims"], "")
    office.update(account, password_hash="chosen")
    assert office.log_in("bob@example.com")["claims"]


def test_whoever_is_invited_chooses_the_password_though_somebody_signed_up_before(office: Office) -> None:
    office.sign_up("bob@example.com", password_hash="Mallory's")
    office.call("admin_invite", email="bob@example.com")
    assert office.user("bob@example.com")["encrypted_password"] == ""
    office.sign_up("bob@example.com", password_hash="Mallory's again")
    assert office.user("bob@example.com")["encrypted_password"] == ""
    assert office.follow("invite", office.link("bob@example.com", "invite"))["claims"]
    assert office.log_in("bob@example.com")["refusal"] == "invalid_credentials"


def test_nobody_who_is_in_is_invited(office: Office) -> None:
    office.account("ann@example.com")
    office.refused("PT422", "email_exists", "admin_invite", email="ANN@example.com")


# Links that are followed in one place and finished in another (PKCE)


CHALLENGES = {
    "s256": ("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    "plain": ("a verifier", "a verifier"),
}
"""Challenge and verifier; the first is the example of RFC 7636."""


def exchange(
    office: Office, code: str, verifier: str, visitor: Mapping[str, str] = VISITOR
) -> dict[str, Any]:
    return dict(
        office.call(
            "exchange_code",
            code_hash=code,
            verifier=verifier,
            refresh_hash=office.word("refresh"),
            visitor=visitor,
        )
    )


def coded(office: Office, method: str = "plain") -> str:
    """Let a browser follow a link with a challenge, and return the code that it is given."""
    mail = {"code_challenge": CHALLENGES[method][0], "code_challenge_method": method}
    office.call("request_mail", kind="magiclink", email="ann@example.com", mail=mail)
    code = office.word("auth-code")
    answer = office.follow("magiclink", office.link("ann@example.com", "magiclink"), auth_code_hash=code)
    assert (answer["has_code"], answer["claims"]) == (True, None)
    return code


@pytest.mark.parametrize("method", CHALLENGES)
def test_whoever_holds_the_verifier_finishes_a_log_in_by_link_once(method: str, office: Office) -> None:
    account = office.account("ann@example.com")
    code = coded(office, method)
    assert len(office.sessions(account.id)) == 1, "following the link alone logs nobody in"
    assert exchange(office, code, CHALLENGES[method][1])["claims"]["sub"] == account.id
    assert exchange(office, code, CHALLENGES[method][1])["refusal"] == "flow_state_not_found"


def test_a_wrong_verifier_leaves_the_code_to_whoever_holds_the_right_one(office: Office) -> None:
    account = office.account("ann@example.com")
    code = coded(office)
    elsewhere = {"address": "198.51.100.1", "agent": "a thief"}
    refusals = [exchange(office, code, f"guess {n}", elsewhere)["refusal"] for n in range(60)]
    assert refusals == ["bad_code_verifier"] * 50 + ["over_request_rate_limit"] * 10
    locked = exchange(office, code, "a verifier", elsewhere)
    assert (locked["claims"], locked["wait_seconds"], locked["allowed"]) == (None, 60, 50)
    assert exchange(office, code, "a verifier")["claims"]["sub"] == account.id


def test_a_code_is_good_for_five_minutes(office: Office, owner: Acting) -> None:
    office.account("ann@example.com")
    code = coded(office)
    owner.rows("update auth.flow_state set auth_code_issued_at = now() - interval '5 minutes'")
    assert exchange(office, code, "a verifier")["refusal"] == "flow_state_not_found"


@pytest.mark.parametrize(
    "gone",
    ["delete from auth.users where id = %s::uuid", "update auth.users set deleted_at = now() where id = %s"],
)
def test_a_code_of_an_account_that_is_gone_is_no_code(gone: str, office: Office, owner: Acting) -> None:
    account = office.account("ann@example.com")
    code = coded(office)
    owner.rows(gone, [account.id])
    assert exchange(office, code, "a verifier")["refusal"] == "flow_state_not_found"


def test_a_code_of_somebody_who_was_banned_logs_nobody_in(office: Office, owner: Acting) -> None:
    office.account("ann@example.com")
    code = coded(office)
    owner.rows(BAN, ["ann@example.com"])
    assert exchange(office, code, "a verifier")["refusal"] == "user_banned"


def test_a_link_without_a_challenge_gives_a_browser_a_session(office: Office) -> None:
    office.account("ann@example.com")
    office.call("request_mail", kind="magiclink", email="ann@example.com")
    answer = office.follow("magiclink", office.link("ann@example.com", "magiclink"), auth_code_hash="unused")
    assert answer["claims"]
    assert not answer["has_code"]


# Another address


def halves(office: Office, email: str = "ann@example.com", new: str = "new@example.com") -> dict[str, str]:
    """Return the tokens of both mails of a change of address."""
    return {"current": office.link(email, "email_change"), "new": office.link(new, "email_change")}


@pytest.mark.parametrize("order", [("current", "new"), ("new", "current")])
def test_a_new_address_needs_the_consent_of_both(order: tuple[str, str], office: Office) -> None:
    account = office.account("ann@example.com")
    shown = office.update(account, email=" New@Example.com ")
    assert (shown["email"], shown["new_email"]) == ("ann@example.com", "new@example.com")
    links = halves(office)
    first = office.follow("email_change", links[order[0]])
    assert (first["is_half_done"], first["claims"], first["refusal"]) == (True, None, None)
    assert office.email_of(account) == "ann@example.com"
    second = office.follow("email_change", links[order[1]])
    assert second["claims"]["email"] == "new@example.com"
    assert office.user("new@example.com")["id"] == account.id
    assert office.user("new@example.com")["email_change"] == ""
    assert second["person"]["identities"][0]["email"] == "new@example.com"
    members = "select email, username from public.members where user_id = %s::uuid"
    assert office.owner.row(members, [account.id]) == ("new@example.com", "new@example.com")


@pytest.mark.parametrize("target", ["current", "new"])
def test_the_consent_of_one_is_not_that_of_both_though_given_twice(target: str, office: Office) -> None:
    account = office.account("ann@example.com")
    office.update(account, email="new@example.com")
    email = {"current": "ann@example.com", "new": "new@example.com"}[target]
    for number in range(2):
        # By hand, for it is not mailed to whoever has agreed already.
        token = f"token {number}"
        office.call(
            "admin_link",
            kind=f"email_change_{target}",
            email="ann@example.com",
            new_email="new@example.com",
            token_hash=token,
        )
        answer = office.follow("email_change", token)
        assert answer["is_half_done"], (email, number)
    assert office.email_of(account) == "ann@example.com"


def test_consent_to_one_address_is_no_consent_to_another(office: Office) -> None:
    account = office.account("ann@example.com")
    office.update(account, email="first@example.com")
    old = halves(office, new="first@example.com")
    office.follow("email_change", old["current"])
    office.update(account, email="second@example.com")
    assert office.follow("email_change", old["new"])["refusal"] == "otp_expired"
    assert office.prepare("first@example.com", "email_change") is None, (
        "nor by a mail that is still to go out"
    )
    links = halves(office, new="second@example.com")
    assert office.follow("email_change", links["new"])["is_half_done"]
    assert office.follow("email_change", links["current"])["claims"]["email"] == "second@example.com"


def test_an_address_that_is_taken_is_not_told_to_whoever_wants_it(office: Office) -> None:
    office.account("taken@example.com")
    account = office.account("ann@example.com")
    free = office.update(account, email="free@example.com")
    taken = office.update(account, email="taken@example.com")
    assert free | {"new_email": ""} == taken | {"new_email": ""}
    assert office.mails("free@example.com") == ["email_change"]
    assert office.mails("taken@example.com") == ["signup", "account_exists"]
    office.follow("email_change", office.link("ann@example.com", "email_change"))
    assert office.email_of(account) == "ann@example.com"


def test_an_address_that_was_taken_meanwhile_stays_its_owner_s(office: Office) -> None:
    account = office.account("ann@example.com")
    office.update(account, email="new@example.com")
    links = halves(office)
    office.follow("email_change", links["current"])
    office.account("new@example.com")
    office.refused(
        "PT422", "email_exists", "verify", kind="email_change", token_hash=links["new"], refresh_hash="x"
    )
    assert office.email_of(account) == "ann@example.com"


def test_a_changed_address_ends_the_links_to_the_old_one(office: Office) -> None:
    account = office.account("ann@example.com")
    office.call("request_mail", kind="recovery", email="ann@example.com")
    recovery = office.link("ann@example.com", "recovery")
    office.update(account, email="new@example.com")
    for token in halves(office).values():
        office.follow("email_change", token)
    assert office.follow("recovery", recovery)["refusal"] == "otp_expired"
    assert office.log_in("ann@example.com")["refusal"] == "invalid_credentials"
    assert office.log_in("new@example.com")["claims"]


def test_both_links_of_a_change_are_mailed_once_more(office: Office) -> None:
    account = office.account("ann@example.com")
    office.update(account, email="new@example.com")
    before = halves(office)
    office.call("request_mail", kind="email_change", email="Ann@example.com")
    after = halves(office)
    assert office.follow("email_change", before["new"])["refusal"] == "otp_expired"
    assert office.follow("email_change", after["new"])["is_half_done"]
    office.call("request_mail", kind="email_change", email="ann@example.com")
    assert office.mails("new@example.com") == ["email_change"] * 2, "who has agreed is asked no more"
    assert office.follow("email_change", after["current"])["refusal"] is None


def test_where_accounts_confirm_themselves_an_address_is_changed_at_once(office: Office) -> None:
    office.account("taken@example.com")
    account = office.account("ann@example.com")
    assert office.update(account, email="new@example.com", autoconfirm=True)["email"] == "new@example.com"
    office.refused(
        "PT422",
        "email_exists",
        "update_user",
        claims=account.claims,
        email="taken@example.com",
        autoconfirm=True,
    )
