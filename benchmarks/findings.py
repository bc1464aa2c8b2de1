"""What a workload found: figures by contestant, and bars that were met or missed."""

from __future__ import annotations

from statistics import median

from msgspec import Struct


class Figure(Struct, frozen=True):
    """One measure of one contestant, in every round."""

    contestant: str
    measure: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)


class Bar(Struct, frozen=True):
    """What the project asks of itself, as a number that does not depend on the machine where that is possible."""

    what: str
    value: float
    goal: float
    unit: str = "x"
    at_most: bool = False
    measure: str = ""
    """The measure in whose picture it stands as a line; without one, where its value is found among the figures."""
    against: str = ""
    """The contestant whose median the line is a multiple of; without one, it stands at the goal itself."""

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


class Findings(Struct, frozen=True):
    figures: tuple[Figure, ...]
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know to compare: settings of the contestants, and where their guarantees differ."""


def quantile(values: list[float] | tuple[float, ...], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]
