"""Publishes tickets from a thread of its own: a confirm takes a millisecond, a broker that is away takes minutes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import structlog
from dramatiq import Message
from dramatiq.errors import BrokerConnectionError
from pika.exceptions import AMQPError, ChannelClosedByBroker

from adapters.rabbitmq.broker import TicketBroker

log = structlog.get_logger()

MOST_PENDING = 1_000
"""Tickets per queue that are kept for a broker that is away; more would wake nobody."""

IDLE = 0.5
"""Seconds after which an idle connection answers RabbitMQ's heartbeats: in time for heartbeats of two seconds."""

LAST_WAIT = 5.0
"""Seconds that `stop` waits for a broker that takes its time."""

ANSWER_TIMEOUT = 2.0

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0

AWAY = (AMQPError, BrokerConnectionError, OSError)


class RabbitTickets:
    """`start` it before use and `stop` it after; publishing never blocks and never raises."""

    def __init__(self, broker: TicketBroker, ticket: Callable[[str], Message[Any]]) -> None:
        self._broker = broker
        self._ticket = ticket
        self._pending: Counter[str] = Counter()
        self._asked: list[tuple[str, Future[int | None]]] = []
        self._changed = threading.Condition()
        self._connected = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticket-publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Publish what is pending if the broker is there, then end."""
        with self._changed:
            self._stop.set()
            self._changed.notify()
        self._thread.join(LAST_WAIT)

    def publish(self, queue: str, count: int) -> None:
        with self._changed:
            self._pending[queue] = min(self._pending[queue] + count, MOST_PENDING)
            self._changed.notify()

    async def waiting(self, queue: str) -> int | None:
        return await self._ask(queue)

    async def reachable(self) -> bool:
        return self._connected.is_set()

    async def _ask(self, queue: str) -> int | None:
        if not self._connected.is_set():
            return None
        answer: Future[int | None] = Future()
        with self._changed:
            self._asked.append((queue, answer))
            self._changed.notify()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), ANSWER_TIMEOUT)
        except TimeoutError:
            return None

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stop.is_set():
            try:
                self._connect()
                while not self._stop.is_set() or self._pending:
                    self._tick()
                    wait = FIRST_WAIT
            except AWAY as error:
                log.warning("broker is away", reason=type(error).__name__, retry_in=wait)
            except Exception:  # without this thread no ticket would be published any more
                log.exception("publishing failed", retry_in=wait)
            self._disconnect()
            with self._changed:
                self._changed.wait_for(self._stop.is_set, timeout=wait)
            wait = min(wait * 2, LONGEST_WAIT)

    def _connect(self) -> None:
        self._broker.connection  # noqa: B018  # connects
        self._connected.set()
        log.info("broker connected")

    def _disconnect(self) -> None:
        self._connected.clear()
        with suppress(*AWAY):
            del self._broker.connection

    def _tick(self) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._pending or self._asked or self._stop.is_set(), timeout=IDLE):
                self._broker.connection.process_data_events(0)
            asked, self._asked = self._asked, []
            queue = next(iter(self._pending), None)
            if queue:  # last in turn: a queue that cannot be published to must not stand before the others
                self._pending[queue] = self._pending.pop(queue)
        for about, answer in asked:
            if answer.set_running_or_notify_cancel():  # it may have waited too long already
                answer.set_result(self._count(about))
        if queue:
            self._broker.enqueue(self._ticket(queue))
            with self._changed:
                self._pending.subtract([queue])
                self._pending += Counter()  # drops what is at zero

    def _count(self, queue: str) -> int | None:
        try:
            return int(self._broker.channel.queue_declare(queue, passive=True).method.message_count)
        except ChannelClosedByBroker:
            del self._broker.channel
            return 0  # the queue is not there: publishing to it declares it
