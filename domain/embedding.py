"""What an embedding job asks for: `input`, one text or several; as in OpenAI's API, with optional `dimensions`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from domain.inputs import read_input
from domain.results import Usage

MOST_TEXTS = 2_048
"""Of one job: what OpenAI takes in one request."""

Text = Annotated[str, Meta(min_length=1)]


class EmbeddingRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of an embedding model. Encoded as it is, it is the body of an OpenAI-compatible request."""

    input: list[str]
    dimensions: int | UnsetType = UNSET


class EmbeddingAnswer(Struct, frozen=True, kw_only=True):
    """One vector for each text, in their order."""

    embeddings: tuple[tuple[float, ...], ...]
    model: str
    usage: Usage | UnsetType = UNSET


class _EmbeddingInput(Struct):
    input: Text | Annotated[list[Text], Meta(min_length=1, max_length=MOST_TEXTS)]
    dimensions: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(_EmbeddingInput)


def parse_embedding_input(data: bytes | msgspec.Raw) -> EmbeddingRequest:
    """The request that an embedding job's input stands for.

    Raises:
        BadInput: with the JSON pointer of what is wrong, from the input's root.
    """
    given = read_input(_decoder, data)
    texts = [given.input] if isinstance(given.input, str) else given.input
    return EmbeddingRequest(input=texts, dimensions=given.dimensions or UNSET)
