"""One fake per port. The memory store is a real adapter and needs none; what it cannot do, being away, is done here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from adapters.memory.store import MemoryJobStore
from domain.errors import StorageUnavailable
from domain.events import JobEvent
from domain.job import NewJob, Settlement
from domain.ports import Added, Claim, Demand, Exchange
from tests.factories import NOW


class FakeClock:
    """Stands still until it is advanced."""

    def __init__(self, start: datetime = NOW) -> None:
        self.start = start
        self._now = start

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self.start).total_seconds()

    def advance(self, by: timedelta) -> None:
        self._now += by


class RecordingTickets:
    """Keeps the tickets that were published, as (queue, count), and says what a test wants to hear."""

    def __init__(self) -> None:
        self.published: list[tuple[str, int]] = []
        self.lying: dict[str, int | None] = {}
        self.up = True

    def publish(self, queue: str, count: int) -> None:
        self.published.append((queue, count))

    async def waiting(self, queue: str) -> int | None:
        return self.lying.get(queue, 0)

    async def reachable(self) -> bool:
        return self.up


class RecordingEvents:
    """Keeps what was published, and passes it on to whoever listens."""

    def __init__(self) -> None:
        self.published: list[JobEvent] = []
        self.listeners: list[Callable[[Sequence[JobEvent]], None]] = []

    def publish(self, events: Sequence[JobEvent]) -> None:
        self.published.extend(events)
        for listener in self.listeners:
            listener(events)

    def listen(self, listener: Callable[[Sequence[JobEvent]], None]) -> None:
        self.listeners.append(listener)


class FragileStore(MemoryJobStore):
    """A store that can be away, and that refuses results that a test names."""

    away = False
    refuses: Collection[bytes] = ()

    async def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        self._must_be_there()
        return await super().add(jobs)

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        self._must_be_there()
        return await super().demand(queues, alive_within)

    async def ping(self) -> None:
        self._must_be_there()

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        refused = {ended.lease: "not storable" for ended in settlements if ended.result in self.refuses}
        outcome = await super().exchange([ended for ended in settlements if ended.lease not in refused], claim)
        return Exchange(outcome.claimed, outcome.lost, refused)

    def _must_be_there(self) -> None:
        if self.away:
            raise StorageUnavailable
