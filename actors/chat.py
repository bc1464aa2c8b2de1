"""Runs chat jobs of every task type."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from domain.chat import SCHEMA_AT, parse_chat_input
from domain.errors import BadInput, ErrorCode, RunFailed
from domain.job import LeasedJob
from domain.ports import ChatProvider, Schemas
from domain.results import ChatResult

NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)


@dataclass(frozen=True)
class Chat:
    providers: Mapping[str, ChatProvider]
    """By model profile."""
    max_result_bytes: int
    schemas: Schemas

    async def __call__(self, job: LeasedJob) -> bytes:
        """The job's `ai.chat_result.v1` as JSON.

        Raises:
            RunFailed, BadInput.
        """
        began = time.monotonic()
        provider = self.providers.get(job.model_profile)
        if provider is None:
            raise RunFailed(ErrorCode.MODEL_UNAVAILABLE, f"This worker does not serve {job.model_profile}.")
        request = parse_chat_input(job.input)
        answer = await provider.chat(request, job)
        self._must_fit(answer.content, request.schema)
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

    def _must_fit(self, content: str, schema: object | None) -> None:
        if schema is None:
            return
        try:
            document = msgspec.json.decode(content)
        except NOT_JSON as error:
            raise RunFailed(ErrorCode.BAD_RESPONSE, "The answer is not the JSON that was asked for.") from error
        try:
            misfit = self.schemas.misfit(schema, document)
        except BadInput as error:
            raise BadInput([problem.below(SCHEMA_AT) for problem in error.problems], error.code) from None
        if misfit:
            raise RunFailed(ErrorCode.BAD_RESPONSE, f"The answer does not fit the JSON schema: {misfit}")
