"""Wakes those who wait for something to happen to a job, or for jobs to do.

Events wake them early. The net that catches what no event told of is one query for all waiters of this process, now and
then; whoever is woken goes and looks at the job himself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from domain.errors import StorageUnavailable
from domain.events import FOLLOWED, PROGRESS, JobEvent, Pulse
from domain.job import FINAL, JobId, JobStatus

logger = structlog.get_logger()

SOONEST, LATEST = 0.1, 0.5
"""Seconds between two looks where no event is heard: while somebody has just come, and when all have waited long."""

PATIENT_AFTER = 10.0

WORK_EVERY = 0.1
"""Seconds between two wake-ups of those who wait for jobs to do: each of them then claims, most of them in vain."""


class Pulses(Protocol):
    """The part of a job store that is needed here."""

    async def pulses(self, job_ids: Sequence[JobId]) -> dict[JobId, Pulse]: ...


class Waiter(Protocol):
    """Somebody who waits for something about a job. The job's being gone is news to everybody."""

    news: bool
    """Whether there may be any: who has looked clears it."""
    woken: asyncio.Event

    def is_news(self, pulse: Pulse) -> bool: ...

    def may_be_news(self, event: JobEvent) -> bool: ...


@dataclass(eq=False)
class ForEnd:
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    news: bool = False

    def is_news(self, pulse: Pulse) -> bool:
        return pulse.status.final

    def may_be_news(self, event: JobEvent) -> bool:
        return event.kind in FINAL


@dataclass(eq=False)
class ForChange:
    seen: Pulse | None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody else may set it too: `news` tells whether it is about the job's state."""
    news: bool = False

    def is_news(self, pulse: Pulse) -> bool:
        return pulse != self.seen

    def may_be_news(self, event: JobEvent) -> bool:
        """Not if it comes late and tells of what has been seen; which report of progress it means, it does not say."""
        if self.seen is None or event.number > self.seen.number:
            return True
        return event.kind == PROGRESS and event.number == self.seen.number


@dataclass(eq=False)
class ForOutcome:
    """Its beginning and its progress are noted and nothing to look at: the job is read once less."""

    seen: Pulse
    woken: asyncio.Event
    news: bool = False

    def is_news(self, pulse: Pulse) -> bool:
        return self._is_outcome(pulse.status, pulse.number)

    def may_be_news(self, event: JobEvent) -> bool:
        return event.kind != PROGRESS and self._is_outcome(event.kind, event.number)

    def _is_outcome(self, kind: str, number: int) -> bool:
        newer = number > self.seen.number
        if newer and kind == JobStatus.RUNNING:
            self.seen = Pulse(JobStatus.RUNNING, number)
            return False
        return newer


@dataclass
class Watch:
    jobs: Pulses
    soonest: float = SOONEST
    """Seconds after which newcomers are looked for: what happened just before they came, no event tells them."""
    latest: float = LATEST
    """Seconds between two looks for all."""
    patient_after: float = PATIENT_AFTER
    """Seconds after the last newcomer in which all are looked for as often as newcomers are."""
    _waiters: dict[JobId, set[Waiter]] = field(default_factory=dict)
    _newcomers: set[JobId] = field(default_factory=set)
    _seekers: set[asyncio.Event] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None
    _polling: asyncio.Task[None] | None = None
    _last_came: float = 0.0
    _last_look: float = 0.0
    _last_offer: float = 0.0
    _offer: asyncio.TimerHandle | None = None
    _leaving: bool = False
    _dismissed: bool = False

    async def final(self, job_id: JobId, seconds: float) -> None:
        """Return when the job is final or gone, or when the time is up. Which of them, the job itself tells."""
        await self._wait(job_id, ForEnd(), seconds)

    async def change(self, job_id: JobId, seen: Pulse | None, seconds: float) -> None:
        """Return when the job's pulse differs from the one seen, or it is gone, or when the time is up.

        Now and then also when it only may differ: look, and wait again.
        """
        await self._wait(job_id, ForChange(seen), seconds)

    async def work(self, seconds: float) -> None:
        """Return when some job has become pending, or when the time is up.

        Everybody is woken, and most come too late. Jobs that wait for their `run_at` are heard of when they are
        submitted and not when they become due: keep the time short.
        """
        if self._dismissed:
            return
        woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._seekers.add(woken)
        try:
            await until(woken, seconds)
        finally:
            self._seekers.discard(woken)

    @property
    def leaving(self) -> bool:
        """Whether the process is about to stop; who waits may wait on."""
        return self._leaving

    @property
    def dismissed(self) -> bool:
        """Whether nobody waits here any more."""
        return self._dismissed

    @property
    def waiting(self) -> int:
        """For how many jobs somebody waits."""
        return len(self._waiters)

    @property
    def seeking(self) -> int:
        """How many wait for jobs to do."""
        return len(self._seekers)

    def heard(self, events: Sequence[JobEvent]) -> None:
        """Something happened: those concerned go and look. May be called from any thread."""
        # Most events concern nobody here: those cost the event loop nothing.
        if self._loop is None or not (self._waiters or self._seekers):
            return
        about = [event for event in events if event.job_id in self._waiters and event.kind != FOLLOWED]
        work = bool(self._seekers) and any(event.kind == JobStatus.PENDING for event in events)
        if about or work:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._tell, about, work)

    def leave(self) -> None:
        """The process is about to stop: whoever asks is told that it is not ready."""
        self._leaving = True

    def dismiss(self) -> None:
        """Everybody goes and looks, and nobody waits any more: the process stops now."""
        self._leaving = self._dismissed = True
        for waiters in self._waiters.values():
            _wake(waiters)
        for seeker in self._seekers:
            seeker.set()

    async def tick(self) -> None:
        """Look once at every job that somebody waits for."""
        await self._look_at(tuple(self._waiters))

    async def _wait(self, job_id: JobId, waiter: Waiter, seconds: float) -> None:
        if self._dismissed:
            return
        with self.attend(job_id, waiter):
            await until(waiter.woken, seconds)

    @contextmanager
    def attend(self, job_id: JobId, waiter: Waiter) -> Iterator[None]:
        """Within this, the waiter is woken whenever there is news for it, or may be."""
        self._loop = asyncio.get_running_loop()
        self._waiters.setdefault(job_id, set()).add(waiter)
        self._newcomers.add(job_id)
        self._last_came = self._loop.time()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            self._leave(job_id, waiter)

    def _tell(self, events: Iterable[JobEvent], work: bool) -> None:
        for event in events:
            _wake(waiter for waiter in self._waiters.get(event.job_id, ()) if waiter.may_be_news(event))
        if work and self._offer is None:
            loop = asyncio.get_running_loop()
            self._offer = loop.call_at(max(loop.time(), self._last_offer + WORK_EVERY), self._offer_work)

    def _offer_work(self) -> None:
        self._offer, self._last_offer = None, asyncio.get_running_loop().time()
        for seeker in self._seekers:
            seeker.set()

    async def _poll(self) -> None:
        while self._waiters:
            await asyncio.sleep(self.soonest)
            try:
                await self._look_at(self._due())
            except StorageUnavailable:
                pass  # only a delay: the next look comes
            except Exception:
                logger.exception("watch_failed")

    def _due(self) -> tuple[JobId, ...]:
        now = asyncio.get_running_loop().time()
        newcomers, self._newcomers = self._newcomers, set()
        if now - self._last_came >= self.patient_after and now - self._last_look < self.latest:
            return tuple(job_id for job_id in newcomers if job_id in self._waiters)
        self._last_look = now
        return tuple(self._waiters)

    async def _look_at(self, asked: Sequence[JobId]) -> None:
        if not asked:
            return
        pulses = await self.jobs.pulses(asked)
        for job_id in asked:
            pulse = pulses.get(job_id)
            _wake(waiter for waiter in self._waiters.get(job_id, ()) if pulse is None or waiter.is_news(pulse))

    def _leave(self, job_id: JobId, waiter: Waiter) -> None:
        waiters = self._waiters[job_id]
        waiters.discard(waiter)
        if not waiters:
            del self._waiters[job_id]
        if not self._waiters and self._polling is not None:
            self._polling.cancel()
            self._polling = None  # it is not done yet, but whoever comes next must not rely on it


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.news = True
        waiter.woken.set()


async def until(woken: asyncio.Event, seconds: float) -> None:
    """Return when it is set, or when the time is up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()
