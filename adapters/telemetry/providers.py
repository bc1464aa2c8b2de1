"""Providers whose calls are told of: how long they took, what they cost, and never what was said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from domain.chat import ChatAnswer, ChatRequest
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.job import LeasedJob
from domain.ports import ChatProvider, EmbeddingProvider, SpeechProvider, Tell, nobody
from domain.results import Usage
from domain.speech import Recording, SpeechCall, Transcript
from domain.telemetry import Answer, Call, Server, Telemetry


@dataclass(frozen=True)
class ObservedChat:
    provider: ChatProvider
    server: Server
    telemetry: Telemetry

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        async with _failures_told(self.telemetry.calling(job, self.server)) as call:
            answer = await self.provider.chat(request, job, _FirstToken(call, tell))
            call.answered(_answer(answer.model, answer.usage, answer.finish_reason))
            return answer


@dataclass(frozen=True)
class ObservedSpeech:
    provider: SpeechProvider
    server: Server
    telemetry: Telemetry

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        async with _failures_told(self.telemetry.calling(job, self.server)) as told:
            transcript = await self.provider.transcribe(recording, call, job)
            told.answered(Answer(model=transcript.model or "", audio_seconds=recording.sound.seconds))
            return transcript


@dataclass(frozen=True)
class ObservedEmbeddings:
    provider: EmbeddingProvider
    server: Server
    telemetry: Telemetry

    async def embed(self, request: EmbeddingRequest, job: LeasedJob) -> EmbeddingAnswer:
        async with _failures_told(self.telemetry.calling(job, self.server)) as call:
            answer = await self.provider.embed(request, job)
            call.answered(_answer(answer.model, answer.usage))
            return answer


@asynccontextmanager
async def _failures_told(call: Call) -> AsyncIterator[Call]:
    try:
        yield call
    except BaseException as error:
        call.failed(error)
        raise


class _FirstToken:
    """Passes text on, and tells when the first of it comes."""

    def __init__(self, call: Call, tell: Tell) -> None:
        self._call = call
        self._tell = tell
        self._begun = False

    def __call__(self, text: str) -> None:
        if text and not self._begun:
            self._begun = True
            self._call.first_token()
        self._tell(text)


def _answer(model: str, usage: Usage | UnsetType, finish_reason: str | UnsetType = UNSET) -> Answer:
    counted = usage or Usage()
    return Answer(
        model=model,
        input_tokens=_set(counted.prompt_tokens),
        output_tokens=_set(counted.completion_tokens),
        finish_reason=None if finish_reason is UNSET else finish_reason,
    )


def _set(count: int | UnsetType) -> int | None:
    return None if count is UNSET else count
