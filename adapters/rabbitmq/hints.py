"""Hints to other processes through an exchange: without confirms, and those that cannot be sent are dropped.

Nothing may rest on one of them alone: whoever waits for something looks for himself now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

import structlog
from msgspec import Struct
from pika import BasicProperties, BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.delivery_mode import DeliveryMode

from adapters.rabbitmq.connection import label
from adapters.rabbitmq.declare import Declarations
from adapters.rabbitmq.link import Link

T = TypeVar("T")

log = structlog.get_logger()

TOLD_EVERY = 60.0
"""Seconds between two words about what was dropped."""

IDLE = 0.5
"""Seconds after which an idle connection answers RabbitMQ's heartbeats: in time for heartbeats of two seconds."""

LAST_WAIT = 1.0
"""Seconds that `stop` waits for a broker that takes its time: no hint is worth more."""

BOUND_ANEW = 10.0
"""Seconds after which a listener binds its queue again, in case somebody deleted the exchange."""

QUEUE_LIMITS = {"x-max-length": 10_000, "x-max-length-bytes": 64 << 20, "x-overflow": "drop-head"}
"""What a process that hears too slowly may pile up in the broker; then the oldest go."""

APP = "ai-service"
"""Who published a message, as its properties tell whoever finds it."""


class Exchange(Struct, frozen=True):
    name: str
    kind: str

    def declare(self, channel: BlockingChannel, passive: bool) -> None:
        channel.exchange_declare(self.name, self.kind, durable=True, passive=passive)


class Outbox(Protocol[T]):
    """What waits to be sent; bounded, because the broker may be away. Its publisher uses it under a lock."""

    def add(self, hints: Sequence[T]) -> int:
        """Keep these. Returns how many were dropped."""

    def take(self) -> Sequence[T]:
        """All that is kept, which is then kept no more."""

    def __len__(self) -> int: ...


class Publisher(Generic[T]):
    """Sends what it is handed, as few messages as can be: each costs 50 µs."""

    def __init__(
        self,
        what: str,
        parameters: Sequence[URLParameters],
        declarations: Declarations,
        exchange: Exchange,
        *,
        outbox: Outbox[T],
        messages: Callable[[Sequence[T]], Iterable[tuple[str, bytes]]],
        pause: Callable[[int], float],
    ) -> None:
        """
        Args:
            what: it sends, one of them, as the log names it.
            messages: the routing key and body of each message that carries them.
            pause: seconds after a round of messages that carried so many: what comes meanwhile goes along.
        """
        self._what = what
        self._properties = BasicProperties(
            content_type="application/json", delivery_mode=DeliveryMode.Transient, type=what, app_id=APP
        )
        self._declarations = declarations
        self._exchange = exchange
        self._pending = outbox
        self._messages = messages
        self._pause = pause
        self.link = Link(f"{what}-publisher", parameters, self._publish_on)
        self._changed = threading.Condition()
        self._dropped = 0
        self._told_at = -TOLD_EVERY

    def publish(self, hints: Sequence[T]) -> None:
        if not hints:
            return
        with self._changed:
            dropped = self._pending.add(hints)
            self._changed.notify()
        if dropped:
            self._drop(dropped)

    def request_stop(self) -> None:
        self.link.request_stop()
        with self._changed:
            self._changed.notify()

    def _drop(self, count: int) -> None:
        with self._changed:
            self._dropped += count
            dropped, now = self._dropped, time.monotonic()
            if now - self._told_at < TOLD_EVERY:
                return
            self._dropped, self._told_at = 0, now
        log.warning(f"{self._what}s dropped", count=dropped, pending=len(self._pending))

    def _publish_on(self, connection: BlockingConnection) -> None:
        self._declarations.make(connection, self._exchange.name, self._exchange.declare)
        channel = connection.channel()
        self.link.ready.set()
        # Its channel is closed when somebody deleted the exchange.
        while channel.is_open and (len(self._pending) or not self.link.stopping.is_set()):
            # What the connection breaks over is lost, not sent again and again.
            taken = self._take()
            for key, body in self._messages(taken):
                channel.basic_publish(self._exchange.name, key, body, self._properties)
            connection.process_data_events(0)
            self.link.stopping.wait(self._pause(len(taken)))

    def _take(self) -> Sequence[T]:
        """All that is pending, or nothing after a while in which nothing came."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._pending) or self.link.stopping.is_set(), timeout=IDLE)
            return self._pending.take()


class Subscriber:
    """Hears what comes, through a queue that is gone with its connection."""

    def __init__(
        self,
        what: str,
        parameters: Sequence[URLParameters],
        declarations: Declarations,
        exchange: Exchange,
        *,
        patterns: Sequence[str],
        hear: Callable[[bytes], None],
    ) -> None:
        """
        Args:
            patterns: that its queue is bound by.
            hear: is given the body of each message.
        """
        self._declarations = declarations
        self._exchange = exchange
        self._patterns = patterns
        self._hear = hear
        self._label = label(parameters)
        self.link = Link(f"{what}-listener", parameters, self._listen_on)

    def _listen_on(self, connection: BlockingConnection) -> None:
        channel = connection.channel()
        # Named anew each time: the broker may not have noticed yet that the former connection is gone.
        queue = f"{self._exchange.name}.{self._label}.{uuid4().hex[:4]}"
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=QUEUE_LIMITS)
        self._declarations.make(connection, self._exchange.name, self._exchange.declare)
        bound = self._bind(channel, queue)
        channel.basic_consume(
            queue, lambda *delivery: self._hear(delivery[-1]), auto_ack=True, consumer_tag=self._label
        )
        self.link.ready.set()
        # Without a consumer its queue was deleted.
        while not self.link.stopping.is_set() and channel.consumer_tags:
            connection.process_data_events(IDLE)
            if time.monotonic() - bound > BOUND_ANEW:
                self._declarations.keep(connection, self._exchange.name, self._exchange.declare)
                bound = self._bind(channel, queue)

    def _bind(self, channel: BlockingChannel, queue: str) -> float:
        for pattern in self._patterns:
            channel.queue_bind(queue, self._exchange.name, pattern)
        return time.monotonic()
