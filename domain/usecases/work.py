"""What a worker does with jobs: take them, keep them, end them. Actors and external workers are one kind of thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from domain.circuit import TELLING, Report, Sign, sign_of
from domain.errors import ErrorCode, Failure
from domain.events import PROGRESS, JobEvent
from domain.job import JobStatus, Lease, LeasedJob, Settlement
from domain.ports import Claim, Events, Exchange, Health, JobStore
from domain.results import ProviderAttempt
from domain.retry import RetryPolicy, settle_failure, settle_outage
from domain.telemetry import NO_TELEMETRY, Telemetry
from domain.usecases.guard import Guard


class Ended(Struct, frozen=True):
    """A run that ended, and what it asks to be done with its job."""

    job: LeasedJob
    settlement: Settlement
    sign: Sign = Sign.NONE
    """What it shows of the model server behind its queue."""

    def after(self, attempts: tuple[ProviderAttempt, ...]) -> Ended:
        """The same end, with the calls of providers that went before."""
        return replace(self, settlement=replace(self.settlement, attempts=attempts)) if attempts else self


@dataclass(frozen=True)
class Work:
    jobs: JobStore
    events: Events
    health: Health
    guard: Guard
    policy: RetryPolicy
    random: Callable[[], float]
    lease: timedelta
    """How long a built-in worker's lease lasts without renewal."""
    telemetry: Telemetry = NO_TELEMETRY

    def completed(self, job: LeasedJob, result: bytes, attempts: tuple[ProviderAttempt, ...] = ()) -> Ended:
        return Ended(job, job.complete(result), Sign.ANSWERED).after(attempts)

    def failed(self, job: LeasedJob, failure: Failure) -> Ended:
        """By the retry table: to be tried again, given back, or failed for good. Nobody is asked how the server is."""
        settlement = settle_failure(job, failure, self.policy, jitter=self.random())
        return Ended(job, settlement, sign_of(failure, healthy=True))

    async def reported(self, job: LeasedJob, failure: Failure) -> Ended:
        """By the retry table, as if the health address had answered; the server may still be asked for its load."""
        return replace(self.failed(job, failure), sign=await self.guard.sign(job, failure))

    async def judged(self, job: LeasedJob, failure: Failure, attempts: tuple[ProviderAttempt, ...] = ()) -> Ended:
        """By the retry table, unless the run found nobody there and the server's health address says the same.

        Then the server is down, and the job goes back uncounted.

        Args:
            attempts: the calls that were made, where there were several. Where one of them found a provider at its
                work, the queue can go on with that one, whatever ails the others.
        """
        if any(_answered(attempt) for attempt in attempts):
            return replace(self.failed(job, failure), sign=Sign.ANSWERED).after(attempts)
        return (await self._judged(job, failure)).after(attempts)

    async def _judged(self, job: LeasedJob, failure: Failure) -> Ended:
        if failure.code is not ErrorCode.PROVIDER_UNAVAILABLE or await self.health.answers(job.model_profile):
            return await self.reported(job, failure)
        return Ended(job, settle_outage(job, failure, self.policy), sign_of(failure, healthy=False))

    def released(self, job: LeasedJob) -> Ended:
        """Back in its old place, nothing counted. Of a run that lost its job it says that its slot is free."""
        return Ended(job, job.release())

    async def exchange(self, ended: Sequence[Ended], claim: Claim | None) -> Exchange:
        """Store what ended and take what is next, in one commit.

        A result that the storage refuses fails its own run as `internal_error`; its neighbours do not notice. What the
        ends show of model servers is told first, so that a job that goes back is not claimed into a dead one.
        """
        await self._tell_guard(ended)
        took = self.telemetry.stopwatch()
        outcome = await self.jobs.exchange([run.settlement for run in ended], claim)
        if outcome.refused:
            outcome = await self._fail_refused(ended, outcome)
        settled, lost = _settled(ended, outcome)
        self.telemetry.exchanged(settled, lost, outcome.claimed, took())
        self.events.publish(_told(settled, outcome.claimed))
        return outcome

    async def _tell_guard(self, ended: Sequence[Ended]) -> None:
        telling = dict.fromkeys(run.job.queue for run in ended if run.job.trial or run.sign in TELLING)
        for queue in filter(None, telling):
            await self.guard.heard(queue, [_report(run) for run in ended if run.job.queue == queue])

    async def _fail_refused(self, ended: Sequence[Ended], outcome: Exchange) -> Exchange:
        failures = {
            run.job.lease: self.failed(
                run.job, Failure(ErrorCode.INTERNAL_ERROR, f"The result cannot be stored: {reason}")
            ).settlement
            for run in ended
            if (reason := outcome.refused.get(run.job.lease)) is not None
        }
        second = await self.jobs.exchange(list(failures.values()), None)
        return replace(outcome, lost=outcome.lost | second.lost, refused=second.refused, replaced=failures)

    async def tell(self, job: LeasedJob, progress: Raw) -> None:
        """Keep how far a run is, and tell it to whoever follows its job.

        Raises:
            LeaseLost: the run no longer holds its job.
        """
        number = await self.jobs.note_progress(job.lease, progress)
        self.events.publish([JobEvent.of(job, PROGRESS, number)])

    async def renew(self, leases: Sequence[Lease]) -> frozenset[Lease]:
        """Keep these jobs for another while. Returns the leases that are lost: their runs must stop."""
        lost = await self.jobs.renew(leases, self.lease)
        self.telemetry.renewed(len(leases) - len(lost), len(lost))
        return lost

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        """Give back what this worker claimed without ever hearing of it. Returns how many jobs that were."""
        return await self.jobs.release_orphans(worker_id, queue, held)


def _answered(attempt: ProviderAttempt) -> bool:
    code = attempt.error_code
    return code is UNSET or sign_of(Failure(ErrorCode(code)), healthy=True) is Sign.ANSWERED


def _report(run: Ended) -> Report:
    job = run.job
    return Report(run.sign, job.id, job.model_profile, run.settlement.failure, job.trial)


def _settled(ended: Sequence[Ended], outcome: Exchange) -> tuple[list[tuple[LeasedJob, Settlement]], list[LeasedJob]]:
    """What was stored of these ends, and the runs that had lost their jobs."""
    settled = [(run.job, run.settlement) for run in ended]
    if not (outcome.lost or outcome.refused or outcome.replaced):
        return settled, []  # nearly always; looking leases up costs more than all the rest
    unstored = outcome.lost | outcome.refused.keys()
    stored = [
        (job, outcome.replaced.get(job.lease, settlement)) for job, settlement in settled if job.lease not in unstored
    ]
    return stored, [job for job, _ in settled if job.lease in unstored]


def _told(settled: Sequence[tuple[LeasedJob, Settlement]], claimed: Sequence[LeasedJob]) -> list[JobEvent]:
    """What happened, in its order: a run's end, then the start of the next."""
    told = [JobEvent.of(job, settlement.status, job.number + 1) for job, settlement in settled]
    return told + [JobEvent.of(job, JobStatus.RUNNING, job.number) for job in claimed]
