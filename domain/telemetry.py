"""What happens in a process, told to whoever makes metrics, log lines and traces of it for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

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


class Server(Struct, frozen=True):
    """Who is called for a run: the profile may be one that the job's falls back on."""

    profile: str
    provider: str
    """What kind of server it is: `vllm`, `ollama` ..."""
    model: str
    """As the server knows it."""
    operation: str
    """`chat`, `transcription` or `embeddings`."""
    host: str = ""
    port: int | None = None


class Answer(Struct, frozen=True):
    """What is told of an answer; never what it says."""

    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    audio_seconds: float | None = None
    """Length of the recording that was transcribed."""


class Call(Protocol):
    """One call of a model server. It is told of one end."""

    def first_token(self) -> None:
        """The answer has begun."""

    def answered(self, answer: Answer) -> None: ...

    def failed(self, error: BaseException) -> None:
        """By `RunFailed`, or because its run was stopped (`CancelledError`)."""


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

    def pruned(self, what: str, status: str, removed: int) -> None:
        """So many were removed that nobody needs any more.

        Args:
            what: `jobs`, of this final state, or `uploads`.
        """

    def calling(self, job: LeasedJob, server: Server) -> Call:
        """A model server is asked for this run."""

    def renewed(self, leases: int, lost: int) -> None:
        """Leases of built-in workers were extended, or found to be lost."""

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        """So many tickets go to the broker.

        Args:
            again: earlier ones were lost, or burnt.
        """

    def woken_in_vain(self, queue: str) -> None:
        """A ticket found no job."""


class NoCall:
    def first_token(self) -> None:
        pass

    def answered(self, answer: Answer) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass


class Listener:
    """Makes nothing of what it hears. Who does says of what."""

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

    def pruned(self, what: str, status: str, removed: int) -> None:
        pass

    def calling(self, job: LeasedJob, server: Server) -> Call:
        return NoCall()

    def renewed(self, leases: int, lost: int) -> None:
        pass

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        pass

    def woken_in_vain(self, queue: str) -> None:
        pass


NO_TELEMETRY = Listener()
