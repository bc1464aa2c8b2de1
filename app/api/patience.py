"""Waiting for as long as the caller does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from litestar import Request

T = TypeVar("T")


async def while_connected(request: Request[Any, Any, Any], waiting: Coroutine[Any, Any, None]) -> None:
    """Wait, but stop when the caller has gone: nothing is left behind."""
    async with presence_of(request) as caller:
        await caller.wait(waiting)


class Connected:
    """The caller at the other end of a connection."""

    def __init__(self, disconnect: asyncio.Task[None]) -> None:
        self._disconnect = disconnect

    @property
    def gone(self) -> bool:
        return self._disconnect.done()

    async def get(self, awaited: Coroutine[Any, Any, T]) -> T | None:
        """What comes of this, or None where the caller has gone before: then it is cancelled."""
        task = asyncio.create_task(awaited)
        try:
            await asyncio.wait({task, self._disconnect}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def wait(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for this, but stop when the caller has gone."""
        task = asyncio.create_task(waiting)
        try:
            await asyncio.wait({task, self._disconnect}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def presence_of(request: Request[Any, Any, Any]) -> AsyncIterator[Connected]:
    """Notice when the caller goes away. The request's body must have been read."""
    disconnect = asyncio.create_task(_disconnect(request))
    # Somebody who has gone already is noticed at once.
    await asyncio.sleep(0)
    try:
        yield Connected(disconnect)
    finally:
        disconnect.cancel()
        await asyncio.gather(disconnect, return_exceptions=True)


async def _disconnect(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
