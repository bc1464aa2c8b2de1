"""The pages of a process that answers no callers: a framework would take it 8 MB, and a fifth of the time to start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from app.scrape import Scrape


class Answer(Struct, frozen=True):
    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


OK = Answer(HTTPStatus.OK, b'{"status":"ok"}')
DOWN = Answer(HTTPStatus.SERVICE_UNAVAILABLE, b'{"status":"down"}')
NO_SUCH_PAGE = Answer(HTTPStatus.NOT_FOUND, b'{"status":"not found"}')
ONLY_READ = Answer(HTTPStatus.METHOD_NOT_ALLOWED, b'{"status":"method not allowed"}')

Page = Callable[[str], Awaitable[Answer]]
"""Is given the `Accept` header of whoever asks."""


class Pages:
    """An ASGI application of its own."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self._pages = pages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        answer = await self._answer(scope)
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    async def _answer(self, scope: Any) -> Answer:
        page = self._pages.get(scope["path"])
        if page is None:
            return NO_SUCH_PAGE
        if scope["method"] not in {"GET", "HEAD"}:
            return ONLY_READ
        return await page(", ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"))


async def _live(receive: Any, send: Any) -> None:
    """Nothing is to be done when the server starts or ends."""
    for done in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{done}.complete"})


def always(answer: Answer) -> Page:
    return seen(lambda: answer)


def seen(look: Callable[[], Answer]) -> Page:
    """A page that nobody has to wait for."""

    async def page(accept: str) -> Answer:
        return look()

    return page


def scraped(scrape: Scrape) -> Page:
    """What Prometheus reads."""

    async def page(accept: str) -> Answer:
        found = await scrape(accept)
        return Answer(HTTPStatus.OK, found.body, found.content_type)

    return page
