"""Wakes those who wait for a job to become final, with one query for all of this process's waiters.

Polling is the net that catches everything; whoever hears of a final job earlier calls `notify`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from domain.errors import StorageUnavailable
from domain.job import JobId, JobStatus

logger = structlog.get_logger()

SOONEST, LATEST = 0.1, 0.5
"""Seconds between two looks: the first while somebody has just come to wait, the second when all have waited long."""

PATIENT_AFTER = 10.0


class Statuses(Protocol):
    """The part of a job store that is needed here."""

    async def statuses(self, job_ids: Sequence[JobId]) -> dict[JobId, JobStatus]: ...


@dataclass
class Watch:
    jobs: Statuses
    soonest: float = SOONEST
    _waiters: dict[JobId, set[asyncio.Event]] = field(default_factory=dict)
    _polling: asyncio.Task[None] | None = None
    _last_came: float = 0.0
    _dismissed: bool = False

    async def final(self, job_id: JobId, seconds: float) -> None:
        """Return when the job is final or gone, or when the time is up. Which of them, the job itself tells."""
        if self._dismissed:
            return
        event = asyncio.Event()
        self._waiters.setdefault(job_id, set()).add(event)
        self._last_came = asyncio.get_running_loop().time()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._leave(job_id, event)

    @property
    def waiting(self) -> int:
        """For how many jobs somebody waits."""
        return len(self._waiters)

    def notify(self, job_id: JobId) -> None:
        """The job is final, or may be: its waiters go and look."""
        for event in self._waiters.get(job_id, ()):
            event.set()

    def dismiss(self) -> None:
        """Everybody goes and looks, and nobody waits any more: the process is about to stop."""
        self._dismissed = True
        for job_id in self._waiters:
            self.notify(job_id)

    async def tick(self) -> None:
        """Look once at every job that somebody waits for."""
        asked = tuple(self._waiters)
        if not asked:
            return
        statuses = await self.jobs.statuses(asked)
        for job_id in asked:
            if (status := statuses.get(job_id)) is None or status.final:
                self.notify(job_id)

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(self._pause())
            try:
                await self.tick()
            except StorageUnavailable:
                pass  # only a delay: the next look comes
            except Exception:
                logger.exception("watch_failed")

    def _pause(self) -> float:
        waited = asyncio.get_running_loop().time() - self._last_came
        return self.soonest if waited < PATIENT_AFTER else max(self.soonest, LATEST)

    def _leave(self, job_id: JobId, event: asyncio.Event) -> None:
        events = self._waiters[job_id]
        events.discard(event)
        if not events:
            del self._waiters[job_id]
        if not self._waiters and self._polling is not None:
            self._polling.cancel()
            self._polling = None  # it is not done yet, but whoever comes next must not rely on it
