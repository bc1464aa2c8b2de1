"""A quick guard of W6: what a claim costs does not follow the depth of its queue."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore
from benchmarks.depth import exchanged, stock

SHALLOW, DEEP = 2_000, 50_000
RUNS = {64: 192, 1: 30}
"""How many runs are timed together, by how many a claim asks for."""
TIMES = 8
"""All of them together run fewer jobs than the shallow queue has."""
MOST = 3.0
"""Far more than is asked of W6, and far less than a claim takes that reads its whole queue. The best of each counts:
whatever else the machine does only adds to the others."""


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database, min_size=0, max_size=2) as pool:
        yield pool


async def test_a_deep_queue_is_drained_about_as_fast_as_a_shallow_one(pool: asyncpg.Pool):
    depths = {"gpu.llm": DEEP, "gpu.speech": SHALLOW}
    async with pool.acquire() as connection:
        for queue, depth in depths.items():
            await stock(connection, depth, queue)
        await connection.execute("VACUUM ANALYZE")

    for at_once, runs in RUNS.items():
        best = dict.fromkeys(depths, float("inf"))
        for _ in range(TIMES):
            for queue, before in best.items():
                best[queue] = min(before, await seconds(PostgresJobStore(pool), queue, at_once, runs))
        assert best["gpu.llm"] < MOST * best["gpu.speech"]


async def seconds(store: PostgresJobStore, queue: str, at_once: int, runs: int) -> float:
    began = time.perf_counter()
    await exchanged(store, runs, at_once=at_once, queue=queue)
    return time.perf_counter() - began
