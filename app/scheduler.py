"""The scheduler: every second its leader sees to what no event will.

Any number may run; one leads, the rest stand by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import structlog
from msgspec.structs import asdict

from domain.errors import StorageUnavailable
from domain.policy import Policies
from domain.ports import Leadership
from domain.usecases.reconcile import Reconcile
from domain.usecases.regulate import Regulate

log = structlog.get_logger()

INTERVAL = 1.0
LEAD_LASTS = timedelta(seconds=5)
"""A leader that dies is replaced after this; one that stops resigns at once."""

RENEWED_WITHIN = 15.0
"""Seconds after an outage of PostgreSQL in which nobody is rescued: workers that live renew their leases first.

Also after a start: a scheduler that comes up together with PostgreSQL has not seen how long that was away.
"""


@dataclass
class Scheduler:
    reconcile: Reconcile
    regulate: Regulate
    policies: Callable[[], Policies]
    """Those that are configured at this moment."""
    leadership: Leadership
    id: UUID = field(default_factory=uuid4)
    leading: bool | None = None
    """Not known before the first tick."""
    monotonic: Callable[[], float] = time.monotonic
    _rescue_from: float = field(init=False)
    _in_force: Policies | None = None
    """What this scheduler has put in force since it leads."""
    _regulating: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._spare_workers()

    async def run(self) -> None:
        """Tick until cancelled, then resign."""
        try:
            while True:
                await self.tick_safely()
                await asyncio.sleep(INTERVAL)
        finally:
            await self.stop()

    async def tick(self) -> None:
        """Lead if nobody else does, and do one round of work."""
        leads = await self.leadership.lead(self.id, LEAD_LASTS)
        if leads is not self.leading:
            log.info("scheduler leads" if leads else "scheduler stands by")
            self.leading = leads
            self._in_force = None
        if leads:
            await self._put_in_force()
            self._regulate()
            done = await self.reconcile.round(rescue=self.monotonic() >= self._rescue_from)
            if any(asdict(done).values()):
                log.info("jobs set in motion", **asdict(done))

    async def _put_in_force(self) -> None:
        policies = self.policies()
        if policies != self._in_force:
            await self.regulate.put_in_force(policies)
            self._in_force = policies

    def _regulate(self) -> None:
        """Beside the round: a server that hangs must hold nothing up but the next question to it."""
        if self._regulating is None or self._regulating.done():
            self._regulating = asyncio.create_task(self._regulate_safely())

    async def _regulate_safely(self) -> None:
        try:
            await self.regulate.round()
        except StorageUnavailable as error:
            log.warning("queues not regulated", reason=str(error))
        except Exception:  # the next second is another chance
            log.exception("queues not regulated")

    async def stop(self) -> None:
        if self._regulating:
            self._regulating.cancel()
            await asyncio.wait([self._regulating])
        if self.leading:
            self.leading = False
            try:
                await self.leadership.resign(self.id)
            except StorageUnavailable as error:
                log.warning("lead not resigned", reason=str(error))

    async def tick_safely(self) -> None:
        """Tick, whatever happens."""
        try:
            await self.tick()
        except StorageUnavailable as error:
            self._spare_workers()
            log.warning("storage is away", reason=str(error))
        except Exception:  # the next second is another chance
            log.exception("scheduler tick failed")

    def _spare_workers(self) -> None:
        self._rescue_from = self.monotonic() + RENEWED_WITHIN
