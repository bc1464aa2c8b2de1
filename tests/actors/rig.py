"""A worker to test: real threads and hooks over a job store in memory, which lives on the worker's own event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

from dramatiq import Broker, Middleware, Worker

from actors.desk import Desk, Perform, Performed
from actors.runtime import Identity, Runtime, WorkerParts
from actors.stack import stack
from actors.tasks import register
from actors.tickets import ticket
from adapters.memory.broker import InProcessBroker
from adapters.memory.events import InProcessEvents
from adapters.rabbitmq.broker import QueueType, TicketBroker
from app.bootstrap import InProcessTicketConsumer, RabbitTicketConsumer
from domain.errors import StorageUnavailable
from domain.events import TAKEN_AWAY
from domain.job import Job, JobId, JobStatus, Lease, LeasedJob, NewJob, Settlement
from domain.policy import Policies
from domain.ports import Claim, Exchange, Presence, WorkerBeat
from domain.retry import RetryPolicy
from domain.telemetry import Listener
from domain.usecases.guard import Guard
from domain.usecases.work import Work
from tests.factories import PROFILE, QUEUE, new_job
from tests.fakes import FakeHealth, FragileStore

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds after which a test gives up on what it waits for."""

RESULT = b'{"content": "done"}'
LEASE = timedelta(seconds=15)


def until(happened: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.003)


class Store(FragileStore):
    """Can be away, hold its answers back, lose one, and raise what a test wants."""

    def __init__(self) -> None:
        super().__init__(lambda: datetime.now(UTC))
        self.exchanges: list[tuple[int, int]] = []
        """Settlements and jobs asked for, of each exchange."""
        self.settlements: list[Settlement] = []
        """Those of exchanges that were answered."""
        self.renewals: list[list[Lease]] = []
        self.renewing: asyncio.Event | None = None
        """Renewals are not answered before it is set."""
        self.released: list[int] = []
        self.refusals = 0
        """Calls that found it away."""
        self.raises: Exception | None = None
        self.loses_answer = False
        self.deaf = False
        """Answers no exchange until the test ends, whatever is done."""
        self.gate: asyncio.Event | None = None

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        self.exchanges.append((len(settlements), claim.limit if claim else 0))
        while self.deaf:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        if self.raises:
            raise self.raises
        self._must_be_there()
        outcome = await super().exchange(settlements, claim)
        self.settlements.extend(settlements)
        if self.gate:
            await self.gate.wait()  # what it saw is decided already
        if self.loses_answer:
            self.loses_answer = False
            raise StorageUnavailable
        return outcome

    def _must_be_there(self) -> None:
        self.refusals += self.away
        super()._must_be_there()

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        self._must_be_there()
        self.renewals.append(list(leases))
        if self.renewing:
            await self.renewing.wait()
        return await super().renew(leases, lease)

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        self._must_be_there()
        self.released.append(await super().release_orphans(worker_id, queue, held))
        return self.released[-1]

    async def beat(self, beat: WorkerBeat) -> frozenset[str]:
        self._must_be_there()
        return await super().beat(beat)

    async def forget_worker(self, worker: Any, older_than: timedelta) -> None:
        self._must_be_there()
        await super().forget_worker(worker, older_than)


class Stage:
    """Runs jobs: notes each start and end; a held one goes on when it is let go."""

    def __init__(self, *, holds: bool = False) -> None:
        self.holds = holds
        self.started: list[JobId] = []
        self.ended: list[JobId] = []
        self.stopped: list[JobId] = []
        self.closing: asyncio.Event | None = None
        """A run that is stopped takes until this is set to close its call."""
        self.most_at_once = 0
        self._let_go: set[JobId] = set()

    async def __call__(self, job: LeasedJob) -> Performed:
        self.started.append(job.id)
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            while self.holds and job.id not in self._let_go:  # noqa: ASYNC110  # let go from another thread
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.stopped.append(job.id)
            if self.closing:
                await self.closing.wait()
            raise
        self.ended.append(job.id)
        return Performed(RESULT)

    def let_go(self, *jobs: JobId) -> None:
        self._let_go.update(jobs)

    @property
    def running(self) -> list[JobId]:
        gone = [*self.ended, *self.stopped]
        return [job for job in self.started if job not in gone]


class Heard(Listener):
    """Keeps of which queues a ticket found nothing."""

    def __init__(self) -> None:
        self.in_vain: list[str] = []

    def woken_in_vain(self, queue: str) -> None:
        self.in_vain.append(queue)


class Shop:
    """One worker process. Nothing but tickets wakes it: its own look for work comes once, at the start."""

    def __init__(
        self,
        performers: Mapping[str, Perform],
        *,
        slots: int = 1,
        threads: int | None = None,
        queues: Sequence[str] = (QUEUE,),
        grace: float = 10.0,
        amqp_url: str | None = None,
        queue_type: QueueType = "classic",
        actors: Sequence[str] | None = None,
        observers: Sequence[Middleware] = (),
    ) -> None:
        self.store = Store()
        self.bus = InProcessEvents()
        self.health = FakeHealth()
        self.telemetry = Heard()
        self.policies = Policies()
        self.queues = queues
        self.opened = self.closed = False
        self._performers = performers
        self.runtime = Runtime(
            self._parts,
            identity=Identity(uuid4(), "worker", "host"),
            slots=slots,
            poll_interval=3600,
            grace=grace,
        )
        middleware = stack(self.runtime, *observers)
        self.broker: Broker = (
            TicketBroker(amqp_url, queue_type=queue_type, middleware=middleware, consumer_class=RabbitTicketConsumer)
            if amqp_url
            else InProcessBroker(middleware, InProcessTicketConsumer)
        )
        register(self.broker, self.runtime, task_types=actors or tuple(performers), queues=queues)
        self.worker = Worker(
            self.broker,
            queues=set(queues),
            worker_threads=threads or slots * len(queues),
            worker_timeout=20,
        )
        self._before = set(threading.enumerate())

    @asynccontextmanager
    async def _parts(self) -> AsyncIterator[WorkerParts]:
        self.opened = True
        self.bus.listen(self.runtime.heard, TAKEN_AWAY)
        guard = Guard(self.store.queues, self.health, threshold=5)
        work = Work(self.store, self.bus, self.health, guard, RetryPolicy(), lambda: 0.0, LEASE, self.telemetry)
        yield WorkerParts(work, self._performers, lambda: (PROFILE,), lambda: self.policies, self._presence)
        self.closed = True

    @asynccontextmanager
    async def _presence(self) -> AsyncIterator[Presence]:
        yield self.store

    def __enter__(self) -> Shop:
        self.worker.start()
        until(lambda: self.store.exchanges, "the first look")
        until(lambda: not self.desk()._serving, "its answer")
        return self

    def __exit__(self, *_: object) -> None:
        self.store.away = self.store.deaf = False
        self.stop()

    def stop(self) -> None:
        if self.runtime._loop:
            self.worker.stop(timeout=20_000)
            self.broker.close()

    @property
    def leaked(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self._before]

    def desk(self, queue: str | None = None) -> Desk:
        return self.runtime.desk(queue or self.queues[0])

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        assert self.runtime._loop
        return asyncio.run_coroutine_threadsafe(work, self.runtime._loop).result(PATIENCE)

    def add(self, *jobs: NewJob) -> list[JobId]:
        self.on_loop(self.store.add(jobs))
        return [job.id for job in jobs]

    def wake(self, tickets: int = 1, queue: str | None = None) -> None:
        for _ in range(tickets):
            self.broker.enqueue(ticket(queue or self.queues[0]))

    def submit(self, *jobs: NewJob) -> list[JobId]:
        ids = self.add(*jobs)
        self.wake(len(ids))
        return ids

    def job(self, job_id: JobId) -> Job:
        return self.store._jobs[job_id]

    def count(self, status: JobStatus) -> int:
        return sum(job.status is status for job in list(self.store._jobs.values()))

    def done(self, *jobs: JobId) -> None:
        """Wait until these have a final state."""
        until(lambda: all(self.job(job).status.final for job in jobs), "the end of the jobs")

    def idle(self) -> None:
        """Wait until the desks have nothing to do, every slot is free, and every ticket was answered."""
        until(lambda: all(self._is_idle(queue) for queue in self.queues), "idleness")

    def _is_idle(self, queue: str) -> bool:
        desk = self.desk(queue)
        return not desk._serving and not desk._held and desk._free == desk.slots

    def renew(self) -> None:
        self.on_loop(self.runtime.renew())

    async def close_gate(self) -> None:
        """Exchanges are decided, but not answered, until it is opened."""
        self.store.gate = asyncio.Event()

    def open_gate(self) -> None:
        assert self.store.gate
        self.set(self.store.gate)

    def set(self, event: asyncio.Event) -> None:
        """Set an event that something on the worker's loop waits for."""
        assert self.runtime._loop
        self.runtime._loop.call_soon_threadsafe(event.set)


def jobs(count: int, **changes: Any) -> list[NewJob]:
    return [new_job(**changes) for _ in range(count)]
