"""A job in each of its states, on the way that leads there; and what ran out on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from domain.events import JobEvent
from domain.job import JobId, JobStatus
from domain.ports import JobStore, RescueTerms
from tests.adapters.rigs import Rig
from tests.factories import LEASE
from tests.moves import cancel, complete, fail, give_back, lend_one, one, release, run_one, settle, try_again

A_MOMENT = timedelta(microseconds=1)
A_MINUTE = timedelta(minutes=1)
MAX_CRASHES = 3
RETRY_DELAY = timedelta(seconds=7)


async def rescue(store: JobStore) -> list[JobEvent]:
    return await store.rescue(RescueTerms(MAX_CRASHES, RETRY_DELAY))


async def rescue_late(rig: Rig) -> list[JobEvent]:
    """Every lease that was given out before has run out."""
    await rig.advance(LEASE + A_MOMENT)
    return await rescue(rig.store)


async def pending(rig: Rig, **changes: Any) -> JobId:
    return (await one(rig.store, **changes)).id


async def waiting(rig: Rig, **changes: Any) -> JobId:
    return (await one(rig.store, **changes, run_at=await rig.now() + 60 * A_MINUTE)).id


async def running(rig: Rig, **changes: Any) -> JobId:
    return (await run_one(rig.store, **changes)).id


async def lent(rig: Rig, **changes: Any) -> JobId:
    return (await lend_one(rig.store, **changes)).id


async def completed(rig: Rig, **changes: Any) -> JobId:
    held = await run_one(rig.store, **changes)
    await settle(rig.store, complete(held))
    return held.id


async def failed(rig: Rig, **changes: Any) -> JobId:
    held = await run_one(rig.store, **changes)
    await settle(rig.store, fail(held))
    return held.id


async def cancelled(rig: Rig, **changes: Any) -> JobId:
    job_id = await pending(rig, **changes)
    await cancel(rig.store, job_id)
    return job_id


async def cancelled_running(rig: Rig, **changes: Any) -> JobId:
    job_id = await running(rig, **changes)
    await cancel(rig.store, job_id)
    return job_id


async def to_be_tried_again(rig: Rig, **changes: Any) -> JobId:
    held = await run_one(rig.store, **changes)
    await settle(rig.store, try_again(held))
    return held.id


async def given_back(rig: Rig, **changes: Any) -> JobId:
    held = await run_one(rig.store, **changes)
    await settle(rig.store, give_back(held))
    return held.id


async def released(rig: Rig, **changes: Any) -> JobId:
    held = await run_one(rig.store, **changes)
    await settle(rig.store, release(held))
    return held.id


async def crashed(rig: Rig, **changes: Any) -> JobId:
    held = await run_one(rig.store, **changes)
    await rescue_late(rig)
    return held.id


async def expired(rig: Rig, **changes: Any) -> JobId:
    """Its external worker did not renew the lease."""
    job = await lend_one(rig.store, **changes)
    await rescue_late(rig)
    return job.id


async def retried(rig: Rig, **changes: Any) -> JobId:
    job_id = await failed(rig, **changes)
    await rig.store.retry([job_id])
    return job_id


State = Callable[..., Awaitable[JobId]]

STATES: dict[State, JobStatus] = {
    pending: JobStatus.PENDING,
    waiting: JobStatus.PENDING,
    running: JobStatus.RUNNING,
    lent: JobStatus.RUNNING,
    completed: JobStatus.COMPLETED,
    failed: JobStatus.FAILED,
    cancelled: JobStatus.CANCELLED,
    cancelled_running: JobStatus.CANCELLED,
    to_be_tried_again: JobStatus.PENDING,
    given_back: JobStatus.PENDING,
    released: JobStatus.PENDING,
    crashed: JobStatus.PENDING,
    expired: JobStatus.PENDING,
    retried: JobStatus.PENDING,
}
"""Every way, and where it ends."""


def that_are(*statuses: JobStatus) -> list[State]:
    return [state for state, status in STATES.items() if status in statuses]
