"""Idempotency: a key names a submission, and the same again finds its job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from domain.errors import KeyReused
from domain.job import IdempotencyKey, NewJob
from domain.ports import Added, JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import STATES, State
from tests.factories import new_job
from tests.moves import cancel, found, several

KEY = IdempotencyKey("call-7", b"\x00fingerprint\xff")
AWKWARD = '\'; -- "quoted" \\ % $1 日本語 🦊 '


def keyed(key: str = KEY.key, fingerprint: bytes = KEY.fingerprint, **changes: Any) -> NewJob:
    return new_job(idempotency=IdempotencyKey(key, fingerprint), **changes)


async def test_the_same_submission_again_finds_its_job(store: JobStore):
    [first] = await store.add([keyed()])
    [again] = await store.add([keyed()])
    assert again == Added(replace(first.job, input=None), created=False)
    assert await found(store) == [first.job.id]


@pytest.mark.parametrize("state", STATES)
async def test_it_finds_it_whatever_has_become_of_it(rig: Rig, state: State):
    job_id = await state(rig, idempotency=KEY)
    before = await rig.store.get(job_id)
    assert await rig.store.add([keyed()]) == [Added(replace(before, input=None, result=None), created=False)]
    assert await rig.store.get(job_id) == before


async def test_another_key_is_another_job(store: JobStore):
    [first], [second] = await store.add([keyed()]), await store.add([keyed("call-8")])
    assert await found(store) == [second.job.id, first.job.id]


@pytest.mark.parametrize("key", ["x" * 255, AWKWARD, KEY.key.upper(), f"{KEY.key} ", "%"])
async def test_keys_are_taken_to_the_letter(store: JobStore, key: str):
    [first], [other] = await store.add([keyed()]), await store.add([keyed(key)])
    assert (first.created, other.created) == (True, True)
    assert await store.add([keyed(key)]) == [Added(replace(other.job, input=None), created=False)]


async def test_keys_are_their_owners_own(store: JobStore):
    [lions], [bears] = await store.add([keyed(owner_service="lion")]), await store.add([keyed(owner_service="bear")])
    assert (lions.created, bears.created) == (True, True)
    assert [each.job.id for each in await store.add([keyed(owner_service="lion")])] == [lions.job.id]


async def test_a_key_of_another_submission_is_refused_and_nothing_is_stored(store: JobStore):
    [known] = await store.add([keyed()])
    new, wrong = new_job(), keyed(fingerprint=b"another")
    with pytest.raises(KeyReused) as refusal:
        await store.add([new, wrong])
    assert refusal.value.job_ids == {wrong.id}
    assert await found(store) == [known.job.id]


async def test_every_submission_that_reuses_a_key_is_named(store: JobStore):
    await store.add([keyed(), keyed("call-8")])
    wrong = [keyed(fingerprint=b"1"), keyed("call-8", b"2")]
    with pytest.raises(KeyReused) as refusal:
        await store.add([wrong[0], keyed("call-9"), wrong[1]])
    assert refusal.value.job_ids == {wrong[0].id, wrong[1].id}
    assert len(await found(store)) == 2


async def test_one_submission_alone_may_reuse_a_key_as_little_as_many(store: JobStore):
    await store.add([keyed()])
    wrong = keyed(fingerprint=b"another")
    with pytest.raises(KeyReused) as refusal:
        await store.add([wrong])
    assert refusal.value.job_ids == {wrong.id}


async def test_the_same_key_twice_in_one_go_is_one_job(store: JobStore):
    first, second = await store.add([keyed(owner_ref="first"), keyed(owner_ref="second")])
    assert (first.created, second.created) == (True, False)
    assert second.job == replace(first.job, input=None)
    assert await found(store) == [first.job.id]
    assert (await store.get(first.job.id)).owner_ref == "first"


async def test_one_key_for_two_submissions_in_one_go_is_refused(store: JobStore):
    first, second = keyed(), keyed(fingerprint=b"another")
    with pytest.raises(KeyReused) as refusal:
        await store.add([first, second])
    assert refusal.value.job_ids == {second.id}
    assert await found(store) == []


async def test_known_and_new_ones_are_told_in_the_order_given(store: JobStore):
    sent = [keyed(f"call-{place}") for place in range(5)]
    known = {added.job.id for added in await store.add([sent[1], sent[3]])}
    added = await store.add([keyed(f"call-{place}") for place in range(5)])
    assert [each.created for each in added] == [True, False, True, False, True]
    assert {each.job.id for each in added if not each.created} == known


async def test_a_batch_of_thousands_given_again_finds_every_job(store: JobStore):
    first = await store.add([keyed(f"call-{place}") for place in range(2_500)])
    again = await store.add([keyed(f"call-{place}") for place in range(2_500)])
    assert [each.job.id for each in again] == [each.job.id for each in first]
    assert {each.created for each in again} == {False}


async def test_jobs_without_a_key_are_never_the_same(store: JobStore):
    assert len({job.id for job in await several(store, 3)}) == 3


async def test_a_key_lives_as_long_as_its_job(store: JobStore):
    [first] = await store.add([keyed()])
    await cancel(store, first.job.id)
    await store.erase([first.job.id])
    [second] = await store.add([keyed(fingerprint=b"another")])
    assert second.created
    assert await found(store) == [second.job.id]


async def test_the_same_job_given_again_with_a_key_of_its_own_is_that_job(store: JobStore):
    [plain] = await store.add([new_job()])
    [again] = await store.add([keyed(id=plain.job.id)])
    assert (again.created, again.job.id) == (False, plain.job.id)


async def test_twins_that_come_together_are_one_job(store: JobStore):
    added = await asyncio.gather(*(store.add([keyed()]) for _ in range(8)))
    assert [each.created for [each] in added].count(True) == 1
    assert len({each.job.id for [each] in added}) == 1
    assert len(await found(store)) == 1


async def test_twin_batches_that_come_together_are_one(store: JobStore):
    added = await asyncio.gather(*(store.add([keyed(f"call-{place}") for place in range(20)]) for _ in range(4)))
    assert len({tuple(each.job.id for each in batch) for batch in added}) == 1
    assert len(await found(store)) == 20
