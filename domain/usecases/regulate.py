"""What the scheduler's leader does for queues: put policies in force, ask sick servers, adapt limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain.adaptive import Pressure, adapt
from domain.circuit import CircuitState
from domain.policy import Policies
from domain.ports import QueueStore
from domain.queue import QueueState
from domain.routing import Routes
from domain.usecases.guard import Guard
from domain.usecases.wake import DEAD_AFTER, Wake

LOOKED_BACK = timedelta(seconds=1)
"""How much of the past the first look at a queue's runs takes in."""

LONGEST_LOOK = timedelta(seconds=10)
"""What ended longer ago tells nothing of now: the queue was held, or somebody else led."""


@dataclass
class Regulate:
    queues: QueueStore
    guard: Guard
    routes: Callable[[], Routes]
    """Those of this moment."""
    wake: Wake
    clock: Callable[[], datetime]
    _looked_at: dict[str, datetime] = field(default_factory=dict)

    async def put_in_force(self, policies: Policies) -> None:
        """Let every claim obey these policies."""
        await self.queues.configure(policies, self.routes().queues)

    async def wanting(self) -> list[QueueState]:
        """Queues whose server is to be asked how it is, or whose limit is to be adapted; once a second."""
        return [state for state in await self.queues.states() if _is_open(state) or _adapts(state)]

    async def regulate(self, state: QueueState) -> None:
        """Let a job be tried once a sick server answers; adapt the limit of a queue that wants it.

        It may take as long as a server takes to answer: no queue shall wait for another's.
        """
        if _is_open(state):
            if await self.guard.probe(state.name):
                await self.wake.for_jobs({state.name: 1})
        elif _adapts(state):
            await self._adapt(state)

    async def _adapt(self, state: QueueState) -> None:
        now = self.clock()
        within = min(now - self._looked_at.get(state.name, now - LOOKED_BACK), LONGEST_LOOK)
        workload = await self.queues.workload(state.name, within, DEAD_AFTER)
        self._looked_at[state.name] = now
        bound = state.policy.concurrency or workload.slots or 1
        adapted = adapt(state.adapted, workload, await self._pressure(state.name), bound, now)
        if adapted != state.adapted:
            await self.queues.adapt(state.name, adapted)

    async def _pressure(self, queue: str) -> Pressure | None:
        """That of the queue's busiest server."""
        asked = await asyncio.gather(*(self.guard.health.pressure(name) for name in self.routes().profiles_of(queue)))
        told = [pressure for pressure in asked if pressure is not None]
        return max(told, key=lambda pressure: (pressure.waiting, pressure.running), default=None)


def _is_open(state: QueueState) -> bool:
    return state.circuit.state is CircuitState.OPEN


def _adapts(state: QueueState) -> bool:
    return state.policy.adaptive and not state.held
