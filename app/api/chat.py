"""Chats over HTTP: asked and answered in one request, streamed token by token, or enqueued and fetched later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import structlog
from litestar import Controller, Request, Response, delete, get, post
from litestar.params import RawBody

from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.api.jobs import IDEMPOTENCY_KEY, STREAM_HEADERS
from app.api.paths import JobIdPath
from app.api.patience import presence_of
from app.api.problems import CODED, chat_problem, instance_of, unforeseen
from app.api.streamed import Streamed
from app.readers import Text
from app.services import Services
from app.wire import examples
from app.wire.chat import (
    KEEP_ALIVE,
    MEDIA_TYPE,
    ChatView,
    QueuedJobView,
    QueuedView,
    WithdrawnView,
    done_event,
    error_event,
    read_question,
    token_event,
)
from app.wire.idempotency import HEADER
from app.wire.jobs import read_job_id
from app.wire.problem import MEDIA_TYPE as PROBLEM
from domain.access import Right
from domain.errors import ChatFailed, InvalidTransition, TooManyPending
from domain.job import Job
from domain.usecases.converse import Chatted

AnyRequest = Request[Any, Any, Any]
Told = AsyncIterator[Text | Chatted | None]

log = structlog.get_logger()

CLIENT_CLOSED_REQUEST = 499
"""Of an answer that nobody reads."""

ONE_RUN = (
    "It is a `chat_completion` job that is tried once. `timeout` counts from the submission; when it is up the job is "
    "cancelled. Who goes away cancels it too, also while it runs, unless the request has an `Idempotency-Key`: the "
    "same request under the same key then finds the job, and its answer. "
)

FAILURES = (
    Answer(429, examples.RATE_LIMITED_CHAT, "The provider takes no more now.", ("Retry-After",), PROBLEM),
    Answer(502, examples.FAILED_CHAT, "The run failed.", (), PROBLEM),
    Answer(
        503,
        examples.REFUSED_CHAT,
        "No model, its server does not serve it, or is sick; or the storage is away.",
        ("Retry-After",),
        PROBLEM,
    ),
    Answer(504, examples.LATE_CHAT, "It took too long.", (), PROBLEM),
)
USUAL = [answer for answer in refusals(400, 413, 422, TooManyPending) if answer.status not in (429, 503)]


class Chat(Controller):
    path = "/"
    tags = ("chat",)
    opt = {"right": Right.SUBMIT, CODED: True}  # noqa: RUF012  # as Litestar declares it

    @post(
        "/",
        operation_id="chat",
        summary="Ask a chat model",
        description=f"Waits for the answer. {ONE_RUN}",
        status_code=200,
        operation_class=operation(
            Answer(200, examples.CHAT, "The answer."),
            *USUAL,
            *FAILURES,
            body=examples.QUESTION,
            parameters=(IDEMPOTENCY_KEY,),
        ),
    )
    async def ask(self, request: AnyRequest, body: RawBody, services: Injected, caller: Calling) -> Response[Any]:
        question = read_question(body, request.headers.getall(HEADER, []))
        async with presence_of(request) as present:
            chatted = await present.get(services.chats.answer(caller, question))
        if chatted is None:
            return Response(None, status_code=CLIENT_CLOSED_REQUEST)
        return Response(ChatView.of(chatted), status_code=200)

    @post(
        "/stream",
        operation_id="chat_stream",
        summary="Ask a chat model and read its answer as it is written",
        description=(
            "Server-Sent Events: `token` for each part of the text, all of them together the answer's content; then "
            "`done` with what `POST /chat` answers, or `error` with the problem document that it would have "
            "answered with. What fails before the first token, within ten seconds, is answered by its status. "
            f"After the first token no second run is begun. {ONE_RUN}"
        ),
        status_code=200,
        media_type=MEDIA_TYPE,
        operation_class=operation(
            Answer(200, examples.CHAT_EVENTS, "The answer, as it comes.", ("Cache-Control",), MEDIA_TYPE),
            *USUAL,
            *FAILURES,
            body=examples.QUESTION,
            parameters=(IDEMPOTENCY_KEY,),
        ),
    )
    async def stream(self, request: AnyRequest, body: RawBody, services: Injected, caller: Calling) -> Response[Any]:
        question = read_question(body, request.headers.getall(HEADER, []), streamed=True)
        # What fails early is raised here, while the status can still say so.
        events = _events(services.chats.stream(caller, question), instance_of(request.scope))
        async with presence_of(request) as present:
            first = await present.get(_next(events))
        if first is None:
            return Response(None, status_code=CLIENT_CLOSED_REQUEST)
        content = _chained(first, events)
        return Streamed(content, events, status_code=200, media_type=MEDIA_TYPE, headers=STREAM_HEADERS)


class Queued(Controller):
    """Chats whose answers are fetched later."""

    path = "/jobs"
    tags = ("chat",)
    opt = {CODED: True}  # noqa: RUF012  # as Litestar declares it

    @post(
        "/",
        operation_id="enqueue_chat",
        summary="Enqueue a chat",
        description=(
            "The same request as `POST /chat`, as a job by the ordinary rules: tried up to three times, and cancelled "
            "where it has not started within a `timeout` that it names."
        ),
        opt={"right": Right.SUBMIT},
        status_code=202,
        operation_class=operation(
            Answer(202, examples.QUEUED, "The job, stored.", headers=("Location",)),
            *refusals(400, 413, 422, TooManyPending),
            body=examples.QUESTION,
            parameters=(IDEMPOTENCY_KEY,),
        ),
    )
    async def enqueue(
        self, request: AnyRequest, body: RawBody, services: Injected, caller: Calling
    ) -> Response[QueuedView]:
        question = read_question(body, request.headers.getall(HEADER, []))
        job = (await services.chats.converse.enqueue(caller, question)).job
        view = QueuedView(job_id=job.id, position=await _position(services, job))
        return Response(view, status_code=202, headers={"Location": f"/queue/jobs/{job.id}"})

    @get(
        "/{job_id:str}",
        operation_id="get_queued_chat",
        summary="Get an enqueued chat",
        description="Any job of the caller's can be looked at so.",
        opt={"right": Right.READ},
        operation_class=operation(Answer(200, examples.QUEUED_JOB, "The job, as it is now."), *refusals(404)),
    )
    async def one(self, job_id: JobIdPath, services: Injected, caller: Calling) -> QueuedJobView:
        job = await services.browse.one(caller, read_job_id(job_id))
        return QueuedJobView.of(job, await _position(services, job))

    @delete(
        "/{job_id:str}",
        operation_id="withdraw_chat",
        summary="Cancel an enqueued chat that has not started",
        description="One that runs, or has ended, stays as it is: 409.",
        opt={"right": Right.SUBMIT},
        status_code=200,
        operation_class=operation(
            Answer(200, examples.WITHDRAWN, "It will not start."), *refusals(404, InvalidTransition)
        ),
    )
    async def withdraw(self, job_id: JobIdPath, services: Injected, caller: Calling) -> WithdrawnView:
        job = await services.steer.withdraw(caller, read_job_id(job_id))
        return WithdrawnView(job_id=job.id, status=job.status)


async def _position(services: Services, job: Job) -> int | None:
    return (await services.foresee.outlook(job)).position


async def _events(told: Told, instance: str) -> AsyncIterator[bytes]:
    """A chat as Server-Sent Events.

    Raises:
        whatever it fails with before its first event; after that it ends with an `error`.
    """
    begun = False
    async with aclosing(told):  # type: ignore[type-var]
        try:
            async for each in told:
                yield _event(each)
                begun = True
        except ChatFailed as error:
            if not begun:
                raise
            yield error_event(chat_problem(error, instance)[0])
        except Exception:
            if not begun:
                raise
            log.exception("chat_stream_failed")
            yield error_event(unforeseen(instance))


def _event(told: Text | Chatted | None) -> bytes:
    match told:
        case Text():
            return token_event(told.offset, told.text)
        case Chatted():
            return done_event(told)
        case None:
            return KEEP_ALIVE


async def _next(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events)


async def _chained(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in events:
        yield event
