"""The results of built-in task types, versioned by name.

A new optional field may be added to a version; a breaking change is a new name. Consumers ignore unknown fields.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


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


def check_result(result: bytes) -> None:
    """
    Raises:
        BadInput: it claims one of our schemas and does not fit it.
    """
