from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from msgspec.structs import replace

from domain.ports import DEMAND_LIMIT, Demand, JobStore, LiveWorker
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT
from tests.factories import QUEUE, new_beat, new_job
from tests.moves import lend, one, settle, several, take, try_again

ALIVE_WITHIN = timedelta(seconds=15)
AWKWARD = """'; DROP TABLE jobs; -- "quoted" \\ % $1 {} \t\n ünïcødé 日本語 🦊 """


async def demand_for(store: JobStore, *queues: str) -> dict[str, Demand]:
    found = await store.demand(queues, ALIVE_WITHIN)
    assert len(found) == len(queues)
    return {demand.queue: demand for demand in found}


async def test_nobody_and_nothing(store: JobStore):
    assert await demand_for(store, QUEUE) == {QUEUE: Demand(QUEUE, due=0, slots=0, idle=0)}


async def test_no_queue_has_no_demand(store: JobStore):
    await one(store)
    assert await store.demand([], ALIVE_WITHIN) == []


async def test_only_pending_jobs_that_are_due_count(rig: Rig):
    await several(rig.store, 4)
    held, _ = await take(rig.store, limit=2)
    await settle(rig.store, try_again(held))
    await rig.store.add([new_job(run_at=await rig.now() + A_MINUTE), new_job(queue=None)])
    await rig.store.add([new_job(queue="gpu.speech")])
    found = await demand_for(rig.store, QUEUE, "gpu.speech", "gpu.none")
    assert {queue: demand.due for queue, demand in found.items()} == {QUEUE: 2, "gpu.speech": 1, "gpu.none": 0}


async def test_a_long_queue_is_counted_up_to_the_limit(store: JobStore):
    await several(store, DEMAND_LIMIT + 1)
    assert (await demand_for(store, QUEUE))[QUEUE].due == DEMAND_LIMIT


async def test_a_worker_has_its_slots_in_each_of_its_queues(store: JobStore):
    await store.beat(new_beat(queues=(QUEUE, "gpu.speech"), slots_per_queue=4, running={QUEUE: 3}))
    found = await demand_for(store, QUEUE, "gpu.speech", "gpu.none")
    assert {(demand.slots, demand.idle) for demand in found.values()} == {(4, 1), (4, 4), (0, 0)}


async def test_the_slots_of_all_its_workers_add_up(store: JobStore):
    await store.beat(new_beat(slots_per_queue=4, running={QUEUE: 4}))
    await store.beat(new_beat(slots_per_queue=2, running={QUEUE: 1}))
    assert (await demand_for(store, QUEUE))[QUEUE] == Demand(QUEUE, due=0, slots=6, idle=1)


async def test_a_worker_is_believed_in_its_last_beat(store: JobStore):
    beat = new_beat(slots_per_queue=4, running={QUEUE: 4})
    await store.beat(beat)
    await store.beat(replace(beat, queues=(QUEUE, "gpu.speech"), slots_per_queue=2, running={}, host=AWKWARD))
    found = await demand_for(store, QUEUE, "gpu.speech")
    assert [(demand.slots, demand.idle) for demand in found.values()] == [(2, 2), (2, 2)]


async def test_a_worker_that_was_not_heard_of_for_too_long_does_not_count(rig: Rig):
    silent, alive = new_beat(), new_beat(slots_per_queue=2)
    await rig.store.beat(silent)
    await rig.store.beat(alive)
    await rig.advance(ALIVE_WITHIN - A_MOMENT)
    assert (await demand_for(rig.store, QUEUE))[QUEUE].slots == 6
    await rig.store.beat(alive)
    await rig.advance(A_MOMENT)
    assert (await demand_for(rig.store, QUEUE))[QUEUE].slots == 2


async def test_a_worker_that_beats_again_counts_again(rig: Rig):
    beat = new_beat()
    await rig.store.beat(beat)
    await rig.advance(A_MINUTE)
    await rig.store.beat(beat)
    assert (await demand_for(rig.store, QUEUE))[QUEUE].slots == 4


async def test_a_worker_that_has_left_does_not_count(store: JobStore):
    gone, other = new_beat(), new_beat(slots_per_queue=1)
    await store.beat(gone)
    await store.beat(other)
    await store.forget_worker(gone.id, A_MINUTE)
    assert (await demand_for(store, QUEUE))[QUEUE].slots == 1


async def test_those_not_heard_of_for_long_are_struck_with_it(rig: Rig):
    await rig.store.beat(new_beat(slots_per_queue=1))
    await rig.advance(A_MINUTE)
    await rig.store.beat(new_beat(slots_per_queue=2))
    await rig.advance(A_MOMENT)
    await rig.store.forget_worker(uuid4(), A_MINUTE)
    [demand] = await rig.store.demand([QUEUE], 10 * A_MINUTE)
    assert demand.slots == 2


class TestWorkers:
    async def test_there_are_none(self, store: JobStore):
        assert await store.workers(ALIVE_WITHIN) == []

    async def test_a_worker_is_told_as_it_said_of_itself(self, rig: Rig):
        beat = new_beat(
            worker_id=AWKWARD, host=AWKWARD, queues=(QUEUE, "gpu.speech"), slots_per_queue=4, running={QUEUE: 3}
        )
        await rig.store.beat(beat)
        now = await rig.now()
        assert await rig.store.workers(ALIVE_WITHIN) == [
            LiveWorker(AWKWARD, AWKWARD, (QUEUE, "gpu.speech"), 4, {QUEUE: 3}, started_at=now, seen_at=now)
        ]

    async def test_it_is_told_by_its_last_beat_and_has_started_at_its_first(self, rig: Rig):
        beat, first = new_beat(running={QUEUE: 1}), await rig.now()
        await rig.store.beat(beat)
        await rig.advance(A_MOMENT)
        await rig.store.beat(replace(beat, running={}, queues=("gpu.speech",), slots_per_queue=2))
        [worker] = await rig.store.workers(ALIVE_WITHIN)
        assert (worker.running, worker.queues, worker.slots_per_queue) == ({}, ("gpu.speech",), 2)
        assert (worker.started_at, worker.seen_at) == (first, first + A_MOMENT)

    async def test_several_are_told_by_their_names(self, store: JobStore):
        for name in ("b", "c", "a"):
            await store.beat(new_beat(worker_id=name))
        assert [worker.worker_id for worker in await store.workers(ALIVE_WITHIN)] == ["a", "b", "c"]

    async def test_two_processes_of_one_name_are_two(self, store: JobStore):
        await store.beat(new_beat(worker_id="a"))
        await store.beat(new_beat(worker_id="a"))
        assert len(await store.workers(ALIVE_WITHIN)) == 2

    async def test_one_that_was_not_heard_of_for_too_long_is_not_told(self, rig: Rig):
        silent, alive = new_beat(worker_id="silent"), new_beat(worker_id="alive")
        await rig.store.beat(silent)
        await rig.advance(A_MOMENT)
        await rig.store.beat(alive)
        await rig.advance(ALIVE_WITHIN - 2 * A_MOMENT)
        assert len(await rig.store.workers(ALIVE_WITHIN)) == 2
        await rig.advance(A_MOMENT)
        assert [worker.worker_id for worker in await rig.store.workers(ALIVE_WITHIN)] == ["alive"]

    async def test_one_that_has_left_is_not_told(self, store: JobStore):
        gone = new_beat()
        await store.beat(gone)
        await store.forget_worker(gone.id, A_MINUTE)
        assert await store.workers(ALIVE_WITHIN) == []

    async def test_one_that_was_forgotten_and_beats_again_starts_anew(self, rig: Rig):
        beat = new_beat()
        await rig.store.beat(beat)
        await rig.store.forget_worker(beat.id, A_MINUTE)
        await rig.advance(A_MINUTE)
        await rig.store.beat(beat)
        [worker] = await rig.store.workers(ALIVE_WITHIN)
        assert worker.started_at == await rig.now()


async def test_lent_jobs_are_no_ones_slots(store: JobStore):
    await several(store, 3)
    await lend(store, limit=2)
    await store.beat(new_beat(slots_per_queue=4))
    assert (await demand_for(store, QUEUE))[QUEUE] == Demand(QUEUE, due=1, slots=4, idle=4)
