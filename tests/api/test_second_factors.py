"""Second factors: secrets that apps take, and codes that belong to a step."""

import base64
import re
import xml.etree.ElementTree as ET
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest
import segno

from api.second_factors import new_secret, qr_code, step_of, uri

NOW = 1_800_000_010.0
STEP = 60_000_000
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
# From RFC 6238, appendix B: the last six digits of its eight.
RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()
RFC_CODES = {59: "287082", 1111111109: "081804", 1234567890: "005924", 20000000000: "353130"}


def code_at(step: int) -> str:
    return pyotp.TOTP(SECRET).generate_otp(step)


def test_secret_is_160_random_bits() -> None:
    secrets = {new_secret() for _ in range(20)}
    assert len(secrets) == 20
    assert {len(base64.b32decode(secret)) for secret in secrets} == {20}


def test_code_belongs_to_the_step_it_was_made_for() -> None:
    for moment, code in RFC_CODES.items():
        assert step_of(RFC_SECRET, code, moment) == moment // 30


@pytest.mark.parametrize("distance", [-1, 0, 1])
def test_code_of_a_neighbouring_step_is_taken_for_what_it_is(distance: int) -> None:
    assert step_of(SECRET, code_at(STEP + distance), NOW) == STEP + distance


@pytest.mark.parametrize("distance", [-2, 2, 10])
def test_code_of_another_time_is_refused(distance: int) -> None:
    assert step_of(SECRET, code_at(STEP + distance), NOW) is None


@pytest.mark.parametrize(
    "code", ["", "x", "12345", code_at(STEP) + "0", " " + code_at(STEP), "\uff10" * 7, "\0"]
)
def test_anything_else_is_no_code(code: str) -> None:
    assert step_of(SECRET, code, NOW) is None


def test_code_of_another_secret_is_refused() -> None:
    assert step_of(RFC_SECRET, code_at(STEP), NOW) is None


@pytest.mark.parametrize(
    ("issuer", "account"),
    [
        ("Deskbase", "anna@example.com"),
        ("Müller & Söhne #1", "a+b%c?d@example.com"),
        ("a/b", "a b@example.com"),
    ],
)
def test_address_carries_both_names_and_the_secret(issuer: str, account: str) -> None:
    parts = urlsplit(uri(SECRET, issuer, account))
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    assert unquote(parts.path) == f"/{issuer}:{account}"
    assert parse_qs(parts.query, strict_parsing=True) == {"secret": [SECRET], "issuer": [issuer]}


def test_names_have_no_colon_of_their_own() -> None:
    path = unquote(urlsplit(uri(SECRET, "https://desk", "a:b@example.com")).path)
    assert path.count(":") == 1


def test_image_can_be_put_behind_a_prefix_as_clients_do() -> None:
    svg = qr_code(uri(SECRET, 'Müller & Söhne "#1"', "a+b@example.com"))
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert not set(svg) & set('#%"\r\n\t')
    assert svg.isascii()


def test_image_shows_the_address_black_on_white_with_its_margin() -> None:
    address = uri(SECRET, "Deskbase", "anna@example.com")
    svg = ET.fromstring(qr_code(address))
    light, dark = svg.iter("{http://www.w3.org/2000/svg}path")
    assert (light.get("fill"), dark.get("stroke")) == ("white", "black")
    expected = [
        (x, y)
        for y, row in enumerate(segno.make_qr(address, error="m").matrix_iter(border=4))
        for x, is_dark in enumerate(row)
        if is_dark
    ]
    assert sorted(drawn(dark.get("d") or ""), key=lambda place: place[::-1]) == expected


def drawn(path: str) -> list[tuple[int, int]]:
    """Return the squares that a path of horizontal lines covers."""
    places, x, y = [], 0.0, 0.0
    for kind, numbers in re.findall(r"([Mmh])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        if kind == "h":
            places += [(int(x) + n, int(y)) for n in range(int(values[0]))]
            x += values[0]
        elif kind == "M":
            x, y = values
        else:
            x, y = x + values[0], y + values[1]
    return places
