"""What goes wrong when: a schedule is data, and follows from its seed alone.

Faults come as from a pack of cards that is shuffled anew whenever it is used up, so each kind comes about as often as
any other. Faults overlap, but no two of them befall the same thing at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

APIS = ("api-1", "api-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
SCHEDULERS = ("scheduler-1", "scheduler-2")
PROCESSES = (*APIS, *WORKERS, *SCHEDULERS)
CLOCKED = "worker-3"
"""The worker whose clock can jump."""

ALL = "all"
REST = 1.0
"""Seconds from the end of a fault until the next one may befall the same thing."""


class Kind(StrEnum):
    KILL = "kill"
    """SIGKILL; started again after the fault's length."""
    STOP = "stop"
    """SIGSTOP, and SIGCONT after the fault's length."""
    TERMINATE = "terminate"
    """SIGTERM; started again as soon as it has ended."""
    CUT = "cut"
    """Connections break, new ones are refused."""
    BLACKHOLE = "blackhole"
    """Nothing arrives any more, neither bytes nor the end of a connection; all of it comes late."""
    DELAY = "delay"
    """Each piece of what is sent arrives a tenth of a second later."""
    BROKER_KILL = "broker killed"
    BROKER_WIPE = "broker wiped"
    """Killed, and started again without anything that it knew."""
    BROKER_PURGE = "queue purged"
    BROKER_DELETE = "queue deleted"
    DATABASE_RESTART = "database restarted"
    """`immediate`: as a crash does."""
    DATABASE_BACKEND = "backend killed"
    """SIGKILL of one of PostgreSQL's processes: the server starts anew."""
    DATABASE_TERMINATE = "connections terminated"
    """All of them, by PostgreSQL."""
    CLOCK = "clock jump"
    OUTAGE = "provider down"
    REFUSALS = "provider refuses"
    """503 and 429."""
    STALLS = "provider stalls"


class Link(StrEnum):
    """What processes talk to."""

    DATABASE = "database"
    BROKER = "broker"
    PROVIDER = "provider"


@dataclass(frozen=True)
class Fault:
    """
    Args:
        at: seconds after the beginning of the run.
        length: seconds until it is lifted.
        target: a process, or all of them; empty where the kind says it.
        link: what of the target is troubled, where only its way to a server is.
    """

    at: float
    kind: Kind
    target: str = ""
    length: float = 0.0
    link: Link | None = None

    @property
    def end(self) -> float:
        return self.at + self.length

    @property
    def name(self) -> str:
        """What it is called in reports: what happens to what kind of thing."""
        role = self.target.partition("-")[0]
        return " ".join(part for part in (self.kind, role, self.link and f"from {self.link}") if part)

    def __str__(self) -> str:
        to = " ".join(part for part in (self.target, self.link and f"from {self.link}") if part)
        return f"{self.at:8.1f} s  {self.kind} {to} ({self.length:.1f} s)".replace("  (", " (")


@dataclass(frozen=True)
class Card:
    kind: Kind
    targets: Sequence[str] = ("",)
    shortest: float = 0.0
    longest: float = 0.0
    link: Link | None = None


PAST_THE_LEASE = (17.0, 22.0)
"""Seconds after which a worker that nobody heard of has lost its jobs for sure."""

CARDS = (
    Card(Kind.KILL, WORKERS, 0.5, 3),
    Card(Kind.KILL, WORKERS, 0.5, 3),
    Card(Kind.KILL, WORKERS, 0.5, 3),
    Card(Kind.KILL, APIS, 0.5, 3),
    Card(Kind.KILL, SCHEDULERS, 0.5, 3),
    Card(Kind.STOP, WORKERS, *PAST_THE_LEASE),
    Card(Kind.STOP, WORKERS, 1, 8),
    Card(Kind.STOP, APIS, 1, 12),
    Card(Kind.STOP, SCHEDULERS, 3, 20),
    Card(Kind.TERMINATE, WORKERS, 1, 1),
    Card(Kind.TERMINATE, WORKERS, 1, 1),
    Card(Kind.TERMINATE, APIS, 1, 1),
    Card(Kind.TERMINATE, SCHEDULERS, 1, 1),
    Card(Kind.CUT, WORKERS, 1, 10, Link.DATABASE),
    Card(Kind.CUT, (*APIS, *SCHEDULERS), 1, 10, Link.DATABASE),
    Card(Kind.CUT, (ALL,), 0.5, 5, Link.DATABASE),
    Card(Kind.BLACKHOLE, WORKERS, *PAST_THE_LEASE, Link.DATABASE),
    Card(Kind.BLACKHOLE, (*APIS, *SCHEDULERS), 2, 20, Link.DATABASE),
    Card(Kind.BLACKHOLE, (ALL,), 2, 8, Link.DATABASE),
    Card(Kind.DELAY, PROCESSES, 3, 10, Link.DATABASE),
    Card(Kind.CUT, PROCESSES, 1, 10, Link.BROKER),
    Card(Kind.BLACKHOLE, PROCESSES, 3, 20, Link.BROKER),
    Card(Kind.CUT, (ALL,), 1, 6, Link.BROKER),
    Card(Kind.DELAY, PROCESSES, 3, 10, Link.BROKER),
    Card(Kind.CUT, WORKERS, 1, 5, Link.PROVIDER),
    Card(Kind.BLACKHOLE, WORKERS, 3, 10, Link.PROVIDER),
    Card(Kind.DELAY, WORKERS, 3, 10, Link.PROVIDER),
    Card(Kind.BROKER_KILL, shortest=1, longest=6),
    Card(Kind.BROKER_WIPE, shortest=1, longest=2),
    Card(Kind.BROKER_PURGE),
    Card(Kind.BROKER_DELETE),
    Card(Kind.DATABASE_RESTART, shortest=0.2, longest=3),
    Card(Kind.DATABASE_BACKEND),
    Card(Kind.DATABASE_TERMINATE),
    Card(Kind.CLOCK, (CLOCKED,), 5, 20),
    Card(Kind.OUTAGE, shortest=2, longest=6),
    Card(Kind.REFUSALS, shortest=2, longest=6),
    Card(Kind.STALLS, shortest=2, longest=6),
)

RECOVERY = {Kind.BROKER_KILL: 10.0, Kind.BROKER_WIPE: 12.0, Kind.DATABASE_RESTART: 3.0, Kind.DATABASE_BACKEND: 3.0}
"""Seconds that a server takes to be there again, about: no other fault befalls it before."""

STARTING = 5.0
"""Seconds until a process that was started again does its work."""


def schedule(seed: int, length: float, faults: int) -> list[Fault]:
    """So many faults, spread over so many seconds; the last of them may begin and end a little later."""
    chance = random.Random(seed)
    free_at: dict[str, float] = {}
    drawn: list[Fault] = []
    pack: list[Card] = []
    times = sorted(chance.uniform(0, length) for _ in range(faults))
    for at in times:
        if not pack:
            pack = chance.sample(CARDS, len(CARDS))
        drawn.append(_deal(chance, pack.pop(), at, free_at))
    return sorted(drawn, key=lambda fault: (fault.at, fault.kind, fault.target))


def _deal(chance: random.Random, card: Card, at: float, free_at: dict[str, float]) -> Fault:
    """The card's fault, at this time or, where what it would befall is in trouble then, as soon as that is over."""
    lasts = round(chance.uniform(card.shortest, card.longest), 1)
    ready = {target: max(free_at.get(thing, 0.0) for thing in befallen(card, target)) for target in card.targets}
    soonest = min(ready.values())
    target = chance.choice([target for target, when in ready.items() if when <= max(at, soonest)])
    fault = Fault(round(max(at, ready[target]), 1), card.kind, target, lasts, card.link)
    for thing in befallen(card, target):
        free_at[thing] = max(free_at.get(thing, 0.0), fault.end + REST + RECOVERY.get(card.kind, 0.0))
        if card.kind in {Kind.KILL, Kind.TERMINATE}:
            free_at[thing] += STARTING
    return fault


def befallen(card: Card | Fault, target: str) -> list[str]:
    """The things that a fault befalls."""
    match card.kind:
        case Kind.CUT | Kind.BLACKHOLE | Kind.DELAY:
            return [f"{name} {card.link}" for name in (PROCESSES if target == ALL else [target])]
        case Kind.KILL | Kind.STOP | Kind.TERMINATE:
            return [target]
        case Kind.CLOCK:
            return ["clock"]
        case Kind.OUTAGE | Kind.REFUSALS | Kind.STALLS:
            return ["provider"]
        case Kind.DATABASE_RESTART | Kind.DATABASE_BACKEND | Kind.DATABASE_TERMINATE:
            return ["database"]
        case _:
            return ["broker"]
