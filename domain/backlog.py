"""How much work waits for a queue's slots, in seconds: what its pool of workers is scaled by."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from domain.ports import Pace

USUAL_RUN = 10.0
"""Seconds that a run counts of a queue of which no run has been seen: enough to wake a pool that has no worker."""

SHORTEST_RUN = 0.001
"""Seconds that a run counts at least: nothing but an empty queue has no backlog."""

Kind = tuple[str, str]
"""A task type and a model profile: what decides most about how long a run takes."""


def backlog_seconds(jobs: Mapping[Kind, int], paces: Collection[Pace]) -> float:
    """Seconds of slot time that these jobs will take. 0 only where there are none.

    Args:
        jobs: of one queue, due and running, by kind.
        paces: how long runs of the queue took lately. A kind of which none was seen takes as long as all others do on
            average, and `USUAL_RUN` where there was none at all.
    """
    seen = {(pace.task_type, pace.model_profile): pace.run_seconds for pace in paces}
    usual = _mean(paces)
    return sum(count * max(seen.get(kind, usual), SHORTEST_RUN) for kind, count in jobs.items())


def _mean(paces: Collection[Pace]) -> float:
    weighed = [(pace.runs, pace.run_seconds) for pace in paces]
    runs = sum(count for count, _ in weighed)
    return sum(count * seconds for count, seconds in weighed) / runs if runs else USUAL_RUN
