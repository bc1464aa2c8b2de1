"""Who is next: the rule by which a line's free slots go to its waiting jobs.

A line is what a job waits in: its queue, or the jobs of its kind where it has none. Strict by level of urgency; within
a level, owners share GPU time by weight; within an owner, first in, first out. Sharing is start-time fair queueing
(P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queuing", SIGCOMM 1996): each owner has a lane with a virtual time, the
lane that is furthest behind goes first, and a run moves its lane on by what it costs. As nobody knows that beforehand,
a pick is charged the lane's usual cost, and corrected by the real one when its slot is free again.

PostgreSQL applies the same rule (`claim_line.sql`); property tests hold the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heappop, heapreplace

from msgspec import Struct
from msgspec.structs import replace

UNKNOWN_COST = 1.0
"""Seconds that a run counts before any of its line has shown what they take."""

LEAST_COST = 0.001
"""Seconds that any run counts: what costs nothing would always be next."""

NO_LIMITS: Mapping[str, int] = {}

NEWEST = 0.2
"""The part of the latest run in a mean: old ones fade, ten runs after a change it is nine tenths there."""


class Lane(Struct, frozen=True):
    """One owner's jobs of one level in one line."""

    level: int
    owner: str
    vtime: float = 0.0
    """Where it stands: GPU seconds that it was given, divided by its weight."""
    asleep: bool = True
    """Whether it had nothing to start when last looked at: no waiting job, or its owner ran as many as it may."""
    fresh: bool = False
    """Whether it woke and nothing of it was picked since: among lanes that stand level it goes first."""
    mean: float | None = None
    """Seconds that its runs take; None where none has shown it."""
    weight: float = 1.0


class Line(Struct, frozen=True):
    """What a line remembers of what it gave to whom."""

    lanes: tuple[Lane, ...] = ()
    clocks: Mapping[int, float] = {}
    """By level: the furthest start of a pick so far. Where every lane slept, the next to wake begins there."""
    mean: float | None = None
    """Seconds that its runs take."""
    reserve: float = 0.0
    """GPU seconds that the reserved share owes to less urgent levels."""


class Pick(Struct, frozen=True):
    """A job that is next."""

    level: int
    owner: str
    seq: int
    start: float
    """Its place in virtual time."""
    cost: float
    """Seconds that its lane is charged until the real ones are known."""


Waiting = Mapping[tuple[int, str], Sequence[int]]
"""The `seq`s of the jobs that can be picked, in their order, by level and owner."""


def choose(
    line: Line,
    waiting: Waiting,
    room: int,
    *,
    reserved_share: float = 0.0,
    spare: Mapping[str, int] = NO_LIMITS,
    others: Collection[tuple[int, str]] = (),
) -> tuple[list[Pick], Line]:
    """The next jobs in their order, and what the line remembers of it.

    Args:
        room: free slots.
        reserved_share: the part of GPU time that goes to less urgent levels while more urgent ones wait.
        spare: how many more jobs an owner may run, where that is limited.
        others: lanes (level and owner) with jobs that wait for somebody else: they do not sleep either.
    """
    turn = _Turn(line, waiting, dict(spare), others)
    while room > 0 and (level := turn.level(reserved_share)) is not None:
        # With a reserve every pick may change who is next; without, a level is served until it is empty.
        picked = turn.pick(level, 1 if reserved_share else room)
        turn.settle_reserve(level, picked, reserved_share)
        room -= len(picked)
    return turn.picks, turn.line


def correct(line: Line, level: int, owner: str, *, charged: float, real: float, completed: bool) -> Line:
    """What the line remembers once a run's slot is free, and its real cost known.

    Args:
        charged, real: seconds.
        completed: then it is like the runs to come. Any other counts in the mean only where it took longer than was
            charged: so much such a run may take, even if it failed.
    """
    telling = completed or real > charged
    lanes = tuple(
        replace(
            lane,
            vtime=lane.vtime + (real - charged) / lane.weight,
            mean=_mean(lane.mean, real) if telling else lane.mean,
        )
        if (lane.level, lane.owner) == (level, owner)
        else lane
        for lane in line.lanes
    )
    return replace(line, lanes=lanes, mean=_mean(line.mean, real) if telling else line.mean)


def _mean(mean: float | None, latest: float) -> float:
    return latest if mean is None else latest + (mean - latest) * (1 - NEWEST)


class _Turn:
    """One round of picks."""

    def __init__(
        self, line: Line, waiting: Waiting, spare: dict[str, int], others: Collection[tuple[int, str]]
    ) -> None:
        known = {(lane.level, lane.owner): lane for lane in line.lanes}
        self._lanes = known | {key: Lane(*key) for key in waiting if key not in known}
        self._waiting = waiting
        self._left = {key: len(seqs) for key, seqs in waiting.items() if seqs}
        self._others = others
        self._clocks = dict(line.clocks)
        self._spare = spare
        self._line = line
        self._reserve = line.reserve
        self.picks: list[Pick] = []

    @property
    def line(self) -> Line:
        return replace(self._line, lanes=tuple(self._lanes.values()), clocks=self._clocks, reserve=self._reserve)

    def level(self, reserved_share: float) -> int | None:
        """Which level is next: the most urgent, unless the others have their reserved share to come."""
        keys = self._open()
        if not keys:
            return None
        top = min(level for level, _ in keys)
        others = [(self._head(key), key[0]) for key in keys if key[0] != top]
        return min(others)[1] if reserved_share and others and self._reserve > 0 else top

    def pick(self, level: int, room: int) -> list[Pick]:
        """The next jobs of a level, at most so many."""
        self._wake(level)
        taken: Counter[str] = Counter()
        picked: list[Pick] = []
        # Of the same start, a newcomer's job; then the one that has waited longer.
        lanes = ((key, self._lanes[key]) for key in self._open(level))
        turns = [(lane.vtime, not lane.fresh, self._head(key), lane.owner) for key, lane in lanes]
        heapify(turns)
        while turns and len(picked) < room:
            start, _, _, owner = turns[0]
            key = (level, owner)
            picked.append(self._take(key, start))
            taken[owner] += 1
            if self._is_open(key):
                heapreplace(turns, (self._start(key, taken), True, self._head(key), owner))
            else:
                heappop(turns)
        self._move_on(level, taken)
        self.picks += picked
        return picked

    def settle_reserve(self, level: int, picked: list[Pick], reserved_share: float) -> None:
        """A pick of the most urgent level adds to what the others are owed, one of theirs takes from it."""
        if not reserved_share:
            return
        levels = {each for each, _ in self._open()}
        for pick in picked:
            if any(each < level for each in levels):
                self._reserve -= (1 - reserved_share) * pick.cost
            elif any(each > level for each in levels):
                self._reserve += reserved_share * pick.cost

    def _open(self, level: int | None = None) -> list[tuple[int, str]]:
        return [key for key in self._left if level in (None, key[0]) and self._is_open(key)]

    def _is_open(self, key: tuple[int, str]) -> bool:
        return key in self._left and self._spare.get(key[1], 1) > 0

    def _head(self, key: tuple[int, str]) -> int:
        return self._waiting[key][-self._left[key]]

    def _wake(self, level: int) -> None:
        """A lane that wakes begins where the one stands that is furthest behind: it has no credit for having slept.

        It goes before that one, though: its first job is next.
        """
        keys = self._open(level)
        awake = [self._lanes[key].vtime for key in keys if not self._lanes[key].asleep]
        now = min(awake) if awake else self._clocks.get(level, 0.0)
        for key in keys:
            lane = self._lanes[key]
            if lane.asleep:
                self._lanes[key] = replace(lane, vtime=max(lane.vtime, now), asleep=False, fresh=True)

    def _start(self, key: tuple[int, str], taken: Mapping[str, int]) -> float:
        lane = self._lanes[key]
        return lane.vtime + taken.get(lane.owner, 0) * (self._cost(lane) / lane.weight)

    def _cost(self, lane: Lane) -> float:
        known = (mean for mean in (lane.mean, self._line.mean) if mean is not None)
        return max(next(known, UNKNOWN_COST), LEAST_COST)

    def _take(self, key: tuple[int, str], start: float) -> Pick:
        level, owner = key
        pick = Pick(level, owner, self._head(key), start, self._cost(self._lanes[key]))
        self._left[key] -= 1
        if not self._left[key]:
            del self._left[key]
        if owner in self._spare:
            self._spare[owner] -= 1
        self._clocks[level] = max(self._clocks.get(level, 0.0), start)
        return pick

    def _move_on(self, level: int, taken: Mapping[str, int]) -> None:
        for key, lane in self._lanes.items():
            if lane.level != level:
                continue
            asleep = lane.asleep or self._sleeps(key)
            if lane.owner in taken:
                vtime = self._start(key, taken)
                self._lanes[key] = replace(lane, vtime=vtime, asleep=asleep, fresh=False)
            elif asleep != lane.asleep:
                self._lanes[key] = replace(lane, asleep=asleep)

    def _sleeps(self, key: tuple[int, str]) -> bool:
        """Whether it has nothing to start: no job, or no more than its owner may run."""
        empty = key not in self._left and key not in self._others
        return empty or self._spare.get(key[1], 1) <= 0
