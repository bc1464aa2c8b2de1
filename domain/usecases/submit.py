"""Take jobs in: check them, give each a queue, store them, wake workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from domain.access import Caller
from domain.chat import SCHEMA_AT, parse_chat_input
from domain.embedding import parse_embedding_input
from domain.errors import BadInput, JobNotFound, KeyReused, NoSuchUpload, Problem, StorageUnavailable, TooLarge
from domain.events import JobEvent
from domain.job import IdempotencyKey, JobId, JobStatus, NewJob, Priority
from domain.policy import Policies
from domain.ports import Added, Events, JobStore, Schemas
from domain.routing import TASK_KINDS, ModelKind, Routes
from domain.speech import AudioUpload, parse_speech_input
from domain.task_type import TaskType
from domain.telemetry import NO_TELEMETRY, Telemetry
from domain.usecases.preempt import Preempt
from domain.usecases.wake import Wake

_object = msgspec.json.Decoder(dict[str, Raw])

MOST_PROBLEMS = 20
"""Problems of a batch that are told at once; whoever has more will not read them all."""

KEY_REUSED = Problem("/idempotency_key", "This key came with another request before: use a new key for a new job.")

NO_SUCH_UPLOAD = Problem("/input/upload_id", "no such upload: it was never there, is another owner's, or was pruned")


class Submission(Struct, frozen=True, kw_only=True):
    """A job as a caller asks for it."""

    owner_service: str | None
    """None: the caller's own."""
    task_type: str
    model_profile: str
    input: Raw
    owner_ref: str = ""
    priority: Priority | None = None
    """None: what the caller's token says."""
    max_attempts: int = 3
    run_at: datetime | None = None
    deadline_at: datetime | None = None
    labels: dict[str, str] = {}
    idempotency: IdempotencyKey | None = None
    give_backs: int = 0
    """How often it counts as given back already: at the limit, what would give it back fails it."""


class Batch(Struct, frozen=True):
    """What came of a batch, in the order in which it was given."""

    id: UUID
    jobs: list[Added]

    @property
    def created(self) -> int:
        return sum(added.created for added in self.jobs)


@dataclass(frozen=True)
class Submit:
    jobs: JobStore
    routes: Callable[[], Routes]
    """Those of this moment."""
    wake: Wake
    events: Events
    preempt: Preempt
    policies: Callable[[], Policies]
    """Those in force: of owners, how many jobs may wait; of queues, whether urgent jobs take slots."""
    new_id: Callable[[], JobId]
    max_input_bytes: int
    schemas: Schemas
    telemetry: Telemetry = NO_TELEMETRY
    task_types: Mapping[str, TaskType[Any]] = field(default_factory=dict)
    """Those that the installation brings itself, by their names."""

    async def one(self, caller: Caller, submission: Submission) -> Added:
        """Store the job; it is safe once this returns, whatever becomes of the broker.

        With an idempotency key, the same submission again finds the same job, whatever has become of it.

        Raises:
            BadInput, TooLarge, Forbidden, TooManyPending, StorageUnavailable: nothing was stored.
        """
        new = self._accept(caller, submission, self.routes())
        while True:
            try:
                [added] = await self._store([new])
            except KeyReused:
                raise BadInput([KEY_REUSED]) from None
            except NoSuchUpload:
                raise BadInput([NO_SUCH_UPLOAD]) from None
            if added.created:
                return added
            with suppress(JobNotFound):  # erased since it was found: then this one is new
                return Added(await self.jobs.get(added.job.id), created=False)

    async def batch(self, caller: Caller, submissions: Sequence[Submission]) -> Batch:
        """Store all of these jobs in one commit, or none.

        Raises:
            BadInput: naming the jobs that are wrong, as `/jobs/17/...`.
            TooLarge, Forbidden, TooManyPending, StorageUnavailable: nothing was stored.
        """
        batch_id = self.new_id()
        # Ten thousand checks take a while: nobody else shall wait for them. What is served is asked here, on the loop.
        accepted = await asyncio.to_thread(self._accept_all, caller, submissions, self.routes(), batch_id)
        try:
            return Batch(batch_id, await self._store(accepted))
        except KeyReused as error:
            raise _in_batch(KEY_REUSED, accepted, error.job_ids) from None
        except NoSuchUpload as error:
            raise _in_batch(NO_SUCH_UPLOAD, accepted, error.job_ids) from None

    async def _store(self, accepted: Sequence[NewJob]) -> list[Added]:
        policies, took = self.policies(), self.telemetry.stopwatch()
        stored = await self._added(accepted, _ceilings(policies))
        created = [added.job for added in stored if added.created]
        self.telemetry.submitted(created, took())
        # After the commit: a ticket must never arrive before its row.
        self.events.publish([JobEvent.of(job, JobStatus.PENDING, job.number) for job in created])
        await self.wake.for_jobs(Counter(job.queue for job in created if job.queue and job.due))
        urgent = {job.queue for job in created if job.queue and job.due and job.priority is Priority.HIGH}
        for queue in urgent & {name for name, policy in policies.queues.items() if policy.preempt}:
            with suppress(StorageUnavailable):  # the jobs are stored, and the scheduler looks every second
                await self.preempt.make_room(queue)
        return stored

    async def _added(self, accepted: Sequence[NewJob], ceilings: Mapping[str, int]) -> list[Added]:
        while True:
            try:
                return await self.jobs.add(accepted, ceilings)
            except NoSuchUpload as error:
                if served := [new.id for new in accepted if new.id in error.job_ids and new.queue]:
                    raise NoSuchUpload(served) from None
                # Not served here: what its input means is for its worker to say.
                accepted = [replace(new, upload_id=None) if new.id in error.job_ids else new for new in accepted]

    def _accept_all(
        self, caller: Caller, submissions: Sequence[Submission], routes: Routes, batch_id: UUID
    ) -> list[NewJob]:
        accepted: list[NewJob] = []
        problems: list[Problem] = []
        for place, submission in enumerate(submissions):
            try:
                accepted.append(self._accept(caller, submission, routes, batch_id))
            except BadInput as error:
                problems += [problem.below(f"/jobs/{place}") for problem in error.problems]
                if len(submissions) == 1 or len(problems) >= MOST_PROBLEMS:
                    raise BadInput(problems, error.code) from None
            except TooLarge as error:
                raise TooLarge(f"/jobs/{place}: {error}") from None
        if problems:
            raise BadInput(problems)
        return accepted

    def _accept(self, caller: Caller, submission: Submission, routes: Routes, batch_id: UUID | None = None) -> NewJob:
        size = len(memoryview(submission.input))
        if size > self.max_input_bytes:
            raise TooLarge(
                f"The input has {size} bytes; at most {self.max_input_bytes} are accepted (MAX_INPUT_BYTES)."
            )
        _must_be_startable(submission)
        queue = routes.queue_of(submission.task_type, submission.model_profile)
        brought = self.task_types.get(submission.task_type)
        upload_id = _check_input(submission, self.schemas, brought, served=queue is not None)
        return NewJob(
            id=self.new_id(),
            owner_service=caller.owner_of(submission.owner_service),
            owner_ref=submission.owner_ref,
            task_type=submission.task_type,
            model_profile=submission.model_profile,
            input=submission.input,
            queue=queue,
            priority=caller.priority if submission.priority is None else submission.priority,
            max_attempts=submission.max_attempts,
            run_at=submission.run_at,
            deadline_at=submission.deadline_at,
            labels=submission.labels,
            batch_id=batch_id,
            idempotency=submission.idempotency,
            give_backs=submission.give_backs,
            # A token for all owners says nothing of any one's share.
            weight=caller.weight if caller.owner else None,
            upload_id=upload_id,
            traceparent=self.telemetry.traceparent(),
        )


def _in_batch(problem: Problem, accepted: Sequence[NewJob], job_ids: Collection[UUID]) -> BadInput:
    places = [place for place, new in enumerate(accepted) if new.id in job_ids]
    return BadInput([problem.below(f"/jobs/{place}") for place in places[:MOST_PROBLEMS]])


def _ceilings(policies: Policies) -> dict[str, int]:
    return {owner: policy.max_pending for owner, policy in policies.owners.items() if policy.max_pending is not None}


def _must_be_startable(submission: Submission) -> None:
    # A deadline that has passed is accepted: the same submission, sent again after it, must find its job.
    run_at, deadline_at = submission.run_at, submission.deadline_at
    if run_at and deadline_at and deadline_at <= run_at:
        raise BadInput([Problem("/deadline_at", "It must be later than `run_at`, or the job could never start.")])


def _check_input(
    submission: Submission, schemas: Schemas, brought: TaskType[Any] | None, *, served: bool
) -> UUID | None:
    """What is served here is checked now, not when it runs; what is not must at least be an object.

    Returns:
        The upload that it names.
    """
    kind = TASK_KINDS.get(submission.task_type)
    try:
        if served and kind is ModelKind.CHAT:
            _check_chat(submission.input, schemas)
            return None
        _must_be_object(submission.input)
        if brought:
            if served:
                brought.read(submission.input)
            return _upload_of(submission.input)
        if not served:
            return _upload_of(submission.input) if kind is ModelKind.SPEECH else None
        match kind:
            case ModelKind.EMBEDDINGS:
                parse_embedding_input(submission.input)
            case ModelKind.SPEECH:
                source = parse_speech_input(submission.input).source
                return source.id if isinstance(source, AudioUpload) else None
    except BadInput as error:
        raise BadInput([problem.below("/input") for problem in error.problems], error.code) from None
    return None


class _WithUpload(Struct):
    upload_id: UUID


_with_upload = msgspec.json.Decoder(_WithUpload)


def _upload_of(data: Raw) -> UUID | None:
    """The upload that the job of an external worker or a plug-in seems to name: it is kept for that job."""
    try:
        return _with_upload.decode(data).upload_id
    except msgspec.DecodeError:
        return None


def _check_chat(data: Raw, schemas: Schemas) -> None:
    schema = parse_chat_input(data).schema
    if schema is None:
        return
    try:
        schemas.check(schema)
    except BadInput as error:
        raise BadInput([problem.below(SCHEMA_AT) for problem in error.problems], error.code) from None


def _must_be_object(data: Raw) -> None:
    # A Raw taken from a request's body has been skipped over, not read: it may be any JSON, and not even UTF-8.
    try:
        str(data, "utf-8")
        _object.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadInput([Problem("", "must be a JSON object in UTF-8, and not nested too deeply")]) from None
