from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from structlog.testing import capture_logs

from adapters.rabbitmq import hints
from adapters.rabbitmq.connection import connection_parameters
from adapters.rabbitmq.events import (
    EXCHANGE,
    MOST_PENDING,
    MOST_PER_MESSAGE,
    RabbitEvents,
    messages,
    patterns,
    routing_key,
)
from adapters.rabbitmq.hints import QUEUE_LIMITS
from adapters.rabbitmq.link import Link
from domain.events import JobEvent
from tests.factories import job_event
from tests.servers.rabbitmq import Broker, free_ports
from tests.servers.tcp_proxy import TcpProxy

PATIENCE = 15.0


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []

    def __call__(self, events: Sequence[JobEvent]) -> None:
        self.events.extend(events)


@contextmanager
def opened(url: str, *listeners: Callable[[Sequence[JobEvent]], None]) -> Iterator[RabbitEvents]:
    """A bus with listeners, stopped at the end; it leaves no thread behind."""
    events = RabbitEvents(connection_parameters(url))
    for listener in listeners:
        events.listen(listener)
    events.start()
    try:
        yield events
    finally:
        events.stop()
    assert not [link for link in links(events) if link.alive]


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110  # what is waited for happens in another thread
            await asyncio.sleep(0.005)


def links(events: RabbitEvents) -> list[Link]:
    return [part.link for part in (events._publisher, events._subscriber) if part]


async def ready(*buses: RabbitEvents) -> None:
    await until(lambda: all(link.ready.is_set() for bus in buses for link in links(bus)))


async def one_is_heard(events: RabbitEvents, heard: Heard) -> None:
    """Of those that are published from now on; the first ones may be lost."""
    before = len(heard.events)
    async with asyncio.timeout(PATIENCE):
        while len(heard.events) == before:
            events.publish([job_event()])
            await asyncio.sleep(0.02)


@contextmanager
def bound(url: str, pattern: str) -> Iterator[Callable[[], tuple[str, dict[str, Any]] | None]]:
    """A queue as a domain service binds it; yields what takes the next message, as routing key and body."""
    connection = BlockingConnection(URLParameters(url))
    channel: BlockingChannel = connection.channel()
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, EXCHANGE, pattern)

    def taken() -> tuple[str, dict[str, Any]] | None:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        return (method.routing_key, json.loads(body)) if method else None

    yield taken
    connection.close()


def management(rabbitmq: Broker, vhost: str, what: str) -> Any:
    return rabbitmq.management("GET", f"/{what}/{named(vhost)}")


def named(vhost: str) -> str:
    return quote(unquote(urlsplit(vhost).path[1:]), safe="")


async def test_what_one_process_publishes_every_listening_one_hears(vhost: str) -> None:
    first, second = Heard(), Heard()
    with opened(vhost, first) as one, opened(vhost, second) as other, opened(vhost) as worker:
        await ready(one, other, worker)
        told = [job_event(kind="completed", number=3), job_event(queue=None, owner_service="me/и")]
        worker.publish(told)
        await until(lambda: len(first.events) == len(second.events) == 2)

    assert first.events == second.events == told


async def test_a_service_that_binds_a_queue_gets_what_it_asked_for_and_nothing_else(vhost: str) -> None:
    wanted = job_event(owner_service="telephony", task_type="call/analysis", kind="completed", number=3)
    with bound(vhost, "telephony.*.completed") as taken, opened(vhost) as events:
        await ready(events)
        events.publish(
            [
                job_event(owner_service="telephony", kind="failed"),
                job_event(owner_service="tele.phony", kind="completed"),
                wanted,
            ]
        )
        events.stop()
        message, more = taken(), taken()

    assert more is None
    assert message == (
        "telephony.call_analysis.completed",
        {
            "events": [
                {
                    "job_id": str(wanted.job_id),
                    "owner_service": "telephony",
                    "task_type": "call/analysis",
                    "queue": "gpu.llm",
                    "kind": "completed",
                    "number": 3,
                }
            ]
        },
    )


async def test_who_asked_for_some_kinds_gets_them_and_the_flood_of_all_others_stays_in_the_broker(
    vhost: str, rabbitmq: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, wanted = Heard(), [job_event(kind="cancelled"), job_event(kind="revoked", owner_service="me.too")]
    events = RabbitEvents(connection_parameters(vhost))
    events.listen(heard, {"cancelled", "revoked"})
    events.start()
    with opened(vhost) as worker:
        await ready(events, worker)
        assert events._subscriber
        arrived: list[bytes] = []
        hear = events._subscriber._hear

        def listens(body: bytes) -> None:
            arrived.append(body)
            hear(body)

        monkeypatch.setattr(events._subscriber, "_hear", listens)
        bindings = management(rabbitmq, vhost, "bindings")
        for kind in ("pending", "running", "progress", "completed"):
            worker.publish([job_event(kind=kind) for _ in range(2_000)])
        worker.publish(wanted)
        await until(lambda: len(heard.events) == 2)
    events.stop()

    assert sorted(each["routing_key"] for each in bindings if each["source"] == EXCHANGE) == [
        "*.*.cancelled",
        "*.*.revoked",
    ]
    assert sorted(heard.events, key=lambda event: event.kind) == wanted
    assert len(arrived) == 2


async def test_each_listener_of_a_process_hears_what_it_asked_for(vhost: str) -> None:
    everything, some = Heard(), Heard()
    events = RabbitEvents(connection_parameters(vhost))
    events.listen(everything)
    events.listen(some, {"cancelled"})
    events.start()
    await ready(events)
    told = [job_event(kind="completed"), job_event(kind="cancelled")]
    events.publish(told)
    await until(lambda: len(everything.events) == 2)
    events.stop()

    assert some.events == told[1:]


def test_a_queue_is_bound_to_what_its_listeners_asked_for_together() -> None:
    assert patterns([{"revoked"}, {"cancelled", "revoked"}]) == ["*.*.cancelled", "*.*.revoked"]
    assert patterns([{"revoked"}, None]) == ["#"]


async def test_what_is_handed_over_at_once_needs_a_message_per_routing_key(vhost: str) -> None:
    claimed = [job_event(kind="running", number=2) for _ in range(64)]
    ended = [job_event(kind="completed", number=3) for _ in range(64)]
    with bound(vhost, "#") as taken, opened(vhost) as events:
        await ready(events)
        events.publish([event for pair in zip(claimed, ended, strict=True) for event in pair])
        events.stop()
        found = {}
        while message := taken():
            assert message[0] not in found
            found[message[0]] = [event["job_id"] for event in message[1]["events"]]

    assert found == {
        "beeline.llm_chat.running": [str(event.job_id) for event in claimed],
        "beeline.llm_chat.completed": [str(event.job_id) for event in ended],
    }


def test_a_message_holds_a_bounded_number_of_events() -> None:
    sizes = [len(json.loads(body)["events"]) for _, body in messages([job_event()] * (2 * MOST_PER_MESSAGE + 1))]

    assert sizes == [MOST_PER_MESSAGE, MOST_PER_MESSAGE, 1]


@pytest.mark.parametrize(
    ("owner", "task_type", "key"),
    [
        ("beeline", "llm_chat", "beeline.llm_chat.pending"),
        ("a.b/c", "d.*.#", "a_b_c.d____.pending"),
        ("a b\tc", "v1:x@y+z-9", "a_b_c.v1:x@y+z-9.pending"),
        ("", "и", "._.pending"),
        ("o" * 300, "т" * 300, f"{'o' * 100}.{'_' * 100}.pending"),
    ],
)
def test_a_routing_key_is_three_words_that_a_topic_does_not_read_as_more(owner: str, task_type: str, key: str) -> None:
    assert routing_key(owner, task_type, "pending") == key
    assert len(key.encode()) <= 255


async def test_without_listeners_nothing_is_declared_but_the_exchange(vhost: str, rabbitmq: Broker) -> None:
    with opened(vhost) as events:
        await ready(events)

        assert management(rabbitmq, vhost, "queues") == []
        [exchange] = [each for each in management(rabbitmq, vhost, "exchanges") if each["name"] == EXCHANGE]
        assert (exchange["type"], exchange["durable"], exchange["auto_delete"]) == ("topic", True, False)


async def test_the_queue_of_a_listener_is_bounded_and_goes_with_it(vhost: str, rabbitmq: Broker) -> None:
    with opened(vhost, Heard()) as events:
        await ready(events)
        [queue] = management(rabbitmq, vhost, "queues")

    assert queue["name"].startswith(f"{EXCHANGE}.")
    assert queue["exclusive"]
    assert queue["auto_delete"]
    assert queue["arguments"] == QUEUE_LIMITS
    await until(lambda: management(rabbitmq, vhost, "queues") == [])


async def test_stopping_publishes_what_is_pending(vhost: str) -> None:
    heard = Heard()
    with opened(vhost, heard) as listening:
        await ready(listening)
        with opened(vhost) as events:
            await ready(events)
            events.publish([job_event() for _ in range(5_000)])
        await until(lambda: len(heard.events) == 5_000)


async def test_what_nobody_understands_is_skipped(vhost: str) -> None:
    heard, last = Heard(), job_event()
    with opened(vhost, heard) as events:
        await ready(events)
        connection = BlockingConnection(URLParameters(vhost))
        channel = connection.channel()
        for body in (b"", b"{", b"[]", b'{"events": [{}]}', b'{"events": 1}', b'{"events": ["\xff"]}', b"[" * 100_000):
            channel.basic_publish(EXCHANGE, "anything", body)
        channel.basic_publish(EXCHANGE, "anything", next(messages([last]))[1])
        connection.close()
        await until(lambda: heard.events)

    assert heard.events == [last]


async def test_a_listener_that_raises_keeps_nobody_from_hearing(vhost: str) -> None:
    def raises(events: Sequence[JobEvent]) -> None:
        raise RuntimeError("a fault of ours")

    heard = Heard()
    with capture_logs() as logs, opened(vhost, raises, heard) as events:
        await ready(events)
        await one_is_heard(events, heard)
        await one_is_heard(events, heard)

    assert "listener failed" in {line["event"] for line in logs}


async def test_without_a_broker_publishing_returns_at_once_and_keeps_a_bounded_number() -> None:
    (port,) = free_ports(1)
    with capture_logs() as logs, opened(f"amqp://127.0.0.1:{port}/", Heard()) as events:
        batch = [job_event()] * 1_000
        began = time.monotonic()
        for _ in range(MOST_PENDING // 1_000 + 2):
            events.publish(batch)
        events.publish([job_event()] * 2)
        assert time.monotonic() - began < 2
        assert len(events._publisher._pending) == MOST_PENDING
        events.stop()
        assert time.monotonic() - began < 5

    dropped = [line for line in logs if line["event"] == "events dropped"]
    assert [line["count"] for line in dropped] == [1_000]  # the rest is told a minute later
    assert events._publisher._dropped == 1_002


async def test_events_published_before_the_broker_was_there_are_delivered_when_it_is(vhost: str) -> None:
    address = urlsplit(vhost)
    with TcpProxy("127.0.0.1", address.port or 0) as door:
        door.shut()
        heard = Heard()
        netloc = f"{address.username}:{address.password}@127.0.0.1:{door.port}"
        with opened(vhost, heard) as listening, opened(address._replace(netloc=netloc).geturl()) as events:
            await ready(listening)
            events.publish([job_event()])
            door.open()
            await until(lambda: heard.events)


async def test_a_broker_that_is_killed_is_felt_by_nobody_and_events_flow_again(own_rabbitmq: Broker) -> None:
    heard = Heard()
    with opened(own_rabbitmq.url, heard) as listening, opened(own_rabbitmq.url) as events:
        await ready(listening, events)
        await asyncio.to_thread(own_rabbitmq.kill)
        await until(lambda: not events._publisher.link.ready.is_set())
        began = time.monotonic()
        for _ in range(100):
            events.publish([job_event()])
        assert time.monotonic() - began < 1
        await asyncio.to_thread(own_rabbitmq.restart)
        await ready(listening, events)
        last = job_event(kind="completed")
        events.publish([last])
        await until(lambda: last in heard.events)


async def test_an_exchange_that_was_deleted_is_declared_and_bound_anew(
    vhost: str, rabbitmq: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "BOUND_ANEW", 0.1)
    monkeypatch.setattr(hints, "IDLE", 0.05)
    heard = Heard()
    with opened(vhost, heard) as events:
        await ready(events)
        rabbitmq.management("DELETE", f"/exchanges/{named(vhost)}/{EXCHANGE}")
        await one_is_heard(events, heard)


async def test_a_listener_whose_queue_was_deleted_gets_another(vhost: str, rabbitmq: Broker) -> None:
    heard = Heard()
    with opened(vhost, heard) as events:
        await ready(events)
        [queue] = management(rabbitmq, vhost, "queues")
        [_, link] = links(events)
        connection = link._connection
        assert connection is not None
        # Nobody else may delete it; the failure of a node of a cluster may.
        connection.add_callback_threadsafe(lambda: connection.channel().queue_delete(queue["name"]))
        await until(lambda: link._connection not in (None, connection))
        await one_is_heard(events, heard)


async def test_an_idle_connection_answers_short_heartbeats(vhost: str) -> None:
    heard = Heard()
    with capture_logs() as logs, opened(f"{vhost}?heartbeat=1", heard) as events:
        await ready(events)
        await asyncio.sleep(3.5)  # three times what RabbitMQ and pika forgive
        events.publish([job_event()])
        await until(lambda: heard.events)

    assert [line["event"] for line in logs] == ["broker connected"] * 2


async def test_an_error_that_nobody_foresaw_does_not_end_the_publisher(
    vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    with opened(vhost, heard) as events:
        await ready(events)
        with monkeypatch.context() as faulty:
            faulty.setattr(events._publisher, "_messages", None)
            events.publish([job_event()])
            await until(lambda: not events._publisher.link.ready.is_set())
        await ready(events)
        events.publish([job_event()])
        await until(lambda: heard.events)


@pytest.mark.parametrize("kind", ["fanout", "direct"])
async def test_an_exchange_that_was_declared_by_hand_is_used_as_it_is_and_warned_of_once(
    vhost: str, rabbitmq: Broker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(hints, "BOUND_ANEW", 0.1)
    monkeypatch.setattr(hints, "IDLE", 0.05)
    declared_by_hand(vhost, kind)
    heard = Heard()
    with capture_logs() as logs, opened(vhost, heard) as events:
        await ready(events)
        before = [link._connection for link in links(events)]
        if kind == "fanout":  # a direct one passes on nothing: whoever waits looks for himself
            await one_is_heard(events, heard)
        await asyncio.sleep(0.3)
        assert [link._connection for link in links(events)] == before
        rabbitmq.management("DELETE", f"/exchanges/{named(vhost)}/{EXCHANGE}")
        await one_is_heard(events, heard)
        [exchange] = [each for each in management(rabbitmq, vhost, "exchanges") if each["name"] == EXCHANGE]

    assert exchange["type"] == "topic"
    assert [line["name"] for line in logs if line["event"] == "declared otherwise: used as it is"] == [EXCHANGE]


def declared_by_hand(url: str, kind: str) -> None:
    connection = BlockingConnection(URLParameters(url))
    connection.channel().exchange_declare(EXCHANGE, kind)
    connection.close()
