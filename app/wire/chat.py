"""Chats: a question in one request, its answer at once, token by token, or fetched later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from app.wire.body import decode
from app.wire.fields import (
    MOST_LABELS,
    PRIORITIES,
    JsonObject,
    LabelName,
    LabelValue,
    Name,
    OwnerRef,
    PriorityName,
)
from app.wire.idempotency import read_key
from app.wire.problem import ProblemDetails
from domain.chat import Message, Seed, TokenCount
from domain.errors import BadInput, ErrorCode, Problem
from domain.job import Job, JobStatus
from domain.results import Usage
from domain.usecases.converse import Chatted, Question

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"

LONGEST_TIMEOUT = 86_400

RESPONSE_FORMAT = {
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "enum": ["text", "json_object", "json_schema"]},
        "json_schema": {
            "anyOf": [
                {
                    "type": "object",
                    "required": ["schema"],
                    "properties": {
                        "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                        "schema": {"anyOf": [{"type": "object"}, {"type": "boolean"}]},
                    },
                },
                {"type": "null"},
            ]
        },
    },
}
"""What is read of it; no struct, because all else in it goes to the provider as well."""


class ChatRequestBody(Struct, kw_only=True, frozen=True):
    """A question to a chat model. Give `messages`, or `user` with an optional `system`; other fields are not read."""

    messages: Annotated[list[Message], Meta(min_length=1)] | UnsetType | None = UNSET
    system: str | UnsetType | None = UNSET
    user: Annotated[str, Meta(min_length=1)] | UnsetType | None = UNSET
    max_tokens: TokenCount | UnsetType | None = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType | None = UNSET
    top_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType | None = UNSET
    stop: str | list[str] | UnsetType | None = UNSET
    seed: Seed | UnsetType | None = UNSET
    response_format: (
        Annotated[
            dict[str, Any],
            Meta(
                description="As OpenAI's API knows it: `json_object`, or `json_schema` with a schema.",
                extra_json_schema=RESPONSE_FORMAT,
            ),
        ]
        | UnsetType
        | None
    ) = UNSET
    model: (
        Annotated[str, Meta(description="A profile, or a profile's model; any other means the active one.")]
        | UnsetType
        | None
    ) = UNSET
    priority: PriorityName | UnsetType | None = UNSET
    timeout: (
        Annotated[
            float,
            Meta(ge=1, le=LONGEST_TIMEOUT, description="Seconds from the submission. Left out: `CHAT_TIMEOUT`."),
        ]
        | UnsetType
        | None
    ) = UNSET
    owner_service: (
        Annotated[Name, Meta(description="Left out: the token's, or `default` where that has none.")] | UnsetType | None
    ) = UNSET
    owner_ref: OwnerRef | None = ""
    labels: Annotated[dict[LabelName, LabelValue], Meta(max_length=MOST_LABELS)] | UnsetType | None = UNSET


ASKED = ("messages", "system", "user", "max_tokens", "temperature", "top_p", "stop", "seed", "response_format")
"""The fields that make a chat job's input."""


class ChatView(Struct, kw_only=True, frozen=True):
    """What a chat model answered."""

    job_id: UUID
    content: str
    model: Annotated[str, Meta(description="The model that answered, as the provider named it.")]
    provider: Annotated[str, Meta(description="What kind of server answered: `vllm`, `ollama` ...")]
    usage: Annotated[Usage | None, Meta(description="Tokens, where the provider counted them.")]
    finish_reason: Annotated[str | None, Meta(description="`length`: the answer was cut at its limit.")]
    duration_ms: Annotated[int, Meta(description="Of the run itself, without the wait before.")]

    @classmethod
    def of(cls, chatted: Chatted) -> ChatView:
        return cls(
            job_id=chatted.job.id,
            content=chatted.content,
            model=chatted.model,
            provider=chatted.provider,
            usage=None if chatted.usage is UNSET else chatted.usage,
            finish_reason=None if chatted.finish_reason is UNSET else chatted.finish_reason,
            duration_ms=chatted.duration_ms,
        )


class TokenView(Struct, frozen=True):
    """A part of an answer."""

    offset: Annotated[int, Meta(description="Where in the answer it stands, in characters.")]
    text: str


class QueuedView(Struct, kw_only=True, frozen=True):
    """A chat, stored."""

    job_id: UUID
    position: Annotated[int | None, Meta(description="Jobs before it in line; null where it does not wait.")]


class QueuedJobView(Struct, kw_only=True, frozen=True):
    """A chat that was enqueued, as it is now."""

    job_id: UUID
    status: JobStatus
    position: Annotated[int | None, Meta(description="Jobs before it in line; null where it does not wait.")]
    result: JsonObject | None
    error: Annotated[str | None, Meta(description="Why it failed, or what its last run met.")]
    error_code: ErrorCode | None

    @classmethod
    def of(cls, job: Job, position: int | None) -> QueuedJobView:
        return cls(
            job_id=job.id,
            status=job.status,
            position=position,
            result=job.result,
            error=job.failure.message if job.failure else None,
            error_code=job.failure.code if job.failure else None,
        )


class WithdrawnView(Struct, kw_only=True, frozen=True):
    """A chat that will not start."""

    job_id: UUID
    status: JobStatus


_questions = msgspec.json.Decoder(ChatRequestBody)


def read_question(body: bytes, key_headers: Sequence[str] = (), *, streamed: bool = False) -> Question:
    """A question from the body of a request.

    Args:
        streamed: somebody waits for its text as it comes.

    Raises:
        UnreadableBody, BadInput.
    """
    given = decode(_questions, body)
    if not given.messages and not given.user:
        raise BadInput([Problem("/messages", "give `messages`, or `user` with an optional `system`")])
    fields = {name: value for name in ASKED if (value := getattr(given, name)) not in (UNSET, None)}
    return Question(
        input=Raw(msgspec.json.encode({**fields, "stream": True} if streamed else fields)),
        model=given.model or None,
        owner_service=given.owner_service or None,
        owner_ref=given.owner_ref or "",
        priority=PRIORITIES[given.priority] if given.priority else None,
        labels=given.labels or {},
        timeout=timedelta(seconds=given.timeout) if given.timeout else None,
        idempotency=read_key(key_headers, UNSET, body),
    )


def token_event(offset: int, text: str) -> bytes:
    return _event(b"token", TokenView(offset, text))


def done_event(chatted: Chatted) -> bytes:
    return _event(b"done", ChatView.of(chatted))


def error_event(problem: ProblemDetails) -> bytes:
    return _event(b"error", problem)


def _event(name: bytes, data: Struct) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name, msgspec.json.encode(data))
