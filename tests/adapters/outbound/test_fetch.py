# ruff: noqa: ASYNC240  # files of a few bytes
"""Fetching from a real server that is as good or as bad as a test wants."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from adapters.outbound.fetch import MOST_REDIRECTS, Fetch
from domain.errors import ErrorCode, Failure, RunFailed
from domain.outbound import parse_allowed_hosts
from tests.adapters.outbound.door import drips, opened, raw, says, sends_to

LOOPBACK = parse_allowed_hosts("127.0.0.0/8")
LIMIT = 1_000_000


def fetcher(**changes: Any) -> Fetch:
    return replace(Fetch(allowed=LOOPBACK, max_bytes=LIMIT, total=10.0), **changes)


async def failure(url: str, path: Path, **changes: Any) -> Failure:
    with pytest.raises(RunFailed) as failed:
        await fetcher(**changes)(url, path)
    assert not path.exists()
    assert "sig=" not in str(failed.value)
    return failed.value.failure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audio"


async def test_a_file_is_written_as_it_comes(path: Path):
    body = os.urandom(LIMIT)
    async with opened(a_wav=says(body)) as door:
        await fetcher()(door.url(), path)
    assert path.read_bytes() == body


async def test_the_request_tells_nothing_of_us_and_asks_for_no_compression(path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with opened(a_wav=says()) as door:
        await fetcher()(door.url("/a.wav?sig=%2B%7e+a"), path)
    [head] = door.heads
    first, *fields = head.strip().split("\r\n")
    assert first == "GET /a.wav?sig=%2B%7e+a HTTP/1.1"
    assert {field.partition(":")[0] for field in fields} == {
        "Host",
        "Accept",
        "Accept-Encoding",
        "User-Agent",
        "Connection",
    }
    assert "Accept-Encoding: identity" in fields
    assert f"Host: 127.0.0.1:{door.port}" in fields


async def test_what_is_not_ascii_is_quoted_and_a_missing_path_is_the_root(path: Path):
    async with opened(a_wav=says()) as door:
        door.paths |= {"/%D1%8F.wav": says(b"ya"), "/": says(b"root")}
        await fetcher()(door.url("/я.wav"), path)
        assert path.read_bytes() == b"ya"
        await fetcher()(door.url("?a=%2F"), path)
        assert path.read_bytes() == b"root"
    assert door.heads[1].startswith("GET /?a=%2F HTTP/1.1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(path: Path, status: int):
    async with opened(a_wav=sends_to("b.wav?x=1", status), b_wav=says(b"there")) as door:
        await fetcher()(door.url(), path)
    assert path.read_bytes() == b"there"
    assert "Cookie" not in door.heads[1]


async def test_redirects_come_to_an_end(path: Path):
    async with opened(a_wav=sends_to("/a.wav")) as door:
        told = await failure(door.url(), path)
    assert told.code is ErrorCode.BAD_INPUT
    assert door.connections == MOST_REDIRECTS + 1


@pytest.mark.parametrize(
    "location", ["", "http://", "ftp://127.0.0.1/a", "http://u:p@127.0.0.1/", "http://a b/", "//[::"]
)
async def test_a_redirect_to_what_is_no_url_for_us_is_refused(path: Path, location: str):
    async with opened(a_wav=sends_to(location)) as door:
        assert (await failure(door.url(), path)).code is ErrorCode.BAD_INPUT


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (204, ErrorCode.BAD_INPUT),
        (206, ErrorCode.BAD_INPUT),
        (304, ErrorCode.BAD_INPUT),
        (401, ErrorCode.BAD_INPUT),
        (403, ErrorCode.BAD_INPUT),
        (404, ErrorCode.BAD_INPUT),
        (410, ErrorCode.BAD_INPUT),
        (408, ErrorCode.DEPENDENCY_ERROR),
        (429, ErrorCode.DEPENDENCY_ERROR),
        (500, ErrorCode.DEPENDENCY_ERROR),
        (503, ErrorCode.DEPENDENCY_ERROR),
    ],
)
async def test_a_status_says_whether_another_try_is_worth_it(path: Path, status: int, code: ErrorCode):
    async with opened(a_wav=says(b"" if status in {204, 304} else b"no", status=f"{status} X")) as door:
        told = await failure(door.url("/a.wav?sig=1"), path)
    assert (told.code, told.message[:9]) == (code, "127.0.0.1")


async def test_how_long_to_wait_is_heard(path: Path):
    async with opened(
        a_wav=says(b"", "Retry-After: 7", status="503 X"), b_wav=says(b"", "Retry-After: soon", status="429 X")
    ) as door:
        assert (await failure(door.url(), path)).retry_after == timedelta(seconds=7)
        assert (await failure(door.url("/b.wav"), path)).retry_after is None


async def test_a_file_of_just_the_limit_is_taken(path: Path):
    async with opened(a_wav=says(bytes(LIMIT))) as door:
        await fetcher()(door.url(), path)
    assert path.stat().st_size == LIMIT


async def test_a_file_that_says_it_is_larger_is_not_begun(path: Path):
    async with opened(a_wav=says(b"x", length=LIMIT + 1)) as door:
        told = await failure(door.url(), path)
    assert (told.code, "MAX_UPLOAD_BYTES" in told.message) == (ErrorCode.BAD_INPUT, True)


async def test_a_body_without_end_is_left_at_the_limit(path: Path):
    async with opened(a_wav=drips(bytes(1 << 16), every=0)) as door:
        told = await failure(door.url(), path)
    assert (told.code, "MAX_UPLOAD_BYTES" in told.message) == (ErrorCode.BAD_INPUT, True)


async def test_chunks_without_end_are_left_at_the_limit(path: Path):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with opened(a_wav=drips(b"10000\r\n" + bytes(1 << 16) + b"\r\n", every=0, head=head)) as door:
        told = await failure(door.url(), path)
    assert "MAX_UPLOAD_BYTES" in told.message


async def test_a_body_that_is_shorter_than_it_said_is_no_file(path: Path):
    async with opened(a_wav=says(b"half", length=8)) as door:
        assert (await failure(door.url(), path)).code is ErrorCode.DEPENDENCY_ERROR


async def test_a_body_that_is_longer_than_it_said_is_no_file(path: Path):
    async with opened(a_wav=says(b"RIFFmore", length=4)) as door:
        assert (await failure(door.url(), path)).code is ErrorCode.DEPENDENCY_ERROR


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
async def test_what_comes_compressed_is_not_unpacked(path: Path, encoding: str):
    bomb = gzip.compress(bytes(10 * LIMIT))
    async with opened(a_wav=says(bomb, f"Content-Encoding: {encoding}")) as door:
        assert (await failure(door.url(), path)).code is ErrorCode.BAD_INPUT


@pytest.mark.parametrize("kind", ["text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml"])
async def test_a_web_page_is_no_recording(path: Path, kind: str):
    async with opened(a_wav=says(b"<html>", f"Content-Type: {kind}")) as door:
        assert (await failure(door.url(), path)).code is ErrorCode.BAD_INPUT


async def test_a_slow_drip_ends_with_the_time_for_all_of_it(path: Path):
    async with opened(a_wav=drips(b"x", every=0.02)) as door:
        told = await failure(door.url(), path, total=0.3)
    assert told.code is ErrorCode.TIMEOUT


async def test_a_slow_drip_of_a_head_ends_as_well(path: Path):
    async with opened(a_wav=drips(b"X-Field: x\r\n", every=0.02, head=b"HTTP/1.1 200 OK\r\n")) as door:
        told = await failure(door.url(), path, total=0.3)
    assert told.code in {ErrorCode.TIMEOUT, ErrorCode.DEPENDENCY_ERROR}


async def test_silence_ends_with_the_time_for_the_next_piece(path: Path):
    async with opened(a_wav=drips(b"x", every=30)) as door:
        told = await failure(door.url(), path, idle=0.2)
    assert told.code is ErrorCode.TIMEOUT


async def test_whoever_stops_waiting_leaves_no_file(path: Path):
    async with opened(a_wav=drips(b"x", every=0.01)) as door:
        fetching = asyncio.create_task(fetcher()(door.url(), path))
        async with asyncio.timeout(10):
            while not path.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert not path.exists()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/9 x\r\n\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nRIFF",
    ],
)
async def test_what_is_no_http_is_the_servers_trouble(path: Path, said: bytes):
    async with opened(a_wav=raw(said)) as door:
        assert (await failure(door.url(), path)).code is ErrorCode.DEPENDENCY_ERROR


async def test_where_nobody_listens_another_try_may_find_somebody(path: Path, unused_tcp_port: int):
    told = await failure(f"http://127.0.0.1:{unused_tcp_port}/a", path)
    assert told.code is ErrorCode.DEPENDENCY_ERROR


async def test_an_unknown_host_is_named_and_nothing_else(path: Path):
    told = await failure("http://no-such-host.invalid/a?sig=1", path)
    assert (told.code, told.message) == (ErrorCode.DEPENDENCY_ERROR, "The host no-such-host.invalid is unknown.")


async def test_a_folder_that_is_not_there_is_our_own_trouble(path: Path):
    async with opened(a_wav=says()) as door:
        told = await failure(door.url(), path / "missing" / "a")
    assert told.code is ErrorCode.STORAGE_ERROR


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def served_by(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def here(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_the_name_is_asked_for_and_checked_though_the_address_is_dialled(
    path: Path, authority: trustme.CA, trusting: ssl.SSLContext
):
    asked: list[str | None] = []
    context = served_by(authority, "files.example.com")
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with opened(tls=context, a_wav=says()) as door:
        for host in ("files.example.com", "FILES.example.com."):
            await fetcher(tls=trusting, resolve=here)(door.url(host=host, scheme="https"), path)
    assert [name and name.lower() for name in asked] == ["files.example.com", "files.example.com"]


async def test_a_certificate_for_another_name_is_refused(path: Path, authority: trustme.CA, trusting: ssl.SSLContext):
    async with opened(tls=served_by(authority, "other.example.com"), a_wav=says()) as door:
        url = door.url(host="files.example.com", scheme="https")
        told = await failure(url, path, tls=trusting, resolve=here)
    assert (told.code, "certificate" in told.message) == (ErrorCode.DEPENDENCY_ERROR, True)


async def test_a_redirect_from_https_to_http_is_refused(path: Path, authority: trustme.CA, trusting: ssl.SSLContext):
    async with opened(a_wav=says()) as plain:
        context = served_by(authority, "127.0.0.1")
        async with opened(tls=context, a_wav=sends_to(plain.url())) as door:
            told = await failure(door.url(scheme="https"), path, tls=trusting)
    assert (told.code, plain.connections) == (ErrorCode.BAD_INPUT, 0)
