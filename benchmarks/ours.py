"""This service as a contestant: a worker process on RabbitMQ, or on its own polls (embedded)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing

from dramatiq import Worker
from msgspec import Raw, Struct, json

from actors.desk import Perform, Performed
from actors.tickets import ticket
from adapters.postgres.migrate import migrate
from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from app import logs
from app.bootstrap import Application, build, new_job_id
from app.settings import from_env
from benchmarks.contestant import Send, python
from benchmarks.handlers import PAYLOAD, handler
from benchmarks.place import Place
from benchmarks.submitting import submitting
from domain.job import LeasedJob, NewJob, Priority

QUEUE = "gpu.llm"
TASK_TYPE = "llm_chat"
TICKETS = 128
"""They only wake idle slots, which then go on by themselves."""

TABLES = (
    "jobs, job_details, job_inputs, job_results, job_labels, job_changes, job_progress, job_counts, job_count_changes, "
    "jobs_finished, runs, run_attempts, closing_slots, line_names, lane_names, workers"
)


class Input(Struct):
    user: str
    number: int


class Ours:
    name = "ours"
    keeps = "jobs, runs and results in PostgreSQL"
    task_type = TASK_TYPE
    profile = "practice"

    def __init__(
        self, place: Place, *, embedded: bool = False, backlog: Priority = Priority.NORMAL, database: str = "ours"
    ) -> None:
        """
        Args:
            embedded: there is no broker.
            backlog: what it is filled with.
            database: its own, so that several may be filled at once.
        """
        self._place = place
        self._embedded = embedded
        self._backlog = backlog
        self.dsn = place.database(database)
        if embedded:
            self.name = "ours, embedded"
        self.settings = "one process, " + ("no broker" if embedded else "tickets over RabbitMQ") + ", defaults"
        asyncio.run(migrate(self.dsn))

    def empty(self) -> None:
        self._place.execute(self.dsn, f"TRUNCATE {TABLES} CASCADE")
        self._place.rabbit.reset()

    def fill(self, jobs: int) -> None:
        self.submit(range(jobs), self._backlog)
        self._place.execute(self.dsn, "VACUUM ANALYZE")
        if not self._embedded:
            self.publish_tickets()

    def submit(self, numbers: range, priority: Priority = Priority.NORMAL) -> None:
        """Store jobs as a batch would be; no ticket is published."""
        asyncio.run(_submit(self.dsn, [self._job(number, priority) for number in numbers]))

    def publish_tickets(self, tickets: int = TICKETS) -> None:
        with closing(self.application().broker) as broker:
            for _ in range(tickets):
                broker.enqueue(ticket(QUEUE))

    def submitter(self) -> AbstractContextManager[Send]:
        return submitting(self.application(), TASK_TYPE)

    def application(self) -> Application:
        return build(from_env({**os.environ, **self.environment()}))

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.ours", str(slots))

    def environment(self) -> Mapping[str, str]:
        broker = {} if self._embedded else {"AMQP_URL": self._place.rabbit.url}
        return {"DATABASE_URL": self.dsn, "AI_PROVIDER": "practice", "LOG_LEVEL": "warning", **broker}

    def _job(self, number: int, priority: Priority) -> NewJob:
        return NewJob(
            id=new_job_id(),
            owner_service="benchmark",
            task_type=self.task_type,
            model_profile=self.profile,
            input=Raw(json.encode(Input(PAYLOAD, number))),
            queue=QUEUE,
            priority=priority,
        )

    def stored(self) -> int | None:
        [row] = self._place.fetch(self.dsn, "SELECT count(*) FROM job_results")
        return int(row[0])


async def _submit(dsn: str, jobs: list[NewJob]) -> None:
    async with create_pool(dsn, max_size=2, application_name="benchmark") as pool:
        store = PostgresJobStore(pool)
        for start in range(0, len(jobs), 1_000):
            await store.add(jobs[start : start + 1_000])


def performing() -> Perform:
    """Runs what the environment asks for, and has a result of the usual size stored."""
    handle = handler()
    decoder = json.Decoder(Input)

    async def perform(job: LeasedJob) -> Performed:
        content = await handle(decoder.decode(job.input).number)
        return Performed(json.encode({"schema_version": "ai.chat_result.v1", "content": content, "model": "none"}))

    return perform


def work(slots: int) -> None:
    """Be a worker process until SIGTERM."""
    settings = from_env({**os.environ, "WORKER_CLAIM_LIMIT": str(slots)})
    logs.set_up(settings.logs)
    application = build(settings, with_worker=True, performers={TASK_TYPE: performing()})
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    worker = Worker(application.broker, queues={QUEUE}, worker_threads=slots)
    worker.start()
    ended.wait()
    worker.stop()
    application.broker.close()


if __name__ == "__main__":
    import sys

    work(int(sys.argv[1]))
