"""How this service is sent single jobs: by its own use case, in a process that runs what its API does without HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

import uvloop
from msgspec import Raw, json

from app.bootstrap import Application
from benchmarks.contestant import Send, Sent
from benchmarks.handlers import PAYLOAD
from domain.access import ANYBODY
from domain.job import Priority
from domain.usecases.submit import Submission, Submit

T = TypeVar("T")

PATIENCE = 30.0


@contextmanager
def submitting(application: Application, task_type: str) -> Iterator[Send]:
    """The use case on an event loop of its own thread, as in a process that does nothing else."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="submitting", daemon=True)
    thread.start()
    stack = AsyncExitStack()

    def call(coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE)

    try:
        submit = call(stack.enter_async_context(serving(application)))

        def send(number: int, *, urgent: bool = False) -> Sent:
            return call(send_one(submit, task_type, number, urgent=urgent))

        yield send
    finally:
        call(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[Submit]:
    """What `ai-service serve` runs, without HTTP: the use cases, and a scheduler."""
    async with application.core() as core:
        scheduling = asyncio.create_task(core.scheduler.run())
        try:
            yield core.services.submit
        finally:
            scheduling.cancel()
            await asyncio.wait([scheduling])


async def send_one(submit: Submit, task_type: str, number: int, *, urgent: bool) -> Sent:
    content = json.encode({"user": PAYLOAD, "number": number})
    submission = Submission(
        owner_service="benchmark",
        task_type=task_type,
        model_profile="practice",
        input=Raw(content),
        priority=Priority.HIGH if urgent else Priority.NORMAL,
    )
    asked = time.time()
    await submit.one(ANYBODY, submission)
    return Sent(asked, time.time())
