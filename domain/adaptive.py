"""Adaptive concurrency: find out how many calls a model server takes at once, and keep to it.

Additive increase, multiplicative decrease (AIMD): D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease
Algorithms for Congestion Avoidance in Computer Networks", 1989.
"""

from __future__ import annotations

from msgspec import Struct


class Pressure(Struct, frozen=True):
    """What a model server tells of its own load."""

    running: float
    """Requests that it works on."""
    waiting: float
    """Requests that it has taken in and not begun."""


class Adapted(Struct, frozen=True):
    """The limit that was found so far, and what is needed to go on from it."""

    limit: float
    """Calls at once; grows by less than one at a time."""

    @property
    def slots(self) -> int:
        """Jobs that may run at once."""
        return max(1, int(self.limit))
