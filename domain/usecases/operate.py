"""Steer queues: hold and release them, close their circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from domain.circuit import Circuit
from domain.errors import QueueNotFound
from domain.ports import QueueStore
from domain.queue import QueueState
from domain.routing import Routes
from domain.usecases.wake import Wake


@dataclass(frozen=True)
class Operate:
    queues: QueueStore
    routes: Callable[[], Routes]
    """Those of this moment."""
    wake: Wake

    async def states(self) -> list[QueueState]:
        """Every queue, in the order of their names."""
        known = {state.name: state for state in await self.queues.states()}
        return [known.get(name) or QueueState(name) for name in sorted({*known, *self.routes().queues})]

    async def meant(self, queue: str | None) -> list[QueueState]:
        """This queue, or all of them (None).

        Raises:
            QueueNotFound.
        """
        states = await self.states()
        if queue is None:
            return states
        meant = [state for state in states if state.name == queue]
        if not meant:
            known = ", ".join(state.name for state in states)
            raise QueueNotFound(f"There is no queue '{queue}'; known: {known}." if known else None)
        return meant

    async def hold(
        self, queue: str | None, *, paused: bool | None = None, stopped: bool | None = None
    ) -> list[QueueState]:
        """Set or clear these flags of a queue, or of all (None). Running jobs finish, none starts.

        Returns:
            The queues that were meant, as they are now.

        Raises:
            QueueNotFound.
        """
        names = [state.name for state in await self.meant(queue)]
        await self.queues.hold(names, paused=paused, stopped=stopped)
        now = await self.meant(queue)
        await self._wake(now)
        return now

    async def close_circuit(self, queue: str) -> QueueState:
        """Let jobs of the queue start again, whatever its model server did; it opens anew if that fails.

        Raises:
            QueueNotFound.
        """
        await self.meant(queue)
        await self.queues.change_circuit(queue, lambda _circuit, _now: Circuit())
        [state] = await self.meant(queue)
        await self._wake([state])
        return state

    async def _wake(self, states: Sequence[QueueState]) -> None:
        await self.wake.top_up([state.name for state in states if not state.held])
