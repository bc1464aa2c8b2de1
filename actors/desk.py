"""A queue's desk in a worker process: hands out jobs to its slots and takes in how their runs ended.

One statement is in flight at a time; what arrives meanwhile is the next batch, and a run that ends asks for the next
job in the statement that stores it. Waiting on purpose for larger batches only hurts (measured with 8 slots: 2,353
jobs/s without, 994 with 5 ms). Worker threads call `claim` and `execute` and block; everything else is on the event
loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest

import structlog
from dramatiq import MessageProxy
from msgspec import Struct

from actors.answer import Answer
from actors.chain import AllFailed
from actors.classify import failure_of
from actors.company import Company
from domain.errors import LeaseLost, RunFailed, ServiceError, StorageUnavailable
from domain.job import JobId, Lease, LeasedJob
from domain.ports import Claim, Exchange
from domain.results import ProviderAttempt
from domain.usecases.work import Ended, Work

log = structlog.get_logger()

LOST = "lost"
"""The word with which a run is stopped whose job was taken from it: its server may be computing on, and its slot is not
free before it ends. Without that word the process itself is ending, or the run's time is up."""

SEVERAL, MORE = 2, 4
"""Where a claim brings several jobs, as many as were asked for, so many times more are asked for at once, as far as
there are free slots. Tickets trickle in one by one: by them alone it takes 200 slots half a second to fill. A lone job
makes no second claim, and what several processes share is not all taken by the first.
"""

FRESH = 2 / 3
"""The part of a lease within which a job is started. Later it may run out before its first renewal: the claim's answer
came late, or the process was stopped meanwhile."""


class Performed(Struct, frozen=True):
    """What came of a run that succeeded."""

    result: bytes
    """As JSON."""
    attempts: tuple[ProviderAttempt, ...] = ()
    """The calls of providers that it took, where there was more than one."""


Perform = Callable[[LeasedJob], Awaitable[Performed]]
"""Runs a job."""

FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
"""Seconds between tries while PostgreSQL is away."""


def since_boot() -> float:
    """Seconds of a clock that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class NoFreeSlot(ServiceError):
    """No slot of the queue can take a job in this process: all are taken, or it is ending."""


class RunReleased(ServiceError):
    """The run was stopped by a shutdown and its job handed back."""


@dataclass(eq=False, slots=True)
class Assignment:
    """A claimed job and the desk that answers for it."""

    job: LeasedJob
    desk: Desk
    claimed_at: float
    """When the claim was sent (`since_boot`): the lease is at least as young."""
    started: bool = False

    def hand_back(self) -> None:
        """Give the job back unharmed without having started it."""
        self.desk.hand_back(self)

    def __repr__(self) -> str:
        return f"<job {self.job.id}>"


@dataclass(eq=False, slots=True)
class Run:
    """A run on its way to be stored."""

    ended: Ended
    error: Exception | None
    answer: Answer[None]


@dataclass(eq=False, slots=True)
class Performance:
    """A run that goes on."""

    task: asyncio.Task[None]
    answer: Answer[None]


class Desk:
    def __init__(
        self,
        queue: str,
        *,
        work: Work,
        task_types: tuple[str, ...],
        profiles: Callable[[], tuple[str, ...]],
        worker_id: str,
        slots: int,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Assignment], None],
        wake: Callable[[MessageProxy], None],
        doubt: Callable[[Sequence[Lease]], None],
        company: Company,
        untold: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            profiles: that can be served at this moment.
            deliver: hands an assignment to a worker thread.
            wake: lets a worker thread take up a kept ticket again.
            doubt: has it looked up whether these leases still hold.
            company: the desks of the process, which this one joins.
            untold: hears that a look found work of which no ticket told.
        """
        self._company = company
        company.desks.append(self)
        self.queue = queue
        self.slots = slots
        self._work = work
        self._task_types = task_types
        self._profiles = profiles
        self._worker_id = worker_id
        self._loop = loop
        self._deliver = deliver
        self._wake = wake
        self._doubt = doubt
        self._untold = untold
        self._free = slots
        self._held: dict[Lease, LeasedJob] = {}
        self._performing: dict[Lease, Performance] = {}
        self._renewed: dict[Lease, float] = {}
        self._lost: set[Lease] = set()
        """Of those that are held: their runs are being stopped, and their slots are not free before they have ended."""
        self._hinted: set[JobId] = set()
        self._seekers: list[Answer[Assignment]] = []
        self._ended: list[Run] = []
        self._in_flight: tuple[list[Run], list[Answer[Assignment]]] = ([], [])
        self._looking = 0
        self._pursuing = 0
        self._kept: deque[MessageProxy] = deque()
        self._short_since = float("-inf")
        self._asked_at = 0.0
        self._answer_lost = False
        self._closing = False
        self._abandoned = False
        self.outcomes: Counter[str] = Counter()
        """How runs ended here, since the start."""
        self.last_claim: datetime | None = None
        self._serving: asyncio.Task[None] | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._inbox_armed = False

    # Called from worker threads.

    def claim(self, arrived: float) -> Assignment | None:
        """A job for the slot that a ticket woke, or None when there is none. Blocks until PostgreSQL has answered.

        Args:
            arrived: when the ticket came in (`time.monotonic`).

        Raises:
            NoFreeSlot: no slot of the queue can take a job here; the ticket should be kept.
        """
        answer: Answer[Assignment] = Answer()
        self._post(lambda: self._seek(arrived, answer))
        assignment = answer.wait()
        if assignment is None:
            self._work.telemetry.woken_in_vain(self.queue)
        return assignment

    def execute(self, assignment: Assignment, perform: Perform) -> None:
        """Run the job, store how it ended, and ask for the next one. Blocks until that is committed.

        Raises:
            Exception: what ended the run, so that Dramatiq's hooks see it; it has been dealt with.
        """
        assignment.started = True
        answer: Answer[None] = Answer()
        self._post(lambda: self._start(assignment, perform, answer))
        answer.wait()

    def hand_back(self, assignment: Assignment) -> None:
        self._post(lambda: self._end_unstarted(self._work.released(assignment.job), RunReleased(), Answer()))

    def fail(self, assignment: Assignment, error: BaseException) -> None:
        """End a job that could not even be started, as if its run had raised this."""
        failed = self._work.failed(assignment.job, failure_of(error))
        self._post(lambda: self._end_unstarted(failed, RunReleased(), Answer()))

    def keep(self, message: MessageProxy) -> None:
        """Keep a ticket, unacknowledged, until a slot is free."""
        self._post(lambda: self._keep(message))

    # Called on the event loop.

    @property
    def running(self) -> int:
        """Jobs that this process holds of the queue."""
        return len(self._held)

    @property
    def held(self) -> list[Lease]:
        return list(self._held)

    @property
    def jobs(self) -> list[LeasedJob]:
        return list(self._held.values())

    def look(self) -> bool:
        """Claim for every free slot without having been told of work: a lost ticket must only cost time.

        Returns:
            Whether there was a free slot to claim for.
        """
        if not self._free or self._closing or self._company.alone:
            return False
        self._looking += self._free
        self._free = 0
        self._kick()
        return True

    def hint(self, job_ids: frozenset[JobId]) -> None:
        """These jobs may have been taken from their runs: those that are held here are doubted."""
        if self._serving:
            self._hinted |= job_ids  # a claim's answer may be on its way here with one of them
        self._doubt([lease for lease in self._held if lease.job_id in job_ids])

    def renewed(self, leases: Sequence[Lease], at: float) -> None:
        """Those of these leases that are held here are as young as this (`since_boot`), or lost."""
        self._renewed.update((lease, at) for lease in leases if lease in self._held)

    def drop(self, leases: frozenset[Lease]) -> None:
        """Stop runs that no longer hold their jobs; nothing of them is stored, but that their slots are free."""
        for lease in (leases & self._held.keys()) - self._lost:  # to stop a run again would disturb its end
            self._lost.add(lease)
            self._stop(lease, LOST)

    def close(self) -> None:
        """Claim nothing any more."""
        self._closing = True

    def stop_runs(self) -> None:
        """Stop what still runs; the jobs are handed back unharmed."""
        for lease in self._performing:
            self._stop(lease)

    async def settled(self) -> None:
        """Return when every run has ended and its end is stored, or all was abandoned."""
        while self._serving or self._held:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.01)

    async def tidy(self) -> None:
        """Give back what an answer that was lost may have claimed."""
        if self._answer_lost:
            await self._release_orphans()

    def abandon(self) -> None:
        """There is no more time: whoever waits is answered, and what is held is rescued when its leases run out.

        It waits for nothing: PostgreSQL may be away, and a run may not heed that it was stopped.
        """
        self._abandoned = True
        for performance in self._performing.values():
            performance.task.cancel()
            performance.answer.fail(RunReleased())
        for run in [*self._in_flight[0], *self._ended]:
            run.error = LeaseLost()
            self._conclude(run)
        for seeker in [*self._in_flight[1], *self._seekers]:
            seeker.give(None)
        if self._serving:
            self._serving.cancel()
        for held in (self._held, self._renewed, self._lost, self._performing, self._ended, self._seekers):
            held.clear()
        self._serving = None

    def _post(self, call: Callable[[], None]) -> None:
        self._inbox.append(call)
        if not self._inbox_armed:  # one wake-up of the loop for a burst of calls
            self._inbox_armed = True
            self._loop.call_soon_threadsafe(self._read_inbox)

    def _read_inbox(self) -> None:
        self._inbox_armed = False  # first: what is posted from here on arms it again
        while self._inbox:
            self._inbox.popleft()()

    def _seek(self, arrived: float, answer: Answer[Assignment]) -> None:
        if self._closing:
            answer.fail(NoFreeSlot())
        elif arrived <= self._short_since:
            answer.give(None)  # a claim that began after the ticket arrived came back short: it knows nothing new
        elif self._free <= 0 or self._company.alone:
            answer.fail(NoFreeSlot())
        else:
            self._free -= 1
            self._seekers.append(answer)
            self._kick()

    def _keep(self, message: MessageProxy) -> None:
        self._kept.append(message)
        self._wake_kept()

    def _wake_kept(self) -> None:
        # While closing they go back to the broker, to wake another worker.
        if not self._closing and not self._company.alone:
            for _ in range(min(self._free, len(self._kept))):
                self._wake(self._kept.popleft())

    def _start(self, assignment: Assignment, perform: Perform, answer: Answer[None]) -> None:
        job = assignment.job
        if job.lease in self._lost:
            self._end_unstarted(self._work.released(job), LeaseLost(), answer)
        elif not self._is_fresh(assignment):
            log.warning("job not started: its lease may run out", job_id=str(job.id), queue=self.queue)
            self._end_unstarted(self._work.released(job), RunReleased(), answer)
        elif self._closing:  # its thread was slow, and the runs may have been stopped already
            self._end_unstarted(self._work.released(job), RunReleased(), answer)
        else:
            task = self._loop.create_task(self._run(job, perform, answer))
            self._performing[job.lease] = Performance(task, answer)

    def _is_fresh(self, assignment: Assignment) -> bool:
        leased_at = max(assignment.claimed_at, self._renewed.get(assignment.job.lease, 0.0))
        return since_boot() - leased_at <= FRESH * self._work.lease.total_seconds()

    def _stop(self, lease: Lease, why: str | None = None) -> None:
        if performance := self._performing.get(lease):
            # Not at once: a task that is cancelled before its first step never runs, and its thread would wait for
            # ever.
            self._loop.call_soon(lambda: lease in self._performing and performance.task.cancel(why))

    async def _run(self, job: LeasedJob, perform: Perform, answer: Answer[None]) -> None:
        error: Exception | None = None
        try:
            performed = await perform(job)
            ended = self._work.completed(job, performed.result, performed.attempts)
        except BaseException as exception:  # SystemExit would end the event loop, and with it every slot
            ended, error = await self._cut_short(job, exception)
        if self._performing.pop(job.lease, None) is None:
            return  # abandoned: nobody waits any more
        if job.lease in self._lost:
            ended, error = self._work.released(job), LeaseLost()  # its slot is free, and takes the next job with that
        self._ended.append(Run(ended, error, answer))
        self._kick()

    async def _cut_short(self, job: LeasedJob, exception: BaseException) -> tuple[Ended, Exception]:
        """What became of a run that did not return: whatever it was, its job and its thread must hear of it."""
        if self._is_stopped(job, exception):
            return self._work.released(job), RunReleased()
        failure = failure_of(exception)
        error = exception if isinstance(exception, Exception) else RunFailed.of(failure)
        try:
            return await self._work.judged(job, failure, _attempts(exception)), error
        except BaseException as meanwhile:
            if self._is_stopped(job, meanwhile):
                return self._work.released(job), RunReleased()
            log.error("failure not judged", job_id=str(job.id), error=type(meanwhile).__name__)
            return self._work.failed(job, failure).after(_attempts(exception)), error

    def _is_stopped(self, job: LeasedJob, exception: BaseException) -> bool:
        return isinstance(exception, asyncio.CancelledError) and (self._closing or job.lease in self._lost)

    def _end_unstarted(self, ended: Ended, error: Exception, answer: Answer[None]) -> None:
        if self._abandoned:
            answer.fail(error)
        else:
            self._ended.append(Run(ended, error, answer))
            self._kick()

    def _pursue(self, jobs: int) -> None:
        slots = min(jobs, self._free)
        if slots > 0 and not self._closing and not self._company.alone:
            self._pursuing += slots
            self._free -= slots
            self._kick()

    def _kick(self) -> None:
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            while self._seekers or self._ended or self._looking or self._pursuing:
                await self._round()
        finally:
            self._serving = None

    async def _round(self) -> None:
        seekers, self._seekers = self._seekers, []
        ended, self._ended = self._ended, []
        looking, self._looking = self._looking, 0
        pursuing, self._pursuing = self._pursuing, 0
        self._in_flight = ended, seekers
        told = len(seekers) + len(ended) + pursuing
        reserved = told + looking
        began = time.monotonic()
        had_company = self._company.alone is None
        outcome, wanted = await self._exchange([run.ended for run in ended], reserved)
        if self._abandoned:
            return
        self._in_flight = [], []
        self._free += reserved - len(outcome.claimed)
        self._let_go(ended, outcome)
        taken = self._take(outcome.claimed)
        if len(outcome.claimed) < wanted:
            self._short_since = began
        elif wanted >= SEVERAL:
            self._pursue(MORE * wanted)
        if len(outcome.claimed) > told:
            self._untold()
        if not had_company:
            self._have_company_again()
        # On the loop's next turn: whatever ended meanwhile is on its way to PostgreSQL before the threads wake, and is
        # stored while they work.
        self._loop.call_soon(self._hand_out, taken, seekers, ended)

    def _have_company_again(self) -> None:
        """Slots that had to stay free while a job was alone look for work."""
        if not self._company.alone:
            for desk in self._company.desks:
                desk.look()

    def _let_go(self, ended: list[Run], outcome: Exchange) -> None:
        unstored = outcome.lost | outcome.refused.keys()
        for run in ended:
            lease = run.ended.job.lease
            self._held.pop(lease, None)
            self._renewed.pop(lease, None)
            self._lost.discard(lease)
            if lease == self._company.alone:
                self._company.alone = None
            if lease in unstored:
                run.error = LeaseLost()
            elif (stored := outcome.replaced.get(lease)) and stored.failure:
                run.ended = Ended(run.ended.job, stored)
                run.error = RunFailed.of(stored.failure)

    def _take(self, claimed: Sequence[LeasedJob]) -> list[Assignment]:
        if claimed:
            self.last_claim = datetime.now(UTC)
        self._held.update({job.lease: job for job in claimed})
        self._company.alone = next((job.lease for job in claimed if job.suspect), self._company.alone)
        if self._hinted:
            self._doubt([job.lease for job in claimed if job.id in self._hinted])
            self._hinted.clear()
        return [Assignment(job, self, self._asked_at) for job in claimed]

    def _hand_out(self, assignments: list[Assignment], seekers: list[Answer[Assignment]], ended: Sequence[Run]) -> None:
        if self._closing:
            for assignment in assignments:
                self._end_unstarted(self._work.released(assignment.job), RunReleased(), Answer())
            assignments = []
        # Before the ended runs' threads wake: each then finds its next job waiting instead of going to sleep.
        for assignment in assignments[len(seekers) :]:
            self._deliver(assignment)
        for seeker, taken in zip_longest(seekers, assignments[: len(seekers)]):
            seeker.give(taken)
        for run in ended:
            self._conclude(run)
        self._wake_kept()

    def _conclude(self, run: Run) -> None:
        self._note(run)
        if run.error is None:
            run.answer.give(None)
        else:
            run.answer.fail(run.error)

    def _may_have_company(self, ended: list[Ended]) -> bool:
        alone = self._company.alone
        return alone is None or any(run.job.lease == alone for run in ended)

    async def _exchange(self, ended: list[Ended], wanted: int) -> tuple[Exchange, int]:
        """Store and claim, however long PostgreSQL is away; meanwhile tickets wait with us instead of being burnt.

        Returns:
            Also how many jobs were asked for.
        """
        wait = FIRST_WAIT
        while ended or not self._closing:
            try:
                if self._answer_lost:
                    await self._release_orphans()
                async with self._company.claim(len(ended)) as alone:
                    # Asked here: another desk's job may have begun to be alone while this one waited.
                    claims = wanted and not self._closing and self._may_have_company(ended)
                    self._asked_at = since_boot()
                    outcome = await self._work.exchange(ended, self._claim(wanted, alone=alone) if claims else None)
                    return outcome, wanted if claims else 0
            except StorageUnavailable as error:
                log.warning("storage is away", queue=self.queue, reason=str(error), retry_in=wait)
            except Exception as error:  # a slot must survive whatever the storage does
                # By its type only: PostgreSQL's texts may quote a row.
                log.error("exchange failed", queue=self.queue, error=type(error).__name__, retry_in=wait)
            self._answer_lost = True
            await asyncio.sleep(wait * (0.5 + random.random()))  # noqa: S311  # jitter
            wait = min(wait * 2, LONGEST_WAIT)
        return Exchange(), 0

    def _claim(self, wanted: int, *, alone: bool) -> Claim:
        return Claim(
            self.queue, self._task_types, self._profiles(), self._worker_id, self._work.lease, wanted, alone=alone
        )

    async def _release_orphans(self) -> None:
        """A claim may have been committed whose answer never came: those jobs run nowhere."""
        orphans = await self._work.release_orphans(self._worker_id, self.queue, self.held)
        self._answer_lost = False
        if orphans:
            log.warning("orphans released", queue=self.queue, jobs=orphans)

    def _note(self, run: Run) -> None:
        self.outcomes[LOST if isinstance(run.error, LeaseLost) else run.ended.settlement.outcome.value] += 1


def _attempts(exception: BaseException) -> tuple[ProviderAttempt, ...]:
    return exception.attempts if isinstance(exception, AllFailed) else ()
