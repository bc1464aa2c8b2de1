"""Dramatiq by itself on RabbitMQ, with the middleware that it has by default (no Prometheus); keeps no results."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import dramatiq
import uvloop
from dramatiq import Actor, Broker, Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO

from benchmarks.contestant import Send, Sent, python
from benchmarks.handlers import HANDLER, PAYLOAD, blocking_handler, handler

if TYPE_CHECKING:
    from benchmarks.place import Place

QUEUE = "bare"
VARIABLE = "BENCHMARK_RABBITMQ"
PRIORITIES = "BENCHMARK_PRIORITIES"
URGENT, HIGHEST = "urgent", 9
"""The actor of urgent jobs goes first in the process, and their messages in RabbitMQ."""


class BareDramatiq:
    name = "bare Dramatiq"
    settings = f"{version('dramatiq')}, threads as slots, default middleware, durable queue, no publisher confirms"
    keeps = "messages in RabbitMQ; no results"

    def __init__(self, place: Place, *, priorities: bool = False) -> None:
        self._place = place
        self._priorities = priorities
        if priorities:
            self.settings = f"{self.settings}, a queue with priorities"

    def empty(self) -> None:
        self._place.rabbit.reset()

    def fill(self, jobs: int) -> None:
        with closing(self._broker()) as broker:
            actor = _declare(broker, _nothing)
            for number in range(jobs):
                actor.send(number, PAYLOAD)

    @contextmanager
    def submitter(self) -> Iterator[Send]:
        with closing(self._broker()) as broker:
            ordinary, first = _declare(broker, _nothing), _declare(broker, _nothing, URGENT, priority=-1)

            def send(number: int, *, urgent: bool = False) -> Sent:
                actor = first if urgent else ordinary
                asked = time.time()
                actor.send_with_options(args=(number, PAYLOAD), broker_priority=HIGHEST if urgent else None)
                return Sent(asked, time.time())

            yield send

    def command(self, slots: int) -> list[str]:
        return python("benchmarks.peers.bare_dramatiq", str(slots))

    def environment(self) -> Mapping[str, str]:
        return {VARIABLE: self._place.rabbit.url, PRIORITIES: "1" if self._priorities else ""}

    def _broker(self) -> RabbitmqBroker:
        return _broker(self.environment())

    def stored(self) -> int | None:
        return None


def _broker(environment: Mapping[str, str]) -> RabbitmqBroker:
    return RabbitmqBroker(url=environment[VARIABLE], max_priority=HIGHEST if environment[PRIORITIES] else None)


def _declare(broker: Broker, run: Callable[..., Any], name: str = "run", *, priority: int = 0) -> Actor[..., Any]:
    return dramatiq.actor(actor_name=name, queue_name=QUEUE, priority=priority, broker=broker)(run)


def _nothing(number: int, payload: str) -> None:
    pass


def work(slots: int) -> None:
    """Be a worker process until SIGTERM."""
    broker = _broker(os.environ)
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

    _declare(broker, run)
    _declare(broker, run, URGENT, priority=-1)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    worker = Worker(broker, worker_threads=slots)
    worker.start()
    ended.wait()
    worker.stop()
    broker.close()


if __name__ == "__main__":
    work(int(sys.argv[1]))
