"""Requests and jobs that are valid by default."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from msgspec import Raw

from domain.chat import ChatRequest, Message
from domain.job import JobId, Lease, LeasedJob, LeaseToken, Priority


def a_request(*messages: Message, **options: Any) -> ChatRequest:
    return ChatRequest(
        messages=list(messages) or [Message("user", "Who discovered the sources of the Nile?")], **options
    )


def a_job(input_: object = None, *, attempts: int = 0, give_backs: int = 0) -> LeasedJob:
    return LeasedJob(
        lease=Lease(JobId(UUID(int=1)), LeaseToken(UUID(int=2))),
        task_type="llm_chat",
        model_profile="practice",
        owner_service="tests",
        queue="gpu.llm",
        priority=Priority.NORMAL,
        attempts=attempts,
        max_attempts=3,
        give_backs=give_backs,
        number=2,
        input=Raw(json.dumps(input_ or {}).encode()),
    )
