"""HEAD and OPTIONS, the same for every path."""

from __future__ import annotations

from typing import cast

from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

NO_METHOD = "-"


class HeadAndOptions:
    """HEAD is GET without its body; OPTIONS is the `Allow` of a refused method.

    Wraps the whole application, because Litestar routes by method. Its own OPTIONS knows only a path's first handler.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] not in {HttpMethod.HEAD, HttpMethod.OPTIONS}:
            await self.app(scope, receive, send)
        elif scope["method"] == HttpMethod.HEAD:
            await self._as(HttpMethod.GET.value, scope, receive, _without_body(send))
        else:
            await self._as(NO_METHOD, scope, receive, _without_body(_without_refusal(send)))

    async def _as(self, method: str, scope: HTTPScope, receive: Receive, send: Send) -> None:
        asked = cast("HTTPScope", {**scope, "method": method})
        try:
            await self.app(asked, receive, send)
        finally:
            if template := asked.get("path_template"):  # for whoever tells of requests by their routes
                scope["path_template"] = template


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        # The end at once: of an event stream nobody would wait for the end of the body.
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head


def _without_refusal(send: Send) -> Send:
    async def send_allowed(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            headers = [(name, value) for name, value in message["headers"] if name == b"allow"]
            message = {**message, "status": 204, "headers": headers}
        await send(message)

    return send_allowed
