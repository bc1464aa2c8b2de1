"""The results of built-in task types, versioned by name.

A new optional field may be added to a version; a breaking change is a new name. Consumers ignore unknown fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from domain.errors import BadInput, Problem

Count = Annotated[int, Meta(ge=0)]
Duration = Annotated[
    int, Meta(ge=0, description="Milliseconds of the run itself: provider calls and checks, not the wait before.")
]
Seconds = Annotated[float, Meta(ge=0, description="Seconds from the beginning of the recording.")]


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens, as the provider counted them."""

    prompt_tokens: int | UnsetType = UNSET
    completion_tokens: int | UnsetType = UNSET
    total_tokens: int | UnsetType = UNSET


class ProviderAttempt(Struct, frozen=True, kw_only=True):
    """One provider that was asked, and what came of it."""

    provider: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    error_code: Annotated[str, Meta(description="Left out: this one answered.")] | UnsetType = UNSET
    error_message: str | UnsetType = UNSET
    duration_ms: Duration | UnsetType = UNSET


Attempts = Annotated[
    tuple[ProviderAttempt, ...], Meta(description="In their order; only where more than one call was made.")
]


class ChatResult(Struct, frozen=True, kw_only=True):
    """The result of every chat task type."""

    schema_version: Literal["ai.chat_result.v1"] = "ai.chat_result.v1"
    content: str
    provider: Annotated[str, Meta(description="What kind of server answered: `vllm`, `ollama` ...")] | UnsetType = UNSET
    model: Annotated[str, Meta(description="The model that answered, as the provider named it.")]
    finish_reason: Annotated[str, Meta(description="`length`: the answer was cut at its limit.")] | UnsetType = UNSET
    attempts: Attempts | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    duration_ms: Duration


class Segment(Struct, frozen=True, kw_only=True):
    """What was said without a pause, or by one speaker. Its end is never before its start."""

    start: Seconds
    end: Seconds
    text: str
    speaker: Annotated[str, Meta(description="Only where speakers were told apart.")] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"The segment ends at {self.end} s, before its start at {self.start} s")


class TranscriptionResult(Struct, frozen=True, kw_only=True):
    """The result of every speech task type. No speech at all is a success without segments."""

    schema_version: Literal["ai.transcription_result.v1"] = "ai.transcription_result.v1"
    provider: str | UnsetType = UNSET
    model: Annotated[str, Meta(description="The model that transcribed, as the provider named it.")] | UnsetType = UNSET
    attempts: Attempts | UnsetType = UNSET
    language: Annotated[str, Meta(description="The spoken language, as the provider named it.")]
    segments: Annotated[tuple[Segment, ...], Meta(description="In the order of the recording.")]
    duration_ms: Duration


class EmbeddingResult(Struct, frozen=True, kw_only=True):
    """The result of embedding: one vector for each input, in their order."""

    schema_version: Literal["ai.embedding_result.v1"] = "ai.embedding_result.v1"
    embeddings: tuple[tuple[float, ...], ...]
    model: Annotated[str, Meta(description="The model that answered, as the provider named it.")]
    usage: Usage | UnsetType = UNSET
    duration_ms: Duration


RESULT_SCHEMAS: dict[str, type[Struct]] = {
    "ai.chat_result.v1": ChatResult,
    "ai.transcription_result.v1": TranscriptionResult,
    "ai.embedding_result.v1": EmbeddingResult,
}
"""Every result that this service promises the form of, by its `schema_version`."""


def check_result(result: bytes | msgspec.Raw) -> None:
    """Hold a result to the `schema_version` that it names, if that is one of ours. Any other object passes.

    Raises:
        BadInput: it does not fit, or is no JSON object; with pointers below `/result`.
    """
    try:
        version = _versioned.decode(result).schema_version
        if isinstance(version, str) and version in _decoders:
            _decoders[version].decode(result)
    except msgspec.ValidationError as error:
        raise BadInput([Problem.of(error).below("/result")]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadInput([Problem("/result", "must be JSON in UTF-8, and not nested too deeply")]) from None


def content_of(result: bytes | msgspec.Raw) -> str | None:
    """What a chat answered; None where this is no chat's result."""
    try:
        chat = _chats.decode(result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return chat.content if chat.schema_version == "ai.chat_result.v1" else None


class _Chat(Struct):
    schema_version: str
    content: str


_chats = msgspec.json.Decoder(_Chat)


class _Versioned(Struct):
    schema_version: Any = None


_versioned = msgspec.json.Decoder(_Versioned)
_decoders = {version: msgspec.json.Decoder(kind) for version, kind in RESULT_SCHEMAS.items()}
