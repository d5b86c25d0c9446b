"""Signatures of what comes in."""

import time

import pytest

from api.signatures import FRESH_SECONDS, is_fresh, is_signed

# RFC 4231, test case 2.
SECRET, CONTENT = "Jefe", b"what do ya want for nothing?"
SIGNATURE = b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@pytest.mark.parametrize("written", [SIGNATURE, SIGNATURE.upper(), b"sha256=" + SIGNATURE])
def test_signature_of_the_content_is_taken(written: bytes) -> None:
    assert is_signed(SECRET, CONTENT, written)


@pytest.mark.parametrize(
    "written", [None, b"", SIGNATURE[:-1], SIGNATURE + b"0", b"sha1=" + SIGNATURE, b"\xff" * 64]
)
def test_everything_else_is_not(written: bytes | None) -> None:
    assert not is_signed(SECRET, CONTENT, written)


def test_another_secret_or_content_is_not() -> None:
    assert not is_signed("jefe", CONTENT, SIGNATURE)
    assert not is_signed(SECRET, CONTENT[:-1], SIGNATURE)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1000", True), ("700", True), ("1300", True), ("699", False), ("1301", False), ("", False),
     ("-1000", False), ("1e3", False), ("\u0661000", False)],
)  # fmt: skip
def test_timestamp_is_fresh_for_five_minutes_either_way(
    written: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert FRESH_SECONDS == 300
    assert is_fresh(written.encode()) is expected
