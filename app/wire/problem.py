"""How every error is told: RFC 9457, `application/problem+json`."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from domain.errors import ErrorCode, Problem


class ProblemDetails(Struct, kw_only=True, frozen=True):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, Meta(description="Names the kind of problem; `about:blank` where the status says it all.")]
    title: str
    status: int
    detail: str
    instance: Annotated[str, Meta(description="The path that was asked for.")]
    error_code: Annotated[ErrorCode, Meta(description="Only where it is more than `bad_input`.")] | UnsetType = UNSET
    errors: Annotated[tuple[Problem, ...], Meta(description="With 422: each with a JSON pointer.")] | UnsetType = UNSET
