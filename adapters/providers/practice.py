"""A provider without a model, to try the service out and to test callers against: deterministic, and fails on request.

It says what it is in every result's `model`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from adapters.providers.specimen import NothingFits, specimen
from domain.chat import ChatAnswer, ChatRequest, Message
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.errors import ErrorCode, Problem, RunFailed
from domain.job import LeasedJob
from domain.ports import Tell, nobody
from domain.results import Usage

MODEL = "practice"
LONGEST_DELAY_MS = 3_600_000
DIMENSIONS = 64
"""Of an embedding, where a job asks for no other number."""


class Practice(Struct, frozen=True, forbid_unknown_fields=True):
    """How a job asks to be treated: the `practice` of its input."""

    error_code: ErrorCode | None = None
    times: Annotated[int, Meta(ge=0)] | None = None
    """How many runs fail before one succeeds; without it every run fails."""
    delay_ms: Annotated[int, Meta(ge=0, le=LONGEST_DELAY_MS)] = 0
    tokens_per_second: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    """How fast an answer comes, word by word; without it it comes at once."""

    def fails(self, runs_before: int) -> bool:
        return self.error_code is not None and (self.times is None or runs_before < self.times)


class _Input(Struct):
    practice: Practice | None = None


_decoder = msgspec.json.Decoder(_Input)


class PracticeProvider:
    """Answers at once, unless the job asks for a delay."""

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        practice = await practise(job)
        content = _content(request)
        await _speak(content, practice.tokens_per_second, tell)
        return ChatAnswer(content=content, model=MODEL, usage=_usage(request, content), finish_reason="stop")


class PracticeEmbeddings:
    """Vectors of length one that mean nothing: the same for the same text, another for another."""

    async def embed(self, request: EmbeddingRequest, job: LeasedJob) -> EmbeddingAnswer:
        await practise(job)
        words = sum(len(text.split()) for text in request.input)
        return EmbeddingAnswer(
            embeddings=tuple(_vector(text, request.dimensions or DIMENSIONS) for text in request.input),
            model=MODEL,
            usage=Usage(prompt_tokens=words, total_tokens=words),
        )


def _vector(text: str, dimensions: int) -> tuple[float, ...]:
    digest = memoryview(hashlib.shake_256(text.encode(errors="replace")).digest(4 * dimensions)).cast("I")
    # In the middle between whole numbers: none is zero.
    numbers = [number + 0.5 - 2**31 for number in digest]
    length = math.sqrt(sum(number * number for number in numbers))
    return tuple(number / length for number in numbers)


async def _speak(content: str, tokens_per_second: float | None, tell: Tell) -> None:
    if tokens_per_second is None:
        tell(content)
        return
    for word in re.findall(r"\s*\S+\s*", content):
        await asyncio.sleep(1 / tokens_per_second)
        tell(word)


async def practise(job: LeasedJob) -> Practice:
    """Wait and fail as the job asks for."""
    practice = _practice(job)
    if practice.delay_ms:
        await asyncio.sleep(practice.delay_ms / 1000)
    if practice.error_code and practice.fails(job.attempts + job.give_backs):
        raise RunFailed(practice.error_code, "The job asked the practice provider to fail.")
    return practice


def _practice(job: LeasedJob) -> Practice:
    try:
        return _decoder.decode(job.input).practice or Practice()
    except msgspec.ValidationError as error:
        problem = Problem.of(error)
        raise RunFailed(ErrorCode.BAD_INPUT, f"{problem.pointer}: {problem.detail}") from error


def _content(request: ChatRequest) -> str:
    answer = f"Practice answer to: {_last_question(request)}"
    if not request.wants_json:
        return answer
    return msgspec.json.encode(_document(request.response_format or {}, answer)).decode()


def _document(response_format: dict[str, Any], answer: str) -> Any:
    wanted = response_format.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if response_format.get("type") == "json_object" or schema is None:
        return {"answer": answer}
    try:
        return specimen(schema)
    except NothingFits as error:
        raise RunFailed(
            ErrorCode.BAD_INPUT, "The practice provider found nothing that fits the JSON schema."
        ) from error


def _last_question(request: ChatRequest) -> str:
    from_user = (message for message in reversed(request.messages) if message.role == "user")
    return _text(next(from_user, request.messages[-1]))


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return " ".join(part["text"] for part in message.content if isinstance(part.get("text"), str))


def _usage(request: ChatRequest, content: str) -> Usage:
    asked = sum(len(_text(message).split()) for message in request.messages)
    answered = len(content.split())
    return Usage(prompt_tokens=asked, completion_tokens=answered, total_tokens=asked + answered)
