"""Clients of a desk that signs with a key of its own: they can check access tokens by themselves."""

from collections.abc import Callable, Iterator

import pytest

from tests.clients.programs import told_in_node, told_in_python
from tests.databases import Server, running_desk
from tests.desk import Desk

Tell = Callable[[Desk, str], str]


@pytest.fixture(scope="module")
def signing_desk(chosen_server: Server | None) -> Iterator[Desk]:
    with running_desk(chosen_server, DESKBASE_JWT_SIGNING_KEY="ES256") as desk:
        yield desk


@pytest.mark.parametrize("tell", [told_in_python, told_in_node])
def test_user_reads_claims_that_the_public_key_vouches_for(signing_desk: Desk, tell: Tell) -> None:
    assert tell(signing_desk, "claims") == "ES256\nclaims: as told\n"


@pytest.mark.parametrize("tell", [told_in_python, told_in_node])
def test_user_of_another_desk_reads_claims_that_the_server_vouches_for(desk: Desk, tell: Tell) -> None:
    assert tell(desk, "claims") == "HS256\nclaims: as told\n"


@pytest.mark.parametrize("tell", [told_in_python, told_in_node])
def test_founder_works_and_leaves_with_such_tokens_too(signing_desk: Desk, tell: Tell) -> None:
    assert tell(signing_desk, "founder") == "founder: as told\n"
