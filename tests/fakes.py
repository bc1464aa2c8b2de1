"""One fake per port. The memory store is a real adapter and needs none; what it cannot do, being away, is done here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from adapters.memory.store import MemoryJobStore
from domain.adaptive import Adapted, Pressure, Workload
from domain.circuit import Circuit
from domain.errors import StorageUnavailable
from domain.events import JobEvent
from domain.job import NewJob, Settlement
from domain.policy import Policies
from domain.ports import Added, Claim, Demand, Exchange
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

    def listen(self, listener: Callable[[Sequence[JobEvent]], None], kinds: Collection[str] | None = None) -> None:
        assert kinds is None
        self.listeners.append(listener)


class FakeHealth:
    """Says of model servers what a test wants to hear, and keeps whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.well = True
        self.raises: Exception | None = None

    async def answers(self, model_profile: str) -> bool:
        self.asked.append(model_profile)
        if self.raises:
            raise self.raises
        return self.well

    async def pressure(self, model_profile: str) -> Pressure | None:
        return None


class FakeQueues:
    """Keeps the circuits of queues and nothing else; it can be away."""

    def __init__(self, now: Callable[[], datetime] = lambda: NOW) -> None:
        self.circuits: dict[str, Circuit] = {}
        self.changed: list[str] = []
        """The queues whose circuits were changed, in that order."""
        self.away = False
        self._now = now

    async def states(self) -> list[QueueState]:
        self._must_be_there()
        return [QueueState(name, circuit=circuit) for name, circuit in sorted(self.circuits.items())]

    async def change_circuit(self, queue: str, change: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        self._must_be_there()
        self.changed.append(queue)
        self.circuits[queue] = change(self.circuits.get(queue, Circuit()), self._now())
        return self.circuits[queue]

    async def completed_since(self, queue: str, since: datetime) -> bool:
        self._must_be_there()
        return False

    async def configure(self, policies: Policies, queues: Sequence[str], *, only_new: bool = False) -> None:
        raise NotImplementedError

    async def hold(self, queues: Sequence[str], *, paused: bool | None = None, stopped: bool | None = None) -> None:
        raise NotImplementedError

    async def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        raise NotImplementedError

    async def adapt(self, queue: str, adapted: Adapted | None) -> None:
        raise NotImplementedError

    def _must_be_there(self) -> None:
        if self.away:
            raise StorageUnavailable


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
