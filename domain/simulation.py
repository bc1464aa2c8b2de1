"""What the rule of order does to a line over time: arrivals go in, starts and ends come out, in virtual time.

For tests, and for the page that explains the rule. Nothing here waits, and the same arrivals always give the same runs.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from heapq import heapify, heappop, heappush
from math import ceil, inf
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from domain.job import Priority
from domain.order import Lane, Line, Pick, choose, correct

URGENCY_STEP = Priority.NORMAL - Priority.HIGH
"""From a level to the next more urgent one."""


class Arrival(Struct, frozen=True):
    """A job that becomes due.

    Arrivals are numbered as they are named, as jobs are when they are submitted: one that comes later than others that
    are named after it (a retry, or a job with a `run_at`) stands before them.
    """

    at: float
    """Seconds since the beginning."""
    owner: str
    duration: float
    """Seconds for which it takes a slot."""
    level: int = Priority.NORMAL
    completes: bool = True
    """Otherwise it fails: its time counts for its owner all the same."""


class Rules(Struct, frozen=True):
    """How a line is shared; the defaults are the service's."""

    slots: int = 1
    weights: Mapping[str, float] = {}
    """Of owners; 1 where not named."""
    max_running: Mapping[str, int] = {}
    reserved_share: float = 0.0
    ageing: float | None = None
    """Seconds of waiting after each of which a job counts as one level more urgent; looked at every second."""


DEFAULTS = Rules()


class Run(Struct, frozen=True):
    """A job that was run."""

    job: int
    """Its place among the arrivals."""
    owner: str
    level: int
    """At which it was picked: ageing may have raised it."""
    started: float
    ended: float
    waited: float
    vtime: float
    """Where its owner's lane stood when it was picked."""

    def within(self, begin: float, end: float) -> float:
        """For how many seconds of a period it took its slot."""
        return max(0.0, min(self.ended, end) - max(self.started, begin))


def simulate(arrivals: Sequence[Arrival], rules: Rules = DEFAULTS, *, until: float = inf) -> list[Run]:
    """The runs of all arrivals, in the order of their starts; with `until` only those that have started by then."""
    simulation = _Simulation(arrivals, rules)
    for now in simulation.instants():
        if now > until:
            break
        simulation.fill_slots()
    return simulation.runs


def gpu_time(runs: Iterable[Run], begin: float, end: float) -> dict[str, float]:
    """Seconds of slots that each owner was given in a period."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for run in runs:
        seconds[run.owner] += run.within(begin, end)
    return dict(seconds)


class _Event(IntEnum):
    """What happens, in the order in which it is looked at where it happens at once."""

    END = 0
    ARRIVAL = 1
    AGEING = 2


class _Simulation:
    def __init__(self, arrivals: Sequence[Arrival], rules: Rules) -> None:
        self._arrivals = arrivals
        self._rules = rules
        self._line = Line()
        self._lanes: set[tuple[int, str]] = set()
        self._waiting: dict[tuple[int, str], deque[int]] = {}
        self._levels = [int(arrival.level) for arrival in arrivals]
        self._running: dict[int, Pick] = {}
        self._started: set[int] = set()
        self._busy: Counter[str] = Counter()
        self._events = [(arrival.at, _Event.ARRIVAL, job) for job, arrival in enumerate(arrivals)]
        heapify(self._events)
        self._now = 0.0
        self.runs: list[Run] = []

    def instants(self) -> Iterator[float]:
        """Each moment at which anything happens, once all that happens at it has happened."""
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] == self._now:
                _, event, job = heappop(self._events)
                self._happens(event, job)
            yield self._now

    def fill_slots(self) -> None:
        room = self._rules.slots - len(self._running)
        if room <= 0 or not self._waiting:
            return
        spare = {owner: most - self._busy[owner] for owner, most in self._rules.max_running.items()}
        picks, self._line = choose(
            self._line, self._waiting, room, reserved_share=self._rules.reserved_share, spare=spare
        )
        for pick in picks:
            self._start(pick)

    def _happens(self, event: _Event, job: int) -> None:
        match event:
            case _Event.END:
                self._end(job)
            case _Event.ARRIVAL:
                self._enter(job)
            case _Event.AGEING:
                self._age(job)
            case _:
                assert_never(event)

    def _enter(self, job: int) -> None:
        key = (self._levels[job], self._arrivals[job].owner)
        if key not in self._lanes:
            self._lanes.add(key)
            self._line = replace(self._line, lanes=(*self._line.lanes, self._lane(*key)))
        insort(self._waiting.setdefault(key, deque()), job)
        if self._rules.ageing and self._levels[job] > Priority.HIGH:
            times = 1 + (self._arrivals[job].level - self._levels[job]) // URGENCY_STEP
            due = self._arrivals[job].at + times * self._rules.ageing
            heappush(self._events, (float(ceil(due)), _Event.AGEING, job))

    def _lane(self, level: int, owner: str) -> Lane:
        return Lane(level, owner, weight=self._rules.weights.get(owner, 1.0))

    def _age(self, job: int) -> None:
        if job in self._started:
            return
        self._leave(job)
        self._levels[job] -= URGENCY_STEP
        self._enter(job)

    def _leave(self, job: int) -> None:
        key = (self._levels[job], self._arrivals[job].owner)
        self._waiting[key].remove(job)
        if not self._waiting[key]:
            del self._waiting[key]

    def _start(self, pick: Pick) -> None:
        arrival = self._arrivals[pick.seq]
        ended = self._now + arrival.duration
        self._leave(pick.seq)
        self._started.add(pick.seq)
        self._running[pick.seq] = pick
        self._busy[pick.owner] += 1
        heappush(self._events, (ended, _Event.END, pick.seq))
        self.runs.append(
            Run(pick.seq, pick.owner, pick.level, self._now, ended, self._now - arrival.at, vtime=pick.start)
        )

    def _end(self, job: int) -> None:
        pick = self._running.pop(job)
        self._busy[pick.owner] -= 1
        arrival = self._arrivals[job]
        self._line = correct(
            self._line,
            pick.level,
            pick.owner,
            charged=pick.cost,
            real=arrival.duration,
            completed=arrival.completes,
        )
