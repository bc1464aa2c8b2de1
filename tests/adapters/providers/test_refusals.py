"""What servers of every make are known to say, said by a server, and what a run makes of it."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from domain.errors import ErrorCode
from tests.adapters.providers.chats import a_provider, ask, failure
from tests.adapters.providers.factories import a_request
from tests.adapters.providers.test_classify import N_KEEP, NGINX, VLLM_TOO_LONG, anthropic, nested
from tests.servers.dialects import LINES, anthropic_stream
from tests.servers.model_server import Behaviour, ModelServer, chunk, cuts, refuses, says, stalls, stream, streams

OPENAI, ANTHROPIC, OLLAMA = "openai", "anthropic", "ollama"
DONE = b"data: [DONE]\n\n"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

LM_STUDIO = (
    "Input does not fit in context length. The input has 31430 tokens, but the context length only supports 30000 "
    "tokens."
)
OVERFLOW = {
    "error": {
        "code": 400,
        "message": "the request exceeds the available context size, try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 3007,
        "n_ctx": 1024,
    }
}
OLLAMA_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)


def silent(prompt_tokens: int) -> Behaviour:
    """No word in answer to a prompt of so many tokens."""
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return streams(chunk(end), chunk(usage={"prompt_tokens": prompt_tokens}), DONE)


REFUSALS: dict[str, tuple[str, Behaviour, ErrorCode]] = {
    "vllm: prompt and answer do not fit together": (
        OPENAI,
        refuses(400, nested(VLLM_TOO_LONG.format(32000, 769, 32769), "BadRequestError", 400, "input_tokens")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "vllm: the prompt does not fit": (
        OPENAI,
        refuses(400, nested(VLLM_TOO_LONG.format(0, 32769, 32769), "BadRequestError", 400, "input_tokens")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "openai: context_length_exceeded": (
        OPENAI,
        refuses(400, nested("...", "invalid_request_error", "context_length_exceeded", "messages")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "lm studio: n_keep": (OPENAI, refuses(400, {"error": N_KEEP}), ErrorCode.CONTEXT_LENGTH),
    "lm studio: after 200": (
        OPENAI,
        streams(
            b"event: error\ndata: %s\n\n" % json.dumps({"error": {"message": LM_STUDIO}, "message": LM_STUDIO}).encode()
        ),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "no word to a prompt that fills the context": (OPENAI, silent(4096), ErrorCode.CONTEXT_LENGTH),
    "no word to a prompt that does not": (OPENAI, silent(4095), ErrorCode.BAD_RESPONSE),
    "llama-server: too long": (OPENAI, refuses(400, OVERFLOW), ErrorCode.CONTEXT_LENGTH),
    "anthropic: too long": (
        ANTHROPIC,
        refuses(400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "anthropic: context full": (
        ANTHROPIC,
        streams(*anthropic_stream("Hi", stop_reason="model_context_window_exceeded")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "anthropic: too large": (
        ANTHROPIC,
        refuses(413, anthropic("request_too_large", "Request too large")),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "ollama: too long": (OLLAMA, refuses(400, {"error": OLLAMA_TOO_LONG}), ErrorCode.CONTEXT_LENGTH),
    "vllm: no such model": (
        OPENAI,
        refuses(404, nested("The model `x` does not exist.", "NotFoundError", 404, "model")),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "ollama's /v1: no such model": (
        OPENAI,
        refuses(404, nested("model 'x' not found", "not_found_error")),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "ollama: no such model": (
        OLLAMA,
        refuses(404, {"error": 'model "x" not found, try pulling it first'}),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "anthropic: no such model": (
        ANTHROPIC,
        refuses(404, anthropic("not_found_error", "model: x")),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "a proxy's page": (OPENAI, refuses(404, NGINX), ErrorCode.PROVIDER_UNAVAILABLE),
    "ollama: busy": (
        OLLAMA,
        refuses(503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "llama-server: loading": (
        OPENAI,
        refuses(503, nested("Loading model", "unavailable_error", 503)),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "openai: no money": (
        OPENAI,
        refuses(429, nested("...", "insufficient_quota", "insufficient_quota")),
        ErrorCode.QUOTA_EXHAUSTED,
    ),
    "anthropic: no money": (ANTHROPIC, refuses(402, anthropic("billing_error", "...")), ErrorCode.QUOTA_EXHAUSTED),
    "anthropic: overloaded": (
        ANTHROPIC,
        refuses(529, anthropic("overloaded_error", "Overloaded")),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "anthropic: timeout": (ANTHROPIC, refuses(504, anthropic("timeout_error", "...")), ErrorCode.TIMEOUT),
    "vllm: unauthorized": (OPENAI, refuses(401, {"error": "Unauthorized"}), ErrorCode.AUTH_ERROR),
    "a fastapi server: bad key": (OPENAI, refuses(403, {"detail": "Invalid API key. ..."}), ErrorCode.AUTH_ERROR),
    "anthropic: bad key": (
        ANTHROPIC,
        refuses(401, anthropic("authentication_error", "invalid x-api-key")),
        ErrorCode.AUTH_ERROR,
    ),
    "openai: one field too long": (
        OPENAI,
        refuses(
            400,
            nested(
                "Invalid 'user': string too long. Expected a string with maximum length 64, but got one of length 101.",
                "invalid_request_error",
                "string_above_max_length",
                "user",
            ),
        ),
        ErrorCode.BAD_INPUT,
    ),
    "vllm: engine dead": (
        OPENAI,
        refuses(500, nested("...", "InternalServerError", 500)),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "llama-server: broken json": (
        OPENAI,
        refuses(500, nested("[json.exception.parse_error.101] parse error", "server_error", 500)),
        ErrorCode.BAD_INPUT,
    ),
    "llama-server: no eyes": (
        OPENAI,
        refuses(500, nested("image input is not supported", "server_error", 500)),
        ErrorCode.BAD_INPUT,
    ),
    "silence": (OPENAI, stalls(), ErrorCode.TIMEOUT),
    "a stream cut short": (OPENAI, streams(*stream("Hi there")[:3]), ErrorCode.PROVIDER_UNAVAILABLE),
    "a connection broken off": (ANTHROPIC, cuts(*anthropic_stream("Hi there")[:4]), ErrorCode.PROVIDER_UNAVAILABLE),
    "an error in mid-stream": (
        OPENAI,
        streams(*stream("Hi")[:2], b"data: %s\n\n" % json.dumps(nested("...", "BadRequestError", 400)).encode()),
        ErrorCode.BAD_INPUT,
    ),
    "an error in a line": (
        OLLAMA,
        streams(b'{"error": "model runner has unexpectedly stopped"}\n', content_type=LINES),
        ErrorCode.PROVIDER_ERROR,
    ),
    "no json": (OPENAI, refuses(200, "Welcome!"), ErrorCode.BAD_RESPONSE),
    "no choices": (OPENAI, refuses(200, {"choices": []}), ErrorCode.BAD_RESPONSE),
    "ollama: given up": (OLLAMA, refuses(499, {"error": "request canceled"}), ErrorCode.PROVIDER_UNAVAILABLE),
}

CONTEXTS = {OPENAI: {"context_window": 4096}, ANTHROPIC: {}, OLLAMA: {"num_ctx": 4096}}


@pytest.mark.parametrize(("kind", "behaviour", "code"), REFUSALS.values(), ids=REFUSALS)
async def test_this_means(
    server: ModelServer, client: httpx.AsyncClient, kind: str, behaviour: Behaviour, code: ErrorCode
) -> None:
    server.script(behaviour)
    assert (await failure(a_provider(kind, client, server.base_url, **CONTEXTS[kind]))).code is code
    assert server.calls == 1


WAITS = {
    "seconds": ({"retry-after": "7"}, timedelta(seconds=7)),
    "milliseconds": ({"retry-after-ms": "1500"}, timedelta(seconds=1.5)),
    "a date": ({"retry-after": "Sat, 21 Nov 2026 12:02:00 GMT"}, timedelta(minutes=2)),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("kind", [OPENAI, ANTHROPIC, OLLAMA])
@pytest.mark.parametrize(("headers", "wait"), WAITS.values(), ids=WAITS)
async def test_a_rate_limit_says_how_long_to_wait(
    server: ModelServer, client: httpx.AsyncClient, kind: str, headers: dict[str, str], wait: timedelta | None
) -> None:
    server.script(refuses(429, {"error": {"type": "rate_limit_error", "message": "..."}}, headers=headers))
    failed = await failure(a_provider(kind, client, server.base_url, clock=lambda: NOW))
    assert (failed.code, failed.retry_after) == (ErrorCode.RATE_LIMITED, wait)


@pytest.mark.parametrize("kind", [OPENAI, ANTHROPIC, OLLAMA])
@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "http://model.invalid"], ids=["nobody", "no such host"])
async def test_who_is_not_there_is_an_outage(client: httpx.AsyncClient, kind: str, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert (await failure(a_provider(kind, client, address.format(port=port)))).code is ErrorCode.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize(
    "behaviour",
    [says("Sure! {}"), says('{"a": 1', finish_reason="length"), says(" \n" * 9)],
    ids=["prose", "cut", "blank"],
)
async def test_json_that_is_none_is_a_bad_response(
    server: ModelServer, client: httpx.AsyncClient, behaviour: Behaviour
) -> None:
    server.script(behaviour)
    wanted = a_request(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}})
    assert (await failure(a_provider(OPENAI, client, server.base_url), wanted)).code is ErrorCode.BAD_RESPONSE


async def test_an_answer_to_which_the_context_left_no_more_room_is_one(
    server: ModelServer, client: httpx.AsyncClient
) -> None:
    server.script(says("Once upon a", finish_reason="length"))
    answer = await ask(a_provider(OPENAI, client, server.base_url))
    assert (answer.content, answer.finish_reason) == ("Once upon a", "length")


async def test_a_server_of_one_model_answers_under_its_own_name(server: ModelServer, client: httpx.AsyncClient) -> None:
    server.script(says("Hi", model="gemma-3-270m.gguf"))
    assert (await ask(a_provider(OPENAI, client, server.base_url, model="asked"))).model == "gemma-3-270m.gguf"
