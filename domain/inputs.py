"""How the input of a built-in task type is read."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from domain.errors import BadInput, Problem

T = TypeVar("T")


def read_input(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """What the input says.

    Raises:
        BadInput: with the JSON pointer of what is wrong, from the input's root.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise BadInput([Problem.of(error)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # A Raw taken from a request's body has not been looked at as closely: its text need not even be UTF-8.
        raise BadInput([Problem("", "must be JSON in UTF-8, and not nested too deeply")]) from None
