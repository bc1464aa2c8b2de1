"""Remove jobs that are final and old enough: a little at a time, so that nobody who works notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from domain.errors import StorageUnavailable
from domain.job import JobStatus
from domain.ports import JobStore, Place, Stretch
from domain.retention import PastJob, Retention, Walk
from domain.telemetry import NO_TELEMETRY, Telemetry

AT_ONCE = 500
"""Jobs that one transaction looks at or removes at most."""

BUDGET = 0.25
"""Seconds of each second that the leader spends on it at most."""

RESTS = 60.0
"""Seconds between two sweeps at least: so late a job goes."""

RESTS_TIMES = 20
"""And so many times as long as a sweep worked: jobs that stay (forever, or because they took long) are looked at again
and again, and there may be very many of them.
"""


class Pruned(Struct, frozen=True):
    """How many jobs went, or would go, by owner and state."""

    jobs: Mapping[tuple[str, JobStatus], int] = {}

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(Counter(self.jobs) + Counter(other.jobs))

    def total(self) -> int:
        return sum(self.jobs.values())

    def by_status(self) -> dict[JobStatus, int]:
        statuses: Counter[JobStatus] = Counter()
        for (_, status), jobs in self.jobs.items():
            statuses[status] += jobs
        return dict(statuses)


def _counted(jobs: Iterable[PastJob]) -> Pruned:
    return Pruned(Counter((job.owner_service, job.status) for job in jobs))


@dataclass
class Sweep:
    """One look at every job that may be old enough to go, in steps."""

    jobs: JobStore
    retention: Retention
    dry_run: bool = False
    """Only count."""
    looked_at: int = 0
    _walks: list[Walk] = field(default_factory=list)
    _after: Place | None = None

    def __post_init__(self) -> None:
        self._walks = self.retention.walks()

    @property
    def over(self) -> bool:
        return not self._walks

    async def step(self) -> Pruned:
        """Go on by some jobs, and remove those that are old enough: all of them or, where it fails, none.

        Raises:
            StorageUnavailable: the same step may be tried again.
        """
        walk = self._walks[0]
        stretch = await self.jobs.walk(walk, self._after, AT_ONCE)
        old = [job for job in stretch.jobs if walk.covers(job) and self.retention.is_over(job, stretch.now)]
        if old and not self.dry_run:
            gone = {*await self.jobs.prune(old)}
            old = [job for job in old if job.id in gone]
        self._go_on(stretch)
        return _counted(old)

    def _go_on(self, stretch: Stretch) -> None:
        self.looked_at += len(stretch.jobs)
        self._after = stretch.last
        if stretch.last is None:
            self._walks.pop(0)


@dataclass
class Prune:
    """What the leader does beside its rounds."""

    jobs: JobStore
    retention: Callable[[], Retention]
    """What holds at this moment."""
    monotonic: Callable[[], float]
    telemetry: Telemetry = NO_TELEMETRY
    _sweep: Sweep | None = None
    _in_force: Retention | None = None
    _worked: float = 0.0
    _rests_until: float = float("-inf")

    async def tick(self) -> Pruned:
        """Go on with the sweep for as long as the budget lasts; begin one where it is time, or what holds has changed.

        Returns:
            What went.

        Raises:
            StorageUnavailable: nothing went; the next tick goes on.
        """
        began, pruned = self.monotonic(), Pruned()
        sweep = self._current(began)
        try:
            while sweep and not sweep.over and self.monotonic() - began < BUDGET:
                went = await sweep.step()
                for status, jobs in went.by_status().items():
                    self.telemetry.pruned("jobs", status.value, jobs)
                pruned += went
        except StorageUnavailable:
            if not pruned:  # else what went shall be told first
                raise
        finally:
            self._worked += self.monotonic() - began
        if sweep and sweep.over:
            self._rest()
        return pruned

    def _current(self, now: float) -> Sweep | None:
        retention = self.retention()
        if retention != self._in_force or (self._sweep is None and now >= self._rests_until):
            self._in_force, self._sweep, self._worked = retention, Sweep(self.jobs, retention), 0.0
        return self._sweep

    def _rest(self) -> None:
        self._sweep = None
        self._rests_until = self.monotonic() + max(RESTS, RESTS_TIMES * self._worked)


async def sweep_now(
    jobs: JobStore,
    retention: Retention,
    *,
    monotonic: Callable[[], float],
    dry_run: bool = False,
) -> AsyncIterator[tuple[Pruned, int]]:
    """All in one go, step by step; after each it rests for as long as that took.

    Yields:
        What went, or would go, with this step, and how many jobs have been looked at so far.
    """
    sweep = Sweep(jobs, retention, dry_run)
    while not sweep.over:
        began = monotonic()
        pruned = await sweep.step()
        yield pruned, sweep.looked_at
        await asyncio.sleep(monotonic() - began)
