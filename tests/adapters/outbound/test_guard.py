# ruff: noqa: SIM905  # tables
from __future__ import annotations

from ipaddress import ip_address

import pytest

from adapters.outbound.guard import is_public, may_connect
from domain.outbound import AllowedHosts, is_numeric, parse_allowed_hosts

REFUSED = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.1.2.3
    168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
    192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
    255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:10.0.0.1 64:ff9b::7f00:1 64:ff9b::808:808
    64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1
    3fff::1 3fff:fff::1 5f00::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1
""".split()

PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255
    169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
    2001:200::1 2001:4860:4860::8888 2606:4700::1111 2a00:1450::1 3ffe::1
""".split()


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str):
    assert not is_public(ip_address(address))
    assert not may_connect("example.com", ip_address(address), AllowedHosts())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_connected_to(address: str):
    assert may_connect("example.com", ip_address(address), AllowedHosts())


@pytest.mark.parametrize(
    ("allowed", "host", "address"),
    [
        ("files.lan", "files.lan", "10.0.0.1"),
        ("FILES.lan.", "files.lan", "10.0.0.1"),
        ("*.lan", "a.b.lan", "10.0.0.1"),
        ("10.1.0.0/16", "any.thing", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3"),
        ("fd00::/8", "any.thing", "fd00::7"),
        ("[::1]", "::1", "::1"),
        ("other.lan, ,*.x.lan , 127.0.0.0/8", "localhost", "127.0.0.1"),
    ],
)
def test_what_the_operator_names_may_be_connected_to(allowed: str, host: str, address: str):
    assert may_connect(host, ip_address(address), parse_allowed_hosts(allowed))


@pytest.mark.parametrize(
    ("allowed", "host", "address"),
    [
        ("files.lan", "xfiles.lan", "10.0.0.1"),
        ("files.lan", "files.lan.evil.com", "10.0.0.1"),
        ("*.lan", "lan", "10.0.0.1"),
        ("*.lan", "evillan", "10.0.0.1"),
        ("10.1.0.0/16", "any.thing", "10.2.0.1"),
        ("127.0.0.0/8", "any.thing", "::1"),
        ("127.0.0.0/8", "any.thing", "::ffff:127.0.0.1"),
        ("", "localhost", "127.0.0.1"),
    ],
)
def test_what_he_does_not_name_may_not(allowed: str, host: str, address: str):
    assert not may_connect(host, ip_address(address), parse_allowed_hosts(allowed))


@pytest.mark.parametrize(
    "given",
    [
        "*",
        "*.",
        "a b",
        "http://files.lan",
        "files.lan:80",
        "files.lan/x",
        "10.0.0.0/33",
        "10.1.2.3/16",
        "a..b",
        "-a",
        "*.*.lan",
        "10.0.0",
        "0x7f.1",
        "300.1.1.1",
        "fe80::1%eth0",
        "user@host",
        "x" * 64,
        "::1/200",
        "12345",
    ],
)
def test_what_cannot_be_a_host_a_suffix_or_a_network_is_refused(given: str):
    with pytest.raises(ValueError, match="hosts, "):
        parse_allowed_hosts(given)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "1.2.3.0x4", "0x", "a.1"])
def test_old_notations_of_addresses_are_known(host: str):
    assert is_numeric(host)


@pytest.mark.parametrize("host", ["example.com", "1and1.com", "1.2.3.x4", "7e", "xn--0x", "a.0y1"])
def test_names_are_not_taken_for_addresses(host: str):
    assert not is_numeric(host)
