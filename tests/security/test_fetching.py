# ruff: noqa: ASYNC240, RUF001, SIM905  # files of a few bytes; letters that only look like others; tables
"""A caller's URL must not make the service speak to what only the operator can reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.outbound.fetch import Fetch, Resolve
from domain.errors import ErrorCode, Failure, RunFailed
from domain.outbound import AllowedHosts, parse_allowed_hosts
from tests.adapters.outbound.door import opened, says, sends_to

ONE, OTHER = "127.0.0.1", "127.0.0.2"


def answers(*rounds: Iterable[str]) -> tuple[Resolve, list[str]]:
    """A resolver that says something else each time, and what it was asked."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Iterable[str]:
        asked.append(host)
        return rounds[min(len(asked), len(rounds)) - 1]

    return resolve, asked


def fetcher(allowed: str = "", resolve: Resolve | None = None) -> Fetch:
    hosts = parse_allowed_hosts(allowed) if allowed else AllowedHosts()
    fetch = Fetch(allowed=hosts, max_bytes=1_000, total=10.0)
    return replace(fetch, resolve=resolve) if resolve else fetch


async def refusal(url: str, path: Path, fetch: Fetch) -> Failure:
    with pytest.raises(RunFailed) as refused:
        await fetch(url, path)
    assert not path.exists()
    return refused.value.failure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audio"


NAMES_OF_HERE = """
    127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.0.0.1 0177.0.0.1 017700000001 127.0.0.1. 127.1.
    localhost LOCALHOST localhost. ｌｏｃａｌｈｏｓｔ ①②⑦.⓪.⓪.① 127。0。0。1 0.0.0.0 0 00 [::1] [::] [0:0::1]
    [::ffff:127.0.0.1]
    [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::127.0.0.1] [2002:7f00:1::] [2001:0:7f00:1::1] [fe80::1%25lo] [fe80::1%lo]
    [::1%25lo] 127.0.0.1%00.example.com 127.0.0.1%2eexample.com 127.0.0.1%09
""".split()


@pytest.mark.parametrize("host", NAMES_OF_HERE)
async def test_this_machine_is_refused_by_whatever_name(path: Path, host: str):
    async with opened(a_wav=says()) as door:
        told = await refusal(door.url(host=host), path, fetcher())
    assert told.code in {ErrorCode.BAD_INPUT, ErrorCode.DEPENDENCY_ERROR}
    assert door.connections == 0


@pytest.mark.parametrize(
    "address",
    "169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 10.0.0.1 172.17.0.1 192.168.1.1".split()
    + "100.64.0.1 fe80::1 fc00::1 224.0.0.1 255.255.255.255 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe".split(),
)
async def test_no_name_leads_to_metadata_or_a_private_network(path: Path, address: str):
    resolve, _ = answers([address])
    told = await refusal("http://innocent.example.com/a?sig=1", path, fetcher(resolve=resolve))
    assert told == Failure(
        ErrorCode.BAD_INPUT, "innocent.example.com has no public address, and ALLOWED_HOSTS does not name it."
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://user:password@127.0.0.1/",
        "http://user@127.0.0.1/",
        "http://@127.0.0.1/",
        "http://good.example.com\\@127.0.0.1/",
        "http://127.0.0.1\\.example.com/",
        "http://127.0.0.1 .example.com/",
        "http://127.0.0.1\t/",
        "http://127.0.0.1\r\nHost: x/",
        "http://127.0.0.1/\r\nX: y",
        "http:///a",
        "http://",
        "http:127.0.0.1/a",
        "//127.0.0.1/a",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1/a",
        "unix:///run/x",
        "http+unix://x/a",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://127.0.0.1:0/",
        "http://[::1/",
        "http://[v1.x]/",
        "http://exa mple.com/",
        f"http://127.0.0.1/{'a' * 8_000}",
        "",
        "\x00",
    ],
)
async def test_what_is_no_plain_url_is_refused_even_where_its_host_is_allowed(path: Path, url: str):
    told = await refusal(url, path, fetcher("127.0.0.0/8"))
    assert told.code is ErrorCode.BAD_INPUT
    assert "password" not in told.message.replace("a user or a password", "")


async def test_the_address_that_was_checked_is_the_one_connected_to(path: Path):
    """DNS that changes its mind between the check and the connection."""
    resolve, asked = answers([OTHER], [ONE])
    async with opened(ONE, a_wav=says(b"secret")) as inside, opened(OTHER, a_wav=says(b"public")) as outside:
        # What is at the same port of the address that is named later is what the caller is after.
        told = await refusal(inside.url(host="rebinding.example.com"), path, fetcher(OTHER, resolve))
        assert told.code is ErrorCode.DEPENDENCY_ERROR
        resolve, asked = answers([OTHER], [ONE])
        await fetcher(OTHER, resolve)(outside.url(host="rebinding.example.com"), path)
    assert path.read_bytes() == b"public"
    assert asked == ["rebinding.example.com"]
    assert inside.connections == 0


async def test_of_several_addresses_only_those_are_dialled_that_may_be(path: Path):
    resolve, _ = answers([ONE, "10.0.0.1", OTHER])
    async with opened(ONE, a_wav=says(b"secret")) as inside:
        told = await refusal(inside.url(host="mixed.example.com"), path, fetcher(OTHER, resolve))
    assert (told.code, inside.connections) == (ErrorCode.DEPENDENCY_ERROR, 0)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/a.wav", "http://2130706433:{port}/a.wav", "//127.0.0.1:{port}/a.wav"]
)
async def test_a_redirect_does_not_lead_where_the_caller_may_not_go(path: Path, target: str):
    async with opened(ONE, a_wav=says(b"secret")) as inside:
        there = sends_to(target.format(port=inside.port))
        async with opened(OTHER, a_wav=there) as outside:
            told = await refusal(outside.url(host=OTHER), path, fetcher(OTHER))
    assert (told.code, outside.connections, inside.connections) == (ErrorCode.BAD_INPUT, 1, 0)


async def test_a_redirects_host_is_looked_up_and_checked_anew(path: Path):
    resolve, asked = answers([OTHER], [ONE])
    async with opened(ONE, a_wav=says(b"secret")) as inside:
        there = sends_to(inside.url(host="same.example.com"))
        async with opened(OTHER, a_wav=there) as outside:
            told = await refusal(outside.url(host="same.example.com"), path, fetcher(OTHER, resolve))
    assert (told.code, inside.connections, len(asked)) == (ErrorCode.BAD_INPUT, 0, 2)


async def test_an_allowed_name_may_have_any_address(path: Path):
    resolve, _ = answers([ONE])
    async with opened(ONE, a_wav=says()) as door:
        await fetcher("files.lan", resolve)(door.url(host="FILES.lan."), path)
        told = await refusal(door.url(host="other.lan"), path, fetcher("files.lan", resolve))
    assert (path.exists(), told.code) == (False, ErrorCode.BAD_INPUT)


async def test_a_resolver_that_answers_nonsense_or_nothing_leads_nowhere(path: Path):
    for nonsense in ([], ["nonsense"], ["fe80::1%eth0"]):
        resolve, _ = answers(nonsense)
        told = await refusal("http://odd.example.com/", path, fetcher(resolve=resolve))
        assert told.code in {ErrorCode.BAD_INPUT, ErrorCode.DEPENDENCY_ERROR}
