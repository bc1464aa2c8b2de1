"""The results of built-in task types, versioned by name.

A new optional field may be added to a version; a breaking change is a new name. Consumers ignore unknown fields.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from domain.errors import BadInput, Problem


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens, as the provider counted them."""

    prompt_tokens: int | UnsetType = UNSET
    completion_tokens: int | UnsetType = UNSET
    total_tokens: int | UnsetType = UNSET


class ChatResult(Struct, frozen=True, kw_only=True):
    """The result of every chat task type."""

    schema_version: Literal["ai.chat_result.v1"] = "ai.chat_result.v1"
    content: str
    model: str
    """The model that answered, as the provider named it."""
    usage: Usage | UnsetType = UNSET
    duration_ms: int
    """The run's own time: provider calls and checks, not the wait before."""


class _Versioned(Struct):
    schema_version: Any = None


_version = msgspec.json.Decoder(_Versioned)
_schemas: dict[str, msgspec.json.Decoder[Any]] = {"ai.chat_result.v1": msgspec.json.Decoder(ChatResult)}


def check_result(result: bytes) -> None:
    """
    Raises:
        BadInput: it claims one of our schemas and does not fit it.
    """
    version = _version.decode(result).schema_version
    schema = _schemas.get(version) if isinstance(version, str) else None
    if schema is None:
        return
    try:
        schema.decode(result)
    except msgspec.ValidationError as error:
        raise BadInput([Problem.of(error)]) from None
