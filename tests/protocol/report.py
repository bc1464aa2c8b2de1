"""The configurations in which the protocol is explored, and what is found there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from domain.job import RunOutcome
from tests.protocol.explorer import Exploration, cut_off_from, explore, fair_circle
from tests.protocol.model import (
    CUT,
    DIES,
    EXCUSES,
    FINAL,
    LOCK_LOST,
    MISTAKEN,
    REVOKED,
    RUNS,
    STOPPED,
    STOPS,
    TIDIED,
    WHIMS,
    WOKEN,
    LeaseProtocol,
    State,
    excuse_of,
)

COMPLETES = (RunOutcome.COMPLETED,)
COMPLETES_OR_FAILS = (RunOutcome.COMPLETED, RunOutcome.FAILED)

QUICK = {
    "every ending, one retry or preemption, no fault": LeaseProtocol(faults=0, hands=1),
    "two slots, two retries or preemptions, no fault": LeaseProtocol(limit=2, faults=0, hands=2, endings=COMPLETES),
    "one fault of any kind": LeaseProtocol(faults=1, hands=0, endings=COMPLETES_OR_FAILS),
    "two deaths, stops or lost locks": LeaseProtocol(
        faults=2, hands=0, endings=COMPLETES, kinds=frozenset({DIES, STOPS, LOCK_LOST})
    ),
    "two slots, a stop, one retry or preemption": LeaseProtocol(
        limit=2, faults=1, hands=1, endings=COMPLETES, kinds=frozenset({STOPS})
    ),
}
"""Explored by the tests."""

THOROUGH = {
    "one fault of any kind, one retry or preemption": LeaseProtocol(endings=COMPLETES),
    "two slots, one fault of any kind, one retry or preemption": LeaseProtocol(limit=2, endings=COMPLETES),
    "two faults of any kind": LeaseProtocol(faults=2, hands=0, endings=COMPLETES),
}
"""These take a minute or two."""


@dataclass(frozen=True)
class Findings:
    exploration: Exploration[State]
    overlaps: Counter[str]
    """States in which both workers believe that they run the job, by what excuses the one that is mistaken."""
    stuck: int
    """States from which the job cannot end without more faults."""
    endless: int
    """States between which it can go on for ever although the schedule is fair, without more faults."""


def findings(protocol: LeaseProtocol) -> Findings:
    exploration = explore(protocol)
    if exploration.counterexample:
        return Findings(exploration, Counter(), 0, 0)
    edges = [[edge for edge in leads if edge[0] not in WHIMS] for leads in exploration.edges]
    final = {place for place, state in enumerate(exploration.states) if state.store.job.status in FINAL}
    return Findings(
        exploration,
        Counter(filter(None, map(overlap, exploration.states))),
        len(cut_off_from(edges, final)),
        len(fair_circle(edges, set(range(len(edges))) - final)),
    )


ORDER = (STOPPED, CUT, WOKEN, TIDIED, MISTAKEN, REVOKED)
"""The excuse that explains most is named first."""


def overlap(state: State) -> str | None:
    """What excuses that both workers believe to run the job, where they do."""
    if any(worker.phase != RUNS for worker in state.workers):
        return None
    excuses = [excuse_of(worker, state.store.job) for worker in state.workers]
    return next(EXCUSES[excuse] for excuse in ORDER if excuse in excuses)


def lines(protocols: dict[str, LeaseProtocol]) -> Iterator[str]:
    overlaps: Counter[str] = Counter()
    yield f"{'states':>9} {'steps':>9} {'depth':>5} {'s':>6}  configuration"
    for name, protocol in protocols.items():
        found = findings(protocol)
        explored = found.exploration
        figures = f"{len(explored.states):9,} {explored.transitions:9,} {explored.depth:5}"
        yield f"{figures} {explored.seconds:6.1f}  {name}"
        if explored.counterexample:
            yield str(explored.counterexample)
        if found.stuck or found.endless:
            yield f"{found.stuck} states without an end, {found.endless} that may follow one another for ever"
        overlaps += found.overlaps
    yield ""
    yield "Both workers believe that they run the job:"
    yield from (f"{number:9,}  {excuse}" for excuse, number in overlaps.most_common())
