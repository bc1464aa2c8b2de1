"""What a worker process runs on: an event loop in a thread, a desk per queue, the heartbeat that keeps its leases."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
import uvloop
from dramatiq import Worker
from dramatiq.worker import _WorkQueueItem
from msgspec import Struct

from actors.company import Company
from actors.desk import Desk, Perform, Performed, since_boot
from actors.heartbeat import PARTING_TIME, Heartbeat
from actors.tickets import LocalTicket
from domain.errors import ErrorCode, RunFailed, ServiceError, StorageUnavailable
from domain.events import JobEvent
from domain.job import JobId, Lease, LeasedJob
from domain.policy import Policies
from domain.ports import Presence, WorkerBeat
from domain.usecases.work import Work

T = TypeVar("T")

log = structlog.get_logger()

RENEWAL_INTERVAL = 2.0
"""Seconds between renewals: a lease of 15 s survives six lost ones, and a cancelled run hears of it within two."""

LOOP_HANGS = 5.0
"""Seconds after which an event loop that has not turned counts as hanging."""

STORING_TIME = 5.0
"""Seconds after the grace period in which handed-back jobs may still be stored."""

FIRST = -(1 << 30)
"""The work queue's priority of local tickets (lowest first): a claimed job goes before any ticket that is not."""

FIRST_BEAT = 2.0
"""Seconds that the start waits for the first heartbeat, at most."""

SOON = 0.1
"""Seconds to the next look after one that found work; then twice as long after each that found none."""


class NotRunning(ServiceError):
    """The worker is not running."""


@dataclass(frozen=True)
class WorkerParts:
    """What the composition root provides on the worker's event loop."""

    work: Work
    performers: Mapping[str, Perform]
    """How each task type is run."""
    profiles: Callable[[], tuple[str, ...]]
    """The model profiles that can be served at this moment: other workers of the queue may serve others. Asked on the
    worker's event loop."""
    policies: Callable[[], Policies]
    """What holds now; asked at the start of every run, on the worker's event loop."""
    presence: Callable[[], AbstractAsyncContextManager[Presence]]
    """Where to say that the process lives; opened on the heartbeat's own event loop."""


@dataclass(frozen=True)
class Identity:
    """Who a worker process is: a fresh id, and the name under which it holds jobs."""

    process: UUID
    name: str
    host: str

    @property
    def worker_id(self) -> str:
        return f"{self.name}/{self.process.hex[:8]}"


class CurrentJob(Struct, frozen=True):
    id: str
    task_type: str
    queue: str


class WorkerStatus(Struct, frozen=True):
    """What a worker process tells of itself: figures, no payloads."""

    worker_id: str
    host: str
    queues: list[str]
    concurrency: int
    """Slots per queue."""
    paused: bool
    """Whether every queue of it was held at the last beat."""
    current_jobs: list[CurrentJob]
    outcomes: dict[str, int]
    """How runs ended since the start."""
    last_claim_at: datetime | None
    last_beat_at: datetime | None


class Runtime:
    def __init__(
        self,
        open_parts: Callable[[], AbstractAsyncContextManager[WorkerParts]],
        *,
        identity: Identity,
        slots: int,
        poll_interval: float,
        grace: float,
    ) -> None:
        """
        Args:
            slots: jobs that run at once per queue, at most.
            poll_interval: seconds between looks of an idle queue for work that no ticket told of.
            grace: seconds that running jobs get to end at a shutdown.
        """
        self.identity = identity
        self.slots = slots
        self._open_parts = open_parts
        self._poll_interval = poll_interval
        self._grace = grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stack = AsyncExitStack()
        self._parts: WorkerParts | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._untold = asyncio.Event()
        self._heartbeat: Heartbeat | None = None
        self._last_beat: datetime | None = None
        self._turned_at = 0.0
        self._profiles: tuple[str, ...] = ()
        self._closing = False
        self._held_queues: frozenset[str] = frozenset()
        self._doubtful: set[Lease] = set()
        self._confirming: asyncio.Task[None] | None = None
        self.desks: dict[str, Desk] = {}

    def start(self, worker: Worker, queues: Sequence[str]) -> int:
        """Start the loop and open a desk for each queue. Returns the slots per queue."""
        # A slot without a thread would hold its job while it waits for one.
        slots = max(1, min(self.slots, worker.worker_threads // max(1, len(queues))))
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=_turn, args=(self._loop,), name="worker-loop", daemon=True)
        self._thread.start()
        try:
            self._call(self._start(worker, queues, slots))
        except BaseException:
            self._end_loop()
            raise
        return slots

    @property
    def turns(self) -> bool:
        """Whether the event loop still does, on which everything happens here. May be asked on any thread."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def beats(self) -> bool:
        """Whether its heartbeat goes on: without it the jobs held here are soon somebody else's. On any thread."""
        return self._heartbeat is not None and self._heartbeat.alive

    def desk(self, queue: str) -> Desk:
        try:
            return self.desks[queue]
        except KeyError:
            raise NotRunning(f"No desk serves the queue {queue} here.") from None

    def performer(self, task_type: str) -> Perform:
        """What runs a job of this type, for as long as its policy allows when the run begins."""
        parts = self._running_parts()
        perform = parts.performers[task_type]

        async def allowed(job: LeasedJob) -> Performed:
            policy = parts.policies().task_types.get(task_type)
            limit = policy and policy.max_run_time
            return await (within(limit, perform(job), task_type) if limit else perform(job))

        return allowed

    def heard(self, events: Sequence[JobEvent]) -> None:
        """These jobs were perhaps taken from their runs here, which is looked up at once. May be called on any thread.

        It is to be given the kinds of events that `TAKEN_AWAY` names.
        """
        if loop := self._loop:
            job_ids = frozenset(event.job_id for event in events)
            with suppress(RuntimeError):  # the loop is closed: nothing runs any more
                loop.call_soon_threadsafe(self._hint, job_ids)

    def status(self) -> WorkerStatus:
        """May be called from any thread."""
        desks = list(self.desks.values())
        outcomes: Counter[str] = Counter()
        for desk in desks:
            outcomes.update(dict(desk.outcomes))  # a copy: the loop may be adding one
        return WorkerStatus(
            worker_id=self.identity.worker_id,
            host=self.identity.host,
            queues=[desk.queue for desk in desks],
            concurrency=max((desk.slots for desk in desks), default=0),
            paused=bool(desks) and all(desk.queue in self._held_queues for desk in desks),
            current_jobs=[CurrentJob(str(job.id), job.task_type, desk.queue) for desk in desks for job in desk.jobs],
            outcomes=dict(outcomes),
            last_claim_at=max((desk.last_claim for desk in desks if desk.last_claim), default=None),
            last_beat_at=self._last_beat,
        )

    def close(self) -> None:
        """Stop claiming; what runs may go on for the grace period, then its jobs are handed back."""
        self._call(self._close())

    def stop(self) -> None:
        """Leave nothing behind: every end stored or abandoned, the loop and its parts closed."""
        if self._loop is None:
            return
        try:
            self._call(self._stop())
        finally:
            if self._heartbeat:
                self._heartbeat.stop()
            self._end_loop()

    def _end_loop(self) -> None:
        if self._loop and self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise NotRunning
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self, worker: Worker, queues: Sequence[str], slots: int) -> None:
        self._parts = await self._stack.enter_async_context(self._open_parts())
        company = Company()
        self.desks = {
            queue: Desk(
                queue,
                work=self._parts.work,
                task_types=tuple(self._parts.performers),
                profiles=self._parts.profiles,
                worker_id=self.identity.worker_id,
                slots=slots,
                loop=asyncio.get_running_loop(),
                deliver=lambda assignment: worker.work_queue.put(_WorkQueueItem(FIRST, LocalTicket(assignment))),
                wake=lambda message: worker.work_queue.put(_WorkQueueItem(0, message)),
                doubt=self._confirm,
                company=company,
                untold=self._untold.set,
            )
            for queue in queues
        }
        self._turned()
        self._heartbeat = Heartbeat(self._parts.presence, self._signs_of_life, self._beat_answered)
        self._heartbeat.start()
        # Its first job may kill it at once: then it must be known already.
        while not self._heartbeat.tried and time.monotonic() - self._turned_at < FIRST_BEAT:  # noqa: ASYNC110  # another thread's
            await asyncio.sleep(0.005)
        self._tasks = [asyncio.create_task(self._renew_on()), asyncio.create_task(self._look_around())]
        log.info("worker started", worker_id=self.identity.worker_id, queues=list(queues), slots_per_queue=slots)

    def _signs_of_life(self) -> WorkerBeat | None:
        """Called on the heartbeat's thread."""
        if loop := self._loop:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._turned)
        if time.monotonic() - self._turned_at > LOOP_HANGS:
            return None
        return WorkerBeat(
            id=self.identity.process,
            worker_id=self.identity.worker_id,
            host=self.identity.host,
            queues=() if self._closing else tuple(self.desks),
            slots_per_queue=max((desk.slots for desk in self.desks.values()), default=0),
            running={queue: desk.running for queue, desk in self.desks.items()},
            model_profiles=self._profiles,
        )

    def _turned(self) -> None:
        self._turned_at = time.monotonic()
        self._profiles = self._running_parts().profiles()

    def _beat_answered(self, held_queues: frozenset[str]) -> None:
        self._held_queues = held_queues
        self._last_beat = datetime.now(UTC)

    async def _renew_on(self) -> None:
        while True:
            try:
                await self.renew()
            except StorageUnavailable as error:
                log.warning("leases not renewed", reason=str(error))
            except Exception:  # without renewal the worker would lose every job it holds
                log.exception("leases not renewed")
            await asyncio.sleep(RENEWAL_INTERVAL)

    async def renew(self) -> None:
        """Renew every lease that is held here, and stop the runs that lost theirs."""
        await self._renew([lease for desk in self.desks.values() for lease in desk.held])

    async def _renew(self, leases: Sequence[Lease]) -> None:
        if leases:
            asked_at = since_boot()
            lost = await self._running_parts().work.renew(leases)
            for desk in self.desks.values():
                desk.renewed(leases, asked_at)
                desk.drop(lost)

    def _hint(self, job_ids: frozenset[JobId]) -> None:
        for desk in self.desks.values():
            desk.hint(job_ids)

    def _confirm(self, leases: Sequence[Lease]) -> None:
        """Look up whether they still hold; what is doubted meanwhile goes along next: many hints cost little."""
        self._doubtful.update(leases)
        if self._doubtful and self._confirming is None:
            self._confirming = asyncio.get_running_loop().create_task(self._confirm_all())

    async def _confirm_all(self) -> None:
        try:
            while self._doubtful:
                leases, self._doubtful = list(self._doubtful), set()
                await self._renew(leases)
        except Exception as error:  # the next beat asks anyway
            log.warning("hint not followed", reason=type(error).__name__)
        finally:
            self._confirming = None

    async def _look_around(self) -> None:
        """Look every poll interval; and sooner while looks find work of which no ticket told."""
        pause = self._poll_interval
        while True:
            looked = [desk.look() for desk in self.desks.values()]
            pause = min(pause * 2 if any(looked) else pause, self._poll_interval)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._untold.wait(), _jittered(pause))
                self._untold.clear()
                pause = min(SOON, self._poll_interval)
                await asyncio.sleep(_jittered(pause))

    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        self._closing = True
        for desk in self.desks.values():
            desk.close()
            loop.call_later(self._grace, desk.stop_runs)
            loop.call_later(self._grace + STORING_TIME, desk.abandon)

    async def _stop(self) -> None:
        for desk in self.desks.values():
            await desk.settled()
        tasks = [*self._tasks, *([self._confirming] if self._confirming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=PARTING_TIME)
        try:
            async with asyncio.timeout(PARTING_TIME):
                for desk in self.desks.values():
                    await desk.tidy()
        except (StorageUnavailable, TimeoutError) as error:
            log.warning("left untidy", reason=str(error))
        finally:
            await asyncio.wait_for(self._stack.aclose(), PARTING_TIME)
        log.info("worker stopped", worker_id=self.identity.worker_id)

    def _running_parts(self) -> WorkerParts:
        if self._parts is None:
            raise NotRunning
        return self._parts


async def within(limit: timedelta, run: Awaitable[Performed], task_type: str) -> Performed:
    """What the run returns, unless it takes longer: then it is cancelled, which closes its call.

    Raises:
        RunFailed: with `timeout`.
    """
    try:
        async with asyncio.timeout(limit.total_seconds()) as time:
            return await run
    except Exception as error:  # however it ended once its time was up
        if not time.expired():
            raise
        setting = f"task_types.{task_type}.max_run_time"
        message = f"The run took longer than the {limit.total_seconds():g} s that {setting} allows."
        raise RunFailed(ErrorCode.TIMEOUT, message) from error


def _jittered(seconds: float) -> float:
    return seconds * (0.75 + random.random() / 2)  # noqa: S311


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped: a SystemExit in some task must not end it, every slot waits on it."""
    while True:
        try:
            loop.run_forever()
        except BaseException:
            log.exception("the event loop was interrupted and goes on")
        else:
            return
