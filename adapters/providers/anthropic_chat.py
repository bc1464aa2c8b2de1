"""Chat with Claude by Anthropic's Messages API.

There is no JSON mode that every model and every schema can have: structured outputs (`output_config`) are for newer
models, and for schemas without recursion, limits and open objects. So the wish is always written below the system
prompt, structured outputs are asked for where there is a schema, and given up where the server refuses them. Who asked
for JSON has its answer checked in either case. A beginning put into Claude's mouth, the older way, is refused by newer
models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.providers.client import NOT_JSON, beside, utc_now
from adapters.providers.context import ContextWindow
from adapters.providers.incoming import Incoming, IncomingEvents, bad_response, counted
from adapters.providers.parts import cannot_say, data_url, wanted_schema
from adapters.providers.streaming import Body, Refused, StreamingChat
from domain.chat import ChatRequest, Message
from domain.errors import ErrorCode
from domain.ports import Tell
from domain.results import Usage

BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
MAX_TOKENS = 4_096

STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""By the reason that Anthropic gives; any other goes by its own name."""

JSON_OBJECT = "Answer with one JSON object and nothing else: no prose around it, no code fence."
JSON_SCHEMA = "Answer with JSON that fits this JSON schema and nothing else: no prose around it, no code fence.\n"

NOT_TAKEN = (
    (
        re.compile(r"output_config|output_format|structured output|schema", re.IGNORECASE),
        ("output_config",),
    ),
    (re.compile(r"temperature|top_p", re.IGNORECASE), ("temperature", "top_p")),
)
"""What a refusal speaks of, and what is left out then: not every model takes it. The last row is for the newest, which
choose for themselves.
"""


class AnthropicChatProvider(StreamingChat):
    """One model of Anthropic's, or of a server that speaks like it.

    `seed` is not sent, there is no such thing; nor is `top_p` beside a temperature, which newer models refuse.

    Args:
        base_url: with `/v1` or without.
        api_key: shown nowhere.
        timeout: for a whole call.
        max_tokens: of an answer, where the request does not say: the API must be told.
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
        max_tokens: int = MAX_TOKENS,
        context_window: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(
            client,
            model=model,
            url=beside(base_url, "v1/messages"),
            headers={"anthropic-version": VERSION, **({"x-api-key": api_key} if api_key else {})},
            api_key=api_key,
            timeout=timeout,
            window=ContextWindow(context_window),
            clock=clock,
        )
        self._max_tokens = max_tokens

    def _body(self, request: ChatRequest) -> Body:
        return {
            "model": self.model,
            "max_tokens": request.max_tokens or self._max_tokens,
            "messages": [
                {"role": _role(message), "content": _content(message)}
                for message in request.messages
                if not _is_system(message)
            ],
            **_system(request),
            **_sampling(request),
            **_stops(request),
            **_output(request),
            "stream": True,
        }

    def _incoming(self, private: tuple[str, ...], tell: Tell) -> Incoming:
        return AnthropicMessage(private, tell)

    def _amended(self, body: Body, refusal: Refused, resends: int) -> Body | None:
        if refusal.failure.code is ErrorCode.BAD_INPUT:
            for sign, fields in NOT_TAKEN:
                if body.keys() & set(fields) and sign.search(refusal.said):
                    return {name: value for name, value in body.items() if name not in fields}
        return super()._amended(body, refusal, resends)


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _role(message: Message) -> str:
    if message.role == "tool":
        raise cannot_say("Anthropic's API takes no messages of the role 'tool' without the call that they answer.")
    return message.role


def _content(message: Message) -> str | list[Any]:
    return message.content if isinstance(message.content, str) else [_part(part) for part in message.content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return {"type": "image", "source": _source(url)}
        case _:
            raise cannot_say("Anthropic's API takes texts and images; a message has a part of another type.")


def _source(url: str) -> dict[str, str]:
    if image := data_url(url):
        return {"type": "base64", "media_type": image.media_type, "data": image.data}
    if not url.startswith(("https://", "http://")):
        raise cannot_say("An image of a message is neither a base64 data URL nor a web address.")
    return {"type": "url", "url": url}


def _system(request: ChatRequest) -> Body:
    """What is said above the conversation, from wherever it stood in it."""
    said = "\n\n".join([*_system_texts(request), *_wish(request)])
    return {"system": said} if said else {}


def _system_texts(request: ChatRequest) -> Iterator[str]:
    for message in filter(_is_system, request.messages):
        if isinstance(message.content, str):
            yield message.content
            continue
        for part in message.content:
            if not isinstance(part.get("text"), str):
                raise cannot_say("Anthropic's API takes only text in a system message.")
            yield part["text"]


def _wish(request: ChatRequest) -> Iterator[str]:
    if not request.wants_json:
        return
    schema = wanted_schema(request)
    yield JSON_OBJECT if schema is None else JSON_SCHEMA + msgspec.json.encode(schema).decode()


def _sampling(request: ChatRequest) -> Body:
    if request.temperature is not UNSET:
        # OpenAI's scale ends at 2.
        return {"temperature": min(request.temperature, 1.0)}
    return {} if request.top_p is UNSET else {"top_p": request.top_p}


def _stops(request: ChatRequest) -> Body:
    if not request.stop:
        return {}
    return {"stop_sequences": [request.stop] if isinstance(request.stop, str) else request.stop}


def _output(request: ChatRequest) -> Body:
    schema = wanted_schema(request)
    return {} if schema is None else {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


class _Text(Struct):
    type: str = ""
    text: str | None = None


class _Delta(Struct):
    type: str = ""
    text: str | None = None
    stop_reason: str | None = None


class _Message(Struct):
    model: str | None = None
    usage: Any = None


class _Event(Struct):
    """An event of the stream, or a whole message."""

    type: str = ""
    message: _Message | None = None
    content_block: _Text | None = None
    delta: _Delta | None = None
    usage: Any = None
    model: str | None = None
    content: list[_Text] | None = None
    stop_reason: str | None = None
    error: Raw | UnsetType = UNSET


_events = msgspec.json.Decoder(_Event)


class AnthropicMessage(IncomingEvents):
    """Its texts, as far as they have come; thoughts and calls of tools are passed over."""

    def __init__(self, private: tuple[str, ...], tell: Tell) -> None:
        super().__init__(private, tell)
        self._counts: dict[str, int] = {}

    def take(self, data: bytes) -> None:
        try:
            event = _events.decode(data)
        except NOT_JSON as error:
            raise bad_response("The provider's answer is no message of Anthropic's API.") from error
        match event.type:
            case "message_start":
                self._start(event.message or _Message())
            case "content_block_start":
                self._text(event.content_block)
            case "content_block_delta" if event.delta and event.delta.type == "text_delta":
                self._say(event.delta.text)
            case "message_delta":
                self._count(event.usage)
                self._stop(event.delta.stop_reason if event.delta else None)
            case "message_stop":
                self.done = True
            case "message":
                self._whole(event)
            case _ if event.type == "error" or event.error is not UNSET:
                raise self._fail(data)

    def _start(self, message: _Message) -> None:
        self._begun = True
        self._model = message.model
        self._count(message.usage)

    def _whole(self, message: _Event) -> None:
        self._start(_Message(message.model, message.usage))
        for block in message.content or ():
            self._text(block)
        self._stop(message.stop_reason)

    def _text(self, block: _Text | None) -> None:
        if block and block.type == "text":
            self._say(block.text)

    def _stop(self, reason: str | None) -> None:
        if reason:
            self.finish_reason = STOPS.get(reason, reason)

    def _count(self, usage: object) -> None:
        """The latest of each count holds."""
        self._counts.update(counted(usage if isinstance(usage, dict) else {}))
        prompt = sum(self._counts.get(name, 0) for name in PROMPT_COUNTS)
        answer = self._counts.get("output_tokens", 0)
        if self._counts:
            self._usage = Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


PROMPT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""The first counts only what no cache had to do with."""
