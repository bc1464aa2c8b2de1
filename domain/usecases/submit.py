"""Take a job in: check it, give it a queue, store it, wake a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from domain.chat import parse_chat_input
from domain.errors import BadInput, TooLarge, Problem
from domain.job import Job, JobId, NewJob, Priority
from domain.ports import JobStore
from domain.routing import TASK_KINDS, ModelKind, Routes
from domain.usecases.wake import Wake

_object = msgspec.json.Decoder(dict[str, Raw])


class Submission(Struct, frozen=True, kw_only=True):
    """A job as a caller asks for it."""

    owner_service: str
    task_type: str
    model_profile: str
    input: Raw
    owner_ref: str = ""
    priority: Priority = Priority.NORMAL
    max_attempts: int = 3
    run_at: datetime | None = None


@dataclass(frozen=True)
class Submit:
    jobs: JobStore
    routes: Routes
    wake: Wake
    new_id: Callable[[], JobId]
    max_input_bytes: int

    async def one(self, submission: Submission) -> Job:
        """Store the job; it is safe once this returns, whatever becomes of the broker.

        Raises:
            BadInput, TooLarge, StorageUnavailable: nothing was stored.
        """
        [job] = await self._store([self._accept(submission)])
        return job

    async def _store(self, accepted: Sequence[NewJob]) -> list[Job]:
        jobs = await self.jobs.add(accepted)
        # After the commit: a ticket must never arrive before its row.
        await self.wake.for_jobs(Counter(job.queue for job in jobs if job.queue and job.due))
        return jobs

    def _accept(self, submission: Submission) -> NewJob:
        size = len(memoryview(submission.input))
        if size > self.max_input_bytes:
            raise TooLarge(f"The input has {size} bytes; at most {self.max_input_bytes} are accepted.")
        queue = self.routes.queue_of(submission.task_type, submission.model_profile)
        _check_input(submission, served=queue is not None)
        return NewJob(
            id=self.new_id(),
            owner_service=submission.owner_service,
            owner_ref=submission.owner_ref,
            task_type=submission.task_type,
            model_profile=submission.model_profile,
            input=submission.input,
            queue=queue,
            priority=submission.priority,
            max_attempts=submission.max_attempts,
            run_at=submission.run_at,
        )


def _check_input(submission: Submission, *, served: bool) -> None:
    """What is served here is checked now, not when it runs; what is not must at least be an object."""
    try:
        if served and TASK_KINDS[submission.task_type] is ModelKind.CHAT:
            parse_chat_input(submission.input)
        else:
            _must_be_object(submission.input)
    except BadInput as error:
        raise BadInput([problem.below("/input") for problem in error.problems], error.code) from None


def _must_be_object(data: Raw) -> None:
    # A Raw taken from a request's body has been skipped over, not read: it may be any JSON, and not even UTF-8.
    try:
        str(data, "utf-8")
        _object.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadInput([Problem("", "must be a JSON object in UTF-8, and not nested too deeply")]) from None
