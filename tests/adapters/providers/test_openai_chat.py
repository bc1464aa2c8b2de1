"""Against servers that behave, and servers that do not: real HTTP, real cuts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from llmock.scenarios import Fail, Match, Reply, StreamFault
from llmock.testing import LLMockServer

from adapters.providers.client import open_client
from adapters.providers.incoming import LONGEST_ANSWER
from adapters.providers.openai_chat import OpenAIChatProvider, completions_url
from adapters.providers.sse import LONGEST_EVENT
from domain.chat import ChatAnswer, ChatRequest, Message
from domain.errors import ErrorCode, Failure, RunFailed
from tests.adapters.providers.factories import a_job, a_request
from tests.servers.model_server import (
    Behaviour,
    ModelServer,
    chunk,
    completion,
    cuts,
    refuses,
    says,
    sends,
    stalls,
    stream,
    streams,
)

KEY = "k-very-secret"
NO_WAIT = timedelta(seconds=30)


@pytest.fixture(scope="module")
def llmock() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture
def provider(server: ModelServer, client: httpx.AsyncClient) -> OpenAIChatProvider:
    return OpenAIChatProvider(client, model="m", base_url=server.base_url, api_key=KEY, timeout=NO_WAIT)


async def ask(provider: OpenAIChatProvider, request: ChatRequest | None = None) -> ChatAnswer:
    return await provider.chat(request or a_request(), a_job())


async def failure(provider: OpenAIChatProvider, request: ChatRequest | None = None) -> Failure:
    with pytest.raises(RunFailed) as failed:
        await ask(provider, request)
    return failed.value.failure


def delta(content: str | None = None, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": content, **fields}, "finish_reason": finish_reason}


DONE = b"data: [DONE]\n\n"
JSON_WANTED = a_request(response_format={"type": "json_object"})


async def test_an_answer_is_put_together_from_its_pieces(server: ModelServer, provider: OpenAIChatProvider) -> None:
    server.script(says("Speke did, in 1858.", model="the real name"))
    answer = await ask(provider)
    assert (answer.content, answer.model) == ("Speke did, in 1858.", "the real name")
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)


async def test_the_request_is_what_such_servers_expect(server: ModelServer, provider: OpenAIChatProvider) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "Привет"}]
    await ask(provider, a_request(Message("system", "Be brief."), Message("user", parts), max_tokens=5, stop=["."]))
    [request] = server.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert request.headers["content-type"] == "application/json"
    assert request.json == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}],
        "max_tokens": 5,
        "stop": ["."],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_without_a_key_there_is_no_authorization(server: ModelServer, client: httpx.AsyncClient) -> None:
    await ask(OpenAIChatProvider(client, model="m", base_url=server.base_url, timeout=NO_WAIT))
    assert "authorization" not in server.requests[0].headers


class Secret(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__


async def test_a_key_that_prints_as_stars_is_sent_as_it_is(server: ModelServer, client: httpx.AsyncClient) -> None:
    provider = OpenAIChatProvider(client, model="m", base_url=server.base_url, api_key=Secret(KEY), timeout=NO_WAIT)
    await ask(provider)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_key_is_not_shown() -> None:
    provider = OpenAIChatProvider(httpx.AsyncClient(), model="m", base_url="http://a", api_key=KEY, timeout=NO_WAIT)
    assert KEY not in repr(provider)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://a:8000", "http://a:8000/v1/chat/completions"),
        ("http://a:8000/", "http://a:8000/v1/chat/completions"),
        ("http://a:8000/v1", "http://a:8000/v1/chat/completions"),
        ("http://a:8000/v1/", "http://a:8000/v1/chat/completions"),
        ("https://a/openai/v2", "https://a/openai/v2/chat/completions"),
        ("https://a/v1?api-version=1", "https://a/v1/chat/completions?api-version=1"),
    ],
)
def test_the_address_is_completed(base_url: str, url: str) -> None:
    assert completions_url(base_url) == url


ANSWERS: dict[str, tuple[Behaviour, str]] = {
    "whole, from a server that does not stream": (refuses(200, json.loads(completion("Hi"))), "Hi"),
    "a whole one that is printed prettily": (refuses(200, json.dumps(json.loads(completion("Hi")), indent=2)), "Hi"),
    "a stream under the wrong name": (streams(*stream("Hi"), content_type="text/plain"), "Hi"),
    "cr lf": (streams(b"".join(stream("Hi there")).replace(b"\n", b"\r\n")), "Hi there"),
    "byte by byte": (streams(*(bytes([byte]) for byte in b"".join(stream("Hé")))), "Hé"),
    "no space after the colon": (streams(b"".join(stream("Hi")).replace(b"data: ", b"data:")), "Hi"),
    "comments and other fields": (streams(b": ping\n\nid: 1\nretry: 5\n", *stream("Hi")), "Hi"),
    "an event in two lines": (streams(b'data: {"choices":\ndata: [{"delta": {"content": "Hi"}}]}\n\n', DONE), "Hi"),
    "no [DONE], but a finish reason": (streams(chunk(delta("Hi", "stop"))), "Hi"),
    "no finish reason, but [DONE]": (streams(chunk(delta("Hi")), DONE), "Hi"),
    "no blank line at the end": (streams(chunk(delta("Hi")), b"data: [DONE]\n"), "Hi"),
    "cut after the finish reason": (cuts(chunk(delta("Hi", "stop"))), "Hi"),
    "another choice": (streams(chunk(delta("Hi", "stop"), {**delta("Ho"), "index": 1}), DONE), "Hi"),
    "an error that is null": (streams(chunk(delta("Hi", "stop"), error=None), DONE), "Hi"),
    "thoughts before words": (streams(chunk(delta(reasoning_content="Hm")), chunk(delta("Hi", "stop")), DONE), "Hi"),
    "a first delta without words, and fields of the server's own": (
        streams(
            chunk(delta(None, role="assistant"), system_fingerprint="b1"),
            chunk(delta("Hi"), timings={"cache_n": 0}),
            chunk(delta(finish_reason="stop"), timings={"predicted_per_second": 21.5}),
            DONE,
        ),
        "Hi",
    ),
    "cut at its token limit": (streams(chunk(delta("Hi", "length")), DONE), "Hi"),
    "a usage that makes no sense": (streams(chunk(delta("Hi", "stop"), usage="much"), DONE), "Hi"),
}


@pytest.mark.parametrize(("behaviour", "content"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_understood(
    server: ModelServer, provider: OpenAIChatProvider, behaviour: Behaviour, content: str
) -> None:
    told: list[str] = []
    server.script(behaviour)
    assert (await provider.chat(a_request(), a_job(), told.append)).content == content
    assert "".join(told) == content


LM_STUDIO = {"error": {"message": "Input does not fit in context length."}, "message": "Input does not fit."}

FAILURES: dict[str, tuple[Behaviour, ErrorCode]] = {
    "ends without finish": (streams(*stream("Hi there")[:3]), ErrorCode.PROVIDER_UNAVAILABLE),
    "ends within an event": (streams(stream("Hi")[0], b'data: {"cho'), ErrorCode.PROVIDER_UNAVAILABLE),
    "says nothing at all": (streams(), ErrorCode.PROVIDER_UNAVAILABLE),
    "is cut": (cuts(*stream("Hi there")[:3]), ErrorCode.PROVIDER_UNAVAILABLE),
    "is cut before the headers": (cuts(headers_first=False), ErrorCode.PROVIDER_UNAVAILABLE),
    "is cut in a whole answer": (
        sends(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "stalls before the headers": (stalls(headers_first=False), ErrorCode.TIMEOUT),
    "stalls after the headers": (stalls(), ErrorCode.TIMEOUT),
    "stalls in the middle": (stalls(*stream("Hi there")[:3]), ErrorCode.TIMEOUT),
    "is not http": (sends(b"SSH-2.0-OpenSSH\r\n\r\n"), ErrorCode.BAD_RESPONSE),
    "is html": (refuses(200, "<html>Welcome</html>"), ErrorCode.BAD_RESPONSE),
    "is nothing": (refuses(200, ""), ErrorCode.BAD_RESPONSE),
    "has no choices": (refuses(200, {"object": "chat.completion", "choices": []}), ErrorCode.BAD_RESPONSE),
    "has no choices in its stream": (streams(chunk(), DONE), ErrorCode.BAD_RESPONSE),
    "is empty": (streams(chunk(delta("", "stop")), DONE), ErrorCode.BAD_RESPONSE),
    "is blank": (streams(chunk(delta(" \n", "stop")), DONE), ErrorCode.BAD_RESPONSE),
    "is only thought": (streams(chunk(delta(reasoning_content="Hm", finish_reason="length"))), ErrorCode.BAD_RESPONSE),
    "is a refusal": (streams(chunk(delta(refusal="No.", finish_reason="stop")), DONE), ErrorCode.BAD_RESPONSE),
    "is filtered": (streams(chunk(delta(finish_reason="content_filter")), DONE), ErrorCode.BAD_RESPONSE),
    "is nonsense in the middle": (streams(stream("Hi")[0], b"data: {oops\n\n", DONE), ErrorCode.BAD_RESPONSE),
    "is one endless line": (streams(b"data: ", *[b"x" * 65536] * (LONGEST_EVENT // 65536 + 1)), ErrorCode.BAD_RESPONSE),
    "is one endless event": (streams(b"data: x\n" * (LONGEST_EVENT // 2 + 1)), ErrorCode.BAD_RESPONSE),
    "is nested beyond all measure": (streams(b"data: " + b"[" * 100_000 + b"\n\n"), ErrorCode.BAD_RESPONSE),
    "ran out of context": (streams(chunk(delta("Hi", "model_context_window_exceeded"))), ErrorCode.CONTEXT_LENGTH),
    "is an error event after 200": (
        streams(b"event: error\ndata: %s\n\n" % json.dumps(LM_STUDIO).encode()),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "is an error in its stream": (
        streams(*stream("Hi")[:2], b'data: {"error": {"message": "...", "code": 500}}\n\n'),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "is an error after 200": (refuses(200, {"error": {"type": "rate_limit_error"}}), ErrorCode.RATE_LIMITED),
    "is a flat error after 200": (refuses(200, {"object": "error", "code": 400}), ErrorCode.BAD_INPUT),
    "is a 401 with a string": (refuses(401, {"error": "Unauthorized"}), ErrorCode.AUTH_ERROR),
    "is a redirect": (refuses(307, "", headers={"location": "/elsewhere"}), ErrorCode.PROVIDER_ERROR),
    "is an error whose body never comes": (
        sends(b"HTTP/1.1 503 Busy\r\ncontent-length: 99\r\n\r\n"),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
}


@pytest.mark.parametrize(("behaviour", "code"), FAILURES.values(), ids=FAILURES)
async def test_an_answer_fails_that(
    server: ModelServer, provider: OpenAIChatProvider, behaviour: Behaviour, code: ErrorCode
) -> None:
    server.script(behaviour)
    assert (await failure(provider)).code is code
    assert server.calls == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        says("Sure! Here it is: {}"),
        says('{"a": 1', finish_reason="length"),
        says('{"a": 1}', finish_reason="length"),
        says("42"),
        says("[" * 100_000),
    ],
    ids=["prose", "cut", "whole but at the limit", "no object", "nested beyond all measure"],
)
async def test_where_json_is_wanted_nothing_else_will_do(
    server: ModelServer, provider: OpenAIChatProvider, behaviour: Behaviour
) -> None:
    server.script(behaviour)
    assert (await failure(provider, JSON_WANTED)).code is ErrorCode.BAD_RESPONSE


async def test_json_is_passed_on_as_it_came(server: ModelServer, provider: OpenAIChatProvider) -> None:
    server.script(says('{"a":  1}'))
    assert (await ask(provider, JSON_WANTED)).content == '{"a":  1}'


async def test_an_answer_without_end_is_broken_off(server: ModelServer, provider: OpenAIChatProvider) -> None:
    piece = chunk(delta("x" * (LONGEST_EVENT // 2)))
    server.script(stalls(*[piece] * (2 * LONGEST_ANSWER // LONGEST_EVENT + 2)))
    assert (await failure(provider)).code is ErrorCode.BAD_RESPONSE
    await server.until(lambda server: server.running == 0)


async def test_a_prompt_that_fills_a_known_context_explains_an_empty_answer(
    server: ModelServer, client: httpx.AsyncClient
) -> None:
    provider = OpenAIChatProvider(client, model="m", base_url=server.base_url, timeout=NO_WAIT, context_window=3000)
    server.script(streams(chunk(delta("", "stop")), chunk(usage={"prompt_tokens": 3001}), DONE))
    assert (await failure(provider)).code is ErrorCode.CONTEXT_LENGTH


async def test_the_wait_that_the_provider_asks_for_is_kept(server: ModelServer, provider: OpenAIChatProvider) -> None:
    server.script(refuses(429, {"error": {"message": "Slow down"}}, headers={"Retry-After": "7"}))
    assert (await failure(provider)).retry_after == timedelta(seconds=7)


async def test_neither_key_nor_prompt_comes_back_in_a_message(
    server: ModelServer, provider: OpenAIChatProvider
) -> None:
    server.script(refuses(400, {"error": f"{KEY}: cannot template 'Who discovered the sources of the Nile?'"}))
    assert (await failure(provider)).message == "The provider answered 400: ***: cannot template '***'"


async def test_nobody_listening_is_an_outage(client: httpx.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    provider = OpenAIChatProvider(client, model="m", base_url=f"http://127.0.0.1:{port}", timeout=NO_WAIT)
    assert await failure(provider) == Failure(ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepts no connections.")


async def test_an_unknown_host_is_an_outage(client: httpx.AsyncClient) -> None:
    provider = OpenAIChatProvider(client, model="m", base_url="http://model.invalid", timeout=NO_WAIT)
    assert (await failure(provider)).code is ErrorCode.PROVIDER_UNAVAILABLE


async def test_a_server_that_does_not_speak_tls_is_an_outage(client: httpx.AsyncClient) -> None:
    async def answer_in_the_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_in_the_clear, "127.0.0.1", 0) as plain:
        host, port = plain.sockets[0].getsockname()
        provider = OpenAIChatProvider(client, model="m", base_url=f"https://{host}:{port}", timeout=NO_WAIT)
        assert await failure(provider) == Failure(
            ErrorCode.PROVIDER_UNAVAILABLE, "No secure connection to the provider could be made."
        )


async def test_an_answer_that_goes_on_too_long_times_out(server: ModelServer, client: httpx.AsyncClient) -> None:
    provider = OpenAIChatProvider(client, model="m", base_url=server.base_url, timeout=timedelta(seconds=0.4))
    server.script(says("a long long long long long long answer", pause=0.1))
    assert await failure(provider) == Failure(ErrorCode.TIMEOUT, "The answer was not complete after 0.4 s.")
    await server.until(lambda server: server.hang_ups == 1)


@pytest.mark.parametrize(
    "behaviour", [stalls(headers_first=False), stalls(*stream("Hi there")[:3])], ids=["before headers", "in mid-stream"]
)
async def test_a_cancelled_call_hangs_up_at_once(server: ModelServer, behaviour: Behaviour) -> None:
    async with open_client() as client:
        provider = OpenAIChatProvider(client, model="m", base_url=server.base_url, timeout=NO_WAIT)
        server.script(behaviour)
        call = asyncio.create_task(ask(provider))
        await server.until(lambda server: server.running == 1)
        call.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.until(lambda server: server.hang_ups == 1)


async def test_many_calls_run_at_once(server: ModelServer) -> None:
    async with open_client() as client:
        provider = OpenAIChatProvider(client, model="m", base_url=server.base_url, timeout=NO_WAIT)
        server.hold()
        calls = [asyncio.create_task(ask(provider)) for _ in range(150)]
        await server.until(lambda server: server.running == 150)
        server.let_go()
        assert {answer.content for answer in await asyncio.gather(*calls)} == {"The answer."}


async def test_a_server_that_comes_back_is_used_again(server: ModelServer, provider: OpenAIChatProvider) -> None:
    await ask(provider)
    server.go_down()
    assert (await failure(provider)).code is ErrorCode.PROVIDER_UNAVAILABLE
    server.come_up()
    assert (await ask(provider)).content == "The answer."


async def test_proxies_of_the_environment_are_not_used(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with open_client() as client:
        provider = OpenAIChatProvider(client, model="m", base_url=server.base_url, timeout=NO_WAIT)
        assert (await ask(provider)).content == "The answer."


CHAOS: dict[str, tuple[Fail | StreamFault, ErrorCode]] = {
    "rate limit": (Fail(429, retry_after=7), ErrorCode.RATE_LIMITED),
    "quota": (Fail(429, code="insufficient_quota"), ErrorCode.QUOTA_EXHAUSTED),
    "unauthorized": (Fail(401), ErrorCode.AUTH_ERROR),
    "server error": (Fail(500), ErrorCode.PROVIDER_UNAVAILABLE),
    "overloaded": (Fail(503), ErrorCode.PROVIDER_UNAVAILABLE),
    "disconnect": (StreamFault("disconnect"), ErrorCode.PROVIDER_UNAVAILABLE),
    "truncation": (StreamFault("truncate"), ErrorCode.PROVIDER_UNAVAILABLE),
    "malformed chunk": (StreamFault("malformed"), ErrorCode.BAD_RESPONSE),
    "stall": (StreamFault("stall", stall_seconds=5), ErrorCode.TIMEOUT),
}


@pytest.mark.parametrize(("fault", "code"), CHAOS.values(), ids=CHAOS)
async def test_chaos_means(
    llmock: LLMockServer, client: httpx.AsyncClient, fault: Fail | StreamFault, code: ErrorCode
) -> None:
    provider = OpenAIChatProvider(client, model="gpt-4o", base_url=llmock.base_url(), api_key=KEY, timeout=NO_WAIT)
    llmock.state.scenarios.clear()
    llmock.state.scenarios.add(fault, Reply("Speke did.", match=Match(provider="openai")))
    assert (await failure(provider)).code is code


async def test_an_openai_server_is_understood(llmock: LLMockServer, client: httpx.AsyncClient) -> None:
    provider = OpenAIChatProvider(client, model="gpt-4o", base_url=llmock.base_url(), api_key=KEY, timeout=NO_WAIT)
    llmock.state.scenarios.clear()
    llmock.state.scenarios.add(Reply("Speke did."))
    answer = await ask(provider)
    assert (answer.content, answer.model) == ("Speke did.", "gpt-4o")
    assert answer.usage
