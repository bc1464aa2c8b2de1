"""Runs chat jobs of every task type."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from actors.chain import Backend, Chain
from actors.desk import Performed
from actors.limits import within_limit
from actors.telling import Tellings
from domain.chat import ChatAnswer, parse_chat_input
from domain.job import LeasedJob
from domain.ports import ChatProvider
from domain.results import ChatResult


@dataclass(frozen=True)
class Chat:
    chain: Chain[ChatProvider]
    max_result_bytes: int
    tellings: Tellings

    async def __call__(self, job: LeasedJob) -> Performed:
        """The job's `ai.chat_result.v1` as JSON.

        Raises:
            RunFailed, BadInput.
        """
        began = time.monotonic()
        request = parse_chat_input(job.input)

        with self.tellings.of(job) as telling:

            async def ask(backend: Backend[ChatProvider]) -> ChatAnswer:
                telling.begin()
                return await backend.provider.chat(request, job, telling)

            answered = await self.chain.ask(job, ask, bound=lambda: telling.bound)
        answer = answered.answer
        result = ChatResult(
            content=answer.content,
            provider=answered.provider,
            model=answer.model,
            finish_reason=answer.finish_reason,
            attempts=answered.attempts or UNSET,
            usage=answer.usage,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        return Performed(within_limit(msgspec.json.encode(result), self.max_result_bytes), answered.attempts)
