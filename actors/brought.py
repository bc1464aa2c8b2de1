"""Runs jobs of the task types that an installation brings itself, and does for them what they ask of the service."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec
import structlog
from msgspec import Raw
from msgspec.structs import replace

from actors.classify import FAILURES
from actors.desk import Performed
from actors.held_open import held_open
from actors.limits import within_limit
from actors.progress import Progress, progress
from actors.scratch import scratch
from actors.threads import in_thread_of_its_own
from domain.errors import BadInput, RunFailed
from domain.job import LeasedJob
from domain.ports import AudioFiles
from domain.results import ChatResult, EmbeddingResult, ProviderAttempt, TranscriptionResult
from domain.speech import AudioUpload, AudioUrl
from domain.task_type import Job, TaskType

T = TypeVar("T")

log = structlog.get_logger()

FORESEEN = (RunFailed, BadInput, *FAILURES)


class Ask(Protocol):
    """Asks a model in the name of a job."""

    async def __call__(self, job: LeasedJob, asked: Raw | None = None) -> Performed: ...


@dataclass(frozen=True)
class Models:
    """Whom a run may ask."""

    chat: Ask
    told_chat: Ask
    """The same, which tells its text to those who follow the job."""
    embedding: Ask
    speech: Ask
    files: AudioFiles


@dataclass(frozen=True)
class Brought:
    """Runs jobs of one task type."""

    task_type: TaskType[Any]
    models: Models
    keep_progress: Callable[[LeasedJob, Raw], Awaitable[None]]
    max_result_bytes: int

    async def __call__(self, job: LeasedJob) -> Performed:
        """The JSON object that the task type made of the job.

        Raises:
            Exception: whatever ended the run.
        """
        given = self.task_type.read(job.input)
        with progress(lambda told: self.keep_progress(job, told)) as telling:
            tools = RunTools(job, self.models, telling)
            seen = Job(
                id=job.id,
                owner_service=job.owner_service,
                task_type=job.task_type,
                model_profile=job.model_profile,
                attempt=job.attempts + 1,
                input=given,
                tools=tools,
            )
            try:
                result = await self.task_type.result(seen)
            except Exception as error:
                if not isinstance(error, FORESEEN):
                    log.error("task type failed", task_type=job.task_type, job_id=str(job.id), **_place(error))
                raise
        return Performed(within_limit(result, self.max_result_bytes), tuple(tools.attempts))


class RunTools:
    """What the service does for one run."""

    def __init__(self, job: LeasedJob, models: Models, telling: Progress) -> None:
        self._job = job
        self._models = models
        self._telling = telling
        self.attempts: list[ProviderAttempt] = []
        """Of those calls that took more than one provider."""

    async def chat(self, request: Mapping[str, Any], *, profile: str | None, stream: bool) -> ChatResult:
        ask = self._models.told_chat if stream else self._models.chat
        return await self._answer(ask, request, profile, ChatResult)

    async def embed(self, request: Mapping[str, Any], *, profile: str | None) -> EmbeddingResult:
        return await self._answer(self._models.embedding, request, profile, EmbeddingResult)

    async def transcribe(self, request: Mapping[str, Any], *, profile: str | None) -> TranscriptionResult:
        return await self._answer(self._models.speech, request, profile, TranscriptionResult)

    @asynccontextmanager
    async def file(self, source: UUID | str) -> AsyncIterator[Path]:
        wanted = AudioUpload(source) if isinstance(source, UUID) else AudioUrl(source)
        async with scratch() as folder:
            await self._models.files.fetch(wanted, self._job.owner_service, folder / "file")
            yield folder / "file"

    async def in_thread(self, call: Callable[[], T]) -> T:
        return await held_open(in_thread_of_its_own(call))

    def progress(self, figures: Mapping[str, Any]) -> None:
        self._telling(figures)

    async def _answer(self, ask: Ask, request: Mapping[str, Any], profile: str | None, kind: type[T]) -> T:
        job = replace(self._job, model_profile=profile) if profile else self._job
        performed = await ask(job, Raw(msgspec.json.encode(request)))
        self.attempts += performed.attempts
        return msgspec.json.decode(performed.result, type=kind)


def _place(error: Exception) -> dict[str, str]:
    """Where it was raised. Its text may hold payload."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return {"error": type(error).__name__, "at": f"{last.filename}:{last.lineno} in {last.name}"}
