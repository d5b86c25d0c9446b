"""Accounts on channels, and the secrets that a platform and the desk know each other by."""

from uuid import uuid4

import pytest

from tests.actors import Acting, Organization

SET = "select public.set_channel_secrets(%s, app_secret => %s)"
SECRETS = """
    select app_secret, verify_token, access_token from private.channel_secrets where channel_account_id = %s
"""


@pytest.fixture
def account(admin: Acting) -> str:
    return admin.insert_id("channel_accounts", channel="whatsapp", external_account_id="+49 30 1")


def test_admin_sets_the_secrets_of_an_account_and_what_is_left_out_stays(
    account: str, admin: Acting, owner: Acting
) -> None:
    admin.rows(SET, [account, "first"])
    assert owner.row(SECRETS, [account]) == ("first", None, None)
    admin.rows("select public.set_channel_secrets(%s, verify_token => 'v', access_token => 'a')", [account])
    assert owner.row(SECRETS, [account]) == ("first", "v", "a")
    admin.rows(SET, [account, "second"])
    assert owner.row(SECRETS, [account]) == ("second", "v", "a")


def test_nobody_reads_them_back(account: str, admin: Acting) -> None:
    admin.rows(SET, [account, "s3cret"])
    admin.refused("42501", SECRETS, [account])


@pytest.mark.parametrize("name", ["team_lead", "agent", "customer"])
def test_who_is_no_admin_sets_none(name: str, account: str, north: Organization, admin: Acting) -> None:
    acting = Acting(north.actors[name], admin.stage)
    acting.refused("PT403", SET, [account, "s3cret"])


@pytest.mark.parametrize("name", ["visitor", "token"])
def test_who_is_no_member_may_not_even_ask(name: str, account: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(name).refused("42501", SET, [account, "s3cret"])


def test_account_of_another_organization_is_not_found(
    account: str, admin: Acting, owner: Acting, south: Organization
) -> None:
    theirs = Acting(south.actors["admin"], admin.stage)
    theirs.refused("PT404", SET, [account, "s3cret"])
    admin.refused("PT404", SET, [str(uuid4()), "s3cret"])
    assert owner.rows(SECRETS, [account]) == []


@pytest.mark.parametrize("text", ["", "  ", "x" * 2001])
def test_secret_that_is_none_is_refused(text: str, account: str, admin: Acting) -> None:
    admin.refused("23514", SET, [account, text])
