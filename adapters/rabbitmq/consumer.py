"""Dramatiq's consumer, made to survive whatever happens to RabbitMQ and whatever lies in its queue."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from dramatiq import Message, MessageProxy
from dramatiq.brokers.rabbitmq import _RabbitmqConsumer, _RabbitmqMessage
from dramatiq.errors import ConnectionClosed
from dramatiq.logging import get_logger
from pika import BlockingConnection

from adapters.rabbitmq.connection import AWAY, label, named

if TYPE_CHECKING:
    from adapters.rabbitmq.broker import TicketBroker

CLOSED_WITHIN = 2.0
"""Seconds that closing waits for a RabbitMQ that does not answer; the thread that waits on goes with its heartbeats."""


class RabbitConsumer(_RabbitmqConsumer):
    """Its queue is declared, or used as it is, whenever it connects: it may have been deleted meanwhile.

    Bodies are not read. Whatever lies in the queue says "there may be work", and one that cannot be decoded, or that
    names another queue, would end a thread of Dramatiq's.
    """

    broker: TicketBroker

    def __init__(self, broker: TicketBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        """
        Raises:
            ConnectionClosed: RabbitMQ is away, or does not let us.
        """
        self.broker, self.queue_name, self.known_tags = broker, queue_name, set()
        self.logger = get_logger(__name__, type(self))  # type: ignore[no-untyped-call]  # Dramatiq's
        self.tidings = broker.tidings(queue_name)
        try:
            # As Dramatiq's own does it, but so that operators know connection and consumer by their names.
            self.connection = BlockingConnection(named(broker.parameters, f"tickets of {queue_name}"))
            self.channel = self.connection.channel()
            self.channel.basic_qos(prefetch_count=prefetch)
            self.iterator = self.channel.consume(
                queue_name, inactivity_timeout=timeout / 1000, consumer_tag=label(broker.parameters)
            )
            # Before it consumes, which it begins with its first message.
            broker.declare(self.connection, queue_name)
        except AWAY as error:
            self.tidings.lost(error)
            if "connection" in self.__dict__:
                self.close()
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # Dramatiq's

    def __next__(self) -> MessageProxy | None:
        """
        Raises:
            ConnectionClosed: the connection is lost.
            StopIteration: the queue was deleted.
        """
        try:
            method, _, _ = next(self.iterator)
        except (AssertionError, *AWAY) as error:
            self.tidings.lost(error)
            raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]  # Dramatiq's
        self.tidings.connected()
        if method is None:
            return None
        self.known_tags.add(method.delivery_tag)
        return _RabbitmqMessage(method.redelivered, method.delivery_tag, self._ticket())  # type: ignore[no-untyped-call]

    def _ticket(self) -> Message[None]:
        return Message(queue_name=self.queue_name, actor_name="", args=(), kwargs={}, options={})

    def close(self) -> None:
        """Send what was acknowledged and end, in bounded time: nobody knows yet of a connection that fell silent."""
        closing = threading.Thread(target=self._close, name="ticket-consumer-close", daemon=True)
        closing.start()
        closing.join(CLOSED_WITHIN)

    def _close(self) -> None:
        acknowledged = threading.Event()
        with suppress(AssertionError, *AWAY):
            # Callbacks are called in order: after this one, all acknowledgements are on their way.
            self.connection.add_callback_threadsafe(acknowledged.set)
            while not acknowledged.is_set():
                self.connection.sleep(0)
            self.connection.close()
