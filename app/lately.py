"""What is read now and then, for whoever asks more often, and will not wait for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from domain.errors import StorageUnavailable

T = TypeVar("T")

log = structlog.get_logger()

PATIENCE = 3.0
"""Seconds that anybody waits."""


class Lately(Generic[T]):
    """Reads one at a time, and only when somebody asks. Of one event loop."""

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        *,
        lasts: float,
        patience: float = PATIENCE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            lasts: seconds for which what was read is given out again.
            patience: seconds that whoever asks waits at most.
        """
        self._read = read
        self._lasts = lasts
        self._patience = patience
        self._monotonic = monotonic
        self._known: tuple[float, T] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def get(self) -> T | None:
        """None while it cannot be read, or not in time."""
        if (young := self._young()) is not None:
            return young
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_safely())
        # Not cancelled where it takes longer: PostgreSQL would go on all the same, and the next one asks for it again.
        await asyncio.wait({self._reading}, timeout=self._patience)
        return self._young()

    async def aclose(self) -> None:
        """Read nothing any more."""
        if self._reading and not self._reading.done():
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    def _young(self) -> T | None:
        if self._known is None or self._monotonic() - self._known[0] >= self._lasts:
            return None
        return self._known[1]

    async def _read_safely(self) -> None:
        try:
            read = await self._read()
            self._known = self._monotonic(), read
        except StorageUnavailable:
            self._known = None
        except Exception:  # a page that lacks something is better than none
            log.exception("figures not read")
            self._known = None
