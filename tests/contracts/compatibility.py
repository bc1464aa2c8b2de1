"""Whether a description of the API keeps what an earlier one promised.

What callers send must still be accepted: requests may only widen. What they are answered must still be what they were
told: answers may only narrow, apart from fields that are added, which consumers ignore. Both are one question, whether
everything that fits one schema fits another. Where that cannot be told, as of two patterns, the answer is no.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

Schema = dict[str, Any]
Document = dict[str, Any]
T = TypeVar("T")

METHODS = ("get", "post", "put", "patch", "delete")
AT_MOST = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
BOUNDS = AT_MOST | {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
SHAPES = {"$ref", "anyOf", "oneOf", "type", "enum", "const", "properties", "required", "additionalProperties", "items"}
ANNOTATIONS = {"$id", "$schema", "$defs", "title", "description", "examples", "default", "deprecated"}
JUDGED = SHAPES | ANNOTATIONS | BOUNDS
TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


class Use(Enum):
    """Which way a value goes."""

    SENT = "in requests"
    ANSWERED = "in answers"


def breaks(old: Document, new: Document) -> list[str]:
    """What the new OpenAPI document breaks for callers who rely on the old one."""
    requests, answers = Comparison(old, new, Use.SENT), Comparison(old, new, Use.ANSWERED)
    return _each_once(
        found
        for path, item in old["paths"].items()
        for method in METHODS
        if method in item
        for found in _operation(
            item[method], new["paths"].get(path, {}).get(method), f"{method.upper()} {path}", requests, answers
        )
    )


def schema_breaks(old: Schema, new: Schema) -> list[str]:
    """What the new schema of a document breaks, both for those who write such documents and for those who read them."""
    return _each_once(found for use in Use for found in Comparison(old, new, use).of(old, new, old.get("title", "")))


def _each_once(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))


def _operation(
    old: Document, new: Document | None, where: str, requests: Comparison, answers: Comparison
) -> Iterator[str]:
    if new is None:
        yield f"{where} is gone"
        return
    if old.get("operationId") != new.get("operationId"):
        yield f"{where}: its operationId was {old.get('operationId')}: generated clients name their functions by it"
    if not _security(old, requests.old) and _security(new, requests.new):
        yield f"{where} needs a token now"
    yield from _parameters(old, new, where, requests)
    yield from _body(old.get("requestBody"), new.get("requestBody"), where, requests)
    yield from _responses(old["responses"], new["responses"], where, answers)


def _security(operation: Document, document: Document) -> bool:
    return bool(operation.get("security", document.get("security")))


def _parameters(old: Document, new: Document, where: str, requests: Comparison) -> Iterator[str]:
    before, after = _by_name(old), _by_name(new)
    for name, parameter in after.items():
        if parameter.get("required") and not before.get(name, {}).get("required"):
            yield f"{where}: {' '.join(name)} is required now"
    for name, parameter in before.items():
        if name not in after:
            yield f"{where}: {' '.join(name)} is gone"
        else:
            yield from requests.of(parameter["schema"], after[name]["schema"], f"{where}: {' '.join(name)}")


def _by_name(operation: Document) -> dict[tuple[str, str], Document]:
    return {(each["in"], each["name"]): each for each in operation.get("parameters", [])}


def _body(old: Document | None, new: Document | None, where: str, requests: Comparison) -> Iterator[str]:
    if new and new.get("required") and not (old and old.get("required")):
        yield f"{where}: a body is required now"
    if old:
        yield from _content(old, new or {}, f"{where}, body", requests)


def _responses(old: Document, new: Document, where: str, answers: Comparison) -> Iterator[str]:
    for status, response in old.items():
        if status not in new:
            yield f"{where}: status {status} is gone"
            continue
        for name, header in response.get("headers", {}).items():
            if name not in new[status].get("headers", {}):
                yield f"{where}, {status}: header {name} is gone"
            else:
                after = new[status]["headers"][name]
                yield from answers.of(header["schema"], after["schema"], f"{where}, {status}: header {name}")
        yield from _content(response, new[status], f"{where}, {status}", answers)


def _content(old: Document, new: Document, where: str, comparison: Comparison) -> Iterator[str]:
    for media_type, content in old.get("content", {}).items():
        if media_type not in new.get("content", {}):
            yield f"{where}: {media_type} is gone"
        else:
            yield from comparison.of(content.get("schema", {}), new["content"][media_type].get("schema", {}), where)


@dataclass(frozen=True)
class Comparison:
    """Of schemas within two documents, for values that go one way.

    Every value of the inner schema must fit the outer one: of requests the inner is the old one, of answers the new.
    """

    old: Document
    new: Document
    use: Use
    _open: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of references that are being compared: schemas may hold themselves."""

    def of(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        """What the new schema breaks."""
        references = (old.get("$ref", ""), new.get("$ref", ""))
        if not all(references):
            yield from self._compared(old, new, where)
        elif references not in self._open:
            self._open.add(references)
            yield from self._compared(old, new, where=references[0].rpartition("/")[2])
            self._open.remove(references)

    def _compared(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        if self.use is Use.SENT and "default" in old and old["default"] != new.get("default"):
            yield self._says(where, f"left out, it meant {old['default']!r}")
        inners, outers = self._sides(list(_branches(old, self.old)), list(_branches(new, self.new)))
        for inner in inners:
            alike = [outer for outer in outers if _types(inner) <= _widened(outer)]
            if alike:
                yield from min((list(self._fits(*self._sides(inner, outer), where)) for outer in alike), key=len)
            else:
                yield self._comes(where, _named(inner))

    def _fits(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        yield from self._values(old, new, where)
        yield from self._bounds(old, new, where)
        yield from self._fields(old, new, where)
        yield from self._other_fields(old, new, where)
        if "items" in old or "items" in new:
            yield from self.of(old.get("items", {}), new.get("items", {}), f"{where}/*")
        inner, outer = self._sides(old, new)
        for word in sorted(outer.keys() - JUDGED):
            if inner.get(word) != outer[word]:
                yield self._changed(where, word, old, new)

    def _values(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        inner, outer = self._sides(_values(old), _values(new))
        if outer is None:
            return
        if inner is None:
            yield self._comes(where, f"anything but {_listed(outer)}")
        for value in inner or ():
            if value not in outer:
                yield self._comes(where, repr(value))

    def _bounds(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        inner, outer = self._sides(old, new)
        for word in sorted(BOUNDS & outer.keys()):
            if word not in inner or (inner[word] > outer[word] if word in AT_MOST else inner[word] < outer[word]):
                yield self._changed(where, word, old, new)

    def _fields(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        inner, outer = self._sides(_required(old), _required(new))
        for name in sorted((outer - inner) & after.keys()):
            yield self._says(
                f"{where}/{name}", "it is required now" if self.use is Use.SENT else "it may be missing now"
            )
        for name, schema in before.items():
            if name in after:
                yield from self.of(schema, after[name], f"{where}/{name}")
            else:
                yield self._says(f"{where}/{name}", "it is gone")

    def _other_fields(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        before, after = old.get("additionalProperties", True), new.get("additionalProperties", True)
        inner, outer = self._sides(before, after)
        if outer is False and inner is not False:
            yield self._comes(where, "another field")
        elif isinstance(outer, dict) and inner is not False:
            yield from self.of(_as_schema(before), _as_schema(after), f"{where}/<another field>")
        if self.use is Use.ANSWERED and before is False:
            for name in sorted(new.get("properties", {}).keys() - old.get("properties", {}).keys()):
                yield self._comes(where, f"another field, {name},")

    def _sides(self, old: T, new: T) -> tuple[T, T]:
        """The inner and the outer of these; and back."""
        return (old, new) if self.use is Use.SENT else (new, old)

    def _comes(self, where: str, what: str) -> str:
        return self._says(where, f"{what} {'is refused' if self.use is Use.SENT else 'may come'} now")

    def _changed(self, where: str, word: str, old: Schema, new: Schema) -> str:
        return self._says(where, f"{word} was {old.get(word, 'free')}, is {new.get(word, 'free')}")

    def _says(self, where: str, what: str) -> str:
        return f"{where}, {self.use.value}: {what}"


def _branches(schema: Schema, document: Document) -> Iterator[Schema]:
    """The alternatives of a schema, each without references and with one type."""
    if "$ref" in schema:
        yield from _branches(_resolved(schema["$ref"], document), document)
    elif alternatives := schema.get("anyOf", schema.get("oneOf")):
        rest = {word: value for word, value in schema.items() if word not in ("anyOf", "oneOf", "default")}
        for alternative in alternatives:
            yield from _branches({**rest, **alternative}, document)
    elif isinstance(schema.get("type"), list):
        for each in schema["type"]:
            yield {**schema, "type": each}
    else:
        yield schema


def _resolved(reference: str, document: Document) -> Schema:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


EVERY_TYPE = frozenset({"object", "array", *TYPES.values()})


def _types(schema: Schema) -> frozenset[str]:
    if "type" in schema:
        return frozenset({schema["type"]})
    values = _values(schema)
    return EVERY_TYPE if values is None else frozenset(TYPES[type(value)] for value in values)


def _widened(schema: Schema) -> frozenset[str]:
    """Its types, and those whose values are of them too."""
    types = _types(schema)
    return types | {"integer"} if "number" in types else types


def _values(schema: Schema) -> list[Any] | None:
    """The only ones that it allows."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _required(schema: Schema) -> set[str]:
    return set(schema.get("required", []))


def _as_schema(additional: bool | Schema) -> Schema:
    return additional if isinstance(additional, dict) else {}


def _named(schema: Schema) -> str:
    values = _values(schema)
    if values is not None:
        return _listed(values)
    return "anything" if _types(schema) == EVERY_TYPE else " or ".join(sorted(_types(schema)))


def _listed(values: list[Any]) -> str:
    return " or ".join(map(repr, values))
