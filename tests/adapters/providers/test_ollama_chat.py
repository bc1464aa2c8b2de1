from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters.providers.ollama_chat import OllamaChatProvider
from adapters.providers.streaming import StreamingChat
from domain.chat import Message
from domain.errors import ErrorCode
from domain.results import Usage
from tests.adapters.providers.chats import KEY, NO_WAIT, a_provider, ask, failure
from tests.adapters.providers.factories import a_request
from tests.servers.dialects import LINES, last_line, line, ollama_says, ollama_stream
from tests.servers.model_server import Behaviour, ModelServer, cuts, refuses, streams

SCHEMA = {"type": "object"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(default=ollama_says("The answer.")) as server:
        yield server


@pytest.fixture
def provider(server: ModelServer, client: httpx.AsyncClient) -> StreamingChat:
    return a_provider("ollama", client, server.origin)


async def test_the_request_is_what_ollama_expects(server: ModelServer, client: httpx.AsyncClient) -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is"}, PICTURE, {"type": "text", "text": "this?"}]
    said = [Message("developer", "Be brief."), Message("user", parts)]
    options = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": "END"}
    await ask(a_provider("ollama", client, server.base_url, num_ctx=8192), a_request(*said, **options))
    [request] = server.requests
    assert (request.path, request.headers["authorization"]) == ("/api/chat", f"Bearer {KEY}")
    assert request.json == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is\nthis?", "images": ["aGk="]},
        ],
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": {
            "num_ctx": 8192,
            "num_predict": 5,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
        },
    }


async def test_what_is_not_asked_for_is_left_to_ollama(server: ModelServer, provider: StreamingChat) -> None:
    await ask(provider)
    assert server.bodies[0].keys() == {"model", "messages", "stream", "truncate", "shift"}


@pytest.mark.parametrize(
    ("wanted", "format_"),
    [
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema"}, "json"),
        ({"type": "text"}, None),
    ],
)
async def test_json_is_asked_for(
    server: ModelServer, provider: StreamingChat, wanted: dict[str, Any], format_: object
) -> None:
    server.script(ollama_says("{}"))
    await ask(provider, a_request(response_format=wanted))
    assert server.bodies[0].get("format") == format_


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}, {"type": "file"}])
async def test_what_ollama_cannot_take_is_not_sent(
    server: ModelServer, provider: StreamingChat, part: dict[str, Any]
) -> None:
    assert (await failure(provider, a_request(Message("user", [part])))).code is ErrorCode.BAD_INPUT
    assert server.calls == 0


@pytest.mark.parametrize("base_url", ["http://a:11434", "http://a:11434/", "http://a:11434/v1", "http://a:11434/v1/"])
def test_the_address_is_completed(base_url: str) -> None:
    assert a_provider("ollama", httpx.AsyncClient(), base_url).url == "http://a:11434/api/chat"


def test_the_usual_address_need_not_be_given() -> None:
    provider = OllamaChatProvider(httpx.AsyncClient(), model="m", timeout=NO_WAIT)
    assert provider.url == "http://127.0.0.1:11434/api/chat"


ANSWERS: dict[str, Behaviour] = {
    "streamed": ollama_says("Hi there"),
    "whole": refuses(200, json.loads(last_line("Hi there")) | {"message": {"content": "Hi there"}}),
    "byte by byte": streams(*(bytes([byte]) for byte in b"".join(ollama_stream("Hi there"))), content_type=LINES),
    "with cr lf and blank lines": streams(
        b"".join(ollama_stream("Hi there")).replace(b"\n", b"\r\n\r\n"), content_type=LINES
    ),
    "without a last line's end": streams(b"".join(ollama_stream("Hi there")).rstrip(), content_type=LINES),
    "under the wrong name": streams(*ollama_stream("Hi there"), content_type="text/plain"),
    "with thoughts": streams(
        line(None, message={"role": "assistant", "content": "", "thinking": "Hm"}),
        *ollama_stream("Hi there"),
        content_type=LINES,
    ),
    "by an old version, without a reason": streams(line("Hi there"), line("", done=True), content_type=LINES),
    "with more after the end": streams(*ollama_stream("Hi there"), line("!"), content_type=LINES),
    "cut after the end": cuts(b"".join(ollama_stream("Hi there")), content_type=LINES),
}


@pytest.mark.parametrize("behaviour", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_understood(server: ModelServer, provider: StreamingChat, behaviour: Behaviour) -> None:
    told: list[str] = []
    server.script(behaviour)
    assert (await ask(provider, tell=told.append)).content == "Hi there"
    assert "".join(told) == "Hi there"


async def test_the_counts_are_ollama_s(server: ModelServer, provider: StreamingChat) -> None:
    server.script(ollama_says("Hi there", model="m:latest", finish_reason="length"))
    answer = await ask(provider)
    assert (answer.model, answer.finish_reason) == ("m:latest", "length")
    assert answer.usage == Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)


FAILURES: dict[str, tuple[Behaviour, ErrorCode]] = {
    "ends without its last line": (
        streams(*ollama_stream("Hi there")[:-1], content_type=LINES),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "ends within a line": (
        streams(line("Hi"), last_line("Hi")[:-9], content_type=LINES),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "is an error in a line": (
        streams(line("Hi"), b'{"error": "an error was encountered while running the model"}\n', content_type=LINES),
        ErrorCode.PROVIDER_ERROR,
    ),
    "is an error in a last line without an end": (
        streams(line("Hi"), b'{"error": "model runner has crashed"}', content_type=LINES),
        ErrorCode.PROVIDER_ERROR,
    ),
    "is an error after 200": (refuses(200, {"error": "model 'x' not found"}), ErrorCode.PROVIDER_ERROR),
    "is empty": (ollama_says(""), ErrorCode.BAD_RESPONSE),
    "is only thought": (
        streams(line(None, message={"content": "", "thinking": "Hm"}), last_line("", done_reason="length")),
        ErrorCode.BAD_RESPONSE,
    ),
    "only loads the model": (refuses(200, {"model": "m", "done": True, "done_reason": "load"}), ErrorCode.BAD_RESPONSE),
    "is a chat completion": (refuses(200, {"object": "chat.completion", "choices": []}), ErrorCode.BAD_RESPONSE),
    "is no json": (streams(b"Ollama is running\n", content_type=LINES), ErrorCode.BAD_RESPONSE),
}


@pytest.mark.parametrize(("behaviour", "code"), FAILURES.values(), ids=FAILURES)
async def test_an_answer_fails_that(
    server: ModelServer, provider: StreamingChat, behaviour: Behaviour, code: ErrorCode
) -> None:
    server.script(behaviour)
    assert (await failure(provider)).code is code


def counted(prompt_tokens: int) -> Behaviour:
    """An answer to a prompt of so many tokens, as Ollama counts."""
    last = line("", done=True, done_reason="stop", prompt_eval_count=prompt_tokens, eval_count=1)
    return streams(line("Hi"), last, content_type=LINES)


async def test_an_answer_to_a_prompt_that_was_cut_is_none(server: ModelServer, client: httpx.AsyncClient) -> None:
    provider = a_provider("ollama", client, server.origin, num_ctx=4096)
    server.script(counted(4096), counted(4095))
    assert (await failure(provider)).code is ErrorCode.CONTEXT_LENGTH
    assert (await ask(provider)).content == "Hi"
