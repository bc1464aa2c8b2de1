"""Adaptive concurrency: find out how many calls a model server takes at once, and keep to it.

Additive increase, multiplicative decrease (D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", 1989), with a memory of what was too much, so that the limit comes to rest
just below it (L. Xu, K. Harfoush, I. Rhee, "Binary Increase Congestion Control for Fast Long-Distance Networks", 2004).
A server that tells of its own queue is believed: what stands in it does not make it faster.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import ErrorCode

START = 4
"""Calls at once to begin with, where no more run already."""
GROWTH = 1.25
"""Steps before anything was too much: small enough that a server's waiting room takes what is over."""
DECREASE = 0.8
"""What is left of a limit that was refused."""
STEEPEST_DECREASE = 0.5
"""What is left at least, whatever a server tells at one moment."""
TOLERANCE = 0.1
"""The part of what runs that may wait: new calls wait for a moment in any server."""
PROBE_WAIT = timedelta(seconds=10)
"""How long a limit rests before one more is tried; half as long after each that is taken."""
LONGEST_PROBE_WAIT = timedelta(minutes=5)
"""The wait doubles up to this while one more is refused: each time costs some jobs a run."""
SHORTEST_PROBE_WAIT = timedelta(milliseconds=100)
"""Below it so many more were taken that what was too much once is forgotten."""


OVERLOADS = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.TIMEOUT})
"""Codes of runs that a server may have had too much of."""


class Workload(Struct, frozen=True):
    """How the runs of a queue ended within a time, and how it stands now."""

    completed: int
    overloads: int
    """Runs that ended with one of `OVERLOADS`."""
    busy: int
    due: int
    slots: int
    """Of its live workers."""

    @property
    def ended(self) -> int:
        return self.completed + self.overloads


class Pressure(Struct, frozen=True):
    """What a model server tells of its own load."""

    running: float
    """Requests that it works on."""
    waiting: float
    """Requests that it has taken in and not begun."""


class Adapted(Struct, frozen=True):
    """The limit that was found so far, and what is needed to go on from it."""

    limit: int
    """Calls at once."""
    ceiling: int | None = None
    """More was too much: the limit grows up to here, and then feels its way. None: nothing was too much lately."""
    changed_at: datetime | None = None
    """When the limit was changed last."""
    lowered_at: datetime | None = None
    probe_wait: timedelta = PROBE_WAIT
    unsettled: int = 0
    """Runs that were open when the limit was lowered last, and may be so still: their end tells nothing of it."""
    unproven: int = 0
    """Runs that are still to end before the limit counts as borne by a server that tells nothing of itself."""
    waiting: float = 0.0
    """What waited in the server at the last look."""

    @property
    def slots(self) -> int:
        """Jobs that may run at once."""
        return max(1, self.limit)


def adapt(adapted: Adapted | None, workload: Workload, pressure: Pressure | None, bound: int, now: datetime) -> Adapted:
    """What becomes of the limit; to be asked about once a second while the queue is not held.

    Args:
        adapted: what came of the last time; None: nothing is known yet.
        workload: the runs that ended since then.
        pressure: what the server tells at this moment; None where it tells nothing.
        bound: the limit never exceeds it, and is never less than 1.
    """
    if adapted is None:
        limit = _within(max(START, _runs_well(workload, pressure)), bound)
        return Adapted(limit=limit, changed_at=now, unproven=limit)
    waiting = pressure.waiting if pressure else 0.0
    stood = min(adapted.waiting, waiting)
    # Those that were open when the limit was lowered may have been refused because of what it was before.
    overloaded = workload.overloads > adapted.unsettled
    limit = _within(adapted.limit, bound)
    adapted = replace(
        adapted,
        limit=limit,
        ceiling=adapted.limit if adapted.ceiling is None and limit < adapted.limit else adapted.ceiling,
        unsettled=max(0, adapted.unsettled - workload.ended) if workload.busy else 0,
        unproven=max(0, adapted.unproven - workload.ended),
        waiting=waiting,
    )
    if overloaded:
        return _refused(adapted, workload, pressure, now)
    if pressure and _queued(stood, pressure) and workload.busy >= adapted.slots / 2:
        return _made_wait(adapted, workload, pressure, stood, now)
    if _holds_back(adapted, workload, bound) and _borne(adapted, pressure):
        return _raised(adapted, pressure, bound, now)
    return adapted


def _runs_well(workload: Workload, pressure: Pressure | None) -> int:
    """How many run already without being too many, where the limit was not looked after before."""
    if workload.overloads:
        return 0
    return int(workload.busy * (_share(pressure) if pressure else 1))


def _refused(adapted: Adapted, workload: Workload, pressure: Pressure | None, now: datetime) -> Adapted:
    """Calls were refused or timed out: multiplicative decrease."""
    limit = max(1, int(adapted.slots * DECREASE))
    ceiling = max(limit, adapted.slots - 1)
    if pressure and _queued(pressure.waiting, pressure):
        taken = _taken(adapted, workload, pressure, pressure.waiting)
        limit, ceiling = min(limit, taken), min(ceiling, taken)
    one_too_many = adapted.limit == adapted.ceiling and adapted.changed_at != adapted.lowered_at
    # Four times, since the attempt has halved it: the next one comes after twice as long as this one.
    wait = min(adapted.probe_wait * 4, LONGEST_PROBE_WAIT) if one_too_many else PROBE_WAIT
    return _lowered(replace(adapted, limit=limit, ceiling=ceiling, probe_wait=wait), workload, now)


def _made_wait(adapted: Adapted, workload: Workload, pressure: Pressure, stood: float, now: datetime) -> Adapted:
    """Calls stand in the server's own queue: down to what it works on at once."""
    limit = _taken(adapted, workload, pressure, stood)
    if limit >= adapted.limit:
        return adapted
    return _lowered(replace(adapted, limit=limit, ceiling=limit, probe_wait=PROBE_WAIT), workload, now)


def _taken(adapted: Adapted, workload: Workload, pressure: Pressure, waiting: float) -> int:
    """How many of our calls the server works on at once.

    Two estimates, of which the higher counts: our open calls may not have sunk to an earlier limit yet, and a look at
    them and one at the server are not of the same moment.
    """
    least = math.ceil(adapted.slots * STEEPEST_DECREASE)
    return max(1, least, int(workload.busy * _share(pressure)), adapted.slots - math.ceil(waiting))


def _lowered(adapted: Adapted, workload: Workload, now: datetime) -> Adapted:
    return replace(adapted, changed_at=now, lowered_at=now, unsettled=workload.busy, unproven=adapted.limit)


def _raised(adapted: Adapted, pressure: Pressure | None, bound: int, now: datetime) -> Adapted:
    """Additive increase; in larger steps while far from what was too much."""
    limit, ceiling, wait = adapted.limit, adapted.ceiling, adapted.probe_wait
    some_wait = bool(pressure and pressure.waiting)
    if ceiling is None:
        raised = limit + 1 if some_wait else max(limit + 1, int(limit * GROWTH))
    elif limit < ceiling:
        raised = limit + max(1, (ceiling - limit) // 2)
    elif adapted.changed_at is None or now - adapted.changed_at >= wait:
        raised = ceiling = limit + 1
        wait = wait if some_wait else wait / 2
    else:
        return adapted
    if wait < SHORTEST_PROBE_WAIT:
        ceiling, wait = None, PROBE_WAIT
    raised = _within(raised, bound)
    return replace(adapted, limit=raised, ceiling=ceiling, probe_wait=wait, changed_at=now, unproven=raised)


def _holds_back(adapted: Adapted, workload: Workload, bound: int) -> bool:
    """Whether more would run if the limit were higher. Slots that are just changing hands count as busy."""
    if workload.overloads or adapted.limit >= bound:
        return False
    return workload.due > 0 and workload.busy > 0 and workload.busy >= adapted.slots * (1 - TOLERANCE)


def _borne(adapted: Adapted, pressure: Pressure | None) -> bool:
    """Whether the server has shown that it takes the limit: by what it tells, else by a round of runs."""
    if pressure:
        return not _queued(pressure.waiting, pressure)
    return not adapted.unsettled and not adapted.unproven


def _share(pressure: Pressure) -> float:
    """The part of what a server has taken in that it works on."""
    return pressure.running / (pressure.running + pressure.waiting) if pressure.waiting else 1


def _queued(waiting: float, pressure: Pressure) -> bool:
    return waiting > pressure.running * TOLERANCE


def _within(limit: int, bound: int) -> int:
    return max(1, min(limit, bound))
