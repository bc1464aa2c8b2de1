"""Tickets are acknowledged where they came from or not at all; and the privates of Dramatiq that this leans on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from queue import PriorityQueue

import pytest
from dramatiq import Consumer, Message, MessageProxy
from dramatiq.brokers.rabbitmq import _RabbitmqConsumer
from dramatiq.brokers.stub import StubBroker, _StubConsumer
from dramatiq.errors import ConnectionClosed
from dramatiq.worker import _WorkQueueItem

from actors.runtime import FIRST
from actors.tickets import TICKET, LocalTicket, NotConnected, TicketConsumer, park, ticket
from adapters.memory.broker import InProcessBroker
from app.bootstrap import InProcessTicketConsumer, RabbitTicketConsumer
from tests.actors.rig import Shop, Stage, jobs, until
from tests.factories import QUEUE, leased_job, new_job


class FakeConsumer(Consumer):
    def __init__(self) -> None:
        self.acked: list[MessageProxy] = []
        self.nacked: list[MessageProxy] = []
        self.requeued: list[MessageProxy] = []
        self.connected = True

    def __next__(self) -> MessageProxy:
        return MessageProxy(ticket(QUEUE))

    def ack(self, message: MessageProxy) -> None:
        if not self.connected:
            raise ConnectionClosed(OSError())  # type: ignore[no-untyped-call]  # Dramatiq's
        self.acked.append(message)

    def nack(self, message: MessageProxy) -> None:
        if not self.connected:
            raise ConnectionClosed(OSError())  # type: ignore[no-untyped-call]  # Dramatiq's
        self.nacked.append(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        self.requeued.extend(messages)


class Tickets(TicketConsumer, FakeConsumer):  # type: ignore[misc]  # the fake always has a ticket
    pass


class FakeDesk:
    queue = QUEUE

    def __init__(self) -> None:
        self.kept: list[MessageProxy] = []

    def keep(self, message: MessageProxy) -> None:
        self.kept.append(message)


class FakeAssignment:
    def __init__(self) -> None:
        self.job = leased_job()
        self.desk = FakeDesk()
        self.handed_back = 0

    def hand_back(self) -> None:
        self.handed_back += 1


def test_a_ticket_is_acknowledged_on_the_consumer_that_it_came_from() -> None:
    consumer = Tickets()
    message = next(consumer)
    assert message
    consumer.ack(message)

    assert consumer.acked == [message]


def test_a_ticket_of_a_former_connection_is_neither_acknowledged_nor_rejected() -> None:
    former, present = Tickets(), Tickets()
    message = next(former)
    assert message
    present.ack(message)
    present.nack(message)

    assert present.acked == present.nacked == former.acked == former.nacked == []


def test_a_ticket_whose_connection_is_gone_is_not_tried_again() -> None:
    consumer = Tickets()
    message = next(consumer)
    assert message
    consumer.connected = False
    consumer.ack(message)
    consumer.nack(message)


def test_a_local_ticket_is_nothing_to_the_broker() -> None:
    consumer, local = Tickets(), LocalTicket(FakeAssignment())  # type: ignore[arg-type]
    consumer.ack(local)
    consumer.nack(local)
    NotConnected().ack(local)

    assert consumer.acked == consumer.nacked == []


def test_a_parked_ticket_goes_to_the_desk_once_and_then_as_any_other() -> None:
    consumer, desk = Tickets(), FakeDesk()
    message = next(consumer)
    assert message
    park(message, desk)  # type: ignore[arg-type]
    consumer.ack(message)
    assert (consumer.acked, desk.kept) == ([], [message])
    consumer.ack(message)
    assert (consumer.acked, desk.kept) == ([message], [message])


def test_at_shutdown_jobs_are_handed_back_and_tickets_requeued() -> None:
    consumer, assignment = Tickets(), FakeAssignment()
    message = next(consumer)
    assert message
    consumer.requeue([LocalTicket(assignment), message])  # type: ignore[arg-type]

    assert assignment.handed_back == 1
    assert consumer.requeued == [message]


def test_a_worker_without_a_broker_survives_its_own_tickets() -> None:
    placeholder = NotConnected()
    placeholder.requeue([])
    placeholder.close()


def test_dramatiq_takes_local_tickets_before_others_and_equals_in_order() -> None:
    queue: PriorityQueue[_WorkQueueItem] = PriorityQueue()
    messages = [MessageProxy(ticket(str(place))) for place in range(4)]
    for message in messages[:2]:
        queue.put(_WorkQueueItem(0, message))
    for message in messages[2:]:
        queue.put(_WorkQueueItem(FIRST, message))

    assert [queue.get().message.queue_name for _ in messages] == ["2", "3", "0", "1"]


def test_dramatiq_calls_the_actor_that_a_rebound_message_names() -> None:
    message = MessageProxy(ticket(QUEUE))
    message._message = Message(queue_name=QUEUE, actor_name="other", args=(1,), kwargs={}, options={})

    assert (message.actor_name, message.args) == ("other", (1,))


def test_both_brokers_consume_through_the_mixed_in_class() -> None:
    assert issubclass(RabbitTicketConsumer, _RabbitmqConsumer)
    assert issubclass(InProcessTicketConsumer, _StubConsumer)
    for kind in (RabbitTicketConsumer, InProcessTicketConsumer):
        assert kind.ack is TicketConsumer.ack
        assert kind.__next__ is TicketConsumer.__next__
        assert kind.requeue is TicketConsumer.requeue
    broker = InProcessBroker([], InProcessTicketConsumer)
    broker.declare_queue(QUEUE)
    assert isinstance(broker.consume(QUEUE), InProcessTicketConsumer)


def test_dramatiq_still_keeps_no_other_queues_in_process() -> None:
    broker = InProcessBroker([], InProcessTicketConsumer)
    broker.declare_queue(QUEUE)

    assert isinstance(broker, StubBroker)
    assert set(broker.queues) == {QUEUE}
    assert broker.get_declared_delay_queues() == set()


@pytest.mark.parametrize(("slots", "threads", "prefetch"), [(4, 4, 4), (4, 16, 4), (64, 3, 3)])
def test_no_more_tickets_are_fetched_than_there_are_slots(
    slots: int, threads: int, prefetch: int, stage: Stage
) -> None:
    with Shop({"llm_chat": stage}, slots=slots, threads=threads) as shop:
        assert shop.worker.queue_prefetch == prefetch
        assert shop.worker.consumers[QUEUE].prefetch == prefetch
        assert shop.desk().slots == prefetch


def test_desks_are_opened_for_the_chosen_queues_only(stage: Stage) -> None:
    shop = Shop({"llm_chat": stage}, queues=(QUEUE, "gpu.stt"))
    shop.worker.consumer_whitelist = {"gpu.stt"}
    shop.queues = ("gpu.stt",)
    with shop:
        assert set(shop.runtime.desks) == {"gpu.stt"}
        assert set(shop.worker.consumers) == {"gpu.stt"}


def test_a_message_that_is_no_ticket_of_ours_does_no_harm(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        foreign: Message[None] = Message(
            queue_name=QUEUE, actor_name="llm_chat", args=({"some": "thing"},), kwargs={}, options={}
        )
        shop.broker.enqueue(foreign)
        until(lambda: not shop.broker.queues[QUEUE].unfinished_tasks)
        assert stage.started == []
        (job,) = shop.submit(new_job())
        shop.done(job)


def test_a_ticket_that_finds_no_job_is_told_of(stage: Stage) -> None:
    with Shop({"llm_chat": stage}) as shop:
        (job,) = shop.submit(new_job())
        shop.done(job)
        assert shop.telemetry.in_vain == []
        shop.wake()
        until(lambda: shop.telemetry.in_vain == [QUEUE])


def test_tickets_arrive_with_their_consumer_and_time() -> None:
    consumer = Tickets()
    before = time.monotonic()
    message = next(consumer)

    assert message
    assert message.consumer is consumer
    assert before <= message.arrived <= time.monotonic()
    assert message.actor_name == TICKET


def test_jobs_run_while_no_consumer_has_reached_its_broker(stage: Stage) -> None:
    with Shop({"llm_chat": stage}, slots=2) as shop:
        for thread in shop.worker.consumers.values():
            thread.consumer = NotConnected()
        ids = shop.add(*jobs(5))
        assert shop.runtime._loop
        shop.runtime._loop.call_soon_threadsafe(shop.desk().look)
        shop.done(*ids)
        shop.idle()
