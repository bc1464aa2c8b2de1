from __future__ import annotations


async def test_an_unknown_job_is_not_found(store: JobStore):
    with pytest.raises(JobNotFound):
        await store.get(new_id())


async def test_the_states_of_those_that_exist_are_told(store: JobStore):
    running, pending = await several(store, 2)
    await take(store)
    assert await statuses(store, [running.id, new_id(), pending.id]) == {
        running.id: JobStatus.RUNNING,
        pending.id: JobStatus.PENDING,
    }


async def test_nobodys_states_are_none(store: JobStore):
    await one(store)
    assert await statuses(store, []) == {}


async def test_found_jobs_are_whole_but_for_input_and_result(store: JobStore):
    held = await run_one(store)
    await settle(store, complete(held))
    [found] = await store.find(JobFilter(), limit=1)
    assert found == replace(await store.get(held.id), input=None, result=None)


async def test_jobs_are_found_newest_first(store: JobStore):
    jobs = await several(store, 3)
    assert await found(store) == ids(jobs)[::-1]


async def test_no_more_are_found_than_asked_for(store: JobStore):
    jobs = await several(store, 3)
    assert await found(store) == ids(jobs)[:0:-1]


async def test_what_was_seen_before_is_left_out(store: JobStore):
    first, second, third = await several(store, 3)
    assert ids(await store.find(JobFilter(), limit=9, before=third.seq)) == [second.id, first.id]
    assert await store.find(JobFilter(), limit=9, before=first.seq) == []


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (JobFilter(), "ABCD"),
        (JobFilter(owner_service=("beeline",)), "AB"),
        (JobFilter(owner_service=("beeline", "lion")), "ABC"),
        (JobFilter(task_type=("transcribe",)), "BC"),
        (JobFilter(model_profile=("whisperx", "none")), "C"),
        (JobFilter(status=(JobStatus.RUNNING,)), "A"),
        (JobFilter(status=(JobStatus.PENDING, JobStatus.CANCELLED)), "BCD"),
        (JobFilter(owner_service=("beeline",), task_type=("transcribe",)), "B"),
        (JobFilter(owner_service=("lion", "bear"), status=(JobStatus.CANCELLED,)), "D"),
        (JobFilter(owner_service=("beeline",), model_profile=("whisperx",)), ""),
        (JobFilter(owner_service=("nobody",)), ""),
        (JobFilter(owner_service=("BEELINE",)), ""),
        (JobFilter(owner_service=("bee%",)), ""),
    ],
)
async def test_a_filter_finds_what_matches_it_all(store: JobStore, where: JobFilter, found: str):
    jobs = {
        "A": new_job(),
        "B": new_job(task_type="transcribe", model_profile="whisper-large-v3"),
        "C": new_job(owner_service="lion", task_type="transcribe", model_profile="whisperx"),
        "D": new_job(owner_service="bear", queue=None),
    }
    await store.add(list(jobs.values()))
    await take(store)
    await cancel(store, jobs["D"].id)
    assert ids(await store.find(where, limit=9)) == [jobs[name].id for name in reversed(found)]


async def test_filter_limit_and_place_go_together(store: JobStore):
    mine: list[Job] = []
    for _ in range(3):
        mine.append(await one(store, owner_service="lion"))
        await one(store)
    assert ids(await store.find(JobFilter(owner_service=("lion",)), limit=1, before=mine[2].seq)) == [mine[1].id]


async def test_the_store_answers(store: JobStore):
    await store.ping()
