"""Query strings, from bytes to a struct. An unknown parameter is refused: a typo must not return everything."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_origin
from urllib.parse import parse_qs

import msgspec

from app.wire.body import problem_of
from domain.errors import BadInput, Problem

T = TypeVar("T", bound=msgspec.Struct)

Parameters = dict[str, list[str]]


def read_query(query_string: bytes) -> Parameters:
    """The parameters, each with its values."""
    return parse_qs(query_string.decode("latin-1"), keep_blank_values=True)


def decode_query(kind: type[T], given: bytes | Parameters) -> T:
    """The parameters as this struct. A field that is a tuple may be given several times, any other one once.

    Raises:
        BadInput: naming the parameter.
    """
    given = read_query(given) if isinstance(given, bytes) else given
    several = _several(kind)
    if twice := [name for name, values in given.items() if len(values) > 1 and name not in several]:
        raise BadInput([Problem(f"/{name}", "It may be given only once.") for name in twice])
    values = {name: values if name in several else values[0] for name, values in given.items()}
    try:
        query = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadInput([problem_of(error)]) from None
    must_be_comparable(given)
    return query


def must_be_comparable(given: Parameters) -> None:
    """
    Raises:
        BadInput: naming a parameter with which PostgreSQL cannot compare anything.
    """
    if nul := [name for name, values in given.items() if any("\0" in value for value in values)]:
        raise BadInput([Problem(f"/{name}", "The text holds a NUL character.") for name in nul])


@lru_cache
def _several(kind: type[msgspec.Struct]) -> frozenset[str]:
    fields = msgspec.structs.fields(kind)
    return frozenset(field.encode_name for field in fields if get_origin(_bare(field.type)) is tuple)


def _bare(annotation: Any) -> Any:
    return annotation.__origin__ if get_origin(annotation) is Annotated else annotation
