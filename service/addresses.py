"""Where a name leads, and whether this service may go there.

What a request to the inside could reach (a router, a cloud's metadata, this service itself) is nothing that whoever
named an address should. So a name is looked up once, every address that it has is held against the rule, and
the connection goes to the very address that was: a second look-up could be answered otherwise (DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

Resolve = Callable[..., list[Any]]
Address = IPv4Address | IPv6Address

BROADCAST = IPv4Address("255.255.255.255")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
# All that has been given out of IPv6 so far (RFC 4291), and the way to IPv4 of networks that have none.
PUBLIC = (IPv6Network("2000::/3"), NAT64)


class ForbiddenAddress(Exception):
    """A name leads to where this service does not go; the name is not said, for it may be a secret's."""

    def __init__(self) -> None:
        super().__init__(
            "its name leads to an address that is not public; PRUNEYARD_WEBHOOK_PRIVATE=1 allows this machine and "
            "private networks"
        )


def look_up(host: str, port: int, *, private: bool, resolve: Resolve = socket.getaddrinfo) -> list[str]:
    """The addresses of a name, in the system's order; ForbiddenAddress if one of them is not public.

    With `private` it may be any but those of many (multicast). OSError if there is no such name.
    """
    found = [str(entry[4][0]) for entry in resolve(host, port, type=socket.SOCK_STREAM)]
    # With a zone (fe80::1%eth0) it is of a link, and an address all the same.
    if not all(is_allowed(ip_address(text), private=private) for text in found):
        raise ForbiddenAddress
    return list(dict.fromkeys(found))


def is_allowed(address: Address, *, private: bool = False) -> bool:
    """Whether a request may go to this address."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast or address.is_unspecified or address == BROADCAST:
        return False
    return private or (_is_public(address) and all(is_allowed(inner) for inner in _within(address)))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_reserved
    return address.is_global and any(address in network for network in PUBLIC)


def _within(address: Address) -> list[IPv4Address]:
    """IPv4 addresses that an IPv6 address leads to by way of 6to4, Teredo or NAT64."""
    if isinstance(address, IPv4Address):
        return []
    nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
    return [inner for inner in (address.sixtofour, *(address.teredo or ()), nat64) if inner is not None]
