"""Fetches what lies at a caller's URL into a file, without doing the caller's will in the operator's own network.

A host is looked up once; the addresses that were checked are the ones that are dialled. No proxy of the environment, no
cookie and no credentials take part. What a message says of a URL is its host: the rest may be a secret.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNSPEC, AI_NUMERICHOST, SOCK_STREAM, AddressFamily, gaierror, socket
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohappyeyeballs import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from adapters.outbound.guard import may_connect
from domain.errors import ErrorCode, RunFailed
from domain.outbound import Address, AllowedHosts, is_numeric, literal

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""The addresses of a host, as text; raises OSError where there are none."""

PIECE = 256 * 1024
MOST_REDIRECTS = 5
LONGEST_URL = 8_000

REDIRECTS = frozenset({301, 302, 303, 307, 308})

TRY_LATER = frozenset({408, 425, 429})
"""Statuses of the 4xx that pass. All others say that the URL is of no use: `bad_input`; 5xx are `dependency_error`."""

PAGES = frozenset({"text/html", "application/xhtml+xml"})

LONGEST_RETRY_AFTER = 24 * 3600

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class Patience:
    """How long a fetch may take, in seconds. All of it; to connect; and between two pieces of the answer."""

    TOTAL, CONNECT, IDLE = 900.0, 10.0, 30.0


async def resolve(host: str, port: int) -> list[str]:
    """As the system does it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, family=AF_UNSPEC, type=SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True)
class Fetch:
    """Bounded in size and time; safe to use at the same time from several tasks."""

    allowed: AllowedHosts
    max_bytes: int
    total: float = Patience.TOTAL
    connect: float = Patience.CONNECT
    idle: float = Patience.IDLE
    resolve: Resolve = resolve
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    async def __call__(self, url: str, path: Path) -> None:
        """Write what lies there into this file; where that fails, there is no file.

        Raises:
            RunFailed: `bad_input` (not such a URL, not allowed, too large, not there), `dependency_error` (the host is
                unknown, does not answer or is in trouble), `timeout`, `storage_error` (no room for the file).
        """
        at = parse(url)
        try:
            async with asyncio.timeout(self.total):
                await self._fetch(at, path)
        except BaseException as error:
            path.unlink(missing_ok=True)  # noqa: ASYNC240  # an instant
            if isinstance(error, TimeoutError):
                raise RunFailed(ErrorCode.TIMEOUT, f"{at.host} did not send the recording in time.") from None
            raise

    async def _fetch(self, at: URL, path: Path) -> None:
        for _ in range(MOST_REDIRECTS + 1):
            following = await self._ask(at, path)
            if following is None:
                return
            at = following
        raise RunFailed(ErrorCode.BAD_INPUT, f"More than {MOST_REDIRECTS} redirects, the last one by {at.host}.")

    async def _ask(self, at: URL, path: Path) -> URL | None:
        """Fetch the file, or return where a redirect leads."""
        host = host_of(at)
        addresses = await self._addresses(host, at.port or 0)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses),
            socket_factory=_only(addresses),
            use_dns_cache=False,
            force_close=True,
            ssl=self.tls,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.connect, sock_read=self.idle),
            headers={
                "Accept": "audio/*, video/*, */*;q=0.5",
                "Accept-Encoding": "identity",
                "User-Agent": "ai-service",
            },
        ) as session:
            try:
                async with session.get(at, allow_redirects=False) as response:
                    if response.status in REDIRECTS:
                        return redirected(at, response.headers.get("Location"))
                    _must_be_a_file(at, response)
                    await self._write(at, response, path)
                    return None
            except aiohttp.InvalidURL:
                raise RunFailed(ErrorCode.BAD_INPUT, "The URL cannot be used.") from None
            except aiohttp.ClientSSLError:
                raise _broken(at, "has no valid certificate") from None
            except TimeoutError:
                raise
            except aiohttp.ClientConnectorError:
                raise _broken(at, "cannot be connected to") from None
            except (aiohttp.ClientError, OSError, ValueError):  # ValueError: headers that aiohttp makes no sense of
                raise _broken(at, "broke off, or does not speak HTTP") from None

    async def _addresses(self, host: str, port: int) -> list[Address]:
        if address := literal(host):
            found = [address]
        elif is_numeric(host):
            raise RunFailed(ErrorCode.BAD_INPUT, "The URL's host must be a name, or an address in its usual notation.")
        else:
            try:
                found = [ip_address(each) for each in await self.resolve(host, port)]
            except gaierror:
                raise RunFailed(ErrorCode.DEPENDENCY_ERROR, f"The host {host} is unknown.") from None
            except (OSError, UnicodeError, ValueError):
                raise RunFailed(ErrorCode.DEPENDENCY_ERROR, f"The host {host} cannot be looked up.") from None
        # Of several only those that may be connected to: some public hosts have a private address beside, and nothing
        # but these will be dialled.
        checked = [each for each in dict.fromkeys(found) if may_connect(host, each, self.allowed)]
        if not checked:
            raise RunFailed(ErrorCode.BAD_INPUT, f"{host} has no public address, and ALLOWED_HOSTS does not name it.")
        return checked

    async def _write(self, at: URL, response: aiohttp.ClientResponse, path: Path) -> None:
        if (response.content_length or 0) > self.max_bytes:
            raise self._too_large(at)
        size = 0
        with _room():
            file = path.open("wb")
        with _room(), file:
            async for piece in _pieces(at, response):
                size += len(piece)
                if size > self.max_bytes:
                    raise self._too_large(at)
                await asyncio.to_thread(file.write, piece)

    def _too_large(self, at: URL) -> RunFailed:
        return RunFailed(
            ErrorCode.BAD_INPUT, f"The file at {at.host} has more than {self.max_bytes} bytes (MAX_UPLOAD_BYTES)."
        )


def parse(url: str) -> URL:
    """The URL, as it was given wherever it is one: a signature may depend on each of its characters.

    Raises:
        RunFailed: `bad_input`.
    """
    if len(url) > LONGEST_URL or "\\" in url or any(each <= " " or each == "\x7f" for each in url):
        raise _bad("is too long, or holds a space, a backslash or a control character")
    try:
        parts = urlsplit(url)
        # Else the host's name is brought into its ASCII form, and the rest is quoted.
        at = URL(url, encoded=url.isascii())
        host, port = host_of(at), at.port
    except ValueError:
        raise _bad("cannot be read") from None
    if parts.scheme.lower() not in {"http", "https"}:
        raise _bad("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise _bad("must not hold a user or a password")
    in_brackets = "[" in parts.netloc
    if not port or "%" in host or not (literal(host) if in_brackets else _NAME.fullmatch(host)):
        raise _bad("has no host, or one that is neither a name nor an address")
    return at if at.raw_path else at.join(URL(f"/?{at.raw_query_string}" if at.raw_query_string else "/", encoded=True))


def host_of(at: URL) -> str:
    """As it is looked up and compared: in ASCII and lower case, without brackets or a dot at its end."""
    return (at.raw_host or "").lower().removesuffix(".")


def redirected(at: URL, location: str | None) -> URL:
    """Where an answer sends us.

    Raises:
        RunFailed: `bad_input`: nowhere, or where we do not go.
    """
    if not location:
        raise RunFailed(ErrorCode.BAD_INPUT, f"{at.host} redirects, but does not say where to.")
    try:
        following = parse(urljoin(str(at), location))
    except (RunFailed, ValueError):
        raise RunFailed(ErrorCode.BAD_INPUT, f"{at.host} redirects to a URL that cannot be used.") from None
    if (at.scheme, following.scheme) == ("https", "http"):
        raise RunFailed(ErrorCode.BAD_INPUT, f"{at.host} redirects from https to http.")
    return following


def _must_be_a_file(at: URL, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TRY_LATER:
        raise RunFailed(ErrorCode.DEPENDENCY_ERROR, f"{at.host} answered {status}.", retry_after=_retry_after(response))
    if status != HTTPStatus.OK:
        raise RunFailed(ErrorCode.BAD_INPUT, f"{at.host} answered {status}: there is no recording to be had.")
    # It was asked not to: unpacked, a few bytes may be a disk full.
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise RunFailed(ErrorCode.BAD_INPUT, f"{at.host} sends the file compressed, which was not asked for.")
    if response.content_type in PAGES:
        raise RunFailed(ErrorCode.BAD_INPUT, f"{at.host} sends a web page, not a recording.")


def _retry_after(response: aiohttp.ClientResponse) -> timedelta | None:
    told = response.headers.get("Retry-After", "")
    if not (told.isascii() and told.isdigit() and len(told) <= len(str(LONGEST_RETRY_AFTER))):
        return None
    return timedelta(seconds=min(int(told), LONGEST_RETRY_AFTER))


async def _pieces(at: URL, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_chunked(PIECE):
            yield piece
    except TimeoutError:
        raise
    except (aiohttp.ClientError, OSError):
        raise _broken(at, "broke off in the middle of the file") from None


@contextmanager
def _room() -> Iterator[None]:
    """What goes wrong with the file itself."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise RunFailed(ErrorCode.STORAGE_ERROR, f"The recording cannot be kept here ({error.strerror}).") from error


def _broken(at: URL, what: str) -> RunFailed:
    return RunFailed(ErrorCode.DEPENDENCY_ERROR, f"{at.host} {what}.")


def _bad(what: str) -> RunFailed:
    return RunFailed(ErrorCode.BAD_INPUT, f"The URL {what}.")


class _Pinned(AbstractResolver):
    """Knows one host: the one that was looked up, by the addresses that were checked."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=AF_INET if address.version == 4 else AF_INET6,
                proto=0,
                flags=AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def _only(addresses: Sequence[Address]) -> Callable[[AddrInfoType], socket]:
    """Makes sockets for these addresses and no other, whatever led there."""

    def opened(wanted: AddrInfoType) -> socket:
        family, kind, protocol, _, address = wanted
        if ip_address(str(address[0])) not in addresses:
            raise OSError("this address was not checked")
        made = socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return opened
