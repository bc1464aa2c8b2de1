"""A queue in front of a model server in virtual time: what a limit costs and brings, in milliseconds of real time.

The server works on so many calls at once; so many more wait in it, the rest is refused. A refused job is tried again
after a while, in its old place, as the service does.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

from domain.adaptive import Adapted, Pressure, Workload, adapt

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class SimulatedServer:
    """Times are seconds."""

    capacity: int
    waiting_room: int
    service_time: float = 1.0
    spread: float = 0.2
    """Half the width of the service times, as a part of their mean."""
    refusal_time: float = 0.05
    """A refusal comes after so long."""
    tells: bool = True
    """Whether it has metrics."""


@dataclass
class Outcome:
    """What came of it; seconds, in the order in which jobs completed."""

    calls: list[float] = field(default_factory=list)
    """How long calls took that were answered."""
    jobs: list[float] = field(default_factory=list)
    """From the first start of a job to its completion."""
    completed_at: list[float] = field(default_factory=list)
    refused: int = 0
    limits: list[int] = field(default_factory=list)
    """At each second."""

    @property
    def throughput(self) -> float:
        """Jobs per second, from start to end."""
        return len(self.completed_at) / self.completed_at[-1]

    def rate(self, since: float) -> float:
        """Jobs per second after that time."""
        return sum(at > since for at in self.completed_at) / (self.completed_at[-1] - since)


Limit = Callable[[Adapted | None, Workload, Pressure | None, datetime], Adapted]


def adaptive(bound: int) -> Limit:
    return lambda adapted, workload, pressure, now: adapt(adapted, workload, pressure, bound, now)


def fixed(limit: int) -> Limit:
    return lambda adapted, workload, pressure, now: Adapted(limit=limit)


@dataclass
class Simulation:
    """One queue, one server.

    Args:
        limit: what sets the queue's limit, once a second.
        claim_time: seconds from the end of a run to the start of the next in its slot.
        retry_delay: seconds after which a refused job is due again.
    """

    server: SimulatedServer
    limit: Limit
    claim_time: float = 0.01
    retry_delay: float = 1.0
    seed: int = 1

    now: float = 0.0
    adapted: Adapted | None = None
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._due: list[int] = []
        self._added = 0
        self._first_started: dict[int, float] = {}
        self._busy = 0
        self._working = 0
        self._waiting: list[tuple[int, float]] = []
        self._completed = self._overloads = 0
        self._tick()

    def add(self, jobs: int) -> None:
        """So many more jobs are due."""
        for job in range(self._added, self._added + jobs):
            heapq.heappush(self._due, job)
        self._added += jobs
        self._claim()

    def run(self, seconds: float) -> Outcome:
        """Go on for so long."""
        until = self.now + seconds
        while self._events[0][0] <= until:
            self._step()
        self.now = until
        return self.outcome

    def drain(self) -> Outcome:
        """Go on until all is done."""
        while len(self.outcome.jobs) < self._added:
            self._step()
        return self.outcome

    def _step(self) -> None:
        self.now, _, event = heapq.heappop(self._events)
        event()

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def _tick(self) -> None:
        workload = Workload(self._completed, self._overloads, self._busy, len(self._due), slots=1_000)
        pressure = Pressure(self._working, len(self._waiting)) if self.server.tells else None
        self._completed = self._overloads = 0
        self.adapted = self.limit(self.adapted, workload, pressure, START + timedelta(seconds=self.now))
        self.outcome.limits.append(self.adapted.slots)
        self._claim()
        self._after(1.0, self._tick)

    def _claim(self) -> None:
        assert self.adapted is not None
        while self._due and self._busy < self.adapted.slots:
            self._busy += 1
            self._start(heapq.heappop(self._due))

    def _start(self, job: int) -> None:
        self._first_started.setdefault(job, self.now)
        if self._working < self.server.capacity:
            self._work(job, self.now)
        elif len(self._waiting) < self.server.waiting_room:
            self._waiting.append((job, self.now))
        else:
            self._after(self.server.refusal_time, lambda: self._refuse(job))

    def _work(self, job: int, called_at: float) -> None:
        self._working += 1
        spread = self.server.spread
        self._after(
            self.server.service_time * self._random.uniform(1 - spread, 1 + spread), lambda: self._end(job, called_at)
        )

    def _end(self, job: int, called_at: float) -> None:
        self._working -= 1
        if self._waiting:
            self._work(*self._waiting.pop(0))
        self._completed += 1
        self.outcome.calls.append(self.now - called_at)
        self.outcome.jobs.append(self.now - self._first_started[job])
        self.outcome.completed_at.append(self.now)
        self._after(self.claim_time, self._free)

    def _refuse(self, job: int) -> None:
        self._overloads += 1
        self.outcome.refused += 1
        self._after(self.retry_delay, lambda: self._retry(job))
        self._after(self.claim_time, self._free)

    def _retry(self, job: int) -> None:
        heapq.heappush(self._due, job)
        self._claim()

    def _free(self) -> None:
        self._busy -= 1
        self._claim()
