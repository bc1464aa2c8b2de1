"""What a chat job asks for: explicit `messages`, or compact `system` and `user` (`messages` wins where both are given).

Other fields of the input belong to the caller and are not read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from domain.errors import BadInput, Problem
from domain.inputs import read_input
from domain.results import Usage

T = TypeVar("T")

SCHEMA_AT = "/response_format/json_schema/schema"
"""Where the schema of the answer is, from the input's root."""

Fraction = Annotated[float, Meta(ge=0, le=1)]
# Larger ones are floats to most of those who read JSON.
TokenCount = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn. Content is text, or the parts of a multimodal message, which are passed on as they are."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]


class ChatRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of a chat model. Encoded as it is, it is the body of an OpenAI-compatible request."""

    messages: list[Message]
    max_tokens: int | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    response_format: dict[str, Any] | UnsetType = UNSET
    stop: str | list[str] | UnsetType = UNSET
    seed: int | UnsetType = UNSET

    @property
    def wants_json(self) -> bool:
        """Whether the answer must be JSON."""
        return self.response_format is not UNSET and self.response_format.get("type") in ("json_object", "json_schema")

    @property
    def schema(self) -> object | None:
        """The JSON schema that the answer must fit; None where none was given."""
        if self.response_format is UNSET or self.response_format.get("type") != "json_schema":
            return None
        schema: object = self.response_format["json_schema"]["schema"]
        return schema


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """What a chat model answered."""

    content: str
    model: str
    usage: Usage | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    """`stop` or `length`, as OpenAI's API names it."""


class _ChatInput(Struct):
    messages: Annotated[list[Message], Meta(min_length=1)] | UnsetType | None = UNSET
    system: str | UnsetType | None = UNSET
    user: str | UnsetType | None = UNSET
    max_tokens: TokenCount | UnsetType | None = UNSET
    temperature: Annotated[float, Meta(ge=0, le=2)] | UnsetType | None = UNSET
    top_p: Fraction | UnsetType | None = UNSET
    response_format: dict[str, Any] | UnsetType | None = UNSET
    stop: str | list[str] | UnsetType | None = UNSET
    seed: Seed | UnsetType | None = UNSET


class _Wanted(Struct):
    schema: dict[str, Any] | bool
    name: str | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET


class _ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Wanted | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_ChatInput)


def parse_chat_input(data: bytes | msgspec.Raw) -> ChatRequest:
    """The request that a chat job's input stands for.

    Raises:
        BadInput: with the JSON pointer of what is wrong, from the input's root.
    """
    given = read_input(_decoder, data)
    _check_response_format(given.response_format)
    return ChatRequest(
        messages=given.messages or _compact(given),
        max_tokens=_set(given.max_tokens),
        temperature=_set(given.temperature),
        top_p=_set(given.top_p),
        response_format=_set(given.response_format),
        stop=_set(given.stop),
        seed=_set(given.seed),
    )


def _check_response_format(given: dict[str, Any] | UnsetType | None) -> None:
    """Of the answer's format what we read ourselves; the rest is between the caller and the model server."""
    if not isinstance(given, dict):
        return
    try:
        wanted = msgspec.convert(given, _ResponseFormat)
    except msgspec.ValidationError as error:
        raise BadInput([Problem.of(error).below("/response_format")]) from None
    if wanted.type == "json_schema" and not isinstance(wanted.json_schema, _Wanted):
        raise BadInput([Problem("/response_format/json_schema", "give the schema: {name, schema}")])


def _compact(given: _ChatInput) -> list[Message]:
    if not given.user:
        raise BadInput([Problem("", "give `messages`, or `user` with an optional `system`")])
    system = [Message("system", given.system)] if given.system else []
    return [*system, Message("user", given.user)]


def _set(value: T | UnsetType | None) -> T | UnsetType:
    return UNSET if value is None else value
