"""A GPU queue as it stands: held or not, how many of its slots are busy, and what limits them."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from domain.adaptive import Adapted
from domain.circuit import Circuit, CircuitState
from domain.policy import QueuePolicy


class Hold(StrEnum):
    """Why nothing of a queue starts, whatever is free."""

    PAUSED = "paused"
    CIRCUIT = "circuit"


class QueueState(Struct, frozen=True):
    name: str
    paused: bool = False
    stopped: bool = False
    """A second flag with the same effect, for operators who start and stop."""
    policy: QueuePolicy = QueuePolicy()
    adapted: Adapted | None = None
    """What the model server was found to take; None while nothing adapts to it."""
    busy: int = 0
    """Slots that are taken: by running jobs, and by calls that are still being closed."""
    circuit: Circuit = Circuit()

    @property
    def held(self) -> Hold | None:
        if self.paused or self.stopped:
            return Hold.PAUSED
        return None if self.circuit.state is CircuitState.CLOSED else Hold.CIRCUIT

    @property
    def limit(self) -> int | None:
        """Slots that may be busy at once now; None: as many as its workers have."""
        adapted = self.adapted.slots if self.adapted else None
        limits = [limit for limit in (self.policy.concurrency, adapted) if limit is not None]
        return min(limits, default=None)
