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
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import cast

import structlog
from dramatiq import MessageProxy

from actors.classify import failure_of
from domain.errors import LeaseLost, ServiceError, StorageUnavailable
from domain.job import Lease, LeasedJob
from domain.ports import Claim, Exchange
from domain.usecases.work import Ended, Work

log = structlog.get_logger()

Perform = Callable[[LeasedJob], Awaitable[bytes]]
"""Runs a job and returns its result as JSON."""

FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
"""Seconds between tries while PostgreSQL is away."""


class NoFreeSlot(ServiceError):
    """Every slot of the queue is taken in this process."""


class RunReleased(ServiceError):
    """The run was stopped by a shutdown and its job handed back."""


@dataclass(eq=False, slots=True)
class Assignment:
    """A claimed job and the desk that answers for it."""

    job: LeasedJob
    desk: Desk

    def hand_back(self) -> None:
        """Give the job back unharmed without having started it."""
        self.desk.hand_back(self)

    def __repr__(self) -> str:
        return f"<job {self.job.id}>"


class Desk:
    def __init__(
        self,
        queue: str,
        *,
        work: Work,
        task_types: tuple[str, ...],
        worker_id: str,
        slots: int,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Assignment], None],
        wake: Callable[[MessageProxy], None],
    ) -> None:
        """
        Args:
            deliver: hands an assignment to a worker thread.
            wake: lets a worker thread take up a kept ticket again.
        """
        self.queue = queue
        self.slots = slots
        self._work = work
        self._task_types = task_types
        self._worker_id = worker_id
        self._loop = loop
        self._deliver = deliver
        self._wake = wake
        self._free = slots
        self._held: dict[Lease, LeasedJob] = {}
        self._runs: set[asyncio.Task[None]] = set()
        self._performing: dict[Lease, asyncio.Task[None]] = {}
        self._lost: set[Lease] = set()
        self._seekers: list[Future[Assignment | None]] = []
        self._ended: list[tuple[Ended, Callable[[bool], None]]] = []
        self._looking = 0
        self._kept: deque[MessageProxy] = deque()
        self._short_since = float("-inf")
        self._answer_lost = False
        self._closing = False
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
            NoFreeSlot: every slot of the queue is taken here; the ticket should be kept.
        """
        answer: Future[Assignment | None] = Future()
        self._post(lambda: self._seek(arrived, answer))
        return answer.result()

    def execute(self, assignment: Assignment, perform: Perform) -> None:
        """Run the job, store how it ended, and ask for the next one. Blocks until that is committed.

        Raises:
            Exception: what ended the run, so that Dramatiq's hooks see it; it has been dealt with.
        """
        answer: Future[None] = Future()
        self._post(lambda: self._start(assignment, perform, answer))
        answer.result()

    def hand_back(self, assignment: Assignment) -> None:
        self._post(lambda: self._end_unseen(self._work.released(assignment.job)))

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

    def look(self) -> None:
        """Claim for every free slot without having been told of work: a lost ticket must only cost time."""
        if self._free and not self._closing:
            self._looking += self._free
            self._free = 0
            self._kick()

    def drop(self, leases: frozenset[Lease]) -> None:
        """Stop runs that no longer hold their jobs; nothing of them is stored."""
        for lease in leases & self._held.keys():
            self._lost.add(lease)
            if task := self._performing.get(lease):
                task.cancel()

    def close(self) -> None:
        """Claim nothing any more."""
        self._closing = True

    def stop_runs(self) -> None:
        """Stop what still runs; the jobs are handed back unharmed."""
        for task in self._performing.values():
            task.cancel()

    async def settled(self) -> None:
        """Return when every run has ended and its end is stored."""
        while self._serving or self._held:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.01)

    def abandon(self) -> None:
        """PostgreSQL is away and there is no more time: leave what is held to be rescued when its leases run out."""
        if self._serving:
            self._serving.cancel()

    def _post(self, call: Callable[[], None]) -> None:
        self._inbox.append(call)
        if not self._inbox_armed:  # one wake-up of the loop for a burst of calls
            self._inbox_armed = True
            self._loop.call_soon_threadsafe(self._read_inbox)

    def _read_inbox(self) -> None:
        self._inbox_armed = False  # first: what is posted from here on arms it again
        while self._inbox:
            self._inbox.popleft()()

    def _seek(self, arrived: float, answer: Future[Assignment | None]) -> None:
        if self._closing or arrived <= self._short_since:
            answer.set_result(None)  # a claim that began after the ticket arrived came back short: it knows nothing new
        elif self._free <= 0:
            answer.set_exception(NoFreeSlot())
        else:
            self._free -= 1
            self._seekers.append(answer)
            self._kick()

    def _keep(self, message: MessageProxy) -> None:
        self._kept.append(message)
        self._wake_kept()

    def _wake_kept(self) -> None:
        for _ in range(min(self._free, len(self._kept))):
            self._wake(self._kept.popleft())

    def _start(self, assignment: Assignment, perform: Perform, answer: Future[None]) -> None:
        if assignment.job.lease in self._lost:
            self._forget(assignment.job)
            answer.set_exception(LeaseLost())
            return
        self._runs.add(run := self._loop.create_task(self._run(assignment.job, perform, answer)))
        run.add_done_callback(self._runs.discard)  # the loop itself holds tasks only weakly

    async def _run(self, job: LeasedJob, perform: Perform, answer: Future[None]) -> None:
        began = time.monotonic()
        error: Exception | None = None
        self._performing[job.lease] = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            ended = self._work.completed(job, await perform(job))
        except asyncio.CancelledError:
            error = LeaseLost() if job.lease in self._lost else RunReleased()
            ended = self._work.released(job)
        except Exception as exception:  # whatever it was, the job must get its failure
            error = exception
            ended = self._work.failed(job, failure_of(exception))
        finally:
            del self._performing[job.lease]  # from here on nothing may cancel this task
        if isinstance(error, LeaseLost):
            self._forget(job)
        elif not await self._end(ended):
            error = LeaseLost()
        self._note(ended, error, began)
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _forget(self, job: LeasedJob) -> None:
        """The job is another's now: its slot is free, and looks for work because no settlement will."""
        self._lost.discard(job.lease)
        del self._held[job.lease]
        self._free += 1
        self.look()

    async def _end(self, ended: Ended) -> bool:
        """Whether the end was stored; False when the run had lost its lease."""
        stored: asyncio.Future[bool] = self._loop.create_future()
        self._ended.append((ended, stored.set_result))
        self._kick()
        return await stored

    def _end_unseen(self, ended: Ended) -> None:
        self._ended.append((ended, lambda _: None))
        self._kick()

    def _kick(self) -> None:
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            while self._seekers or self._ended or self._looking:
                await self._round()
        finally:
            self._serving = None

    async def _round(self) -> None:
        seekers, self._seekers = self._seekers, []
        ended, self._ended = self._ended, []
        looking, self._looking = self._looking, 0
        reserved = len(seekers) + len(ended) + looking
        wanted = 0 if self._closing else reserved
        began = time.monotonic()
        outcome = Exchange(lost=frozenset(run.job.lease for run, _ in ended))  # what holds if we are abandoned
        try:
            outcome = await self._exchange([run for run, _ in ended], wanted)
        finally:
            for run, stored in ended:
                del self._held[run.job.lease]
                self._lost.discard(run.job.lease)
                stored(run.job.lease not in outcome.lost and run.job.lease not in outcome.refused)
            self._free += reserved - len(outcome.claimed)
            self._hand_out([Assignment(job, self) for job in outcome.claimed], seekers)
            if len(outcome.claimed) < wanted:
                self._short_since = began
            self._wake_kept()

    def _hand_out(self, assignments: list[Assignment], seekers: list[Future[Assignment | None]]) -> None:
        if assignments:
            self.last_claim = datetime.now(UTC)
        self._held.update({assignment.job.lease: assignment.job for assignment in assignments})
        if self._closing:
            for assignment in assignments:
                self._end_unseen(self._work.released(assignment.job))
            assignments = []
        for seeker, assignment in zip_longest(seekers, assignments[: len(seekers)]):
            seeker.set_result(assignment)
        for assignment in assignments[len(seekers) :]:
            self._deliver(assignment)

    async def _exchange(self, ended: list[Ended], wanted: int) -> Exchange:
        """Store and claim, however long PostgreSQL is away; meanwhile tickets wait with us instead of being burnt."""
        claim = Claim(self.queue, self._task_types, self._worker_id, self._work.lease, wanted) if wanted else None
        if not ended and not claim:
            return Exchange()
        wait = FIRST_WAIT
        while True:
            try:
                if self._answer_lost:
                    await self._release_orphans()
                return await self._work.exchange(ended, claim)
            except StorageUnavailable as error:
                log.warning("storage is away", queue=self.queue, reason=str(error), retry_in=wait)
            except Exception:  # a slot must survive whatever the storage does
                log.exception("exchange failed", queue=self.queue, retry_in=wait)
            self._answer_lost = True
            await asyncio.sleep(wait * (0.5 + random.random()))  # noqa: S311  # jitter
            wait = min(wait * 2, LONGEST_WAIT)

    async def _release_orphans(self) -> None:
        """A claim may have been committed whose answer never came: those jobs run nowhere."""
        orphans = await self._work.release_orphans(self._worker_id, self.queue, self.held)
        self._answer_lost = False
        if orphans:
            log.warning("orphans released", queue=self.queue, jobs=orphans)

    def _note(self, ended: Ended, error: Exception | None, began: float) -> None:
        job, settlement = ended.job, ended.settlement
        outcome = "lost" if isinstance(error, LeaseLost) else str(settlement.outcome)
        self.outcomes[outcome] += 1
        log.info(
            "run ended",
            job_id=str(job.id),
            task_type=job.task_type,
            queue=job.queue,
            attempt=job.attempts + 1,
            outcome=outcome,
            error_code=str(settlement.failure.code) if settlement.failure else None,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
