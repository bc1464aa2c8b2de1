"""A chat answer while it comes in, in pieces or whole, and the judgement whether it is an answer.

What all APIs have in common; the shape of each is beside its provider.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from adapters.providers import classify
from adapters.providers.client import NOT_JSON
from adapters.providers.lines import LineTooLong
from adapters.providers.sse import EventReader, ServerSentEvent
from domain.chat import ChatAnswer, ChatRequest
from domain.errors import ErrorCode, RunFailed
from domain.ports import Tell, nobody
from domain.results import Usage

LONGEST_ANSWER = 16 << 20

EVENT_STREAM = "text/event-stream"


class Incoming(ABC):
    """What has come of an answer so far.

    Args:
        private: what an error message must not repeat.
        tell: hears the text as it comes.
    """

    content_type: ClassVar[str]
    """Of a streamed answer."""

    def __init__(self, private: tuple[str, ...] = (), tell: Tell = nobody) -> None:
        self.finish_reason: str | None = None
        """As OpenAI's API names it."""
        self.done = False
        """Whether the provider said that this is all."""
        self._private = private
        self._tell = tell
        self._parts: list[str] = []
        self._size = 0
        self._begun = False
        """Whether anything of it looked like an answer."""
        self._refused = False
        self._model: str | None = None
        self._usage: Usage | UnsetType = UNSET

    @property
    def silent(self) -> bool:
        """Whether it ended without a word."""
        return bool(self.done or self.finish_reason) and not any(part.strip() for part in self._parts)

    def feed(self, piece: bytes) -> None:
        """Take in a piece of a stream.

        Raises:
            RunFailed: the provider reports an error, or sends what is no part of an answer.
        """
        try:
            self._feed(piece)
        except LineTooLong as error:
            raise bad_response("The provider sent an event longer than any sensible one.") from error

    @abstractmethod
    def end(self) -> None:
        """The stream is over."""

    @abstractmethod
    def take(self, data: bytes) -> None:
        """Take in one document of the stream, or the whole of an answer that is not streamed."""

    @staticmethod
    @abstractmethod
    def is_stream(body: bytes) -> bool:
        """Whether a body that came under another name is a stream all the same."""

    @abstractmethod
    def _feed(self, piece: bytes) -> None: ...

    def answer(self, request: ChatRequest, model: str, context_window: int | None = None) -> ChatAnswer:
        """What came in, if it is an answer to this request.

        Args:
            model: the name that was asked for, in case that the provider gave none.
            context_window: in tokens, where it is known.

        Raises:
            RunFailed: it was cut off, is empty, is a refusal, or is not the JSON that was asked for.
        """
        if not self.finish_reason and not self.done:
            raise RunFailed(ErrorCode.PROVIDER_UNAVAILABLE, "The provider's answer was cut off.")
        if not self._begun:
            raise bad_response("There is no message in the provider's answer.")
        if failure := classify.FINISHES.get(self.finish_reason or ""):
            raise RunFailed.of(failure)
        content = "".join(self._parts)
        if self.finish_reason == "content_filter" or (self._refused and not content.strip()):
            raise bad_response("The model refused to answer.")
        if not content.strip():
            raise RunFailed.of(classify.empty_answer(self.finish_reason, self._prompt_tokens, context_window))
        if request.wants_json:
            self._must_be_json(content, request)
        return ChatAnswer(
            content=content,
            model=self._model or model,
            usage=self._usage,
            finish_reason=re.sub(r"\W", "", self.finish_reason or "")[:40] or UNSET,
        )

    @property
    def _prompt_tokens(self) -> int | None:
        tokens = self._usage.prompt_tokens if self._usage is not UNSET else UNSET
        return None if tokens is UNSET else tokens

    def _say(self, text: str | None) -> None:
        """More of the answer's text."""
        if not text:
            return
        self._size += len(text)
        if self._size > LONGEST_ANSWER:
            raise bad_response("The answer is longer than any sensible one.")
        self._parts.append(text)
        self._tell(text)

    def _fail(self, error: bytes) -> RunFailed:
        """What an error after a good beginning means."""
        return RunFailed.of(classify.stream_error(error, self._private))

    def _must_be_json(self, content: str, request: ChatRequest) -> None:
        if self.finish_reason == "length":
            raise bad_response("The answer was cut at its token limit, and is not the JSON that was asked for.")
        try:
            document = msgspec.json.decode(content)
        except NOT_JSON as error:
            raise bad_response("The answer is not the JSON that was asked for.") from error
        wanted = request.response_format or {}
        if wanted.get("type") == "json_object" and not isinstance(document, dict):
            raise bad_response("The answer is not the JSON object that was asked for.")


class IncomingEvents(Incoming):
    """An answer that comes as server-sent events."""

    content_type = EVENT_STREAM

    def __init__(self, private: tuple[str, ...] = (), tell: Tell = nobody) -> None:
        super().__init__(private, tell)
        self._events = EventReader()

    def _feed(self, piece: bytes) -> None:
        for event in self._events.feed(piece):
            self._event(event)

    def end(self) -> None:
        for event in self._events.end():
            self._event(event)

    @staticmethod
    def is_stream(body: bytes) -> bool:
        return body.lstrip().startswith((b"data:", b"event:", b":"))

    def _event(self, event: ServerSentEvent) -> None:
        if event.data == b"[DONE]":
            self.done = True
        elif event.name == b"error":
            raise self._fail(event.data)
        elif not self.done:
            self.take(event.data)


def bad_response(message: str) -> RunFailed:
    return RunFailed(ErrorCode.BAD_RESPONSE, message)


def counted(given: Mapping[str, Any]) -> dict[str, int]:
    """Those of these counts that are any."""
    return {name: count for name, count in given.items() if type(count) is int and count >= 0}
