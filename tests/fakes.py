"""One fake per port. The memory store is a real adapter and needs none; what it cannot do, being away, is done here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from adapters.memory.store import MemoryJobStore
from domain.adaptive import Adapted, Pressure, Workload
from domain.circuit import Circuit
from domain.errors import BadInput, Problem, StorageUnavailable
from domain.events import JobEvent
from domain.infra import Target
from domain.job import NewJob, Settlement
from domain.policy import Policies, QueuePolicy
from domain.ports import NO_CEILINGS, Added, BrokerState, Claim, Demand, Exchange, ProviderState
from domain.queue import QueueState
from domain.telemetry import Listener
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


class ToldFigures:
    """Says of the broker what a test tells it."""

    def __init__(self) -> None:
        self.state: BrokerState | None = None

    async def look(self) -> BrokerState | None:
        return self.state


class Told(Listener):
    """Keeps what was removed because nobody needs it any more."""

    def __init__(self) -> None:
        self.removed: list[tuple[str, str, int]] = []

    def pruned(self, what: str, status: str, removed: int) -> None:
        self.removed.append((what, status, removed))


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


async def nothing() -> None:
    pass


class FakeQueues:
    """Keeps the states of queues, and knows of runs and load what a test tells it."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._states: dict[str, QueueState] = {}
        self.completed: dict[str, datetime] = {}
        """When a run of a queue last completed."""
        self.load: dict[str, Workload] = {}
        self.busy: dict[str, int] = {}
        """Slots of queues that are taken."""
        self.changes = 0
        """How often a circuit was locked and looked at."""
        self.meanwhile: Callable[[], Awaitable[object]] = nothing
        """What another process does, the next time that this one looks for completed runs."""

    def circuit(self, queue: str) -> Circuit:
        return self._state(queue).circuit

    async def states(self) -> list[QueueState]:
        return [replace(self._states[name], busy=self.busy.get(name, 0)) for name in sorted(self._states)]

    async def configure(self, policies: Policies, queues: Sequence[str], *, only_new: bool = False) -> None:
        for name in {*queues, *policies.queues}:
            if not only_new or name not in self._states:
                self._change(name, policy=policies.queues.get(name, QueuePolicy()))

    async def hold(self, queues: Sequence[str], *, paused: bool | None = None, stopped: bool | None = None) -> None:
        flags = {"paused": paused, "stopped": stopped}
        for name in queues:
            self._change(name, **{flag: value for flag, value in flags.items() if value is not None})

    async def change_circuit(self, queue: str, change: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        self.changes += 1
        self._change(queue, circuit=change(self.circuit(queue), self._now()))
        return self.circuit(queue)

    async def completed_since(self, queue: str, since: datetime) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, nothing
        await meanwhile()
        return queue in self.completed and self.completed[queue] > since

    async def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        return self.load[queue]

    async def adapt(self, queue: str, adapted: Adapted | None) -> None:
        self._change(queue, adapted=adapted)

    def _state(self, queue: str) -> QueueState:
        return self._states.get(queue, QueueState(queue))

    def _change(self, queue: str, **changes: object) -> None:
        self._states[queue] = replace(self._state(queue), **changes)


class FakeHealth:
    """Says of model servers what a test wants to hear, and keeps whose were asked for."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.loads: Mapping[str, Pressure] = {}
        self.asked: list[str] = []
        self.meanwhile: Callable[[], Awaitable[object]] = nothing
        """What happens while a server is asked."""

    async def answers(self, model_profile: str) -> bool:
        self.asked.append(model_profile)
        await self.meanwhile()
        return model_profile not in self.down

    async def pressure(self, model_profile: str) -> Pressure | None:
        return self.loads.get(model_profile)

    async def status(self, model_profile: str) -> ProviderState:
        self.asked.append(model_profile)
        if model_profile in self.down:
            return ProviderState(reachable=False, trouble="The provider accepts no connections.", asked_at=NOW)
        return ProviderState(
            reachable=True, latency=0.0125, models=("qwen",), serves_model=True, authorised=True, asked_at=NOW
        )


class ToldInfra:
    """Says of the machines behind the model servers what a test tells it."""

    def __init__(self) -> None:
        self.targets: tuple[Target, ...] = ()

    async def look(self) -> tuple[Target, ...]:
        return self.targets


class FragileStore(MemoryJobStore):
    """A store that can be away, and that refuses results that a test names."""

    away = False
    refuses: Collection[bytes] = ()

    async def add(self, jobs: Sequence[NewJob], ceilings: Mapping[str, int] = NO_CEILINGS) -> list[Added]:
        self._must_be_there()
        return await super().add(jobs, ceilings)

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


class FakeSchemas:
    """Takes any schema but `False`, which nothing fits."""

    def check(self, schema: object) -> None:
        if schema is False:
            raise BadInput([Problem("/type", "is wrong")])

    async def misfit(self, schema: object, document: object) -> str | None:
        self.check(schema)
        return None if document == schema else "at /items/3: required"
