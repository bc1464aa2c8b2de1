"""Chat with whatever speaks OpenAI's chat completions: vLLM, llama-server, Ollama, LM Studio, the clouds.

An answer is always asked for as a stream, although only the whole is wanted: it tells a slow model from a dead one, and
hanging up stops the model. Nothing is sent twice here; the job decides whether to try again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from adapters.providers import classify
from adapters.providers.completion import LONGEST_ANSWER, Completion
from domain.chat import ChatAnswer, ChatRequest
from domain.errors import ErrorCode, Failure, RunFailed
from domain.job import LeasedJob
from domain.ports import Tell, nobody

CONNECT_TIMEOUT = timedelta(seconds=5)
WRITE_TIMEOUT = timedelta(seconds=30)
POOL_TIMEOUT = timedelta(seconds=10)
"""For a connection from the look-up of its host name on. Nobody waits for a place in the pool: it has no limit."""
IDLE_TIMEOUT = timedelta(seconds=60)
KEEPALIVE = 2.0
"""Seconds. Most model servers close an idle connection after five, and a job that uses it just then loses its run."""

LONGEST_ERROR = 64 << 10

# The aiohttp transport lets some of aiohttp's own errors through.
CALL_ERRORS = (httpx.HTTPError, aiohttp.ClientError)

EVENT_STREAM = "text/event-stream"


def open_client(*, idle: timedelta = IDLE_TIMEOUT, verify: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    """A client for any number of providers and calls. It belongs to one event loop and is to be closed there.

    Proxies, certificates and passwords named in the environment are not used.

    Args:
        idle: how long a server may stay silent before its answer or in the middle of it.
    """
    return httpx.AsyncClient(
        transport=AiohttpTransport(
            verify=verify,
            trust_env=False,
            # Zero is aiohttp's "no limit"; None would be a hundred.
            limits=httpx.Limits(max_connections=0, keepalive_expiry=KEEPALIVE),
        ),
        timeout=httpx.Timeout(
            connect=CONNECT_TIMEOUT.total_seconds(),
            write=WRITE_TIMEOUT.total_seconds(),
            pool=POOL_TIMEOUT.total_seconds(),
            read=idle.total_seconds(),
        ),
        trust_env=False,
    )


def completions_url(base_url: str) -> str:
    """Where chat completions are, given where the API begins."""
    return _below(base_url, "chat/completions")


def models_url(base_url: str) -> str:
    """Where the server lists its models."""
    return _below(base_url, "models")


def _below(base_url: str, path: str) -> str:
    """An address without a path gets `/v1`; any other path is kept, with or without a slash at its end."""
    base = httpx.URL(base_url)
    beginning = base.path.rstrip("/") or "/v1"
    return str(base.copy_with(path=f"{beginning}/{path}"))


class OpenAIChatProvider:
    """One model of one server.

    Args:
        base_url: where the API begins: `http://host:8000/v1`, or `http://host:8000`.
        api_key: sent as a bearer token, shown nowhere.
        timeout: for a whole call.
        context_window: in tokens, where it is known; tells a prompt that left no room from a model with nothing to say.
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
        context_window: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.model = model
        self.url = completions_url(base_url)
        self._client = client
        self._api_key = api_key
        self._timeout = timeout.total_seconds()
        self._context_window = context_window
        self._clock = clock

    def __repr__(self) -> str:
        return f"OpenAIChatProvider(model={self.model!r})"

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        try:
            async with asyncio.timeout(self._timeout):
                completion = await self._ask(request)
        # First: some of aiohttp's errors are a TimeoutError too.
        except CALL_ERRORS as error:
            raise RunFailed.of(classify.broken_call(error)) from error
        except TimeoutError as error:
            raise RunFailed(ErrorCode.TIMEOUT, f"The answer was not complete after {self._timeout:g} s.") from error
        return completion.answer(request, self.model, self._context_window)

    async def _ask(self, request: ChatRequest) -> Completion:
        private = (self._api_key, *_texts([message.content for message in request.messages]))
        sent = self._client.stream("POST", self.url, content=self._body(request), headers=self._headers())
        async with sent as response:
            if not response.is_success:
                raise RunFailed.of(await self._refusal(response, private))
            return await _receive(response, Completion(private))

    async def _refusal(self, response: httpx.Response, private: tuple[str, ...]) -> Failure:
        body = bytearray()
        # Where the body does not arrive the status must do.
        with suppress(*CALL_ERRORS):
            await _read(response, body, LONGEST_ERROR)
        return classify.answer(response.status_code, response.headers, bytes(body), self._clock(), private)

    def _body(self, request: ChatRequest) -> bytes:
        fields = msgspec.to_builtins(request)
        return msgspec.json.encode(
            {"model": self.model, **fields, "stream": True, "stream_options": {"include_usage": True}}
        )

    def _headers(self) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "accept": EVENT_STREAM,
            # A proxy that compresses holds tokens back.
            "accept-encoding": "identity",
        }
        # Not an f-string: a secret that prints as stars would be sent as stars.
        return {**headers, "authorization": "Bearer " + self._api_key} if self._api_key else headers


async def _receive(response: httpx.Response, completion: Completion) -> Completion:
    """The answer, streamed or (from a server that does not know how) whole."""
    if response.headers.get("content-type", "").startswith(EVENT_STREAM):
        await _receive_events(response, completion)
        return completion
    body = bytearray()
    await _read(response, body, LONGEST_ANSWER)
    if body.lstrip().startswith((b"data:", b"event:", b":")):
        completion.feed(bytes(body))
        completion.end()
    else:
        completion.take(bytes(body))
        completion.done = True
    return completion


async def _receive_events(response: httpx.Response, completion: Completion) -> None:
    try:
        async for piece in response.aiter_bytes():
            completion.feed(piece)
            if completion.done:
                return
        completion.end()
    except CALL_ERRORS:
        # The model has finished: how the connection ends does not matter any more.
        if not completion.finish_reason:
            raise


async def _read(response: httpx.Response, body: bytearray, limit: int) -> None:
    """The body up to about the limit; what is cut there no longer parses."""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > limit:
            return


def _texts(content: Any) -> Iterator[str]:
    """Every text in the content of messages; the type of a part is none."""
    match content:
        case str():
            yield content
        case list():
            for item in content:
                yield from _texts(item)
        case dict():
            for name, value in content.items():
                if name != "type":
                    yield from _texts(value)
