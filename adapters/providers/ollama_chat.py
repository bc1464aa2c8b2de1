"""Chat with Ollama by its own API, which unlike its OpenAI-compatible one knows `num_ctx`.

Left to itself Ollama drops the beginning of a prompt that is too long and says nothing. It is asked not to (`truncate`
and `shift`), and answers `context_length` then; versions before the end of 2025 do not hear that. There a prompt
that fills the context, as far as its size is known, counts as cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.providers.client import NOT_JSON, bearer, beside, utc_now
from adapters.providers.context import ollama_window
from adapters.providers.incoming import Incoming, bad_response, counted
from adapters.providers.lines import LineReader
from adapters.providers.parts import cannot_say, data_url, wanted_schema
from adapters.providers.streaming import Body, StreamingChat
from domain.chat import ChatAnswer, ChatRequest, Message
from domain.errors import ErrorCode, RunFailed
from domain.ports import Tell, nobody
from domain.results import Usage

BASE_URL = "http://127.0.0.1:11434"

OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
"""By the names of a request."""


class OllamaChatProvider(StreamingChat):
    """One model of one Ollama.

    Args:
        base_url: `http://host:11434`; a `/v1` at its end does not matter.
        api_key: for a proxy before it; shown nowhere.
        timeout: for a whole call, the loading of the model included.
        num_ctx: the context to load the model with, in tokens; None: Ollama's choice.
        clock: what a `Retry-After` that is a date is compared with.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        model: str,
        base_url: str = BASE_URL,
        api_key: str = "",
        timeout: timedelta,
        num_ctx: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(
            client,
            model=model,
            url=beside(base_url, "api/chat"),
            headers=bearer(api_key),
            api_key=api_key,
            timeout=timeout,
            window=ollama_window(client, beside(base_url, "api/show"), api_key, model, num_ctx),
            clock=clock,
        )
        self._num_ctx = num_ctx

    def _body(self, request: ChatRequest) -> Body:
        options = dict(_options(request, self._num_ctx))
        return {
            "model": self.model,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            "truncate": False,
            "shift": False,
            **({"options": options} if options else {}),
            **({"format": wanted_schema(request) or "json"} if request.wants_json else {}),
        }

    def _incoming(self, private: tuple[str, ...], tell: Tell) -> Incoming:
        return OllamaReply(private, tell)


def _options(request: ChatRequest, num_ctx: int | None) -> Iterator[tuple[str, Any]]:
    if num_ctx:
        yield "num_ctx", num_ctx
    for ours, theirs in OPTIONS.items():
        if (value := getattr(request, ours)) is not UNSET:
            yield theirs, value
    if request.stop:
        yield "stop", [request.stop] if isinstance(request.stop, str) else request.stop


def _message(message: Message) -> Body:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    texts = [part["text"] for part in message.content if isinstance(part.get("text"), str)]
    images = [_image(part) for part in message.content if not isinstance(part.get("text"), str)]
    return {"role": role, "content": "\n".join(texts), **({"images": images} if images else {})}


def _image(part: dict[str, Any]) -> str:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)} if image := data_url(url):
            return image.data
        case {"type": "image_url"}:
            raise cannot_say("Ollama fetches no images: give them as base64 data URLs.")
        case _:
            raise cannot_say("Ollama takes texts and images; a message has a part of another type.")


class _Said(Struct):
    content: str | None = None


class _Line(Struct):
    model: str | None = None
    message: _Said | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Raw | UnsetType = UNSET


_lines = msgspec.json.Decoder(_Line)


class OllamaReply(Incoming):
    """Its lines, as far as they have come. What the model thinks is passed over."""

    content_type = "application/x-ndjson"

    def __init__(self, private: tuple[str, ...] = (), tell: Tell = nobody) -> None:
        super().__init__(private, tell)
        self._reader = LineReader()

    def _feed(self, piece: bytes) -> None:
        for line in self._reader.feed(piece):
            if line.strip() and not self.done:
                self.take(line)

    def end(self) -> None:
        # A last line without an end may be whole.
        with suppress(*NOT_JSON):
            _lines.decode(self._reader.rest)
            self._feed(b"\n")

    @staticmethod
    def is_stream(body: bytes) -> bool:
        return b"}\n{" in body.replace(b"\r", b"")

    def take(self, data: bytes) -> None:
        try:
            line = _lines.decode(data)
        except NOT_JSON as error:
            raise bad_response("The provider's answer is none of Ollama's.") from error
        if line.error is not UNSET and bytes(line.error) != b"null":
            raise self._fail(data)
        self._begun = self._begun or line.message is not None
        self._model = line.model or self._model
        self._say(line.message.content if line.message else None)
        if line.done:
            self._end(line)

    def _end(self, line: _Line) -> None:
        self.done = True
        self.finish_reason = line.done_reason or None
        counts = counted({"prompt": line.prompt_eval_count, "answer": line.eval_count})
        if counts:
            prompt, answer = counts.get("prompt", 0), counts.get("answer", 0)
            self._usage = Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)

    def answer(self, request: ChatRequest, model: str, context_window: int | None = None) -> ChatAnswer:
        prompt = self._prompt_tokens
        # Ollama lets a prompt have one token less than there are.
        if self.done and context_window and prompt is not None and prompt >= context_window:
            message = f"The prompt fills the model's context of {context_window} tokens: Ollama has cut it, or had to."
            raise RunFailed(ErrorCode.CONTEXT_LENGTH, message)
        return super().answer(request, model, context_window)
