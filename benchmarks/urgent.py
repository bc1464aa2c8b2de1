"""How soon a high job starts behind 5,000 low ones of 20 ms on 4 slots: 200 tries on one standing backlog.

Counted from the moment when the submission was answered to the moment when the job's handler begins, with a worker
process of its own on RabbitMQ, and with everything in one process (embedded). The limit is what a job must wait for
anyway: until the first of four runs ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from dramatiq import Worker
from msgspec import Raw
from msgspec.structs import replace

from actors.desk import Performed
from adapters.embedded.postgres import EmbeddedPostgres
from app import logs
from app.bootstrap import Application, build
from app.migrating import migrate
from app.settings import from_env
from domain.access import ANYBODY
from domain.job import LeasedJob, Priority
from domain.usecases.submit import Submission, Submit
from tests.servers.rabbitmq import find_rabbitmq

SLOTS = 4
SERVICE_TIME = 0.02
BACKLOG = 5_000
LEAST_BACKLOG = 1_000
QUEUE = "gpu.llm"
PATIENCE = 30.0

ANY = Submission(owner_service="night", task_type="llm_chat", model_profile="practice", input=Raw(b'{"user":"x"}'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--role", choices=["worker"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        work()
        return
    logs.set_up(from_env(_environment()).logs)
    figures = {"rabbitmq": on_rabbitmq(arguments.tries), "embedded": embedded(arguments.tries)}
    print(f"service time {SERVICE_TIME * 1000:.0f} ms, {SLOTS} slots, {arguments.tries} tries; ms from answer to start")
    for name, waits in figures.items():
        cut = statistics.quantiles(waits, n=100)
        print(f"{name:10} p50 {cut[49]:6.1f}   p99 {cut[98]:6.1f}   max {max(waits):6.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


def on_rabbitmq(tries: int) -> list[float]:
    rabbit = find_rabbitmq()
    rabbit.start()
    try:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as postgres:
            environment = _environment(DATABASE_URL=postgres.dsn, AMQP_URL=rabbit.url)
            asyncio.run(migrate(postgres.dsn))
            command = [sys.executable, "-m", "benchmarks.urgent", "--role", "worker"]
            with subprocess.Popen(command, env=environment) as worker:
                try:
                    return asyncio.run(_measure(build(from_env(environment)), tries))
                finally:
                    worker.terminate()
    finally:
        rabbit.stop()


def embedded(tries: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as postgres:
        asyncio.run(migrate(postgres.dsn))
        settings = from_env(_environment())
        application = build(settings, dsn=postgres.dsn, with_worker=True, performers={"llm_chat": perform})
        worker = Worker(application.broker, queues={QUEUE}, worker_threads=SLOTS)
        worker.start()
        try:
            return asyncio.run(_measure(application, tries))
        finally:
            worker.stop()
            application.broker.close()


def work() -> None:
    """Be the worker process, until the end of the measurement."""
    settings = from_env(os.environ)
    logs.set_up(settings.logs)
    application = build(settings, performers={"llm_chat": perform})
    worker = Worker(application.broker, queues={QUEUE}, worker_threads=SLOTS)
    worker.start()
    try:
        while True:
            time.sleep(1)
    except BaseException:
        worker.stop()
        application.broker.close()


async def perform(job: LeasedJob) -> Performed:
    """Takes its time, and tells when it began."""
    began = time.time()
    await asyncio.sleep(SERVICE_TIME)
    return Performed(json.dumps({"began": began}).encode())


def _environment(**more: str) -> dict[str, str]:
    fixed = {"AI_PROVIDER": "practice", "WORKER_CLAIM_LIMIT": str(SLOTS), "LOG_LEVEL": "warning"}
    return {**os.environ, **fixed, **more}


async def _measure(application: Application, tries: int) -> list[float]:
    async with application.core() as core, _scheduling(core.scheduler.run()):
        submit = core.services.submit
        connection = await asyncpg.connect(application.dsn)
        try:
            await _backlogged(submit, connection)
            return [await _try(submit, connection, place) for place in range(tries)]
        finally:
            await connection.close()


@asynccontextmanager
async def _scheduling(run: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(run)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _backlogged(submit: Submit, connection: asyncpg.Connection) -> None:
    await submit.batch(ANYBODY, [replace(ANY, priority=Priority.LOW)] * BACKLOG)
    await _until(connection, "SELECT count(*) >= 100 FROM jobs WHERE status = 'completed'")


async def _until(connection: asyncpg.Connection, true: str, *arguments: object) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await connection.fetchval(true, *arguments):  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


async def _try(submit: Submit, connection: asyncpg.Connection, place: int) -> float:
    """Milliseconds until a high job's handler begins."""
    waiting = await connection.fetchval("SELECT count(*) FROM jobs WHERE status = 'pending'")
    if waiting < LEAST_BACKLOG:
        await _backlogged(submit, connection)
    added = await submit.one(ANYBODY, replace(ANY, priority=Priority.HIGH))
    answered = time.time()
    await _until(connection, "SELECT status = 'completed' FROM jobs WHERE id = $1", added.job.id)
    result = await connection.fetchval("SELECT result FROM job_results WHERE job_id = $1", added.job.id)
    await asyncio.sleep(0.007 * (place % 5))  # so that tries do not fall in step with the runs
    return max(0.0, (float(json.loads(result)["began"]) - answered) * 1000)


if __name__ == "__main__":
    main()
