from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from llmock.scenarios import Fail, Match, Reply, StreamFault
from llmock.testing import LLMockServer

from adapters.providers.anthropic_chat import AnthropicChatProvider
from adapters.providers.streaming import StreamingChat
from domain.chat import Message
from domain.errors import ErrorCode
from domain.results import Usage
from tests.adapters.providers.chats import KEY, NO_WAIT, a_provider, ask, failure
from tests.adapters.providers.factories import a_request
from tests.servers.dialects import (
    anthropic_message,
    anthropic_says,
    anthropic_stream,
    event,
    message_end,
    message_start,
    text_delta,
)
from tests.servers.model_server import Behaviour, ModelServer, refuses, streams

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WITH_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
JSON_WANTED = a_request(response_format=WITH_SCHEMA)


@pytest.fixture
def server() -> Any:
    with ModelServer(default=anthropic_says("The answer.")) as server:
        yield server


@pytest.fixture
def provider(server: ModelServer, client: httpx.AsyncClient) -> StreamingChat:
    return a_provider("anthropic", client, server.base_url)


async def test_the_request_is_what_the_api_expects(server: ModelServer, provider: StreamingChat) -> None:
    said = [
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("user", "Two?"),
        Message("developer", [{"type": "text", "text": "Be kind."}]),
        Message("assistant", "Three."),
        Message("user", "Four?"),
    ]
    await ask(provider, a_request(*said, temperature=1.7, top_p=0.5, stop="END", seed=7))
    [request] = server.requests
    assert request.path == "/v1/messages"
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in request.headers
    assert request.json == {
        "model": "m",
        "max_tokens": 4096,
        "system": "Be brief.\n\nBe kind.",
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "Three."},
            {"role": "user", "content": "Four?"},
        ],
        "temperature": 1.0,
        "stop_sequences": ["END"],
        "stream": True,
    }


async def test_the_length_of_an_answer_is_what_was_asked_for(server: ModelServer, provider: StreamingChat) -> None:
    await ask(provider, a_request(max_tokens=7, top_p=0.5))
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["top_p"]) == (7, 0.5)


async def test_pictures_are_sent_in_the_api_s_own_words(server: ModelServer, provider: StreamingChat) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,aGk="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    ]
    await ask(provider, a_request(Message("user", parts)))
    assert server.bodies[0]["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    ]


@pytest.mark.parametrize(
    "message",
    [
        Message("tool", "42"),
        Message("user", [{"type": "input_audio", "input_audio": {}}]),
        Message("user", [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
        Message("system", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]),
    ],
    ids=["an answer to no call", "sound", "a file", "a picture above the conversation"],
)
async def test_what_the_api_has_no_words_for_is_not_sent(
    server: ModelServer, provider: StreamingChat, message: Message
) -> None:
    assert (await failure(provider, a_request(message))).code is ErrorCode.BAD_INPUT
    assert server.calls == 0


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://a/v1", "https://a/v1/messages"),
        ("https://a/v1/", "https://a/v1/messages"),
        ("https://a/anthropic", "https://a/anthropic/v1/messages"),
    ],
)
def test_the_address_is_completed(base_url: str, url: str) -> None:
    assert a_provider("anthropic", httpx.AsyncClient(), base_url).url == url


def test_the_api_itself_needs_no_address() -> None:
    provider = AnthropicChatProvider(httpx.AsyncClient(), model="m", api_key=KEY, timeout=NO_WAIT)
    assert provider.url == "https://api.anthropic.com/v1/messages"
    assert KEY not in repr(provider)


@pytest.mark.parametrize(
    ("reason", "finish_reason"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("pause_turn", "pause_turn")],
)
async def test_the_end_goes_by_its_common_name(
    server: ModelServer, provider: StreamingChat, reason: str, finish_reason: str
) -> None:
    server.script(streams(*anthropic_stream("Hi", stop_reason=reason)))
    assert (await ask(provider)).finish_reason == finish_reason


async def test_what_caches_had_to_do_with_counts_as_prompt(server: ModelServer, provider: StreamingChat) -> None:
    start = message_start(cache_creation_input_tokens=20, cache_read_input_tokens=100)
    server.script(streams(start, text_delta("Hi"), *message_end(tokens=5)))
    assert (await ask(provider)).usage == Usage(prompt_tokens=123, completion_tokens=5, total_tokens=128)


async def test_thoughts_and_tools_are_no_part_of_the_answer(server: ModelServer, provider: StreamingChat) -> None:
    told: list[str] = []
    server.script(
        streams(
            message_start(),
            event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "Hm"}),
            event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm"}),
            event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
            event("content_block_start", index=1, content_block={"type": "text", "text": "He"}),
            text_delta("llo"),
            event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": "{"}),
            event("something_new"),
            *message_end(),
        )
    )
    assert (await ask(provider, tell=told.append)).content == "Hello"
    assert told == ["He", "llo"]


async def test_a_message_that_is_not_streamed_is_understood(server: ModelServer, provider: StreamingChat) -> None:
    server.script(refuses(200, anthropic_message("Hi there", "the real name")))
    answer = await ask(provider)
    assert (answer.content, answer.model, answer.finish_reason) == ("Hi there", "the real name", "stop")


OVERLOADED = {"error": {"type": "overloaded_error", "message": "Overloaded"}}

FAILURES: dict[str, tuple[Behaviour, ErrorCode]] = {
    "is an error after 200": (
        streams(*anthropic_stream("Hi there")[:4], event("error", **OVERLOADED)),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "is a whole error after 200": (refuses(200, {"type": "error", **OVERLOADED}), ErrorCode.PROVIDER_UNAVAILABLE),
    "fills the context": (
        streams(*anthropic_stream("Hi", stop_reason="model_context_window_exceeded")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "is a refusal": (streams(*anthropic_stream("I", stop_reason="refusal")), ErrorCode.BAD_RESPONSE),
    "has no text": (streams(message_start(), *message_end()), ErrorCode.BAD_RESPONSE),
    "calls a tool": (streams(message_start(), *message_end("tool_use")), ErrorCode.BAD_RESPONSE),
    "is a chat completion": (refuses(200, {"object": "chat.completion", "choices": []}), ErrorCode.BAD_RESPONSE),
    "ends too early": (streams(*anthropic_stream("Hi there")[:4]), ErrorCode.PROVIDER_UNAVAILABLE),
}


@pytest.mark.parametrize(("behaviour", "code"), FAILURES.values(), ids=FAILURES)
async def test_an_answer_fails_that(
    server: ModelServer, provider: StreamingChat, behaviour: Behaviour, code: ErrorCode
) -> None:
    server.script(behaviour)
    assert (await failure(provider)).code is code
    assert server.calls == 1


async def test_a_schema_is_asked_for_twice_in_words_and_as_a_structured_output(
    server: ModelServer, provider: StreamingChat
) -> None:
    server.script(anthropic_says('{"a": 1}'))
    request = a_request(Message("system", "Be brief."), Message("user", "Hi"), response_format=WITH_SCHEMA)
    assert (await ask(provider, request)).content == '{"a": 1}'
    [body] = server.bodies
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    system, wish = body["system"].split("\n\n")
    assert system == "Be brief."
    assert json.loads(wish.partition("\n")[2]) == SCHEMA


@pytest.mark.parametrize(
    "message",
    [
        "output_config: Extra inputs are not permitted",
        "'claude-3-haiku-20240307' does not support structured outputs",
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
    ],
)
async def test_where_a_structured_output_is_refused_words_must_do(
    server: ModelServer, provider: StreamingChat, message: str
) -> None:
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    server.script(refuses(400, refusal), anthropic_says('{"a": 1}'))
    assert (await ask(provider, JSON_WANTED)).content == '{"a": 1}'
    first, second = server.bodies
    assert second == {name: value for name, value in first.items() if name != "output_config"}


async def test_an_object_without_a_schema_is_asked_for_in_words(server: ModelServer, provider: StreamingChat) -> None:
    server.script(anthropic_says("Sure! {}"))
    request = a_request(response_format={"type": "json_object"})
    assert (await failure(provider, request)).code is ErrorCode.BAD_RESPONSE
    assert "one JSON object" in server.bodies[0]["system"]
    assert "output_config" not in server.bodies[0]


async def test_a_model_that_chooses_its_own_temperature_may(server: ModelServer, provider: StreamingChat) -> None:
    refusal = {"error": {"type": "invalid_request_error", "message": "`temperature` is deprecated for this model."}}
    server.script(refuses(400, refusal))
    assert (await ask(provider, a_request(temperature=0.2))).content == "The answer."
    assert [body.get("temperature") for body in server.bodies] == [0.2, None]


async def test_what_is_wrong_otherwise_is_sent_once(server: ModelServer, provider: StreamingChat) -> None:
    server.script(refuses(400, {"error": {"type": "invalid_request_error", "message": "messages: roles"}}))
    assert (await failure(provider, JSON_WANTED)).code is ErrorCode.BAD_INPUT
    assert server.calls == 1


CHAOS: dict[str, tuple[Fail | StreamFault, ErrorCode]] = {
    "overloaded": (Fail(529), ErrorCode.PROVIDER_UNAVAILABLE),
    "unauthorized": (Fail(401), ErrorCode.AUTH_ERROR),
    "rate limit": (Fail(429, retry_after=7), ErrorCode.RATE_LIMITED),
    "disconnect": (StreamFault("disconnect"), ErrorCode.PROVIDER_UNAVAILABLE),
    "truncation": (StreamFault("truncate"), ErrorCode.PROVIDER_UNAVAILABLE),
    "malformed chunk": (StreamFault("malformed"), ErrorCode.BAD_RESPONSE),
    "stall": (StreamFault("stall", stall_seconds=5), ErrorCode.TIMEOUT),
}


@pytest.fixture(scope="module")
def llmock() -> Any:
    with LLMockServer() as server:
        yield server


@pytest.mark.parametrize(("fault", "code"), CHAOS.values(), ids=CHAOS)
async def test_chaos_means(
    llmock: LLMockServer, client: httpx.AsyncClient, fault: Fail | StreamFault, code: ErrorCode
) -> None:
    llmock.state.scenarios.clear()
    llmock.state.scenarios.add(fault, Reply("Speke did.", match=Match(provider="anthropic")))
    provider = a_provider("anthropic", client, llmock.base_url("anthropic"), model="claude-sonnet-4-5")
    assert (await failure(provider)).code is code


async def test_another_s_server_is_understood(llmock: LLMockServer, client: httpx.AsyncClient) -> None:
    llmock.state.scenarios.clear()
    llmock.state.scenarios.add(Reply("Speke did."))
    answer = await ask(a_provider("anthropic", client, llmock.base_url("anthropic"), model="claude-sonnet-4-5"))
    assert (answer.content, answer.model, answer.finish_reason) == ("Speke did.", "claude-sonnet-4-5", "stop")
    assert answer.usage
