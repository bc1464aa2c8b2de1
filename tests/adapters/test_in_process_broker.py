from __future__ import annotations

import pytest
from dramatiq.errors import QueueNotFound

from actors.tickets import ticket
from adapters.memory.broker import MOST_WAITING, InProcessBroker, InProcessTickets, NoTickets
from app.bootstrap import InProcessTicketConsumer
from tests.factories import QUEUE


@pytest.fixture
def broker() -> InProcessBroker:
    broker = InProcessBroker([], InProcessTicketConsumer)
    broker.declare_queue(QUEUE)
    return broker


async def test_tickets_lie_until_they_are_consumed(broker: InProcessBroker) -> None:
    tickets = InProcessTickets(broker, ticket)
    tickets.publish(QUEUE, 2)
    assert await tickets.waiting(QUEUE) == 2
    assert await tickets.reachable()
    consumer = broker.consume(QUEUE)
    message = next(consumer)
    assert message is not None
    consumer.ack(message)

    assert await tickets.waiting(QUEUE) == 1


async def test_tickets_for_a_queue_that_nobody_declared_are_dropped(broker: InProcessBroker) -> None:
    tickets = InProcessTickets(broker, ticket)
    tickets.publish("gpu.former", 2)

    assert await tickets.waiting("gpu.former") == 0


async def test_tickets_do_not_pile_up(broker: InProcessBroker) -> None:
    tickets = InProcessTickets(broker, ticket)
    for _ in range(30):
        tickets.publish(QUEUE, 64)

    assert await tickets.waiting(QUEUE) == MOST_WAITING


def test_a_rejected_ticket_is_kept_nowhere(broker: InProcessBroker) -> None:
    InProcessTickets(broker, ticket).publish(QUEUE, 1)
    consumer = broker.consume(QUEUE)
    message = next(consumer)
    assert message is not None
    consumer.nack(message)

    assert broker.dead_letters == []
    assert broker.queues[QUEUE].unfinished_tasks == 0


def test_an_undeclared_queue_cannot_be_consumed(broker: InProcessBroker) -> None:
    with pytest.raises(QueueNotFound):
        broker.consume("gpu.former")


async def test_no_tickets_are_no_trouble() -> None:
    tickets = NoTickets()
    tickets.publish(QUEUE, 5)

    assert await tickets.waiting(QUEUE) is None
    assert await tickets.reachable()
