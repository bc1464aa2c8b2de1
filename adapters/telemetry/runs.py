"""How long runs take: what is remembered of them from their start to their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from domain.job import LeasedJob, LeaseToken

K = TypeVar("K")
V = TypeVar("V")

MOST = 100_000
"""Runs at once. That of whose end nobody ever tells is forgotten at last."""


def remember(runs: dict[K, V], lease: K, begun: V, most: int = MOST) -> None:
    """Note the start of a run, and forget the oldest where there are too many."""
    if len(runs) >= most:
        del runs[next(iter(runs))]
    runs[lease] = begun


class Stopwatches:
    """One for each run."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._monotonic = monotonic
        self._most = most
        self._began: dict[LeaseToken, float] = {}

    def start(self, job: LeasedJob) -> None:
        remember(self._began, job.lease.token, self._monotonic(), self._most)

    def stop(self, job: LeasedJob) -> float | None:
        """How many seconds the run took; None: nobody knows.

        An external worker's may have begun at another process: PostgreSQL's clock and ours may differ a little then.
        """
        began = self._began.pop(job.lease.token, None)
        if began is not None:
            return self._monotonic() - began
        return max(0.0, (datetime.now(UTC) - job.started_at).total_seconds()) if job.started_at else None
