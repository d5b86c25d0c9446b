"""Second factors: the secret of an authenticator app, how it gets there, and the codes that come back.

In charge of TOTP (RFC 6238: six digits, every 30 seconds, SHA-1, which is what all apps speak). Where the
secret is kept, and that a code counts once, is the database's business.
"""

import io

import pyotp
import segno
from pyotp.utils import strings_equal

STEP_SECONDS = 30
_SECRET_CHARACTERS = 32
_TOLERATED = (0, -1, 1)
"""Steps beside the present one: clocks differ, and people type slowly."""


def new_secret() -> str:
    """Return 160 random bits in base 32."""
    return pyotp.random_base32(_SECRET_CHARACTERS)


def uri(secret: str, issuer: str, account: str) -> str:
    """Return the otpauth address that an app takes the secret from, under these two names."""
    # A colon separates the two, so neither may have one.
    totp = pyotp.TOTP(secret, interval=STEP_SECONDS)
    return totp.provisioning_uri(name=account.replace(":", " "), issuer_name=issuer.replace(":", " "))


def qr_code(text: str) -> str:
    """Return a text as an SVG image that clients make an address of by putting a prefix before it.

    They put `data:image/svg+xml;utf-8,` there and encode nothing, so it has nothing in it that would end an
    address or a quoted attribute: no `#`, `%`, `"` or line break.
    """
    svg = io.BytesIO()
    segno.make_qr(text, error="m").save(
        svg,
        kind="svg",
        xmldecl=False,
        nl=False,
        svgclass=None,
        lineclass=None,
        scale=4,
        light="#fff",
    )
    return svg.getvalue().decode().replace('"', "'").replace("#000", "black").replace("#fff", "white")


def step_of(secret: str, code: str, now: float) -> int | None:
    """Return the time step that a code belongs to, which is thereby used up; None for a wrong code."""
    totp = pyotp.TOTP(secret, interval=STEP_SECONDS)
    present = int(now) // STEP_SECONDS
    # All are compared, so that the time tells nothing.
    steps = [
        step for step in (present + n for n in _TOLERATED) if strings_equal(code, totp.generate_otp(step))
    ]
    return steps[0] if steps else None
