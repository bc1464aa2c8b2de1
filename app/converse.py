"""Waits for the answers of chats, for as long as their callers do and their time allows.

Nothing runs on for a caller who has gone, unless an idempotency key says that they come back for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Any

import structlog

from app.follow import ASK_AGAIN_AFTER, Asking
from app.readers import Reader, Readers, Text
from app.watch import ForChange, ForOutcome, Watch, until
from domain.access import Caller
from domain.errors import ChatFailed, ChatRefused, ErrorCode, Failure, JobNotFound, StorageUnavailable
from domain.events import Pulse
from domain.job import BEGUN_AGAIN, CALLER_WENT_AWAY, OUT_OF_TIME, Job, JobStatus
from domain.ports import Added, Events
from domain.usecases.browse import Browse
from domain.usecases.converse import Chatted, Converse, Question

log = structlog.get_logger()

LOOK_EVERY = 1.0
"""Seconds between two looks at the circuit of a queue in which somebody waits, and while the storage is away."""

HELD_BACK = 10.0
"""Seconds for which nothing is said of a stream that has not begun: until then a failure can be told by its status."""

KEEP_ALIVE = 15.0
"""Seconds of silence at most, after that."""

STOPPING = Failure(ErrorCode.CANCELLED, "The service is about to stop: try again.", timedelta(seconds=1))
TAKEN_AWAY = Failure(ErrorCode.STALE_WORKER, "The run was interrupted after its text had begun.")
ERASED = Failure(ErrorCode.UNKNOWN, "The job was erased.")
OTHER_TEXT = Failure(ErrorCode.BAD_RESPONSE, "The answer is another one than the text that was told.")


@dataclass(frozen=True)
class Chats:
    converse: Converse
    browse: Browse
    watch: Watch
    readers: Readers
    events: Events
    timeout: timedelta
    """Of a chat that names none."""
    look_every: float = LOOK_EVERY
    held_back: float = HELD_BACK
    keep_alive: float = KEEP_ALIVE
    _partings: set[asyncio.Task[Any]] = field(default_factory=set)

    async def answer(self, caller: Caller, question: Question) -> Chatted:
        """The answer, when it is there. Whoever has gone cancels this, and with it the job.

        Raises:
            ChatFailed.
            BadInput, TooLarge, Forbidden, TooManyPending, StorageUnavailable: nothing was stored.
        """
        async for told in self._chat(caller, question, reads=False):
            if isinstance(told, Chatted):
                return told
        raise AssertionError("A chat ends with an answer, or a failure.")

    def stream(self, caller: Caller, question: Question) -> AsyncIterator[Text | Chatted | None]:
        """The answer's text as it comes, then the answer. None now and then, while nothing is to be told.

        All of the text is that of one run, in order and without a gap, and together it is the answer's content.

        Raises:
            ChatFailed, also after some of the text.
            BadInput, TooLarge, Forbidden, TooManyPending, StorageUnavailable: nothing was stored.
        """
        return self._chat(caller, question, reads=True)

    async def _chat(self, caller: Caller, question: Question, *, reads: bool) -> AsyncIterator[Text | Chatted | None]:
        """
        Args:
            reads: whether the text is wanted too. Who waits for the answer alone is not held to what others, who read
                along, were told: a next run, or another provider, may still answer.
        """
        timeout = question.timeout or self.timeout
        end = monotonic() + timeout.total_seconds()
        added = await self._stored(caller, question, timeout)
        job = added.job
        woken = asyncio.Event()
        waiter = ForChange(_pulse(job), woken) if reads else ForOutcome(_pulse(job), woken)
        reader = Reader(woken.set)
        asking, run, silent_until = Asking(self.events), 0, monotonic() + self.held_back
        with self._waited_for(question, job) as waiting, self.watch.attend(job.id, waiter):
            with self.readers.read(job.id, reader) if reads else nullcontext():
                while not job.status.final:
                    if run and max(job.number, reader.number) > run:
                        await waiting.end(ChatFailed(TAKEN_AWAY, job.id), BEGUN_AGAIN)
                    if text := reader.take():
                        run, silent_until = text.number, monotonic() + self.keep_alive
                        yield text
                    # One that a key found may not tell its text by itself.
                    if reads and (reader.missing or not added.created):
                        asking.ask(job, reader)
                    if monotonic() >= silent_until:
                        silent_until = monotonic() + self.keep_alive
                        yield None
                    await self._must_go_on(waiting, waiter.seen, end)
                    pause = ASK_AGAIN_AFTER if reader.missing else self.look_every
                    await until(woken, max(0.0, min(pause, end - monotonic(), silent_until - monotonic())))
                    woken.clear()
                    # What ended just before its time was up is seen at once.
                    if waiter.news or monotonic() >= end:
                        waiter.news = False
                        job = waiting.job = await self._look(caller, job, waiter)
                waiting.over = True
            chatted = self.converse.answer(job)
            if run and run != job.number - 1:
                raise ChatFailed(TAKEN_AWAY, job.id)
            if run and not reader.fits(chatted.content):
                raise ChatFailed(OTHER_TEXT, job.id)
            if reads and (rest := reader.rest(job.number - 1, chatted.content)):
                yield rest
            yield chatted

    async def _stored(self, caller: Caller, question: Question, within: timedelta) -> Added:
        """The chat's job. Who goes away meanwhile leaves none behind."""
        asking = asyncio.create_task(self.converse.ask(caller, question, within))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._later(self._undo(question, asking))
            raise

    async def _undo(self, question: Question, asking: asyncio.Task[Added]) -> None:
        added = await asking
        if question.idempotency is None:
            await self.converse.give_up(added.job, CALLER_WENT_AWAY)

    @contextmanager
    def _waited_for(self, question: Question, job: Job) -> Iterator[Waiting]:
        """Within this somebody waits for the job; where they go before it is over, it is cancelled."""
        waiting = Waiting(self.converse, question, job)
        try:
            yield waiting
        finally:
            if not waiting.over and question.idempotency is None:
                self._later(self.converse.give_up(job, CALLER_WENT_AWAY))

    async def _must_go_on(self, waiting: Waiting, seen: Pulse | None, end: float) -> None:
        """
        Raises:
            ChatFailed: there is nothing to wait for any more.
        """
        pending = (seen.status if seen else waiting.job.status) is JobStatus.PENDING
        if monotonic() >= end:
            waited = " It had not started: its queue was busy or held, or no worker serves it." if pending else ""
            failure = Failure(ErrorCode.TIMEOUT, f"{OUT_OF_TIME.message}{waited}")
            await waiting.end(ChatFailed(failure, waiting.job.id), OUT_OF_TIME)
        if self.watch.dismissed:
            refused = ChatRefused(STOPPING, waiting.job.id)
            if waiting.question.idempotency is not None:
                waiting.over = True
                raise refused
            await waiting.end(refused, STOPPING)
        if pending:
            try:
                await self.converse.must_be_open(waiting.job.queue, waiting.job)
            except ChatRefused as refused:
                await waiting.end(refused, refused.failure, among=(JobStatus.PENDING,))
            except StorageUnavailable:
                pass  # nothing starts meanwhile

    async def _look(self, caller: Caller, job: Job, waiter: ForChange | ForOutcome) -> Job:
        try:
            seen = await self.browse.one(caller, job.id)
        except JobNotFound:
            raise ChatFailed(ERASED, job.id) from None
        except StorageUnavailable:
            await asyncio.sleep(self.look_every)
            waiter.news = True
            waiter.woken.set()
            return job
        waiter.seen = _pulse(seen)
        return seen

    def _later(self, parting: Coroutine[Any, Any, object]) -> None:
        """Do this although nobody waits for it any more."""
        task = asyncio.create_task(_quietly(parting))
        self._partings.add(task)
        task.add_done_callback(self._partings.discard)


@dataclass
class Waiting:
    """Somebody who waits for a chat."""

    converse: Converse
    question: Question
    job: Job
    over: bool = False
    """Whether nothing is to be done where they go now."""

    async def end(self, error: ChatFailed, failure: Failure, among: Sequence[JobStatus] | None = None) -> None:
        """Cancel the chat and raise the error, unless it has ended meanwhile, or is not among these: then go on."""
        with suppress(StorageUnavailable):
            if not await self.converse.give_up(self.job, failure, among):
                return
        self.over = True
        raise error


async def _quietly(parting: Coroutine[Any, Any, object]) -> None:
    try:
        await parting
    except Exception as error:  # its deadline, or its end, takes care of it
        log.info("chat not cancelled", reason=type(error).__name__)


def _pulse(job: Job) -> Pulse:
    return Pulse(job.status, job.number)
