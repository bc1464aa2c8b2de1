"""Exceptions as problem documents (RFC 9457). What is not in the table is our fault: 500, logged, nothing told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from math import ceil
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, MethodNotAllowedException, NotFoundException
from litestar.types import HTTPScope
from msgspec import UNSET, Struct, UnsetType

from app.wire.body import UnreadableBody
from app.wire.problem import MEDIA_TYPE, ProblemDetails
from domain.errors import (
    BadInput,
    ChatFailed,
    ChatRefused,
    ErrorCode,
    Forbidden,
    InvalidTransition,
    JobNotFound,
    LeaseLost,
    Problem,
    QueueNotFound,
    RateLimited,
    StorageUnavailable,
    TooLarge,
    TooManyPending,
    UploadInUse,
    UploadNotFound,
)

logger = structlog.get_logger()

LIMITED_BY = "limited_by"
"""Where a route's bodies are limited by another variable than MAX_INPUT_BYTES, this option names it."""


LONGEST_DETAIL, LONGEST_POINTER, MOST_ERRORS = 2_000, 500, 100
"""Of what is told. A caller's own field names stand in it, and may be as long as a body."""


class Kind(Struct, frozen=True):
    """A kind of problem. Its name is the last part of its `type`, which callers may branch on."""

    name: str
    status: HTTPStatus
    title: str
    headers: dict[str, str] = {}

    @property
    def uri(self) -> str:
        return f"urn:problem:ai-service:{self.name}"


KINDS: dict[type[Exception], Kind] = {
    UnreadableBody: Kind("unreadable-body", HTTPStatus.BAD_REQUEST, "The body cannot be read"),
    Forbidden: Kind("forbidden", HTTPStatus.FORBIDDEN, "The token does not allow this"),
    JobNotFound: Kind("job-not-found", HTTPStatus.NOT_FOUND, "No such job"),
    UploadNotFound: Kind("upload-not-found", HTTPStatus.NOT_FOUND, "No such upload"),
    UploadInUse: Kind("upload-in-use", HTTPStatus.CONFLICT, "The upload is in use"),
    QueueNotFound: Kind("queue-not-found", HTTPStatus.NOT_FOUND, "No such queue"),
    InvalidTransition: Kind("invalid-transition", HTTPStatus.CONFLICT, "The job's state does not allow this"),
    LeaseLost: Kind("lease-lost", HTTPStatus.CONFLICT, "The lease is lost"),
    TooLarge: Kind("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Too large"),
    BadInput: Kind("bad-input", HTTPStatus.UNPROCESSABLE_ENTITY, "The request is not valid"),
    RateLimited: Kind("rate-limited", HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    TooManyPending: Kind(
        "too-many-pending",
        HTTPStatus.TOO_MANY_REQUESTS,
        "The owner has too many waiting jobs",
        {"Retry-After": "5"},
    ),
    StorageUnavailable: Kind(
        "storage-unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "The storage is away", {"Retry-After": "2"}
    ),
}

DETAILS: dict[type[HTTPException], str] = {
    NotFoundException: "There is nothing at this path.",
    MethodNotAllowedException: "The path does not know this method; `Allow` says which ones it knows.",
}


CHATS: dict[ErrorCode, HTTPStatus] = {
    ErrorCode.BAD_INPUT: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.CONTEXT_LENGTH: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.UNSUPPORTED_TASK: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.MODEL_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.AUTH_ERROR: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.QUOTA_EXHAUSTED: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
}
"""How a chat fails that failed with this code; with any other: 502."""

CHAT_FAILED, CHAT_REFUSED = "The chat has no answer", "The chat cannot be answered now"

CODED = "coded"
"""A route with this option names the `error_code` of every request that is wrong."""

USUAL_PATIENCE = timedelta(seconds=5)
"""Before a chat is asked again, where nobody knows better."""


def problem_of(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to a request that met this exception."""
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        error = _too_large(request)
    if isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _of_http(request, error)
    if isinstance(error, ChatFailed):
        document, headers = chat_problem(error, instance_of(request.scope))
        return _encoded(document, headers)
    kind = next((KINDS[ancestor] for ancestor in type(error).__mro__ if ancestor in KINDS), None)
    if kind is None:
        return _unhandled(request, error)
    return _respond(
        kind.headers | _patience(error),
        type=kind.uri,
        title=kind.title,
        status=kind.status,
        detail=_cut(str(error), LONGEST_DETAIL),
        instance=instance_of(request.scope),
        errors=_told(error.problems) if isinstance(error, BadInput) else UNSET,
        error_code=_code(request, error) if isinstance(error, BadInput) else UNSET,
    )


def chat_problem(error: ChatFailed, instance: str) -> tuple[ProblemDetails, dict[str, str]]:
    """Why a chat has no answer, and the headers that go with it."""
    failure, refused = error.failure, isinstance(error, ChatRefused)
    status = HTTPStatus.SERVICE_UNAVAILABLE if refused else CHATS.get(failure.code, HTTPStatus.BAD_GATEWAY)
    document = ProblemDetails(
        type=f"urn:problem:ai-service:{'chat-refused' if refused else 'chat-failed'}",
        title=CHAT_REFUSED if refused else CHAT_FAILED,
        status=status,
        detail=_cut(failure.message or f"The run ended with {failure.code}.", LONGEST_DETAIL),
        instance=instance,
        error_code=failure.code,
        job_id=error.job_id or UNSET,
    )
    if status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return document, {}
    return document, {"Retry-After": str(ceil((failure.retry_after or USUAL_PATIENCE).total_seconds()))}


def _code(request: Request[Any, Any, Any], error: BadInput) -> ErrorCode | UnsetType:
    told = error.code is not ErrorCode.BAD_INPUT or request.route_handler.opt.get(CODED, False)
    return error.code if told else UNSET


def _of_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = HTTPStatus(error.status_code)
    return _respond(
        _allow(error) if isinstance(error, MethodNotAllowedException) else error.headers or {},
        type="about:blank",
        title=status.phrase,
        status=status,
        detail=DETAILS.get(type(error), error.detail),
        instance=instance_of(request.scope),
    )


def _too_large(request: Request[Any, Any, Any]) -> TooLarge:
    handler = request.route_handler
    variable = handler.opt.get(LIMITED_BY, "MAX_INPUT_BYTES")
    limit = handler.resolve_request_max_body_size()
    return TooLarge(f"The body has more than {limit} bytes, which is what {variable} and some room around it allow.")


def _allow(error: MethodNotAllowedException) -> dict[str, str]:
    """The methods that the path knows, with the HEAD that comes with every GET."""
    methods = {method.strip() for method in (error.headers or {}).get("allow", "").split(",")}
    return {"Allow": ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))}


def _patience(error: Exception) -> dict[str, str]:
    """When to come back, rounded up: earlier would be too early again."""
    return {"Retry-After": str(ceil(error.retry_after.total_seconds()))} if isinstance(error, RateLimited) else {}


def _unhandled(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    instance = instance_of(request.scope)
    if not _hung_up(error):
        logger.error("request_failed", method=request.method, path=instance, exc_info=error)
    return _encoded(unforeseen(instance), {})


def unforeseen(instance: str) -> ProblemDetails:
    """A fault of ours, of which nothing is told."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return ProblemDetails(
        type="about:blank",
        title=status.phrase,
        status=status,
        detail="Something went wrong here; it has been logged.",
        instance=instance,
    )


def _told(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple(
        Problem(_cut(each.pointer, LONGEST_POINTER), _cut(each.detail, LONGEST_DETAIL))
        for each in problems[:MOST_ERRORS]
    )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _hung_up(error: Exception) -> bool:
    """Whether the caller went away in the middle of its body. Litestar has no type of its own for that."""
    return isinstance(error, InternalServerException) and error.detail == "client disconnected prematurely"


def _respond(headers: dict[str, str], **members: Any) -> Response[bytes]:
    return _encoded(ProblemDetails(**members), headers)


def _encoded(document: ProblemDetails, headers: dict[str, str]) -> Response[bytes]:
    body = msgspec.json.encode(document)
    return Response(body, status_code=document.status, headers=headers, media_type=MEDIA_TYPE)


def instance_of(scope: HTTPScope) -> str:
    """The path that was asked for, as a problem document names it."""
    return quote(scope["path"], safe="/:@!$&'()*+,;=-._~")
