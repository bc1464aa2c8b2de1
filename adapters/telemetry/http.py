"""Measures every HTTP request, by the template of its path: the path itself may be anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from adapters.telemetry.metrics import Metrics
from adapters.telemetry.requests import Application, Receive, Scope, Send

WAIT = "wait"


class Measured:
    """The framework notes in a request's scope which route was taken."""

    def __init__(self, app: Application, metrics: Metrics, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._metrics = metrics
        self._monotonic = monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, took = self._monotonic(), None
        status: int | None = None

        async def seen(message: Any) -> None:
            nonlocal status, took
            if message["type"] == "http.response.start":
                status, took = message["status"], self._monotonic() - began
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            seconds = None if _asks_to_be_held(scope) else took
            self._metrics.requested(scope["method"], scope.get("path_template"), status, seconds)


def _asks_to_be_held(scope: Scope) -> bool:
    if WAIT.encode() in scope["query_string"] and WAIT in parse_qs(scope["query_string"].decode("latin-1")):
        return True
    return any(name == b"prefer" and WAIT.encode() in value for name, value in scope["headers"])
