"""The scheduler:

every second its leader sees to what no event will. Any number may run; one leads, the rest stand by.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import structlog

from domain.errors import StorageUnavailable
from domain.ports import Leadership
from domain.usecases.reconcile import Reconcile

log = structlog.get_logger()

INTERVAL = 1.0
LEAD_LASTS = timedelta(seconds=5)
"""A leader that dies is replaced after this; one that stops resigns at once."""

FRESH_START = 15.0
"""Seconds that workers get to renew their leases after the storage was away: nobody could, so nobody is to blame."""


@dataclass
class Scheduler:
    reconcile: Reconcile
    leadership: Leadership
    id: UUID = field(default_factory=uuid4)
    leading: bool | None = None
    """Not known before the first tick."""
    _trusting_until: float = 0.0

    async def run(self) -> None:
        """Tick until cancelled, then resign."""
        try:
            while True:
                await self._tick_safely()
                await asyncio.sleep(INTERVAL)
        finally:
            await self.stop()

    async def tick(self) -> None:
        """Lead if nobody else does, and do one round of work."""
        leads = await self.leadership.lead(self.id, LEAD_LASTS)
        if leads is not self.leading:
            log.info("scheduler leads" if leads else "scheduler stands by")
            self.leading = leads
        if leads:
            done = await self.reconcile.round(rescue=time.monotonic() >= self._trusting_until)
            if done.promoted or done.rescued:
                log.info("jobs set in motion", promoted=done.promoted, rescued=done.rescued)

    async def stop(self) -> None:
        if self.leading:
            self.leading = False
            try:
                await self.leadership.resign(self.id)
            except StorageUnavailable as error:
                log.warning("lead not resigned", reason=str(error))

    async def _tick_safely(self) -> None:
        try:
            await self.tick()
        except StorageUnavailable as error:
            log.warning("storage is away", reason=str(error))
            self._trusting_until = time.monotonic() + FRESH_START
        except Exception:  # the next second is another chance
            log.exception("scheduler tick failed")
