"""What every chat provider does in the same way, whatever the API it speaks."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from datetime import timedelta

import httpx
import pytest

from adapters.providers.client import open_client
from adapters.providers.incoming import LONGEST_ANSWER
from adapters.providers.lines import LONGEST_LINE
from domain.chat import ChatAnswer, Message
from domain.errors import ErrorCode, Failure
from domain.results import Usage
from tests.adapters.providers.chats import KEY, a_provider, ask, failure
from tests.adapters.providers.factories import a_request
from tests.servers.dialects import LINES, SAYS, anthropic_stream, event, line, message_start, ollama_stream
from tests.servers.model_server import (
    EVENTS,
    JSON,
    Behaviour,
    ModelServer,
    Reply,
    Request,
    chunk,
    refuses,
    sends,
    stalls,
    stream,
    streams,
)

CONTENT_TYPES = {"openai": EVENTS, "anthropic": EVENTS, "ollama": LINES}
STREAMS = {"openai": stream, "anthropic": anthropic_stream, "ollama": ollama_stream}
TEXT = "Спик, в 1858 году.\n\n  (Speke did.) 🦛 "
CONVERSATION = a_request(
    Message("system", "Be brief."),
    Message("user", [{"type": "text", "text": "Who discovered"}, {"type": "text", "text": "the sources of the Nile?"}]),
    Message("assistant", "When?"),
    Message("user", "Ever."),
    max_tokens=50,
    temperature=0.5,
    stop=["END"],
)

pytestmark = pytest.mark.parametrize("kind", SAYS)


async def test_the_same_conversation_has_the_same_answer(
    server: ModelServer, client: httpx.AsyncClient, kind: str
) -> None:
    told: list[str] = []
    server.script(SAYS[kind](TEXT, model="the model"))
    answer = await ask(a_provider(kind, client, server.base_url), CONVERSATION, told.append)
    usage = Usage(prompt_tokens=3, completion_tokens=len(TEXT.split()), total_tokens=3 + len(TEXT.split()))
    assert answer == ChatAnswer(content=TEXT, model="the model", usage=usage, finish_reason="stop")
    assert [piece for piece in told if piece] == [*(f"{word} " for word in TEXT.split(" ")[:-1])]


async def test_an_answer_that_is_cut_at_its_limit_says_so(
    server: ModelServer, client: httpx.AsyncClient, kind: str
) -> None:
    server.script(SAYS[kind]("Once upon a", finish_reason="length"))
    assert (await ask(a_provider(kind, client, server.base_url))).finish_reason == "length"


async def test_text_is_told_while_it_comes(server: ModelServer, client: httpx.AsyncClient, kind: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    beginning = b"".join(STREAMS[kind]("Hello there")).partition(b"there")[0].rpartition(b"\n")[0] + b"\n"
    server.script(stalls(beginning, content_type=CONTENT_TYPES[kind]))
    call = asyncio.create_task(ask(a_provider(kind, client, server.base_url), tell=told.put_nowait))
    assert await asyncio.wait_for(told.get(), 5) == "Hello "
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_an_answer_under_another_model_s_name_passes_and_names_it(
    server: ModelServer, client: httpx.AsyncClient, kind: str
) -> None:
    server.script(SAYS[kind]("Hi", model="another"))
    assert (await ask(a_provider(kind, client, server.base_url))).model == "another"


@pytest.mark.parametrize("where", ["before headers", "in mid-stream"])
async def test_a_cancelled_call_hangs_up_at_once(server: ModelServer, kind: str, where: str) -> None:
    async with open_client() as client:
        begun = STREAMS[kind]("a long answer")[:3]
        server.script(
            stalls(headers_first=False)
            if where == "before headers"
            else stalls(*begun, content_type=CONTENT_TYPES[kind])
        )
        call = asyncio.create_task(ask(a_provider(kind, client, server.base_url)))
        await server.until(lambda server: server.running == 1)
        call.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.until(lambda server: server.hang_ups == 1)


async def test_neither_key_nor_prompt_comes_back_in_a_message(
    server: ModelServer, client: httpx.AsyncClient, kind: str
) -> None:
    server.script(refuses(400, {"error": f"{KEY}: cannot template 'Who discovered the sources of the Nile?'"}))
    assert (await failure(a_provider(kind, client, server.base_url))).message == (
        "The provider answered 400: ***: cannot template '***'"
    )


async def test_the_key_is_not_shown(client: httpx.AsyncClient, kind: str) -> None:
    provider = a_provider(kind, client, "http://a")
    assert KEY not in repr(provider)
    assert "model='m'" in repr(provider)


def thoughts(kind: str) -> list[bytes]:
    """Nothing but thoughts, in every way that is in use."""
    return {
        "openai": [
            chunk({"index": 0, "delta": {name: "Hm"}}) for name in ("reasoning_content", "reasoning", "thinking")
        ],
        "anthropic": [
            message_start(),
            event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm"}),
        ],
        "ollama": [line(None, message={"content": "", "thinking": "Hm"})],
    }[kind]


async def test_thoughts_are_not_told(server: ModelServer, client: httpx.AsyncClient, kind: str) -> None:
    told: list[str] = []
    server.script(streams(*thoughts(kind), *STREAMS[kind]("Hi"), content_type=CONTENT_TYPES[kind]))
    assert (await ask(a_provider(kind, client, server.base_url), tell=told.append)).content == "Hi"
    assert told == ["Hi"]


def drips(data: bytes, pause: float, content_type: str) -> Behaviour:
    """Streams one byte at a time."""

    async def behave(request: Request, reply: Reply) -> None:
        await reply.start_stream(content_type)
        for byte in data:
            await reply.piece(bytes([byte]))
            await asyncio.sleep(pause)
        await reply.end_stream()

    return behave


def packed(body: bytes, encoding: str) -> Behaviour:
    return refuses(200, body, headers={**JSON, "content-encoding": encoding})


def floods_headers() -> Behaviour:
    """Headers without end."""

    async def behave(request: Request, reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            await reply.raw(b"x-%d: %s\r\n" % (number, b"x" * 1000))

    return behave


def floods(kind: str) -> Behaviour:
    """Good pieces without end."""
    word = "x" * (LONGEST_LINE // 2)
    piece = {"openai": stream(word)[1], "anthropic": anthropic_stream(word)[3], "ollama": line(word)}[kind]
    return stalls(*[piece] * (2 * LONGEST_ANSWER // LONGEST_LINE + 2), content_type=CONTENT_TYPES[kind])


NULLS = {
    "openai": b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
    "anthropic": b'{"type": "message", "content": [{"type": "text", "text": null}], "stop_reason": "end_turn"}',
    "ollama": b'{"message": {"content": null}, "done": true, "done_reason": "stop"}',
}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded", "code": 529}}
BOMB = gzip.compress(b" " * (64 << 20), 9)
BOMB_IN_BOMB = gzip.compress(BOMB, 9)


def bad(kind: str) -> dict[str, tuple[Behaviour, ErrorCode]]:
    """How a server of this kind may behave, and what that means."""
    content_type = CONTENT_TYPES[kind]
    return {
        "html with 200": (refuses(200, "<html></html>", headers={"content-type": "text/html"}), ErrorCode.BAD_RESPONSE),
        "html in a stream": (
            streams(b"<html>\n\n", content_type=content_type),
            # To a reader of events a line of any sort is none that it knows.
            ErrorCode.BAD_RESPONSE if kind == "ollama" else ErrorCode.PROVIDER_UNAVAILABLE,
        ),
        "half a stream": (
            streams(*STREAMS[kind]("a long answer")[:3], content_type=content_type),
            ErrorCode.PROVIDER_UNAVAILABLE,
        ),
        "null content": (refuses(200, NULLS[kind]), ErrorCode.BAD_RESPONSE),
        "null": (refuses(200, "null"), ErrorCode.BAD_RESPONSE),
        "a list": (refuses(200, "[]"), ErrorCode.BAD_RESPONSE),
        "200 with an error inside": (refuses(200, ERROR), ErrorCode.PROVIDER_UNAVAILABLE),
        "a line without end": (stalls(*[b"x" * 65_536] * 20, content_type=content_type), ErrorCode.BAD_RESPONSE),
        "an answer without end": (floods(kind), ErrorCode.BAD_RESPONSE),
        "a gzip bomb": (packed(BOMB, "gzip"), ErrorCode.BAD_RESPONSE),
        "a bomb in a bomb": (packed(BOMB_IN_BOMB, "gzip, gzip"), ErrorCode.BAD_RESPONSE),
        "what is not gzip": (packed(b"{}", "gzip"), ErrorCode.BAD_RESPONSE),
        "deflate that is cut": (packed(zlib.compress(b"{}" * 1000)[:-9], "deflate"), ErrorCode.BAD_RESPONSE),
        "a redirect": (refuses(307, "", headers={"location": "/v1/elsewhere"}), ErrorCode.PROVIDER_ERROR),
        "a redirect to another host": (
            refuses(301, "", headers={"location": "http://169.254.169.254/latest"}),
            ErrorCode.PROVIDER_ERROR,
        ),
        "headers without end": (floods_headers(), ErrorCode.BAD_RESPONSE),
        "no http": (sends(b"SSH-2.0-OpenSSH\r\n\r\n"), ErrorCode.BAD_RESPONSE),
    }


BAD = {kind: bad(kind) for kind in SAYS}


@pytest.mark.parametrize("name", BAD["openai"])
async def test_a_server_may_be_bad_and_the_next_call_is_good(
    server: ModelServer, client: httpx.AsyncClient, kind: str, name: str
) -> None:
    behaviour, code = BAD[kind][name]
    server.asides = {"/api/show": refuses(404)}
    server.script(behaviour, SAYS[kind]("Hi"))
    provider = a_provider(kind, client, server.base_url, timeout=timedelta(seconds=10))
    assert (await failure(provider)).code is code
    assert (await ask(provider)).content == "Hi"
    assert server.calls == 2
    await server.until(lambda server: server.running == 0)


async def test_a_server_that_drips_is_not_silent_but_its_time_runs_out(server: ModelServer, kind: str) -> None:
    data = b"".join(STREAMS[kind]("a long answer"))
    server.script(drips(data, 0.05, CONTENT_TYPES[kind]))
    async with open_client(idle=timedelta(seconds=0.3)) as client:
        provider = a_provider(kind, client, server.base_url, timeout=timedelta(seconds=0.8))
        assert await failure(provider) == Failure(ErrorCode.TIMEOUT, "The answer was not complete after 0.8 s.")
    await server.until(lambda server: server.hang_ups == 1)


async def test_a_server_that_falls_silent_is_left_after_a_while(server: ModelServer, kind: str) -> None:
    server.script(stalls(*STREAMS[kind]("a long answer")[:3], content_type=CONTENT_TYPES[kind]))
    async with open_client(idle=timedelta(seconds=0.3)) as client:
        failed = await failure(a_provider(kind, client, server.base_url))
    assert failed == Failure(ErrorCode.TIMEOUT, "The provider fell silent.")


async def test_no_cookie_is_kept(server: ModelServer, client: httpx.AsyncClient, kind: str) -> None:
    # By name: of an address aiohttp keeps none anyway.
    provider = a_provider(kind, client, server.base_url.replace("127.0.0.1", "localhost"))
    server.script(refuses(400, "", headers={"set-cookie": "session=1; Path=/"}), SAYS[kind]("Hi"))
    await failure(provider)
    await ask(provider)
    assert "cookie" not in server.requests[1].headers
