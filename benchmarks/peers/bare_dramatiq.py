"""Dramatiq by itself on RabbitMQ, with the middleware that it has by default (no Prometheus); keeps no results."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from typing import TYPE_CHECKING

import dramatiq
import uvloop
from dramatiq import Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO

from benchmarks.contestant import python
from benchmarks.handlers import HANDLER, PAYLOAD, blocking_handler, handler

if TYPE_CHECKING:
    from benchmarks.place import Place

QUEUE = "bare"
VARIABLE = "BENCHMARK_RABBITMQ"


class BareDramatiq:
    name = "bare Dramatiq"
    settings = f"{version('dramatiq')}, threads as slots, default middleware, durable queue, no publisher confirms"
    keeps = "messages in RabbitMQ; no results"

    def __init__(self, place: Place) -> None:
        self._place = place

    def empty(self) -> None:
        self._place.rabbit.reset()

    def fill(self, jobs: int) -> None:
        with closing(_broker(self._place.rabbit.url)) as broker:
            actor = dramatiq.actor(actor_name="run", queue_name=QUEUE, broker=broker)(_nothing)
            for number in range(jobs):
                actor.send(number, PAYLOAD)

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.peers.bare_dramatiq", str(slots))

    def environment(self) -> Mapping[str, str]:
        return {VARIABLE: self._place.rabbit.url}

    def stored(self) -> int | None:
        return None


def _broker(url: str) -> RabbitmqBroker:
    return RabbitmqBroker(url=url)


def _nothing(number: int, payload: str) -> None:
    pass


def work(slots: int) -> None:
    """Be a worker process until SIGTERM."""
    broker = _broker(os.environ[VARIABLE])
    if os.environ[HANDLER] == "call":
        uvloop.install()
        broker.add_middleware(AsyncIO())
        handle = handler()

        async def run(number: int, payload: str) -> None:
            await handle(number)
    else:
        block = blocking_handler()

        def run(number: int, payload: str) -> None:  # type: ignore[misc]
            block(number)

    dramatiq.actor(actor_name="run", queue_name=QUEUE, broker=broker)(run)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    worker = Worker(broker, worker_threads=slots)
    worker.start()
    ended.wait()
    worker.stop()
    broker.close()


if __name__ == "__main__":
    work(int(sys.argv[1]))
