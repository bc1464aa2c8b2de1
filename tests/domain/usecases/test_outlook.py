from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.circuit import Circuit, CircuitState
from domain.job import Job
from domain.policy import Policies, QueuePolicy
from domain.usecases.outlook import Foresee, Outlook, WaitingFor
from domain.usecases.report import FIGURES_LAST, Report
from tests.factories import NOW, QUEUE, external_claim, new_beat
from tests.fakes import FakeClock, FragileStore
from tests.moves import cancel, complete, each, fail, lend_one, one, run_one, settle, several, take

TEN_SECONDS = timedelta(seconds=10)
FIGURES_ARE_OLD = timedelta(seconds=FIGURES_LAST)


@pytest.fixture
def foresee(store: FragileStore, report: Report) -> Foresee:
    return Foresee(store, report)


async def runs_took(store: FragileStore, clock: FakeClock, *seconds: float, **changes: Any) -> None:
    """So many runs ended just now, each alone."""
    for took in seconds:
        held = await run_one(store, **changes)
        clock.advance(timedelta(seconds=took))
        await settle(store, complete(held))


async def serve(store: FragileStore, slots: int, busy: int = 0) -> None:
    await store.beat(new_beat(slots_per_queue=slots, running={QUEUE: busy}))


async def last_in_line(store: FragileStore, jobs: int, **changes: Any) -> Job:
    return (await several(store, jobs, **changes))[-1]


async def test_a_job_that_is_not_pending_has_nothing_before_it(foresee: Foresee, store: FragileStore):
    held = await run_one(store)
    assert await foresee.outlook(await store.get(held.id)) == Outlook()
    await settle(store, fail(held))
    assert await foresee.outlook(await store.get(held.id)) == Outlook()


async def test_a_job_that_is_not_due_waits_for_its_time(foresee: Foresee, store: FragileStore):
    await serve(store, slots=1)
    job = await one(store, run_at=NOW + TEN_SECONDS)
    assert await foresee.outlook(job) == Outlook(waiting_for=WaitingFor.RUN_AT)


async def test_a_job_of_a_queue_that_nobody_serves_waits_for_a_worker(foresee: Foresee, store: FragileStore):
    job = await last_in_line(store, 3)
    assert await foresee.outlook(job) == Outlook(position=2, waiting_for=WaitingFor.WORKER)


async def test_a_worker_that_was_not_heard_of_for_too_long_serves_nobody(
    foresee: Foresee, store: FragileStore, clock: FakeClock
):
    await serve(store, slots=1)
    clock.advance(timedelta(seconds=15))
    assert (await foresee.outlook(await one(store))).waiting_for is WaitingFor.WORKER


async def test_its_position_counts_those_that_would_be_claimed_before_it(foresee: Foresee, store: FragileStore):
    await serve(store, slots=1, busy=1)
    await several(store, 2)
    job = await one(store)
    await each(store, {}, {"priority": 1}, {"priority": 5}, {"queue": "gpu.speech"})
    assert (await foresee.outlook(job)).position == 3


async def test_with_an_idle_slot_for_it_a_job_starts_at_once(foresee: Foresee, store: FragileStore):
    await serve(store, slots=4, busy=1)
    assert await foresee.outlook(await last_in_line(store, 3)) == Outlook(2, 0, WaitingFor.SLOT)


async def test_where_nothing_like_it_was_measured_nobody_can_tell_how_long(foresee: Foresee, store: FragileStore):
    await serve(store, slots=4, busy=4)
    assert await foresee.outlook(await one(store)) == Outlook(0, None, WaitingFor.SLOT)


@pytest.mark.parametrize(
    ("slots", "busy", "in_line", "eta"),
    [
        pytest.param(1, 1, 1, 10, id="the next of one slot waits for a whole run"),
        pytest.param(1, 1, 3, 30, id="and so does each before it"),
        pytest.param(2, 2, 3, 15, id="two slots take them twice as fast"),
        pytest.param(2, 1, 3, 10, id="idle slots take the first of them at once"),
        pytest.param(3, 3, 1, 4, id="parts of a second are rounded up"),
    ],
)
async def test_a_job_waits_about_as_long_as_the_runs_before_it_take(
    foresee: Foresee, store: FragileStore, clock: FakeClock, slots: int, busy: int, in_line: int, eta: int
):
    await runs_took(store, clock, 5, 15)
    await serve(store, slots, busy)
    assert (await foresee.outlook(await last_in_line(store, in_line))).eta_seconds == eta


async def test_the_runs_of_all_kinds_on_its_queue_count(foresee: Foresee, store: FragileStore, clock: FakeClock):
    await runs_took(store, clock, 10)
    held = await one(store, task_type="transcript_summary")
    [run] = await take(store, task_types=("transcript_summary",))
    clock.advance(timedelta(seconds=40))
    await settle(store, complete(run))
    await serve(store, slots=1, busy=1)
    assert held.id == run.id
    assert (await foresee.outlook(await one(store))).eta_seconds == 25


async def test_the_runs_of_other_queues_do_not(foresee: Foresee, store: FragileStore, clock: FakeClock):
    await one(store, queue="gpu.speech")
    [held] = await take(store, queue="gpu.speech")
    clock.advance(TEN_SECONDS)
    await settle(store, complete(held))
    await serve(store, slots=1, busy=1)
    assert (await foresee.outlook(await one(store))).eta_seconds is None


class TestHeld:
    @pytest.mark.parametrize("flags", [{"paused": True}, {"stopped": True}, {"paused": True, "stopped": True}])
    async def test_a_job_of_a_queue_that_is_paused_or_stopped_waits_for_that(
        self, foresee: Foresee, store: FragileStore, clock: FakeClock, flags: dict[str, bool]
    ):
        await runs_took(store, clock, 10)
        await serve(store, slots=4)
        await store.queues.hold([QUEUE], **flags)
        assert await foresee.outlook(await last_in_line(store, 3)) == Outlook(2, None, WaitingFor.PAUSED)

    @pytest.mark.parametrize("state", [CircuitState.OPEN, CircuitState.HALF_OPEN])
    async def test_one_behind_a_circuit_that_is_not_closed_waits_for_it(
        self, foresee: Foresee, store: FragileStore, clock: FakeClock, state: CircuitState
    ):
        await runs_took(store, clock, 10)
        await serve(store, slots=4)
        await store.queues.change_circuit(QUEUE, lambda *_: Circuit(state))
        assert await foresee.outlook(await last_in_line(store, 3)) == Outlook(2, None, WaitingFor.CIRCUIT)

    async def test_an_operators_word_is_told_before_the_servers_state_and_the_lack_of_workers(
        self, foresee: Foresee, store: FragileStore
    ):
        await store.queues.change_circuit(QUEUE, lambda *_: Circuit(CircuitState.OPEN))
        await store.queues.hold([QUEUE], paused=True)
        assert (await foresee.outlook(await one(store))).waiting_for is WaitingFor.PAUSED

    async def test_one_that_is_not_due_waits_for_its_time_first(self, foresee: Foresee, store: FragileStore):
        await store.queues.hold([QUEUE], paused=True)
        job = await one(store, run_at=NOW + TEN_SECONDS)
        assert await foresee.outlook(job) == Outlook(waiting_for=WaitingFor.RUN_AT)

    async def test_other_queues_are_not_affected(self, foresee: Foresee, store: FragileStore):
        await serve(store, slots=4)
        await store.queues.hold(["gpu.speech"], paused=True)
        assert (await foresee.outlook(await one(store))).waiting_for is WaitingFor.SLOT


class TestLimit:
    """Four slots, of which two may be busy at once; runs take ten seconds."""

    @pytest.fixture
    async def limited(self, store: FragileStore, clock: FakeClock) -> None:
        await store.queues.configure(Policies({QUEUE: QueuePolicy(concurrency=2)}), [])
        await runs_took(store, clock, 10)

    @pytest.mark.usefixtures("limited")
    async def test_as_many_as_the_limit_has_room_for_start_at_once(self, foresee: Foresee, store: FragileStore):
        await serve(store, slots=4)
        first, second, third = await several(store, 3)
        assert [(await foresee.outlook(job)).eta_seconds for job in (first, second, third)] == [0, 0, 5]

    @pytest.mark.usefixtures("limited")
    async def test_idle_slots_above_the_limit_help_nobody(self, foresee: Foresee, store: FragileStore):
        await several(store, 2)
        await take(store, limit=2)
        await serve(store, slots=4, busy=2)
        first, second = await several(store, 2)
        assert [await foresee.outlook(job) for job in (first, second)] == [
            Outlook(0, 5, WaitingFor.SLOT),
            Outlook(1, 10, WaitingFor.SLOT),
        ]

    @pytest.mark.usefixtures("limited")
    async def test_what_runs_outside_takes_room_too(self, foresee: Foresee, store: FragileStore):
        await several(store, 2)
        assert len(await store.claim(external_claim(limit=2))) == 2
        await serve(store, slots=4)
        assert (await foresee.outlook(await one(store))).eta_seconds == 10


class TestWithoutQueue:
    async def test_a_job_without_a_queue_waits_for_an_external_worker(self, foresee: Foresee, store: FragileStore):
        job = await last_in_line(store, 2, queue=None, task_type="their_own")
        assert await foresee.outlook(job) == Outlook(1, None, WaitingFor.EXTERNAL_WORKER)

    async def test_it_waits_as_long_as_such_jobs_took_to_get_their_turn_lately(
        self, foresee: Foresee, store: FragileStore
    ):
        for _ in range(10):
            held = await lend_one(store, queue=None)
            await settle(store, complete(held.leased()))
        job = await last_in_line(store, 2, queue=None)
        assert await foresee.outlook(job) == Outlook(1, 60, WaitingFor.EXTERNAL_WORKER)

    async def test_runs_of_another_kind_tell_nothing(self, foresee: Foresee, store: FragileStore):
        held = await lend_one(store, queue=None, task_type="another")
        await settle(store, complete(held.leased()))
        assert (await foresee.outlook(await one(store, queue=None))).eta_seconds is None


async def test_the_paces_are_those_of_the_last_reading(foresee: Foresee, store: FragileStore, clock: FakeClock):
    """A list of waiting jobs costs one reading."""
    await serve(store, slots=1, busy=1)
    job = await one(store)
    assert (await foresee.outlook(job)).eta_seconds is None
    [held] = await store.claim(external_claim())
    clock.advance(FIGURES_ARE_OLD / 2)
    await settle(store, complete(held.leased()))
    waiting = await one(store)
    assert (await foresee.outlook(waiting)).eta_seconds is None
    clock.advance(FIGURES_ARE_OLD / 2)
    assert (await foresee.outlook(waiting)).eta_seconds == 1


async def test_while_the_storage_is_away_nothing_is_foreseen(foresee: Foresee, store: FragileStore):
    job = await one(store)
    store.away = True
    assert await foresee.outlook(job) == Outlook()


async def test_what_happened_meanwhile_does_no_harm(foresee: Foresee, store: FragileStore):
    await serve(store, slots=1, busy=1)
    job = await one(store)
    await cancel(store, job.id)
    assert await foresee.outlook(job) == Outlook(0, None, WaitingFor.SLOT)
