import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.statements import split
from tests.desk import PROJECT

# Each is one statement, whatever it holds.
WHOLE = [
    "select 1",
    "select 'it''s; fine'",
    r"select E'it\'s; \\', 1",
    r"select '\', 1",
    'select 1 as "a;""b"',
    "select $$ a; b $$",
    "select $tag$ a; $$ b; $tag$",
    "select $été$ a; $été$",
    "select a$b$ from c",
    "select $1 + $2",
    "select 1 -- not; yet\n + 1",
    "select /* a; /* b; */ c; */ 1",
    "create rule r as on insert to t do also (insert into u values (1); insert into u values (2))",
    "create function f() returns integer language sql begin atomic select 1; select 2; end",
    "create function f() returns integer begin atomic select case when true then 1 else 2 end; select 3; end",
    "create function f() returns integer BEGIN /* why */ ATOMIC select 1; END",
    "create procedure p() language plpgsql as $body$ begin if x then y; end if; end; $body$",
    "select case when true then 1 end",
    "select begin_atomic from t where atomic",
    "select 1e5, 2.5, x1e'5'",
]


@pytest.mark.parametrize("statement", WHOLE)
def test_a_semicolon_inside_a_statement_does_not_end_it(statement: str) -> None:
    assert [found.text for found in split(f"{statement};")] == [statement]
    assert [found.text for found in split(statement)] == [statement]


@given(st.lists(st.sampled_from(WHOLE), max_size=6), st.sampled_from([";", ";\n", " ;\n\n", ";\n;\n"]))
def test_a_script_is_split_into_the_statements_it_was_made_of(statements: list[str], end: str) -> None:
    script = "".join(statement + end for statement in statements)
    assert [found.text for found in split(script)] == statements


@given(st.text(alphabet="ae'\"$;-*/\\()\n \u00e9", max_size=60))
def test_any_text_is_split_without_an_error_and_in_order(script: str) -> None:
    position = 0
    for found in split(script):
        position = script.index(found.text, position) + len(found.text)
        assert found.text == found.text.strip()
        assert found.text_line <= found.line


def test_comments_stay_with_the_statement_that_follows_and_count_as_lines() -> None:
    first, second, third = split("\n\n-- one\nselect 1;\n\n/* two\n two */\n  select\n2;\n-- the end\n")
    assert (first.text, first.text_line, first.line) == ("-- one\nselect 1", 3, 4)
    assert (second.text, second.text_line, second.line) == ("/* two\n two */\n  select\n2", 6, 8)
    assert (third.text, third.text_line, third.line) == ("-- the end", 10, 10)


@pytest.mark.parametrize("script", ["", " \n", ";", ";;\n;"])
def test_nothing_is_no_statement(script: str) -> None:
    assert list(split(script)) == []


def test_every_source_file_is_split_where_its_lines_say() -> None:
    for path in sorted((PROJECT / "sql").glob("*.sql")):
        script = path.read_text()
        statements = list(split(script))
        assert statements, path
        lines = script.splitlines()
        for statement in statements:
            assert lines[statement.line - 1] == lines[statement.line - 1].lstrip(), (path, statement.line)
