"""Queues in memory: how they are held, limited and guarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec.structs import replace

from domain.adaptive import Adapted, Workload
from domain.circuit import Circuit
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.queue import QueueState


class Runs(Protocol):
    """What the queues must know of the jobs."""

    def now(self) -> datetime: ...

    def busy(self) -> Mapping[str, int]:
        """Queues that have had jobs, and how many of their slots are busy."""

    def completed_since(self, queue: str, since: datetime) -> bool: ...

    def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload: ...


class MemoryQueueStore:
    """Beside a `MemoryJobStore`, whose claims obey it."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._states: dict[str, QueueState] = {}
        self._owners: dict[str, OwnerPolicy] = {}

    def state(self, queue: str | None) -> QueueState:
        """How the queue stands; without one, nothing holds or limits a job."""
        return self._states.get(queue or "", QueueState(queue or ""))

    def owner(self, owner: str) -> OwnerPolicy:
        return self._owners.get(owner, OwnerPolicy())

    async def states(self) -> list[QueueState]:
        busy = self._runs.busy()
        return [replace(self.state(name), busy=busy.get(name, 0)) for name in sorted({*self._states, *busy})]

    async def configure(self, policies: Policies, queues: Sequence[str], *, only_new: bool = False) -> None:
        configured = policies.of_queues(queues)
        if only_new:
            configured = {name: policy for name, policy in configured.items() if name not in self._states}
            self._owners = dict(policies.owners) | self._owners
        else:
            self._owners = dict(policies.owners)
            kept = {*configured, *self._runs.busy()}
            self._states = {name: state for name, state in self._states.items() if state.held or name in kept}
            configured = dict.fromkeys(self._states, QueuePolicy()) | configured
        for name, policy in configured.items():
            state = replace(self.state(name), policy=policy)
            self._states[name] = state if policy.adaptive else replace(state, adapted=None)

    async def hold(self, queues: Sequence[str], *, paused: bool | None = None, stopped: bool | None = None) -> None:
        for name in queues:
            state = self.state(name)
            self._states[name] = replace(
                state,
                paused=state.paused if paused is None else paused,
                stopped=state.stopped if stopped is None else stopped,
            )

    async def change_circuit(self, queue: str, change: Callable[[Circuit, datetime], Circuit]) -> Circuit:
        state = self.state(queue)
        self._states[queue] = replace(state, circuit=change(state.circuit, self._runs.now()))
        return self._states[queue].circuit

    async def completed_since(self, queue: str, since: datetime) -> bool:
        return self._runs.completed_since(queue, since)

    async def workload(self, queue: str, within: timedelta, alive_within: timedelta) -> Workload:
        return self._runs.workload(queue, within, alive_within)

    async def adapt(self, queue: str, adapted: Adapted | None) -> None:
        if self.state(queue).policy.adaptive:
            self._states[queue] = replace(self._states[queue], adapted=adapted)
