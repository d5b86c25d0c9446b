"""Statuses, words, and that both are what SQL and PostgREST say."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.errors import WORD_OF_STATUS, WORDS, ApiError, SqlError, of_database, status_of
from tests.desk import Desk, wait_until

SQL = Path(__file__).resolve().parents[2] / "sql"
# fmt: off
STATES = [
    "08000", "08006", "09000", "0L000", "0P000", "0A000", "21000", "22023", "22P02", "22021",
    "23502", "23503", "23505", "23514", "23P01", "25000", "25006", "28000", "28P01", "2D000",
    "38000", "39000", "3B000", "3D000", "3F000", "42501", "42601", "42703", "42883", "42P01",
    "42P17", "42P05", "44000", "53000", "53300", "53400", "54000", "54001", "55000", "55P03",
    "57000", "57014", "57P01", "57P03", "58000", "58030", "F0000", "HV000", "P0001", "P0000",
    "P0002", "P0003", "P0004", "XX000", "XX001", "PT404", "PT401", "PT418", "PT412", "PT500",
    "PTabc", "AB123",
]
# fmt: on
RAISER = """
    create function public.raise_state(state text) returns void language plpgsql set search_path = '' as
    $$ begin raise exception using errcode = state, message = 'm', detail = 'd'; end $$
"""


@pytest.fixture
def raiser(desk: Desk) -> Iterator[str]:
    """The address of a function that raises any SQLSTATE over PostgREST."""
    desk.sql(RAISER)
    desk.sql("grant execute on function public.raise_state to anon, service_role")
    desk.sql("notify pgrst, 'reload schema'")
    url = f"{desk.postgrest_url}/rpc/raise_state"
    wait_until(lambda: httpx.post(url, json={"state": "PT418"}).status_code == 418, 10)
    yield url
    desk.sql("drop function public.raise_state")


def test_statuses_are_those_of_postgrest(desk: Desk, raiser: str) -> None:
    service = {"Authorization": f"Bearer {desk.service_key}"}
    with httpx.Client() as client:
        for state in STATES:
            body = {"state": state}
            assert client.post(raiser, json=body, headers=service).status_code == status_of(state), state
            answer = client.post(raiser, json=body)
            assert answer.status_code == status_of(state, authenticated=False), state


def test_every_word_that_sql_raises_is_published() -> None:
    raised = {
        word
        for file in SQL.glob("*.sql")
        for word in re.findall(r"using\s+message\s*=\s*'([a-z_]+)'", file.read_text(encoding="utf-8"))
    }
    assert raised
    assert raised <= set(WORDS)


def test_every_status_has_a_published_word() -> None:
    assert set(WORD_OF_STATUS.values()) <= set(WORDS)


def test_words_of_sql_are_passed_on() -> None:
    error = of_database(SqlError("PT404", "not_found", "No such ticket."))
    assert (error.status, error.word, error.sentence, error.details) == (
        404,
        "not_found",
        "No such ticket.",
        None,
    )
    stale = of_database(SqlError("PT412", "stale", '{"version": 2}'))
    assert (stale.status, stale.sentence, stale.details) == (412, WORDS["stale"], '{"version": 2}')


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [
        ("22P02", 400, "invalid_field"),
        ("23514", 400, "invalid_field"),
        ("23505", 409, "conflict"),
        ("42501", 403, "forbidden"),
        ("53300", 503, "unavailable"),
        ("57P01", 503, "unavailable"),
        ("42883", 500, "internal_error"),
        ("42P01", 500, "internal_error"),
        ("XX000", 500, "internal_error"),
        ("40P01", 500, "internal_error"),
    ],
)
def test_client_learns_nothing_of_other_faults(state: str, status: int, word: str) -> None:
    error = of_database(SqlError(state, "relation secret does not exist", "row (1, secret)"))
    assert (error.status, error.word) == (status, word)
    assert "secret" not in f"{error} {error.details}"


def test_sentence_of_a_word_is_its_default() -> None:
    assert ApiError(404, "not_found").sentence == WORDS["not_found"]
    assert ApiError(418, "teapot").sentence == "I'm a Teapot"
