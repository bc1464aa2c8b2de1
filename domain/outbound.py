"""Which of the operator's own hosts jobs may have the service fetch from (`ALLOWED_HOSTS`)."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from msgspec import Struct

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

EXPECTED = (
    "hosts, *.suffixes, addresses and networks such as files.example.com, *.internal, 10.1.0.0/16, separated by ','"
)

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


class AllowedHosts(Struct, frozen=True):
    """Hosts that may be connected to although their addresses are not public."""

    names: frozenset[str] = frozenset()
    """In lower case, without the dot at the end."""
    suffixes: tuple[str, ...] = ()
    """With the dot that they begin with: of what stands before it there must be something."""
    networks: tuple[Network, ...] = ()

    def name(self, host: str) -> bool:
        """Whether this name is allowed, whatever its addresses are."""
        return host in self.names or host.endswith(self.suffixes)

    def address(self, address: Address) -> bool:
        """Whether this address is allowed, whatever it is called."""
        return any(address.version == network.version and address in network for network in self.networks)


def parse_allowed_hosts(given: str) -> AllowedHosts:
    """What the operator wrote.

    Raises:
        ValueError: with what is expected.
    """
    names, suffixes, networks = set(), [], []
    for entry in filter(None, (each.strip().lower() for each in given.split(","))):
        if network := _network(entry):
            networks.append(network)
        elif not _NAME.fullmatch(name := entry.removesuffix(".")) or is_numeric(name) or len(name) > 253:
            raise ValueError(EXPECTED)
        elif name.startswith("*."):
            suffixes.append(name[1:])
        else:
            names.add(name)
    return AllowedHosts(frozenset(names), tuple(suffixes), tuple(networks))


def is_numeric(host: str) -> bool:
    """Whether a system's resolver may take this for an address in some old notation: `0x7f.1`, `2130706433`."""
    return _NUMERIC.fullmatch(host) is not None


def literal(host: str) -> Address | None:
    """The address that the host is, in the one notation that is taken for one; without the brackets."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _network(entry: str) -> Network | None:
    bare = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
    if not re.fullmatch(r"[0-9a-f.:]+(/[0-9]{1,3})?", bare) or not set(bare) & set(".:"):
        return None
    try:
        return ip_network(bare)
    except ValueError:
        if re.search(r"[:/]", bare):
            raise ValueError(f"{EXPECTED}; of a network no bits after the prefix are set") from None
        return None
