"""The HTTP client of all providers: its time-outs, whom it trusts, and what may break in its hands."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from adapters.providers import classify
from domain.errors import ErrorCode, RunFailed, StartupError

CONNECT_TIMEOUT = timedelta(seconds=5)
WRITE_TIMEOUT = timedelta(seconds=30)
POOL_TIMEOUT = timedelta(seconds=10)
"""For a connection from the look-up of its host name on. Nobody waits for a place in the pool: it has no limit."""
IDLE_TIMEOUT = timedelta(seconds=60)
KEEPALIVE = 2.0
"""Seconds. Most model servers close an idle connection after five, and a job that uses it just then loses its run."""

LONGEST_ERROR = 64 << 10
LONGEST_LOOK = 1 << 20

# The aiohttp transport lets some of aiohttp's own errors through.
CALL_ERRORS = (httpx.HTTPError, aiohttp.ClientError)
NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)

ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
"""One layer of compression can be unpacked bit by bit; with two, a kilobyte becomes a gigabyte at once."""

UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. The transport would else make one of its own, as dearly as it is in vain: its sessions have theirs."""

# A proxy that compresses holds tokens back.
HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}


def utc_now() -> datetime:
    """What a provider compares the dates of a server with."""
    return datetime.now(UTC)


def open_client(
    *, idle: timedelta | None = IDLE_TIMEOUT, verify: ssl.SSLContext | bool = True, keeps_connections: bool = True
) -> httpx.AsyncClient:
    """A client for any number of providers and calls. It belongs to one event loop and is to be closed there.

    Proxies, certificates and passwords named in the environment are not used, and no cookie is kept.

    Args:
        idle: how long a server may stay silent before its answer or in the middle of it; None: for the whole call.
        verify: whom it trusts: what `tls` gives.
        keeps_connections: for further calls.
    """
    # To ask a server to close is not enough: aiohttp keeps what the server leaves open.
    kept: dict[str, Any] = {"keepalive_timeout": KEEPALIVE} if keeps_connections else {"force_close": True}

    def session() -> aiohttp.ClientSession:
        context = verify if isinstance(verify, ssl.SSLContext) else _usual(verify)
        connector = aiohttp.TCPConnector(ssl=context, limit=0, **kept)
        # The transport's own session would keep the cookies of every host that has a name.
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return httpx.AsyncClient(
        transport=AiohttpTransport(client=session, verify=UNUSED, trust_env=False),
        timeout=httpx.Timeout(
            connect=CONNECT_TIMEOUT.total_seconds(),
            write=WRITE_TIMEOUT.total_seconds(),
            pool=POOL_TIMEOUT.total_seconds(),
            read=idle.total_seconds() if idle else None,
        ),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        trust_env=False,
    )


@cache
def _usual(verify: bool) -> ssl.SSLContext:
    """Made when the first call is, and one for all clients: to read the well-known authorities takes 20 ms and 1 MB."""
    return httpx.create_ssl_context(verify=verify, trust_env=False)


def tls(ssl_verify: bool, ca_bundle: Path | None) -> ssl.SSLContext | bool:
    """Whom a client trusts: the authorities in the bundle alone, without one the well-known ones.

    Args:
        ssl_verify: False: anybody, whatever the bundle says.

    Raises:
        StartupError: nothing can be made of the bundle.
    """
    if not ssl_verify or ca_bundle is None:
        return ssl_verify
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (ssl.SSLError, OSError) as error:
        trouble = "holds no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise StartupError(f"The CA bundle {ca_bundle} cannot be used: {trouble}.") from error


def below(base_url: str, path: str) -> str:
    """An address without a path gets `/v1`; any other path is kept, with or without a slash at its end."""
    base = httpx.URL(base_url)
    beginning = base.path.rstrip("/") or "/v1"
    return str(base.copy_with(path=f"{beginning}/{path}"))


def beside(base_url: str, path: str) -> str:
    """An address beside `/v1`, whether the given one ends in it or not."""
    base = httpx.URL(base_url)
    beginning = base.path.rstrip("/").removesuffix("/v1")
    return str(base.copy_with(path=f"{beginning}/{path}"))


def bearer(api_key: str) -> dict[str, str]:
    """The header that such a key is sent in; none without a key."""
    # Not an f-string: a secret that prints as stars would be sent as stars.
    return {"authorization": "Bearer " + api_key} if api_key else {}


@asynccontextmanager
async def posted(
    client: httpx.AsyncClient, url: httpx.URL, headers: httpx.Headers, content: bytes
) -> AsyncIterator[httpx.Response]:
    """The answer to a POST as it begins.

    What `client.stream` gives, for two thirds of its processor time: it reads the address and merges headers anew each
    time, and looks for cookies, redirects and passwords, none of which a client of ours follows or keeps.

    Args:
        headers: all of them, those of the client too.
    """
    extensions = {"timeout": client.timeout.as_dict()}
    request = httpx.Request("POST", url, headers=headers, content=content, extensions=extensions)
    response = await client._transport.handle_async_request(request)
    try:
        yield response
    finally:
        await response.aclose()


@asynccontextmanager
async def within(limit: timedelta) -> AsyncIterator[None]:
    """What breaks a call in here, or outlasts the time, fails the run. A cancellation goes through untouched."""
    seconds = limit.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            yield
    # First: some of aiohttp's errors are a TimeoutError too.
    except CALL_ERRORS as error:
        raise RunFailed.of(classify.broken_call(error)) from error
    except TimeoutError as error:
        raise RunFailed(ErrorCode.TIMEOUT, f"The answer was not complete after {seconds:g} s.") from error


def pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        RunFailed: it is packed in a way that nobody asked for.
    """
    if response.headers.get("content-encoding", "").strip().lower() not in ENCODINGS:
        raise RunFailed(ErrorCode.BAD_RESPONSE, "The provider's answer is compressed in a way that was not asked for.")
    return response.aiter_bytes()


async def read(response: httpx.Response, limit: int) -> bytes:
    """The body up to about the limit; what is cut there no longer parses."""
    body = bytearray()
    await read_into(body, response, limit)
    return bytes(body)


async def read_error(response: httpx.Response) -> bytes:
    """As much of a refusal's body as comes: where it does not, the status must do."""
    body = bytearray()
    with suppress(*CALL_ERRORS, RunFailed):
        await read_into(body, response, LONGEST_ERROR)
    return bytes(body)


async def read_into(body: bytearray, response: httpx.Response, limit: int) -> None:
    async for piece in pieces(response):
        body += piece
        if len(body) > limit:
            return


async def look(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    patience: timedelta,
    body: object = None,
    longest: int = LONGEST_LOOK,
) -> Any:
    """The JSON that a server tells of itself; None where it does not, whatever the reason."""
    content = None if body is None else msgspec.json.encode(body)
    with suppress(*CALL_ERRORS, TimeoutError, RunFailed, *NOT_JSON):
        async with (
            asyncio.timeout(patience.total_seconds()),
            client.stream(method, url, content=content, headers={**HEADERS, **headers}) as response,
        ):
            return msgspec.json.decode(await read(response, longest)) if response.is_success else None
    return None
