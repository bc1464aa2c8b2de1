"""Waiting for as long as the caller does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from litestar import Request


async def while_connected(request: Request[Any, Any, Any], waiting: Coroutine[Any, Any, None]) -> None:
    """Wait, but stop when the caller has gone: nothing is left behind."""
    tasks = {asyncio.create_task(waiting), asyncio.create_task(_disconnect(request))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnect(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
