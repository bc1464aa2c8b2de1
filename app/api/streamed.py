"""Answers that come bit by bit, and end with whoever reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send


class Streamed(Stream):
    """A stream whose source is closed when the answer ends, however it does.

    Litestar leaves that to the garbage collector, where a caller goes away while a piece is being sent: what the source
    holds, and does for the caller, would go on until then.
    """

    def __init__(self, content: AsyncIterator[bytes], *sources: AsyncIterator[bytes], **more: Any) -> None:
        """
        Args:
            sources: of the content, where it may end without having begun.
        """
        super().__init__(content, **more)
        self._sources = (*sources, content)

    def to_asgi_response(self, *given: Any, **more: Any) -> ASGIApp:  # type: ignore[override]  # it is only called
        return _Closing(super().to_asgi_response(*given, **more), self._sources)


@dataclass(frozen=True)
class _Closing:
    answer: ASGIApp
    sources: tuple[AsyncIterator[bytes], ...]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            for source in self.sources:
                await stack.enter_async_context(aclosing(source))  # type: ignore[type-var]
            await self.answer(scope, receive, send)
