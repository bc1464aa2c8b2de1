"""Every rule is shown twice: by a change that it refuses, and by a harmless one that looks much like it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.compatibility import Comparison, Use, breaks, schema_breaks
from tests.contracts.documents import generated

Document = dict[str, Any]
Change = Callable[[Document], object]

BASE: Document = {
    "openapi": "3.1.0",
    "paths": {
        "/jobs": {
            "post": {
                "operationId": "submit",
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 500, "default": 50}},
                    {"name": "Prefer", "in": "header", "schema": {"type": "string"}, "required": False},
                ],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/New"}}}},
                "responses": {
                    "201": {
                        "headers": {"Location": {"schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}},
                    },
                    "404": {"content": {"application/problem+json": {"schema": {"type": "object"}}}},
                },
            },
            "get": {"operationId": "list", "responses": {"200": {"description": "Nothing."}}},
        },
        "/health": {"get": {"operationId": "health", "responses": {"200": {"description": "Nothing."}}}},
    },
    "components": {
        "schemas": {
            "New": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "maxLength": 100},
                    "attempts": {"type": "integer", "minimum": 1, "maximum": 100, "default": 3},
                    "priority": {"enum": ["high", "low"]},
                    "ref": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 16},
                    "names": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
                    "weight": {"type": "number"},
                    "note": {},
                },
                "required": ["name", "attempts"],
                "additionalProperties": False,
            },
            "Job": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "status": {"enum": ["pending", "done"]},
                    "queue": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "count": {"type": "integer", "minimum": 0},
                    "note": {"type": "string", "maxLength": 10},
                    "children": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "size": {
                        "type": "object",
                        "properties": {"bytes": {"type": "integer"}},
                        "additionalProperties": False,
                    },
                },
                "required": ["id", "status", "queue", "count"],
            },
        }
    },
}
POST = ("paths", "/jobs", "post")
NEW = ("components", "schemas", "New")
JOB = ("components", "schemas", "Job")


def put(*path: Any, to: Any) -> Change:
    def change(document: Document) -> None:
        *way, last = path
        for step in way:
            document = document[step]
        document[last] = to

    return change


def without(*path: Any) -> Change:
    def change(document: Document) -> None:
        *way, last = path
        for step in way:
            document = document[step]
        del document[last]

    return change


def sent(name: str, **schema: Any) -> Change:
    """A field of the request becomes this."""
    return put(*NEW, "properties", name, to=schema)


def answered(name: str, **schema: Any) -> Change:
    """A field of the answer becomes this."""
    return put(*JOB, "properties", name, to=schema)


def parameter(**schema: Any) -> Change:
    return put(*POST, "parameters", 0, "schema", to=schema)


def another_parameter(*, required: bool) -> Change:
    added = {"name": "dry", "in": "query", "schema": {"type": "boolean"}, "required": required}
    return put(*POST, "parameters", to=[*BASE["paths"]["/jobs"]["post"]["parameters"], added])


def found(change: Change) -> list[str]:
    new = copy.deepcopy(BASE)
    change(new)
    return breaks(BASE, new)


BREAKING: dict[str, tuple[Change, str]] = {
    "a path": (without("paths", "/health"), "GET /health is gone"),
    "an operation": (without(*POST), "POST /jobs is gone"),
    "a function of generated clients": (
        put(*POST, "operationId", to="create"),
        "POST /jobs: its operationId was submit",
    ),
    "a token": (put(*POST, "security", to=[{"bearer": []}]), "POST /jobs needs a token now"),
    "a token everywhere": (put("security", to=[{"bearer": []}]), "GET /health needs a token now"),
    "a parameter": (without(*POST, "parameters", 1), "POST /jobs: header Prefer is gone"),
    "a new required parameter": (another_parameter(required=True), "POST /jobs: query dry is required now"),
    "a parameter required": (put(*POST, "parameters", 1, "required", to=True), "header Prefer is required now"),
    "a parameter's bound": (
        parameter(type="integer", maximum=499, default=50),
        "POST /jobs: query limit, in requests: maximum was 500, is 499",
    ),
    "a parameter's default": (
        parameter(type="integer", maximum=500, default=20),
        "POST /jobs: query limit, in requests: left out, it meant 50",
    ),
    "a body required": (put(*POST, "requestBody", "required", to=True), "POST /jobs: a body is required now"),
    "no body": (without(*POST, "requestBody"), "POST /jobs, body: application/json is gone"),
    "a media type sent": (put(*POST, "requestBody", "content", to={}), "POST /jobs, body: application/json is gone"),
    "a status": (without(*POST, "responses", "404"), "POST /jobs: status 404 is gone"),
    "a media type answered": (
        put(*POST, "responses", "404", "content", to={}),
        "POST /jobs, 404: application/problem+json is gone",
    ),
    "a header": (without(*POST, "responses", "201", "headers"), "POST /jobs, 201: header Location is gone"),
    "a field required": (
        put(*NEW, "required", to=["name", "attempts", "priority"]),
        "New/priority, in requests: it is required now",
    ),
    "a field of requests": (without(*NEW, "properties", "note"), "New/note, in requests: it is gone"),
    "another type": (sent("attempts", type="string"), "New/attempts, in requests: integer is refused now"),
    "no null": (sent("ref", type="string"), "New/ref, in requests: null is refused now"),
    "no fractions": (sent("weight", type="integer"), "New/weight, in requests: number is refused now"),
    "a value": (sent("priority", enum=["high"]), "New/priority, in requests: 'low' is refused now"),
    "all values but one": (sent("priority", const="high"), "New/priority, in requests: 'low' is refused now"),
    "free text": (
        sent("note", enum=["a", "b"]),
        "New/note, in requests: anything is refused now",
    ),
    "text of one's own": (
        sent("ref", anyOf=[{"type": "string", "enum": ["a"]}, {"type": "null"}]),
        "New/ref, in requests: anything but 'a' is refused now",
    ),
    "another pattern": (
        sent("name", type="string", pattern="^[a-f]+$", minLength=1, maxLength=100),
        "New/name, in requests: pattern was ^[a-z]+$, is ^[a-f]+$",
    ),
    "a first pattern": (
        sent("ref", anyOf=[{"type": "string", "pattern": "^a"}, {"type": "null"}]),
        "New/ref, in requests: pattern was free, is ^a",
    ),
    "a lower maximum": (
        sent("attempts", type="integer", minimum=1, maximum=99, default=3),
        "New/attempts, in requests: maximum was 100, is 99",
    ),
    "a higher minimum": (
        sent("attempts", type="integer", minimum=2, maximum=100, default=3),
        "New/attempts, in requests: minimum was 1, is 2",
    ),
    "a first maximum": (
        sent("weight", type="number", exclusiveMaximum=1),
        "New/weight, in requests: exclusiveMaximum was free, is 1",
    ),
    "a shorter text": (
        sent("name", type="string", pattern="^[a-z]+$", minLength=1, maxLength=50),
        "New/name, in requests: maxLength was 100, is 50",
    ),
    "a shorter list": (
        sent("names", type="array", items={"type": "string"}, maxItems=9),
        "New/names, in requests: maxItems was 10, is 9",
    ),
    "an item of a list": (
        sent("names", type="array", items={"type": "string", "minLength": 1}, maxItems=10),
        "New/names/*, in requests: minLength was free, is 1",
    ),
    "a member of a map": (
        sent("labels", type="object", additionalProperties={"type": "string", "maxLength": 9}, maxProperties=16),
        "New/labels/<another field>, in requests: maxLength was free, is 9",
    ),
    "a map": (
        sent("labels", type="object", additionalProperties=False, maxProperties=16),
        "New/labels, in requests: another field is refused now",
    ),
    "a keyword that is not judged": (
        sent("names", type="array", items={"type": "string"}, maxItems=10, uniqueItems=True),
        "New/names, in requests: uniqueItems was free, is True",
    ),
    "a field of answers": (without(*JOB, "properties", "note"), "Job/note, in answers: it is gone"),
    "a field that always came": (
        put(*JOB, "required", to=["id", "status", "queue"]),
        "Job/count, in answers: it may be missing now",
    ),
    "another type answered": (answered("count", type="string"), "Job/count, in answers: string may come now"),
    "fractions": (answered("count", type="number", minimum=0), "Job/count, in answers: number may come now"),
    "null": (
        answered("note", anyOf=[{"type": "string", "maxLength": 10}, {"type": "null"}]),
        "Job/note, in answers: null may come now",
    ),
    "anything": (answered("note"), "Job/note, in answers: anything may come now"),
    "a new value of a closed set": (
        answered("status", enum=["pending", "done", "paused"]),
        "Job/status, in answers: 'paused' may come now",
    ),
    "a closed set opened": (
        answered("status", type="string"),
        "Job/status, in answers: anything but 'pending' or 'done' may come now",
    ),
    "a lower minimum answered": (
        answered("count", type="integer", minimum=-1),
        "Job/count, in answers: minimum was 0, is -1",
    ),
    "no bound answered": (answered("note", type="string"), "Job/note, in answers: maxLength was 10, is free"),
    "no format": (answered("id", type="string"), "Job/id, in answers: format was uuid, is free"),
    "other items": (answered("children", type="array", items={"type": "string"}), "string may come now"),
    "another field of a closed object": (
        answered(
            "size", type="object", properties={"bytes": {"type": "integer"}, "unit": {}}, additionalProperties=False
        ),
        "Job/size, in answers: another field, unit, may come now",
    ),
    "a closed object opened": (
        answered("size", type="object", properties={"bytes": {"type": "integer"}}),
        "Job/size, in answers: another field may come now",
    ),
    "a typed map opened": (
        answered("labels", type="object"),
        "Job/labels/<another field>, in answers: anything may come now",
    ),
}

HARMLESS: dict[str, Change] = {
    "a new path": put("paths", "/new", to=BASE["paths"]["/health"]),
    "a new operation": put("paths", "/health", "post", to=BASE["paths"]["/jobs"]["post"]),
    "words": put(*POST, "summary", to="Submit a job"),
    "a word of advice": put(*POST, "deprecated", to=True),
    "no token": put(*POST, "security", to=[]),
    "an optional parameter": another_parameter(required=False),
    "a parameter's wider bound": parameter(type="integer", maximum=1000, default=50),
    "a parameter without bound": parameter(type="integer", default=50),
    "another media type sent": put(*POST, "requestBody", "content", "text/plain", to={"schema": {"type": "string"}}),
    "another status": put(*POST, "responses", "429", to={"description": "Later."}),
    "another media type answered": put(*POST, "responses", "201", "content", "text/plain", to={}),
    "another header": put(*POST, "responses", "404", "headers", to={"Retry-After": {"schema": {"type": "string"}}}),
    "a field no longer required": put(*NEW, "required", to=["name"]),
    "a new optional field": sent("deadline", type="string"),
    "null too": sent("name", anyOf=[{"type": "null"}, BASE["components"]["schemas"]["New"]["properties"]["name"]]),
    "null too, said with types": sent("weight", type=["number", "null"]),
    "fractions too": sent("attempts", type="number", minimum=1, maximum=100, default=3),
    "another value": sent("priority", enum=["high", "low", "normal"]),
    "any text": sent("priority", type="string"),
    "no pattern": sent("name", type="string", minLength=1, maxLength=100),
    "no minimum": sent("attempts", type="integer", maximum=100, default=3),
    "a lower minimum": sent("attempts", type="integer", minimum=0, maximum=100, default=3),
    "a higher maximum": sent("attempts", type="integer", minimum=1, maximum=101, default=3),
    "a longer list": sent("names", type="array", items={"type": "string"}, maxItems=11),
    "any item": sent("names", type="array", maxItems=10),
    "any member of a map": sent("labels", type="object", maxProperties=16),
    "other fields too": without(*NEW, "additionalProperties"),
    "a new default": sent("weight", type="number", default=1),
    "a new field answered": answered("progress", type="object"),
    "a field that always comes now": put(*JOB, "required", to=["id", "status", "queue", "count", "note"]),
    "never null": answered("queue", type="string"),
    "a value fewer": answered("status", enum=["done"]),
    "one value, said otherwise": answered("status", const="done"),
    "a higher minimum answered": answered("count", type="integer", minimum=1),
    "a first bound answered": answered("count", type="integer", minimum=0, maximum=9),
    "a pattern answered": answered("id", type="string", format="uuid", pattern="^[0-9a-f-]+$"),
    "an object closed": put(*JOB, "additionalProperties", to=False),
    "a map without members": answered("labels", type="object", additionalProperties=False),
    "a schema by another name": lambda document: (
        put("components", "schemas", "Work", to=document["components"]["schemas"]["Job"])(document),
        put(*POST, "responses", "201", "content", "application/json", "schema", "$ref", to="#/components/schemas/Work")(
            document
        ),
    ),
}


@pytest.mark.parametrize(("change", "told"), BREAKING.values(), ids=BREAKING)
def test_what_breaks_is_found_and_named(change: Change, told: str):
    assert told in "\n".join(found(change))


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_breaks_nothing_passes(change: Change):
    assert found(change) == []


def test_one_break_of_a_shared_schema_is_told_once():
    change = sent("attempts", type="integer", minimum=1, maximum=99, default=3)
    assert found(change) == ["New/attempts, in requests: maximum was 100, is 99"]


def test_a_result_is_held_to_both_its_writers_and_its_readers():
    old = {"title": "v1", "type": "object", "properties": {"language": {"enum": ["en", "de"]}}, "required": []}
    fewer = old | {"properties": {"language": {"enum": ["en"]}}}
    more = old | {"properties": {"language": {"enum": ["en", "de", "fr"]}}}
    needed = old | {"required": ["language"]}
    added = old | {"properties": {**old["properties"], "speaker": {"type": "string"}}}  # type: ignore[dict-item]

    assert schema_breaks(old, fewer) == ["v1/language, in requests: 'de' is refused now"]
    assert schema_breaks(old, more) == ["v1/language, in answers: 'fr' may come now"]
    assert schema_breaks(old, needed) == ["v1/language, in requests: it is required now"]
    assert schema_breaks(old, added) == []


def test_a_document_keeps_its_own_promises():
    for path, content in generated().items():
        document = json.loads(content)
        if not path.startswith("examples/"):
            assert (breaks if "paths" in document else schema_breaks)(document, document) == []


def objects(fields: st.SearchStrategy[Document]) -> st.SearchStrategy[Document]:
    names = st.sampled_from(["a", "b"])
    return st.builds(
        lambda properties, required: {
            "type": "object",
            "properties": properties,
            "required": sorted(required & properties.keys()),
            "additionalProperties": False,
        },
        st.dictionaries(names, fields),
        st.sets(names),
    )


SMALL = st.integers(-1, 2)
SIMPLE = st.one_of(
    st.just({}),
    st.builds(
        lambda types: {"type": types}, st.lists(st.sampled_from(["string", "null", "integer"]), min_size=1, unique=True)
    ),
    st.builds(lambda low, high: {"type": "integer", "minimum": low, "maximum": high}, SMALL, SMALL),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, SMALL),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 2)),
    st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from(["a", "b", 1, None]), min_size=1, unique=True)),
)
SCHEMAS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds(lambda any_of: {"anyOf": any_of}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 1}, inner),
        objects(inner),
    ),
    max_leaves=4,
)
PLAIN: list[Any] = [None, True, -1, 0, 1, 2, 0.5, "", "a", "bb", "ccc"]
VALUES = [*PLAIN, {}, [], [1, 1], *([each] for each in PLAIN), *({"a": each} for each in PLAIN), {"a": 1, "b": "a"}]


@settings(max_examples=500)
@given(SCHEMAS, SCHEMAS)
def test_what_is_called_compatible_takes_every_value_that_was_taken(old: Document, new: Document):
    if list(Comparison({}, {}, Use.SENT).of(old, new, "")):
        return
    before, after = jsonschema_rs.validator_for(old), jsonschema_rs.validator_for(new)
    assert [value for value in VALUES if before.is_valid(value) and not after.is_valid(value)] == []


@given(SCHEMAS)
def test_every_schema_is_compatible_with_itself(schema: Document):
    assert schema_breaks(schema, schema) == []
