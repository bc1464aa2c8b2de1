"""One line in front of many GPUs, in virtual time: fast enough for ten million jobs.

Who is next follows the rule of `domain.order`, in a form that does a pick in a few microseconds: strict priority, then
the lane that is furthest behind, then first in, first out. A test holds the two to the same starts. Beside the rule:
GPUs that crash with all that they run, runs that fail and are tried again, and what callers notice of it.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from random import Random
from typing import NamedTuple

from msgspec import Struct

from domain.order import LEAST_COST, NEWEST, UNKNOWN_COST

LEVELS = ("high", "normal", "low")

FIRST, AGAIN, RESCUED = range(3)
"""Why a job waits: it is new, its last run failed, or its last run was lost."""


class Gpus(Struct, frozen=True):
    """What runs the jobs of a line: GPUs, each with a worker process of its own."""

    count: int
    slots: int
    """Of each."""


class Outage(Struct, frozen=True):
    """GPUs that are gone for a while, with all that they ran."""

    at: float
    gpus: tuple[int, ...]
    seconds: float
    noticed_after: float
    """When the service has given back what they ran, in seconds."""


class Trouble(Struct, frozen=True):
    outages: tuple[Outage, ...] = ()
    failing: float = 0.0
    """The part of the second and later runs of a job that fail; of the first ones the arrivals tell."""
    retry_delay: float = 30.0
    max_attempts: int = 3


NO_TROUBLE = Trouble()


class Arrivals(NamedTuple):
    """Jobs in the order of their arrival; three lists of the same length."""

    at: Sequence[float]
    lane: Sequence[int]
    service: Sequence[float]
    """Seconds that its run takes; negative where its first run fails, after half of it."""


class Lane:
    """One owner's jobs of one level."""

    __slots__ = (
        "asleep",
        "ever_empty",
        "fresh",
        "hours",
        "level",
        "mean",
        "owner",
        "started",
        "vtime",
        "waiting",
        "waits",
        "weight",
    )

    def __init__(self, level: int, owner: str, weight: float) -> None:
        self.level, self.owner, self.weight = level, owner, weight
        self.vtime = 0.0
        self.asleep, self.fresh = True, False
        self.mean: float | None = None
        self.waiting: deque[Job] = deque()
        self.started = 0.0
        """Seconds that the runs take that were started until now."""
        self.ever_empty = True
        """Since the last look."""
        self.waits = array("f")
        """Of each job until its first start, in the order of these."""
        self.hours = [0]
        """How many had started at the beginning of each hour."""


class Job(NamedTuple):
    seq: int
    due: float
    """When it began to wait."""
    service: float
    attempts: int
    why: int


class Start(NamedTuple):
    """For those who want to look at every one."""

    seq: int
    lane: int
    at: float
    due: float


class Look(NamedTuple):
    """The line at one moment."""

    at: float
    waiting: tuple[int, ...]
    """Jobs, by level."""
    busy: int
    slots: int
    """Of GPUs that are there."""
    started: tuple[float, ...]
    """Seconds that the runs take that were started until now, by lane."""
    backlogged: tuple[bool, ...]
    """Lanes that had a waiting job all the time since the look before."""


class Told:
    """What came of it."""

    def __init__(self) -> None:
        self.arrived = self.completed = self.failed = 0
        self.retried = 0
        """Runs that failed and were tried again."""
        self.lost = 0
        """Runs that went with their GPU."""
        self.lost_seconds = 0.0
        """That these had run."""
        self.rescued_after = array("f")
        """Seconds from the loss of a run to the next start of its job."""
        self.ended = bytearray()
        """By job: how often it ended."""
        self.looks: list[Look] = []
        self.starts: list[Start] | None = None


_CRASH, _BACK, _DUE, _LOOK = range(4)


class Line:
    def __init__(
        self,
        lanes: Sequence[Lane],
        gpus: Gpus,
        trouble: Trouble = NO_TROUBLE,
        *,
        seed: int = 0,
        look_every: float = 300.0,
        with_starts: bool = False,
    ) -> None:
        self.lanes = list(lanes)
        self.told = Told()
        if with_starts:
            self.told.starts = []
        self._slots = gpus.slots
        self._trouble = trouble
        self._random = Random(seed)
        self._levels: list[list[Lane]] = [[lane for lane in lanes if lane.level == level] for level in range(3)]
        self._clocks = [0.0, 0.0, 0.0]
        self._mean: float | None = None
        self._waiting = [0, 0, 0]
        self._places = {id(lane): number for number, lane in enumerate(lanes)}
        # Whoever has been idle for longest is next.
        self._free = deque(gpu for _ in range(gpus.slots) for gpu in range(gpus.count))
        self._gone = [0] * gpus.count
        self._ends: list[tuple[float, int, int, Lane, float, float, Job]] = []
        self._look_every = look_every
        self._others: list[tuple[float, int, int, object]] = [(look_every, 0, _LOOK, None)]
        self._numbered = 1
        for outage in trouble.outages:
            self._later(outage.at, _CRASH, outage)

    def run(self, chunks: Iterable[Arrivals]) -> Told:
        """Until all jobs have ended."""
        told, lanes, ended = self.told, self.lanes, self.told.ended
        seq = 0
        for chunk in chunks:
            ended.extend(bytes(len(chunk.at)))
            for at, number, service in zip(*chunk, strict=True):
                self._until(at)
                lane = lanes[number]
                told.arrived += 1
                job = Job(seq, at, service, 0, FIRST)
                seq += 1
                lane.waiting.append(job)
                self._waiting[lane.level] += 1
                if self._free:
                    self._start(at)
        self._until(inf)
        return told

    def _until(self, then: float) -> None:
        """All that happens by then. At the end: until nothing is left that could."""
        ends, others, waiting, told = self._ends, self._others, self._waiting, self.told
        finished, retry, max_attempts = told.ended, self._trouble.retry_delay, self._trouble.max_attempts
        while True:
            at = ends[0][0] if ends else inf
            other = others[0][0]
            if at > then or other < at:
                if other > then:
                    return
                if then == inf and not ends and told.completed + told.failed == told.arrived:
                    return
                self._happens()
                continue
            _, seq, gpu, lane, started, charged, job = ends[0]
            real = at - started
            completed = job.service > 0
            lane.vtime += (real - charged) / lane.weight
            if completed or real > charged:
                mean = lane.mean
                lane.mean = real if mean is None else real + (mean - real) * (1 - NEWEST)
                mean = self._mean
                self._mean = real if mean is None else real + (mean - real) * (1 - NEWEST)
            if completed:
                told.completed += 1
                finished[seq] += 1
            elif job.attempts + 1 >= max_attempts:
                told.failed += 1
                finished[seq] += 1
            else:
                told.retried += 1
                service = self._drawn_again(-job.service)
                self._later(at + retry, _DUE, (lane, Job(seq, at + retry, service, job.attempts + 1, AGAIN)))
            if waiting[0] or waiting[1] or waiting[2]:
                heapreplace(ends, self._picked(at, gpu))
            else:
                heappop(ends)
                self._free.append(gpu)

    def _start(self, now: float) -> None:
        """Give the free slots to those who wait."""
        free, waiting = self._free, self._waiting
        while free and (waiting[0] or waiting[1] or waiting[2]):
            heappush(self._ends, self._picked(now, free.popleft()))

    def _picked(self, now: float, gpu: int) -> tuple[float, int, int, Lane, float, float, Job]:
        """Who is next: `choose` for one slot, with neither reserved share nor limits of owners."""
        waiting = self._waiting
        level = 0 if waiting[0] else 1 if waiting[1] else 2
        lanes = [lane for lane in self._levels[level] if lane.waiting]
        if len(lanes) == 1:
            lane = lanes[0]
            if lane.asleep:
                lane.vtime = max(lane.vtime, self._clocks[level])
                lane.asleep = False
        else:
            self._wake(level, lanes)
            lane = lanes[0]
            for other in lanes:
                if other.vtime < lane.vtime or (
                    other.vtime == lane.vtime
                    and (not other.fresh, other.waiting[0].seq) < (not lane.fresh, lane.waiting[0].seq)
                ):
                    lane = other
        cost = lane.mean
        if cost is None:
            cost = UNKNOWN_COST if self._mean is None else self._mean
        if cost < LEAST_COST:
            cost = LEAST_COST
        job = lane.waiting.popleft()
        waiting[level] -= 1
        if lane.vtime > self._clocks[level]:
            self._clocks[level] = lane.vtime
        lane.vtime += cost / lane.weight
        lane.fresh = False
        if not lane.waiting:
            lane.asleep = lane.ever_empty = True
        if job.why == FIRST:
            lane.waits.append(now - job.due)
        elif job.why == RESCUED:
            self.told.rescued_after.append(now - job.due)
        if self.told.starts is not None:
            self.told.starts.append(Start(job.seq, self._places[id(lane)], now, job.due))
        takes = job.service if job.service > 0 else -job.service / 2
        lane.started += takes
        return (now + takes, job.seq, gpu, lane, now, cost, job)

    def _wake(self, level: int, lanes: Sequence[Lane]) -> None:
        """A lane that wakes begins where the one stands that is furthest behind, and goes before it."""
        asleep = [lane for lane in lanes if lane.asleep]
        if not asleep:
            return
        awake = [lane.vtime for lane in lanes if not lane.asleep]
        begin = min(awake) if awake else self._clocks[level]
        for lane in asleep:
            lane.vtime = max(lane.vtime, begin)
            lane.asleep, lane.fresh = False, True

    def _happens(self) -> None:
        """What is rarer than arrivals and ends."""
        now, _, what, about = heappop(self._others)
        if what == _LOOK:
            self._look(now)
            self._later(now + self._look_every, _LOOK, None)
        elif what == _CRASH:
            assert isinstance(about, Outage)
            self._crash(now, about)
        elif what == _BACK:
            assert isinstance(about, Outage)
            self._come_back(about)
            self._start(now)
        else:
            assert isinstance(about, tuple)
            lane, job = about
            # Its old place: before all that were submitted later.
            insort(lane.waiting, job)
            self._waiting[lane.level] += 1
            self._start(now)

    def _crash(self, now: float, outage: Outage) -> None:
        told, gone = self.told, self._gone
        for gpu in outage.gpus:
            gone[gpu] += 1
        broken = set(outage.gpus)
        self._free = deque(gpu for gpu in self._free if gpu not in broken)
        running = [run for run in self._ends if run[2] in broken]
        self._ends[:] = [run for run in self._ends if run[2] not in broken]
        heapify(self._ends)
        back = now + outage.noticed_after
        for _, seq, _, lane, started, charged, job in sorted(running, key=lambda run: run[1]):
            lane.vtime += (back - started - charged) / lane.weight
            told.lost += 1
            told.lost_seconds += now - started
            # Waits are counted from the loss, of which the job knows nothing until it is noticed.
            self._later(back, _DUE, (lane, Job(seq, now, job.service, job.attempts, RESCUED)))
        self._later(now + outage.seconds, _BACK, outage)

    def _come_back(self, outage: Outage) -> None:
        for gpu in outage.gpus:
            self._gone[gpu] -= 1
            if not self._gone[gpu]:
                self._free.extend([gpu] * self._slots)

    def _look(self, now: float) -> None:
        lanes = self.lanes
        backlogged = []
        for lane in lanes:
            backlogged.append(bool(lane.waiting) and not lane.ever_empty)
            lane.ever_empty = not lane.waiting
            if now % 3600 < self._look_every / 2:
                lane.hours.append(len(lane.waits))
        self.told.looks.append(
            Look(
                now,
                tuple(self._waiting),
                len(self._ends),
                self._slots * sum(not times for times in self._gone),
                tuple(lane.started for lane in lanes),
                tuple(backlogged),
            )
        )

    def _drawn_again(self, service: float) -> float:
        return -service if self._random.random() < self._trouble.failing else service

    def _later(self, at: float, what: int, about: object) -> None:
        heappush(self._others, (at, self._numbered, what, about))
        self._numbered += 1
