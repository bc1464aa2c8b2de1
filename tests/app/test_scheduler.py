"""The scheduler's loop: it leads or stands by, survives what fails, and leaves the lead behind when it goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from app import scheduler as module
from app.scheduler import LEAD_LASTS, STEADY, Scheduler
from domain.circuit import Circuit, CircuitState
from domain.errors import StorageUnavailable
from domain.job import JobStatus
from domain.policy import Kept, OwnerPolicy, Policies, QueuePolicy
from domain.ports import RescueTerms
from domain.retention import Retention, retention
from domain.routing import ModelKind, Profile, Routes
from domain.usecases.guard import Guard
from domain.usecases.preempt import Preempt
from domain.usecases.prune import Prune
from domain.usecases.reconcile import Reconcile
from domain.usecases.regulate import Regulate
from domain.usecases.wake import Wake
from tests.app.conftest import until
from tests.factories import LEASE, QUEUE, new_beat, new_claim, new_job
from tests.fakes import FakeClock, FakeHealth, FragileStore, RecordingEvents, RecordingTickets
from tests.moves import cancel, found, one

RETRY_DELAY = timedelta(seconds=30)
DAY = timedelta(days=1)
KEPT: Kept = {JobStatus.CANCELLED: 30 * DAY}


@dataclass
class FakeLeadership:
    """The lead is the first one's who asks, and stays so."""

    holder: UUID | None = None
    fails: Exception | None = None
    calls: Counter[str] = field(default_factory=Counter)

    async def lead(self, holder: UUID, ttl: timedelta) -> timedelta | None:
        self.calls["lead"] += 1
        if self.fails:
            raise self.fails
        self.holder = self.holder or holder
        return STEADY if self.holder == holder else None

    async def resign(self, holder: UUID) -> None:
        self.calls["resign"] += 1
        if self.fails:
            raise self.fails
        if self.holder == holder:
            self.holder = None


@dataclass
class Stage:
    clock: FakeClock
    store: FragileStore
    tickets: RecordingTickets
    leadership: FakeLeadership
    health: FakeHealth = field(default_factory=FakeHealth)
    policies: Policies = Policies()  # noqa: RUF009  # frozen

    def scheduler(self) -> Scheduler:
        wake = Wake(self.store, self.tickets, self.clock.monotonic)
        routes = Routes([Profile("qwen2.5-14b", ModelKind.CHAT, QUEUE)])
        events = RecordingEvents()
        reconcile = Reconcile(
            self.store,
            self.store,
            lambda: routes,
            wake,
            Preempt(self.store, events),
            events,
            RescueTerms(3, RETRY_DELAY),
            monotonic=self.clock.monotonic,
        )
        guard = Guard(self.store.queues, self.health, threshold=5)
        regulate = Regulate(self.store.queues, guard, lambda: routes, wake, self.clock.now)
        prune = Prune(self.store, lambda: retention(KEPT, self.policies), self.clock.monotonic)
        return Scheduler(
            reconcile, regulate, lambda: self.policies, self.leadership, prune, monotonic=self.clock.monotonic
        )

    def limit(self) -> int | None:
        """The concurrency that claims obey."""
        return self.store.queues.state(QUEUE).policy.concurrency

    async def open_circuit(self, queue: str = QUEUE) -> None:
        await self.store.queues.change_circuit(queue, lambda *_: Circuit(CircuitState.OPEN, model_profile=queue))

    async def somebody_else_configures(self) -> None:
        await self.store.queues.configure(limited(99), [QUEUE])

    async def a_lease_that_ran_out(self) -> None:
        await self.store.beat(new_beat())
        await self.store.add([new_job()])
        await self.store.exchange([], new_claim())
        self.clock.advance(LEASE + timedelta(seconds=1))
        await self.store.beat(new_beat())


def limited(concurrency: int) -> Policies:
    return Policies({QUEUE: QueuePolicy(concurrency=concurrency)})


@pytest.fixture
def stage() -> Stage:
    clock = FakeClock()
    return Stage(clock, FragileStore(clock.now), RecordingTickets(), FakeLeadership())


@pytest.fixture
def without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0)


async def test_a_leader_does_its_round(stage: Stage):
    scheduler = stage.scheduler()
    await stage.a_lease_that_ran_out()
    await scheduler.tick()
    assert scheduler.leading
    assert QUEUE in dict(stage.tickets.published)
    [again] = (await stage.store.exchange([], new_claim())).claimed
    assert again.queue == QUEUE


async def test_a_leader_prunes_old_jobs_beside_its_rounds(stage: Stage):
    job = await one(stage.store)
    await cancel(stage.store, job.id)
    scheduler = stage.scheduler()
    await scheduler.tick()
    assert await found(stage.store) == [job.id]
    stage.clock.advance(timedelta(days=1))
    stage.policies = Policies(owners={job.owner_service: OwnerPolicy(retention={JobStatus.CANCELLED: DAY})})
    with capture_logs() as events:
        await scheduler.tick()
        await until(lambda: {"event": "jobs pruned", "log_level": "info", "cancelled": 1} in events)
    assert await found(stage.store) == []


async def test_what_cannot_be_pruned_holds_no_round_up(stage: Stage):
    def broken() -> Retention:
        raise RuntimeError("a bug")

    scheduler = stage.scheduler()
    scheduler.prune = Prune(stage.store, broken, stage.clock.monotonic)
    await stage.a_lease_that_ran_out()
    with capture_logs() as events:
        await scheduler.tick()
        await until(lambda: bool(events))
    assert QUEUE in dict(stage.tickets.published)


async def test_who_stands_by_does_nothing(stage: Stage):
    await stage.a_lease_that_ran_out()
    await stage.scheduler().tick()
    stage.tickets.published.clear()
    standby = stage.scheduler()
    await standby.tick()
    assert not standby.leading
    assert stage.tickets.published == []


async def test_a_leaders_rounds_are_timed_and_those_of_nobody_else(stage: Stage):
    rounds: list[float] = []
    scheduler = stage.scheduler()
    scheduler.led = rounds.append
    await scheduler.tick()
    assert rounds == [0.0]
    stage.leadership.holder = UUID(int=1)
    await scheduler.tick()
    assert len(rounds) == 1


async def test_a_change_of_the_lead_is_told_once(stage: Stage):
    scheduler = stage.scheduler()
    with capture_logs() as events:
        await scheduler.tick()
        await scheduler.tick()
        stage.leadership.holder = UUID(int=1)
        await scheduler.tick()
        await scheduler.tick()
    assert [event["event"] for event in events] == ["scheduler leads", "scheduler stands by"]


async def test_a_leader_that_stops_resigns(stage: Stage):
    scheduler, standby = stage.scheduler(), stage.scheduler()
    await scheduler.tick()
    await scheduler.stop()
    await standby.tick()
    assert (scheduler.leading, standby.leading) == (False, True)


async def test_who_does_not_lead_has_nothing_to_resign(stage: Stage):
    await stage.scheduler().tick()
    standby = stage.scheduler()
    await standby.tick()
    await standby.stop()
    assert stage.leadership.calls["resign"] == 0


async def test_a_lead_that_cannot_be_resigned_does_not_keep_it_from_stopping(stage: Stage):
    scheduler = stage.scheduler()
    await scheduler.tick()
    stage.leadership.fails = StorageUnavailable()
    with capture_logs() as events:
        await scheduler.stop()
    assert [event["event"] for event in events] == ["lead not resigned"]


@pytest.mark.parametrize(
    ("fails", "told"),
    [(StorageUnavailable("gone"), "storage is away"), (RuntimeError("a bug"), "scheduler tick failed")],
)
@pytest.mark.usefixtures("without_pause")
async def test_a_tick_that_fails_is_told_and_the_next_one_comes(stage: Stage, fails: Exception, told: str):
    stage.leadership.fails = fails
    scheduler = stage.scheduler()
    with capture_logs() as events:
        running = asyncio.create_task(scheduler.run())
        await until(lambda: stage.leadership.calls["lead"] > 1)
        stage.leadership.fails = None
        await until(lambda: scheduler.leading is True)
        await cancelled(running)
    assert told in {event["event"] for event in events}


@pytest.mark.usefixtures("without_pause")
async def test_cancelled_it_resigns_before_it_ends(stage: Stage):
    scheduler = stage.scheduler()
    running = asyncio.create_task(scheduler.run())
    await until(lambda: scheduler.leading is True)
    await cancelled(running)
    assert stage.leadership.holder is None


async def test_cancelled_in_the_middle_of_a_round_it_still_resigns(stage: Stage):
    entered = asyncio.Event()
    scheduler = stage.scheduler()

    async def forever() -> dict[str, int]:
        entered.set()
        await asyncio.Event().wait()
        return {}

    stage.store.promote_due = forever  # type: ignore[method-assign]  # a round that hangs
    running = asyncio.create_task(scheduler.run())
    await entered.wait()
    await cancelled(running)
    assert stage.leadership.holder is None


class TestPolicies:
    async def test_who_takes_the_lead_puts_its_policies_in_force(self, stage: Stage):
        await stage.somebody_else_configures()
        stage.policies = limited(3)
        await stage.scheduler().tick()
        assert stage.limit() == 3

    async def test_who_stands_by_does_not(self, stage: Stage):
        await stage.scheduler().tick()
        stage.policies = limited(3)
        await stage.scheduler().tick()
        assert stage.limit() is None

    async def test_they_are_in_force_before_the_round_that_obeys_them(self, stage: Stage):
        stage.policies = limited(2)
        await stage.store.add([new_job() for _ in range(9)])
        await stage.store.beat(new_beat(slots_per_queue=9))
        await stage.scheduler().tick()
        assert stage.tickets.published == [(QUEUE, 2)]

    async def test_changed_ones_are_in_force_with_the_next_tick(self, stage: Stage):
        scheduler = stage.scheduler()
        await scheduler.tick()
        stage.policies = limited(3)
        await scheduler.tick()
        assert stage.limit() == 3

    async def test_unchanged_ones_are_not_written_again(self, stage: Stage):
        scheduler = stage.scheduler()
        await scheduler.tick()
        await stage.somebody_else_configures()
        await scheduler.tick()
        assert stage.limit() == 99

    async def test_they_are_after_another_led_meanwhile(self, stage: Stage):
        scheduler = stage.scheduler()
        await scheduler.tick()
        stage.leadership.holder = UUID(int=1)
        await scheduler.tick()
        await stage.somebody_else_configures()
        stage.leadership.holder = None
        await scheduler.tick()
        assert stage.limit() is None

    async def test_they_are_after_so_long_without_a_tick_that_another_may_have_led(self, stage: Stage):
        scheduler = stage.scheduler()
        await scheduler.tick()
        await stage.somebody_else_configures()
        stage.clock.advance(LEAD_LASTS)
        await scheduler.tick()
        assert stage.limit() is None

    async def test_a_storage_that_is_away_delays_them(self, stage: Stage, monkeypatch: pytest.MonkeyPatch):
        scheduler = stage.scheduler()
        stage.policies = limited(3)
        with monkeypatch.context() as patched:
            patched.setattr(stage.store.queues, "configure", fails(StorageUnavailable()))
            await scheduler.tick_safely()
        await scheduler.tick()
        assert stage.limit() == 3

    async def test_what_cannot_be_put_in_force_keeps_nobody_from_being_rescued(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ):
        scheduler = stage.scheduler()
        await stage.a_lease_that_ran_out()
        monkeypatch.setattr(stage.store.queues, "configure", fails(RuntimeError("a bug")))
        with capture_logs() as events:
            await scheduler.tick()
        assert "policies not put in force" in {event["event"] for event in events}
        assert QUEUE in dict(stage.tickets.published)


class TestRegulating:
    async def test_a_leader_asks_the_servers_of_open_circuits(self, stage: Stage):
        await stage.open_circuit()
        scheduler = stage.scheduler()
        await scheduler.tick()
        await until(lambda: stage.store.queues.state(QUEUE).circuit.state is CircuitState.HALF_OPEN)
        await scheduler.stop()

    async def test_who_stands_by_does_not(self, stage: Stage):
        await stage.open_circuit()
        stage.leadership.holder = UUID(int=1)
        scheduler = stage.scheduler()
        await scheduler.tick()
        await until_idle()
        assert stage.health.asked == []

    async def test_a_server_that_hangs_holds_up_neither_rounds_nor_other_queues(self, stage: Stage):
        stage.health.meanwhile = asyncio.Event().wait
        await stage.open_circuit()
        scheduler = stage.scheduler()
        await scheduler.tick()
        await until(lambda: stage.health.asked == [QUEUE])
        await stage.a_lease_that_ran_out()
        await stage.open_circuit("gpu.speech")
        await scheduler.tick()
        await until(lambda: stage.health.asked == [QUEUE, "gpu.speech"])
        await scheduler.stop()

    async def test_it_is_not_asked_again_before_it_has_answered(self, stage: Stage):
        answer = asyncio.Event()
        stage.health.meanwhile, stage.health.down = answer.wait, {QUEUE}
        await stage.open_circuit()
        scheduler = stage.scheduler()
        for _ in range(3):
            await scheduler.tick()
            await until(lambda: stage.health.asked == [QUEUE])
        answer.set()
        await until_idle()
        stage.clock.advance(timedelta(minutes=1))
        await scheduler.tick()
        await until_idle()
        assert stage.health.asked == [QUEUE, QUEUE]

    async def test_who_stops_waits_for_no_server(self, stage: Stage):
        stage.health.meanwhile = asyncio.Event().wait
        await stage.open_circuit()
        scheduler = stage.scheduler()
        await scheduler.tick()
        await until(lambda: stage.health.asked == [QUEUE])
        await scheduler.stop()
        assert len(asyncio.all_tasks()) == 1
        assert stage.leadership.holder is None

    @pytest.mark.parametrize("fails_with", [StorageUnavailable("gone"), RuntimeError("a bug")])
    @pytest.mark.parametrize("step", ["states", "change_circuit"])
    async def test_what_fails_is_told_and_tried_again(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, fails_with: Exception, step: str
    ):
        await stage.open_circuit()
        scheduler = stage.scheduler()
        with monkeypatch.context() as patched, capture_logs() as events:
            patched.setattr(stage.store.queues, step, fails(fails_with))
            await scheduler.tick()
            await until_idle()
        assert "work beside the rounds failed" in {event["event"] for event in events}
        await scheduler.tick()
        await until_idle()
        assert stage.health.asked == [QUEUE]


def fails(error: Exception) -> Callable[..., Awaitable[None]]:
    async def fail(*_: object, **__: object) -> None:
        raise error

    return fail


async def until_idle() -> None:
    """Nothing goes on beside the test."""
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def cancelled(running: asyncio.Task[None]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
