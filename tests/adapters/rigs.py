"""What a test needs to drive a job store of any kind: the store, and a hand on its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Protocol

import pytest

from adapters.memory.store import MemoryJobStore
from domain.ports import JobStore, QueueStore, UploadStore
from tests.fakes import FakeClock


class Rig(Protocol):
    """An empty job store whose clock stands still until it is advanced."""

    @property
    def store(self) -> JobStore: ...

    @property
    def queues(self) -> QueueStore: ...

    @property
    def uploads(self) -> UploadStore: ...

    async def now(self) -> datetime: ...

    async def advance(self, by: timedelta) -> None: ...

    async def reset(self) -> None:
        """Empty the store, for the next example of a property; `store` may be another one then. Cheap."""


OpenRig = Callable[[], AbstractAsyncContextManager[Rig]]
"""Used within one event loop; the store is gone, or empty again, when it is left."""

RigFactory = Callable[[pytest.FixtureRequest], OpenRig]
"""Called outside of any event loop, so that it may ask for fixtures that start servers."""


class MemoryRig:
    def __init__(self) -> None:
        self._clock = FakeClock()
        self.store = MemoryJobStore(self._clock.now)

    @property
    def queues(self) -> QueueStore:
        return self.store.queues

    @property
    def uploads(self) -> UploadStore:
        return self.store.uploads

    async def now(self) -> datetime:
        return self._clock.now()

    async def advance(self, by: timedelta) -> None:
        self._clock.advance(by)

    async def reset(self) -> None:
        self.store = MemoryJobStore(self._clock.now)


@asynccontextmanager
async def open_memory_rig() -> AsyncIterator[Rig]:
    yield MemoryRig()


def memory_rig(_request: pytest.FixtureRequest) -> OpenRig:
    return open_memory_rig
