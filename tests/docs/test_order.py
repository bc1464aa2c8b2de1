"""The page on order says what the rule does: its example is simulated, its settings are those of the policies."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from domain.job import Priority
from domain.policy import OwnerPolicy, QueuePolicy, TaskPolicy
from domain.simulation import Arrival, Rules, Run, simulate
from tests.docs.test_documents import blocks

PAGE = "docs/order.md"
ROOT = Path(__file__).parents[2]

ARRIVALS = [
    *(Arrival(0.0, "telephony", 10.0) for _ in range(4)),
    *(Arrival(5.0, "search", 10.0) for _ in range(4)),
    Arrival(32.0, "shop", 10.0, Priority.HIGH),
]
WEIGHTS = {"search": 2.0}


def worked_example() -> str:
    runs = simulate(ARRIVALS, Rules(slots=1, weights=WEIGHTS))
    head = ["| second | starts | priority | had waited | its owner stood at |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(row(run) for run in runs)])


def row(run: Run) -> str:
    number = 1 + run.job - [arrival.owner for arrival in ARRIVALS].index(run.owner)
    priority = Priority(run.level).name.lower()
    return f"| {run.started:g} | {run.owner} {number} | {priority} | {run.waited:g} s | {run.vtime:g} |"


def test_the_worked_example_is_what_the_simulator_says():
    assert worked_example() in (ROOT / PAGE).read_text()


@pytest.mark.parametrize("snippet", blocks(PAGE, "toml"))
def test_the_settings_of_the_page_exist(snippet: str):
    known = {"queues": QueuePolicy, "owners": OwnerPolicy, "task_types": TaskPolicy}
    for part, entries in tomllib.loads(snippet).items():
        for fields in entries.values():
            assert set(fields) <= set(known[part].__struct_fields__)


def test_the_page_has_settings_and_the_picture_that_it_shows():
    assert blocks(PAGE, "toml")
    assert "(images/order.svg)" in (ROOT / PAGE).read_text()
    assert (ROOT / "docs/images/order.svg").is_file()
