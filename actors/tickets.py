"""Tickets: "there may be work on this queue". They carry a queue, never a job's fate.

Broker tickets come from the queue and are acknowledged on the consumer that they came from, or not at all: after a
reconnect Dramatiq would acknowledge another one, since delivery tags start again at 1. Local tickets carry a job that
this process has claimed already into its own worker threads, so that every job passes the same hooks without another
round to the broker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dramatiq import Message, MessageProxy
from dramatiq.broker import Consumer
from dramatiq.errors import BrokerConnectionError

if TYPE_CHECKING:
    from actors.desk import Assignment, Desk

TICKET = "ticket"
"""The actor that every broker ticket names. It is never called: the lease rebinds the message to a job's actor."""


def ticket(queue: str) -> Message[Any]:
    """A ticket for a queue, ready to be enqueued."""
    return Message(queue_name=queue, actor_name=TICKET, args=(), kwargs={}, options={})


class LocalTicket(MessageProxy):
    """A claimed job on its way into this process's worker threads. The broker knows nothing of it."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(bound(assignment))
        self.assignment = assignment


def bound(assignment: Assignment) -> Message[Any]:
    """The message that calls the actor of the job's task type.

    It never leaves the process, so it may hold an object.
    """
    job = assignment.job
    return Message(
        queue_name=assignment.desk.queue,
        actor_name=job.task_type,
        args=(assignment,),
        kwargs={},
        options={},
        message_id=str(job.id),
        message_timestamp=0,
    )


class TicketConsumer(Consumer):
    """Mixed into a broker's own consumer class by the composition root."""

    def __next__(self) -> MessageProxy | None:
        message = super().__next__()
        if message is not None:
            # Whatever lies in the queue is a ticket: anybody may put something there.
            message._message = ticket(message.queue_name)
            message.__dict__.update(consumer=self, arrived=time.monotonic())
        return message

    def ack(self, message: MessageProxy) -> None:
        if isinstance(message, LocalTicket) or _parked(message):
            return
        if message.consumer is self:
            # Not to be tried again for five seconds on the slot's thread: without its connection a ticket goes back.
            with suppress(BrokerConnectionError):
                super().ack(message)

    def nack(self, message: MessageProxy) -> None:
        if not isinstance(message, LocalTicket) and message.consumer is self:
            with suppress(BrokerConnectionError):
                super().nack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """At shutdown: jobs that no thread took up are handed back, and broker tickets return to the broker."""
        broker_tickets = []
        for message in messages:
            if isinstance(message, LocalTicket):
                message.assignment.hand_back()
            else:
                broker_tickets.append(message)
        super().requeue(broker_tickets)


class NotConnected(TicketConsumer):
    """Stands in while the broker has not been reached yet: local tickets need no broker to be acknowledged."""

    def close(self) -> None:
        pass


def park(message: MessageProxy, desk: Desk) -> None:
    """Leave a ticket unacknowledged until its queue has a free slot here.

    It takes effect when the ticket's thread lets go of it.
    """
    message.parked_at = desk  # type: ignore[attr-defined]


def _parked(message: MessageProxy) -> bool:
    desk: Desk | None = message.__dict__.pop("parked_at", None)
    if desk is not None:
        desk.keep(message)
    return desk is not None
