"""What fits into a model's context, what does not, and what is done about it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.providers.context import CERTAINLY_FITS, LONGEST_TOKEN, ContextWindow, Limit, fewest_tokens, fitting
from domain.chat import ChatRequest, Message
from domain.errors import ErrorCode, RunFailed
from tests.adapters.providers.chats import KEY, a_provider, ask, failure
from tests.adapters.providers.factories import a_request
from tests.adapters.providers.test_classify import VLLM_TOO_LONG, anthropic, nested
from tests.adapters.providers.test_refusals import OVERFLOW, silent
from tests.servers.dialects import SAYS, lists, ollama_says
from tests.servers.model_server import Behaviour, ModelServer, refuses, says, stalls

VLLM = {"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 4096}
LLAMA = {"id": "gemma.gguf", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx_train": 32768}}
PROPS = {"default_generation_settings": {"n_ctx": 1024}, "total_slots": 4}


def too_long(asked: int, prompt: int, context: int = 4096) -> Behaviour:
    """vLLM's refusal."""
    text = VLLM_TOO_LONG.format(asked, prompt, asked + prompt).replace("32768", str(context))
    return refuses(400, nested(text, "BadRequestError", 400, "input_tokens"))


def a_prompt(characters: int, role: Any = "user") -> ChatRequest:
    return a_request(Message(role, "word " * (characters // 4)))


@pytest.fixture
def vllm() -> Any:
    with ModelServer(pages={"/v1/models": lists(VLLM)}) as server:
        yield server


async def test_an_answer_that_does_not_fit_beside_the_prompt_is_asked_for_shorter(
    vllm: ModelServer, client: httpx.AsyncClient
) -> None:
    vllm.script(too_long(4000, 769), says("Hi"))
    assert (await ask(a_provider("openai", client, vllm.base_url), a_request(max_tokens=4000))).content == "Hi"
    first, second = vllm.bodies
    assert second == {**first, "max_tokens": 4096 - 769 - 64}


async def test_each_resend_leaves_more_room_and_there_are_two(vllm: ModelServer, client: httpx.AsyncClient) -> None:
    vllm.script(too_long(4000, 97), too_long(3935, 162), too_long(2910, 1187))
    provider = a_provider("openai", client, vllm.base_url)
    assert (await failure(provider, a_request(max_tokens=4000))).code is ErrorCode.CONTEXT_LENGTH
    assert [body["max_tokens"] for body in vllm.bodies] == [4000, 4096 - 97 - 64, 4096 - 162 - 1024]


async def test_a_prompt_that_is_too_long_itself_is_sent_once(vllm: ModelServer, client: httpx.AsyncClient) -> None:
    vllm.script(too_long(50, 4096))
    provider = a_provider("openai", client, vllm.base_url)
    assert (await failure(provider, a_request(max_tokens=50))).code is ErrorCode.CONTEXT_LENGTH
    assert vllm.calls == 1


async def test_nothing_is_shortened_that_was_not_asked_for(vllm: ModelServer, client: httpx.AsyncClient) -> None:
    vllm.script(too_long(4000, 769))
    assert (await failure(a_provider("openai", client, vllm.base_url))).code is ErrorCode.CONTEXT_LENGTH
    assert vllm.calls == 1


async def test_anthropic_too_tells_what_would_fit(server: ModelServer, client: httpx.AsyncClient) -> None:
    said = (
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or "
        "`max_tokens` and try again"
    )
    server.script(refuses(400, anthropic("invalid_request_error", said)), SAYS["anthropic"]("Hi"))
    assert (await ask(a_provider("anthropic", client, server.base_url), a_request(max_tokens=20_000))).content == "Hi"
    assert server.bodies[1]["max_tokens"] == 200_000 - 190_000 - 3125


async def test_the_newer_name_of_the_limit_is_used_where_the_older_one_is_refused(
    server: ModelServer, client: httpx.AsyncClient
) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    server.script(refuses(400, nested(message, "invalid_request_error", "unsupported_parameter", "max_tokens")))
    await ask(a_provider("openai", client, server.base_url), a_request(max_tokens=5))
    assert [body.get("max_tokens") for body in server.bodies] == [5, None]
    assert server.bodies[1]["max_completion_tokens"] == 5


OLDER = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens ({} in the messages, 4000 "
    "in the completion)."
)
IN_BETWEEN = (
    "'max_tokens' is too large: 4000. This model's maximum context length is 4096 tokens and your request has 1000 "
    "input tokens (4000 > 4096 - 1000)."
)


@pytest.mark.parametrize(
    ("said", "room"),
    [
        (OLDER.format(1000), 4096 - 1000 - 64),
        (OLDER.format(4096), None),
        (IN_BETWEEN, 4096 - 1000 - 64),
        ('{"error": {"n_prompt_tokens": 900, "n_ctx": 4096}}', 4096 - 900 - 64),
        ('{"error": {"n_prompt_tokens":5000,"n_ctx":4096}}', None),
        ("Input length (5000) exceeds model's maximum context length (4096).", None),
        ("prompt is too long: 210000 tokens > 200000 maximum", None),
        ("", None),
    ],
)
def test_refusals_tell_what_would_fit(said: str, room: int | None) -> None:
    assert fitting(said, 4000, 0) == room


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 3))
def test_what_would_fit_fits_and_is_less_than_before(context: int, prompt: int, asked: int, resends: int) -> None:
    room = fitting(VLLM_TOO_LONG.replace("32768", str(context)).format(asked, prompt, asked + prompt), asked, resends)
    assert room is None or (0 < room < asked and prompt + room < context)


@pytest.mark.parametrize("kind", SAYS)
async def test_what_surely_does_not_fit_is_not_sent(client: httpx.AsyncClient, kind: str) -> None:
    shown = {"model_info": {"general.architecture": "gemma3", "gemma3.context_length": 4096}}
    with ModelServer(
        default=SAYS[kind]("Hi"), pages={"/v1/models": lists(VLLM)}, asides={"/api/show": refuses(200, shown)}
    ) as server:
        options = {"context_window": 4096} if kind == "anthropic" else {}
        provider = a_provider(kind, client, server.origin, **options)
        failed = await failure(provider, a_prompt(4096 * LONGEST_TOKEN))
        assert failed.code is ErrorCode.CONTEXT_LENGTH
        assert failed.message == "The prompt has at least 4096 tokens; the model's context has 4096."
        assert server.calls == 0
        assert (await ask(provider)).content == "Hi"


async def test_llama_server_tells_what_a_slot_has(client: httpx.AsyncClient) -> None:
    pages = {"/v1/models": lists(LLAMA), "/props": refuses(200, PROPS)}
    with ModelServer(pages=pages) as server:
        provider = a_provider("openai", client, server.base_url)
        assert (await failure(provider, a_prompt(1024 * LONGEST_TOKEN))).code is ErrorCode.CONTEXT_LENGTH
        assert [look.path for look in server.looks] == ["/v1/models", "/props"]
        assert {look.headers["authorization"] for look in server.looks} == {f"Bearer {KEY}"}


async def test_lm_studio_tells_with_what_the_model_was_loaded(client: httpx.AsyncClient) -> None:
    loaded = {"id": "m", "max_context_length": 9999, "loaded_context_length": 1024}
    pages = {
        "/v1/models": lists({"id": "m", "owned_by": "organization_owner"}, {"id": "n"}),
        "/api/v0/models": lists({"id": "n", "loaded_context_length": 1}, loaded),
    }
    with ModelServer(pages=pages) as server:
        provider = a_provider("openai", client, server.base_url)
        assert (await failure(provider, a_prompt(1024 * LONGEST_TOKEN))).code is ErrorCode.CONTEXT_LENGTH


async def test_what_is_told_of_a_context_explains_an_empty_answer(client: httpx.AsyncClient) -> None:
    with ModelServer(pages={"/v1/models": lists(LLAMA), "/props": refuses(200, PROPS)}) as server:
        server.script(silent(1024), silent(1023))
        provider = a_provider("openai", client, server.base_url)
        assert (await failure(provider)).code is ErrorCode.CONTEXT_LENGTH
        assert (await failure(provider)).code is ErrorCode.BAD_RESPONSE


async def test_vllm_is_asked_to_count_what_may_be_too_long(client: httpx.AsyncClient) -> None:
    count = refuses(200, {"count": 300_000, "max_model_len": 4096, "tokens": [123_456] * 300_000})
    with ModelServer(pages={"/v1/models": lists(VLLM)}, asides={"/tokenize": count}) as server:
        request = a_prompt(16_000)
        failed = await failure(a_provider("openai", client, server.base_url), request)
        assert failed.code is ErrorCode.CONTEXT_LENGTH
        assert server.calls == 0
        assert server.looks[-1].json == {
            "model": "m",
            "messages": [{"role": "user", "content": request.messages[0].content}],
        }


@pytest.mark.parametrize(
    "count",
    [
        refuses(200, {"count": 4095}),
        refuses(404, {"detail": "Not Found"}),
        refuses(200, "[]"),
        refuses(200, {"count": -1}),
    ],
    ids=["fits", "no such address", "nonsense", "less than nothing"],
)
async def test_what_was_not_counted_as_too_long_is_sent(client: httpx.AsyncClient, count: Behaviour) -> None:
    with ModelServer(pages={"/v1/models": lists(VLLM)}, asides={"/tokenize": count}) as server:
        assert (await ask(a_provider("openai", client, server.base_url), a_prompt(16_000))).content == "The answer."


async def test_a_prompt_that_may_well_fit_is_not_counted(vllm: ModelServer, client: httpx.AsyncClient) -> None:
    await ask(a_provider("openai", client, vllm.base_url), a_prompt(8_000))
    assert [look.path for look in vllm.looks] == ["/v1/models"]


async def test_for_a_prompt_that_fits_everywhere_nobody_is_asked(vllm: ModelServer, client: httpx.AsyncClient) -> None:
    await ask(a_provider("openai", client, vllm.base_url), a_prompt(CERTAINLY_FITS // 2))
    assert vllm.looks == []


UNTOLD: dict[str, Behaviour] = {
    "nobody": refuses(500),
    "no list": refuses(200, "<html>"),
    "nothing in it": lists(),
    "another's models": lists({"id": "a"}, {"id": "b"}),
    "no length": lists({"id": "m"}),
    "a length that is none": lists({"id": "m", "max_model_len": "long"}),
    "no models": refuses(200, {"data": [1, None]}),
}


@pytest.mark.parametrize("told", UNTOLD.values(), ids=UNTOLD)
async def test_a_server_that_tells_nothing_is_simply_called(client: httpx.AsyncClient, told: Behaviour) -> None:
    with ModelServer(pages={"/v1/models": told}) as server:
        provider = a_provider("openai", client, server.base_url)
        assert (await ask(provider, a_prompt(4096 * LONGEST_TOKEN))).content == "The answer."


SHOWN: dict[str, tuple[int | None, object, int | None]] = {
    "trained with": (None, {"model_info": {"general.architecture": "x", "x.context_length": 2048}}, 2048),
    "its own file's": (None, {"parameters": 'stop "a"\nnum_ctx    1024', "model_info": {}}, 1024),
    "asked for": (512, {"parameters": "num_ctx 1024"}, 512),
    "more asked for than stands in its file": (2048, {"parameters": "num_ctx 1024"}, 2048),
    "never more than trained": (9999, {"model_info": {"general.architecture": "x", "x.context_length": 2048}}, 2048),
    "nothing told": (None, {}, None),
    "nothing told, but asked for": (512, "no", 512),
}


@pytest.mark.parametrize(("num_ctx", "shown", "limit"), SHOWN.values(), ids=SHOWN)
async def test_ollama_tells_of_its_models(
    client: httpx.AsyncClient, num_ctx: int | None, shown: object, limit: int | None
) -> None:
    with ModelServer(default=ollama_says("Hi"), asides={"/api/show": refuses(200, shown)}) as server:
        provider = a_provider("ollama", client, server.origin, num_ctx=num_ctx)
        request = a_prompt(LONGEST_TOKEN * (limit or 4096))
        if limit is None:
            assert (await ask(provider, request)).content == "Hi"
        else:
            assert f"context has {limit}" in (await failure(provider, request)).message
        assert server.looks[0].json == {"model": "m"}


async def test_a_refusal_of_llama_server_is_not_answered_by_a_shorter_wish(
    server: ModelServer, client: httpx.AsyncClient
) -> None:
    server.script(refuses(400, OVERFLOW))
    provider = a_provider("openai", client, server.base_url)
    assert (await failure(provider, a_request(max_tokens=4000))).code is ErrorCode.CONTEXT_LENGTH
    assert server.calls == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Told:
    """A server's word, and how often it was asked for it."""

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self.asked = 0

    async def __call__(self) -> Limit:
        self.asked += 1
        await asyncio.sleep(0)
        return Limit(self.tokens)


@pytest.mark.parametrize(("tokens", "kept"), [(4096, 300), (None, 60)])
async def test_what_was_told_is_kept_for_a_while(tokens: int | None, kept: float) -> None:
    clock, told = Clock(), Told(tokens)
    window = ContextWindow(learn=told, monotonic=clock)
    assert await asyncio.gather(*(window.tokens() for _ in range(10))) == [tokens] * 10
    clock.now = kept - 1
    await window.tokens()
    assert told.asked == 1
    clock.now = kept
    await window.tokens()
    assert told.asked == 2


async def test_who_asked_and_was_cancelled_is_followed_by_the_next() -> None:
    told = Told(4096)
    window = ContextWindow(learn=told)
    first, second = (asyncio.create_task(window.tokens()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 4096
    assert told.asked == 2


async def test_a_call_that_is_cancelled_while_the_server_is_asked_ends_at_once(client: httpx.AsyncClient) -> None:
    with ModelServer(pages={"/v1/models": stalls(headers_first=False)}) as server:
        call = asyncio.create_task(ask(a_provider("openai", client, server.base_url), a_prompt(8_000)))
        await server.until(lambda server: bool(server.looks))
        call.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await call
        assert server.calls == 0


@pytest.mark.parametrize(
    ("messages", "fewest"),
    [
        ([Message("user", "")], 0),
        ([Message("user", "x")], 1),
        ([Message("user", "x" * LONGEST_TOKEN)], 1),
        ([Message("user", "x" * LONGEST_TOKEN + "y")], 2),
        ([Message("user", " \n" * 10_000)], 0),
        ([Message("assistant", "x" * 10_000), Message("system", "x" * 10_000)], 0),
        (
            [Message("user", [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "x" * 9999}}])],
            1,
        ),
    ],
)
def test_the_fewest_tokens_are_counted(messages: list[Message], fewest: int) -> None:
    assert fewest_tokens(messages) == fewest


async def test_a_window_that_is_known_is_not_asked_for() -> None:
    window = ContextWindow(10)
    assert (window.known, await window.tokens()) == (10, 10)
    with pytest.raises(RunFailed):
        await window.check(a_prompt(CERTAINLY_FITS * 2))
