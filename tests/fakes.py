"""One fake per port. The memory store is a real adapter and needs none; what it cannot do, being away, is done here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from adapters.memory.store import MemoryJobStore
from domain.adaptive import Adapted
from domain.circuit import Circuit
from domain.errors import StorageUnavailable
from domain.events import JobEvent
from domain.job import NewJob, Settlement
from domain.policy import Policies, QueuePolicy
from domain.ports import Added, Claim, Demand, Exchange, Workload
from domain.queue import QueueState
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


class QueuesInMemory:
    """What operators and circuits change of queues; no job obeys it."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._states: dict[str, QueueState] = {}

    async def states(self) -> list[QueueState]:
        return [self._states[name] for name in sorted(self._states)]

    async def configure(self, policies: Policies, queues: Sequence[str], *, only_new: bool = False) -> None:
        for name in {*queues, *policies.queues}:
            if not only_new or name not in self._states:
                self._set(name, policy=policies.queues.get(name, QueuePolicy()))

    async def hold(self, queues: Sequence[str], *, paused: bool | None = None, stopped: bool | None = None) -> None:
        flags = {"paused": paused, "stopped": stopped}
        for name in queues:
            self._set(name, **{flag: value for flag, value in flags.items() if value is not None})

    async def change_circuit(self, queue: str, change: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        circuit = change(self._states.get(queue, QueueState(queue)).circuit, self._now())
        self._set(queue, circuit=circuit)
        return circuit

    async def completed_since(self, queue: str, since: datetime) -> bool:
        return False

    async def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        return Workload(completed=0, overloads=0, busy=0, due=0, slots=0)

    async def adapt(self, queue: str, adapted: Adapted | None) -> None:
        self._set(queue, adapted=adapted)

    def _set(self, name: str, **changes: Any) -> None:
        self._states[name] = replace(self._states.get(name, QueueState(name)), **changes)


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
