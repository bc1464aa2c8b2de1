"""Runs chat jobs of every task type."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, Raw

from actors.chain import Backend, Chain
from actors.desk import Performed
from actors.limits import within_limit
from actors.telling import Tellings
from domain.chat import SCHEMA_AT, ChatAnswer, parse_chat_input
from domain.errors import BadInput, ErrorCode, RunFailed
from domain.job import LeasedJob
from domain.ports import ChatProvider, Schemas
from domain.results import ChatResult

NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)


@dataclass(frozen=True)
class Chat:
    chain: Chain[ChatProvider]
    max_result_bytes: int
    schemas: Schemas
    tellings: Tellings

    async def __call__(self, job: LeasedJob, asked: Raw | None = None) -> Performed:
        """The job's `ai.chat_result.v1` as JSON.

        Args:
            asked: for it, where that is not its input.

        Raises:
            RunFailed, BadInput.
        """
        began = time.monotonic()
        request = parse_chat_input(job.input if asked is None else asked)

        with self.tellings.of(job) as telling:

            async def ask(backend: Backend[ChatProvider]) -> ChatAnswer:
                telling.begin()
                answer = await backend.provider.chat(request, job, telling)
                await self._must_fit(answer.content, request.schema)
                return answer

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

    async def _must_fit(self, content: str, schema: object | None) -> None:
        if schema is None:
            return
        try:
            document = msgspec.json.decode(content)
        except NOT_JSON as error:
            raise RunFailed(ErrorCode.BAD_RESPONSE, "The answer is not the JSON that was asked for.") from error
        try:
            misfit = await self.schemas.misfit(schema, document)
        except BadInput as error:
            raise BadInput([problem.below(SCHEMA_AT) for problem in error.problems], error.code) from None
        if misfit:
            raise RunFailed(ErrorCode.BAD_RESPONSE, f"The answer does not fit the JSON schema: {misfit}")
