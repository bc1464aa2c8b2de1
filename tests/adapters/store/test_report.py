"""An external worker's word on its run: the lease goes on, and its progress is kept."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from domain.errors import ErrorCode, LeaseLost
from domain.events import Progress
from domain.job import Job, RunEnd, RunOutcome
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, rescue, rescue_late
from tests.factories import LEASE, new_id, new_lease
from tests.moves import ENDINGS, RESULT, End, cancel, lease_of, lend, lend_one, one, run_one, settle, several

PROGRESS = Raw(b'{ "done":7, "of":10 }')


async def test_a_heartbeat_renews_the_lease_for_as_long_as_was_asked_at_the_claim(rig: Rig):
    await one(rig.store)
    [job] = await lend(rig.store, lease=10 * A_MINUTE)
    await rig.advance(A_MINUTE)
    expires_at = await rig.now() + 10 * A_MINUTE
    assert await rig.store.report(lease_of(job), None) == (expires_at, 2)
    assert await rig.store.get(job.id) == replace(job, lease_expires_at=expires_at)
    assert await rig.store.progress(job.id) is None


async def test_a_job_that_reports_in_time_is_not_rescued(rig: Rig):
    job = await lend_one(rig.store)
    for _ in range(3):
        await rig.advance(LEASE)
        await rig.store.report(lease_of(job), None)
        assert await rescue(rig.store) == []


async def test_a_late_report_counts_while_nobody_has_rescued_the_job(rig: Rig):
    job = await lend_one(rig.store)
    await rig.advance(10 * LEASE)
    await rig.store.report(lease_of(job), PROGRESS)
    assert await rescue(rig.store) == []


async def test_progress_is_kept_byte_for_byte(rig: Rig):
    job = await lend_one(rig.store)
    await rig.advance(A_MINUTE)
    await rig.store.report(lease_of(job), PROGRESS)
    seen = (await rig.store.get(job.id)).progress
    assert seen is not None
    assert bytes(seen) == bytes(PROGRESS)
    assert await rig.store.progress(job.id) == Progress(2, 1, await rig.now(), PROGRESS)


async def test_large_progress_is_kept_too(store: JobStore):
    job = await lend_one(store)
    large = Raw(b'{"text":"' + b"x" * 65_000 + b'"}')
    await store.report(lease_of(job), large)
    assert (await store.get(job.id)).progress == large


async def test_reports_are_counted_within_their_run_and_the_last_one_stands(rig: Rig):
    job = await lend_one(rig.store)
    for done in range(3):
        await rig.advance(A_MINUTE)
        await rig.store.report(lease_of(job), Raw(f'{{"done":{done}}}'.encode()))
    last = await rig.store.progress(job.id)
    assert last == Progress(2, 3, await rig.now(), Raw(b'{"done":2}'))
    assert (await rig.store.pulses([job.id]))[job.id].progress == (2, 3)


async def test_a_heartbeat_without_progress_counts_as_none_and_keeps_the_last(rig: Rig):
    job = await lend_one(rig.store)
    await rig.store.report(lease_of(job), PROGRESS)
    before = await rig.store.progress(job.id)
    await rig.advance(A_MINUTE)
    await rig.store.report(lease_of(job), None)
    assert await rig.store.progress(job.id) == before
    assert (await rig.store.get(job.id)).progress == PROGRESS


async def test_each_run_counts_its_own_reports(store: JobStore):
    first = await lend_one(store)
    await store.report(lease_of(first), PROGRESS)
    await store.report(lease_of(first), PROGRESS)
    await settle(store, first.leased().release())
    [second] = await lend(store)
    assert second.progress == PROGRESS
    assert (await store.report(lease_of(second), Raw(b'{"again":true}')))[1] == 4
    last = await store.progress(first.id)
    assert last is not None
    assert (last.number, last.report, bytes(last.data)) == (4, 1, b'{"again":true}')


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
async def test_the_last_report_outlives_its_run(store: JobStore, end: End):
    job = await lend_one(store)
    await store.report(lease_of(job), PROGRESS)
    before = await store.progress(job.id)
    await settle(store, end(job.leased()))
    assert (await store.progress(job.id), (await store.get(job.id)).progress) == (before, PROGRESS)


async def test_and_a_retry_by_hand(store: JobStore):
    job = await lend_one(store)
    await store.report(lease_of(job), PROGRESS)
    await store.retry([job.id])
    assert (await store.get(job.id)).progress == PROGRESS


async def test_reports_change_nothing_but_the_lease_and_the_progress(rig: Rig):
    job = await lend_one(rig.store)
    await rig.advance(A_MINUTE)
    expires_at, _ = await rig.store.report(lease_of(job), PROGRESS)
    assert await rig.store.get(job.id) == replace(job, lease_expires_at=expires_at, progress=PROGRESS)
    assert [change.number for change in await rig.store.changes(job.id, 0)] == [1, 2]


async def test_progress_is_its_jobs_own(store: JobStore):
    await several(store, 2)
    mine, other = await lend(store, limit=2)
    await store.report(lease_of(mine), PROGRESS)
    assert (await store.get(other.id)).progress is None


async def cancelled(rig: Rig, job: Job) -> None:
    await cancel(rig.store, job.id)


async def retried(rig: Rig, job: Job) -> None:
    await rig.store.retry([job.id])


async def ended(rig: Rig, job: Job) -> None:
    await settle(rig.store, job.leased().complete(RESULT))


async def released(rig: Rig, job: Job) -> None:
    await settle(rig.store, job.leased().release())


async def rescued(rig: Rig, job: Job) -> None:
    await rescue_late(rig)


async def lent_anew(rig: Rig, job: Job) -> None:
    await settle(rig.store, job.leased().release())
    await lend(rig.store)


@pytest.mark.parametrize("lose", [cancelled, retried, ended, released, rescued, lent_anew])
async def test_a_run_that_no_longer_holds_its_job_changes_nothing(rig: Rig, lose: Any):
    job = await lend_one(rig.store)
    await rig.store.report(lease_of(job), PROGRESS)
    await lose(rig, job)
    before, progress = await rig.store.get(job.id), await rig.store.progress(job.id)
    for told in (None, Raw(b'{"late":true}')):
        with pytest.raises(LeaseLost):
            await rig.store.report(lease_of(job), told)
    assert (await rig.store.get(job.id), await rig.store.progress(job.id)) == (before, progress)


async def test_a_lease_that_was_never_given_out_is_lost(store: JobStore):
    job = await lend_one(store)
    for lease in (new_lease(job.id), new_lease(), replace(lease_of(job), job_id=new_id())):
        with pytest.raises(LeaseLost):
            await store.report(lease, PROGRESS)
    assert await store.get(job.id) == job


async def test_a_built_in_run_does_not_report(store: JobStore):
    held = await run_one(store)
    before = await store.get(held.id)
    with pytest.raises(LeaseLost):
        await store.report(held.lease, PROGRESS)
    assert await store.get(held.id) == before


class TestABuiltInWorkersRun:
    async def test_it_keeps_its_progress_and_its_lease_stays(self, rig: Rig):
        held = await run_one(rig.store)
        before = await rig.store.get(held.id)
        await rig.advance(A_MINUTE)
        assert await rig.store.note_progress(held.lease, PROGRESS) == held.number
        assert await rig.store.get(held.id) == replace(before, progress=PROGRESS)
        assert await rig.store.progress(held.id) == Progress(held.number, 1, await rig.now(), PROGRESS)

    async def test_its_reports_are_counted(self, store: JobStore):
        held = await run_one(store)
        await store.note_progress(held.lease, Raw(b"{}"))
        await store.note_progress(held.lease, PROGRESS)
        assert (await store.pulses([held.id]))[held.id].progress == (held.number, 2)

    async def test_a_run_that_lost_its_job_keeps_none(self, store: JobStore):
        held = await run_one(store)
        await cancel(store, held.id)
        for lease in (held.lease, new_lease(held.id), new_lease()):
            with pytest.raises(LeaseLost):
                await store.note_progress(lease, PROGRESS)
        assert await store.progress(held.id) is None


class TestRunEnd:
    @pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
    async def test_it_is_what_ended_the_run(self, store: JobStore, end: End):
        job = await lend_one(store)
        assert await store.run_end(lease_of(job)) is None
        settlement = end(job.leased())
        await settle(store, settlement)
        code = settlement.failure.code if settlement.failure else None
        assert await store.run_end(lease_of(job)) == RunEnd(settlement.outcome, code)

    @pytest.mark.parametrize(
        ("lose", "end"),
        [
            (cancelled, RunEnd(RunOutcome.CANCELLED, ErrorCode.CANCELLED)),
            (retried, RunEnd(RunOutcome.RETRIED)),
            (rescued, RunEnd(RunOutcome.EXPIRED, ErrorCode.STALE_WORKER)),
        ],
    )
    async def test_even_if_others_ended_it(self, rig: Rig, lose: Any, end: RunEnd):
        job = await lend_one(rig.store)
        await lose(rig, job)
        assert await rig.store.run_end(lease_of(job)) == end

    async def test_a_crash_is_one(self, rig: Rig):
        held = await run_one(rig.store)
        await rescue_late(rig)
        assert await rig.store.run_end(held.lease) == RunEnd(RunOutcome.CRASHED, ErrorCode.STALE_WORKER)

    async def test_each_run_has_its_own(self, store: JobStore):
        first = await lend_one(store)
        await settle(store, first.leased().release())
        [second] = await lend(store)
        await settle(store, second.leased().complete(RESULT))
        assert await store.run_end(lease_of(first)) == RunEnd(RunOutcome.RELEASED)
        assert await store.run_end(lease_of(second)) == RunEnd(RunOutcome.COMPLETED)

    async def test_there_is_none_of_a_run_that_never_was(self, store: JobStore):
        job = await lend_one(store)
        await settle(store, job.leased().release())
        assert (await store.run_end(new_lease(job.id)), await store.run_end(new_lease())) == (None, None)
