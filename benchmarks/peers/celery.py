"""Celery on RabbitMQ, with results stored in PostgreSQL by its SQLAlchemy backend.

Its jobs block: many that wait need threads, where its backend connects anew for each result. A forked child keeps its
connection, and alone gets through jobs that do nothing faster than many threads.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import uvloop
from celery import Celery as App

from benchmarks.contestant import Send, Sent, python
from benchmarks.handlers import HANDLER, PAYLOAD, blocking_handler, handler

if TYPE_CHECKING:
    from benchmarks.place import Place

QUEUE = "celery"
BROKER, RESULTS = "BENCHMARK_RABBITMQ", "BENCHMARK_POSTGRES"
PRIORITIES = "BENCHMARK_PRIORITIES"
HIGHEST = 9

CHILDREN = 8
"""So many slots are forked children, as by its defaults; more are threads."""


class Celery:
    name = "Celery"
    settings = (
        f"{version('celery')}, one forked child for jobs that do nothing, else as many as slots up to {CHILDREN}, else "
        "threads as slots; acknowledges late, prefetches as many as slots, results by SQLAlchemy and psycopg, no events"
    )
    keeps = "messages in RabbitMQ, results in PostgreSQL"

    def __init__(self, place: Place, *, priorities: bool = False) -> None:
        self._place = place
        self._priorities = priorities
        if priorities:
            self.settings = f"{self.settings}, a queue with priorities"
        self.dsn = place.database("celery")
        self.application().backend.ResultSession().close()  # makes its tables

    def empty(self) -> None:
        self._place.rabbit.reset()
        self._place.execute(self.dsn, "TRUNCATE celery_taskmeta")

    def fill(self, jobs: int) -> None:
        """Without publisher confirms, of which each takes a round trip; closing waits for all that was published."""
        application = self.application(confirms=False)
        with application.producer_pool.acquire() as producer:
            task = application.tasks["run"]
            for number in range(jobs):
                task.apply_async((number, PAYLOAD), producer=producer)
        application.close()
        self._place.execute(self.dsn, "VACUUM ANALYZE")

    @contextmanager
    def submitter(self) -> Iterator[Send]:
        application = self.application()
        with application.producer_pool.acquire() as producer:
            task = application.tasks["run"]

            def send(number: int, *, urgent: bool = False) -> Sent:
                asked = time.time()
                task.apply_async((number, PAYLOAD), producer=producer, priority=HIGHEST if urgent else 0)
                return Sent(asked, time.time())

            yield send
        application.close()

    def application(self, *, confirms: bool = True) -> App:
        """One that submits; asks RabbitMQ to confirm every message, unless told not to."""
        return _application(self.environment(), _nothing, confirms=confirms)

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.peers.celery", str(slots))

    def environment(self) -> Mapping[str, str]:
        return {BROKER: self._place.rabbit.url, RESULTS: self.dsn, PRIORITIES: "1" if self._priorities else ""}

    def stored(self) -> int | None:
        [row] = self._place.fetch(self.dsn, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")
        return int(row[0])


def _nothing(number: int, payload: str) -> str:
    return ""


def _application(environment: Mapping[str, str], run: Callable[[int, str], str], *, confirms: bool = True) -> App:
    backend = re.sub(r"^\w+:", "db+postgresql+psycopg:", environment[RESULTS])
    application = App("benchmark", broker=environment[BROKER], backend=backend)
    application.conf.update(
        broker_transport_options={"confirm_publish": confirms},
        broker_connection_retry_on_startup=True,
        database_engine_options={"pool_pre_ping": False},  # it tries again when a connection was lost
        task_default_queue=QUEUE,
        task_queue_max_priority=HIGHEST if environment[PRIORITIES] else None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
    )
    application.task(name="run")(run)
    return application


def work(slots: int) -> None:
    """Be a worker process until SIGTERM."""
    does_nothing = os.environ[HANDLER] == "nothing"
    pool = "prefork" if does_nothing or slots <= CHILDREN else "threads"
    application = _application(os.environ, _run())
    if does_nothing:
        application.conf.worker_prefetch_multiplier = slots
        slots = 1
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    application.worker_main(["worker", "--pool", pool, "--concurrency", str(slots), *quiet])


def _run() -> Callable[[int, str], str]:
    handle = _called() if os.environ[HANDLER] == "call" else blocking_handler()

    def run(number: int, payload: str) -> str:
        return handle(number)

    return run


def _called() -> Callable[[int], str]:
    """The asynchronous handler on a loop of its own, which a thread waits for."""
    handle = handler()
    loop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return lambda number: asyncio.run_coroutine_threadsafe(handle(number), loop).result()


if __name__ == "__main__":
    work(int(sys.argv[1]))
