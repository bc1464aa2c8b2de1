"""Binds a ticket to the job it wakes a slot for. Fails closed: without a lease no actor runs.

Dramatiq runs the actor although a before-hook raised, unless it raised `SkipMessage`: every failure here becomes one.
"""

from __future__ import annotations

import logging

import structlog
from dramatiq import Broker, MessageProxy, Middleware, Worker
from dramatiq.middleware import MiddlewareError, SkipMessage
from dramatiq.worker import ConsumerThread

from actors.desk import Assignment, NoFreeSlot
from actors.runtime import Runtime
from actors.tickets import LocalTicket, NotConnected, bound, park

log = structlog.get_logger()


class LeaseMiddleware(Middleware):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        queues = broker.get_declared_queues() & (worker.consumer_whitelist or broker.get_declared_queues())
        try:
            # More tickets than slots would be hoarded here while other workers are idle.
            worker.queue_prefetch = self._runtime.start(worker, sorted(queues))
        except Exception as error:  # Dramatiq would log any other kind and go on without a desk
            raise MiddlewareError("The worker cannot start.") from error

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        if thread.consumer is None:
            thread.consumer = NotConnected()
        thread.logger.addFilter(LossesAreTold())

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if isinstance(message, LocalTicket):
            return
        try:
            assignment = self._runtime.desk(message.queue_name).claim(message.arrived)
        except NoFreeSlot:
            park(message, self._runtime.desk(message.queue_name))
            raise SkipMessage from None
        except Exception as error:
            log.exception("claim failed", queue=message.queue_name)
            raise SkipMessage from error
        if assignment is None:
            raise SkipMessage
        message._message = bound(assignment)

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        assignment = _not_started(message)
        if assignment and exception:
            assignment.desk.fail(assignment, exception)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        if assignment := _not_started(message):
            assignment.hand_back()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._runtime.close()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._runtime.stop()


def _not_started(message: MessageProxy) -> Assignment | None:
    """The job that the message is bound to, if something stood between its claim and its start: another hook that
    skipped or failed, or an actor that is not there.
    """
    match message.args:
        case [Assignment(started=False) as assignment]:
            return assignment
    return None


class SkipsAreNormal(logging.Filter):
    """Drops Dramatiq's warning about every ticket that found no job."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Message %s was skipped."


class LossesAreTold(logging.Filter):
    """Drops Dramatiq's word about each try to reach a broker that is away: the adapter tells of it once."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Consumer encountered a connection error: %s"
