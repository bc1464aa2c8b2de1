from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from dramatiq.brokers.rabbitmq import _RabbitmqConsumer

from actors.tickets import TICKET, ticket
from adapters.rabbitmq.broker import QueueType, TicketBroker
from adapters.rabbitmq.connection import BLOCKED_TIMEOUT, trouble
from app.bootstrap import RabbitTicketConsumer
from tests.factories import QUEUE
from tests.servers.rabbitmq import Broker, free_ports


@contextmanager
def open_broker(url: str, queue_type: QueueType = "classic") -> Iterator[TicketBroker]:
    broker = TicketBroker(url, queue_type=queue_type, middleware=[], consumer_class=RabbitTicketConsumer)
    with closing(broker):
        yield broker


def queues(rabbitmq: Broker, vhost: str) -> list[dict[str, Any]]:
    name = unquote(urlsplit(vhost).path[1:])
    found: list[dict[str, Any]] = rabbitmq.management("GET", f"/queues/{quote(name, safe='')}")
    return found


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_queue_has_nothing_beside_it(queue_type: QueueType, vhost: str, rabbitmq: Broker) -> None:
    with open_broker(vhost, queue_type) as broker:
        broker.enqueue(ticket(QUEUE))
        consumer = broker.consume(QUEUE)
        consumer.close()

    (queue,) = queues(rabbitmq, vhost)
    assert (queue["name"], queue["type"], queue["durable"]) == (QUEUE, queue_type, True)
    assert queue["arguments"] == {"x-queue-type": queue_type}
    assert broker.get_declared_delay_queues() == set()


def test_tickets_are_consumed_through_the_class_that_was_given(vhost: str) -> None:
    with open_broker(vhost) as broker:
        broker.enqueue(ticket(QUEUE))
        consumer = broker.consume(QUEUE)
        message = next(consumer)

        assert isinstance(consumer, RabbitTicketConsumer)
        assert isinstance(consumer, _RabbitmqConsumer)
        assert message is not None
        assert (message.actor_name, message.queue_name, message.consumer) == (TICKET, QUEUE, consumer)
        assert message.redelivered is False
        consumer.ack(message)
        consumer.close()  # type: ignore[no-untyped-call]  # Dramatiq's


def test_an_unacknowledged_ticket_comes_back(vhost: str) -> None:
    with open_broker(vhost) as broker:
        broker.enqueue(ticket(QUEUE))
        first = broker.consume(QUEUE)
        assert next(first) is not None
        first.close()
        second = broker.consume(QUEUE)
        message = next(second)

        assert message is not None
        assert message.redelivered is True
        second.close()


def test_a_ticket_of_a_former_connection_is_not_acknowledged_on_the_present_one(vhost: str) -> None:
    with open_broker(vhost) as broker:
        broker.enqueue(ticket(QUEUE))
        former = broker.consume(QUEUE)
        old = next(former)
        former.close()
        present = broker.consume(QUEUE)
        new = next(present)
        assert old is not None
        assert new is not None
        assert old._tag == new._tag  # why Dramatiq would acknowledge the wrong one
        present.ack(old)
        present.close()

        assert broker.channel.queue_declare(QUEUE, passive=True).method.message_count == 1


def test_consuming_leaves_no_connection_behind_that_answers_no_heartbeats(vhost: str) -> None:
    with open_broker(vhost) as broker:
        consumer = broker.consume(QUEUE)

        assert not broker.connections
        consumer.close()


def test_a_blocked_publisher_does_not_wait_for_ever() -> None:
    with open_broker("amqp://127.0.0.1/;amqp://127.0.0.2/?blocked_connection_timeout=7") as broker:
        assert [each.blocked_connection_timeout for each in broker.parameters] == [BLOCKED_TIMEOUT, 7]


def test_trouble_is_named_by_its_kind_and_tells_no_secret(vhost: str) -> None:
    (port,) = free_ports(1)
    wrong = urlsplit(vhost)._replace(netloc=f"guest:sesame@{urlsplit(vhost).netloc.rpartition('@')[2]}").geturl()

    assert trouble(vhost) is None
    assert trouble(f"amqp://127.0.0.1:{port}/;{vhost}") is None
    for url in (f"amqp://guest:sesame@127.0.0.1:{port}/", wrong):
        found = trouble(url)
        assert found
        assert "sesame" not in found
