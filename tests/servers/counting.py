"""A model server that counts: how many calls it works on at once, when each began, and whose it was.

A call is counted a moment after it came: what another client did before, such as hanging up, has been seen by then.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.servers.model_server import ModelServer, Reply, Request, ServedOver, says

ROUNDS = 10
"""Turns of the server's event loop from a client's hanging up to its being known, and some more."""


@dataclass(frozen=True)
class Call:
    began: float
    """`time.monotonic`"""
    said: str
    """The caller's last message."""


@dataclass
class CountingServer(ServedOver):
    """
    Args:
        takes: seconds that a call takes.
    """

    takes: float = 0.1
    running: int = 0
    most_at_once: int = 0
    begun: list[Call] = field(default_factory=list)
    running_of: Counter[str] = field(default_factory=Counter)
    """By what the callers said."""
    most_of: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.http = ModelServer(default=self._serve)

    def count_anew(self) -> None:
        """Forget how many there were at once."""
        self.most_at_once = self.running

    async def _serve(self, request: Request, reply: Reply) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        said = request.last_message
        self.begun.append(Call(time.monotonic(), said))
        self.running += 1
        self.running_of[said] += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self.most_of[said] = max(self.most_of[said], self.running_of[said])
        try:
            await asyncio.sleep(self.takes)
        finally:
            # Before its last words: whoever hears them may call again at once.
            self.running -= 1
            self.running_of[said] -= 1
        await says(said)(request, reply)
