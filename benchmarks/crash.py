"""W4: 200 jobs of one second on 20 slots; the worker is killed when half are done, and a new one started at once.

The time counts from the kill to the moment when every job has been done once; 100 jobs on 20 slots take five seconds
and no less. Ours has what a production has beside workers: a scheduler, which has led for as long as it must before it
believes that a silent worker is dead. Without a broker nothing tells that a worker's connections are gone. Whether any
job has a second result or a second completed run is read in PostgreSQL afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from benchmarks import record
from benchmarks.contestant import Contestant, Task, until, working
from benchmarks.drain import notes
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.ours import Ours
from benchmarks.peers.everyone import peers
from benchmarks.place import Place, tell

TITLE = "Kill -9 in the middle of 200 jobs of 1 s on 20 slots, a new worker at once"
JOBS, SLOTS, SERVICE_TIME = 200, 20, 1.0
STEADY = 17.0
"""Seconds after which a scheduler that was started is sure of what it sees."""

PATIENCE = 60.0
"""Seconds for which a contestant is waited for after the kill."""

TWICE = (
    "SELECT count(*) FROM (SELECT FROM runs WHERE outcome = 'completed' GROUP BY job_id HAVING count(*) > 1) AS again"
)
UNDONE = "SELECT count(*) FROM jobs LEFT JOIN job_results ON job_id = id WHERE status <> 'completed' OR result IS NULL"


def run(place: Place, rounds: int) -> Findings:
    contestants: list[Contestant] = [Ours(place), Ours(place, embedded=True), *peers(place)]
    times: dict[str, list[float]] = {each.name: [] for each in contestants}
    twice: list[float] = []
    for turn in range(rounds):
        for contestant in contestants:
            if PATIENCE in times[contestant.name]:
                continue  # once is enough
            tell(f"W4 round {turn + 1} of {rounds}: {contestant.name}")
            times[contestant.name].append(recovered(place, contestant, jobs=JOBS, slots=SLOTS, seconds=SERVICE_TIME))
            if isinstance(contestant, Ours):
                twice.append(second_outcomes(place, contestant))
    figures = [Figure(name, "all done after", "s", tuple(values)) for name, values in times.items()]
    slow = [
        f"{figure.contestant} had not done all after {PATIENCE:g} s" for figure in figures if PATIENCE in figure.values
    ]
    return Findings(tuple(figures), tuple(_bars(figures, twice)), (*notes(contestants), *slow))


def _bars(figures: Sequence[Figure], twice: Sequence[float]) -> list[Bar]:
    seconds = {figure.contestant: figure.median for figure in figures}
    return [
        Bar("ours: from the kill until all are done", seconds["ours"], 8.0, unit="s", at_most=True),
        Bar("ours: second results", max(twice), 0.0, unit="", at_most=True),
    ]


def recovered(place: Place, contestant: Contestant, *, jobs: int, slots: int, seconds: float) -> float:
    """Seconds from the kill until every job has been done, `PATIENCE` at most."""
    file = place.folder / "crash"
    file.unlink(missing_ok=True)
    contestant.empty()
    task = Task("wait", seconds=seconds)
    with production(contestant):
        contestant.fill(jobs)
        with working(contestant, task, slots, file) as worker:
            until(file, jobs // 2, within=PATIENCE, worker=worker)
            worker.kill()
            killed = time.time()
        with working(contestant, task, slots, file):
            while (done := _first_ends(file)) and len(done) < jobs:
                if time.time() - killed > PATIENCE:
                    return PATIENCE
                time.sleep(0.02)
    return max(done.values()) - killed


def _first_ends(file: Path) -> dict[int, float]:
    return {each.number: each.ended for each in reversed(record.entries(file))}


def second_outcomes(place: Place, ours: Ours) -> float:
    """How many jobs completed twice.

    Raises:
        SystemExit: not every job has its result.
    """
    [[undone]] = place.fetch(ours.dsn, UNDONE)
    if undone:
        raise SystemExit(f"{ours.name}: {undone} jobs are not completed, or have no result.")
    [[twice]] = place.fetch(ours.dsn, TWICE)
    return float(twice)


def production(contestant: Contestant) -> AbstractContextManager[None]:
    """What must run beside its workers."""
    return _scheduler(contestant) if isinstance(contestant, Ours) else nullcontext()


@contextmanager
def _scheduler(ours: Ours) -> Iterator[None]:
    command = [str(Path(sys.executable).with_name("ai-service")), "scheduler"]
    with subprocess.Popen(command, env={**os.environ, **ours.environment(), "SCHEDULER_HTTP_PORT": "0"}) as scheduler:
        time.sleep(STEADY)
        try:
            yield
        finally:
            scheduler.terminate()
