"""The scheduler: every second its leader sees to what no event will.

Any number may run; one leads, the rest stand by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import structlog
from msgspec.structs import asdict

from domain.errors import StorageUnavailable
from domain.job import WORKER_LEASE
from domain.policy import Policies
from domain.ports import Leadership
from domain.usecases.prune import Prune
from domain.usecases.reconcile import Reconcile
from domain.usecases.regulate import Regulate

log = structlog.get_logger()

INTERVAL = 1.0
LEAD_LASTS = timedelta(seconds=5)
"""A leader that dies is replaced after this; one that stops resigns at once."""

STEADY = WORKER_LEASE
"""Nobody is rescued before leaders have followed one another for so long without a gap: workers that live have renewed
their leases by then, whatever was before, an outage, a suspended machine or a clock that was set.
"""


QUEUES, CHORES, PRUNING = "all queues", "all chores", "all old jobs"
"""What goes on beside the rounds for no queue of its own: no name of a queue has a space in it."""


def _untold(seconds: float) -> None:
    """Nobody wants to know."""


@dataclass
class Scheduler:
    reconcile: Reconcile
    regulate: Regulate
    policies: Callable[[], Policies]
    """Those that are configured at this moment."""
    leadership: Leadership
    prune: Prune | None = None
    """None: old jobs stay."""
    led: Callable[[float], None] = _untold
    """Told after each round how many seconds it took."""
    id: UUID = field(default_factory=uuid4)
    leading: bool | None = None
    """Not known before the first tick."""
    monotonic: Callable[[], float] = time.monotonic
    _led_at: float = float("-inf")
    _in_force: Policies | None = None
    """What this scheduler has put in force since it leads."""
    _beside: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """What goes on beside the rounds: for queues by their names, and the look at all of them, and chores."""

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
        asked_at = self.monotonic()
        led_for = await self.leadership.lead(self.id, LEAD_LASTS)
        self._note(led_for is not None, asked_at)
        if led_for is not None:
            await self._put_in_force()
            self._begin(QUEUES, self._regulate)
            self._begin(CHORES, self.reconcile.tidy)
            self._begin(PRUNING, self._prune)
            done = await self.reconcile.round(self._in_force, rescue=led_for >= STEADY)
            if any(asdict(done).values()):
                log.info("jobs set in motion", **asdict(done))
            self.led(self.monotonic() - asked_at)

    def _note(self, leads: bool, asked_at: float) -> None:
        if leads is not self.leading:
            log.info("scheduler leads" if leads else "scheduler stands by")
        if leads is not self.leading or asked_at - self._led_at >= LEAD_LASTS.total_seconds():
            self._in_force = None  # another may have led meanwhile, by other policies
        self.leading = leads
        self._led_at = asked_at

    async def _put_in_force(self) -> None:
        policies = self.policies()
        if policies == self._in_force:
            return
        try:
            await self.regulate.put_in_force(policies)
            if unknown := sorted(policies.queues.keys() - {*self.regulate.routes().queues}):
                log.warning("queues configured that no profile is bound to", queues=unknown)
            self._in_force = policies
        except StorageUnavailable:
            raise
        except Exception:  # no policy is worth that nobody is rescued any more
            log.exception("policies not put in force")

    async def _regulate(self) -> None:
        for state in await self.regulate.wanting():
            self._begin(state.name, partial(self.regulate.regulate, state))

    async def _prune(self) -> None:
        if self.prune and (pruned := await self.prune.tick()):
            log.info("jobs pruned", **{str(status): jobs for status, jobs in pruned.by_status().items()})

    def _begin(self, about: str, work: Callable[[], Awaitable[None]]) -> None:
        """Beside the rounds: a server that hangs must hold nothing up but the next question to it."""
        before = self._beside.get(about)
        if before is None or before.done():
            self._beside[about] = asyncio.create_task(_safely(work, about))

    async def stop(self) -> None:
        await self._stop_regulating()
        if self.leading:
            self.leading = False
            try:
                await self.leadership.resign(self.id)
            except StorageUnavailable as error:
                log.warning("lead not resigned", reason=str(error))

    async def _stop_regulating(self) -> None:
        while running := [task for task in self._beside.values() if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def tick_safely(self) -> None:
        """Tick, whatever happens."""
        try:
            await self.tick()
        except StorageUnavailable as error:
            log.warning("storage is away", reason=str(error))
        except Exception:  # the next second is another chance
            log.exception("scheduler tick failed")


async def _safely(work: Callable[[], Awaitable[None]], about: str) -> None:
    try:
        await work()
    except StorageUnavailable as error:
        log.warning("work beside the rounds failed", about=about, reason=str(error))
    except Exception:  # the next second is another chance
        log.exception("work beside the rounds failed", about=about)
