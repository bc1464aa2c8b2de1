"""One actor per task type. An actor serves its type on any GPU queue: the lease decides which job it is called for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dramatiq import Actor, Broker

from actors.desk import Assignment
from actors.runtime import Runtime
from actors.tickets import TICKET


class JobActor(Actor[..., None]):
    """Runs the job that it is handed, and returns when its end is committed.

    Coroutine, classification, settlement and the claim of the next job are one visit to the event loop; the result goes
    to the settlement and never through Dramatiq.
    """

    def __init__(self, runtime: Runtime, *, broker: Broker, task_type: str, queue: str) -> None:
        # Every failure has been dealt with when it arrives here: `throws` keeps Dramatiq from logging its text.
        options: dict[str, Any] = {"throws": (Exception,)}
        super().__init__(
            self._perform, broker=broker, actor_name=task_type, queue_name=queue, priority=0, options=options
        )
        self._runtime = runtime

    def __call__(self, assignment: Assignment) -> None:
        self._perform(assignment)

    def _perform(self, assignment: Assignment) -> None:
        assignment.desk.execute(assignment, self._runtime.performer(self.actor_name))


def register(broker: Broker, runtime: Runtime, *, task_types: Iterable[str], queues: Iterable[str]) -> None:
    """Declare the queues, the actor that tickets name, and an actor for each task type."""
    first, *others = queues
    Actor(_never, broker=broker, actor_name=TICKET, queue_name=first, priority=0, options={})
    for queue in others:
        broker.declare_queue(queue)
    for task_type in task_types:
        JobActor(runtime, broker=broker, task_type=task_type, queue=first)


def _never() -> None:
    raise AssertionError("A ticket was not bound to a job.")
