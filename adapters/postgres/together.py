"""What is asked for at about the same time travels together.

One statement is in flight; what is asked for meanwhile goes with the next. Nobody waits on purpose, and nobody is told
of anything older than his question. A flight that is late holds up only those who are on it: its connection may have
died without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from domain.errors import StorageUnavailable
from domain.job import Job, JobId

MOST_TOGETHER = 50
"""Jobs per statement that reads them: each comes with its input and its result."""

LATE = 1.0
"""Seconds after which a flight is no longer waited for by those who are not on it."""

MOST_LATE = 4
"""Flights that are late at once: where more would be, the next ones would be too."""

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
        self._late: set[asyncio.Task[Any] | None] = set()

    async def ask(self, question: Q) -> A:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        self._asked.append((question, answer))
        self._set_out()
        return await answer

    def _set_out(self) -> None:
        if len(self._flying - self._late) < self._flights and any(not answer.done() for _, answer in self._asked):
            self._flying.add(asyncio.create_task(self._fly()))

    async def _fly(self) -> None:
        flight, loop = asyncio.current_task(), asyncio.get_running_loop()
        try:
            while self._asked and flight not in self._late:
                asked, self._asked = self._asked[: self._most], self._asked[self._most :]
                late = loop.call_later(LATE, self._be_late, flight)
                try:
                    await self._answer([(question, answer) for question, answer in asked if not answer.done()])
                finally:
                    late.cancel()
        finally:
            self._flying.discard(flight)
            self._late.discard(flight)
            self._set_out()

    def _be_late(self, flight: asyncio.Task[Any] | None) -> None:
        if len(self._late) < MOST_LATE:
            self._late.add(flight)
            self._set_out()

    async def _answer(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        if not asked:
            return
        try:
            told = await self._send([question for question, _ in asked])
        except Exception as error:  # whoever asked hears of it
            _refuse(asked, error)
            return
        except BaseException:  # the flight is given up, not those who are on it
            _refuse(asked, StorageUnavailable("The statement was given up."))
            raise
        for (_, answer), each in zip(asked, told, strict=True):
            if not answer.done():  # its caller may have gone meanwhile
                answer.set_result(each)


def _refuse(asked: Sequence[tuple[Any, asyncio.Future[Any]]], error: Exception) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(error)


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
