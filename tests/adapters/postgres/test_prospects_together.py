"""Looks at places in line that are asked for together share statements; only those of a line wait for each other."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore
from domain.usecases.wake import DEAD_AFTER
from tests.factories import new_job

PATIENCE = 10.0


async def test_a_line_that_takes_long_to_count_holds_up_no_other(
    pool: asyncpg.Pool, store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
):
    [deep] = await store.add([new_job(queue="deep")])
    [shallow] = await store.add([new_job(queue="shallow")])
    counted, counting = asyncio.Event(), asyncio.Event()
    fetch = store._fetch

    async def slow(name: str, *arguments: object, **options: Any) -> list[asyncpg.Record]:
        if name == "ahead" and arguments[0] == "deep":
            counting.set()
            await counted.wait()
        return await fetch(name, *arguments, **options)

    monkeypatch.setattr(store, "_fetch", slow)
    waits = [asyncio.create_task(store.prospect(deep.job, DEAD_AFTER)) for _ in range(2)]
    await counting.wait()
    more = asyncio.create_task(store.prospect(deep.job, DEAD_AFTER))
    async with asyncio.timeout(PATIENCE):
        assert (await store.prospect(shallow.job, DEAD_AFTER)).ahead == 0
    assert not any(task.done() for task in (*waits, more))
    counted.set()
    assert [prospect.ahead for prospect in await asyncio.gather(*waits, more)] == [0, 0, 0]
    assert len(store._prospects) == 0  # nothing stays of a line that nobody asks about
