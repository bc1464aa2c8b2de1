"""What task types of your own are written with: everything that a plug-in may import, and all that stays as it is.

`docs/task-types.md` shows how. A module that is named in `AI_SERVICE_PLUGINS` brings every task type in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, overload
from uuid import UUID, uuid4

import msgspec

from actors.threads import in_thread_of_its_own
from domain.errors import BadInput, ErrorCode, Problem, RunFailed
from domain.results import ChatResult, EmbeddingResult, Segment, TranscriptionResult
from domain.routing import ModelKind, OwnQueue
from domain.task_type import Job, TaskType

__all__ = [
    "BadInput",
    "ChatResult",
    "EmbeddingResult",
    "ErrorCode",
    "Job",
    "Problem",
    "RunFailed",
    "Segment",
    "TaskType",
    "TranscriptionResult",
    "rehearse",
    "task_type",
]

I = TypeVar("I")  # noqa: E741  # the input
T = TypeVar("T")

Run = Callable[[Job[I]], Awaitable[object]]


@overload
def task_type(
    name: str, *, model: str = ..., queue: str = ..., profile: str = ...
) -> Callable[[Run[dict[str, Any]]], TaskType[dict[str, Any]]]: ...


@overload
def task_type(
    name: str, *, input: type[I], model: str = ..., queue: str = ..., profile: str = ...
) -> Callable[[Run[I]], TaskType[I]]: ...


def task_type(
    name: str,
    *,
    input: type[Any] = dict[str, Any],  # noqa: A002  # as the field of a job is called
    model: str = "",
    queue: str = "",
    profile: str = "",
) -> Callable[[Run[Any]], TaskType[Any]]:
    """Make an `async def` function a task type. It is given a `Job`, and returns the result: what is a JSON object.

    Args:
        name: the `task_type` of its jobs.
        input: what its jobs' input has to be: a `msgspec.Struct`. A job that does not fit is refused. Without it, any
            JSON object.
        model: `chat`, `speech` or `embeddings`: it needs such a model, and runs on every profile of that kind, in the
            profile's queue. Or it has a
        queue: of its own, and needs no model; and a
        profile: the name that its jobs give as their `model_profile`.

    Raises:
        ValueError: these cannot be.
    """
    return lambda run: TaskType(name, run, input, _needs(name, model, queue, profile))


def _needs(name: str, model: str, queue: str, profile: str) -> ModelKind | OwnQueue:
    if model in tuple(ModelKind) and not (queue or profile):
        return ModelKind(model)
    if queue and profile and not model:
        return OwnQueue(profile, queue)
    raise ValueError(f"{name} needs a model ({', '.join(ModelKind)}), or a queue and a profile, and not both")


async def rehearse(
    rehearsed: TaskType[Any],
    input: Mapping[str, Any],  # noqa: A002  # as the field of a job is called
    *,
    chat: Callable[[dict[str, Any]], str] | None = None,
    embed: Callable[[dict[str, Any]], list[list[float]]] | None = None,
    transcribe: Callable[[dict[str, Any]], list[Segment]] | None = None,
    files: Mapping[UUID | str, Path] = {},
    attempt: int = 1,
) -> dict[str, Any]:
    """The result of a job with this input, without the service: for the tests of a task type.

    Args:
        chat: what is answered to a request, as text; likewise `embed` and `transcribe`. The profile that was asked is
            its `profile`, if one was named.
        files: what uploads and URLs lead to.

    Raises:
        BadInput: the service would refuse the job.
        Exception: whatever ended the run.
    """
    seen = Job(
        id=uuid4(),
        owner_service="rehearsal",
        task_type=rehearsed.name,
        model_profile=rehearsed.needs.profile if isinstance(rehearsed.needs, OwnQueue) else "rehearsal",
        attempt=attempt,
        input=rehearsed.read(msgspec.json.encode(input)),
        tools=_Stage(chat, embed, transcribe, files),
    )
    result: dict[str, Any] = msgspec.json.decode(await rehearsed.result(seen))
    return result


class _Stage:
    """Does for a run what its test says."""

    def __init__(
        self,
        chat: Callable[[dict[str, Any]], str] | None,
        embed: Callable[[dict[str, Any]], list[list[float]]] | None,
        transcribe: Callable[[dict[str, Any]], list[Segment]] | None,
        files: Mapping[UUID | str, Path],
    ) -> None:
        self._chat = chat
        self._embed = embed
        self._transcribe = transcribe
        self._files = files

    async def chat(self, request: Mapping[str, Any], *, profile: str | None, stream: bool) -> ChatResult:
        content = _answer("chat", self._chat, request, profile)
        return ChatResult(content=content, model="rehearsal", duration_ms=0)

    async def embed(self, request: Mapping[str, Any], *, profile: str | None) -> EmbeddingResult:
        vectors = _answer("embed", self._embed, request, profile)
        return EmbeddingResult(embeddings=tuple(map(tuple, vectors)), model="rehearsal", duration_ms=0)

    async def transcribe(self, request: Mapping[str, Any], *, profile: str | None) -> TranscriptionResult:
        segments = _answer("transcribe", self._transcribe, request, profile)
        return TranscriptionResult(language="und", segments=tuple(segments), duration_ms=0)

    def file(self, source: UUID | str) -> AbstractAsyncContextManager[Path]:
        return self._file(source)

    @asynccontextmanager
    async def _file(self, source: UUID | str) -> AsyncIterator[Path]:
        if source not in self._files:
            raise RunFailed(ErrorCode.BAD_INPUT, "There is no such file.")
        yield self._files[source]

    async def in_thread(self, call: Callable[[], T]) -> T:
        return await in_thread_of_its_own(call)

    def progress(self, figures: Mapping[str, Any]) -> None:
        msgspec.json.encode(figures)


def _answer(
    what: str, answer: Callable[[dict[str, Any]], T] | None, request: Mapping[str, Any], profile: str | None
) -> T:
    if answer is None:
        raise AssertionError(f"The run asked for something that the rehearsal was not given: {what}.")
    return answer({**request, "profile": profile} if profile else dict(request))
