"""The door: where a request comes from, when proxies stand in front of it."""

from ipaddress import ip_network
from typing import Any

import pytest

from api.door import address_of, trust_proxies

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def seen(client: str, *forwarded: str) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope: dict[str, Any] = {"client": (client, 40000), "headers": headers}
    trust_proxies(scope, PROXIES)
    return address_of(scope)


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("10.1.2.3", ("192.0.2.7",), "192.0.2.7"),
        ("10.1.2.3", ("192.0.2.7, 10.9.9.9",), "192.0.2.7"),
        ("10.1.2.3", ("192.0.2.7", "10.9.9.9"), "192.0.2.7"),
        ("fd00::1", ("2001:db8::7",), "2001:db8::7"),
        ("::ffff:10.1.2.3", ("192.0.2.7",), "192.0.2.7"),
        ("10.1.2.3", ("10.4.4.4",), "10.4.4.4"),
    ],
)
def test_caller_behind_a_trusted_proxy_is_whom_it_forwards_for(
    client: str, forwarded: tuple[str, ...], address: str
) -> None:
    assert seen(client, *forwarded) == address


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("192.0.2.7", ("198.51.100.1",), "192.0.2.7"),
        ("10.1.2.3", ("198.51.100.1, 192.0.2.7",), "192.0.2.7"),
        ("10.1.2.3", ("198.51.100.1, nonsense",), "10.1.2.3"),
        ("10.1.2.3", ("",), "10.1.2.3"),
        ("10.1.2.3", ("::1, \xff",), "10.1.2.3"),
        ("10.1.2.3", (), "10.1.2.3"),
    ],
)
def test_stranger_cannot_say_that_they_are_somebody_else(
    client: str, forwarded: tuple[str, ...], address: str
) -> None:
    assert seen(client, *forwarded) == address
