from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from domain.job import JobStatus
from domain.ports import JobStore
from tests.factories import new_claim
from tests.moves import cancel, complete, one, run_one, several, take, try_again


async def test_nothing_for_nothing(store: JobStore):
    outcome = await store.exchange([], None)
    assert (outcome.claimed, outcome.lost, dict(outcome.refused)) == ((), frozenset(), {})


async def test_what_ends_and_what_starts_go_in_one_exchange(store: JobStore):
    first, second = await several(store, 2)
    [held] = await take(store)
    outcome = await store.exchange([complete(held)], new_claim(limit=9))
    assert [run.id for run in outcome.claimed] == [second.id]
    assert (await store.get(first.id)).status is JobStatus.COMPLETED


async def test_a_job_given_back_unharmed_can_be_taken_at_once_in_its_old_place(store: JobStore):
    first, second = await several(store, 2)
    [held] = await take(store)
    outcome = await store.exchange([held.release()], new_claim(limit=9))
    assert [run.id for run in outcome.claimed] == [first.id, second.id]
    assert outcome.claimed[0].lease != held.lease


async def test_a_run_taken_at_once_knows_what_the_last_one_counted(store: JobStore):
    held = await run_one(store)
    [again] = (await store.exchange([try_again(held, timedelta(0))], new_claim())).claimed
    assert again == replace((await store.get(held.id)).leased(), started_at=None, waited=again.waited)
    assert again.attempts == 1


async def test_a_job_that_must_wait_is_not_taken_at_once(store: JobStore):
    held = await run_one(store)
    assert (await store.exchange([try_again(held)], new_claim())).claimed == ()


async def test_a_lost_ending_does_not_keep_the_claim_from_being_served(store: JobStore):
    held = await run_one(store)
    await cancel(store, held.id)
    waiting = await one(store)
    outcome = await store.exchange([complete(held)], new_claim())
    assert ([run.id for run in outcome.claimed], outcome.lost) == ([waiting.id], frozenset({held.lease}))
