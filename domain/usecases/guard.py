"""Guard queues from sick model servers: hear what runs tell of them, and ask them how they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.circuit import TELLING, Circuit, CircuitState, Report, Sign, sign_of
from domain.errors import Failure
from domain.job import LeasedJob
from domain.ports import Health, QueueStore


@dataclass(frozen=True)
class Guard:
    queues: QueueStore
    health: Health
    threshold: int
    """Consecutive runs that find nobody there, after which the circuit opens."""

    async def heard(self, queue: str, reports: Sequence[Report]) -> None:
        """Judge the ends of runs of a queue, in their order. Costs nothing where all went well."""
        if not any(report.trial or report.sign in TELLING for report in reports):
            return
        answered = await self._answered_meanwhile(queue)

        def change(circuit: Circuit, now: datetime) -> Circuit:
            if answered and circuit.state is CircuitState.CLOSED and circuit.missed_at == answered:
                circuit = Circuit()
            for report in reports:
                circuit = circuit.heard(report, self.threshold, now)
            return circuit

        await self.queues.change_circuit(queue, change)

    async def sign(self, job: LeasedJob, failure: Failure) -> Sign:
        """What a run that ended so shows of its server, whose health address answers.

        A server that tells that it is at work is not sick: what it turns away meanwhile is more than it can take. Asked
        before `heard`, and by the run itself: it may take as long as a server takes to answer.
        """
        sign = sign_of(failure, healthy=True)
        if sign is not Sign.MISSED or job.trial:
            return sign
        refused = await self._is_at_work(job.model_profile) or await self._feels_its_way(job.queue)
        return Sign.NONE if refused else sign

    async def _is_at_work(self, model_profile: str) -> bool:
        pressure = await self.health.pressure(model_profile)
        return pressure is not None and pressure.running > 0

    async def _feels_its_way(self, queue: str | None) -> bool:
        """Whether an adaptive queue has other calls open: it learns what its server takes by being turned away.

        Where the server takes nothing at all its limit falls to one call, and then each miss counts.
        """
        states = [state for state in await self.queues.states() if state.name == queue]
        return any(state.policy.adaptive and state.busy > 1 for state in states)

    async def probe(self, queue: str) -> bool:
        """Ask the sick server's health address, if it is time. Returns whether a job may now be tried."""
        asked: list[Circuit] = []

        def look(circuit: Circuit, now: datetime) -> Circuit:
            if circuit.to_be_probed(now):
                asked.append(circuit)
            return circuit

        await self.queues.change_circuit(queue, look)
        if not asked:
            return False
        healthy = await self.health.answers(asked[0].model_profile or "")
        after = await self.queues.change_circuit(queue, lambda circuit, now: circuit.probed(now, healthy=healthy))
        return after.state is CircuitState.HALF_OPEN

    async def _answered_meanwhile(self, queue: str) -> datetime | None:
        """When the first of the misses was that some run has completed since; None where none has."""
        since = next((state.circuit.missed_at for state in await self.queues.states() if state.name == queue), None)
        if since is None or not await self.queues.completed_since(queue, since):
            return None
        return since
