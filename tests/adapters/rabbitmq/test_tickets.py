from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from dramatiq import Message
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker
from structlog.testing import capture_logs

from actors.tickets import ticket
from adapters.rabbitmq.broker import TicketBroker
from adapters.rabbitmq.declare import Declarations
from adapters.rabbitmq.tickets import MOST_PENDING, RabbitTickets
from app.bootstrap import RabbitTicketConsumer
from tests.factories import QUEUE
from tests.servers.rabbitmq import Broker, free_ports
from tests.servers.tcp_proxy import TcpProxy

PATIENCE = 15.0


def broker_at(url: str) -> TicketBroker:
    return TicketBroker(url, queue_type="classic", middleware=[], consumer_class=RabbitTicketConsumer)


@contextmanager
def publishing(url: str) -> Iterator[RabbitTickets]:
    tickets = RabbitTickets(broker_at(url), ticket)
    tickets.start()
    yield tickets
    tickets.stop()
    assert not tickets._link.alive


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110  # what is waited for happens in another thread
            await asyncio.sleep(0.005)


async def connected(tickets: RabbitTickets) -> BlockingConnection:
    await until(tickets._link.ready.is_set)
    connection = tickets._link._connection
    assert connection is not None
    return connection


@contextmanager
def by_hand(url: str) -> Iterator[BlockingChannel]:
    """Somebody else on the same RabbitMQ."""
    with closing(BlockingConnection(URLParameters(url))) as connection:
        yield connection.channel()


@contextmanager
def forbidden(rabbitmq: Broker, vhost: str, configure: str = ".*") -> Iterator[None]:
    """Within this, the tests' user may write nothing."""
    path = f"/permissions/{quote(unquote(urlsplit(vhost).path[1:]), safe='')}/{urlsplit(vhost).username}"
    rabbitmq.management("PUT", path, {"configure": configure, "write": "", "read": ".*"})
    yield
    rabbitmq.management("PUT", path, {"configure": ".*", "write": ".*", "read": ".*"})


@contextmanager
def silencing(url: str) -> Iterator[tuple[str, TcpProxy]]:
    """The same RabbitMQ behind a door that can hush."""
    address = urlsplit(url)
    with TcpProxy(address.hostname or "", address.port or 0) as door:
        yield address._replace(netloc=address.netloc.replace(f":{address.port}", f":{door.port}")).geturl(), door


async def count(tickets: RabbitTickets, wanted: int | None, queue: str = QUEUE) -> None:
    async with asyncio.timeout(PATIENCE):
        while await tickets.waiting(queue) != wanted:  # noqa: ASYNC110  # RabbitMQ's to say
            await asyncio.sleep(0.005)


def lying(url: str, queue: str = QUEUE) -> int:
    connection = BlockingConnection(URLParameters(url))
    found = connection.channel().queue_declare(queue, passive=True).method.message_count
    connection.close()
    return int(found)


async def test_tickets_are_published_and_counted(vhost: str) -> None:
    with publishing(vhost) as tickets:
        await until(tickets._link.ready.is_set)
        assert await tickets.waiting(QUEUE) == 0  # a queue that is not there yet
        tickets.publish(QUEUE, 3)
        tickets.publish("gpu.stt", 1)
        await count(tickets, 3)
        await count(tickets, 1, "gpu.stt")
        assert await tickets.reachable()


async def test_stopping_publishes_what_is_pending(vhost: str) -> None:
    with publishing(vhost) as tickets:
        await until(tickets._link.ready.is_set)
        tickets.publish(QUEUE, 50)

    assert lying(vhost) == 50


async def test_a_queue_that_was_deleted_is_declared_anew(vhost: str) -> None:
    with publishing(vhost) as tickets:
        tickets.publish(QUEUE, 1)
        await until(lambda: not tickets._pending)
        connection = BlockingConnection(URLParameters(vhost))
        connection.channel().queue_delete(QUEUE)
        connection.close()
        tickets.publish(QUEUE, 2)
        await count(tickets, 2)


async def test_without_a_broker_publishing_returns_at_once_and_keeps_a_bounded_number() -> None:
    (port,) = free_ports(1)
    with publishing(f"amqp://127.0.0.1:{port}/") as tickets:
        for _ in range(30):
            tickets.publish(QUEUE, 100)
        assert tickets._pending[QUEUE] == MOST_PENDING
        assert await tickets.waiting(QUEUE) is None
        assert not await tickets.reachable()
        began = time.monotonic()
        tickets.stop()
        assert time.monotonic() - began < 2


async def test_what_is_published_while_the_broker_is_away_is_delivered_when_it_is_back(own_rabbitmq: Broker) -> None:
    with publishing(own_rabbitmq.url) as tickets:
        tickets.publish(QUEUE, 1)
        await count(tickets, 1)
        await asyncio.to_thread(own_rabbitmq.kill)
        tickets.publish(QUEUE, 2)
        await until(lambda: not tickets._link.ready.is_set())
        assert not await tickets.reachable()
        assert await tickets.waiting(QUEUE) is None
        await asyncio.to_thread(own_rabbitmq.start)
        await until(lambda: not tickets._pending)

    # A queue that was declared a moment before the kill may be forgotten with its ticket: RabbitMQ promises no more.
    assert lying(own_rabbitmq.url) >= 2


async def test_an_idle_connection_answers_short_heartbeats(vhost: str, caplog: pytest.LogCaptureFixture) -> None:
    with publishing(f"{vhost}?heartbeat=1") as tickets:
        await until(tickets._link.ready.is_set)
        first = tickets._link._connection
        await asyncio.sleep(3.5)  # three times what RabbitMQ and pika forgive
        tickets.publish(QUEUE, 1)
        await count(tickets, 1)
        assert tickets._link._connection is first


class Slow:
    """Makes tickets, and takes its time for it until it is told to go on."""

    def __init__(self) -> None:
        self.goes_on, self.makes = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def __call__(self, queue: str) -> Message[Any]:
        if self.error:
            error, self.error = self.error, None
            raise error
        self.makes.set()
        self.goes_on.wait(PATIENCE)
        return ticket(queue)


async def test_a_count_that_nobody_waits_for_any_more_does_not_end_the_publisher(
    vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.tickets.ANSWER_TIMEOUT", 0.05)
    slow = Slow()
    tickets = RabbitTickets(broker_at(vhost), slow)
    tickets.start()
    await until(tickets._link.ready.is_set)
    tickets.publish(QUEUE, 1)
    await until(slow.makes.is_set)
    assert await tickets.waiting(QUEUE) is None
    slow.goes_on.set()
    monkeypatch.setattr("adapters.rabbitmq.tickets.ANSWER_TIMEOUT", PATIENCE)
    await count(tickets, 1)
    tickets.stop()


async def test_an_error_that_nobody_foresaw_does_not_end_the_publisher(vhost: str) -> None:
    slow = Slow()
    slow.goes_on.set()
    slow.error = RuntimeError("a fault of ours")
    tickets = RabbitTickets(broker_at(vhost), slow)
    tickets.start()
    tickets.publish(QUEUE, 1)
    await until(lambda: not tickets._pending)
    await count(tickets, 1)
    tickets.stop()


@pytest.mark.parametrize(
    "arguments", [{"x-queue-type": "quorum"}, {"x-max-length": 0, "x-overflow": "reject-publish"}, {"x-max-length": 0}]
)
async def test_a_queue_that_was_declared_by_hand_is_published_to_as_it_is(
    vhost: str, arguments: dict[str, object]
) -> None:
    with by_hand(vhost) as channel, publishing(vhost) as tickets, capture_logs() as logs:
        channel.queue_declare("gpu.by-hand", durable=True, arguments=arguments)
        connection = await connected(tickets)
        tickets.publish("gpu.by-hand", 2)
        tickets.publish(QUEUE, 2)
        await count(tickets, 2 if "x-queue-type" in arguments else 0, "gpu.by-hand")
        await count(tickets, 2)
        assert tickets._link._connection is connection

    assert [line for line in logs if line["log_level"] == "warning"] == []


async def test_a_queue_that_cannot_be_published_to_does_not_stand_before_the_others(vhost: str) -> None:
    with by_hand(vhost) as channel, publishing(vhost) as tickets, capture_logs() as logs:
        connection = await connected(tickets)
        # Declared by another connection for itself alone: nobody may even ask how many lie in it.
        channel.queue_declare("locked", exclusive=True)
        assert await tickets.waiting("locked") is None
        for _ in range(5):
            tickets.publish("locked", 1)
            tickets.publish(QUEUE, 1)
        await count(tickets, 5)
        assert tickets._link._connection is connection

    assert [line for line in logs if line["log_level"] == "warning"] == []


async def test_where_rabbitmq_refuses_tickets_it_is_told_once_and_left_alone(vhost: str, rabbitmq: Broker) -> None:
    with publishing(vhost) as tickets, capture_logs() as logs:
        connection = await connected(tickets)
        with forbidden(rabbitmq, vhost):
            for _ in range(5):
                tickets.publish(QUEUE, 1)
                await until(lambda: not tickets._pending)
        assert tickets._link._connection is connection
        tickets._refused.clear()  # its time is over
        tickets.publish(QUEUE, 1)
        await count(tickets, 1)

    [warned] = [line for line in logs if line["log_level"] == "warning"]
    assert warned["event"] == "tickets refused: idle workers look for themselves"


async def test_who_asks_a_broker_that_fell_silent_waits_once_and_no_caller_is_held_up(
    vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.rabbitmq.tickets.ANSWER_TIMEOUT", 0.1)
    with silencing(vhost) as (url, door), publishing(url) as tickets:
        former = await connected(tickets)
        tickets.publish(QUEUE, 1)
        await count(tickets, 1)
        door.hush()
        began = time.monotonic()
        for _ in range(1_000):
            tickets.publish(QUEUE, 1)
            assert await tickets.waiting(QUEUE) is None
        assert time.monotonic() - began < 2
        assert not await tickets.reachable()
        monkeypatch.setattr("adapters.rabbitmq.tickets.ANSWER_TIMEOUT", PATIENCE)
        door.shut()  # as its heartbeats would find out by themselves, some seconds later
        door.open()
        await until(lambda: tickets._link._connection not in (None, former))
        await until(lambda: not tickets._pending)
        assert await tickets.reachable()


async def test_stopping_does_not_wait_for_a_broker_that_hangs(vhost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.rabbitmq.tickets.LAST_WAIT", 0.1)
    slow = Slow()
    tickets = RabbitTickets(broker_at(vhost), slow)
    tickets.start()
    tickets.publish(QUEUE, 1)
    await until(slow.makes.is_set)
    tickets.stop()
    assert tickets._link.alive
    slow.goes_on.set()
    await until(lambda: not tickets._link.alive)


async def test_a_ticket_says_what_it_is_to_whoever_finds_it(vhost: str):
    with publishing(vhost) as tickets:
        tickets.publish(QUEUE, 1)
        await count(tickets, 1)
        with by_hand(vhost) as channel:
            _, properties, _ = channel.basic_get(QUEUE, auto_ack=True)
    assert (properties.type, properties.app_id, properties.content_type) == ("ticket", "ai-service", "application/json")


async def test_of_a_queue_that_may_not_be_declared_rabbitmqs_refusal_is_told(rabbitmq: Broker, vhost: str) -> None:
    def declare(channel: BlockingChannel, passive: bool) -> None:
        channel.queue_declare("of.mine", passive=passive)

    with (
        forbidden(rabbitmq, vhost, configure=""),
        closing(BlockingConnection(URLParameters(vhost))) as connection,
        pytest.raises(ChannelClosedByBroker, match=r"ACCESS_REFUSED - .*queue 'of\.mine'"),
    ):
        Declarations().make(connection, "of.mine", declare)
