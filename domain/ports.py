"""What the domain needs from the outside. Adapters provide it; use cases are handed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from domain.chat import ChatAnswer, ChatRequest
from domain.job import Job, JobId, JobStatus, Lease, LeasedJob, NewJob, Settlement


class Claim(Struct, frozen=True):
    """A request for jobs of one queue: the most urgent due ones that this worker can run, at most `limit` of them."""

    queue: str
    task_types: tuple[str, ...]
    model_profiles: tuple[str, ...]
    worker_id: str
    lease: timedelta
    limit: int


class Exchange(Struct, frozen=True):
    """What came of settling ended runs and claiming new ones in one go."""

    claimed: tuple[LeasedJob, ...] = ()
    lost: frozenset[Lease] = frozenset()
    """Settlements whose run no longer held its job: they changed nothing."""
    refused: Mapping[Lease, str] = {}
    """Settlements that could not be stored, each with the reason. Their jobs are still running."""
    replaced: Mapping[Lease, Settlement] = {}
    """What was stored instead of a refused settlement."""


class JobFilter(Struct, frozen=True):
    """Which jobs; several values of one field mean any of them, an empty field means all."""

    owner_service: tuple[str, ...] = ()
    task_type: tuple[str, ...] = ()
    model_profile: tuple[str, ...] = ()
    status: tuple[JobStatus, ...] = ()


class Demand(Struct, frozen=True):
    """What a queue has to do and who is free to do it."""

    queue: str
    due: int
    """Jobs that could start now; counted up to `DEMAND_LIMIT`."""
    slots: int
    """Slots of its live workers."""
    idle: int
    """Slots of them that run nothing."""


DEMAND_LIMIT = 1_000


class WorkerBeat(Struct, frozen=True):
    """A built-in worker process saying that it lives."""

    id: UUID
    worker_id: str
    host: str
    queues: tuple[str, ...]
    slots_per_queue: int
    running: Mapping[str, int]
    """Jobs that it runs now, by queue."""


class JobStore(Protocol):
    """Where jobs live. Its clock alone decides leases and `run_at`; every change is atomic.

    Every method raises `StorageUnavailable` while the storage cannot be reached; nothing is half done then.
    """

    async def add(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Store new jobs, all or none, in the order given. Adding a job that is already there changes nothing."""

    async def get(self, job_id: JobId) -> Job:
        """The whole job.

        Raises:
            JobNotFound: there is none.
        """

    async def statuses(self, job_ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """The states of those of these jobs that exist."""

    async def find(self, where: JobFilter, *, limit: int, before: int | None = None) -> list[Job]:
        """Jobs without input and result, newest first; `before` is the `seq` of the last one already seen."""

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        """Settle ended runs, then claim: one commit. A settlement that was stored before counts as stored."""

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        """Extend leases from now on. Returns those that are no longer current."""

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        """Give back this worker's running jobs of a queue that are not among `held`: their claim's answer was lost.

        Returns how many they were.
        """

    async def cancel(self, job_id: JobId) -> Job:
        """Cancel a pending or running job; the lease of its run is revoked.

        Raises:
            JobNotFound, InvalidTransition.
        """

    async def retry(self, job_id: JobId) -> Job:
        """Start a failed, cancelled or running job afresh.

        Raises:
            JobNotFound, InvalidTransition.
        """

    async def promote_due(self) -> dict[str, int]:
        """Make claimable what has become due. Returns how many by queue."""

    async def rescue_expired(self, max_crashes: int) -> dict[str, int]:
        """Take running jobs whose lease ran out from their workers. Returns how many went back, by queue."""

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        """What each of these queues has to do, with the workers whose last beat is younger than `alive_within`."""

    async def beat(self, beat: WorkerBeat) -> None:
        """Note that a worker process lives."""

    async def forget_worker(self, worker: UUID, older_than: timedelta) -> None:
        """Strike a worker process that has left, and those not heard of for `older_than`."""

    async def ping(self) -> None:
        """Return when the storage answers."""


class Leadership(Protocol):
    """One scheduler among several leads. A former leader that acts once more does no harm: its actions are guarded."""

    async def lead(self, holder: UUID, ttl: timedelta) -> bool:
        """Take or keep the lead. True while it is ours."""

    async def resign(self, holder: UUID) -> None:
        """Give the lead up at once, so that another need not wait for it to run out."""


class Tickets(Protocol):
    """Wakes workers: a ticket says "there may be work on this queue". A lost one costs time, never a job."""

    def publish(self, queue: str, count: int) -> None:
        """Hand tickets over for delivery. Returns at once and never raises."""

    async def waiting(self, queue: str) -> int | None:
        """Tickets that lie in the broker undelivered, or None while that cannot be known."""

    async def reachable(self) -> bool:
        """Whether the broker answers."""


class ChatProvider(Protocol):
    """A chat model behind some API."""

    async def chat(self, request: ChatRequest, job: LeasedJob) -> ChatAnswer:
        """Ask it.

        Raises:
            RunFailed: with the error code that its answer, or its silence, stands for.
        """
