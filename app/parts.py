"""The parts of a process: what is to go on for as long as the process does, and what follows where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()

Died = Callable[[str], None]
"""Told which part of the process ended by itself, after the log was."""


class Parts:
    """Tasks that are to go on for as long as the process does."""

    def __init__(self, died: Died) -> None:
        self.leaving = False
        """From now on they may end."""
        self._died = died

    def start(self, part: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(self._carry(part, work))

    async def _carry(self, part: str, work: Coroutine[Any, Any, None]) -> None:
        reason = None
        try:
            await work
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # uvicorn exits where it cannot start
            reason = type(error).__name__
        if not self.leaving:
            log.critical("part died", part=part, reason=reason)
            self._died(part)
