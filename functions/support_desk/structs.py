"""The shapes of the support-desk contract, as its document shows them."""

from typing import Any

from msgspec import Struct


class Fault(Struct):
    """Why a request was refused."""

    code: str
    message: str
    details: dict[str, Any]


class Error(Struct):
    """The answer to a request that was refused."""

    success: bool
    error: Fault
