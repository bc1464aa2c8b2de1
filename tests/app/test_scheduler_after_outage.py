from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from app.scheduler import RENEWED_WITHIN, Scheduler
from domain.errors import StorageUnavailable
from domain.policy import Policies
from domain.queue import QueueState
from domain.usecases.reconcile import Reconciled


@dataclass
class Rounds:
    rescuing: list[bool] = field(default_factory=list)

    async def round(self, *, rescue: bool) -> Reconciled:
        self.rescuing.append(rescue)
        return Reconciled()


class Nothing:
    """A use case that has nothing to do."""

    async def wanting(self) -> list[QueueState]:
        return []

    async def put_in_force(self, policies: Policies) -> None:
        pass


@dataclass
class Lead:
    away: bool = False

    async def lead(self, holder: UUID, lasts: timedelta) -> bool:
        if self.away:
            raise StorageUnavailable
        return True

    async def resign(self, holder: UUID) -> None:
        pass


async def test_after_an_outage_workers_may_renew_their_leases_before_anybody_is_rescued() -> None:
    now, rounds, lead = 100.0, Rounds(), Lead()
    reconcile: Any = rounds
    nothing: Any = Nothing()
    scheduler = Scheduler(reconcile, nothing, Policies, lead, monotonic=lambda: now)
    now += RENEWED_WITHIN
    await scheduler.tick_safely()
    lead.away = True
    await scheduler.tick_safely()
    lead.away = False
    await scheduler.tick_safely()
    now += RENEWED_WITHIN
    await scheduler.tick_safely()
    assert rounds.rescuing == [True, False, True]


async def test_a_scheduler_that_comes_up_with_postgresql_lets_workers_renew_first_too() -> None:
    now, rounds = 100.0, Rounds()
    reconcile: Any = rounds
    nothing: Any = Nothing()
    scheduler = Scheduler(reconcile, nothing, Policies, Lead(), monotonic=lambda: now)
    await scheduler.tick_safely()
    now += RENEWED_WITHIN
    await scheduler.tick_safely()
    assert rounds.rescuing == [False, True]
