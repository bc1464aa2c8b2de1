"""The installation as its leader's metrics show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from adapters.memory.store import MemoryJobStore
from adapters.telemetry.bounded import Bounded
from adapters.telemetry.installation import samples
from adapters.telemetry.metrics import Sample
from domain.job import CANCELLED_BY_CALLER, JobStatus
from domain.policy import Policies, QueuePolicy
from domain.ports import BrokerQueue, BrokerState, Pace, StorageVitals, TableVitals
from domain.routing import ModelKind, Profile, Routes
from domain.usecases.operate import Operate
from domain.usecases.report import Report
from domain.usecases.survey import Survey
from domain.usecases.wake import Wake
from tests.factories import PROFILE, QUEUE, new_beat, new_claim, new_job
from tests.fakes import FakeClock, RecordingTickets, ToldFigures

HEALTHY = StorageVitals(
    tables={"jobs": TableVitals(live=1_000, dead=7)},
    oldest_snapshot_seconds=3.5,
    oldest_snapshot_transactions=12,
    size_bytes=9_000_000,
    connections=4,
    unfolded_changes=2,
)


class PacedStore(MemoryJobStore):
    """Of whose runs a test says how long they took."""

    lately: Sequence[Pace] = ()

    async def paces(self) -> list[Pace]:
        return list(self.lately)


class FakeVitals:
    async def vitals(self) -> StorageVitals:
        return HEALTHY

    async def oldest_due(self) -> dict[str | None, float]:
        return {QUEUE: 12.5}


@dataclass
class Site:
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.store = PacedStore(self.clock.now)
        tickets = RecordingTickets()
        routes = Routes([Profile(PROFILE, ModelKind.CHAT, QUEUE)])
        operate = Operate(self.store.queues, lambda: routes, Wake(self.store, tickets, self.clock.monotonic))
        self.broker = ToldFigures()
        report = Report(self.store, tickets, self.broker, operate, self.clock.now, self.clock.monotonic)
        self.survey = Survey(report, FakeVitals())

    async def seen(self) -> dict[tuple[str, tuple[str, ...]], float]:
        self.clock.advance(timedelta(seconds=10))
        found: list[Sample] = [*samples(await self.survey.installation(), Bounded({QUEUE}.__contains__))]
        assert len({(name, labels) for name, labels, _ in found}) == len(found), "no sample twice"
        return {(name, labels): value for name, labels, value in found}


@pytest.fixture
def site() -> Site:
    return Site()


async def test_jobs_are_counted_by_queue_and_state(site: Site):
    await site.store.add([new_job(), new_job(), new_job(queue=None), new_job(run_at=site.clock.now() + timedelta(1))])
    seen = await site.seen()
    assert seen["aijobs_jobs", (QUEUE, "pending")] == 3
    assert seen["aijobs_jobs", (QUEUE, "failed")] == 0
    assert seen["aijobs_jobs_due", (QUEUE,)] == 2
    assert (seen["aijobs_jobs", ("none", "pending")], seen["aijobs_jobs_due", ("none",)]) == (1, 1)


async def test_due_and_running_jobs_are_backlog(site: Site):
    assert (await site.seen())["aijobs_backlog_seconds", (QUEUE,)] == 0
    await site.store.add([new_job(), new_job(), new_job(run_at=site.clock.now() + timedelta(1))])
    await site.store.exchange([], new_claim())
    assert (await site.seen())["aijobs_backlog_seconds", (QUEUE,)] == 20
    site.store.lately = [Pace(QUEUE, "llm_chat", PROFILE, runs=4, run_seconds=3.0)]
    assert (await site.seen())["aijobs_backlog_seconds", (QUEUE,)] == 6


async def test_a_pace_is_remembered_while_runs_take_longer_than_the_storage_looks_back(site: Site):
    await site.store.add([new_job()])
    site.store.lately = [Pace(QUEUE, "llm_chat", PROFILE, runs=1, run_seconds=900.0)]
    await site.seen()
    site.store.lately = []
    assert (await site.seen())["aijobs_backlog_seconds", (QUEUE,)] == 900


async def test_a_queue_shows_who_serves_it(site: Site):
    [added] = await site.store.add([new_job()])
    await site.store.exchange([], new_claim())
    await site.store.beat(new_beat(slots_per_queue=4, running={QUEUE: 1}))
    assert (await site.store.get(added.job.id)).status is JobStatus.RUNNING
    site.clock.advance(-timedelta(seconds=10))
    seen = await site.seen()
    assert seen["aijobs_workers", ()] == seen["aijobs_queue_workers", (QUEUE,)] == 1
    assert seen["aijobs_queue_slots", (QUEUE,)] == 4
    assert seen["aijobs_oldest_due_seconds", (QUEUE,)] == 12.5


async def test_a_queue_shows_what_holds_and_what_limits_it(site: Site):
    assert ("aijobs_queue_limit", (QUEUE,)) not in await site.seen()
    await site.store.queues.configure(Policies(queues={QUEUE: QueuePolicy(concurrency=3)}), [QUEUE])
    await site.store.queues.hold([QUEUE], paused=True)
    seen = await site.seen()
    assert seen["aijobs_queue_limit", (QUEUE,)] == 3
    assert [seen["aijobs_queue_held", (QUEUE, why)] for why in ("paused", "stopped", "circuit")] == [1, 0, 0]
    assert [seen["aijobs_circuit_state", (QUEUE, state)] for state in ("closed", "half_open", "open")] == [1, 0, 0]


async def test_the_broker_shows_its_tickets_where_it_can_be_asked(site: Site):
    assert not [name for name, _ in await site.seen() if "tickets" in name or "consumers" in name]
    site.broker.state = BrokerState(queues={QUEUE: BrokerQueue(2, 3, 4)}, asked_at=site.clock.now())
    seen = await site.seen()
    held = [seen[name, (QUEUE,)] for name in ("aijobs_tickets_ready", "aijobs_tickets_unacked", "aijobs_consumers")]
    assert held == [2, 3, 4]


async def test_the_oldest_final_jobs_show_how_long_they_stay(site: Site):
    [added] = await site.store.add([new_job()])
    await site.store.cancel([added.job.id], CANCELLED_BY_CALLER)
    site.clock.advance(timedelta(seconds=50))
    seen = await site.seen()
    assert seen["aijobs_oldest_finished_seconds", ("cancelled",)] == 60
    assert ("aijobs_oldest_finished_seconds", ("failed",)) not in seen


async def test_postgresql_shows_what_will_make_it_slow(site: Site):
    seen = await site.seen()
    assert seen["aijobs_postgres_dead_tuples", ("jobs",)] == 7
    assert seen["aijobs_postgres_live_tuples", ("jobs",)] == 1_000
    assert seen["aijobs_postgres_oldest_snapshot_seconds", ()] == 3.5
    assert seen["aijobs_postgres_oldest_snapshot_transactions", ()] == 12
    assert seen["aijobs_postgres_size_bytes", ()] == 9_000_000
    assert seen["aijobs_postgres_connections", ()] == 4
    assert seen["aijobs_unfolded_changes", ()] == 2
