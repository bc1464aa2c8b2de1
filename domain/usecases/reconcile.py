"""What the scheduler's leader does every second, so that nothing waits for an event that was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from domain.events import JobEvent
from domain.job import JobStatus
from domain.policy import Policies
from domain.ports import Events, JobStore, RescueTerms, UploadStore
from domain.routing import Routes
from domain.telemetry import NO_TELEMETRY, Change, Telemetry
from domain.usecases.preempt import Preempt
from domain.usecases.wake import Wake

TENDED_EVERY = 30.0
"""Seconds between two looks for what a crash or a race may have left of lines: it stops all claims for a moment."""

PRUNED_EVERY = 5.0
"""Seconds between two looks for uploads that nobody needs any more."""

FOLDED_AT_LEAST_EVERY = 5.0
"""Seconds between two looks for changes to add up, while nothing changes."""

ROUTED_EVERY = 30.0
"""Seconds between two looks for jobs without a queue that could have one, where nothing has changed."""


class Reconciled(Struct, frozen=True):
    """How many jobs one round set in motion."""

    promoted: int = 0
    rescued: int = 0
    expired: int = 0
    """Cancelled, because they were not started by their deadline."""
    preempted: int = 0


@dataclass
class Reconcile:
    jobs: JobStore
    chores: JobStore
    """The same jobs, over other connections."""
    routes: Callable[[], Routes]
    """Those of this moment."""
    wake: Wake
    preempt: Preempt
    events: Events
    terms: RescueTerms
    monotonic: Callable[[], float]
    uploads: UploadStore | None = None
    """None: there are none to prune."""
    telemetry: Telemetry = NO_TELEMETRY
    _tended_at: float = float("-inf")
    _routed_at: float = float("-inf")
    _routed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _pruned_at: float = float("-inf")
    _all_folded_at: float = float("-inf")

    async def round(self, policies: Policies | None = None, *, rescue: bool = True) -> Reconciled:
        """Promote what is due, cancel what is late, rescue what lost its worker, make room for what is urgent.

        And see that there are tickets for it all.

        Args:
            policies: those in force: what none of them asks for is not looked for. None: they may ask for all.
            rescue: False while leases may have run out although their workers live.
        """
        expired = await self.jobs.expire_deadlines()
        promoted = await self.jobs.promote_due()
        if policies is None or any(policy.ageing for policy in policies.queues.values()):
            await self.jobs.age()
        rescued = await self._rescue() if rescue else []
        self.telemetry.changed(Change.EXPIRED, expired)
        self.telemetry.changed(Change.RESCUED, rescued)
        self.telemetry.promoted(promoted)
        self.events.publish([*expired, *rescued])
        preempted = sum([await self.preempt.make_room(queue) for queue in self._preempting(policies)])
        back = Counter(event.queue for event in rescued if event.queue and event.kind == JobStatus.PENDING)
        # The dead worker's own tickets were redelivered and burnt as empty before the rescue: these are fresh ones.
        await self.wake.for_jobs(Counter(promoted) + back)
        await self.wake.top_up(self.routes().queues)
        return Reconciled(sum(promoted.values()), len(rescued), len(expired), preempted)

    def _preempting(self, policies: Policies | None) -> list[str]:
        queues = self.routes().queues
        return [queue for queue in queues if policies is None or policies.of_queues([queue])[queue].preempt]

    async def _rescue(self) -> list[JobEvent]:
        rescued = await self.jobs.rescue(self.terms)
        await self.jobs.free_abandoned_slots(self.terms.steady)
        return rescued

    async def tidy(self) -> None:
        """What may take long and is not urgent: beside the rounds, lest it hold up rescues."""
        await self._route()
        await self._tend()
        await self._fold()
        await self._prune()

    async def _route(self) -> None:
        """When something else is served than before; and now and then, for jobs that were started afresh meanwhile."""
        bindings = self.routes().bindings()
        if bindings == self._routed and self.monotonic() - self._routed_at < ROUTED_EVERY:
            return
        while moved := await self.chores.route(bindings):
            await self.wake.for_jobs(moved)
        self._routed, self._routed_at = bindings, self.monotonic()

    async def _tend(self) -> None:
        if self.monotonic() - self._tended_at >= TENDED_EVERY:
            self._tended_at = self.monotonic()  # also if it fails: it would stop claims all the time
            await self.chores.tend_lines()

    async def _fold(self) -> None:
        if self.monotonic() - self._all_folded_at >= FOLDED_AT_LEAST_EVERY and not await self.chores.fold_tallies():
            self._all_folded_at = self.monotonic()

    async def _prune(self) -> None:
        if self.uploads and self.monotonic() - self._pruned_at >= PRUNED_EVERY:
            self._pruned_at = self.monotonic()
            if removed := await self.uploads.prune():
                self.telemetry.pruned("uploads", "", removed)
