"""What real servers say, and what it must mean. The bodies are put together from sources and reports, not recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.providers import classify
from domain.errors import ErrorCode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

VLLM_TOO_LONG = (
    "This model's maximum context length is 32768 tokens. However, you requested {} output tokens and your prompt "
    "contains at least {} input tokens, for a total of at least {} tokens. Please reduce the length of the input "
    "prompt or the number of requested output tokens."
)
N_KEEP = (
    "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= "
    "n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input."
)
NGINX = b"<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>no such model</body></html>"


def nested(message: str, kind: str | None = None, code: str | int | None = None, param: str | None = None) -> object:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(kind: str, message: str) -> object:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


ANSWERS = {
    "vllm: the requested output does not fit": (
        400,
        nested(VLLM_TOO_LONG.format(32000, 769, 32769), "BadRequestError", 400, "input_tokens"),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "vllm: the prompt does not fit": (
        400,
        nested(VLLM_TOO_LONG.format(0, 32769, 32769), "BadRequestError", 400, "input_tokens"),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "vllm: input length, in fewer words": (
        400,
        nested("Input length (5000) exceeds model's maximum context length (4096).", "BadRequestError", 400),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "openai: context_length_exceeded": (
        400,
        nested("...", "invalid_request_error", "context_length_exceeded", "messages"),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "lm studio: n_keep": (400, {"error": N_KEEP}, ErrorCode.CONTEXT_LENGTH),
    "lm studio: mlx": (400, {"error": "Context size has been exceeded."}, ErrorCode.CONTEXT_LENGTH),
    "llama-server: exceed_context_size_error with a number for a code": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 3007,
                "n_ctx": 1024,
            }
        },
        ErrorCode.CONTEXT_LENGTH,
    ),
    "ollama: input length": (400, {"error": "the input length exceeds the context length"}, ErrorCode.CONTEXT_LENGTH),
    "anthropic: prompt is too long": (
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "anthropic: request_too_large": (
        413,
        anthropic("request_too_large", "Request too large"),
        ErrorCode.CONTEXT_LENGTH,
    ),
    "tgi: tokens over the limit": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
            "error_type": "validation",
        },
        ErrorCode.CONTEXT_LENGTH,
    ),
    "vllm: no such model": (
        404,
        nested("The model `x` does not exist.", "NotFoundError", 404, "model"),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "ollama: no such model": (404, nested("model 'x' not found", "not_found_error"), ErrorCode.MODEL_UNAVAILABLE),
    "ollama native: no such model": (
        404,
        {"error": 'model "x" not found, try pulling it first'},
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "anthropic: no such model": (404, anthropic("not_found_error", "model: x"), ErrorCode.MODEL_UNAVAILABLE),
    "openai: a model of another project": (
        403,
        nested("Project `p` does not have access to model `x`", "invalid_request_error", "model_not_found"),
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "lm studio: nothing loaded": (
        400,
        {"error": "No models loaded. Please load a model in the developer page."},
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "lm studio: crashed": (
        400,
        {"error": "The model has crashed without additional information. (Exit code: 6)"},
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "a proxy's 404 page": (404, NGINX, ErrorCode.PROVIDER_UNAVAILABLE),
    "a wrong path at a fastapi server": (404, {"detail": "Not Found"}, ErrorCode.PROVIDER_UNAVAILABLE),
    "a wrong path at llama-server": (
        404,
        nested("File Not Found", "not_found_error", 404),
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "a wrong path at a go server": (404, b"404 page not found", ErrorCode.PROVIDER_UNAVAILABLE),
    "ollama: busy": (
        503,
        {"error": "server busy, please try again.  maximum pending requests exceeded"},
        ErrorCode.PROVIDER_UNAVAILABLE,
    ),
    "llama-server: loading": (503, nested("Loading model", "unavailable_error", 503), ErrorCode.PROVIDER_UNAVAILABLE),
    "openai: overloaded": (503, nested("...", "server_error", "slow_down"), ErrorCode.PROVIDER_UNAVAILABLE),
    "anthropic: overloaded": (529, anthropic("overloaded_error", "Overloaded"), ErrorCode.PROVIDER_UNAVAILABLE),
    "anthropic: api_error": (500, anthropic("api_error", "Internal server error"), ErrorCode.PROVIDER_UNAVAILABLE),
    "vllm: engine dead": (500, nested("...", "InternalServerError", 500), ErrorCode.PROVIDER_UNAVAILABLE),
    "ollama: given up": (499, {"error": "request canceled"}, ErrorCode.PROVIDER_UNAVAILABLE),
    "a proxy without a backend": (502, b"<html>Bad Gateway</html>", ErrorCode.PROVIDER_UNAVAILABLE),
    "cloudflare: origin unreachable": (522, b"", ErrorCode.PROVIDER_UNAVAILABLE),
    "openai: rate limit": (429, nested("...", "requests", "rate_limit_exceeded"), ErrorCode.RATE_LIMITED),
    "anthropic: rate limit": (429, anthropic("rate_limit_error", "..."), ErrorCode.RATE_LIMITED),
    "a bare 429": (429, b"", ErrorCode.RATE_LIMITED),
    "openai: no money": (
        429,
        nested("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
        ErrorCode.QUOTA_EXHAUSTED,
    ),
    "anthropic: no money": (402, anthropic("billing_error", "..."), ErrorCode.QUOTA_EXHAUSTED),
    "anthropic: no money, in a 400": (
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        ErrorCode.QUOTA_EXHAUSTED,
    ),
    "vllm: unauthorized, as a string": (401, {"error": "Unauthorized"}, ErrorCode.AUTH_ERROR),
    "a fastapi server: bad key": (403, {"detail": "Invalid API key. Check it."}, ErrorCode.AUTH_ERROR),
    "a proxy's 401": (401, b"", ErrorCode.AUTH_ERROR),
    "anthropic: timeout": (504, anthropic("timeout_error", "..."), ErrorCode.TIMEOUT),
    "a proxy's 504": (504, b"<html>Gateway Time-out</html>", ErrorCode.TIMEOUT),
    "a proxy's 408": (408, b"", ErrorCode.TIMEOUT),
    "openai: one field too long": (
        400,
        nested(
            "Invalid 'user': string too long. Expected a string with maximum length 64, but got one of length 101.",
            "invalid_request_error",
            "string_above_max_length",
            "user",
        ),
        ErrorCode.BAD_INPUT,
    ),
    "vllm: flat error": (
        400,
        {"object": "error", "message": "temperature must be non-negative", "type": "BadRequestError", "code": 400},
        ErrorCode.BAD_INPUT,
    ),
    "vllm: not implemented": (501, nested("...", "NotImplementedError", 501), ErrorCode.BAD_INPUT),
    "a fastapi server: validation": (
        422,
        {
            "detail": [
                {"loc": ["body", "messages"], "msg": "Field required", "type": "missing", "input": {"a": "secret"}}
            ]
        },
        ErrorCode.BAD_INPUT,
    ),
    "a proxy's body limit": (413, b"<html>Request Entity Too Large</html>", ErrorCode.BAD_INPUT),
    "llama-server: broken json": (
        500,
        nested("[json.exception.parse_error.101] parse error at line 1, last read: 'x'", "server_error", 500),
        ErrorCode.BAD_INPUT,
    ),
    "llama-server: no eyes": (500, nested("image input is not supported", "server_error", 500), ErrorCode.BAD_INPUT),
    "a status from nowhere": (418, b"short and stout", ErrorCode.PROVIDER_ERROR),
    "a redirect": (302, b"", ErrorCode.PROVIDER_ERROR),
}

STREAM_ERRORS = {
    "lm studio: does not fit": (
        {
            "error": {"message": "Input does not fit in context length."},
            "message": "Input does not fit in context length.",
        },
        ErrorCode.CONTEXT_LENGTH,
    ),
    "lm studio: typed": (
        {"type": "model_not_found", "message": "...", "code": None},
        ErrorCode.MODEL_UNAVAILABLE,
    ),
    "lm studio: internal": ({"type": "internal_error", "message": "..."}, ErrorCode.PROVIDER_UNAVAILABLE),
    "vllm: the code is the status": (nested("...", "BadRequestError", 400), ErrorCode.BAD_INPUT),
    "vllm: engine dead": (nested("...", "InternalServerError", 500), ErrorCode.PROVIDER_UNAVAILABLE),
    "openai: server error": (nested("...", "server_error"), ErrorCode.PROVIDER_UNAVAILABLE),
    "openai: rate limit": (nested("...", "tokens", "rate_limit_exceeded"), ErrorCode.RATE_LIMITED),
    "anthropic: overloaded": (anthropic("overloaded_error", "Overloaded"), ErrorCode.PROVIDER_UNAVAILABLE),
    "ollama: a string": ({"error": "an error was encountered while running the model"}, ErrorCode.PROVIDER_ERROR),
    "nothing to go by": ({"error": {}}, ErrorCode.PROVIDER_ERROR),
}

HOST = aiohttp.client_reqrep.ConnectionKey("127.0.0.1", 1, False, True, None, None, None)

BROKEN_CALLS = {
    "refused": (aiohttp.ClientConnectorError(HOST, ConnectionRefusedError(111, "")), ErrorCode.PROVIDER_UNAVAILABLE),
    "name unknown": (aiohttp.ClientConnectorDNSError(HOST, OSError(-2, "")), ErrorCode.PROVIDER_UNAVAILABLE),
    "tls": (aiohttp.ClientConnectorSSLError(HOST, OSError(1, "")), ErrorCode.PROVIDER_UNAVAILABLE),
    "slow to connect": (aiohttp.ConnectionTimeoutError(), ErrorCode.PROVIDER_UNAVAILABLE),
    "silent": (aiohttp.SocketTimeoutError(), ErrorCode.TIMEOUT),
    "reset": (aiohttp.ClientOSError(104, "Connection reset by peer"), ErrorCode.PROVIDER_UNAVAILABLE),
    "left without a word": (aiohttp.ServerDisconnectedError(), ErrorCode.PROVIDER_UNAVAILABLE),
    "half a chunk": (aiohttp.ClientPayloadError(), ErrorCode.PROVIDER_UNAVAILABLE),
    "httpx: refused": (httpx.ConnectError(""), ErrorCode.PROVIDER_UNAVAILABLE),
    "httpx: slow to connect": (httpx.ConnectTimeout(""), ErrorCode.PROVIDER_UNAVAILABLE),
    "httpx: silent": (httpx.ReadTimeout(""), ErrorCode.TIMEOUT),
    "httpx: broken off": (httpx.RemoteProtocolError(""), ErrorCode.PROVIDER_UNAVAILABLE),
    "something else": (ValueError(""), ErrorCode.PROVIDER_ERROR),
}


def encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(("status", "body", "code"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_means(status: int, body: object, code: ErrorCode) -> None:
    assert classify.answer(status, {}, encoded(body), NOW).code is code


@pytest.mark.parametrize(("body", "code"), STREAM_ERRORS.values(), ids=STREAM_ERRORS)
def test_an_error_in_a_stream_means(body: object, code: ErrorCode) -> None:
    assert classify.stream_error(encoded(body)).code is code


@pytest.mark.parametrize(("error", "code"), BROKEN_CALLS.values(), ids=BROKEN_CALLS)
def test_a_broken_call_means(error: Exception, code: ErrorCode) -> None:
    assert classify.broken_call(error).code is code


def test_the_cause_of_a_broken_call_counts_more_than_what_the_transport_made_of_it() -> None:
    error = httpx.ConnectTimeout("")
    error.__cause__ = aiohttp.ServerDisconnectedError()
    assert classify.broken_call(error).message == "The provider broke the connection off."


@pytest.mark.parametrize(
    ("prompt_tokens", "context_window", "code"),
    [
        (4096, 4096, ErrorCode.CONTEXT_LENGTH),
        (4095, 4096, ErrorCode.BAD_RESPONSE),
        (4096, None, ErrorCode.BAD_RESPONSE),
        (None, 4096, ErrorCode.BAD_RESPONSE),
    ],
)
def test_an_empty_answer_means(prompt_tokens: int | None, context_window: int | None, code: ErrorCode) -> None:
    assert classify.empty_answer("stop", prompt_tokens, context_window).code is code


def test_a_finish_for_want_of_context_is_a_failure() -> None:
    assert classify.FINISHES["model_context_window_exceeded"].code is ErrorCode.CONTEXT_LENGTH


RETRY_AFTERS = {
    "seconds": ({"retry-after": "7"}, timedelta(seconds=7)),
    "fraction": ({"retry-after": "1.25"}, timedelta(seconds=1.25)),
    "spaces": ({"retry-after": " 7 "}, timedelta(seconds=7)),
    "milliseconds": ({"retry-after-ms": "1500"}, timedelta(seconds=1.5)),
    "milliseconds win": ({"retry-after-ms": "1500", "retry-after": "7"}, timedelta(seconds=1.5)),
    "broken milliseconds do not": ({"retry-after-ms": "soon", "retry-after": "7"}, timedelta(seconds=7)),
    "date": ({"retry-after": "Sat, 21 Nov 2026 12:02:00 GMT"}, timedelta(minutes=2)),
    "date of another zone": ({"retry-after": "Sat, 21 Nov 2026 13:02:00 +0100"}, timedelta(minutes=2)),
    "date gone by": ({"retry-after": "Sat, 21 Nov 2026 11:59:59 GMT"}, None),
    "at once": ({"retry-after": "0"}, timedelta(0)),
    "a day": ({"retry-after": "86400"}, timedelta(hours=1)),
    "beyond all numbers": ({"retry-after": "9" * 400}, None),
    "negative": ({"retry-after": "-5"}, None),
    "nonsense": ({"retry-after": "later"}, None),
    "not a number": ({"retry-after": "nan"}, None),
    "none": ({}, None),
}


@pytest.mark.parametrize(("headers", "wait"), RETRY_AFTERS.values(), ids=RETRY_AFTERS)
def test_retry_after_is_read(headers: dict[str, str], wait: timedelta | None) -> None:
    assert classify.answer(429, headers, b"", NOW).retry_after == wait


@given(st.text(max_size=60))
def test_no_retry_after_is_worse_than_none(given_: str) -> None:
    wait = classify.retry_after({"retry-after": given_}, NOW)
    assert wait is None or timedelta(0) <= wait <= classify.LONGEST_RETRY_AFTER


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda s: st.dictionaries(
            st.sampled_from(["error", "detail", "message", "type", "code", "loc", "msg"]), s | st.lists(s)
        ),
    ).map(encoded)
)
def test_every_body_means_something(body: bytes) -> None:
    assert classify.answer(400, {}, body, NOW).code
    assert classify.stream_error(body).code


def test_a_body_nested_beyond_all_measure_means_something() -> None:
    assert classify.answer(500, {}, b'{"error":' * 100_000, NOW).code is ErrorCode.PROVIDER_UNAVAILABLE


def message(said: str, *private: str) -> str:
    return classify.answer(400, {}, encoded({"error": said}), NOW, private).message


def test_the_message_quotes_the_provider() -> None:
    assert (
        message("temperature must be\n  non-negative") == "The provider answered 400: temperature must be non-negative"
    )


def test_markup_is_not_quoted() -> None:
    assert classify.answer(502, {}, b"<html>Bad Gateway</html>", NOW).message == "The provider answered 502."


def test_the_message_is_short() -> None:
    assert len(message("no " * 10_000)) < 350


@pytest.mark.parametrize(
    "said",
    [
        "Incorrect API key provided: k-3f9a.",
        "Incorrect API key provided: sk-proj-************abcd.",
        "bad header Authorization: Bearer k-3f9a77",
    ],
)
def test_keys_are_not_quoted(said: str) -> None:
    assert "***" in message(said, "k-3f9a")
    assert "3f9a" not in message(said, "k-3f9a")
    assert "abcd" not in message(said, "k-3f9a")


def test_the_prompt_is_not_quoted_even_in_part() -> None:
    prompt = "Dear doctor, since Tuesday my left knee has been hurting when I climb the stairs."
    said = message('Unsupported text: "my left knee has been hurting"; give up', prompt)
    assert said == 'The provider answered 400: Unsupported text: "***"; give up'


@pytest.mark.parametrize("as_told", [str, repr, ascii, json.dumps], ids=["as it is", "repr", "ascii", "JSON"])
def test_a_prompt_of_short_lines_is_not_quoted_however_it_is_told(as_told: Callable[[str], str]) -> None:
    prompt = "Ivan Petrov\n+79161234567\n\tn° de la clé 4276\r\nPIN 'new': 1234"
    said = message(f"Cannot read {as_told(prompt)} as an array", prompt)
    assert re.fullmatch(r"The provider answered 400: Cannot read ['\"]?\*\*\*['\"]? as an array", said)


def test_a_short_prompt_hides_no_part_of_a_longer_word() -> None:
    assert message("the context is text only", "text") == "The provider answered 400: the context is *** only"


def test_a_repeated_request_is_not_quoted() -> None:
    said = message('Failed to parse messages: unsupported; messages = [{"role": "user", "content": "secret"}]')
    assert "secret" not in said
    assert "unsupported" in said


def test_the_input_in_a_validation_error_is_not_quoted() -> None:
    _, body, _ = ANSWERS["a fastapi server: validation"]
    assert classify.answer(422, {}, encoded(body), NOW).message == (
        "The provider answered 422: body.messages: Field required"
    )
