"""Tells a caller what happens to a job, as it happens, until the job ends or the caller goes away.

Nothing is kept between two looks but how far the caller has been told: whatever wakes it, late or in vain, it looks at
the job and tells what is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from app.watch import Watch
from app.wire.events import KEEP_ALIVE, RETRY, Mark, events_of
from domain.access import Caller
from domain.errors import BadInput, JobNotFound, Problem, StorageUnavailable
from domain.job import JobId
from domain.usecases.browse import Browse, News

KEEP_ALIVE_EVERY = 15.0
AGAIN_AFTER = 1.0
"""Seconds until the next look while the storage is away: a browser would not come back to a stream that was refused."""


@dataclass(frozen=True)
class Follow:
    browse: Browse
    watch: Watch
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
        silent = False
        while True:
            for event in events_of(news):
                yield event.text
                seen, silent = event.mark, False
            if seen.last or self.watch.dismissed:
                return
            if silent:
                yield KEEP_ALIVE
            silent = True
            await self.watch.change(news.job.id, news.pulse, self.keep_alive)
            try:
                news = await self._news(caller, news.job.id, seen)
            except JobNotFound:
                return
            except StorageUnavailable:
                await asyncio.sleep(AGAIN_AFTER)
                news = news.without_events()

    async def _news(self, caller: Caller, job_id: JobId, seen: Mark) -> News:
        return await self.browse.news(caller, job_id, number=seen.number, report=(seen.number, seen.report))
