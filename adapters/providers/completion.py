"""A chat completion while it comes in, in pieces or whole, and the judgement whether it is an answer."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.providers import classify
from adapters.providers.sse import EventReader, EventTooLong, ServerSentEvent
from domain.chat import ChatAnswer, ChatRequest
from domain.errors import ErrorCode, Failure, RunFailed
from domain.results import Usage

LONGEST_ANSWER = 16 << 20

NOT_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Said(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    """A piece of a streamed answer, or a whole one that was not streamed."""

    object: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Raw | UnsetType = UNSET

    @property
    def failed(self) -> bool:
        return self.object == "error" or (self.error is not UNSET and bytes(self.error) != b"null")


_chunks = msgspec.json.Decoder(_Chunk)


class Completion:
    """What has come of an answer so far.

    Args:
        private: what an error message must not repeat.
    """

    def __init__(self, private: tuple[str, ...] = ()) -> None:
        self.finish_reason: str | None = None
        self.done = False
        """Whether the provider said that this is all."""
        self._private = private
        self._events = EventReader()
        self._parts: list[str] = []
        self._size = 0
        self._model: str | None = None
        self._usage: Usage | UnsetType = UNSET
        self._refused = False
        self._has_choices = False

    def feed(self, piece: bytes) -> None:
        """Take in a piece of a stream of events.

        Raises:
            RunFailed: the provider reports an error, or sends what is no completion.
        """
        try:
            for event in self._events.feed(piece):
                self._event(event)
        except EventTooLong as error:
            raise _bad_response("The provider sent an event longer than any sensible one.") from error

    def end(self) -> None:
        """The stream is over."""
        for event in self._events.end():
            self._event(event)

    def take(self, data: bytes) -> None:
        """Take in one chunk of the answer, or the whole of it."""
        try:
            chunk = _chunks.decode(data)
        except NOT_JSON as error:
            raise _bad_response("The provider's answer is not a chat completion.") from error
        if chunk.failed:
            raise RunFailed.of(classify.stream_error(data, self._private))
        self._model = chunk.model or self._model
        self._usage = _usage(chunk.usage) or self._usage
        self._has_choices = self._has_choices or bool(chunk.choices)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(choice)

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
        if not self._has_choices:
            raise _bad_response("The provider's answer has no choices.")
        if failure := classify.FINISHES.get(self.finish_reason or ""):
            raise RunFailed.of(failure)
        content = "".join(self._parts)
        if not content.strip():
            raise RunFailed.of(self._silence(context_window))
        if request.wants_json:
            self._must_be_json(content, request)
        return ChatAnswer(content=content, model=self._model or model, usage=self._usage)

    def _event(self, event: ServerSentEvent) -> None:
        if event.data == b"[DONE]":
            self.done = True
        elif event.name == b"error":
            raise RunFailed.of(classify.stream_error(event.data, self._private))
        elif not self.done:
            self.take(event.data)

    def _choice(self, choice: _Choice) -> None:
        self.finish_reason = choice.finish_reason or self.finish_reason
        said = choice.delta or choice.message or _Said()
        self._refused = self._refused or bool(said.refusal)
        if said.content:
            self._parts.append(said.content)
            self._size += len(said.content)
            if self._size > LONGEST_ANSWER:
                raise _bad_response("The answer is longer than any sensible one.")

    def _silence(self, context_window: int | None) -> Failure:
        if self._refused or self.finish_reason == "content_filter":
            return Failure(ErrorCode.BAD_RESPONSE, "The model refused to answer.")
        prompt_tokens = self._usage.prompt_tokens if self._usage is not UNSET else UNSET
        return classify.empty_answer(
            self.finish_reason, None if prompt_tokens is UNSET else prompt_tokens, context_window
        )

    def _must_be_json(self, content: str, request: ChatRequest) -> None:
        if self.finish_reason == "length":
            raise _bad_response("The answer was cut at its token limit, and is not the JSON that was asked for.")
        try:
            document = msgspec.json.decode(content)
        except NOT_JSON as error:
            raise _bad_response("The answer is not the JSON that was asked for.") from error
        wanted = request.response_format or {}
        if wanted.get("type") == "json_object" and not isinstance(document, dict):
            raise _bad_response("The answer is not the JSON object that was asked for.")


def _bad_response(message: str) -> RunFailed:
    return RunFailed(ErrorCode.BAD_RESPONSE, message)


def _usage(given: object) -> Usage | None:
    if not isinstance(given, dict):
        return None
    counts = {name: given[name] for name in Usage.__struct_fields__ if isinstance(given.get(name), int)}
    return Usage(**counts) if counts else None
