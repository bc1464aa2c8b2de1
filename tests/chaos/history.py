"""What was seen of a run from outside: what callers were answered, what the database holds, whom the provider served.

Times are seconds since 1970, on one machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


@dataclass
class Submission:
    """A job as its caller knows it."""

    name: str
    """In its prompt and its `owner_ref`."""
    owner: str
    priority: int
    key: str = ""
    ids: list[str] = field(default_factory=list)
    """One per answer that accepted it."""
    accepted_at: float = 0.0
    """When the first of these came; 0: never."""
    scheduled: bool = False
    """Whether it was not to start at once."""


@dataclass(frozen=True)
class Job:
    id: str
    name: str
    owner: str
    queue: str | None
    priority: int
    status: str
    number: int
    attempts: int
    max_attempts: int
    crashes: int
    give_backs: int
    finished: bool
    error_code: str | None = None
    result: str | None = None
    """What the provider, or the worker outside, said."""


@dataclass(frozen=True)
class Run:
    job_id: str
    number: int
    """The change of its job's state that ended it."""
    worker: str
    """A process: its name, and what tells it from those before it."""
    began: float
    ended: float
    outcome: str
    became: str
    token: str = ""

    @property
    def place(self) -> str:
        """The name that a worker's processes have in common."""
        return self.worker.partition("/")[0]


@dataclass(frozen=True)
class Change:
    """One of a job's state that neither began nor ended a run."""

    job_id: str
    number: int
    status: str
    at: float


class End(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"
    HUNG_UP = "hung up"
    """The caller left, or the connection broke."""


@dataclass(frozen=True)
class Call:
    """A call as the provider saw it."""

    serial: int
    name: str
    """Of the job."""
    place: str
    """The worker through whose door it came."""
    began: float
    ended: float
    how: End


@dataclass(frozen=True)
class Trouble:
    """When a process may not have known or done what it should: it was ended, stopped or cut off."""

    place: str
    began: float
    ended: float
    why: str


@dataclass(frozen=True)
class Followed:
    """The ids of the events of one job in the order in which a caller got them, over several connections."""

    name: str
    ids: Sequence[str]
    resumed: int


@dataclass
class History:
    submissions: list[Submission] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    disturbances: list[tuple[float, float]] = field(default_factory=list)
    """When something was troubled that all workers, or those who rescue their jobs, depend on."""
    unordered: list[tuple[float, float]] = field(default_factory=list)
    """When a queue's order was not the usual one: its circuit was not closed."""
    followed: list[Followed] = field(default_factory=list)
    limit: int = 0
    """Of the queue's concurrency; 0: none."""
    busy: dict[str, int] = field(default_factory=dict)
    """Slots that lines believe to be taken, after all."""
    closing_slots: int = 0
    miscounted: list[str] = field(default_factory=list)
    """When the count of busy slots was not that of runs, while the run went on."""
    left: list[str] = field(default_factory=list)
    """What there was when all had been stopped: processes, connections, locks, files."""

    @cached_property
    def job_of(self) -> dict[str, Job]:
        return {job.id: job for job in self.jobs}

    @cached_property
    def job_named(self) -> dict[str, Job]:
        return {job.name: job for job in self.jobs}

    @cached_property
    def runs_of(self) -> dict[str, list[Run]]:
        """By job, in their order."""
        found: defaultdict[str, list[Run]] = defaultdict(list)
        for run in sorted(self.runs, key=lambda run: run.number):
            found[run.job_id].append(run)
        return dict(found)

    @cached_property
    def changes_of(self) -> dict[str, list[Change]]:
        found: defaultdict[str, list[Change]] = defaultdict(list)
        for change in sorted(self.changes, key=lambda change: change.number):
            found[change.job_id].append(change)
        return dict(found)

    @cached_property
    def calls_of(self) -> dict[str, list[Call]]:
        """By job's name, in the order in which they began."""
        found: defaultdict[str, list[Call]] = defaultdict(list)
        for call in sorted(self.calls, key=lambda call: call.began):
            found[call.name].append(call)
        return dict(found)

    @cached_property
    def troubles_of(self) -> dict[str, list[Trouble]]:
        found: defaultdict[str, list[Trouble]] = defaultdict(list)
        for trouble in self.troubles:
            found[trouble.place].append(trouble)
        return dict(found)

    def troubled(self, place: str, began: float, ended: float) -> Trouble | None:
        """What troubled this worker at some instant of that time."""
        return next((t for t in self.troubles_of.get(place, ()) if t.began <= ended and began <= t.ended), None)

    def run_of(self, call: Call) -> Run | None:
        """The run that made the call: the last of this worker that had begun by then."""
        job = self.job_named.get(call.name)
        runs = self.runs_of.get(job.id, ()) if job else ()
        return next((r for r in reversed(runs) if r.place == call.place and r.began <= call.began + CLOCKS), None)


CLOCKS = 0.05
"""Seconds by which two readings of the time on one machine may be confused by rounding."""
