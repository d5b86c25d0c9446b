"""The words of every contract for the canonical ones: what is shown, what filters match, what writes mean."""

import itertools
import re

import pytest

from tests.actors import Acting

CONTRACTS = ["support_platform", "omnichannel", "support_desk", "helpdesk", "integration_tickets"]
STATUS = """
    new          open         new               new      open         open
    open         open         open              open     open         open
    in_progress  in_progress  open              open     in_progress  in_progress
    waiting      in_progress  pending_customer  pending  in_progress  waiting
    on_hold      in_progress  open              hold     in_progress  waiting
    resolved     resolved     resolved          solved   resolved     resolved
    closed       resolved     closed            closed   closed       closed
"""
PRIORITY = """
    low     low     low     low     low     low
    medium  medium  medium  normal  medium  medium
    high    high    high    high    high    high
    urgent  high    urgent  urgent  urgent  urgent
"""
LABELS = """
    select pg_get_constraintdef(k.oid) from pg_constraint as k
    where k.contypid = ('public.ticket_' || %s)::regtype
"""
EVERY = [(contract, field) for contract in CONTRACTS for field in ("status", "priority")]


def shown(contract: str, field: str) -> dict[str, str]:
    """Return the contract's word for each canonical value, as the design has it."""
    rows = [
        line.split() for line in {"status": STATUS, "priority": PRIORITY}[field].split("\n") if line.strip()
    ]
    return {canonical: words[CONTRACTS.index(contract)] for canonical, *words in rows}


@pytest.mark.parametrize(("contract", "field"), EVERY)
def test_each_canonical_value_is_shown_as_the_design_says(contract: str, field: str, owner: Acting) -> None:
    found = owner.value("select private.words(%s) -> %s", [contract, field])
    assert found == shown(contract, field)
    assert list(shown(contract, field)) == re.findall(r"'(\w+)'", owner.value(LABELS, [field]))


def test_no_other_contract_has_words(owner: Acting) -> None:
    assert owner.value("select private.words('public')") is None
    definition = owner.value("select pg_get_functiondef('private.words'::regproc)")
    assert sorted(re.findall(r'"(\w+)": \{\s*"(?:status|priority)"', definition)) == sorted(CONTRACTS)


@pytest.mark.parametrize(("contract", "field"), EVERY)
def test_a_filter_for_a_word_matches_all_that_is_shown_as_it(
    contract: str, field: str, owner: Acting
) -> None:
    words = shown(contract, field)
    for word in set(words.values()):
        found = owner.value("select private.canonical(%s, %s, %s)", [contract, field, word])
        assert sorted(found) == sorted(canonical for canonical, each in words.items() if each == word)
    for unknown in ("", "nothing", "OPEN", None):
        assert owner.value("select private.canonical(%s, %s, %s)", [contract, field, unknown]) == []


@pytest.mark.parametrize(("contract", "field"), EVERY)
def test_writing_the_word_that_is_shown_moves_nothing(contract: str, field: str, owner: Acting) -> None:
    for present, word in shown(contract, field).items():
        assert written(owner, contract, field, word, present) == present


@pytest.mark.parametrize(("contract", "field"), EVERY)
def test_writing_another_word_makes_it_the_one_that_is_shown(
    contract: str, field: str, owner: Acting
) -> None:
    words = shown(contract, field)
    for present, word in itertools.product(words, set(words.values())):
        after = written(owner, contract, field, word, present)
        assert after
        assert words[after] == word
        if word != words[present] and word in words and words[word] == word:
            assert after == word, "of several values it is the one that has the word's own name"


@pytest.mark.parametrize(("contract", "field"), EVERY)
def test_an_unknown_word_means_nothing(contract: str, field: str, owner: Acting) -> None:
    for present in shown(contract, field):
        for unknown in ("", "nothing", "OPEN", None):
            assert written(owner, contract, field, unknown, present) is None


def written(owner: Acting, contract: str, field: str, word: str | None, present: str) -> str | None:
    statement = "select private.new_canonical(%s, %s, %s, %s)"
    found: str | None = owner.value(statement, [contract, field, word, present])
    return found
