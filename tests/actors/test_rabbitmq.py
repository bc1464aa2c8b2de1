"""A worker on a real RabbitMQ: what its tickets do when connections break."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.parse import quote, unquote, urlsplit

import pytest
from pika import BlockingConnection, URLParameters

from app.bootstrap import RabbitTicketConsumer
from domain.job import JobStatus
from tests.actors.rig import Shop, Stage, jobs, until
from tests.factories import QUEUE, new_job
from tests.servers.rabbitmq import Broker


def name_of(vhost: str) -> str:
    return unquote(urlsplit(vhost).path[1:])


def ready(vhost: str) -> int:
    """Tickets that lie in the queue."""
    with closing(BlockingConnection(URLParameters(vhost))) as connection:
        return int(connection.channel().queue_declare(QUEUE, passive=True).method.message_count)


def cut(shop: Shop) -> None:
    """Break the worker's connection as a network does."""
    consumer = shop.worker.consumers[QUEUE].consumer
    consumer.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
    until(lambda: not consumer.connection.is_open, "its end")  # type: ignore[union-attr]


def consuming(shop: Shop) -> None:
    """Wait until the worker is connected."""
    until(lambda: isinstance(shop.worker.consumers[QUEUE].consumer, RabbitTicketConsumer), "a consumer")


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_jobs_run_on_either_type_of_queue(queue_type: str, vhost: str, rabbitmq: Broker, stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=2, amqp_url=vhost, queue_type=queue_type) as shop:  # type: ignore[arg-type]
        ids = shop.submit(*jobs(10))
        shop.done(*ids)
        shop.idle()
        assert sorted(stage.started) == sorted(ids)

    declared = rabbitmq.management("GET", f"/queues/{quote(name_of(vhost), safe='')}")
    assert [(queue["name"], queue["type"]) for queue in declared] == [(QUEUE, queue_type)]
    assert shop.leaked == []


def test_a_worker_has_one_connection_per_queue(vhost: str, stage: Stage) -> None:
    with Shop({"llm_chat": stage}, amqp_url=vhost) as shop:
        consuming(shop)
        until(lambda: not shop.broker.connections, "the end of the one that declared")  # type: ignore[attr-defined]


def test_a_cut_connection_neither_starts_nor_acknowledges_anything_twice(
    vhost: str, held: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with Shop({"llm_chat": held}, slots=2, amqp_url=vhost) as shop:
        running = shop.submit(*jobs(2))
        until(lambda: len(held.started) == 2)
        first = shop.worker.consumers[QUEUE].consumer
        cut(shop)
        until(lambda: shop.worker.consumers[QUEUE].consumer is not first, "another connection")
        following = shop.submit(*jobs(2))
        held.let_go(*running, *following)
        shop.done(*running, *following)
        shop.idle()
        tags = shop.worker.consumers[QUEUE].consumer.known_tags  # type: ignore[union-attr]
        until(lambda: ready(vhost) == 0 and not tags, "an answer to every ticket")

    assert sorted(held.started) == sorted([*running, *following])
    assert "known tags" not in caplog.text
    assert "post_process_message" not in caplog.text
    assert shop.leaked == []


def test_a_job_that_ends_without_its_connection_does_not_keep_its_slot_waiting(
    vhost: str, held: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 2.0)
    with Shop({"llm_chat": held}, amqp_url=vhost) as shop:
        first, second = shop.submit(*jobs(2))
        until(lambda: held.started)
        cut(shop)
        held.let_go(first, second)
        shop.done(first, second)

    assert "will be retried" not in caplog.text


def test_tickets_that_are_kept_or_prefetched_return_at_the_end(vhost: str, held: Stage) -> None:
    with Shop({"llm_chat": held}, slots=2, amqp_url=vhost, grace=0) as shop:
        shop.submit(*jobs(6))
        until(lambda: len(held.started) == 2)
        shop.stop()
        assert shop.count(JobStatus.PENDING) == 6

    until(lambda: ready(vhost) == 4, "the return of the other tickets")


def test_a_worker_works_before_its_broker_is_there(own_rabbitmq: Broker, stage: Stage) -> None:
    own_rabbitmq.kill()
    with Shop({"llm_chat": stage}, amqp_url=own_rabbitmq.url) as shop:
        ids = shop.add(*jobs(3))
        assert shop.runtime._loop
        shop.runtime._loop.call_soon_threadsafe(shop.desk().look)
        shop.done(*ids)
        own_rabbitmq.start()
        (job,) = shop.submit(new_job())
        shop.done(job)
