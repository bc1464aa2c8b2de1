"""The end of a process that has requests which do not end: over a real server."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest
from litestar import Litestar
from litestar.types import Receive, Scope, Send
from structlog.testing import capture_logs

from app.api.cut_short import CutShort
from app.server import Server, bind, url_of
from tests.app.conftest import until


class Hanging:
    """Begins its answer, or not, and never ends it."""

    def __init__(self, *, begins: bool) -> None:
        self.asked = False
        self._begins = begins
        self._living = Litestar()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind: str = scope["type"]
        if kind == "lifespan":
            await self._living(scope, receive, send)
            return
        if self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        self.asked = True
        await asyncio.Event().wait()


async def end_while_asked(app: Hanging) -> httpx.Response:
    listener = bind("127.0.0.1", 0, "HTTP_PORT")
    server = Server(CutShort(app), grace=timedelta(seconds=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    async with httpx.AsyncClient(base_url=url_of(listener), trust_env=False, timeout=20) as client:
        answer = asyncio.create_task(client.get("/somewhere"))
        await until(lambda: app.asked)
        server.should_exit = True
        await serving
        return await answer


async def test_a_request_that_is_cut_short_is_told_to_be_sent_again() -> None:
    with capture_logs() as events:
        answer = await end_while_asked(Hanging(begins=False))
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert (answer.json()["status"], answer.json()["instance"]) == (503, "/somewhere")
    assert [event["event"] for event in events] == ["request cut short"]


async def test_a_stream_that_is_cut_short_just_ends() -> None:
    with capture_logs() as events, pytest.raises(httpx.RemoteProtocolError):
        await end_while_asked(Hanging(begins=True))
    assert [event["answered"] for event in events] == [True]
