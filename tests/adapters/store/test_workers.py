from __future__ import annotations


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
