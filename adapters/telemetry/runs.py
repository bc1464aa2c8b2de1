"""What is remembered of a run from its start to its end."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 100_000
"""Runs at once. That of whose end nobody ever tells is forgotten at last."""


def remember(runs: dict[K, V], lease: K, begun: V, most: int = MOST) -> None:
    """Note the start of a run, and forget the oldest where there are too many."""
    if len(runs) >= most:
        del runs[next(iter(runs))]
    runs[lease] = begun
