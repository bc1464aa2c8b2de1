"""Chat with a model, whatever the API it is behind: always as a stream, although a caller may want the whole only.

A stream tells a slow model from a dead one, and hanging up stops the model. Nothing is sent again here unless the
server refused it and said what to change; whether to try again is the job's to decide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec

from adapters.providers import classify
from adapters.providers.client import CALL_ERRORS, HEADERS, pieces, posted, read, read_error, within
from adapters.providers.context import ContextWindow, fitting
from adapters.providers.incoming import LONGEST_ANSWER, Incoming
from domain.chat import ChatAnswer, ChatRequest
from domain.errors import ErrorCode, RunFailed
from domain.job import LeasedJob
from domain.ports import Tell, nobody

Body = dict[str, Any]

MOST_RESENDS = 3
LIMITS = ("max_tokens", "max_completion_tokens")
"""What APIs call the length of an answer."""


class Refused(RunFailed):
    """The server answered that it would not."""

    def __init__(self, refusal: RunFailed, said: str) -> None:
        super().__init__(refusal.failure.code, refusal.failure.message, retry_after=refusal.failure.retry_after)
        self.said = said
        """Word for word: it may hold what was sent, and is for reading numbers only."""


class StreamingChat(ABC):
    """One model of one server. Subclasses know the API.

    Args:
        url: that messages are posted to.
        headers: with the key.
        api_key: shown nowhere, also not where a server repeats it.
        timeout: for a whole call.
        window: what is known of the model's context.
        clock: what a `Retry-After` that is a date is compared with.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        model: str,
        url: str,
        headers: dict[str, str],
        api_key: str,
        timeout: timedelta,
        window: ContextWindow,
        clock: Callable[[], datetime],
    ) -> None:
        self.model = model
        self.url = url
        self._client = client
        self._address = httpx.URL(url)
        self._headers = httpx.Headers({**client.headers, **HEADERS, **headers})
        self._api_key = api_key
        self._timeout = timeout
        self._window = window
        self._clock = clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r})"

    async def chat(self, request: ChatRequest, job: LeasedJob, tell: Tell = nobody) -> ChatAnswer:
        async with within(self._timeout):
            body = self._body(request)
            await self._window.check(request)
            incoming = await self._ask(body, self._private(request), tell)
            # Only an empty answer is worth asking the server what its context is.
            window = await self._window.tokens() if incoming.silent else self._window.known
        return incoming.answer(request, self.model, window)

    @abstractmethod
    def _body(self, request: ChatRequest) -> Body:
        """What is posted.

        Raises:
            RunFailed: `bad_input`: the API has no words for this request.
        """

    @abstractmethod
    def _incoming(self, private: tuple[str, ...], tell: Tell) -> Incoming:
        """What an answer is received into."""

    def _amended(self, body: Body, refusal: Refused, resends: int) -> Body | None:
        """What the server might take instead; None where it has not said."""
        name = next((name for name in LIMITS if name in body), None)
        if refusal.failure.code is not ErrorCode.CONTEXT_LENGTH or name is None:
            return None
        room = fitting(refusal.said, body[name], resends)
        return None if room is None else {**body, name: room}

    async def _ask(self, body: Body, private: tuple[str, ...], tell: Tell) -> Incoming:
        resends = 0
        while True:
            try:
                return await self._send(body, private, tell)
            except Refused as refusal:
                amended = self._amended(body, refusal, resends) if resends < MOST_RESENDS else None
                if amended is None:
                    raise RunFailed.of(refusal.failure) from None
            body = amended
            resends += 1

    async def _send(self, body: Body, private: tuple[str, ...], tell: Tell) -> Incoming:
        incoming = self._incoming(private, tell)
        headers = self._headers.copy()
        headers["accept"] = incoming.content_type
        async with posted(self._client, self._address, headers, msgspec.json.encode(body)) as response:
            if not response.is_success:
                raise await self._refusal(response, private)
            await _receive(response, incoming)
        return incoming

    async def _refusal(self, response: httpx.Response, private: tuple[str, ...]) -> Refused:
        said = await read_error(response)
        failure = classify.answer(response.status_code, response.headers, said, self._clock(), private)
        return Refused(RunFailed.of(failure), said.decode(errors="replace"))

    def _private(self, request: ChatRequest) -> tuple[str, ...]:
        return self._api_key, *texts([message.content for message in request.messages])


async def _receive(response: httpx.Response, incoming: Incoming) -> None:
    """The answer, streamed or (from a server that does not know how) whole."""
    if response.headers.get("content-type", "").startswith(incoming.content_type):
        await _receive_stream(response, incoming)
        return
    body = await read(response, LONGEST_ANSWER)
    if incoming.is_stream(body):
        incoming.feed(body)
        incoming.end()
    else:
        incoming.take(body)
        incoming.done = True


async def _receive_stream(response: httpx.Response, incoming: Incoming) -> None:
    try:
        async for piece in pieces(response):
            incoming.feed(piece)
            if incoming.done:
                return
        incoming.end()
    except CALL_ERRORS:
        # The model has finished: how the connection ends does not matter any more.
        if not incoming.finish_reason:
            raise


def texts(content: Any) -> Iterator[str]:
    """Every text in the content of messages; the type of a part is none."""
    match content:
        case str():
            yield content
        case list():
            for item in content:
                yield from texts(item)
        case dict():
            for name, value in content.items():
                if name != "type":
                    yield from texts(value)
