"""What is asked for at about the same time travels together.

One statement is in flight; what is asked for meanwhile goes with the next. Nobody waits on purpose, and nobody is told
of anything older than his question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from domain.job import Job, JobId

MOST_TOGETHER = 50
"""Jobs per statement that reads them: each comes with its input and its result."""

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """Of one event loop. Whoever stops waiting takes nothing from the others.

    Args:
        send: the answers to these questions, in their order. Whoever asked hears what it raises.
        most: questions that travel together.
        flights: how many may be on their way at once. More of them only help where one may be held up by others' locks.
    """

    def __init__(self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], *, most: int, flights: int = 1) -> None:
        self._send = send
        self._most = most
        self._flights = flights
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []
        self._flying: set[asyncio.Task[Any] | None] = set()

    async def ask(self, question: Q) -> A:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        self._asked.append((question, answer))
        if len(self._flying) < self._flights:
            self._flying.add(loop.create_task(self._fly()))
        return await answer

    async def _fly(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[: self._most], self._asked[self._most :]
                await self._answer([(question, answer) for question, answer in asked if not answer.done()])
        finally:
            self._flying -= {asyncio.current_task()}

    async def _answer(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        if not asked:
            return
        try:
            told = await self._send([question for question, _ in asked])
        except Exception as error:  # whoever asked hears of it
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), each in zip(asked, told, strict=True):
            if not answer.done():  # its caller may have gone meanwhile
                answer.set_result(each)


class ReadTogether:
    """Of one event loop.

    Args:
        read: those of these jobs that are there.
    """

    def __init__(self, read: Callable[[Sequence[JobId]], Awaitable[Mapping[JobId, Job]]]) -> None:
        self._read = read
        self._together = Together(self._found, most=MOST_TOGETHER)

    async def get(self, job_id: JobId) -> Job | None:
        """The job, or None where there is none.

        Raises:
            StorageUnavailable.
        """
        return await self._together.ask(job_id)

    async def _found(self, job_ids: Sequence[JobId]) -> list[Job | None]:
        found = await self._read(list(set(job_ids)))
        return [found.get(job_id) for job_id in job_ids]
