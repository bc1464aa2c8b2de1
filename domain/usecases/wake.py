"""Decide how many tickets a queue needs. Tickets only wake idle slots: a busy slot takes its next job by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from domain.errors import StorageUnavailable
from domain.ports import JobStore, Tickets
from domain.telemetry import NO_TELEMETRY, Telemetry

LOOK_LASTS = 1.0
"""Seconds for which a look at a queue's backlog is believed."""

WELL_BACKLOGGED = 10
"""Due jobs per slot from which on no slot can fall idle before the next look, unless its jobs take under 0.1 s."""

MOST_TICKETS = 64
"""Tickets for one batch at most; what they wake goes on by itself, and the scheduler tops up the rest."""

DEAD_AFTER = timedelta(seconds=15)
"""A worker whose last beat is older counts no slots."""


@dataclass
class Wake:
    jobs: JobStore
    tickets: Tickets
    monotonic: Callable[[], float]
    telemetry: Telemetry = NO_TELEMETRY
    _backlogged: dict[str, bool] = field(default_factory=dict)
    _looked_at: dict[str, float] = field(default_factory=dict)

    async def for_jobs(self, counts: Mapping[str, int]) -> None:
        """Wake slots for jobs that have just become claimable. A storage that is away is no error: they are stored."""
        for queue, count in counts.items():
            if not self._backlogged.get(queue) or self._look_is_old(queue):
                tickets = min(count, MOST_TICKETS)
                self.tickets.publish(queue, tickets)
                self.telemetry.woken(queue, tickets)
        # Looked at afterwards: the ticket is on its way before anybody waits for a query.
        await self._look_at([queue for queue in counts if self._look_is_old(queue)])

    async def top_up(self, queues: Sequence[str]) -> None:
        """Publish what lost or burnt tickets leave missing: no more than there are jobs that could start now."""
        for demand in await self.jobs.demand(queues, DEAD_AFTER):
            wanted = demand.startable
            if wanted and (waiting := await self.tickets.waiting(demand.queue)) is not None and waiting < wanted:
                self.tickets.publish(demand.queue, wanted - waiting)
                self.telemetry.woken(demand.queue, wanted - waiting, again=True)

    def _look_is_old(self, queue: str) -> bool:
        return self.monotonic() - self._looked_at.get(queue, -LOOK_LASTS) >= LOOK_LASTS

    async def _look_at(self, queues: Sequence[str]) -> None:
        if not queues:
            return
        self._looked_at.update(dict.fromkeys(queues, self.monotonic()))
        try:
            demands = await self.jobs.demand(queues, DEAD_AFTER)
        except StorageUnavailable:
            return
        self._backlogged.update({demand.queue: demand.due > WELL_BACKLOGGED * demand.slots for demand in demands})
