"""Request bodies, from bytes to a struct. What passes through unread (`input`) is checked for what cannot be stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import msgspec

from domain.errors import BadInput, Problem, escaped

T = TypeVar("T")

ENVELOPE_BYTES = 64 * 1024
"""What a request body may hold beside its input."""

TOO_DEEP = "The body is nested too deeply."

_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_NUL_OR_SURROGATE = re.compile("[\0\ud800-\udfff]")
_ONLY_PYTHONS = r"(?!\\n)"
"""The end of a pattern as msgspec shows it: only Python's `$` needs it, and no caller can make sense of it."""


class UnreadableBody(Exception):
    """The body is not a JSON document in UTF-8."""


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as the decoder's type.

    Raises:
        UnreadableBody: it is empty, not UTF-8, not JSON or nested too deeply.
        BadInput: a field is unknown, missing or wrong, or a string holds what PostgreSQL cannot store.
    """
    _must_not_be_empty(body)
    try:
        _must_be_utf8(body)
        _must_be_storable(body)
    except UnicodeDecodeError as error:
        raise UnreadableBody(f"The body is not UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise UnreadableBody(TOO_DEEP) from None
    return decode_outline(decoder, body)


def decode_outline(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The same for a large body, of which what passes through (`Raw`) is to be checked in pieces by `decode`."""
    _must_not_be_empty(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        _must_be_json(body)
        raise BadInput([problem_of(error)]) from None
    except msgspec.DecodeError as error:
        raise UnreadableBody(f"{error}.") from None
    except RecursionError:
        raise UnreadableBody(TOO_DEEP) from None


def problem_of(error: msgspec.ValidationError) -> Problem:
    """What msgspec found, without what only Python's patterns need."""
    found = Problem.of(error)
    return Problem(found.pointer, found.detail.replace(_ONLY_PYTHONS, ""))


def _must_not_be_empty(body: bytes) -> None:
    if not body:
        raise UnreadableBody("The body is empty: send a JSON object.")


def _must_be_utf8(body: bytes) -> None:
    # msgspec does not look into the strings that it passes through.
    if not body.isascii():
        body.decode()


def _must_be_storable(body: bytes) -> None:
    # Nearly every body ends here: only one with a suspicious escape is worth a second parser.
    if b"\\u" not in body or not _SUSPECT.search(body):
        return
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_Members, parse_int=str, parse_float=str, parse_constant=_refuse_constant
        )
    except ValueError:
        return  # no JSON: the decoder says why
    if problem := next(_unstorable(document), None):
        raise BadInput([problem])


def _must_be_json(body: bytes) -> None:
    # The decoder stops at the first field that is wrong; what comes after it may not even be JSON.
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        raise UnreadableBody(f"{error}.") from None
    except RecursionError:
        raise UnreadableBody(TOO_DEEP) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class _Members(list[tuple[str, Any]]):
    """An object with all of its members, also those of the same name."""


def _unstorable(document: object) -> Iterator[Problem]:
    """Strings with a NUL or half a surrogate pair. Without recursion: the document may be deep."""
    todo: list[tuple[tuple[Any, ...], object]] = [((), document)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, str) and _NUL_OR_SURROGATE.search(value):
            yield Problem(_pointer(path), "The text holds a NUL character or half a surrogate pair.")
        elif isinstance(value, _Members):
            if any(_NUL_OR_SURROGATE.search(key) for key, _ in value):
                yield Problem(_pointer(path), "A key holds a NUL character or half a surrogate pair.")
            todo.extend(((path, key), member) for key, member in reversed(value))
        elif isinstance(value, list):
            todo.extend(((path, str(index)), member) for index, member in reversed(list(enumerate(value))))


def _pointer(path: tuple[Any, ...]) -> str:
    steps: list[str] = []
    while path:
        path, step = path
        steps.append(f"/{escaped(step)}")
    return "".join(reversed(steps))
