"""Many that claim, end, cancel, retry, rescue and preempt at random: limits hold, and counts are true in the end."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import asyncpg
import pytest

from adapters.postgres.queues import PostgresQueueStore
from adapters.postgres.store import PostgresJobStore
from domain.job import JobId, LeasedJob, Priority
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.ports import JobFilter, RescueTerms
from tests.factories import LEASE, external_claim, new_beat, new_claim, new_job
from tests.moves import ENDINGS, cancel

LIMITS = {"gpu.llm": 5, "gpu.speech": 3}
MOST_OF_LION = 4
CLAIMERS = 8
ROUNDS = 60
JOBS = 600


class Slots:
    """The calls that are open, as the model servers would count them."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def take(self, held: LeasedJob) -> None:
        for name in (held.queue or "", held.owner_service):
            self.open[name] += 1
            self.most[name] = max(self.most[name], self.open[name])

    def give(self, held: LeasedJob) -> None:
        for name in (held.queue or "", held.owner_service):
            self.open[name] -= 1


@pytest.mark.timeout(120)
async def test_limits_hold_whatever_happens_and_the_counts_are_true_in_the_end(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    policies = Policies(
        queues={name: QueuePolicy(concurrency=limit, preempt=True) for name, limit in LIMITS.items()},
        owners={"lion": OwnerPolicy(max_running=MOST_OF_LION)},
    )
    await PostgresQueueStore(pool).configure(policies, [])
    await store.beat(new_beat(queues=tuple(LIMITS), slots_per_queue=8))
    random = Random(7)
    new = [
        new_job(
            queue=random.choice([*LIMITS]),
            owner_service=random.choice(["ant", "beeline", "lion"]),
            priority=random.choice([*Priority]),
        )
        for _ in range(JOBS)
    ]
    await store.add(new)
    jobs: list[JobId] = [job.id for job in new]
    slots, tokens = Slots(), Counter[object]()

    async def work(worker: int) -> None:
        choose, mine = Random(worker), list[LeasedJob]()
        for _ in range(ROUNDS):
            queue, limit = choose.choice([*LIMITS]), choose.randint(1, 6)
            ended = [held for held in mine if choose.random() < 0.7]
            for held in ended:
                slots.give(held)
            settlements = [choose.choice([*ENDINGS.values()])(held) for held in ended]
            await store.exchange(settlements, None)
            if worker % 2:
                claimed = (await store.exchange([], new_claim(queue=queue, limit=limit))).claimed
            else:
                wanted = external_claim(limit=limit, queues=choose.choice([None, (queue,)]))
                claimed = tuple(job.leased() for job in await store.claim(wanted))
            for held in claimed:
                slots.take(held)
                tokens[held.lease] += 1
            mine = [held for held in mine if held not in ended] + list(claimed)
        for held in mine:
            slots.give(held)
        await store.exchange([held.release() for held in mine], None)

    async def disturb(worker: int) -> None:
        choose = Random(-worker)
        for _ in range(ROUNDS):
            some = choose.sample(jobs, 20)
            doings: list[Callable[[], Awaitable[object]]] = [
                partial(cancel, store, *some),
                partial(store.retry, some),
                partial(store.preempt, choose.choice([*LIMITS]), LEASE),
                partial(store.rescue, RescueTerms(3, LEASE)),
                store.free_abandoned_slots,
                store.tend_lines,
                store.age,
                store.promote_due,
            ]
            await choose.choice(doings)()

    await asyncio.gather(*(work(n) for n in range(CLAIMERS)), *(disturb(n) for n in range(1, 4)))

    assert {name: slots.most[name] <= limit for name, limit in LIMITS.items()} == dict.fromkeys(LIMITS, True)
    assert slots.most["lion"] <= MOST_OF_LION
    assert set(tokens.values()) == {1}
    assert await pool.fetchval("SELECT count(*) FROM jobs WHERE status = 'running'") == 0
    assert await pool.fetchval("SELECT count(*) FROM closing_slots") == 0
    assert {row["busy"] for row in await pool.fetch("SELECT busy FROM lines")} == {0}
    assert all(math.isfinite(row["vtime"]) for row in await pool.fetch("SELECT vtime FROM lanes"))
    assert await store.count(JobFilter()) == JOBS
