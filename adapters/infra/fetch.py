"""One request to a target, bounded in what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from msgspec import Struct

from adapters.infra.trouble import TargetTrouble, broken_call

LONGEST = 16 << 20
"""Bytes of a page: a machine with hundreds of containers has some."""

HEADERS = {"accept": "text/plain; version=0.0.4, */*; q=0.1", "accept-encoding": "identity"}


class Address(Struct, frozen=True):
    """Where a target is, and what opens it."""

    url: httpx.URL
    """Without user and password: it may be shown by what fails over it."""
    auth: httpx.Auth | None = None

    @classmethod
    def of(cls, url: str, usual_path: str) -> Address:
        """
        Args:
            usual_path: what is asked for where the URL ends with its host.
        """
        whole = httpx.URL(url)
        path = usual_path if whole.path in ("", "/") else whole.path
        bare = whole.copy_with(userinfo=b"", path=path)
        return cls(bare, httpx.BasicAuth(whole.username, whole.password) if whole.userinfo else None)

    def beside(self, name: str) -> Address:
        """What lies in the same folder."""
        return Address(self.url.join(name), self.auth)


class Page(Struct, frozen=True):
    status: int
    body: bytes

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


def open_client() -> httpx.AsyncClient:
    """A client for any number of targets; of one event loop. Proxies that the environment names are not asked."""
    return httpx.AsyncClient(timeout=None, trust_env=False, follow_redirects=False, headers=HEADERS)  # noqa: S113  # whoever asks has a time-out of their own


async def fetch(client: httpx.AsyncClient, address: Address, longest: int) -> Page:
    """What the target answers; while it is silent this does not end.

    Raises:
        TargetTrouble: it answers nothing, or more than is read.
    """
    body = bytearray()
    with _broken():
        async with client.stream("GET", address.url, auth=address.auth or httpx.USE_CLIENT_DEFAULT) as response:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise TargetTrouble("It packs its answer, which nobody asked for.")
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > longest:
                    raise TargetTrouble(f"Its answer is longer than {longest >> 20} MiB.")
    return Page(response.status_code, bytes(body))


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise broken_call(error) from error
