"""Splitting an SQL script into its statements, as the Supabase command line does.

In charge of finding the semicolons that end a statement: not those in quotes, dollar quotes, comments,
parentheses or a `begin atomic` body. Running the statements is left to `api.migrate`.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

TOKEN = re.compile(
    r"""
      (?P<comment>   --[^\n]* )
    | (?P<nested>    /\* )
    | (?P<string>    [eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<dollar>    \$(?:[^\W\d]\w*)?\$ )
    | (?P<word>      [^\W\d][\w$]* )
    | (?P<number>    \d[\w.]* )
    | (?P<mark>      [();] )
    """,
    re.VERBOSE | re.DOTALL,
)
NESTING = re.compile(r"/\*|\*/")


class Statement(NamedTuple):
    """One statement: its text with the comments before it, and the lines where text and code begin."""

    text: str
    text_line: int
    line: int


class _Scanner:
    """What is known about the statement that is being read."""

    def __init__(self) -> None:
        self.code_at: int | None = None
        self.parentheses = 0
        self.blocks = 0
        self.word = ""

    def see(self, token: re.Match[str]) -> bool:
        """Take in a token that is no comment; return whether the statement ends with it."""
        if token["mark"] == ";":
            return self.parentheses <= 0 and self.blocks <= 0
        if self.code_at is None:
            self.code_at = token.start()
        if token["mark"]:
            self.parentheses += 1 if token["mark"] == "(" else -1
        if token["word"]:
            self._see_word(token["word"].lower())
        return False

    def _see_word(self, word: str) -> None:
        if (word == "atomic" and self.word == "begin") or (word == "case" and self.blocks):
            self.blocks += 1
        elif word == "end" and self.blocks:
            self.blocks -= 1
        self.word = word


def split(script: str) -> Iterator[Statement]:
    """Yield the statements in order, each without its semicolon; a comment at the end counts as one."""
    begin, scanner = 0, _Scanner()
    for token in _tokens(script):
        if scanner.see(token):
            yield from _statement(script, begin, token.start(), scanner.code_at)
            begin, scanner = token.end(), _Scanner()
    yield from _statement(script, begin, len(script), scanner.code_at)


def _tokens(script: str) -> Iterator[re.Match[str]]:
    """Yield the tokens outside comments; a dollar quote is one token, and its inside is passed over."""
    position = 0
    while token := TOKEN.search(script, position):
        position = token.end()
        if token["nested"]:
            position = _comment_end(script, position)
        elif token["dollar"]:
            closing = script.find(token["dollar"], position)
            position = len(script) if closing < 0 else closing + len(token["dollar"])
        if not (token["nested"] or token["comment"]):
            yield token


def _comment_end(script: str, position: int) -> int:
    """Return where the block comment ends that was opened just before; such comments nest."""
    depth = 1
    while depth and (mark := NESTING.search(script, position)):
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
    return len(script) if depth else position


def _statement(script: str, begin: int, end: int, code_at: int | None) -> Iterator[Statement]:
    text = script[begin:end].strip()
    if not text:
        return
    begin = script.index(text, begin)
    yield Statement(
        text=text,
        text_line=script.count("\n", 0, begin) + 1,
        line=script.count("\n", 0, begin if code_at is None else code_at) + 1,
    )
