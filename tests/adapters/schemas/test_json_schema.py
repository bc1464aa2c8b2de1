"""What a schema may be, what it may cost, and what is told of a document that does not fit."""

from __future__ import annotations

import time
from typing import Any

import pytest

from adapters.schemas.json_schema import LARGEST, SOMEWHERE, TOO_MUCH, JsonSchemas
from domain.errors import BadInput
from tests.servers.model_server import ModelServer, tells

INVOICE: dict[str, Any] = {
    "type": "object",
    "required": ["number", "items"],
    "properties": {
        "number": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "a/b": {"type": "integer"},
    },
    "additionalProperties": {"type": "integer"},
    "$defs": {"item": {"type": "object", "required": ["price"], "properties": {"price": {"type": "number"}}}},
}


@pytest.fixture
def schemas() -> JsonSchemas:
    return JsonSchemas()


def wrong(schemas: JsonSchemas, schema: object) -> tuple[str, str]:
    with pytest.raises(BadInput) as caught:
        schemas.check(schema)
    [problem] = caught.value.problems
    return problem.pointer, problem.detail


class TestCheck:
    @pytest.mark.parametrize(
        "schema",
        [
            True,
            False,
            {},
            INVOICE,
            {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]},
            {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/s", "$ref": "#"},
            {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
            {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
            {"const": {"$ref": "http://example.org"}},
        ],
    )
    def test_a_schema_is_one(self, schemas: JsonSchemas, schema: object):
        schemas.check(schema)

    @pytest.mark.parametrize(
        ("schema", "pointer"),
        [
            (None, ""),
            ([], ""),
            ("string", ""),
            ({"type": "strin"}, "/type"),
            ({"properties": {"a/b~": {"type": "strin"}}}, "/properties/a~1b~0/type"),
            ({"required": "a"}, "/required"),
            ({"items": {"minItems": -1}}, "/items/minItems"),
            ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern"),
            ({"properties": {"a": {"pattern": "(?=a)"}}}, "/properties/a/pattern"),
            ({"pattern": r"(a)\1"}, "/pattern"),
            ({"pattern": "(((a{1,100}){1,100}){1,100})"}, "/pattern"),
            ({"$ref": "#/$defs/none"}, "/$ref"),
            ({"$ref": "#name"}, "/$ref"),
            ({"allOf": [{"$dynamicRef": "#meta"}]}, "/allOf/0/$dynamicRef"),
            ({"$defs": {"a": {"$id": "http://example.org/"}}, "$ref": "#/$defs/a"}, "/$defs/a"),
            ({"$schema": "http://example.org/mine"}, "/$schema"),
        ],
    )
    def test_what_is_wrong_is_pointed_at(self, schemas: JsonSchemas, schema: object, pointer: str):
        assert wrong(schemas, schema)[0] == pointer

    def test_nothing_of_it_is_quoted(self, schemas: JsonSchemas):
        assert "secret" not in wrong(schemas, {"properties": {"a": {"type": "secret"}}})[1]

    def test_one_that_is_too_large_is_refused(self, schemas: JsonSchemas):
        assert "bytes" in wrong(schemas, {"enum": ["x" * LARGEST]})[1]

    @pytest.mark.parametrize("levels", [100, 2_000])
    def test_one_that_is_nested_too_deeply_is_refused(self, schemas: JsonSchemas, levels: int):
        schema: dict[str, Any] = {}
        for _ in range(levels):
            schema = {"not": schema}
        assert "nested" in wrong(schemas, schema)[1]


class TestRemote:
    @pytest.mark.parametrize("keyword", ["$ref", "$schema", "$id"])
    def test_no_server_is_ever_asked(self, schemas: JsonSchemas, keyword: str):
        with ModelServer(pages={"*": tells({"type": "string"})}) as server:
            address = f"{server.origin}/schema"
            for schema in ({keyword: address, "properties": {"a": {"$ref": "other"}}}, {"not": {"$ref": address}}):
                wrong(schemas, schema)
            assert server.looks == []

    @pytest.mark.parametrize("reference", ["file:///etc/passwd", "https://json-schema.org/draft/2020-12/schema", "x"])
    def test_what_lies_elsewhere_cannot_be_referred_to(self, schemas: JsonSchemas, reference: str):
        pointer, detail = wrong(schemas, {"items": {"$ref": reference}})
        assert (pointer, "nothing is fetched" in detail) == ("/items/$ref", True)


class TestMisfit:
    def test_what_fits_fits(self, schemas: JsonSchemas):
        assert schemas.misfit_here(INVOICE, {"number": "AB-1", "items": [{"price": 3}]}) is None

    @pytest.mark.parametrize(
        ("document", "told"),
        [
            ({"number": "AB-1", "items": [{"price": 1}, {}]}, "at /items/1: required"),
            ({"number": "secret", "items": []}, "at /number: pattern"),
            ({"number": "AB-1", "items": [], "a/b": "secret"}, "at /a~1b: type"),
            ({"number": "AB-1", "items": [], "secret": "secret"}, "at /*: type"),
            (["secret"], "at /: type"),
        ],
    )
    def test_the_place_is_told_and_nothing_of_the_document(self, schemas: JsonSchemas, document: object, told: str):
        assert schemas.misfit_here(INVOICE, document) == told

    def test_nothing_fits_false(self, schemas: JsonSchemas):
        assert schemas.misfit_here(False, {}) is not None

    def test_a_document_that_is_nested_too_deeply_to_be_looked_at_does_not_fit(self, schemas: JsonSchemas):
        document: list[Any] = []
        for _ in range(500):
            document = [document]
        assert "nested" in str(schemas.misfit_here({"items": {"$ref": "#"}}, document))

    def test_equal_schemas_are_made_ready_once(self, schemas: JsonSchemas):
        other = dict(reversed(INVOICE.items()))
        schemas.check(INVOICE)
        assert schemas._ready(other) is schemas._ready(INVOICE)

    def test_only_the_latest_schemas_are_kept(self):
        schemas = JsonSchemas(kept=2)
        for length in range(5):
            schemas.check({"minLength": length})
        assert len(schemas._kept) == 2


def chain(links: int) -> dict[str, Any]:
    """Each link applies the next in two ways: 2 to the power of their number."""
    links_by_name: dict[str, Any] = {"a0": {"required": ["nothing"]}}
    for number in range(1, links + 1):
        below = {"properties": {"a": {"$ref": f"#/$defs/a{number - 1}"}}}
        links_by_name[f"a{number}"] = {"anyOf": [{"minProperties": 1, **below}, {"maxProperties": 9, **below}]}
    return {"$defs": links_by_name, "$ref": f"#/$defs/a{links}"}


def in_place(links: int) -> dict[str, Any]:
    names: dict[str, Any] = {"a0": {"type": "integer"}}
    for number in range(1, links + 1):
        below = [{"$ref": f"#/$defs/a{number - 1}"}]
        names[f"a{number}"] = {"oneOf": [{"minLength": number, "allOf": below}, {"maxLength": number, "allOf": below}]}
    return {"$defs": names, "$ref": f"#/$defs/a{links}"}


def unevaluated(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {"b": True}}
    for level in range(levels):
        schema = {"allOf": [schema], "properties": {f"p{level}": True}, "unevaluatedProperties": {"maxLength": level}}
    return schema


def nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {"bad": 1}
    for _ in range(levels):
        document = {"a": document}
    return document


class TestCost:
    @pytest.mark.parametrize("schema", [chain(40), in_place(40), unevaluated(20)], ids=["chain", "in place", "rest"])
    def test_a_schema_whose_parts_multiply_is_refused(self, schemas: JsonSchemas, schema: dict[str, Any]):
        assert "multiply" in wrong(schemas, schema)[1]

    @pytest.mark.parametrize(
        ("schema", "document"),
        [(chain(16), nested(16)), (in_place(16), "x" * 99), (unevaluated(9), {f"q{n}": "" for n in range(20)})],
        ids=["chain", "in place", "rest"],
    )
    def test_the_worst_that_is_let_through_ends_soon(
        self, schemas: JsonSchemas, schema: dict[str, Any], document: object
    ):
        began = time.process_time()
        schemas.misfit_here(schema, document)
        assert time.process_time() - began < 10

    def test_a_document_that_would_take_too_long_is_not_looked_at(self, schemas: JsonSchemas):
        schema = {"items": {"$ref": "#/$defs/a16"}, "$defs": chain(16)["$defs"]}
        assert schemas.misfit_here(schema, [nested(16)] * 200) == TOO_MUCH

    def test_schemas_full_of_expressions_are_kept_for_less_long(self, schemas: JsonSchemas):
        for number in range(20):
            schemas.check({"allOf": [{"pattern": f"^{number}-{place}"} for place in range(100)]})
        assert len(schemas._kept) == 10

    def test_a_schema_that_refers_to_itself_does_not_multiply_with_the_document(self, schemas: JsonSchemas):
        below = {"properties": {"a": {"$ref": "#/$defs/n"}}}
        node = {"not": {"required": ["bad"]}, "anyOf": [{"minProperties": 1, **below}, {"maxProperties": 9, **below}]}
        assert schemas.misfit_here({"$defs": {"n": node}, "$ref": "#/$defs/n"}, nested(60)) == SOMEWHERE

    def test_a_tree_that_does_not_fit_is_told_by_its_place(self, schemas: JsonSchemas):
        tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
        document: dict[str, Any] = {"children": [{"children": [{"children": "secret"}]}]}
        assert schemas.misfit_here(tree, document) == "at /children/0/children/0/children: type"

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            ("^(a+)+$", "a" * 100_000 + "!"),
            ("^(a|a)*$", "a" * 100_000 + "!"),
            ("^([a-z]?){400}[b-z]{400}.*x$", "ab" * 50_000),
            ("[ab]*a[ab]{300}c", "abbabab" * 15_000),
        ],
    )
    def test_no_expression_runs_away(self, schemas: JsonSchemas, pattern: str, text: str):
        began = time.process_time()
        assert schemas.misfit_here({"pattern": pattern}, text) == "at /: pattern"
        assert time.process_time() - began < 10

    def test_expressions_are_numbered(self, schemas: JsonSchemas):
        assert "expressions" in wrong(schemas, {"patternProperties": {f"a{n}": {} for n in range(200)}})[1]
