"""Dramatiq's in-memory broker for a service that runs in one process. Nothing is lost with it: jobs are rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Queue
from typing import Any

from dramatiq import Consumer, Message, Middleware
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import QueueNotFound

MOST_WAITING = 1_000
"""Tickets that lie in a queue at most; more would wake nobody."""


class InProcessBroker(StubBroker):
    """Without the delay queues that Dramatiq declares beside each queue, and without dead letters that nobody frees."""

    def __init__(self, middleware: Sequence[Middleware], consumer_class: Callable[..., Consumer]) -> None:
        """
        Args:
            consumer_class: Dramatiq's consumer with the tickets' own acknowledging mixed in.
        """
        super().__init__(list(middleware))
        self._consumer_class = consumer_class

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = Queue()
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 100) -> Consumer:
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]  # Dramatiq's
        return self._consumer_class(self.queues[queue_name], [], prefetch, timeout)


class InProcessTickets:
    def __init__(self, broker: InProcessBroker, ticket: Callable[[str], Message[Any]]) -> None:
        self._broker = broker
        self._ticket = ticket

    def publish(self, queue: str, count: int) -> None:
        if queue not in self._broker.queues:
            return  # of an older configuration: nobody here serves it
        for _ in range(min(count, MOST_WAITING - self._lying(queue))):
            self._broker.enqueue(self._ticket(queue))

    async def waiting(self, queue: str) -> int | None:
        return self._lying(queue)

    def _lying(self, queue: str) -> int:
        tickets: Queue[bytes] | None = self._broker.queues.get(queue)
        return tickets.qsize() if tickets else 0

    async def reachable(self) -> bool:
        return True


class NoTickets:
    """No broker is configured: workers look for themselves."""

    def publish(self, queue: str, count: int) -> None:
        pass

    async def waiting(self, queue: str) -> int | None:
        return None

    async def reachable(self) -> bool:
        return True


class NoFigures:
    """There is no broker, or nobody to ask about it."""

    async def look(self) -> None:
        return None
