from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from adapters.providers.openai_embeddings import LONGEST_ANSWER, OpenAIEmbeddings
from domain.embedding import EmbeddingAnswer, EmbeddingRequest
from domain.errors import ErrorCode, Failure, RunFailed
from domain.results import Usage
from tests.adapters.providers.factories import a_job
from tests.servers.dialects import embeddings, embeds
from tests.servers.model_server import Behaviour, ModelServer, refuses, sends, stalls

KEY = "k-very-secret"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(default=embeds()) as server:
        yield server


def a_provider(client: httpx.AsyncClient, base_url: str, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        client, **{"model": "m", "base_url": base_url, "api_key": KEY, "timeout": timedelta(seconds=30), **options}
    )


@pytest.fixture
def provider(server: ModelServer, client: httpx.AsyncClient) -> OpenAIEmbeddings:
    return a_provider(client, server.base_url)


async def embed(provider: OpenAIEmbeddings, *texts: str, **options: Any) -> EmbeddingAnswer:
    return await provider.embed(EmbeddingRequest(input=list(texts or ("Hi",)), **options), a_job())


async def failure(provider: OpenAIEmbeddings, *texts: str, **options: Any) -> Failure:
    with pytest.raises(RunFailed) as failed:
        await embed(provider, *texts, **options)
    return failed.value.failure


async def test_each_text_has_its_vector(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    answer = await embed(provider, "a", "bb")
    assert answer.embeddings == ((1.0, 0.0, 0.0), (2.0, 0.0, 0.0))
    assert answer.model == "scripted-model"
    assert answer.usage == Usage(prompt_tokens=4, total_tokens=4)


async def test_the_request_is_what_such_servers_expect(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    await embed(provider, "Привет", dimensions=3)
    [request] = server.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/embeddings", f"Bearer {KEY}")
    assert request.json == {"model": "m", "input": ["Привет"], "dimensions": 3, "encoding_format": "float"}


async def test_many_texts_are_sent_in_parts_and_keep_their_order(
    server: ModelServer, client: httpx.AsyncClient
) -> None:
    texts = ["x" * length for length in range(1, 8)]
    answer = await embed(a_provider(client, server.base_url, batch=3), *texts)
    assert [vector[0] for vector in answer.embeddings] == [1, 2, 3, 4, 5, 6, 7]
    assert [len(body["input"]) for body in server.bodies] == [3, 3, 1]
    assert answer.usage == Usage(prompt_tokens=14, total_tokens=14)


async def test_vectors_without_a_number_count_in_their_order(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    server.script(refuses(200, {"data": [{"embedding": [1]}, {"embedding": [2]}]}))
    answer = await embed(provider, "a", "b")
    assert (answer.embeddings, answer.model) == (((1.0,), (2.0,)), "m")
    assert not answer.usage


A, B = [1.0, 0.0], [0.0, 1.0]


def given(*vectors: dict[str, Any]) -> Behaviour:
    return refuses(200, {"data": list(vectors)})


FAILURES: dict[str, tuple[Behaviour, ErrorCode]] = {
    "has one vector too few": (refuses(200, embeddings(A)), ErrorCode.BAD_RESPONSE),
    "has one too many": (refuses(200, embeddings(A, B, A)), ErrorCode.BAD_RESPONSE),
    "has none": (refuses(200, {"data": []}), ErrorCode.BAD_RESPONSE),
    "has no data": (refuses(200, {"object": "list"}), ErrorCode.BAD_RESPONSE),
    "is in another order": (
        given({"index": 1, "embedding": A}, {"index": 0, "embedding": B}),
        ErrorCode.BAD_RESPONSE,
    ),
    "has vectors of different lengths": (refuses(200, embeddings(A, [1.0])), ErrorCode.BAD_RESPONSE),
    "has empty vectors": (refuses(200, embeddings([], [])), ErrorCode.BAD_RESPONSE),
    "has no numbers": (given({"embedding": None}, {"embedding": None}), ErrorCode.BAD_RESPONSE),
    "has numbers in base64": (given({"embedding": "AACAPw=="}, {"embedding": "AACAPw=="}), ErrorCode.BAD_RESPONSE),
    "has nan": (
        refuses(200, '{"data": [{"embedding": [NaN, 0]}, {"embedding": [1, 0]}]}'),
        ErrorCode.BAD_RESPONSE,
    ),
    "has a number beyond all": (
        refuses(200, '{"data": [{"embedding": [1e999, 0]}, {"embedding": [1, 0]}]}'),
        ErrorCode.BAD_RESPONSE,
    ),
    "is html": (refuses(200, "<html>Welcome</html>"), ErrorCode.BAD_RESPONSE),
    "is an error after 200": (refuses(200, {"error": {"type": "rate_limit_error"}}), ErrorCode.RATE_LIMITED),
    "is too long a text": (
        refuses(400, {"error": "the input length exceeds the context length"}),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "is an unknown model": (
        refuses(404, {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}}),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "is a chat model": (refuses(501, {"error": {"message": "not supported"}}), ErrorCode.BAD_INPUT),
    "is busy": (refuses(503, {"error": "server busy"}), ErrorCode.PROVIDER_UNAVAILABLE),
    "is a bad key": (refuses(401, {"error": "Unauthorized"}), ErrorCode.AUTH_ERROR),
    "is no money": (refuses(429, {"error": {"code": "insufficient_quota"}}), ErrorCode.QUOTA_EXHAUSTED),
    "is cut": (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"), ErrorCode.PROVIDER_UNAVAILABLE),
    "never comes": (stalls(headers_first=False), ErrorCode.TIMEOUT),
}


@pytest.mark.parametrize(("behaviour", "code"), FAILURES.values(), ids=FAILURES)
async def test_an_answer_fails_that(
    server: ModelServer, provider: OpenAIEmbeddings, behaviour: Behaviour, code: ErrorCode
) -> None:
    server.script(behaviour)
    assert (await failure(provider, "a", "b")).code is code


async def test_vectors_of_another_length_than_was_asked_for_are_none(
    server: ModelServer, provider: OpenAIEmbeddings
) -> None:
    assert (await failure(provider, dimensions=4)).code is ErrorCode.BAD_RESPONSE


async def test_parts_whose_vectors_differ_in_length_are_no_answer(
    server: ModelServer, client: httpx.AsyncClient
) -> None:
    server.script(embeds(3), embeds(4))
    assert (await failure(a_provider(client, server.base_url, batch=1), "a", "b")).code is ErrorCode.BAD_RESPONSE


async def test_the_wait_that_is_asked_for_is_kept(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    server.script(refuses(429, "", headers={"retry-after": "7"}))
    assert (await failure(provider)).retry_after == timedelta(seconds=7)


async def test_neither_key_nor_text_comes_back_in_a_message(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    text = "my left knee has been hurting"
    server.script(refuses(400, {"error": f"{KEY}: cannot embed '{text}'"}))
    assert (await failure(provider, text)).message == "The provider answered 400: ***: cannot embed '***'"
    assert KEY not in repr(provider)


async def test_all_parts_share_one_time(client: httpx.AsyncClient) -> None:
    with ModelServer(default=stalls(headers_first=False)) as server:
        provider = a_provider(client, server.base_url, timeout=timedelta(seconds=0.2))
        assert await failure(provider) == Failure(ErrorCode.TIMEOUT, "The answer was not complete after 0.2 s.")


async def test_a_cancelled_call_hangs_up_at_once(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    server.script(stalls(headers_first=False))
    call = asyncio.create_task(embed(provider))
    await server.until(lambda server: server.running == 1)
    call.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.until(lambda server: server.hang_ups == 1)


async def test_an_answer_without_end_is_broken_off(server: ModelServer, provider: OpenAIEmbeddings) -> None:
    server.script(sends(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (LONGEST_ANSWER + (1 << 20))))
    assert (await failure(provider)).code is ErrorCode.BAD_RESPONSE
