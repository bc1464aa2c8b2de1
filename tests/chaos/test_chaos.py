"""A short run of what `make chaos` does for half an hour."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.report import report
from tests.chaos.run import Plan, run
from tests.chaos.schedule import CARDS
from tests.servers.rabbitmq import Broker

PLAN = Plan(seed=5, seconds=75, jobs=2_000, faults=40)
assert len(CARDS) <= PLAN.faults  # so that every kind comes


@pytest.fixture
def quick_threads() -> Iterator[None]:
    """The doors, the provider and the callers are threads that wait for one another."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


@pytest.mark.timeout(900)
def test_nothing_is_lost_nor_doubled_nor_left_behind_while_everything_fails(
    tmp_path: Path, own_rabbitmq: Broker, quick_threads: None, record_property: Callable[[str, object], None]
) -> None:
    outcome = run(PLAN, tmp_path, own_rabbitmq)
    text = report(outcome)
    print(text)
    record_property("report", text)
    assert outcome.violations == []
    assert len(outcome.history.jobs) > 0.9 * PLAN.jobs
    assert len(outcome.faults) + len(outcome.left_out) == PLAN.faults
