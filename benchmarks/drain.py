"""W1: how fast one worker process with 64 slots drains 20,000 jobs that do nothing.

The jobs lie ready before the worker starts. The rate counts from the 200th to the last end. What needs most of a minute
for so many gets fewer of them. The limits are what the same servers do where there is no queue around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import limits, record
from benchmarks.contestant import Contestant, Task, until, working
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.ours import Ours
from benchmarks.peers.everyone import peers
from benchmarks.place import Place, tell

TITLE = "Drain 20,000 jobs that do nothing, one process, 64 slots"
SLOTS, JOBS, WARM_UP = 64, 20_000, 200
PATIENCE = 300.0

SLOW = {"Celery": 3_000, "Procrastinate": 3_000}
"""Jobs of those that would take most of the time."""

BARS = [("ours", "bare Dramatiq", 2.0), ("ours", "Celery", 10.0), ("ours, embedded", "PGQueuer", 0.5)]

LIMITS: dict[str, Callable[[Place, int], float]] = {
    "limit: PostgreSQL": limits.claim_and_end,
    "limit: RabbitMQ": limits.consume_and_acknowledge,
}


def run(place: Place, rounds: int) -> Findings:
    contestants: list[Contestant] = [Ours(place), Ours(place, embedded=True), *peers(place)]
    rates: dict[str, list[float]] = {name: [] for name in [*(each.name for each in contestants), *LIMITS]}
    for turn in range(rounds):
        for contestant in contestants:
            tell(f"W1 round {turn + 1} of {rounds}: {contestant.name}")
            jobs = SLOW.get(contestant.name, JOBS)
            rates[contestant.name].append(drained(place, contestant, jobs, SLOTS))
        for name, limit in LIMITS.items():
            tell(f"W1 round {turn + 1} of {rounds}: {name}")
            rates[name].append(limit(place, JOBS))
    figures = [Figure(name, "drained", "jobs/s", tuple(values)) for name, values in rates.items()]
    return Findings(tuple(figures), tuple(bars(figures)), notes(contestants))


def bars(figures: Sequence[Figure]) -> list[Bar]:
    rate = {figure.contestant: figure.median for figure in figures}
    return [
        Bar(f"{ours} / {peer}", rate[ours] / rate[peer], goal, measure="drained", against=peer)
        for ours, peer, goal in BARS
    ]


def drained(place: Place, contestant: Contestant, jobs: int, slots: int) -> float:
    """Jobs per second."""
    file = place.folder / "drain"
    file.unlink(missing_ok=True)
    contestant.empty()
    contestant.fill(jobs)
    with working(contestant, Task("nothing"), slots, file) as worker:
        until(file, jobs, within=PATIENCE, worker=worker)
    stored = contestant.stored()
    if stored not in {None, jobs}:
        raise SystemExit(f"{contestant.name} stored {stored} results of {jobs} jobs.")
    return rate(file, jobs)


def rate(file: Path, jobs: int) -> float:
    """Ends per second after the warm-up."""
    ends = [each.ended for each in record.entries(file)]
    return (jobs - WARM_UP) / (ends[jobs - 1] - ends[WARM_UP - 1])


def notes(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    fewer = " and ".join(f"{name} {jobs:,}" for name, jobs in SLOW.items())
    return (
        *(f"{each.name}: {each.settings}; keeps {each.keeps}" for each in contestants),
        f"Every round drains {JOBS:,} jobs, of {fewer}.",
        f"limit: PostgreSQL: asyncpg, one connection, {limits.BATCH} jobs claimed by one UPDATE and ended by another",
        f"limit: RabbitMQ: pika, one consumer, durable queue, prefetch {limits.PREFETCH}, each message acknowledged",
    )
