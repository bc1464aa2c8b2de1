from __future__ import annotations

from typing import Any

import pytest

from adapters.providers.specimen import NothingFits, specimen

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}, "tags": {"type": "array"}},
    "required": ["name", "age"],
}
TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "right": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "left", "right"],
        }
    },
    "$ref": "#/$defs/node",
}

FITS: dict[str, tuple[object, object]] = {
    "anything": ({}, "practice"),
    "true": (True, "practice"),
    "object": (PERSON, {"name": "practice", "age": 18, "tags": ["practice"]}),
    "required but not described": ({"type": "object", "required": ["a"]}, {"a": "practice"}),
    "array": ({"type": "array", "items": {"type": "boolean"}}, [True]),
    "array of at least": ({"type": "array", "items": {"type": "null"}, "minItems": 3}, [None, None, None]),
    "array of none": ({"type": "array", "maxItems": 0}, []),
    "tuple": ({"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}]}, [None, 1]),
    "integer": ({"type": "integer"}, 0),
    "integer above a half": ({"type": "integer", "minimum": 0.5}, 1),
    "integer below": ({"type": "integer", "exclusiveMaximum": -3}, -4),
    "integer multiple": ({"type": "integer", "multipleOf": 5, "minimum": 7}, 10),
    "number": ({"type": "number", "minimum": 0.25, "maximum": 0.75}, 0.25),
    "number between": ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
    "string of at least": ({"type": "string", "minLength": 10}, "practice.."),
    "string of at most": ({"type": "string", "maxLength": 4}, "prac"),
    "date": ({"type": "string", "format": "date"}, "2026-01-31"),
    "enum": ({"enum": [3, 2]}, 3),
    "const": ({"const": None}, None),
    "null": ({"type": "null"}, None),
    "types": ({"type": ["boolean", "null"]}, True),
    "type left out": ({"properties": {"a": {"minimum": 4}}}, {"a": 4}),
    "anyOf": ({"anyOf": [False, {"type": "boolean"}]}, True),
    "oneOf beside properties": (
        {"properties": {"a": {"const": 1}}, "oneOf": [{"required": ["b"]}, {"required": ["c"]}]},
        {"a": 1, "b": "practice"},
    ),
    "allOf": (
        {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}, "required": ["b"]}]},
        {"a": 1, "b": 2},
    ),
    "reference": ({"$defs": {"a/b": {"const": 7}}, "items": {"$ref": "#/$defs/a~1b"}}, [7]),
}


@pytest.mark.parametrize(("schema", "document"), FITS.values(), ids=FITS)
def test_it_fits(schema: object, document: object) -> None:
    assert specimen(schema) == document


def test_a_schema_that_requires_itself_in_two_ways_ends_where_it_may() -> None:
    assert specimen(TREE) == {"value": 0, "left": None, "right": None}


def test_optional_parts_that_would_never_end_are_left_out() -> None:
    chain = {"type": "object", "properties": {"next": {"$ref": "#"}, "id": {"type": "integer"}}}
    assert str(specimen(chain)).count("id") <= 4


ENDLESS = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
WIDE: dict[str, Any] = {
    "type": "object",
    "properties": {f"p{n}": {"$ref": "#"} for n in range(30)},
    "required": [f"p{n}" for n in range(30)],
}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        ENDLESS,
        WIDE,
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"$ref": "#/$defs/missing"},
        {"$ref": "other.json"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "string", "minLength": 10**12},
        {"type": "array", "minItems": 10**12},
        {"type": "string", "minLength": "many"},
        {"enum": 3},
        {"type": "number", "multipleOf": 0, "minimum": 1},
    ],
    ids=str,
)
def test_nothing_fits(schema: object) -> None:
    with pytest.raises(NothingFits):
        specimen(schema)
