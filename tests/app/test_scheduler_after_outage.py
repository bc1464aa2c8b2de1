from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.scheduler import STEADY, Scheduler
from domain.policy import Policies
from domain.queue import QueueState
from domain.usecases.reconcile import Reconciled

A_MOMENT = timedelta(microseconds=1)


@dataclass
class Rounds:
    rescuing: list[bool] = field(default_factory=list)

    async def round(self, policies: Policies, *, rescue: bool) -> Reconciled:
        self.rescuing.append(rescue)
        return Reconciled()

    async def tidy(self) -> None:
        pass


class Nothing:
    """A use case that has nothing to do."""

    async def wanting(self) -> list[QueueState]:
        return []

    async def put_in_force(self, policies: Policies) -> None:
        pass


@dataclass
class Lead:
    led_for: timedelta

    async def lead(self, holder: UUID, lasts: timedelta) -> timedelta:
        return self.led_for

    async def resign(self, holder: UUID) -> None:
        pass


@pytest.mark.parametrize(
    ("led_for", "rescues"), [(timedelta(0), False), (STEADY - A_MOMENT, False), (STEADY, True), (2 * STEADY, True)]
)
async def test_workers_may_renew_their_leases_after_a_gap_before_anybody_is_rescued(
    led_for: timedelta, rescues: bool
) -> None:
    rounds = Rounds()
    reconcile: Any = rounds
    nothing: Any = Nothing()
    await Scheduler(reconcile, nothing, Policies, Lead(led_for)).tick_safely()
    assert rounds.rescuing == [rescues]
