"""A chat completion of OpenAI's API while it comes in. What a model thinks (`reasoning_content`) is not its answer."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from adapters.providers.client import NOT_JSON
from adapters.providers.incoming import IncomingEvents, bad_response, counted
from domain.results import Usage


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


class Completion(IncomingEvents):
    """Its first choice, as far as it has come."""

    def take(self, data: bytes) -> None:
        try:
            chunk = _chunks.decode(data)
        except NOT_JSON as error:
            raise bad_response("The provider's answer is not a chat completion.") from error
        if chunk.failed:
            raise self._fail(data)
        self._model = chunk.model or self._model
        self._usage = _usage(chunk.usage) or self._usage
        self._begun = self._begun or bool(chunk.choices)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(choice)

    def _choice(self, choice: _Choice) -> None:
        self.finish_reason = choice.finish_reason or self.finish_reason
        said = choice.delta or choice.message or _Said()
        self._refused = self._refused or bool(said.refusal)
        self._say(said.content)


def _usage(given: object) -> Usage | None:
    if not isinstance(given, dict):
        return None
    counts = counted({name: given.get(name) for name in Usage.__struct_fields__})
    return Usage(**counts) if counts else None
