"""What a process answers to Prometheus: what it counts itself, and the installation as a whole where it leads.

Nothing is read where nobody asks, and nobody waits for a storage that is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from msgspec import Struct

from app.lately import Lately
from domain.usecases.report import Readiness, Report
from domain.usecases.survey import Installation, Survey

Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, the values of its labels in their order, and its value."""

FIGURES_LAST = 5.0
"""Seconds for which figures of the whole are given out again."""

READINESS_LASTS = 1.0


class Page(Struct, frozen=True):
    content_type: str
    body: bytes


Scrape = Callable[[str], Awaitable[Page]]
"""The page, in a form that this `Accept` header asks for."""


class Counters(Protocol):
    """What the process counts."""

    def page(self, accept: str, figures: Iterable[Sample] = ()) -> tuple[str, bytes]:
        """Its content type, and the text. May be called on any thread."""


async def nothing(accept: str) -> Page:
    """Of a process that counts nothing."""
    return Page("text/plain; charset=utf-8", b"")


class Scraped:
    """Of a process with the use cases; of one event loop."""

    def __init__(
        self,
        counters: Counters,
        report: Report,
        survey: Survey,
        leads: Callable[[], bool | None],
        samples: Callable[[Installation], Iterable[Sample]],
    ) -> None:
        """
        Args:
            leads: whether the scheduler of this process does.
            samples: makes metrics of the installation.
        """
        self._counters = counters
        self._leads = leads
        self._samples = samples
        self._readiness = Lately(report.readiness, lasts=READINESS_LASTS)
        self._installation = Lately(survey.installation, lasts=FIGURES_LAST)

    async def page(self, accept: str) -> Page:
        leads = bool(self._leads())
        readiness, installation = await asyncio.gather(
            self._readiness.get(), self._installation.get() if leads else _nothing()
        )
        figures = [("aijobs_scheduler_leading", (), float(leads)), *up(readiness)]
        if installation:
            figures += self._samples(installation)
        # It takes some milliseconds for which nobody else shall wait.
        return Page(*await asyncio.to_thread(self._counters.page, accept, figures))

    async def aclose(self) -> None:
        await self._readiness.aclose()
        await self._installation.aclose()


def up(readiness: Readiness | None) -> list[Sample]:
    """Which parts can be used; None: the storage has not answered in time."""
    if readiness is None:
        return [("aijobs_up", ("storage",), 0.0)]
    return [
        ("aijobs_up", ("storage",), float(readiness.storage)),
        ("aijobs_up", ("broker",), float(readiness.broker)),
    ]


async def _nothing() -> None:
    pass
