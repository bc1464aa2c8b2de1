"""Queues over HTTP: held and released, one by one or all together; their circuits closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Controller, Request, get, post
from litestar.openapi.spec import Operation
from litestar.params import PathParameter

from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.services import Services
from app.wire import examples
from app.wire.queues import QueueQuery, QueueStatusView, QueueView
from domain.access import Caller, Right
from domain.errors import QueueNotFound
from domain.queue import QueueState

AnyRequest = Request[Any, Any, Any]
QueueName = Annotated[
    str, PathParameter(description="The queue's name.", schema_extra={"examples": [examples.QUEUE.name]})
]

HELD = "Running jobs finish, none starts, those that wait keep their places; restarts change nothing of it."
TWO_FLAGS = "To pause and to stop are two flags with the same effect; a queue that has either is held."
WHICH = "One queue, or without `queue` all of them; jobs without a queue are not touched."


def _answers(example: QueueView) -> type[Operation]:
    return operation(Answer(200, example, "The queue, as it is now."), *refusals(QueueNotFound))


def _answers_status(example: QueueStatusView) -> type[Operation]:
    return operation(Answer(200, example, "How they stand now."), *refusals(422, QueueNotFound), query=QueueQuery)


class Steered(Controller):
    """One queue, by its name."""

    path = "/queues/{name:str}"
    tags = ("queues",)
    opt = {"right": Right.OPERATE}  # noqa: RUF012  # as Litestar declares it

    @post(
        "/pause",
        operation_id="pause_queue",
        summary="Pause a queue",
        description=f"{HELD} Pausing it again changes nothing.",
        status_code=200,
        operation_class=_answers(examples.PAUSED),
    )
    async def pause(self, name: QueueName, services: Injected, caller: Calling) -> QueueView:
        return await _shown(services, caller, await services.operate.hold(name, paused=True))

    @post(
        "/resume",
        operation_id="resume_queue",
        summary="Resume a paused queue",
        description="Its jobs start again, unless it is stopped too or its circuit is open.",
        status_code=200,
        operation_class=_answers(examples.QUEUE),
    )
    async def resume(self, name: QueueName, services: Injected, caller: Calling) -> QueueView:
        return await _shown(services, caller, await services.operate.hold(name, paused=False))

    @post(
        "/close-circuit",
        operation_id="close_circuit",
        summary="Close a queue's circuit",
        description="Its jobs start again at once, whatever its model server did; it opens anew if that fails.",
        status_code=200,
        operation_class=_answers(examples.QUEUE),
    )
    async def close_circuit(self, name: QueueName, services: Injected, caller: Calling) -> QueueView:
        return await _shown(services, caller, [await services.operate.close_circuit(name)])


class Standing(Controller):
    """All queues as if they were one, or one of them."""

    tags = ("queues",)
    opt = {"right": Right.OPERATE}  # noqa: RUF012  # as Litestar declares it

    @get(
        "/status",
        operation_id="get_queue_status",
        summary="Tell how the queues stand",
        description=f"{WHICH} `queue_size` is counted anew every two seconds.",
        opt={"right": Right.READ},
        operation_class=_answers_status(examples.QUEUE_STATUS),
    )
    async def status(self, request: AnyRequest, services: Injected, caller: Calling) -> QueueStatusView:
        return await _status(services, caller, await services.operate.meant(_which(request)))

    @post(
        "/pause",
        operation_id="pause_queues",
        summary="Pause the queues",
        description=f"{HELD} {WHICH} {TWO_FLAGS}",
        status_code=200,
        operation_class=_answers_status(examples.ALL_PAUSED),
    )
    async def pause(self, request: AnyRequest, services: Injected, caller: Calling) -> QueueStatusView:
        return await _status(services, caller, await services.operate.hold(_which(request), paused=True))

    @post(
        "/resume",
        operation_id="resume_queues",
        summary="Resume paused queues",
        description=f"{WHICH} What was stopped stays stopped.",
        status_code=200,
        operation_class=_answers_status(examples.QUEUE_STATUS),
    )
    async def resume(self, request: AnyRequest, services: Injected, caller: Calling) -> QueueStatusView:
        return await _status(services, caller, await services.operate.hold(_which(request), paused=False))

    @post(
        "/stop",
        operation_id="stop_queues",
        summary="Stop the queues",
        description=f"{HELD} {WHICH} {TWO_FLAGS}",
        status_code=200,
        operation_class=_answers_status(examples.ALL_STOPPED),
    )
    async def stop(self, request: AnyRequest, services: Injected, caller: Calling) -> QueueStatusView:
        return await _status(services, caller, await services.operate.hold(_which(request), stopped=True))

    @post(
        "/start",
        operation_id="start_queues",
        summary="Start stopped queues",
        description=f"{WHICH} What was paused stays paused.",
        status_code=200,
        operation_class=_answers_status(examples.QUEUE_STATUS),
    )
    async def start(self, request: AnyRequest, services: Injected, caller: Calling) -> QueueStatusView:
        return await _status(services, caller, await services.operate.hold(_which(request), stopped=False))


def _which(request: AnyRequest) -> str | None:
    return QueueQuery.read(request.scope["query_string"])


async def _shown(services: Services, caller: Caller, states: Sequence[QueueState]) -> QueueView:
    [queue] = await services.report.each_queue(caller, states)
    return QueueView.of(queue)


async def _status(services: Services, caller: Caller, states: Sequence[QueueState]) -> QueueStatusView:
    return QueueStatusView.of(await services.report.standing(caller, states))
