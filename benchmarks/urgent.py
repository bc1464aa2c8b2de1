"""W5: how soon a high job starts behind 5,000 low ones of 20 ms on 4 slots, over 200 tries on one standing backlog.

The wait counts from the moment when the submission was answered to the moment when the job's handler begins. The limit
is what a job must wait for anyway: until the first of four runs ends, which takes one service time at most. Peers get
fewer tries; each uses the priorities that it has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.contestant import Contestant, Send, Task, Worker, until, working
from benchmarks.drain import notes
from benchmarks.findings import Bar, Figure, Findings, quantile
from benchmarks.ours import Ours
from benchmarks.peers.everyone import peers
from benchmarks.place import Place, tell
from benchmarks.together import Together
from domain.job import Priority

TITLE = "A high job behind 5,000 low ones of 20 ms on 4 slots"
SLOTS, SERVICE_TIME, BACKLOG = 4, 0.02, 5_000
TRIES, TRIES_OF_PEERS = 200, 50
GRACE = 20.0
"""Milliseconds on top of one service time."""

LEAST_BACKLOG = 0.2
"""Of what it was."""

UNDER_WAY = 100
"""Runs that have ended before the first try."""

FIRST_URGENT = 1_000_000
"""The number of the first urgent job."""

PATIENCE = 60.0


def run(place: Place, rounds: int) -> Findings:
    ours: list[Contestant] = [Ours(place, backlog=Priority.LOW), Together(place, backlog=Priority.LOW)]
    others = peers(place, priorities=True)
    found: dict[str, list[list[float]]] = {each.name: [] for each in [*ours, *others]}
    for turn in range(rounds):
        for contestant in [*ours, *others]:
            tell(f"W5 round {turn + 1} of {rounds}: {contestant.name}")
            tries = TRIES if contestant in ours else TRIES_OF_PEERS
            found[contestant.name].append(waits(place, contestant, backlog=BACKLOG, tries=tries, seconds=SERVICE_TIME))
    figures = [
        Figure(name, f"wait p{round(share * 100)}", "ms", tuple(quantile(each, share) for each in values))
        for name, values in found.items()
        for share in (0.5, 0.99)
    ]
    aim = f"one service time, {SERVICE_TIME * 1000:g} ms, is the aim; peers had {TRIES_OF_PEERS} tries, ours {TRIES}"
    return Findings(tuple(figures), tuple(_bars(figures, ours)), (*notes([*ours, *others]), aim))


def _bars(figures: Sequence[Figure], ours: Sequence[Contestant]) -> list[Bar]:
    return [
        Bar(f"{name}, p99 wait", figure.median, SERVICE_TIME * 1000 + GRACE, unit="ms", at_most=True)
        for name in [each.name for each in ours]
        for figure in figures
        if (figure.contestant, figure.measure) == (name, "wait p99")
    ]


def waits(place: Place, contestant: Contestant, *, backlog: int, tries: int, seconds: float) -> list[float]:
    """Milliseconds that each high job waited.

    Args:
        seconds: that each job takes.
    """
    file = place.folder / "urgent"
    file.unlink(missing_ok=True)
    contestant.empty()
    contestant.fill(backlog)
    with (
        working(contestant, Task("wait", seconds=seconds), SLOTS, file) as worker,
        contestant.submitter() as send,
    ):
        until(file, UNDER_WAY, within=PATIENCE, worker=worker)
        found: list[float] = []
        for number in range(FIRST_URGENT, FIRST_URGENT + tries):
            if backlog - record.count(file) < LEAST_BACKLOG * backlog:
                raise SystemExit(f"{contestant.name}: the backlog was nearly gone after {len(found)} tries.")
            found.append(_wait(send, number, file, worker))
            time.sleep(0.007 * (number % 5))  # so that tries do not fall in step with the runs
    return found


def _wait(send: Send, number: int, file: Path, worker: Worker) -> float:
    seen = record.count(file)
    sent = send(number, urgent=True)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and worker.popen.poll() is None:
        for entry in record.entries(file, after=seen):
            if entry.number == number:
                return max(0.0, entry.began - sent.answered) * 1000
        time.sleep(0.005)
    raise SystemExit(f"A high job did not run within {PATIENCE:g} s.")
