"""A provider without a model, to try the service out and to test callers against: deterministic, and fails on request.

It says what it is in every result's `model`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from adapters.providers.specimen import NothingFits, specimen
from domain.chat import ChatAnswer, ChatRequest, Message
from domain.errors import ErrorCode, Problem, RunFailed
from domain.job import LeasedJob
from domain.ports import Tell, nobody
from domain.results import Usage

MODEL = "practice"
LONGEST_DELAY_MS = 3_600_000


class Practice(Struct, frozen=True, forbid_unknown_fields=True):
    """How a job asks to be treated: the `practice` of its input."""

    error_code: ErrorCode | None = None
    times: Annotated[int, Meta(ge=0)] | None = None
    """How many runs fail before one succeeds; without it every run fails."""
    delay_ms: Annotated[int, Meta(ge=0, le=LONGEST_DELAY_MS)] = 0

    def fails(self, runs_before: int) -> bool:
        return self.error_code is not None and (self.times is None or runs_before < self.times)


class _Input(Struct):
    practice: Practice | None = None


_decoder = msgspec.json.Decoder(_Input)


class PracticeProvider:
    """Answers at once, unless the job asks for a delay."""

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        practice = _practice(job)
        if practice.delay_ms:
            await asyncio.sleep(practice.delay_ms / 1000)
        if practice.error_code and practice.fails(job.attempts + job.give_backs):
            raise RunFailed(practice.error_code, "The job asked the practice provider to fail.")
        content = _content(request)
        return ChatAnswer(content=content, model=MODEL, usage=_usage(request, content))


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
