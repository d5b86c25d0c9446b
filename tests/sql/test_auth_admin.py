"""What the auth service does for whoever holds the service key, and its housekeeping."""

from typing import Any

import pytest

from tests.actors import Acting, Organization
from tests.sql.auth import Office
from tests.sql.gate import admit, of

NOBODY = "00000000-0000-4000-8000-000000000000"
BAN = "update auth.users set banned_until = 'infinity' where lower(email) = lower(%s)"


# Whoever holds the service key


def test_the_server_makes_reads_and_lists_accounts(office: Office, north: Organization) -> None:
    attributes = {
        "email": "Made@Example.com",
        "email_confirm": True,
        "app_metadata": {"organization_id": north.id, "role": "team_lead"},
        "user_metadata": {"name": "Made"},
        "id": "11111111-1111-4111-8111-111111111111",
        "ban_seconds": 60,
    }
    made = office.call("admin_create", attributes=attributes, password_hash="a hash")
    assert (made["id"], made["email"]) == (attributes["id"], "made@example.com")
    assert made["banned_until"]
    assert made["app_metadata"]["organization_id"] == north.id
    assert office.mails("made@example.com") == []
    member = "select role::text, organization_id, name from public.members where user_id = %s::uuid"
    assert office.owner.row(member, [made["id"]]) == ("team_lead", north.id, "Made")
    assert office.call("admin_user", id=made["id"]) == made
    office.refused("PT404", "user_not_found", "admin_user", id=NOBODY)
    listed = office.call("admin_list", page=1, per_page=2)
    assert listed["total"] > 2
    assert len(listed["body"]["users"]) == 2
    assert listed["body"]["users"][0]["id"] in {made["id"], *office.owner.values("select id from auth.users")}
    assert office.call("admin_list", page=10_000, per_page=1000)["body"]["users"] == []
    for taken in ({"email": "made@example.com"}, {"email": "x@example.com", "id": made["id"]}):
        office.refused("PT422", "email_exists", "admin_create", attributes=taken)


def test_the_server_changes_what_it_names_and_nothing_else(office: Office, login: Acting) -> None:
    office.account("taken@example.com")
    account = office.account("ann@example.com", data={"name": "Ann", "color": "red"})
    before = office.user("ann@example.com")

    def update(password: str | None = None, **attributes: Any) -> Any:
        return office.call("admin_update", id=account.id, attributes=attributes, password_hash=password)

    update()
    assert office.user("ann@example.com") == before
    assert update(user_metadata={"color": None})["user_metadata"] == {"name": "Ann"}
    assert update(app_metadata={"plan": "gold"})["app_metadata"]["plan"] == "gold"
    assert update(email="New@example.com")["email"] == "new@example.com"
    assert update(email="")["email"] == "new@example.com"
    for other in ("TAKEN@example.com",):
        office.refused("PT422", "email_exists", "admin_update", id=account.id, attributes={"email": other})
    update(phone="123")
    bob = office.account("bob@example.com")
    office.refused("PT422", "phone_exists", "admin_update", id=bob.id, attributes={"phone": "123"})
    assert admit(login, of(account.actor))[0].failure is None
    update("a new hash")
    assert office.sessions(account.id) == set()


def test_a_ban_shuts_out_for_as_long_as_it_lasts(office: Office, login: Acting) -> None:
    account = office.account("ann@example.com")
    office.call("admin_update", id=account.id, attributes={"ban_seconds": 3600})
    assert admit(login, of(account.actor))[0].failure == "session_ended"
    assert office.log_in("ann@example.com")["refusal"] == "user_banned"
    office.call("admin_update", id=account.id, attributes={"ban_seconds": 0})
    assert admit(login, of(account.actor))[0].failure is None
    assert office.log_in("ann@example.com")["claims"]


@pytest.mark.parametrize("is_soft", [True, False])
def test_a_deleted_account_is_gone_and_its_address_free(
    is_soft: bool, office: Office, login: Acting, owner: Acting
) -> None:
    account = office.account("zelda@example.com", data={"name": "Zelda"})
    office.with_factor(account)
    office.call("admin_delete", id=account.id, is_soft=is_soft)
    assert admit(login, of(account.actor))[0].failure == "session_ended"
    assert office.log_in("zelda@example.com")["refusal"] == "invalid_credentials"
    office.refused("PT404", "user_not_found", "admin_user", id=account.id)
    office.refused("PT404", "user_not_found", "admin_delete", id=account.id, is_soft=is_soft)
    left = owner.values("select row_to_json(u)::text from auth.users as u where id = %s::uuid", [account.id])
    assert len(left) == (1 if is_soft else 0)
    assert "zelda" not in "".join(left).lower()
    for table in ("sessions", "identities", "mfa_factors", "one_time_tokens"):
        assert owner.rows(f"select from auth.{table} where user_id = %s::uuid", [account.id]) == [], table
    assert office.account("zelda@example.com").id != account.id


LINKS = ["signup", "invite", "recovery", "magiclink"]


@pytest.mark.parametrize("kind", LINKS)
def test_the_server_is_given_a_link_instead_of_a_mail(kind: str, office: Office) -> None:
    if kind in {"recovery", "magiclink"}:
        office.account("ann@example.com")
    before = office.mails("ann@example.com")
    office.call(
        "admin_link",
        kind=kind,
        email="Ann@example.com",
        data={"name": "Ann"},
        password_hash="a hash",
        token_hash="a token",
        code_hash="a code",
    )
    assert office.mails("ann@example.com") == before
    assert office.follow(kind, "a token")["claims"]["email"] == "ann@example.com"


def test_the_server_is_given_no_link_to_what_is_not_there_or_already_done(office: Office) -> None:
    office.account("ann@example.com")
    arguments: dict[str, Any] = {
        "new_email": None,
        "data": {},
        "password_hash": None,
        "token_hash": "t",
        "code_hash": "c",
        "mail": {},
    }
    for kind in ("recovery", "magiclink", "email_change_new"):
        office.refused(
            "PT404", "user_not_found", "admin_link", kind=kind, email="nobody@example.com", **arguments
        )
    for kind in ("signup", "invite"):
        office.refused("PT422", "email_exists", "admin_link", kind=kind, email="ann@example.com", **arguments)


def test_the_server_takes_a_lost_factor_away(office: Office, login: Acting) -> None:
    account = office.account("ann@example.com")
    factor = office.with_factor(account)
    owing = office.logged_in("ann@example.com")
    (listed,) = office.call("admin_factors", user_id=account.id)
    assert listed["id"] == factor
    for user, other in ((office.account().id, factor), (account.id, NOBODY)):
        office.refused("PT404", "mfa_factor_not_found", "admin_delete_factor", user_id=user, factor_id=other)
    assert office.call("admin_delete_factor", user_id=account.id, factor_id=factor)["id"] == factor
    assert admit(login, of(owing.actor))[0].failure is None


# Housekeeping


def test_weak_hashes_are_found_and_replaced_unless_they_have_changed(office: Office, owner: Acting) -> None:
    weak, nested = "$pbkdf2-sha512$1$a$b", "$pbkdf2-sha512$1$a$$argon2id$c"
    for email, stored in {"a@x.example": weak, "b@x.example": nested, "c@x.example": "$argon2id$c"}.items():
        office.call("admin_create", attributes={"email": email}, password_hash=stored)
    (found,) = office.login.rows("select id, weak from auth_service.weak_passwords(10)")
    assert found == (office.user("a@x.example")["id"], weak)
    office.call("strengthen_password", id=found[0], weak="changed meanwhile", strong="x")
    assert office.user("a@x.example")["encrypted_password"] == weak
    office.call("strengthen_password", id=found[0], weak=weak, strong=nested)
    assert office.login.rows("select id, weak from auth_service.weak_passwords(10)") == []


def test_what_is_past_its_time_is_forgotten_and_nothing_before(office: Office, owner: Acting) -> None:
    ages = {
        "update auth.one_time_tokens set expires_at = now() - %s::interval": ("23 hours", "25 hours"),
        "update auth.flow_state set created_at = now() - %s::interval": ("47 hours", "49 hours"),
        "update auth.failed_attempts set last_failed_at = now() - %s::interval": ("59 minutes", "61 minutes"),
        "update auth.mfa_challenges set created_at = now() - %s::interval": ("23 hours", "25 hours"),
    }
    tables = (
        "one_time_tokens",
        "flow_state",
        "failed_attempts",
        "mfa_challenges",
        "sessions",
        "refresh_tokens",
    )
    account = office.account("ann@example.com")
    office.challenge(account, office.enroll(account))
    mail = {"code_challenge": "x", "code_challenge_method": "plain"}
    office.call("request_mail", kind="magiclink", email="ann@example.com", mail=mail)
    office.link("ann@example.com", "magiclink")
    office.log_in("ann@example.com", matches=False)
    owner.rows("delete from auth.sessions where id <> %s::uuid", [account.session_id])

    def counts() -> list[int]:
        owner.rows("select auth_service.maintain()")
        return [owner.value(f"select count(*) from auth.{table}") for table in tables]

    for statement, (recent, _) in ages.items():
        owner.rows(statement, [recent])
    owner.rows("update auth.sessions set created_at = now() - interval '99 days'")
    owner.rows("update auth.sessions set refreshed_at = now() at time zone 'UTC'")
    before = counts()
    assert all(before)
    for statement, (_, past) in ages.items():
        owner.rows(statement, [past])
    owner.rows("update auth.sessions set refreshed_at = (now() - interval '91 days') at time zone 'UTC'")
    assert counts() == [0] * len(tables)


def test_a_lock_outlives_the_hour_that_its_guesses_are_remembered_for(office: Office, owner: Acting) -> None:
    office.guess_wrong("ann@example.com", 4)
    office.log_in("ann@example.com", matches=False)
    owner.rows("update auth.failed_attempts set last_failed_at = now() - interval '2 hours'")
    owner.rows("select auth_service.maintain()")
    assert office.log_in("ann@example.com")["refusal"] == "over_request_rate_limit"


# Whose member an account is

MEMBERSHIPS = """
    select organization_id, role::text from public.members where user_id = %s::uuid and is_active
    order by created_at, role
"""


def appointed(office: Office, user: str, **app_metadata: Any) -> dict[str, Any]:
    """Say of an account what it is; return what is answered of it."""
    attributes = {"app_metadata": app_metadata}
    return dict(
        office.call("admin_update", id=user, attributes=attributes, password_hash=None)["app_metadata"]
    )


@pytest.mark.parametrize("make", ["admin_create", "admin_invite", "admin_link"])
def test_an_account_that_the_server_makes_and_says_no_organization_of_is_member_of_nothing(
    make: str, office: Office, owner: Acting
) -> None:
    count = "select count(*) from public.organizations"
    before = owner.value(count)
    calls: dict[str, dict[str, Any]] = {
        "admin_create": {"attributes": {"email": "bob@example.com", "user_metadata": {"name": "Bob"}}},
        "admin_invite": {"email": "bob@example.com", "data": {"name": "Bob"}},
        "admin_link": {"kind": "invite", "email": "bob@example.com", "data": {"name": "Bob"}},
    }
    if make == "admin_link":
        calls[make] |= {"token_hash": "t", "code_hash": "c"}
    made = office.call(make, **calls[make])
    assert made["user_metadata"] == {"name": "Bob"}
    assert made["app_metadata"] == {"provider": "email", "providers": ["email"]}
    assert owner.rows(MEMBERSHIPS, [made["id"]]) == []
    assert owner.value(count) == before


@pytest.mark.parametrize("make", ["admin_create", "admin_invite", "sign-up link", "sign-up"])
def test_an_account_that_names_an_organization_founds_or_joins_it(
    make: str, office: Office, owner: Acting, north: Organization
) -> None:
    for data, role in (({"organization": "Bob's"}, "admin"), ({"organization_id": north.id}, "customer")):
        email = f"{office.word('bob')}@example.com"
        if make == "sign-up":
            user = office.sign_up(email, data=data)["person"]["id"]
        elif make == "sign-up link":
            hashes = {"token_hash": office.word("t"), "code_hash": office.word("c"), "password_hash": "h"}
            user = office.call("admin_link", kind="signup", email=email, data=data, **hashes)["id"]
        elif make == "admin_invite":
            user = office.call("admin_invite", email=email, data=data)["id"]
        else:
            attributes = {"email": email, "user_metadata": data}
            user = office.call("admin_create", attributes=attributes)["id"]
        ((organization, found),) = owner.rows(MEMBERSHIPS, [user])
        assert found == role
        assert (organization == north.id) == (role == "customer")


def test_the_server_makes_somebody_a_member_afterwards(
    office: Office, owner: Acting, login: Acting, north: Organization
) -> None:
    attributes = {"email": "bob@example.com", "email_confirm": True, "user_metadata": {"name": "Bob"}}
    user = office.call("admin_create", attributes=attributes, password_hash="h")["id"]
    shown = appointed(office, user, organization_id=north.id, role="agent", plan="gold")
    assert owner.rows(MEMBERSHIPS, [user]) == [(north.id, "agent")]
    assert (shown["organization_id"], shown["role"], shown["plan"]) == (north.id, "agent", "gold")
    account = office.logged_in("bob@example.com")
    assert account.claims["app_metadata"] == shown
    assert appointed(office, user, role="team_lead")["role"] == "team_lead"
    (admission,) = admit(login, of(account.actor))
    assert admission.claims
    assert admission.claims["app_metadata"]["role"] == "team_lead", "on the next request"
    assert appointed(office, user, organization_id=north.id)["role"] == "team_lead"
    other = office.call("admin_create", attributes={"email": "eve@example.com"})["id"]
    assert appointed(office, other, organization_id=north.id)["role"] == "customer"
    stored = office.user("bob@example.com")["raw_app_meta_data"]
    assert stored == {
        "provider": "email",
        "providers": ["email"],
        "plan": "gold",
        "organization_id": north.id,
    }


def test_somebody_who_is_made_a_member_elsewhere_stays_one_here(
    office: Office, owner: Acting, north: Organization, south: Organization
) -> None:
    account = office.account("ann@example.com", data={"organization_id": north.id})
    owner.rows(
        "update public.members set created_at = now() - interval '1 second' where user_id = %s", [account.id]
    )
    shown = appointed(office, account.id, organization_id=south.id, role="agent")
    assert (shown["organization_id"], shown["role"]) == (south.id, "agent")
    assert owner.rows(MEMBERSHIPS, [account.id]) == [(north.id, "customer"), (south.id, "agent")]
    assert office.refresh(account.refresh_token)["claims"]["app_metadata"] == shown
    back = appointed(office, account.id, organization_id=None)
    assert (back["organization_id"], back["role"]) == (north.id, "customer")
    assert len(owner.rows(MEMBERSHIPS, [account.id])) == 2


def test_an_account_that_nobody_has_proved_stays_where_it_was_made(
    office: Office, owner: Acting, north: Organization, south: Organization
) -> None:
    attributes = {
        "email": "bob@example.com",
        "email_confirm": True,
        "app_metadata": {"organization_id": north.id, "role": "agent"},
    }
    user = office.call("admin_create", attributes=attributes, password_hash="known to whoever made it")["id"]
    owner.rows(
        "update public.members set created_at = now() - interval '1 second' where user_id = %s", [user]
    )
    appointed(office, user, organization_id=south.id, role="admin")
    by_password = office.log_in("bob@example.com")
    for said in (by_password["claims"], by_password["person"]):
        assert said["app_metadata"]["organization_id"] == north.id
        assert said["app_metadata"]["role"] == "agent"
    by_link = office.follow("recovery", office.mailed("bob@example.com", "recovery"))
    assert by_link["claims"]["app_metadata"]["organization_id"] == south.id
    assert by_link["person"]["app_metadata"] == by_link["claims"]["app_metadata"]


@pytest.mark.parametrize(
    "wrong", [{"role": "king"}, {"organization_id": NOBODY}, {"organization_id": "x"}, {"organization_id": 7}]
)
def test_the_server_may_say_what_cannot_be(wrong: dict[str, Any], office: Office, owner: Acting) -> None:
    account = office.account("ann@example.com")
    before = office.user("ann@example.com"), owner.rows(MEMBERSHIPS, [account.id])
    attributes = {"app_metadata": {**wrong, "plan": "gold"}, "user_metadata": {"a": 1}}
    office.refused("PT400", "invalid_field", "admin_update", id=account.id, attributes=attributes)
    assert (office.user("ann@example.com"), owner.rows(MEMBERSHIPS, [account.id])) == before


def test_the_last_admin_of_an_organization_stays_one_whoever_says_otherwise(office: Office) -> None:
    account = office.account("ann@example.com")
    attributes = {"app_metadata": {"role": "agent"}}
    office.refused("PT409", "last_admin", "admin_update", id=account.id, attributes=attributes)


def test_a_role_of_somebody_who_is_member_of_nothing_is_not_shown(office: Office) -> None:
    made = office.call(
        "admin_create", attributes={"email": "bob@example.com", "app_metadata": {"role": "admin"}}
    )
    assert "role" not in made["app_metadata"]
    assert "role" not in appointed(office, made["id"], role="admin", member_id=NOBODY, scopes=["x"])
    assert set(office.call("admin_user", id=made["id"])["app_metadata"]) == {"provider", "providers"}


def test_whoever_is_banned_is_shown_as_the_member_that_they_are(office: Office, south: Organization) -> None:
    account = office.account("ann@example.com")
    appointed(office, account.id, organization_id=south.id, role="agent")
    before = office.call("admin_user", id=account.id)["app_metadata"]
    assert before["organization_id"] == south.id
    banned = office.call("admin_update", id=account.id, attributes={"ban_seconds": 3600})
    assert banned["app_metadata"] == office.call("admin_user", id=account.id)["app_metadata"] == before
    assert appointed(office, account.id, role="customer")["role"] == "customer"
    assert office.log_in("ann@example.com")["refusal"] == "user_banned"


def test_whoever_was_deactivated_is_shown_as_member_of_nothing(office: Office, owner: Acting) -> None:
    account = office.account("ann@example.com")
    owner.rows("update public.members set is_active = false where user_id = %s::uuid", [account.id])
    shown = office.call("admin_user", id=account.id)["app_metadata"]
    assert set(shown) == {"provider", "providers"}
