"""The API's description of itself: the paths from Litestar, the schemas from msgspec, which reads and writes them.

Litestar's own schemas of structs lose constraints and the type of what passes through, so they are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from http import HTTPStatus
from typing import Any, cast

import msgspec
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType
from msgspec import UNSET, Struct

from app.api.problems import KINDS, Kind
from app.wire.problem import MEDIA_TYPE, ProblemDetails
from domain.errors import Problem

REFERENCE = "#/components/schemas/{name}"

ALWAYS = (401, 403, 429, 500, 503)
"""Any call behind the guard may be refused so."""

REFUSAL_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


@dataclass(frozen=True)
class Answer:
    """One status that an operation may answer with, and an example of its document."""

    status: int
    example: Struct | str | None
    """Its document: text where it is no JSON, None where there is none."""
    description: str
    headers: Sequence[str] = ()
    media_type: str = "application/json"

    def response(self) -> OpenAPIResponse:
        return OpenAPIResponse(
            description=self.description,
            headers={name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING)) for name in self.headers},
            content=None if self.example is None else {self.media_type: _content(self.example)},
        )


def refusals(*wanted: int | type[Exception]) -> list[Answer]:
    """Problem documents of these statuses or exceptions, and of those that any call may meet."""
    kinds = [KINDS[each] for each in wanted if not isinstance(each, int)]
    statuses = {each for each in wanted if isinstance(each, int)} | {kind.status for kind in kinds}
    return [_refusal(HTTPStatus(status), kinds) for status in sorted({*statuses, *ALWAYS})]


def operation(
    *answers: Answer,
    body: Struct | None = None,
    content: Mapping[str, OpenAPIMediaType] | None = None,
    query: type[Struct] | None = None,
    parameters: Sequence[Parameter] = (),
) -> type[Operation]:
    """What a route takes and answers. A body is given as an example of it, or as its types where it is no JSON."""

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.parameters = [*(self.parameters or ()), *_parameters(query), *parameters] or None
            self.responses = {str(answer.status): answer.response() for answer in answers}
            if body is not None:
                self.request_body = RequestBody({"application/json": _content(body)}, required=True)
            if content is not None:
                self.request_body = RequestBody(dict(content), required=True)

        def schemas(self) -> dict[str, Any]:
            """The schemas that it refers to."""
            examples = [answer.example for answer in answers] + [body]
            documents = [type(example) for example in examples if isinstance(example, Struct)]
            return _schemas(documents) | _referred_schemas(query)

    return Documented


class Description(OpenAPI):
    """The document. Its schemas are made when somebody wants to see it: that takes longer than all else at a start."""

    def to_schema(self) -> dict[str, Any]:
        self.components = replace(self.components or Components(), schemas=self._all_schemas())
        return super().to_schema()

    def _all_schemas(self) -> dict[str, Any]:
        schemas: dict[str, Any] = {}
        for path in (self.paths or {}).values():
            for each in (path.get, path.post, path.put, path.patch, path.delete):
                schemas |= each.schemas() if each and hasattr(each, "schemas") else {}
        return schemas


class DescriptionConfig(OpenAPIConfig):
    """Has Litestar make ours of its document."""

    def to_openapi_schema(self) -> OpenAPI:
        made = super().to_openapi_schema()
        return Description(**{field.name: getattr(made, field.name) for field in fields(made)})


def _schemas(documents: Iterable[type[Struct]]) -> dict[str, Any]:
    """As plain dictionaries, which are rendered as they are."""
    return {
        name: portable(schema)
        for name, schema in msgspec.json.schema_components(documents, ref_template=REFERENCE)[1].items()
    }


def portable(schema: Any) -> Any:
    """The schema without `(?!\\n)`: only Python's `$` needs it, and not every language can read it."""
    if isinstance(schema, dict):
        return {
            word: value.removesuffix(r"(?!\n)") if word == "pattern" and isinstance(value, str) else portable(value)
            for word, value in schema.items()
        }
    return [portable(each) for each in schema] if isinstance(schema, list) else schema


def _referred_schemas(query: type[Struct] | None) -> dict[str, Any]:
    return {name: schema for name, schema in _schemas([query]).items() if name != query.__name__} if query else {}


def _parameters(query: type[Struct] | None) -> list[Parameter]:
    properties = _schemas([query])[query.__name__]["properties"] if query else {}
    return [_parameter(name, **schema) for name, schema in properties.items()]


def _parameter(name: str, *, description: str | None = None, **schema: Any) -> Parameter:
    return Parameter(name, "query", cast("Schema", schema), description=description, required=False)


def _content(example: Struct | str) -> OpenAPIMediaType:
    text = isinstance(example, str)
    schema = Schema(type=OpenAPIType.STRING) if text else Reference(REFERENCE.format(name=type(example).__name__))
    return OpenAPIMediaType(schema=schema, examples={"example": Example(value=example)})


def _refusal(status: HTTPStatus, kinds: Iterable[Kind]) -> Answer:
    """Named are the kinds of problem that are this call's own, beside what any call may meet."""
    own = [kind for kind in kinds if kind.status == status]
    usual = [] if own and status not in ALWAYS else [_usual(status)]
    told = " / ".join(kind.title for kind in [*usual, *own] if kind) if own else status.phrase
    problem = _problem(status, own[0] if own else _usual(status))
    return Answer(status, problem, told, REFUSAL_HEADERS.get(status, ()), MEDIA_TYPE)


def _usual(status: HTTPStatus) -> Kind | None:
    return next((kind for kind in KINDS.values() if kind.status == status), None)


def _problem(status: HTTPStatus, kind: Kind | None) -> ProblemDetails:
    return ProblemDetails(
        type=kind.uri if kind else "about:blank",
        title=kind.title if kind else status.phrase,
        status=status,
        detail="What was wrong with this very request.",
        instance="/api/v1/jobs",
        errors=(Problem("/max_attempts", "Expected `int` <= 100"),) if status == 422 else UNSET,
    )
