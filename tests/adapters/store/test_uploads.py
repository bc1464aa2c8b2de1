"""What every store of uploads keeps, gives out and forgets."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from msgspec import Raw

from domain.errors import KeyReused, NoSuchUpload, UploadInUse, UploadNotFound
from domain.job import IdempotencyKey, JobId, JobStatus
from domain.upload import KEPT_UNFINISHED, KEPT_UNUSED, Upload
from tests.adapters.rigs import Rig
from tests.factories import new_id, new_job
from tests.moves import cancel, complete, fail, one, settle, take

OWNER = "beeline"
A_MOMENT = timedelta(microseconds=1)
A_MINUTE = timedelta(minutes=1)


async def uploaded(rig: Rig, *chunks: bytes, owner: str = OWNER) -> Upload:
    upload_id = new_id()
    for place, chunk in enumerate(chunks or (b"abc",)):
        await rig.uploads.append(upload_id, place, chunk)
    size = sum(map(len, chunks)) or 3
    return await rig.uploads.finish(upload_id, owner, chunks=len(chunks) or 1, size=size)


async def content(rig: Rig, upload: Upload) -> bytes:
    return b"".join([piece async for piece in rig.uploads.read(upload)])


async def is_there(rig: Rig, upload: Upload) -> bool:
    try:
        return await rig.uploads.get(upload.id) == upload
    except UploadNotFound:
        return False


async def using(rig: Rig, upload: Upload) -> JobId:
    return (await one(rig.store, upload_id=upload.id)).id


async def test_an_upload_is_given_out_as_it_came(rig: Rig):
    upload = await uploaded(rig, b"\x00\xff" * 1000, b"middle", b"end")
    assert upload == Upload(upload.id, OWNER, 2009, await rig.now())
    assert await rig.uploads.get(upload.id) == upload
    assert await content(rig, upload) == b"\x00\xff" * 1000 + b"middle" + b"end"


async def test_it_is_no_upload_before_all_of_it_has_come(rig: Rig):
    upload_id = new_id()
    await rig.uploads.append(upload_id, 0, b"abc")
    with pytest.raises(UploadNotFound):
        await rig.uploads.get(upload_id)
    with pytest.raises(NoSuchUpload):
        await one(rig.store, upload_id=upload_id)


async def test_one_that_never_was_is_not_there(rig: Rig):
    with pytest.raises(UploadNotFound):
        await rig.uploads.get(uuid4())
    with pytest.raises(UploadNotFound):
        await rig.uploads.remove(uuid4())


async def test_an_upload_of_which_a_piece_is_missing_is_not_finished(rig: Rig):
    upload_id = new_id()
    await rig.uploads.append(upload_id, 0, b"abc")
    with pytest.raises(UploadNotFound):
        await rig.uploads.finish(upload_id, OWNER, chunks=2, size=6)


async def test_one_that_was_pruned_in_the_middle_is_not_finished(rig: Rig):
    upload_id = new_id()
    await rig.uploads.append(upload_id, 0, b"abc")
    await rig.advance(KEPT_UNFINISHED)
    await rig.uploads.prune()
    await rig.uploads.append(upload_id, 1, b"def")
    with pytest.raises(UploadNotFound):
        await rig.uploads.finish(upload_id, OWNER, chunks=2, size=6)


async def test_an_unfinished_one_may_wait_an_hour_for_each_piece(rig: Rig):
    upload_id = new_id()
    for place in range(3):
        await rig.uploads.append(upload_id, place, b"abc")
        await rig.advance(KEPT_UNFINISHED - A_MOMENT)
        await rig.uploads.prune()
    assert (await rig.uploads.finish(upload_id, OWNER, chunks=3, size=9)).bytes == 9


async def test_a_discarded_one_is_not_finished(rig: Rig):
    upload_id = new_id()
    await rig.uploads.append(upload_id, 0, b"abc")
    await rig.uploads.discard(upload_id)
    with pytest.raises(UploadNotFound):
        await rig.uploads.finish(upload_id, OWNER, chunks=1, size=3)


async def test_discarding_what_is_finished_or_never_began_does_nothing(rig: Rig):
    upload = await uploaded(rig)
    await rig.uploads.discard(upload.id)
    await rig.uploads.discard(uuid4())
    await rig.uploads.prune()
    assert await is_there(rig, upload)


async def test_unused_it_is_kept_for_a_day(rig: Rig):
    upload = await uploaded(rig)
    await rig.advance(KEPT_UNUSED - A_MOMENT)
    assert await rig.uploads.prune() == 0
    await rig.advance(A_MOMENT)
    assert await rig.uploads.prune() == 1
    assert not await is_there(rig, upload)
    with pytest.raises(UploadNotFound):
        await content(rig, upload)


@pytest.mark.parametrize("running", [False, True])
async def test_it_is_kept_for_as_long_as_a_job_waits_or_runs(rig: Rig, running: bool):
    upload = await uploaded(rig)
    await using(rig, upload)
    if running:
        await take(rig.store)
    await rig.advance(30 * KEPT_UNUSED)
    assert await rig.uploads.prune() == 0
    assert await content(rig, upload) == b"abc"


async def test_once_its_job_has_completed_it_goes(rig: Rig):
    upload = await uploaded(rig)
    await using(rig, upload)
    [held] = await take(rig.store)
    await settle(rig.store, complete(held))
    assert await rig.uploads.prune() == 1
    assert not await is_there(rig, upload)


async def test_once_its_job_is_cancelled_it_goes(rig: Rig):
    upload = await uploaded(rig)
    await cancel(rig.store, await using(rig, upload))
    assert await rig.uploads.prune() == 1


async def test_it_goes_with_the_last_of_its_jobs(rig: Rig):
    upload = await uploaded(rig)
    first, second = await using(rig, upload), await using(rig, upload)
    await cancel(rig.store, first)
    assert await rig.uploads.prune() == 0
    await cancel(rig.store, second)
    assert await rig.uploads.prune() == 1


async def test_where_a_job_failed_it_stays_a_day_after_the_last_has_ended(rig: Rig):
    upload = await uploaded(rig)
    await using(rig, upload)
    [held] = await take(rig.store)
    await settle(rig.store, fail(held))
    other = await using(rig, upload)
    await rig.advance(KEPT_UNUSED)
    await cancel(rig.store, other)
    await rig.advance(KEPT_UNUSED - A_MOMENT)
    assert await rig.uploads.prune() == 0
    await rig.advance(A_MOMENT)
    assert await rig.uploads.prune() == 1


async def test_a_failed_job_that_is_started_afresh_finds_it(rig: Rig):
    upload = await uploaded(rig)
    job_id = await using(rig, upload)
    [held] = await take(rig.store)
    await settle(rig.store, fail(held))
    await rig.store.retry([job_id])
    await rig.advance(2 * KEPT_UNUSED)
    assert await rig.uploads.prune() == 0
    [held] = await take(rig.store)
    await settle(rig.store, complete(held))
    assert await rig.uploads.prune() == 1


async def test_it_goes_when_the_job_that_used_it_is_erased(rig: Rig):
    upload = await uploaded(rig)
    job_id = await using(rig, upload)
    [held] = await take(rig.store)
    await settle(rig.store, fail(held))
    assert await rig.uploads.prune() == 0
    assert await rig.store.erase([job_id]) == [job_id]
    assert await rig.uploads.prune() == 1


async def test_it_stays_for_others_when_one_of_its_jobs_is_erased(rig: Rig):
    upload = await uploaded(rig)
    gone, _waiting = await using(rig, upload), await using(rig, upload)
    await cancel(rig.store, gone)
    await rig.store.erase([gone])
    assert await rig.uploads.prune() == 0


async def test_it_can_be_removed_by_hand_unless_a_job_needs_it(rig: Rig):
    upload = await uploaded(rig)
    job_id = await using(rig, upload)
    with pytest.raises(UploadInUse):
        await rig.uploads.remove(upload.id)
    assert await is_there(rig, upload)
    await cancel(rig.store, job_id)
    await rig.uploads.remove(upload.id)
    assert not await is_there(rig, upload)
    await rig.uploads.prune()
    with pytest.raises(UploadNotFound):
        await content(rig, upload)


async def test_one_that_was_never_used_can_be_removed_at_once(rig: Rig):
    upload = await uploaded(rig)
    await rig.uploads.remove(upload.id)
    assert not await is_there(rig, upload)


async def test_whoever_reads_it_while_it_goes_is_told(rig: Rig):
    upload = await uploaded(rig, b"first", b"second")
    pieces = rig.uploads.read(upload)
    assert await anext(pieces) == b"first"
    await rig.uploads.remove(upload.id)
    await rig.uploads.prune()
    with pytest.raises(UploadNotFound):
        await anext(pieces)


async def test_a_large_one_goes_as_a_whole(rig: Rig):
    upload = await uploaded(rig, *[bytes(1000)] * 70)
    other = await uploaded(rig)
    await rig.uploads.remove(upload.id)
    await rig.uploads.prune()
    with pytest.raises(UploadNotFound):
        await content(rig, upload)
    assert await content(rig, other) == b"abc"


async def test_many_go_at_once(rig: Rig):
    for _ in range(5):
        await uploaded(rig)
    await rig.advance(KEPT_UNUSED)
    assert [await rig.uploads.prune(), await rig.uploads.prune()] == [5, 0]


async def test_a_job_whose_upload_is_not_there_is_not_stored(rig: Rig):
    lacking = new_job(upload_id=uuid4())
    with pytest.raises(NoSuchUpload) as refused:
        await rig.store.add([lacking])
    assert refused.value.job_ids == {lacking.id}
    assert await rig.store.tallies() == []


async def test_another_owners_upload_is_as_good_as_none(rig: Rig):
    upload = await uploaded(rig, owner="lion")
    with pytest.raises(NoSuchUpload):
        await one(rig.store, upload_id=upload.id)
    assert (await one(rig.store, owner_service="lion", upload_id=upload.id)).status is JobStatus.PENDING


async def test_of_a_batch_those_are_named_whose_uploads_are_not_there_and_none_is_stored(rig: Rig):
    upload = await uploaded(rig)
    jobs = [new_job(upload_id=each) for each in (upload.id, uuid4(), None, uuid4())]
    with pytest.raises(NoSuchUpload) as refused:
        await rig.store.add(jobs)
    assert refused.value.job_ids == {jobs[1].id, jobs[3].id}
    assert await rig.store.tallies() == []


@pytest.fixture
async def repeated(rig: Rig) -> tuple[JobId, UUID, IdempotencyKey]:
    """A job that has ended long ago, the upload that it used, which is gone, and its key."""
    key = IdempotencyKey("call-4711", b"mark")
    upload = await uploaded(rig)
    job = await one(rig.store, upload_id=upload.id, idempotency=key)
    await cancel(rig.store, job.id)
    await rig.uploads.prune()
    assert not await is_there(rig, upload)
    return job.id, upload.id, key


async def test_the_same_submission_finds_its_job_when_the_upload_is_long_gone(
    rig: Rig, repeated: tuple[JobId, UUID, IdempotencyKey]
):
    job_id, upload_id, key = repeated
    [added] = await rig.store.add([new_job(upload_id=upload_id, idempotency=key)])
    assert (added.created, added.job.id) == (False, job_id)


async def test_in_a_batch_only_new_jobs_need_their_uploads(rig: Rig, repeated: tuple[JobId, UUID, IdempotencyKey]):
    _, upload_id, key = repeated
    again, new = new_job(upload_id=upload_id, idempotency=key), new_job(upload_id=upload_id)
    with pytest.raises(NoSuchUpload) as refused:
        await rig.store.add([again, new])
    assert refused.value.job_ids == {new.id}
    with pytest.raises(KeyReused):
        await rig.store.add([new_job(upload_id=upload_id, idempotency=IdempotencyKey(key.key, b"other"))])


async def test_a_job_begins_with_the_give_backs_that_it_is_given(rig: Rig):
    await one(rig.store, give_backs=10, input=Raw(b"{}"))
    [held] = await take(rig.store)
    assert held.give_backs == 10
