"""What happens in a process, told to whoever makes metrics, log lines and traces of it for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from domain.events import JobEvent
from domain.job import Job, LeasedJob, Settlement


class Change(StrEnum):
    """Why a job changed its state, where neither its submission nor its run did that."""

    CANCELLED = "cancelled"
    RETRIED = "retried"
    """By hand."""
    RESCUED = "rescued"
    """Its worker is dead, or its external lease ran out."""
    PREEMPTED = "preempted"
    EXPIRED = "expired"
    """It was not started by its deadline."""


class Telemetry(Protocol):
    """Hears what happens. Every method returns at once, never raises, and may be called on any thread."""

    def traceparent(self) -> str | None:
        """The W3C `traceparent` of what goes on here at this moment; None where nobody traces it."""

    def stopwatch(self) -> Callable[[], float]:
        """Tells, whenever it is asked, how many seconds have passed since."""

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        """These are stored, in one commit that took so long."""

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        """In one commit that took so long: runs ended as is said, others had lost their jobs, and new ones began."""

    def lent(self, jobs: Sequence[Job]) -> None:
        """External workers have begun to run these."""

    def changed(self, change: Change, events: Sequence[JobEvent]) -> None:
        """These jobs are in another state now."""

    def promoted(self, jobs: Mapping[str, int]) -> None:
        """So many jobs of each queue have become due."""

    def renewed(self, leases: int, lost: int) -> None:
        """Leases of built-in workers were extended, or found to be lost."""

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        """So many tickets go to the broker.

        Args:
            again: earlier ones were lost, or burnt.
        """

    def woken_in_vain(self, queue: str) -> None:
        """A ticket found no job."""


class NoTelemetry:
    """Nobody listens."""

    def traceparent(self) -> str | None:
        return None

    def stopwatch(self) -> Callable[[], float]:
        return float

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        pass

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        pass

    def lent(self, jobs: Sequence[Job]) -> None:
        pass

    def changed(self, change: Change, events: Sequence[JobEvent]) -> None:
        pass

    def promoted(self, jobs: Mapping[str, int]) -> None:
        pass

    def renewed(self, leases: int, lost: int) -> None:
        pass

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        pass

    def woken_in_vain(self, queue: str) -> None:
        pass


NO_TELEMETRY = NoTelemetry()
