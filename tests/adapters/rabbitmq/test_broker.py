from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from dramatiq import Message
from dramatiq.brokers.rabbitmq import _RabbitmqConsumer
from dramatiq.errors import ConnectionClosed
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from structlog.testing import capture_logs

from actors.tickets import TICKET, ticket
from adapters.rabbitmq.broker import QueueType, TicketBroker
from adapters.rabbitmq.connection import BLOCKED_TIMEOUT, HEARTBEAT, TCP_OPTIONS, connection_parameters, trouble
from app.bootstrap import RabbitTicketConsumer
from domain.errors import StartupError
from tests.factories import QUEUE
from tests.servers.rabbitmq import Broker, free_ports
from tests.servers.tcp_proxy import TcpProxy


@contextmanager
def by_hand(url: str) -> Iterator[BlockingChannel]:
    """Somebody else on the same RabbitMQ."""
    with closing(BlockingConnection(URLParameters(url))) as connection:
        yield connection.channel()


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
        consumer.close()


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


OTHERWISE: list[dict[str, Any]] = [
    {"durable": True, "arguments": {"x-queue-type": "quorum"}},
    {"durable": True, "arguments": {"x-max-length": 1}},
    {"durable": True, "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}},
    {"durable": True, "arguments": {"x-max-priority": 5}},
    {"durable": True, "arguments": {"x-message-ttl": 60_000}},
    {"durable": False},
    {"durable": True, "auto_delete": True},
]


@pytest.mark.parametrize("declared", OTHERWISE, ids=str)
def test_a_queue_that_was_declared_by_hand_is_used_as_it_is_and_warned_of_once(
    vhost: str, rabbitmq: Broker, declared: dict[str, Any]
) -> None:
    with by_hand(vhost) as channel, open_broker(vhost) as broker, capture_logs() as logs:
        channel.queue_declare(QUEUE, **declared)
        before = queues(rabbitmq, vhost)[0]["arguments"]
        consumers = [broker.consume(QUEUE, timeout=100), broker.consume(QUEUE, timeout=100)]
        broker.enqueue(ticket(QUEUE))
        assert [message for consumer in consumers if (message := next(consumer))]
        assert queues(rabbitmq, vhost)[0]["arguments"] == before
        for consumer in consumers:
            consumer.close()
    [warned] = [line for line in logs if line["log_level"] == "warning"]
    assert (warned["event"], warned["name"]) == ("declared otherwise: used as it is", QUEUE)
    assert "inequivalent arg" in warned["reason"]
    assert "RABBITMQ_QUEUE_TYPE" in warned["hint"]


def test_a_queue_of_the_configured_type_is_nothing_to_warn_of_whoever_declared_it(vhost: str) -> None:
    with by_hand(vhost) as channel, open_broker(vhost) as broker, capture_logs() as logs:
        channel.queue_declare(QUEUE, durable=True)
        consumer = broker.consume(QUEUE)
        consumer.close()

    assert [line for line in logs if line["log_level"] == "warning"] == []


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", b"[]", Message("gpu.other", "ticket", (), {}, {}).encode()])
def test_whatever_lies_in_the_queue_is_a_ticket_of_it(vhost: str, body: bytes) -> None:
    with by_hand(vhost) as channel, open_broker(vhost) as broker:
        consumer = broker.consume(QUEUE)
        channel.basic_publish("", QUEUE, body)
        message = next(consumer)

        assert message is not None
        assert (message.actor_name, message.queue_name) == (TICKET, QUEUE)
        consumer.close()


def test_a_queue_that_is_deleted_ends_its_consumer_and_the_next_one_declares_it(vhost: str) -> None:
    with by_hand(vhost) as channel, open_broker(vhost) as broker:
        consumer = broker.consume(QUEUE, timeout=100)
        assert next(consumer) is None
        channel.queue_delete(QUEUE)
        assert set(consumer) <= {None}
        consumer.close()
        following = broker.consume(QUEUE)
        broker.enqueue(ticket(QUEUE))
        assert next(following) is not None
        following.close()


def test_a_broker_that_is_away_is_told_of_once_however_often_it_is_tried() -> None:
    (port,) = free_ports(1)
    for url in (f"amqp://127.0.0.1:{port}/", "amqp://nobody.invalid/"):
        with open_broker(url) as broker, capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(ConnectionClosed):
                    broker.consume(QUEUE)

        assert [line["event"] for line in logs] == ["broker is away"]


def test_what_the_url_does_not_say_is_chosen_so_that_a_dead_connection_is_found_out() -> None:
    chosen, given = connection_parameters("amqp://a/;amqp://b/?heartbeat=60&tcp_options={'TCP_KEEPIDLE':60}")

    assert (chosen.heartbeat, chosen.tcp_options) == (HEARTBEAT, TCP_OPTIONS)
    assert (given.heartbeat, given.tcp_options) == (60, {"TCP_KEEPIDLE": 60})


@pytest.mark.parametrize("options", ["heartbeat=often", "nonsense=1", "tcp_options=1", "tcp_options={"])
def test_a_url_with_options_that_cannot_be_used_stops_the_start_with_one_line(options: str) -> None:
    with pytest.raises(StartupError, match="AMQP_URL: ") as error:
        connection_parameters(f"amqp://guest:sesame@127.0.0.1/?{options}")

    assert "sesame" not in str(error.value)


def test_closing_does_not_wait_for_a_broker_that_fell_silent(vhost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.rabbitmq.consumer.CLOSED_WITHIN", 0.2)
    address = urlsplit(vhost)
    with TcpProxy(address.hostname or "", address.port or 0) as door:
        through = address._replace(netloc=address.netloc.replace(str(address.port), str(door.port)))
        with open_broker(through.geturl()) as broker:
            consumer = broker.consume(QUEUE, timeout=100)
            assert next(consumer) is None
            door.hush()
            began = time.monotonic()
            consumer.close()
            assert time.monotonic() - began < 2
