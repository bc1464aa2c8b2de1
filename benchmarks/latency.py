"""W2: how soon an idle system starts a job: 300 jobs, one every 20 ms.

The delay counts from the moment when the submission was answered to the moment when the job's handler begins; a handler
that began before the answer counts as no delay. How long the submission took is a figure of its own, because the
contestants promise different things with their answer: ours and those that keep jobs in PostgreSQL have committed
them, bare Dramatiq has written to a socket. What one commit of one row takes is measured at the same pace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

import asyncpg
from msgspec import Struct

from benchmarks.contestant import Contestant, Task, until, working
from benchmarks.drain import notes
from benchmarks.findings import Bar, Figure, Findings, quantile
from benchmarks.ours import Ours
from benchmarks.peers.bare_dramatiq import BareDramatiq
from benchmarks.peers.everyone import peers
from benchmarks.place import Place, tell
from benchmarks.record import entries
from benchmarks.together import Together

TITLE = "One job every 20 ms on an idle system: from the answer to the start of its handler"
JOBS, WARM_UP, EVERY = 300, 20, 0.02
SLOTS = 8
PATIENCE = 60.0

COMMIT = "one PostgreSQL commit"
DELAYS, SUBMISSIONS = "delay", "submission"


class Measured(Struct, frozen=True):
    """Milliseconds, of each job."""

    delays: list[float]
    submissions: list[float]


def run(place: Place, rounds: int) -> Findings:
    contestants: list[Contestant] = [Ours(place), Together(place), *peers(place)]
    measured: dict[tuple[str, str], list[list[float]]] = {}
    for turn in range(rounds):
        for contestant in contestants:
            tell(f"W2 round {turn + 1} of {rounds}: {contestant.name}")
            found = measure(place, contestant, JOBS, every=EVERY)
            measured.setdefault((contestant.name, DELAYS), []).append(found.delays)
            measured.setdefault((contestant.name, SUBMISSIONS), []).append(found.submissions)
        commits = asyncio.run(_commits(place.database("commits"), JOBS, EVERY))
        measured.setdefault((COMMIT, DELAYS), []).append(commits)
    figures = [
        Figure(name, f"{what} p{round(share * 100)}", "ms", tuple(quantile(each, share) for each in values))
        for (name, what), values in measured.items()
        for share in (0.5, 0.99)
    ]
    return Findings(tuple(figures), tuple(bars(figures)), notes(contestants))


def bars(figures: Sequence[Figure]) -> list[Bar]:
    found = {(figure.contestant, figure.measure): figure.median for figure in figures}
    return [
        Bar(
            f"ours, {share}: at most 2x bare Dramatiq and one commit",
            found["ours", f"{DELAYS} {share}"],
            2 * found[BareDramatiq.name, f"{DELAYS} {share}"] + found[COMMIT, f"{DELAYS} {share}"],
            unit="ms",
            at_most=True,
        )
        for share in ("p50", "p99")
    ]


def measure(place: Place, contestant: Contestant, jobs: int, *, every: float) -> Measured:
    """
    Args:
        every: seconds from one submission to the next.
    """
    file = place.folder / "latency"
    file.unlink(missing_ok=True)
    contestant.empty()
    with working(contestant, Task("nothing"), SLOTS, file) as worker, contestant.submitter() as send:
        for number in range(WARM_UP):
            send(number)
        until(file, WARM_UP, within=PATIENCE, worker=worker)
        numbers = range(WARM_UP, WARM_UP + jobs)
        sent = {number: send(number) for number in paced(numbers, every)}
        until(file, WARM_UP + jobs, within=PATIENCE, worker=worker)
    began = {each.number: each.began for each in entries(file)}
    return Measured(
        delays=[max(0.0, began[number] - sent[number].answered) * 1000 for number in numbers],
        submissions=[(each.answered - each.asked) * 1000 for each in sent.values()],
    )


def paced(numbers: Iterable[int], every: float) -> Iterable[int]:
    """These, one after another, at their times."""
    begin = time.monotonic()
    for place, number in enumerate(numbers):
        time.sleep(max(0.0, begin + place * every - time.monotonic()))
        yield number


async def _commits(dsn: str, count: int, every: float) -> list[float]:
    """Milliseconds of each."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS commits (number integer PRIMARY KEY)")
        await connection.execute("TRUNCATE commits")
        taken = []
        for number in range(count):
            await asyncio.sleep(every)
            began = time.perf_counter()
            await connection.execute("INSERT INTO commits VALUES ($1)", number)
            taken.append((time.perf_counter() - began) * 1000)
        return taken
    finally:
        await connection.close()
