from __future__ import annotations

from msgspec.structs import replace

from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT, rescue
from tests.factories import LEASE, new_claim, new_lease
from tests.moves import cancel, complete, run_one, settle, several, take


async def test_a_lease_lasts_from_the_renewal_on(rig: Rig):
    held = await run_one(rig.store)
    await rig.advance(LEASE / 2)
    before = await rig.store.get(held.id)
    assert await rig.store.renew([held.lease], A_MINUTE) == frozenset()
    assert await rig.store.get(held.id) == replace(before, lease_expires_at=await rig.now() + A_MINUTE)


async def test_a_renewed_job_is_not_rescued(rig: Rig):
    held = await run_one(rig.store)
    await rig.advance(LEASE)
    await rig.store.renew([held.lease], LEASE)
    await rig.advance(LEASE)
    assert await rescue(rig.store) == []


async def test_a_late_renewal_counts_while_nobody_has_rescued_the_job(rig: Rig):
    held = await run_one(rig.store)
    await rig.advance(10 * LEASE)
    assert await rig.store.renew([held.lease], LEASE) == frozenset()
    assert await rescue(rig.store) == []


async def test_those_that_are_lost_are_told_and_the_others_renewed(rig: Rig):
    await several(rig.store, 6)
    kept, cancelled, retried, ended, released, rescued = await take(rig.store, limit=6)
    await rig.advance(LEASE)
    await rig.store.renew([run.lease for run in (kept, cancelled, retried, ended, released)], LEASE)
    await rig.advance(A_MOMENT)
    await rescue(rig.store)
    await cancel(rig.store, cancelled.id)
    await rig.store.retry([retried.id])
    await settle(rig.store, complete(ended), released.release())
    stale = [run.lease for run in (cancelled, retried, ended, released, rescued)]
    unknown, forged = new_lease(), new_lease(kept.id)
    before = [await rig.store.get(lease.job_id) for lease in stale]
    assert await rig.store.renew([kept.lease, *stale, unknown, forged], A_MINUTE) == {*stale, unknown, forged}
    assert (await rig.store.get(kept.id)).lease_expires_at == await rig.now() + A_MINUTE
    assert [await rig.store.get(lease.job_id) for lease in stale] == before


async def test_the_lease_of_an_earlier_run_is_lost(store: JobStore):
    held = await run_one(store)
    [again] = (await store.exchange([held.release()], new_claim())).claimed
    assert await store.renew([held.lease, again.lease], LEASE) == {held.lease}


async def test_nothing_to_renew(store: JobStore):
    assert await store.renew([], LEASE) == frozenset()
