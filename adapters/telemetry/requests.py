"""Gives every HTTP request a name, so that its log lines, and those of the jobs it submits, can be found."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import uuid4

import structlog

from adapters.telemetry.context import current, trace_id, understood

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Answering = Callable[[Scope, Callable[[], int | None]], AbstractContextManager[None]]
"""Within this a request is answered; by which status, it can ask."""

REQUEST_ID = b"x-request-id"
TRACEPARENT = b"traceparent"

_NAME = re.compile(rb"[A-Za-z0-9._:/@+=-]{1,128}")


def untraced(scope: Scope, answered: Callable[[], int | None]) -> AbstractContextManager[None]:
    return nullcontext()


class Requests:
    """Takes the `X-Request-Id` of the caller, or makes one up, and answers with it; and heeds his `traceparent`."""

    def __init__(self, app: Application, answering: Answering = untraced) -> None:
        self._app = app
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _name_of(headers)
        traceparent = understood(headers.get(TRACEPARENT, b"").decode("latin-1"))

        status: int | None = None

        async def named(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id)]
            await send(message)

        token = current.set(traceparent)
        try:
            with self._answering(scope, lambda: status), _bound(request_id.decode(), trace_id(current.get())):
                await self._app(scope, receive, named)
        finally:
            current.reset(token)


def _bound(request_id: str, trace: str | None) -> AbstractContextManager[None]:
    """Log lines from within this have these fields."""
    traced = {"trace_id": trace} if trace else {}
    return structlog.contextvars.bound_contextvars(request_id=request_id, **traced)


def _name_of(headers: dict[bytes, bytes]) -> bytes:
    given = headers.get(REQUEST_ID, b"")
    return given if _NAME.fullmatch(given) else uuid4().hex.encode()
