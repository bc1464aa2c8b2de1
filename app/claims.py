"""Claims of external workers, which may wait for jobs, and which end with the worker who made them."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol

from app.watch import Watch
from domain.access import Caller
from domain.errors import LeaseLost
from domain.job import Job
from domain.ports import ExternalClaim
from domain.usecases.lend import Lend

LOOK_EVERY = 1.0
"""Seconds, give or take a quarter, between two claims of a waiting worker: of a job that becomes due no event tells."""


class Presence(Protocol):
    """Whoever waits for an answer."""

    @property
    def gone(self) -> bool:
        """Whether they have hung up."""

    async def wait(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for this, but not longer than they do."""


@dataclass(frozen=True)
class Claims:
    lend: Lend
    watch: Watch
    lease: timedelta
    """Of a claim that names none."""
    look_every: float = LOOK_EVERY

    async def claim(self, caller: Caller, wanted: ExternalClaim, seconds: float, worker: Presence) -> list[Job]:
        """Jobs for a worker; where there are none, the first that come within this time.

        Nothing is claimed for a worker that has gone: its jobs would wait for the end of a lease that nobody holds.

        Raises:
            Forbidden, StorageUnavailable.
        """
        until = monotonic() + seconds
        while not worker.gone:
            if claimed := await self.lend.claim(caller, wanted):
                return claimed if not worker.gone else await self._give_back(caller, claimed)
            if (left := until - monotonic()) <= 0 or self.watch.dismissed:
                break
            pause = self.look_every * random.uniform(0.75, 1.25)  # noqa: S311  # so that workers do not look in step
            await worker.wait(self.watch.work(min(left, pause)))
        return []

    async def _give_back(self, caller: Caller, claimed: list[Job]) -> list[Job]:
        for job in claimed:
            if job.lease is not None:
                with suppress(LeaseLost):  # cancelled meanwhile: just as well
                    await self.lend.release(caller, job.lease)
        return []
