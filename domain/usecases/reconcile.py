"""What the scheduler's leader does every second, so that nothing waits for an event that was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from msgspec import Struct

from domain.ports import JobStore
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
    max_crashes: int

    async def round(self, *, rescue: bool = True) -> Reconciled:
        """Promote what is due, rescue what lost its worker, and see that there are tickets for it all.

        Args:
            rescue: False while workers cannot be blamed for leases that ran out: the storage itself was away.
        """
        promoted = await self.jobs.promote_due()
        rescued = await self.jobs.rescue_expired(self.max_crashes) if rescue else {}
        # The dead worker's own tickets were redelivered and burnt as empty before the rescue: these are fresh ones.
        await self.wake.for_jobs(Counter(promoted) + Counter(rescued))
        await self.wake.top_up(self.routes.queues)
        return Reconciled(sum(promoted.values()), sum(rescued.values()))
