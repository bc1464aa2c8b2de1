"""PGQueuer on PostgreSQL: claims and ends jobs in batches, and keeps a log of their ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

from benchmarks.contestant import Send, Sent, python
from benchmarks.handlers import HANDLER, PAYLOAD, handler

if TYPE_CHECKING:
    from benchmarks.place import Place

VARIABLE = "BENCHMARK_POSTGRES"
ENTRYPOINT = "run"
CONNECTIONS = 4
BATCH = 250
"""Of jobs that do nothing."""


class PGQueuer:
    name = "PGQueuer"
    settings = (
        f"{version('pgqueuer')}, {CONNECTIONS} asyncpg connections, uvloop, durable tables; batches of {BATCH} and no "
        "limit for jobs that do nothing, else batches of half the slots, which are its limit"
    )
    keeps = "jobs, and a log of their ends, in PostgreSQL; no results"

    def __init__(self, place: Place) -> None:
        self._place = place
        self.dsn = place.database("pgqueuer")
        asyncio.run(_install(self.dsn))

    def empty(self) -> None:
        self._place.execute(self.dsn, "TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics")

    def fill(self, jobs: int) -> None:
        asyncio.run(_fill(self.dsn, jobs))
        self._place.execute(self.dsn, "VACUUM ANALYZE")

    @contextmanager
    def submitter(self) -> Iterator[Send]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            connection = runner.run(asyncpg.connect(self.dsn))
            queries = Queries(AsyncpgDriver(connection))

            def send(number: int, *, urgent: bool = False) -> Sent:
                asked = time.time()
                runner.run(queries.enqueue(ENTRYPOINT, _input(number), int(urgent)))
                return Sent(asked, time.time())

            yield send
            runner.run(connection.close())

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.peers.pgqueuer", str(slots))

    def environment(self) -> Mapping[str, str]:
        return {VARIABLE: self.dsn}

    def stored(self) -> int | None:
        [row] = self._place.fetch(self.dsn, "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'")
        return int(row[0])


async def _install(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        queries = Queries(AsyncpgDriver(connection))
        if not await queries.schema_is_installed():
            await queries.install()
    finally:
        await connection.close()


async def _fill(dsn: str, jobs: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        queries = Queries(AsyncpgDriver(connection))
        for start in range(0, jobs, 1_000):
            numbers = range(start, min(start + 1_000, jobs))
            inputs: list[bytes | None] = [_input(number) for number in numbers]
            await queries.enqueue([ENTRYPOINT] * len(inputs), inputs, [0] * len(inputs))
    finally:
        await connection.close()


def _input(number: int) -> bytes:
    return json.dumps({"number": number, "payload": PAYLOAD}).encode()


async def work(slots: int) -> None:
    """Be a worker process until SIGTERM."""
    handle = handler()

    async def run(job: Any) -> None:
        await handle(json.loads(job.payload)["number"])

    async with asyncpg.create_pool(os.environ[VARIABLE], min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
        manager = PgQueuer(AsyncpgPoolDriver(pool))
        manager.entrypoint(ENTRYPOINT)(run)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, manager.shutdown.set)
        if os.environ[HANDLER] == "nothing":  # its claim takes twice the time when it has to count
            await manager.run(batch_size=BATCH)
        else:
            await manager.run(batch_size=max(1, slots // 2), max_concurrent_tasks=max(2, slots))


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])))
