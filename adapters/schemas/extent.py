"""How far a JSON schema reaches: what it refers to, and how often its parts can be applied to one document.

A few lines of schema can ask for 2 to the 40th steps. What is counted here is a bound from above, taken from the schema
alone, so that such a schema is refused before anything is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from domain.errors import BadInput, Problem, escaped

HERE_LISTS = ("allOf", "anyOf", "oneOf")
HERE = ("not", "if", "then", "else")
HERE_MAPS = ("dependentSchemas", "dependencies")
BELOW = (
    "additionalProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
)
BELOW_LISTS = ("prefixItems", "items")
BELOW_MAPS = ("properties", "patternProperties")
"""Keywords that hold schemas: for the same value, or for what is in it."""

UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")
UNEVALUATED_AGAIN = 3
"""So often is what stands beside these looked at; measured, each level of them takes two to three times as long."""

DYNAMIC = ("$dynamicRef", "$recursiveRef")

MOST_NESTED = 64


class Extent(Struct, frozen=True):
    steps: int
    """Ways through it, each part that refers back to itself taken once."""
    widest: int
    """Ways in which one value can be held against it."""
    recursive: bool
    names: frozenset[str]
    """Properties that it names itself."""
    patterns: int


def extent(schema: dict[str, Any]) -> Extent:
    """Measure it. Takes what is no schema too, and then says nothing that counts.

    Raises:
        BadInput: it refers to something outside of itself, or to nothing.
    """
    walk = _Walk(schema)
    steps = walk.steps("", schema)
    return Extent(steps, max(walk.here.values(), default=1), walk.recursive, frozenset(walk.names), walk.patterns)


class _Walk:
    def __init__(self, root: dict[str, Any]) -> None:
        self.here: dict[int, int] = {}
        self.recursive = False
        self.names: set[str] = set()
        self.patterns = 0
        self._root = root
        self._known: dict[int, int] = {}
        self._open: set[int] = set()

    def steps(self, pointer: str, schema: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        place = id(schema)
        if place in self._open:
            self.recursive = True
            return 1
        if place not in self._known:
            self._open.add(place)
            self._known[place] = self._measure(pointer, schema)
            self._open.remove(place)
        return self._known[place]

    def _measure(self, pointer: str, schema: dict[str, Any]) -> int:
        self._note(pointer, schema)
        again = UNEVALUATED_AGAIN if any(name in schema for name in UNEVALUATED) else 1
        # Each choice of an `enum` is compared.
        here = len(schema["enum"]) if isinstance(schema.get("enum"), list) else 0
        below = ways = 0
        for at, part in self._here(pointer, schema):
            here += again * self.steps(at, part)
            ways += again * self.here.get(id(part), 1)
        for at, part in _below(pointer, schema):
            below += self.steps(at, part)
        self.here[id(schema)] = max(ways, 1)
        return max(here + below, 1)

    def _note(self, pointer: str, schema: dict[str, Any]) -> None:
        for name in DYNAMIC:
            if name in schema:
                raise BadInput([Problem(f"{pointer}/{name}", "is not supported: use $ref")])
        if pointer and any(isinstance(schema.get(name), str) for name in ("$id", "id")):
            raise BadInput([Problem(pointer, "a schema within a schema must not have an $id of its own")])
        self.patterns += "pattern" in schema
        for name in BELOW_MAPS:
            if isinstance(schema.get(name), dict):
                self.names.update(schema[name] if name == "properties" else ())
                self.patterns += len(schema[name]) if name == "patternProperties" else 0
        required = schema.get("required")
        self.names.update(name for name in required if isinstance(name, str)) if isinstance(required, list) else None

    def _here(self, pointer: str, schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        if isinstance(schema.get("$ref"), str):
            yield self._referred(f"{pointer}/$ref", schema["$ref"])
        yield from _in(pointer, schema, HERE, HERE_LISTS, HERE_MAPS)

    def _referred(self, pointer: str, reference: str) -> tuple[str, Any]:
        """What a reference leads to, by its place in the schema; that of an `$anchor` counts as the root's."""
        if not reference.startswith("#"):
            raise BadInput(
                [Problem(pointer, "only what is in this schema can be referred to (#/...): nothing is fetched")]
            )
        path = unquote(reference[1:])
        if path and not path.startswith("/"):
            raise BadInput([Problem(pointer, "must be a JSON pointer into this schema (#/...)")])
        found: Any = self._root
        try:
            for step in path.split("/")[1:]:
                name = step.replace("~1", "/").replace("~0", "~")
                found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadInput([Problem(pointer, "refers to nothing in this schema")]) from None
        return path, found


def _below(pointer: str, schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return _in(pointer, schema, BELOW, BELOW_LISTS, BELOW_MAPS)


def _in(
    pointer: str, schema: dict[str, Any], single: tuple[str, ...], lists: tuple[str, ...], maps: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    for name in single:
        if isinstance(schema.get(name), dict):
            yield f"{pointer}/{name}", schema[name]
    for name in lists:
        if isinstance(schema.get(name), list):
            yield from ((f"{pointer}/{name}/{place}", part) for place, part in enumerate(schema[name]))
    for name in maps:
        if isinstance(schema.get(name), dict):
            yield from ((f"{pointer}/{name}/{escaped(key)}", part) for key, part in schema[name].items())


def nesting(document: object) -> int:
    """How many arrays and objects lie in one another, counted no further than to one more than is ever allowed."""
    level: list[object] = [document]
    for depth in range(MOST_NESTED + 1):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return depth
    return MOST_NESTED + 1


def values(document: object, most: float = float("inf")) -> int:
    """How many values it holds, itself counted, and no further than to one more than is asked about."""
    count, left = 0, [document]
    while left and count <= most:
        count += 1
        left.extend(_parts(left.pop()))
    return count


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
