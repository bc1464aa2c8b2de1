"""What owners get of a queue that never falls idle, claim by claim, in PostgreSQL; only the clock is a made-up one."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import asyncpg

from adapters.postgres.queues import PostgresQueueStore
from adapters.postgres.store import PostgresJobStore
from domain.job import JobId, LeasedJob
from domain.policy import OwnerPolicy, Policies
from tests.factories import new_claim
from tests.moves import several, take

SLOTS = 64
LENGTHS = (1, 2, 5, 20)
"""Seconds that runs take; nobody knows before."""

MANY_MORE = """
    WITH more AS (
        INSERT INTO jobs (
            id, seq, created_at, run_at, updated_at, priority, level, max_attempts, due, status, queue, owner_service,
            task_type, model_profile
        )
        SELECT
            gen_random_uuid(), nextval('jobs_seq'), now(), now(), now(), priority, level, max_attempts, due, status,
            queue, owner_service, task_type, model_profile
        FROM jobs, generate_series(1, $1)
        RETURNING id
    )
    INSERT INTO job_inputs SELECT id, '{}' FROM more
"""

STARTED = """
    UPDATE jobs AS j SET started_at = now() - ran.seconds * interval '1 second'
    FROM unnest($1::uuid[], $2::integer[]) AS ran (id, seconds)
    WHERE j.id = ran.id
"""


async def test_weights_share_gpu_time_however_long_the_jobs_are(store: PostgresJobStore, pool: asyncpg.Pool):
    weights = {"three": 3.0, "one": 1.0, "another": 1.0}
    policies = Policies(owners={owner: OwnerPolicy(weight=weight) for owner, weight in weights.items()})
    await PostgresQueueStore(pool).configure(policies, [])
    # Such that they come to their ends together, with runs of all lengths in any order.
    left = Counter({"three": 6_000, "one": 2_000, "another": 2_000})
    for owner, jobs in left.items():
        for _ in range(jobs // 1_000):
            await several(store, 1_000, owner_service=owner)
    got: Counter[str] = Counter()
    ending: defaultdict[int, list[LeasedJob]] = defaultdict(list)
    took: dict[JobId, int] = {}
    chance = random.Random(7)
    now, free, ended = 0, SLOTS, list[LeasedJob]()
    while min(left.values()) > 0:
        await pool.execute(STARTED, [job.id for job in ended], [took[job.id] for job in ended])
        outcome = await store.exchange([job.complete(b"{}") for job in ended], new_claim(limit=free))
        assert len(outcome.claimed) == free
        for job in outcome.claimed:
            took[job.id] = chance.choice(LENGTHS)
            got[job.owner_service] += took[job.id]
            left[job.owner_service] -= 1
            ending[now + took[job.id]].append(job)
        now = min(at for at, jobs in ending.items() if jobs)
        ended = ending.pop(now)
        free = len(ended)
    shares = {owner: seconds / got.total() for owner, seconds in got.items()}
    assert all(abs(shares[owner] - weight / 5) <= 0.02 for owner, weight in weights.items()), shares


async def test_behind_a_hundred_thousand_jobs_another_owners_first_is_next(store: PostgresJobStore, pool: asyncpg.Pool):
    await several(store, 1, owner_service="many")
    await pool.execute(MANY_MORE, 100_000)
    held = await take(store, limit=4)
    [first] = await several(store, 1, owner_service="one")
    outcome = await store.exchange([held[0].complete(b"{}")], new_claim(limit=1))
    assert [job.id for job in outcome.claimed] == [first.id]
