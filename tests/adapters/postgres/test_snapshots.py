"""An old open snapshot, as of a dump: PostgreSQL keeps every version since then, and no look-up walks them all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore
from tests.factories import QUEUE
from tests.moves import one, take

CHANGES = 3_000
MORE = 12
"""Pages that a look-up may touch beyond those before: of the index that grew, and of the few versions of its turn."""

CLAIM = f"SELECT claim_line('{QUEUE}', NULL, NULL, NULL, NULL, 'worker', '1 minute', false, false, 1)"
FREE = f"SELECT free_slots('{{{QUEUE}}}', '{{3}}', '{{shop}}', '{{1}}', '{{1.5}}', '{{true}}')"
REACH = f"SELECT reach_lanes('{{{QUEUE}}}', '{{3}}', '{{shop}}', '{{9000000}}')"
READ = "SELECT * FROM lines, lanes"

CHANGE = f"""
    DO $$
    BEGIN
        FOR n IN 1..{CHANGES} LOOP
            PERFORM FROM line_names FOR UPDATE;
            PERFORM free_slots('{{{QUEUE}}}', '{{3}}', '{{shop}}', '{{1}}', '{{1.5}}', '{{true}}');
            COMMIT;
        END LOOP;
    END
    $$
"""


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database, server_settings={"synchronous_commit": "off"})
    yield connection
    await connection.close()


async def touched(connection: asyncpg.Connection, statement: str) -> int:
    """How many pages a statement looks at, once it is planned."""
    for _ in range(3):
        found = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
    [plan] = json.loads(found)
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


async def test_no_look_up_walks_the_versions_that_an_old_snapshot_keeps(
    store: PostgresJobStore, pool: asyncpg.Pool, connection: asyncpg.Connection
):
    await one(store, owner_service="shop")
    await take(store)
    async with pool.acquire() as other, other.transaction(isolation="repeatable_read"):
        kept = await other.fetchval("SELECT vtime FROM lanes")
        before = {each: await touched(connection, each) for each in (CLAIM, FREE, REACH, READ)}
        await connection.execute(CHANGE)
        after = {each: await touched(connection, each) for each in before}
        assert await other.fetchval("SELECT vtime FROM lanes") == kept
    assert {each: pages for each, pages in after.items() if pages > before[each] + MORE} == {}
    [vtime] = [row["vtime"] for row in await pool.fetch("SELECT vtime FROM lanes")]
    assert vtime > kept + 0.5 * CHANGES - 1
