from __future__ import annotations

import pytest

from domain.usecases.report import Readiness, Report
from tests.fakes import FragileStore, RecordingTickets


@pytest.mark.parametrize("storage", [True, False])
@pytest.mark.parametrize("broker", [True, False])
async def test_readiness_tells_what_answers(
    store: FragileStore, tickets: RecordingTickets, storage: bool, broker: bool
):
    store.away, tickets.up = not storage, broker
    assert await Report(store, tickets).readiness() == Readiness(storage=storage, broker=broker)
