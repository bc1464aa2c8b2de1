"""A document that fits a JSON schema: the smallest that is no stub. Deterministic.

Knows the keywords that schemas of structured answers use; a `pattern` is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from msgspec import UNSET

WORD = "practice"

FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1M",
    "email": "practice@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/practice",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

DEPTHS = (4, 8, 16, 32)
"""Tried in turn: a schema that refers to itself fits at the least depth that holds what it requires."""

LARGEST = 10_000
"""Values, and characters of one string."""

BROKEN_SCHEMA = (TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of keywords whose values are of the wrong type."""

TYPE_SIGNS = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
"""The type that a keyword betrays where none is given."""


class NothingFits(Exception):
    """No document of sensible size fits this schema, as far as could be seen."""


def specimen(schema: object) -> Any:
    """A document that fits.

    Raises:
        NothingFits: none was found.
    """
    for depth in DEPTHS:
        try:
            return _Attempt(schema).value(schema, depth)
        except NothingFits:
            continue
        except BROKEN_SCHEMA as error:
            raise NothingFits from error
    raise NothingFits


class _Attempt:
    def __init__(self, root: object) -> None:
        self._root = root
        self._left = LARGEST

    def value(self, given: object, depth: int) -> Any:
        schema = self._plain(given, depth)
        for fixed in _fixed(schema):
            return fixed
        for options in ("anyOf", "oneOf"):
            if schema.get(options):
                return self._first_of(schema, options, depth)
        return self._of_type(schema, depth)

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        match _type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number" as kind:
                return _number(schema, whole=kind == "integer")
            case "boolean" | "null" as kind:
                return True if kind == "boolean" else None
            case _:
                return _string(schema)

    def _plain(self, given: object, depth: int) -> dict[str, Any]:
        """The schema with what it refers to and all that must hold besides folded into it."""
        self._left -= 1
        if given is False or depth <= 0 or self._left < 0:
            raise NothingFits
        if not isinstance(given, dict):
            return {}
        schema = {name: value for name, value in given.items() if name not in {"$ref", "allOf"}}
        if "$ref" in given:
            schema = _both(self._plain(self._referred(given["$ref"]), depth - 1), schema)
        for part in given.get("allOf", ()):
            schema = _both(schema, self._plain(part, depth - 1))
        return schema

    def _referred(self, reference: object) -> object:
        path, *steps = str(reference).split("/")
        found: Any = self._root
        try:
            if path != "#":
                raise NothingFits
            for step in steps:
                name = unquote(step).replace("~1", "/").replace("~0", "~")
                found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise NothingFits from error
        return found

    def _first_of(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        rest = {key: value for key, value in schema.items() if key != name}
        for option in schema[name]:
            try:
                return self.value(_both(rest, self._plain(option, depth)), depth - 1)
            except NothingFits:
                continue
        raise NothingFits

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        others = schema.get("additionalProperties", {})
        required = schema.get("required", ())
        document = {}
        for name in dict.fromkeys((*properties, *required)):
            try:
                document[name] = self.value(properties.get(name, others), depth - 1)
            except NothingFits:
                if name in required:
                    raise
        return document

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first: list[Any] = schema.get("prefixItems", [])
        least = schema.get("minItems", 0)
        length = min(max(least, len(first), 1), schema.get("maxItems", LARGEST))
        items: list[Any] = []
        try:
            while len(items) < length:
                kind = first[len(items)] if len(items) < len(first) else schema.get("items", {})
                items.append(self.value(kind, depth - 1))
        except NothingFits:
            if len(items) < least:
                raise
        return items


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*one["required"], *other["required"]]
    return both


def _fixed(schema: Mapping[str, Any]) -> Iterator[Any]:
    if (constant := schema.get("const", UNSET)) is not UNSET:
        yield constant
    yield from schema.get("enum", ())


def _type(schema: Mapping[str, Any]) -> str:
    match schema.get("type"):
        case str(kind) | [str(kind), *_]:
            return kind
        case _:
            return next((kind for sign, kind in TYPE_SIGNS.items() if sign in schema), "string")


def _string(schema: Mapping[str, Any]) -> str:
    least = schema.get("minLength", 0)
    if least > LARGEST:
        raise NothingFits
    text = FORMATS.get(schema.get("format", ""), WORD)
    return text.ljust(least, ".")[: schema.get("maxLength")]


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    step = schema.get("multipleOf", 1)
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    tried = [0, *_multiples_near(low, step), *_multiples_near(high, step), low, high, (low + high) / 2]
    for number in tried:
        if _allowed(number, schema) and (float(number).is_integer() or not whole):
            return int(number) if whole else number
    raise NothingFits


def _multiples_near(bound: float, step: float) -> list[float]:
    if not math.isfinite(bound):
        return []
    return [
        count * step for count in (math.ceil(bound / step), math.floor(bound / step) + 1, math.ceil(bound / step) - 1)
    ]


def _allowed(number: float, schema: Mapping[str, Any]) -> bool:
    return (
        math.isfinite(number)
        and schema.get("minimum", number) <= number <= schema.get("maximum", number)
        and schema.get("exclusiveMinimum", -math.inf) < number < schema.get("exclusiveMaximum", math.inf)
        and ("multipleOf" not in schema or (number / schema["multipleOf"]).is_integer())
    )
