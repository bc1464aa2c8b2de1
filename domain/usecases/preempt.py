"""Let urgent jobs take the slots of low ones."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from domain.events import REVOKED
from domain.ports import Events, JobStore
from domain.telemetry import NO_TELEMETRY, Change, Telemetry
from domain.usecases.wake import DEAD_AFTER


@dataclass(frozen=True)
class Preempt:
    jobs: JobStore
    events: Events
    telemetry: Telemetry = NO_TELEMETRY

    async def make_room(self, queue: str) -> int:
        """Take slots from running low jobs for high ones that find none free, where the queue's policy allows it.

        Their workers are told at once; each slot is free when its call is closed, and its worker then takes the most
        urgent job. Returns how many slots were taken.
        """
        victims = await self.jobs.preempt(queue, DEAD_AFTER)
        self.telemetry.changed(Change.PREEMPTED, victims)
        self.events.publish([event for victim in victims for event in (victim, replace(victim, kind=REVOKED))])
        return len(victims)
