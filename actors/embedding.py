"""Runs embedding jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from actors.chain import Backend, Chain
from actors.desk import Performed
from actors.limits import within_limit
from domain.embedding import EmbeddingAnswer, parse_embedding_input
from domain.job import LeasedJob
from domain.ports import EmbeddingProvider
from domain.results import EmbeddingResult


@dataclass(frozen=True)
class Embedding:
    chain: Chain[EmbeddingProvider]
    max_result_bytes: int

    async def __call__(self, job: LeasedJob, asked: Raw | None = None) -> Performed:
        """The job's `ai.embedding_result.v1` as JSON.

        Args:
            asked: for it, where that is not its input.

        Raises:
            RunFailed, BadInput.
        """
        began = time.monotonic()
        request = parse_embedding_input(job.input if asked is None else asked)

        async def ask(backend: Backend[EmbeddingProvider]) -> EmbeddingAnswer:
            return await backend.provider.embed(request, job)

        answered = await self.chain.ask(job, ask)
        result = EmbeddingResult(
            embeddings=answered.answer.embeddings,
            model=answered.answer.model,
            usage=answered.answer.usage,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        return Performed(within_limit(msgspec.json.encode(result), self.max_result_bytes), answered.attempts)
