"""Which addresses may be connected to on behalf of a caller: public ones, and those that the operator allows.

Public is what is left when all that the IANA registries of special-purpose addresses keep apart is taken away; of IPv6
only what is handed out at all. A form of IPv6 that carries an IPv4 address is no way around that: it is refused.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

from domain.outbound import Address, AllowedHosts

REFUSED_4 = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT); 100.100.100.200: Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's metadata, on a public address
        "169.254.0.0/16",  # link-local; 169.254.169.254: metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

HANDED_OUT_6 = ip_network("2000::/3")
"""Outside of it: loopback, mapped IPv4, NAT64, unique local with fd00:ec2::254, link-local, multicast."""

REFUSED_6 = tuple(
    ip_network(each)
    for each in (
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could mean this address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in REFUSED_4)
    return address in HANDED_OUT_6 and not any(address in network for network in REFUSED_6)


def may_connect(host: str, address: Address, allowed: AllowedHosts) -> bool:
    """Whether this host may be connected to at this address of it.

    Args:
        host: in lower case, without a dot at its end.
    """
    return is_public(address) or allowed.address(address) or allowed.name(host)
