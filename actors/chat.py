"""Runs chat jobs of every task type."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from actors.telling import Tellings
from domain.chat import parse_chat_input
from domain.errors import ErrorCode, RunFailed
from domain.job import LeasedJob
from domain.ports import ChatProvider
from domain.results import ChatResult


@dataclass(frozen=True)
class Chat:
    providers: Mapping[str, ChatProvider]
    """By model profile."""
    max_result_bytes: int
    tellings: Tellings

    async def __call__(self, job: LeasedJob) -> bytes:
        """The job's `ai.chat_result.v1` as JSON.

        Raises:
            RunFailed, BadInput.
        """
        began = time.monotonic()
        provider = self.providers.get(job.model_profile)
        if provider is None:
            raise RunFailed(ErrorCode.MODEL_UNAVAILABLE, f"This worker does not serve {job.model_profile}.")
        with self.tellings.of(job) as tell:
            answer = await provider.chat(parse_chat_input(job.input), job, tell)
        result = msgspec.json.encode(
            ChatResult(
                content=answer.content,
                model=answer.model,
                usage=answer.usage,
                duration_ms=round((time.monotonic() - began) * 1000),
            )
        )
        if len(result) > self.max_result_bytes:
            message = f"The result has {len(result)} bytes; at most {self.max_result_bytes} are stored."
            raise RunFailed(ErrorCode.BAD_RESPONSE, message)
        return result
