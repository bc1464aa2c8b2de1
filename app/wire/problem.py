"""How every error is told: RFC 9457, `application/problem+json`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from domain.errors import ErrorCode, Problem

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(Struct, kw_only=True, frozen=True):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, Meta(description="Names the kind of problem; `about:blank` where the status says it all.")]
    title: str
    status: int
    detail: str
    instance: Annotated[str, Meta(description="The path that was asked for.")]
    error_code: (
        Annotated[ErrorCode, Meta(description="Of a chat; of others only where it is more than `bad_input`.")]
        | UnsetType
    ) = UNSET
    job_id: Annotated[UUID, Meta(description="Of a chat: its job.")] | UnsetType = UNSET
    errors: Annotated[tuple[Problem, ...], Meta(description="With 422: each with a JSON pointer.")] | UnsetType = UNSET


def plain(status: HTTPStatus, detail: str, instance: str) -> bytes:
    """A problem that its status says all of, as JSON."""
    return msgspec.json.encode(
        ProblemDetails(type="about:blank", title=status.phrase, status=status, detail=detail, instance=instance)
    )
