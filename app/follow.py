"""Tells a caller what happens to a job, as it happens, until the job ends or the caller goes away.

Nothing is kept between two looks but how far the caller has been told: whatever wakes it, late or in vain, it looks at
the job and tells what is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from time import monotonic

from app.readers import Reader, Readers
from app.watch import ForChange, Watch, until
from app.wire.events import KEEP_ALIVE, RETRY, Event, Mark, events_of, token
from domain.access import Caller
from domain.errors import BadInput, JobNotFound, Problem, StorageUnavailable
from domain.events import FOLLOWED, JobEvent
from domain.job import Job, JobId, JobStatus
from domain.ports import Events
from domain.routing import CHAT_TASKS
from domain.usecases.browse import Browse, News

KEEP_ALIVE_EVERY = 15.0
AGAIN_AFTER = 1.0
"""Seconds until the next look while the storage is away: a browser would not come back to a stream that was refused."""

ASK_EVERY, ASK_AGAIN_AFTER = 10.0, 0.5
"""Seconds between two questions to a run for its text: as long as somebody reads it, and where some is missing."""


@dataclass(frozen=True)
class Follow:
    browse: Browse
    watch: Watch
    readers: Readers
    events: Events
    tellers: Collection[str] = CHAT_TASKS
    """Task types whose runs can be asked for their text."""
    keep_alive: float = KEEP_ALIVE_EVERY
    """Seconds of silence at most."""

    async def job(self, caller: Caller, job_id: JobId, seen: Mark) -> AsyncIterator[bytes] | None:
        """What happens to the job after this, or None where it has ended and all of it was seen.

        Raises:
            JobNotFound.
            BadInput: nothing like that was ever told of this job.
        """
        news = await self._news(caller, job_id, seen)
        ended = seen.last and seen.number == news.job.number
        if seen.number > news.job.number or (ended and not news.job.status.final):
            raise BadInput([Problem("/Last-Event-ID", "No event of this job has this id.")])
        if ended:
            return None
        return self._stream(caller, news, seen)

    async def _stream(self, caller: Caller, news: News, seen: Mark) -> AsyncIterator[bytes]:
        yield RETRY
        woken = asyncio.Event()
        waiter = ForChange(news.pulse, woken)
        reader = Reader(woken.set, seen.number, seen.offset) if seen.offset else Reader(woken.set)
        asking, told_at = Asking(self.events, self.tellers), monotonic()
        with self.watch.attend(news.job.id, waiter), self.readers.read(news.job.id, reader):
            while True:
                for event in told(news, seen, reader):
                    yield event.text
                    seen, told_at = event.mark, monotonic()
                if seen.last or self.watch.dismissed:
                    return
                asking.ask(news.job, reader)
                if (silence := monotonic() - told_at) >= self.keep_alive:
                    yield KEEP_ALIVE
                    told_at, silence = monotonic(), 0.0
                    waiter.news = True
                await until(woken, min(self.keep_alive - silence, asking.wait(news.job)))
                woken.clear()
                news = news.without_events()
                if not (waiter.news or reader.number > news.job.number):
                    continue
                waiter.news = False
                try:
                    news = await self._news(caller, news.job.id, seen)
                    waiter.seen = news.pulse
                except JobNotFound:
                    return
                except StorageUnavailable:
                    await asyncio.sleep(AGAIN_AFTER)
                    waiter.news = True
                    woken.set()

    async def _news(self, caller: Caller, job_id: JobId, seen: Mark) -> News:
        return await self.browse.news(caller, job_id, number=seen.number, report=(seen.number, seen.report))


def told(news: News, seen: Mark, reader: Reader) -> Iterator[Event]:
    """What is new of a job, and of its text."""
    job = news.job
    if job.status is JobStatus.RUNNING:
        reader.begin(job.number)
    text = None
    if job.status is JobStatus.RUNNING and reader.number == job.number:
        text = reader.take()
    elif news.content is not None and seen.number < job.number:
        # The text is whole once its job has completed, whoever has lost what of it on the way.
        text = reader.rest(job.number - 1, news.content)
    if text is None:
        yield from events_of(news)
        return
    reports = [(seen.number, seen.report), *([(news.progress.number, news.progress.report)] if news.progress else [])]
    report = max((report for number, report in reports if number == text.number), default=0)
    yield from events_of(news, token(job.id, Mark(text.number, report, text.end), text.offset, text.text))


@dataclass
class Asking:
    """Has a run tell its text, from when somebody reads it until they do not any more."""

    events: Events
    tellers: Collection[str] = CHAT_TASKS
    _run: int = 0
    _asked_at: float = float("-inf")

    def ask(self, job: Job, reader: Reader) -> None:
        """Ask if it is time to."""
        if not self._tells(job):
            return
        since = monotonic() - self._asked_at
        if job.number != self._run or since >= ASK_EVERY or (reader.missing and since >= ASK_AGAIN_AFTER):
            self._run, self._asked_at = job.number, monotonic()
            self.events.publish([JobEvent.of(job, FOLLOWED, job.number)])

    def wait(self, job: Job) -> float:
        """Seconds until it may be time again."""
        return max(ASK_AGAIN_AFTER, self._asked_at + ASK_EVERY - monotonic()) if self._tells(job) else float("inf")

    def _tells(self, job: Job) -> bool:
        """Whether somebody runs it who may be asked for its text."""
        return job.task_type in self.tellers and job.queue is not None and job.status is JobStatus.RUNNING
