"""docs/reference-api.md: every call of the API and every document in it, from its description (OpenAPI)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, cast

from litestar.handlers import HTTPRouteHandler

from app.api.auth import RIGHT
from app.http import create_app
from app.keyring import Keyring
from app.services import Services
from app.settings import from_env
from tests.contracts.documents import description
from tests.docs.markdown import code, fenced, paragraphs, table

Schema = Mapping[str, Any]

PARTS = {
    "jobs": "Jobs",
    "chat": "Chats",
    "uploads": "Uploads",
    "work": "External workers",
    "queues": "Queues",
    "figures": "Figures",
    "health": "Health",
}
"""In the order in which a newcomer needs them; what has another tag follows."""

EVERYWHERE = {
    "400": "the body is empty, not JSON, not UTF-8, or nested too deeply",
    "401": "no token, or a wrong one",
    "403": "the token lacks the right, or stands for another owner",
    "413": "too large",
    "422": "a parameter or field is wrong, unknown or missing; `errors` says where",
    "429": "over the token's rate: come back after `Retry-After`",
    "500": "a bug of ours",
    "503": "PostgreSQL is away: come back after `Retry-After`",
}
"""Answers that say the same wherever they occur."""


FORMATS = {"date-time": "time", "uuid": "UUID", "binary": "bytes"}


def page() -> str:
    told = json.loads(description())
    return paragraphs(
        "# The API, call by call",
        "*Written from the code by `make reference`.*",
        "What each call takes and answers. What it means stands in [the API](api.md), how it is used in [the "
        "guide](guide.md). The same as OpenAPI 3.1: [openapi.json](contracts/openapi.json).",
        "Every error is a [ProblemDetails](#problemdetails). These mean the same in every call, and are not told again "
        "below:",
        table(["status", "when"], EVERYWHERE.items()),
        *_parts(told["paths"]),
        "## Documents",
        "A field that *may be left out* may be missing from what is sent, and from what is answered.",
        *_documents(told),
    )


def _rights() -> dict[str, Any]:
    """Of each operation the right that a token needs, or several of which one is enough; None where it is open."""
    nobody = cast("Services", None)  # no use case is called
    app = create_app(nobody, keyring=Keyring("any"), limits=from_env({}).limits)
    handlers = (handler for route in app.routes for handler in getattr(route, "route_handlers", ()))
    return {
        str(handler.operation_id): handler.opt.get(RIGHT)
        for handler in handlers
        if isinstance(handler, HTTPRouteHandler)
    }


def _parts(paths: Schema) -> Iterator[str]:
    rights = _rights()
    found: dict[str, list[str]] = {tag: [] for tag in PARTS}
    for path, methods in sorted(paths.items()):
        for method, operation in methods.items():
            call = f"{method.upper()} {path}"
            found.setdefault(operation["tags"][0], []).append(_call(call, operation, rights[operation["operationId"]]))
    for tag, told in found.items():
        yield f"## {PARTS.get(tag, tag.capitalize())}"
        yield from told


def _call(call: str, operation: Schema, right: Any) -> str:
    return paragraphs(
        f"### {call}",
        f"{operation['summary'].rstrip('.')}. {operation.get('description', '')}".replace("?.", "?"),
        f"Right: {_right(right)}.",
        _parameters(operation.get("parameters", ())),
        *_body(operation.get("requestBody")),
        _answers(operation["responses"]),
    )


def _right(right: Any) -> str:
    if right is None:
        return "none, it is open"
    return " or ".join(code(str(each)) for each in (right if isinstance(right, tuple) else (right,)))


def _parameters(parameters: Any) -> str:
    if not parameters:
        return ""
    rows = [
        (code(each["name"]), each["in"], _type(each["schema"]), _notes(each, required=each["required"]))
        for each in parameters
    ]
    return table(["parameter", "in", "type", ""], rows)


def _body(body: Schema | None) -> Iterator[str]:
    for media_type, content in (body or {}).get("content", {}).items():
        yield f"Body, `{media_type}`: {_type(content['schema'])}."
        for example in content.get("examples", {}).values():
            yield _example(example["value"])


def _answers(responses: Schema) -> str:
    rows = []
    for status, answer in responses.items():
        if status in EVERYWHERE and answer["description"] == HTTPStatus(int(status)).phrase:
            continue
        types = [_type(content["schema"]) for content in answer.get("content", {}).values()]
        headers = [code(name) for name in answer.get("headers", {})]
        rows.append((status, answer["description"], ", ".join(types), ", ".join(headers)))
    return table(["status", "", "body", "headers"], rows)


def _documents(told: Schema) -> Iterator[str]:
    """Each with its fields, and an example where an answer has one; those of requests stand at their calls."""
    examples: dict[str, Any] = {}
    for methods in told["paths"].values():
        for operation in methods.values():
            for answer in operation["responses"].values():
                for content in answer.get("content", {}).values():
                    name = content["schema"].get("$ref", "").rpartition("/")[2]
                    for example in content.get("examples", {}).values():
                        examples.setdefault(name, example["value"])
    for name, schema in sorted(told["components"]["schemas"].items()):
        yield _document(name, schema)
        if name in examples:
            yield fenced("json", json.dumps(examples[name], indent=2, ensure_ascii=False))


def _document(name: str, schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (code(field), _type(each), _notes({"schema": each, **each}, required=field in required))
        for field, each in schema.get("properties", {}).items()
    ]
    return paragraphs(
        f"### {name}",
        schema.get("description", ""),
        f"One of {_type(schema)}." if "enum" in schema else "",
        table(["field", "type", ""], rows) if rows else "",
    )


def _type(schema: Schema) -> str:
    """In words; a document by its name, with a link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(each) for each in schema[several])
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(values := schema.get("additionalProperties"), dict):
            return f"object of {_type(values)}"
        case "string" if "format" in schema:
            return FORMATS.get(schema["format"], "string")
        case str(name):
            return name
        case _:
            return "anything"


def _notes(described: Schema, *, required: bool) -> str:
    """What it is for, and its bounds."""
    schema = described["schema"]
    notes = [described.get("description", ""), _bounds(schema)]
    if not required and "left out" not in notes[0].lower():
        notes.append("may be left out" + _default(schema))
    return "; ".join(note.rstrip(".") for note in notes if note)


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default in (None, "", [], {}) else f": {code(json.dumps(default))}"


def _bounds(schema: Schema) -> str:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {} of them",
        "maxItems": "at most {} of them",
        "maxProperties": "at most {} of them",
        "pattern": "matches `{}`",
    }
    return ", ".join(
        "not empty" if (name, schema[name]) == ("minLength", 1) else text.format(schema[name])
        for name, text in words.items()
        if name in schema
    )


def _example(value: Any) -> str:
    return value if isinstance(value, str) else fenced("json", json.dumps(value, indent=2, ensure_ascii=False))
