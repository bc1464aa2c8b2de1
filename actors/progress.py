"""Tells how far a run is: not all that it says of itself, but the last of it, about once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import structlog
from msgspec import Raw

from domain.errors import LeaseLost, StorageUnavailable

log = structlog.get_logger()

EVERY = 1.0
"""Seconds between two that are stored."""

LARGEST = 1 << 16
"""Bytes, as JSON."""


class Progress:
    """That of one run. Called with what it says, on any thread."""

    def __init__(self, keep: Callable[[Raw], Awaitable[None]]) -> None:
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._latest: Raw | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    def __call__(self, figures: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: this is too large.
        """
        progress = msgspec.json.encode(figures)
        if len(progress) > LARGEST:
            raise ValueError(f"{len(progress)} bytes of progress; at most {LARGEST} are kept")
        with suppress(RuntimeError):  # the loop is closed: nothing runs any more
            self._loop.call_soon_threadsafe(self._put, Raw(progress))

    def end(self) -> None:
        """Keep no more: how the run ended says it all. What is being kept is not broken off."""
        self._latest = None
        self._over.set()

    def _put(self, progress: Raw) -> None:
        if self._over.is_set():
            return
        self._latest = progress
        if self._keeping is None:
            self._keeping = self._loop.create_task(self._keep_on())

    async def _keep_on(self) -> None:
        while (latest := self._latest) is not None:
            self._latest = None
            try:
                await self._keep(latest)
            except (LeaseLost, StorageUnavailable):
                pass  # the renewal of the lease hears of it, and decides
            except Exception as error:  # a run must not end over it
                log.warning("progress not kept", reason=type(error).__name__)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), EVERY)
        self._keeping = None


@contextmanager
def progress(keep: Callable[[Raw], Awaitable[None]]) -> Iterator[Progress]:
    """That of a run that lasts as long as this context."""
    telling = Progress(keep)
    try:
        yield telling
    finally:
        telling.end()
