"""How an installation shares its GPUs: what the configuration file says of queues, owners and task types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from msgspec import Struct

from domain.job import JobStatus

Kept = Mapping[JobStatus, timedelta | None]
"""How long jobs stay after they became final in a state. None: forever."""

LARGEST_SHARE = 0.5
"""A reserved share above it would no longer leave priorities the upper hand."""


class QueuePolicy(Struct, frozen=True):
    """Of one GPU queue; the defaults hold for a queue that is not configured."""

    concurrency: int | None = None
    """Jobs that run at once at most, over all workers; None: as many as its workers have slots."""
    preempt: bool = False
    """Whether a high job that finds no free slot takes that of a running low one."""
    reserved_share: float = 0.0
    """The part of GPU time that goes to less urgent jobs while more urgent ones wait, 0 to 0.5."""
    ageing: timedelta | None = None
    """After each such time of waiting a job is ordered as if it were one level more urgent; None: never."""
    adaptive: bool = False
    """Whether the limit follows what the model server can take, up to `concurrency`."""


class OwnerPolicy(Struct, frozen=True):
    """Of one owner."""

    weight: float | None = None
    """Its share of GPU time, relative to others'; None: what the token says that submits its jobs, else 1."""
    max_pending: int | None = None
    """Jobs that may wait at once; one more is refused. None: any number."""
    max_running: int | None = None
    """Jobs that may run at once, over all queues; one more waits. None: any number."""
    retention: Kept = {}
    """How long its jobs stay once they are final; a state that it does not name: as everybody's."""


class TaskPolicy(Struct, frozen=True):
    """Of one task type."""

    max_run_time: timedelta | None = None
    """A built-in worker's run that takes longer ends with `timeout`; None: only the provider's own limit holds."""


class Policies(Struct, frozen=True):
    """Everything that is configured of sharing; what is not named has the defaults."""

    queues: Mapping[str, QueuePolicy] = {}
    owners: Mapping[str, OwnerPolicy] = {}
    task_types: Mapping[str, TaskPolicy] = {}

    def of_queues(self, queues: Iterable[str]) -> dict[str, QueuePolicy]:
        """That of each of these queues, and of each that is configured."""
        return dict.fromkeys(queues, QueuePolicy()) | dict(self.queues)
