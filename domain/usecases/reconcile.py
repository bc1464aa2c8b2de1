"""What the scheduler's leader does every second, so that nothing waits for an event that was lost."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from msgspec import Struct

from domain.errors import StorageUnavailable
from domain.job import JobStatus
from domain.ports import Events, JobStore
from domain.routing import Routes
from domain.usecases.wake import Wake


class Reconciled(Struct, frozen=True):
    """How many jobs one round set in motion."""

    promoted: int
    rescued: int


@dataclass(frozen=True)
class Reconcile:
    jobs: JobStore
    routes: Routes
    wake: Wake
    events: Events
    max_crashes: int
    retry_delay: timedelta
    """Before a job whose external worker let its lease run out is tried again."""

    async def round(self, *, rescue: bool = True) -> Reconciled:
        """Promote what is due, rescue what lost its worker, and see that there are tickets for it all.

        Args:
            rescue: False while leases may have run out although their workers live.
        """
        promoted = await self.jobs.promote_due()
        rescued = await self.jobs.rescue_expired(self.max_crashes, self.retry_delay) if rescue else []
        self.events.publish(rescued)
        back = Counter(event.queue for event in rescued if event.queue and event.kind == JobStatus.PENDING)
        # The dead worker's own tickets were redelivered and burnt as empty before the rescue: these are fresh ones.
        await self.wake.for_jobs(Counter(promoted) + back)
        await self.wake.top_up(self.routes.queues)
        # Figures only: a fold that takes too long must not look like a storage that is away, and hold up rescues.
        with suppress(StorageUnavailable):
            await self.jobs.fold_tallies()
        return Reconciled(sum(promoted.values()), len(rescued))
