"""Requests that the end of the process cuts short."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import instance_of
from app.wire.problem import MEDIA_TYPE, plain

log = structlog.get_logger()

RETRY_AFTER = b"1"
"""Seconds: another process may be there at once."""


class CutShort:
    """Answers 503 to a request that is not answered when the time to end is over; a stream just ends.

    Wraps the whole application: the server cancels it then, and would itself say 500, which nobody tries again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        except asyncio.CancelledError:
            log.warning("request cut short", method=scope["method"], path=scope["path"], answered=started)
            if not started:
                await _refuse(instance_of(scope), send)


async def _refuse(instance: str, send: Send) -> None:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    body = plain(status, "The service ends, and could not finish this in time: send it again.", instance)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", RETRY_AFTER),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
