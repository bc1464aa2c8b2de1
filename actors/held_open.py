"""A call that goes on when its caller has gone: the run that made it waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from actors.desk import LOST

T = TypeVar("T")


async def held_open(call: Awaitable[T]) -> T:
    """The call's answer. Where the run has lost its job meanwhile, the call is waited for all the same.

    Any other word to stop, and a second one, closes it.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as stopped:
        if stopped.args == (LOST,):
            await asyncio.wait({task})
        raise
    finally:
        task.cancel()
        # Closed before anybody removes the file that it reads.
        await asyncio.gather(task, return_exceptions=True)
