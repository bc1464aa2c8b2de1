"""Embeddings from whatever speaks OpenAI's API: vLLM, llama-server, Ollama, LM Studio, the clouds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.providers import classify
from adapters.providers.client import HEADERS, NOT_JSON, bearer, below, read, read_error, utc_now, within
from adapters.providers.incoming import bad_response, counted
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.errors import RunFailed
from domain.job import LeasedJob
from domain.results import Usage

BATCH = 64
LONGEST_ANSWER = 64 << 20
"""Bytes: 64 vectors of 16,384 numbers, printed at full length, are a third of it."""


class _Vector(Struct):
    embedding: list[float]
    index: int | None = None


class _Answer(Struct):
    data: list[_Vector] | None = None
    model: str | None = None
    usage: Any = None
    error: Raw | UnsetType = UNSET


_answers = msgspec.json.Decoder(_Answer)


class OpenAIEmbeddings:
    """One model of one server.

    Args:
        base_url: where the API begins: `http://host:8000/v1`, or `http://host:8000`.
        api_key: sent as a bearer token, shown nowhere.
        timeout: for a whole job.
        batch: texts of one request, at most; a job with more is asked for in parts, one after another.
        clock: what a `Retry-After` that is a date is compared with.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        model: str,
        base_url: str,
        api_key: str = "",
        timeout: timedelta,
        batch: int = BATCH,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.model = model
        self.url = below(base_url, "embeddings")
        self._client = client
        self._api_key = api_key
        self._timeout = timeout
        self._batch = batch
        self._clock = clock

    def __repr__(self) -> str:
        return f"OpenAIEmbeddings(model={self.model!r})"

    async def embed(self, request: EmbeddingRequest, job: LeasedJob) -> EmbeddingAnswer:
        async with within(self._timeout):
            answers = [await self._ask(texts, request) for texts in _batches(request.input, self._batch)]
        vectors = [vector for answer in answers for vector in _vectors(answer)]
        _must_be_alike(vectors, request)
        model = next((answer.model for answer in answers if answer.model), self.model)
        return EmbeddingAnswer(embeddings=tuple(vectors), model=model, usage=_usage(answers))

    async def _ask(self, texts: list[str], request: EmbeddingRequest) -> _Answer:
        body = {**msgspec.to_builtins(request), "model": self.model, "input": texts, "encoding_format": "float"}
        private = (self._api_key, *texts)
        headers = {**HEADERS, **bearer(self._api_key), "accept": "application/json"}
        sent = self._client.stream("POST", self.url, content=msgspec.json.encode(body), headers=headers)
        async with sent as response:
            if not response.is_success:
                said = await read_error(response)
                failure = classify.answer(response.status_code, response.headers, said, self._clock(), private)
                raise RunFailed.of(failure)
            answer = _decode(await read(response, LONGEST_ANSWER), private)
        if len(answer.data or ()) != len(texts):
            raise bad_response(f"The provider gave {len(answer.data or ())} vectors for {len(texts)} texts.")
        return answer


def _batches(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _decode(body: bytes, private: tuple[str, ...]) -> _Answer:
    try:
        answer = _answers.decode(body)
    except NOT_JSON as error:
        raise bad_response("The provider's answer holds no embeddings.") from error
    if answer.error is not UNSET and bytes(answer.error) != b"null":
        raise RunFailed.of(classify.stream_error(body, private))
    return answer


def _vectors(answer: _Answer) -> Iterator[tuple[float, ...]]:
    for place, vector in enumerate(answer.data or ()):
        if vector.index not in (None, place):
            raise bad_response("The provider's vectors are not in the order of the texts.")
        if not all(map(math.isfinite, vector.embedding)):
            raise bad_response("A vector holds what is no finite number.")
        yield tuple(vector.embedding)


def _must_be_alike(vectors: list[tuple[float, ...]], request: EmbeddingRequest) -> None:
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1 or 0 in lengths:
        raise bad_response("The provider's vectors are not all of one length.")
    if request.dimensions is not UNSET and request.dimensions not in lengths:
        raise bad_response(f"The provider's vectors do not have the {request.dimensions} dimensions asked for.")


def _usage(answers: list[_Answer]) -> Usage | UnsetType:
    """The sum of what every part took; nothing where one does not tell."""
    counts = [counted(answer.usage if isinstance(answer.usage, dict) else {}) for answer in answers]
    if not all("prompt_tokens" in count for count in counts):
        return UNSET
    prompt = sum(count["prompt_tokens"] for count in counts)
    return Usage(prompt_tokens=prompt, total_tokens=sum(count.get("total_tokens", 0) for count in counts) or prompt)
