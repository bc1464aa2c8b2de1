"""Reads that are asked for at about the same time travel together.

One statement is in flight; what is asked for meanwhile goes with the next. Nobody is told of anything older than his
question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from domain.job import Job, JobId

MOST_TOGETHER = 50
"""Jobs per statement: each comes with its input and its result."""


class ReadTogether:
    """Of one event loop.

    Args:
        read: those of these jobs that are there.
    """

    def __init__(self, read: Callable[[Sequence[JobId]], Awaitable[Mapping[JobId, Job]]]) -> None:
        self._read = read
        self._asked: list[tuple[JobId, asyncio.Future[Job | None]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def get(self, job_id: JobId) -> Job | None:
        """The job, or None where there is none.

        Raises:
            StorageUnavailable.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Job | None] = loop.create_future()
        self._asked.append((job_id, answer))
        if self._reading is None:
            self._reading = loop.create_task(self._read_on())
        return await answer

    async def _read_on(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:MOST_TOGETHER], self._asked[MOST_TOGETHER:]
                await self._answer([(job_id, answer) for job_id, answer in asked if not answer.done()])
        finally:
            self._reading = None

    async def _answer(self, asked: Sequence[tuple[JobId, asyncio.Future[Job | None]]]) -> None:
        if not asked:
            return
        try:
            found = await self._read(list({job_id for job_id, _ in asked}))
        except Exception as error:  # whoever asked hears of it
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for job_id, answer in asked:
            if not answer.done():  # its caller may have gone meanwhile
                answer.set_result(found.get(job_id))
