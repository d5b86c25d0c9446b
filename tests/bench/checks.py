"""What the check of a JWT costs: at first sight and again, in microseconds of one core.

No desk is needed: a check asks nobody.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from api.credentials import Credentials
from api.keys import SigningKey

TARGET_US = 50
ROUNDS = 25
TOKENS = 200
SECRET = "a secret of the measurement, as long as a generated one is: 64 byte"
ID = "550e8400-e29b-41d4-a716-446655440000"


class Check(msgspec.Struct, frozen=True):
    """What one kind of check costs, in microseconds; `target` is for the median, where there is one."""

    check: str
    median_us: float
    least_us: float
    target_us: float | None


def measure() -> list[Check]:
    """Check the same tokens in every way in each round."""
    key = SigningKey(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))
    by_secret = [Credentials(SECRET).sign(_claims(number)) for number in range(TOKENS)]
    by_key = [Credentials(SECRET, key).sign(_claims(number)) for number in range(TOKENS)]
    rounds: dict[str, list[float]] = {}

    def note(check: str, seconds: float) -> None:
        rounds.setdefault(check, []).append(seconds / TOKENS * 1e6)

    for _ in range(ROUNDS):
        credentials = Credentials(SECRET)
        note("JWT, HS256, at first sight", asyncio.run(_bearers(credentials, by_secret)))
        note("JWT, HS256, seen before", asyncio.run(_bearers(credentials, by_secret)))
        note("JWT, ES256, at first sight", asyncio.run(_bearers(Credentials(SECRET, key), by_key)))
        note("JWT, HS256, PyJWT alone", _timed(lambda: [_decoded(token) for token in by_secret]))
    targets = {"JWT, HS256, at first sight": TARGET_US, "JWT, HS256, seen before": TARGET_US}
    return [
        Check(check, round(statistics.median(costs), 2), round(min(costs), 2), targets.get(check))
        for check, costs in rounds.items()
    ]


async def _bearers(credentials: Credentials, tokens: list[str]) -> float:
    began = time.perf_counter()
    for token in tokens:
        await credentials.of_bearer(token)
    return time.perf_counter() - began


def _decoded(token: str) -> dict[str, Any]:
    return jwt.decode(token, SECRET, algorithms=["HS256"], audience="authenticated")


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _claims(number: int) -> dict[str, Any]:
    """Return the claims of an access token, as a log-in makes them."""
    now = int(time.time())
    return {
        "iss": "http://127.0.0.1:8000/auth/v1",
        "sub": ID,
        "aud": "authenticated",
        "role": "authenticated",
        "email": f"agent-{number}@example.com",
        "phone": "",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now}],
        "session_id": ID,
        "is_anonymous": False,
        "app_metadata": {
            "provider": "email",
            "providers": ["email"],
            "organization_id": ID,
            "role": "agent",
        },
        "user_metadata": {"name": "Ann Agent"},
        "iat": now,
        "exp": now + 3600,
    }
