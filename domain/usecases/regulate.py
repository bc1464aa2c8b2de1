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

LONGEST_LOOK = timedelta(seconds=5)
"""How much of the past any look takes in: what was before a pause says nothing of now."""


@dataclass
class Regulate:
    queues: QueueStore
    guard: Guard
    routes: Routes
    wake: Wake
    clock: Callable[[], datetime]
    _looked_at: dict[str, datetime] = field(default_factory=dict)

    async def put_in_force(self, policies: Policies, *, only_new: bool = False) -> None:
        """Let every claim obey these policies.

        Args:
            only_new: leave alone what is there: whoever leads knows better.
        """
        await self.queues.configure(policies, self.routes.queues, only_new=only_new)

    async def round(self) -> None:
        """Ask the servers of open circuits how they are, and adapt the limits of queues that want it.

        It may take as long as a server takes to answer.
        """
        states = await self.queues.states()
        await asyncio.gather(*(self._regulate(state) for state in states))

    async def _regulate(self, state: QueueState) -> None:
        if state.circuit.state is CircuitState.OPEN:
            if await self.guard.probe(state.name):
                await self.wake.for_jobs({state.name: 1})
        elif state.policy.adaptive and not state.held:
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
        asked = [await self.guard.health.pressure(profile) for profile in self.routes.profiles_of(queue)]
        told = [pressure for pressure in asked if pressure is not None]
        return max(told, key=lambda pressure: (pressure.waiting, pressure.running), default=None)
