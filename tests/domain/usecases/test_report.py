from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from domain.access import ANYBODY, Caller, Right
from domain.adaptive import Adapted
from domain.circuit import Circuit, CircuitState
from domain.errors import ErrorCode, StorageUnavailable
from domain.job import JobStatus
from domain.policy import Policies, QueuePolicy
from domain.ports import BrokerQueue, BrokerState, Durations, Finished, Quantiles, Tally
from domain.queue import QueueState
from domain.usecases.operate import Operate
from domain.usecases.report import FIGURES_LAST, MOST_RUNNING, Counts, QueueReport, Readiness, Report
from tests.factories import NOW, QUEUE, new_beat
from tests.fakes import FakeClock, FragileStore, RecordingTickets, ToldFigures
from tests.moves import cancel, complete, each, fail, one, run_one, settle, several, take, try_again

LION, BEAR = Caller(owner="lion"), Caller(owner="bear")
READER = Caller(rights=frozenset({Right.READ}))
OPEN = Circuit(CircuitState.OPEN, ErrorCode.AUTH_ERROR, "The provider answered 401: call 4711 is not for you.")
FIGURES_ARE_OLD = timedelta(seconds=FIGURES_LAST)
A_MOMENT = timedelta(microseconds=1)
TEN_SECONDS = timedelta(seconds=10)


@pytest.fixture
def readings(store: FragileStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read of the store, by the method's name."""
    seen: list[str] = []
    for name in ("tallies", "finished", "paces", "durations", "oldest_due"):
        monkeypatch.setattr(store, name, watched(seen, name, getattr(store, name)))
    return seen


def watched(seen: list[str], name: str, read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def reading(*asked: object) -> Any:
        seen.append(name)
        await asyncio.sleep(0)
        return await read(*asked)

    return reading


@pytest.mark.parametrize("storage", [True, False])
@pytest.mark.parametrize("broker", [True, False])
async def test_readiness_tells_what_answers(
    report: Report, store: FragileStore, tickets: RecordingTickets, storage: bool, broker: bool
):
    store.away, tickets.up = not storage, broker
    assert await report.readiness() == Readiness(storage=storage, broker=broker)


async def one_of_each(store: FragileStore) -> None:
    await settle(store, complete(await run_one(store, owner_service="lion")))
    await settle(store, fail(await run_one(store, owner_service="bear")))
    await settle(store, try_again(await run_one(store, owner_service="lion")))
    await cancel(store, (await one(store, owner_service="bear", queue=None, task_type="their_own")).id)
    await run_one(store, owner_service="lion")
    await several(store, 2, owner_service="bear")
    await one(store, owner_service="lion", queue=None, task_type="their_own")


class TestStats:
    async def test_an_empty_service(self, report: Report):
        stats = await report.stats(ANYBODY)
        assert (stats.total, stats.by_queue, stats.by_task_type, stats.by_owner) == (Counts(), {}, {}, {})
        assert (stats.by_error_code, stats.finished, stats.oldest_due_seconds) == ({}, (), None)
        assert (stats.as_of, stats.durations) == (NOW, Durations(None, None))

    async def test_jobs_are_counted_by_state(self, report: Report, store: FragileStore):
        await one_of_each(store)
        assert (await report.stats(ANYBODY)).total == Counts(
            pending=4, due=3, running=1, completed=1, failed=1, cancelled=1
        )

    async def test_and_so_they_are_of_each_queue_task_type_and_owner(self, report: Report, store: FragileStore):
        await one_of_each(store)
        stats = await report.stats(ANYBODY)
        outside = Counts(pending=1, due=1, cancelled=1)
        inside = Counts(pending=3, due=2, running=1, completed=1, failed=1)
        assert stats.by_queue == {QUEUE: inside, None: outside}
        assert stats.by_task_type == {"llm_chat": inside, "their_own": outside}
        assert stats.by_owner == {
            "lion": Counts(pending=2, due=1, running=1, completed=1),
            "bear": Counts(pending=2, due=2, failed=1, cancelled=1),
        }

    async def test_error_codes_are_those_of_failed_cancelled_and_waiting_jobs(
        self, report: Report, store: FragileStore
    ):
        await one_of_each(store)
        assert (await report.stats(ANYBODY)).by_error_code == {ErrorCode.TIMEOUT: 2, ErrorCode.CANCELLED: 1}

    async def test_times_and_throughput_are_told(self, report: Report, store: FragileStore, clock: FakeClock):
        await one(store, owner_service="lion")
        clock.advance(TEN_SECONDS)
        [held] = await take(store)
        clock.advance(2 * TEN_SECONDS)
        await settle(store, complete(held))
        await one(store, owner_service="lion")
        clock.advance(TEN_SECONDS)
        stats = await report.stats(ANYBODY)
        assert stats.durations == Durations(Quantiles(10, 10, 10), Quantiles(20, 20, 20))
        assert stats.finished == (Finished("lion", JobStatus.COMPLETED, 1, 1, 1),)
        assert stats.oldest_due_seconds == 10

    async def test_a_caller_with_an_owner_learns_of_nobody_else(
        self, report: Report, store: FragileStore, clock: FakeClock
    ):
        await one_of_each(store)
        clock.advance(TEN_SECONDS)
        await one(store, owner_service="bear")
        stats = await report.stats(BEAR)
        assert stats.total == Counts(pending=3, due=3, failed=1, cancelled=1)
        assert set(stats.by_owner) == {"bear"}
        assert stats.by_queue == {QUEUE: Counts(pending=3, due=3, failed=1), None: Counts(cancelled=1)}
        assert stats.by_error_code == {ErrorCode.TIMEOUT: 1, ErrorCode.CANCELLED: 1}
        assert {each.owner_service for each in stats.finished} == {"bear"}

    async def test_nor_of_their_times(self, report: Report, store: FragileStore, clock: FakeClock):
        held = await run_one(store, owner_service="bear")
        clock.advance(TEN_SECONDS)
        await settle(store, complete(held))
        await one(store, owner_service="bear")
        clock.advance(TEN_SECONDS)
        stats = await report.stats(LION)
        assert (stats.durations, stats.oldest_due_seconds, stats.finished) == (Durations(None, None), None, ())
        assert (await report.stats(BEAR)).durations.ran == Quantiles(10, 10, 10)


class TestFigures:
    async def test_they_are_given_out_for_two_seconds(
        self, report: Report, store: FragileStore, clock: FakeClock, readings: list[str]
    ):
        first = await report.figures()
        clock.advance(FIGURES_ARE_OLD - A_MOMENT)
        assert await report.figures() is first
        clock.advance(A_MOMENT)
        second = await report.figures()
        assert (first.as_of, second.as_of) == (NOW, NOW + FIGURES_ARE_OLD)
        assert readings == ["tallies", "finished", "paces"] * 2

    async def test_whoever_asks_meanwhile_shares_one_reading(self, report: Report, readings: list[str]):
        first, *others = await asyncio.gather(*(report.figures() for _ in range(9)))
        assert all(other is first for other in others)
        assert readings == ["tallies", "finished", "paces"]

    async def test_while_they_are_read_anew_others_get_the_old_ones_at_once(
        self, report: Report, clock: FakeClock, readings: list[str]
    ):
        old = await report.figures()
        clock.advance(FIGURES_ARE_OLD)
        new, meanwhile = await asyncio.gather(report.figures(), report.figures())
        assert (new.as_of, meanwhile) == (NOW + FIGURES_ARE_OLD, old)
        assert readings == ["tallies", "finished", "paces"] * 2

    async def test_each_owner_is_read_in_its_own_time(self, report: Report, clock: FakeClock, readings: list[str]):
        await report.stats(LION)
        clock.advance(FIGURES_ARE_OLD / 2)
        await report.stats(BEAR)
        await report.stats(LION)
        assert [name for name in readings if name == "durations"] == ["durations"] * 2
        clock.advance(FIGURES_ARE_OLD / 2)
        await report.stats(LION)
        await report.stats(BEAR)
        assert [name for name in readings if name == "durations"] == ["durations"] * 3

    async def test_a_reading_that_failed_is_not_kept(
        self, report: Report, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        async def away() -> list[Tally]:
            raise StorageUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(store, "tallies", away)
            with pytest.raises(StorageUnavailable):
                await report.figures()
        await one(store)
        assert (await report.stats(ANYBODY)).total == Counts(pending=1, due=1)


class TestQueues:
    async def test_what_is_configured_is_told_even_if_nothing_happens_there(self, report: Report):
        assert await report.queues(ANYBODY) == [
            QueueReport(QueueState("gpu.llm"), Counts(), workers=0, slots=0, idle=0),
            QueueReport(QueueState("gpu.speech"), Counts(), workers=0, slots=0, idle=0),
        ]

    async def test_beside_a_queue_stands_what_the_broker_tells_of_it(self, report: Report, figures: ToldFigures):
        lying = BrokerQueue(ready=1, unacked=2, consumers=3)
        figures.state = BrokerState(queues={"gpu.llm": lying, "of.others": lying}, asked_at=NOW)
        told = {queue.state.name: queue.broker for queue in await report.queues(ANYBODY)}
        assert told == {"gpu.llm": lying, "gpu.speech": None}

    async def test_so_is_what_has_jobs_a_worker_or_was_steered(self, report: Report, store: FragileStore):
        await each(store, {"queue": "gpu.gone"}, {"queue": None})
        await store.beat(new_beat(queues=("gpu.new",)))
        await store.queues.hold(["gpu.old"], paused=True)
        told = [queue.state.name for queue in await report.queues(ANYBODY)]
        assert told == ["gpu.gone", "gpu.llm", "gpu.new", "gpu.old", "gpu.speech"]

    async def test_its_jobs_are_counted_and_its_workers_slots_added_up(self, report: Report, store: FragileStore):
        await several(store, 3)
        await take(store)
        await store.beat(new_beat(queues=("gpu.llm", "gpu.speech"), slots_per_queue=4, running={QUEUE: 1}))
        await store.beat(new_beat(slots_per_queue=2))
        llm, speech = await report.queues(ANYBODY)
        assert (llm.jobs, llm.workers, llm.slots, llm.idle) == (Counts(pending=2, due=2, running=1), 2, 6, 5)
        assert (speech.jobs, speech.workers, speech.slots, speech.idle) == (Counts(), 1, 4, 4)

    async def test_how_it_is_held_and_limited_is_told(self, report: Report, store: FragileStore):
        policy = QueuePolicy(concurrency=8, adaptive=True)
        await store.queues.configure(Policies({QUEUE: policy}), [])
        await store.queues.adapt(QUEUE, Adapted(5))
        await store.queues.hold([QUEUE], stopped=True)
        state = (await report.queues(ANYBODY))[0].state
        assert (state.policy, state.limit, state.paused, state.stopped) == (policy, 5, False, True)

    async def test_words_about_an_open_circuit_are_for_operators(self, report: Report, store: FragileStore):
        await store.queues.change_circuit(QUEUE, lambda *_: OPEN)
        assert (await report.queues(ANYBODY))[0].state.circuit == OPEN
        assert (await report.queues(READER))[0].state.circuit == replace(OPEN, message="")

    async def test_more_running_jobs_than_slots_leave_none_idle(self, report: Report, store: FragileStore):
        await store.beat(new_beat(slots_per_queue=1, running={QUEUE: 3}))
        assert (await report.queues(ANYBODY))[0].idle == 0

    async def test_workers_are_told_while_they_live(self, report: Report, store: FragileStore, clock: FakeClock):
        await store.beat(new_beat(worker_id="worker-1"))
        clock.advance(TEN_SECONDS)
        await store.beat(new_beat(worker_id="worker-2"))
        assert [worker.worker_id for worker in await report.workers()] == ["worker-1", "worker-2"]
        clock.advance(TEN_SECONDS)
        assert [worker.worker_id for worker in await report.workers()] == ["worker-2"]
        assert (await report.queues(ANYBODY))[0].workers == 1


class TestStanding:
    @pytest.mark.parametrize(
        ("paused", "stopped", "stands"),
        [
            ([], [], (True, False)),
            (["gpu.llm"], ["gpu.llm"], (True, False)),
            (["gpu.llm", "gpu.speech"], [], (True, True)),
            ([], ["gpu.llm", "gpu.speech"], (False, False)),
        ],
    )
    async def test_all_queues_are_held_when_each_of_them_is(
        self,
        report: Report,
        operate: Operate,
        store: FragileStore,
        paused: list[str],
        stopped: list[str],
        stands: tuple[bool, bool],
    ):
        await store.queues.hold(paused, paused=True)
        await store.queues.hold(stopped, stopped=True)
        standing = await report.standing(ANYBODY, await operate.states())
        assert (standing.started, standing.paused) == stands

    async def test_no_queues_are_not_held(self, report: Report):
        standing = await report.standing(ANYBODY, [])
        assert (standing.started, standing.paused, standing.pending) == (True, False, 0)

    async def test_the_jobs_of_its_queues_are_counted(self, report: Report, store: FragileStore, operate: Operate):
        await each(store, {"queue": "gpu.llm"}, {"queue": "gpu.llm"}, {"queue": "gpu.speech"}, {"queue": None})
        assert (await report.standing(ANYBODY, await operate.states())).pending == 3
        assert (await report.standing(ANYBODY, await operate.meant("gpu.llm"))).pending == 2

    async def test_running_jobs_of_its_queues_are_named(self, report: Report, store: FragileStore, operate: Operate):
        first = await run_one(store, owner_service="lion")
        second = await run_one(store, owner_service="bear")
        await one(store, queue="gpu.speech")
        await take(store, queue="gpu.speech")
        await one(store)
        standing = await report.standing(ANYBODY, await operate.meant("gpu.llm"))
        assert standing.running_jobs == (first.id, second.id)

    async def test_to_who_has_an_owner_only_their_own(self, report: Report, store: FragileStore, operate: Operate):
        mine = await run_one(store, owner_service="lion")
        await run_one(store, owner_service="bear")
        assert (await report.standing(LION, await operate.states())).running_jobs == (mine.id,)

    async def test_a_hundred_are_named_at_most(self, report: Report, store: FragileStore, operate: Operate):
        await several(store, MOST_RUNNING + 1)
        running = await take(store, limit=MOST_RUNNING + 1)
        standing = await report.standing(ANYBODY, await operate.states())
        assert standing.running_jobs == tuple(job.id for job in running[:MOST_RUNNING])
