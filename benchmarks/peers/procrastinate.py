"""Procrastinate on PostgreSQL: one asynchronous worker, which claims jobs one by one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import uvloop
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from benchmarks.contestant import Send, Sent, python
from benchmarks.handlers import PAYLOAD, Handle, handler

if TYPE_CHECKING:
    from benchmarks.place import Place

VARIABLE = "BENCHMARK_POSTGRES"
CONNECTIONS = 10
BATCH = 1_000


class Procrastinate:
    name = "Procrastinate"
    settings = f"{version('procrastinate')}, {CONNECTIONS} psycopg connections, uvloop, ended jobs kept"
    keeps = "jobs and their events in PostgreSQL; no results"

    def __init__(self, place: Place) -> None:
        self._place = place
        self.dsn = place.database("procrastinate")
        asyncio.run(_install(self.dsn))

    def empty(self) -> None:
        self._place.execute(self.dsn, "TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")

    def fill(self, jobs: int) -> None:
        asyncio.run(_fill(self.dsn, jobs))
        # Without, the plan of its claim is one for an empty table, and it drains a tenth as fast.
        self._place.execute(self.dsn, "VACUUM ANALYZE")

    @contextmanager
    def submitter(self) -> Iterator[Send]:
        app = App(connector=SyncPsycopgConnector(conninfo=self.dsn, min_size=1))
        with app.open():

            def send(number: int, *, urgent: bool = False) -> Sent:
                asked = time.time()
                app.configure_task("run", priority=int(urgent)).defer(number=number, payload=PAYLOAD)
                return Sent(asked, time.time())

            yield send

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.peers.procrastinate", str(slots))

    def environment(self) -> Mapping[str, str]:
        return {VARIABLE: self.dsn}

    def stored(self) -> int | None:
        [row] = self._place.fetch(self.dsn, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
        return int(row[0])


async def _nothing(number: int) -> str:
    return ""


def application(dsn: str, handle: Handle = _nothing) -> App:
    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=CONNECTIONS, max_size=CONNECTIONS))

    async def run(number: int, payload: str) -> str:
        return await handle(number)

    app.task(name="run")(run)
    return app


async def _install(dsn: str) -> None:
    app = application(dsn)
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()


async def _fill(dsn: str, jobs: int) -> None:
    app = application(dsn)
    inputs: list[dict[str, Any]] = [{"number": number, "payload": PAYLOAD} for number in range(jobs)]
    async with app.open_async():
        for start in range(0, jobs, BATCH):
            await app.tasks["run"].batch_defer_async(*inputs[start : start + BATCH])


async def work(slots: int) -> None:
    """Be a worker process until SIGTERM."""
    app = application(os.environ[VARIABLE], handler())
    async with app.open_async():
        await app.run_worker_async(concurrency=slots)


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])))
