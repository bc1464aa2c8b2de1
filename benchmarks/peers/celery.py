"""Celery on RabbitMQ, with results stored in PostgreSQL by its SQLAlchemy backend.

Its jobs block: many waiting ones need threads, where its backend opens a connection for each result; a forked child keeps
its connection, and gets through jobs that do nothing faster alone than many threads do.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from celery import Celery as App

from benchmarks.contestant import python
from benchmarks.handlers import HANDLER, PAYLOAD, blocking_handler, handler

if TYPE_CHECKING:
    from benchmarks.place import Place

QUEUE = "celery"
BROKER, RESULTS = "BENCHMARK_RABBITMQ", "BENCHMARK_POSTGRES"

CHILDREN = 8
"""So many slots are processes, as by its defaults; more are threads."""


class Celery:
    name = "Celery"
    settings = (
        f"{version('celery')}, one forked child for jobs that do nothing, else threads as slots (processes up to {CHILDREN}), "
        "late acknowledgement, prefetch as many as slots, results by SQLAlchemy and psycopg, no events"
    )
    keeps = "messages in RabbitMQ, results in PostgreSQL"

    def __init__(self, place: Place) -> None:
        self._place = place
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

    def application(self, *, confirms: bool = True) -> App:
        """One that submits; asks RabbitMQ to confirm every message, unless told not to."""
        return _application(self._place.rabbit.url, self.dsn, _nothing, confirms=confirms)

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.peers.celery", str(slots))

    def environment(self) -> Mapping[str, str]:
        return {BROKER: self._place.rabbit.url, RESULTS: self.dsn}

    def stored(self) -> int | None:
        [row] = self._place.fetch(self.dsn, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")
        return int(row[0])


def _nothing(number: int, payload: str) -> str:
    return ""


def _application(broker: str, dsn: str, run: Callable[[int, str], str], *, confirms: bool = True) -> App:
    application = App("benchmark", broker=broker, backend=re.sub(r"^\w+:", "db+postgresql+psycopg:", dsn))
    application.conf.update(
        broker_transport_options={"confirm_publish": confirms},
        broker_connection_retry_on_startup=True,
        task_default_queue=QUEUE,
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
    application = _application(os.environ[BROKER], os.environ[RESULTS], _run())
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
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return lambda number: asyncio.run_coroutine_threadsafe(handle(number), loop).result()


if __name__ == "__main__":
    work(int(sys.argv[1]))
