"""Publishes tickets from a thread of its own: a confirm takes a millisecond, a broker that is away takes minutes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import structlog
from dramatiq import Message
from pika import BasicProperties, BlockingConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.delivery_mode import DeliveryMode
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

from adapters.rabbitmq.broker import TicketBroker
from adapters.rabbitmq.connection import TOLD_EVERY
from adapters.rabbitmq.declare import NOT_FOUND
from adapters.rabbitmq.hints import APP
from adapters.rabbitmq.link import Link

log = structlog.get_logger()

MOST_PENDING = 1_000
"""Tickets per queue that are kept for a broker that is away; more would wake nobody."""

IDLE = 0.5
"""Seconds after which an idle connection answers RabbitMQ's heartbeats: in time for heartbeats of two seconds."""

LAST_WAIT = 5.0
"""Seconds that `stop` waits for a broker that takes its time."""

ANSWER_TIMEOUT = 2.0

REFUSED_FOR = 10.0
"""Seconds for which nothing is published to a queue that RabbitMQ does not let us publish to."""

TRANSIENT = BasicProperties(
    content_type="application/json", delivery_mode=DeliveryMode.Transient, type="ticket", app_id=APP
)
"""RabbitMQ confirms it without writing it down first: the next one need not wait for a disk. What it forgets when it
ends, the scheduler publishes anew."""


class RabbitTickets:
    """`start` it before use and `stop` it after; publishing never blocks and never raises."""

    def __init__(self, broker: TicketBroker, ticket: Callable[[str], Message[Any]]) -> None:
        self._broker = broker
        self._ticket = ticket
        self._pending: Counter[str] = Counter()
        self._asked: list[tuple[str, Future[int | None]]] = []
        self._changed = threading.Condition()
        self._silent = False
        """RabbitMQ left a question unanswered, and has not said anything since."""
        self._channel: BlockingChannel | None = None
        self._refused: dict[str, float] = {}
        self._refusal_told_at = -TOLD_EVERY
        self._link = Link("ticket-publisher", broker.parameters, self._publish_on)

    def start(self) -> None:
        self._link.start()

    def stop(self) -> None:
        """Publish what is pending if the broker is there, then end. It may block for `LAST_WAIT`."""
        self._link.request_stop()
        with self._changed:
            self._changed.notify()
        self._link.join(LAST_WAIT)

    def publish(self, queue: str, count: int) -> None:
        with self._changed:
            self._pending[queue] = min(self._pending[queue] + count, MOST_PENDING)
            self._changed.notify()

    async def waiting(self, queue: str) -> int | None:
        if not await self.reachable():
            return None
        answer: Future[int | None] = Future()
        with self._changed:
            self._asked.append((queue, answer))
            self._changed.notify()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), ANSWER_TIMEOUT)
        except TimeoutError:
            # Nobody shall wait for it again: the scheduler asks for each queue, every second.
            self._silent = True
            return None

    async def reachable(self) -> bool:
        return self._link.ready.is_set() and not self._silent

    def _publish_on(self, connection: BlockingConnection) -> None:
        self._channel, self._silent = None, False
        self._link.ready.set()
        while self._pending or not self._link.stopping.is_set():
            self._tick(connection)
            self._silent = False

    def _tick(self, connection: BlockingConnection) -> None:
        with self._changed:
            came = self._changed.wait_for(
                lambda: self._pending or self._asked or self._link.stopping.is_set(), timeout=IDLE
            )
            asked, self._asked = self._asked, []
            queue = next(iter(self._pending), None)
            if queue:  # last in turn: a queue that takes long must not stand before the others
                self._pending[queue] = self._pending.pop(queue)
        if not came:
            connection.process_data_events(0)
        for about, answer in asked:
            if answer.set_running_or_notify_cancel():  # it may have waited too long already
                answer.set_result(self._count(connection, about))
        if queue:
            published = self._publish(connection, queue)
            with self._changed:
                self._pending[queue] = self._pending[queue] - 1 if published else 0
                self._pending += Counter()  # drops what is at zero

    def _publish(self, connection: BlockingConnection, queue: str) -> bool:
        """Whether there is any use in publishing more to it now."""
        if time.monotonic() < self._refused.get(queue, 0.0):
            return False
        try:
            try:
                self._deliver(connection, queue)
            except UnroutableError:
                self._broker.declare(connection, queue)  # it is new, or was deleted
                self._deliver(connection, queue)
        except (NackError, UnroutableError):
            return False  # it is full, and wakes whom it can; or it is gone again
        except ChannelClosedByBroker as refusal:
            self._note(queue, refusal)
            return False
        return True

    def _deliver(self, connection: BlockingConnection, queue: str) -> None:
        body = self._ticket(queue).encode()
        self._open_channel(connection).basic_publish("", queue, body, TRANSIENT, mandatory=True)

    def _count(self, connection: BlockingConnection, queue: str) -> int | None:
        try:
            return int(self._open_channel(connection).queue_declare(queue, passive=True).method.message_count)
        except ChannelClosedByBroker as refusal:
            return 0 if refusal.reply_code == NOT_FOUND else None  # publishing to it declares it

    def _open_channel(self, connection: BlockingConnection) -> BlockingChannel:
        if self._channel is None or not self._channel.is_open:
            self._channel = connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def _note(self, queue: str, refusal: ChannelClosedByBroker) -> None:
        now = time.monotonic()
        self._refused[queue] = now + REFUSED_FOR
        if now - self._refusal_told_at >= TOLD_EVERY:
            self._refusal_told_at = now
            log.warning("tickets refused: idle workers look for themselves", queue=queue, reason=refusal.reply_text)
