"""How fast one worker process with 64 slots drains 20,000 jobs that do nothing, on RabbitMQ, beside bare Dramatiq.

Ours stores every result durably in PostgreSQL and answers for every job; bare Dramatiq acknowledges messages and
keeps no result. Both on one private RabbitMQ and one machine, in turns; the rate counts from the 200th to the last
end.
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
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import asyncpg
import dramatiq
from dramatiq import Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from msgspec import Raw

from actors.desk import Performed
from actors.tickets import ticket
from adapters.embedded.postgres import EmbeddedPostgres
from adapters.postgres.migrate import migrate
from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from app import logs
from app.bootstrap import build, new_job_id
from app.settings import from_env
from domain.job import LeasedJob, NewJob
from tests.servers.rabbitmq import find_rabbitmq

SLOTS = 64
WARM_UP = 200
QUEUE = "gpu.llm"
"""A ticket per job lies ready for bare Dramatiq; ours needs a few to wake the slots, and its slots go on by
themselves.
"""
TICKETS = 128

INPUT = Raw(b'{"user":"' + b"x" * 180 + b'"}')

RESULT = b'{"schema_version":"ai.chat_result.v1","content":"' + b"y" * 100 + b'","model":"none","duration_ms":0}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--role", choices=["ours", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        print({"ours": drain_ours, "bare": drain_bare}[arguments.role](arguments.jobs))
        return
    figures = compare(arguments.jobs, arguments.rounds)
    for name, rates in figures.items():
        print(
            f"{name:24} median {statistics.median(rates):8.0f} jobs/s   min {min(rates):8.0f}   max {max(rates):8.0f}"
        )
    ratio = statistics.median(figures["ours"]) / statistics.median(figures["bare dramatiq"])
    print(f"ours / bare dramatiq     {ratio:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


def compare(jobs: int, rounds: int) -> dict[str, list[float]]:
    """Rates in jobs per second, by contestant."""
    rabbit = find_rabbitmq()
    rabbit.start()
    figures: dict[str, list[float]] = {"ours": [], "bare dramatiq": []}
    try:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as postgres:
            environment = {**os.environ, "DATABASE_URL": postgres.dsn, "AMQP_URL": rabbit.url}
            for turn in range(rounds):
                for name, role in (("bare dramatiq", "bare"), ("ours", "ours")):
                    print(f"round {turn + 1} of {rounds}: {name} ...", file=sys.stderr)
                    figures[name].append(_measure(role, jobs, environment))
    finally:
        rabbit.stop()
    return figures


def _measure(role: str, jobs: int, environment: dict[str, str]) -> float:
    if role == "bare":
        _fill_bare(environment["AMQP_URL"], jobs)
    else:
        asyncio.run(_fill_ours(environment["DATABASE_URL"], jobs))
        _publish_tickets(environment["AMQP_URL"])
    command = [sys.executable, "-m", "benchmarks.worker", "--role", role, "--jobs", str(jobs)]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _bare_broker(url: str, ended: list[float] | None = None) -> RabbitmqBroker:
    broker = RabbitmqBroker(url=url)
    dramatiq.set_broker(broker)

    def noop(payload: str) -> None:
        if ended is not None:
            ended.append(time.monotonic())

    dramatiq.actor(broker=broker, queue_name="bare")(noop)
    return broker


def _fill_bare(url: str, jobs: int) -> None:
    with closing(_bare_broker(url)) as broker:
        actor = broker.get_actor("noop")
        for _ in range(jobs):
            actor.send("x" * 180)


def drain_bare(jobs: int) -> float:
    ended: list[float] = []
    broker = _bare_broker(os.environ["AMQP_URL"], ended)
    worker = Worker(broker, worker_threads=SLOTS)
    worker.start()
    while len(ended) < jobs:
        time.sleep(0.05)
    worker.stop()
    broker.close()
    return (jobs - WARM_UP) / (ended[-1] - ended[WARM_UP])


async def _fill_ours(dsn: str, jobs: int) -> None:
    await migrate(dsn)
    async with create_pool(dsn, max_size=2, application_name="benchmark") as pool:
        await pool.execute("TRUNCATE jobs, job_details, job_inputs, job_results, runs, lines, lanes CASCADE")
        store = PostgresJobStore(pool)
        for start in range(0, jobs, 1_000):
            await store.add([_job() for _ in range(min(1_000, jobs - start))])
        await pool.execute("VACUUM ANALYZE")


def _job() -> NewJob:
    return NewJob(
        id=new_job_id(),
        owner_service="benchmark",
        task_type="llm_chat",
        model_profile="practice",
        input=INPUT,
        queue=QUEUE,
    )


def _publish_tickets(url: str) -> None:
    application = build(from_env({"DATABASE_URL": "postgresql://", "AMQP_URL": url, "AI_PROVIDER": "practice"}))
    with closing(application.broker):
        for _ in range(TICKETS):
            application.broker.enqueue(ticket(QUEUE))


def drain_ours(jobs: int) -> float:
    settings = from_env(
        {**os.environ, "AI_PROVIDER": "practice", "WORKER_CLAIM_LIMIT": str(SLOTS), "LOG_LEVEL": "warning"}
    )
    logs.set_up(settings.logs)
    application = build(settings, performers={"llm_chat": noop})
    worker = Worker(application.broker, queues={QUEUE}, worker_threads=SLOTS)
    worker.start()
    while application.runtime.status().outcomes.get("completed", 0) < jobs:
        time.sleep(0.05)
    worker.stop()
    application.broker.close()
    return asyncio.run(_rate(settings.database_url, jobs))


async def noop(job: LeasedJob) -> Performed:
    """Does nothing, and has a result of the usual size stored."""
    return Performed(RESULT)


async def _rate(dsn: str, jobs: int) -> float:
    """By PostgreSQL's own times: what counts is what is stored."""
    connection = await asyncpg.connect(dsn)
    try:
        ended = [row[0] for row in await connection.fetch("SELECT finished_at FROM jobs ORDER BY finished_at")]
        stored = await connection.fetchval("SELECT count(*) FROM job_results")
    finally:
        await connection.close()
    if not len(ended) == stored == jobs:
        raise SystemExit(f"{len(ended)} jobs ended and {stored} results are stored; expected {jobs} of each.")
    return float((jobs - WARM_UP) / ((ended[-1] - ended[WARM_UP]) / timedelta(seconds=1)))


if __name__ == "__main__":
    main()
