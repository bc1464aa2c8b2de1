"""What the desks of a worker process hold together, so that a suspect (`Job.suspect`) runs without company."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from domain.job import Lease


class Member(Protocol):
    """A desk, as far as its company knows it."""

    @property
    def running(self) -> int:
        """Jobs that it holds."""

    def look(self) -> bool:
        """Look for work for its free slots."""


class Company:
    def __init__(self) -> None:
        self.desks: list[Member] = []
        self.alone: Lease | None = None
        """Of a job that runs without company at present."""
        self._claims = 0
        self._shared = asyncio.Event()
        self._shared.set()

    @asynccontextmanager
    async def claim(self, ending: int) -> AsyncIterator[bool]:
        """Within this a claim is made. Tells whether its jobs would find nobody else in the process.

        Such a claim is the only one at its time: it may bring a job that must have no company.

        Args:
            ending: jobs that end with the claim's statement.
        """
        while not self._shared.is_set():
            await self._shared.wait()
        alone = not self._claims and sum(desk.running for desk in self.desks) == ending
        self._claims += 1
        if alone:
            self._shared.clear()
        try:
            yield alone
        finally:
            self._claims -= 1
            if alone:
                self._shared.set()
