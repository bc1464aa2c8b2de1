"""New jobs, one or many. A batch is read job by job, so that it costs little more memory than its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from app.wire.body import UnreadableBody, decode, decode_outline
from app.wire.fields import (
    MOST_LABELS,
    PRIORITIES,
    JsonObject,
    LabelName,
    LabelValue,
    Moment,
    Name,
    OwnerRef,
    PriorityName,
    in_utc,
    must_be_object,
)
from app.wire.idempotency import Key, read_key
from domain.errors import BadInput, Problem
from domain.job import IdempotencyKey, JobStatus
from domain.usecases.submit import MOST_PROBLEMS, Batch, Submission

MOST_JOBS = 10_000
"""Of one batch."""


class JobDefaults(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the jobs of a batch have in common. A field of a job wins over the same one here, as a whole."""

    owner_service: (
        Annotated[Name, Meta(description="The calling service. May be left out where the token has an owner.")]
        | UnsetType
    ) = UNSET
    task_type: (
        Annotated[Name, Meta(description="What kind of work. One not served here waits for an external worker.")]
        | UnsetType
    ) = UNSET
    model_profile: (
        Annotated[Name, Meta(description="Which model runtime does it; one not served here waits likewise.")]
        | UnsetType
    ) = UNSET
    input: (
        Annotated[JsonObject, Meta(description="What the work needs; comes back byte for byte as it was sent.")]
        | UnsetType
    ) = UNSET
    owner_ref: Annotated[OwnerRef, Meta(description="The caller's own name for what the job is about.")] = ""
    priority: (
        Annotated[
            PriorityName,
            Meta(description="Within a queue, higher ones start first. Left out: the token's, else normal."),
        ]
        | UnsetType
    ) = UNSET
    max_attempts: Annotated[int, Meta(ge=1, le=100, description="Failed runs until the job fails for good.")] = 3
    run_at: Annotated[
        Moment | None, Meta(description="Not started before; with a time zone (RFC 3339). Left out: at once.")
    ] = None
    deadline_at: Annotated[
        Moment | None,
        Meta(description="Not started for the first time by then, it is cancelled. Later than `run_at`."),
    ] = None
    labels: Annotated[
        dict[LabelName, LabelValue],
        Meta(max_length=MOST_LABELS, description="The caller's own; jobs can be listed and steered by them."),
    ] = {}


class BatchJob(JobDefaults, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A job of a batch. What neither it nor the defaults have, but `POST /jobs` requires, is missing."""

    idempotency_key: (
        Annotated[Key, Meta(description="Sending the same job again under the same key finds it, unchanged.")]
        | UnsetType
    ) = UNSET


class NewJob(BatchJob, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A job to be done."""

    task_type: Annotated[Name, Meta(description="What kind of work. One not served here waits for an external worker.")]
    model_profile: Annotated[Name, Meta(description="Which model runtime does it; one not served here waits likewise.")]
    input: Annotated[JsonObject, Meta(description="What the work needs; comes back byte for byte as it was sent.")]

    def submission(self, idempotency: IdempotencyKey | None) -> Submission:
        """What the domain makes of it.

        Raises:
            BadInput: a time is beyond the calendar.
        """
        return Submission(
            owner_service=None if self.owner_service is UNSET else self.owner_service,
            task_type=self.task_type,
            model_profile=self.model_profile,
            input=self.input,
            owner_ref=self.owner_ref,
            priority=None if self.priority is UNSET else PRIORITIES[self.priority],
            max_attempts=self.max_attempts,
            run_at=self.run_at and in_utc(self.run_at, "/run_at"),
            deadline_at=self.deadline_at and in_utc(self.deadline_at, "/deadline_at"),
            labels=self.labels,
            idempotency=idempotency,
        )


class NewBatch(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Jobs to be stored together: all of them, or none."""

    defaults: JobDefaults | UnsetType = UNSET
    jobs: Annotated[list[BatchJob], Meta(min_length=1, max_length=MOST_JOBS)]


class BatchedJob(Struct, frozen=True):
    """What became of one job of a batch."""

    index: Annotated[int, Meta(description="Its place in the batch, from 0.")]
    id: UUID
    status: Annotated[JobStatus, Meta(description="That of a job found by its key may be any.")]


class BatchView(Struct, frozen=True):
    """A batch, stored."""

    batch_id: UUID
    created: int
    existing: Annotated[int, Meta(description="Jobs that were found by their idempotency keys.")]
    jobs: Annotated[list[BatchedJob], Meta(description="In the order in which they were sent.")]

    @classmethod
    def of(cls, batch: Batch) -> BatchView:
        jobs = [BatchedJob(index, added.job.id, added.job.status) for index, added in enumerate(batch.jobs)]
        return cls(batch.id, batch.created, len(jobs) - batch.created, jobs)


SHORT = 1 << 20
"""Bytes of an array that has not millions of elements, whatever they are."""


@cache
def _many() -> msgspec.json.Decoder[Any]:
    """Of an array with a place for each job: a list of millions would be built before its length is looked at.

    Made when the first large batch comes: its places take 7 MB.
    """
    places = [(f"job_{index}", Raw | UnsetType, UNSET) for index in range(MOST_JOBS)]
    return msgspec.json.Decoder(msgspec.defstruct("_Jobs", places, array_like=True, forbid_unknown_fields=True))


class _Outline(Struct, kw_only=True, forbid_unknown_fields=True):
    """A batch whose jobs have not been read."""

    defaults: Raw | UnsetType = UNSET
    jobs: Raw


_new_job = msgspec.json.Decoder(NewJob)
_defaults = msgspec.json.Decoder(JobDefaults)
_outline = msgspec.json.Decoder(_Outline)
_few = msgspec.json.Decoder(list[Raw])
_encoder = msgspec.json.Encoder()
_members = msgspec.json.Decoder(dict[str, Raw])


def read_job(body: bytes, key_headers: Sequence[str] = ()) -> Submission:
    """A job from the body of a request.

    Raises:
        UnreadableBody, BadInput.
    """
    new = decode(_new_job, body)
    return new.submission(read_key(key_headers, new.idempotency_key, body))


def read_batch(body: bytes) -> list[Submission]:
    """The jobs of a batch, defaults applied. Takes seconds for the largest: not on the event loop.

    Raises:
        UnreadableBody: also of a single job.
        BadInput: pointing at the jobs that are wrong, as `/jobs/17/...`.
    """
    outline = decode_outline(_outline, body)
    defaults = _read_defaults(outline.defaults)
    submissions: list[Submission] = []
    problems: list[Problem] = []
    for index, job in enumerate(_split(outline.jobs)):
        try:
            submissions.append(read_job(_merged(job, defaults)))
        except BadInput as error:
            problems += [problem.below(f"/jobs/{index}") for problem in error.problems]
        except UnreadableBody as error:
            raise UnreadableBody(f"/jobs/{index}: {error}") from None
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise BadInput(problems)
    return submissions


def _split(data: Raw) -> list[Raw]:
    try:
        jobs = _few.decode(data) if memoryview(data).nbytes < SHORT else None
        if jobs is None or len(jobs) > MOST_JOBS:
            jobs = [job for job in msgspec.structs.astuple(_many().decode(data)) if job is not UNSET]
    except msgspec.ValidationError as error:
        raise BadInput([Problem.of(error).below("/jobs")]) from None
    if not jobs:
        raise BadInput([Problem("/jobs", "Expected `array` of length >= 1")])
    return jobs


def _read_defaults(data: Raw | UnsetType) -> Mapping[str, Raw]:
    if data is UNSET:
        return {}
    try:
        given = decode(_defaults, bytes(data))
        if given.input is not UNSET:  # which nobody else looks at where every job has its own
            must_be_object(given.input, "/input")
    except BadInput as error:
        raise BadInput([problem.below("/defaults") for problem in error.problems]) from None
    except UnreadableBody as error:
        raise UnreadableBody(f"/defaults: {error}") from None
    return _members.decode(data)


def _merged(job: Raw, defaults: Mapping[str, Raw]) -> bytes:
    if not defaults:
        return bytes(job)
    try:
        members = {**defaults, **_members.decode(job)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return bytes(job)  # no object, or not even UTF-8: whoever reads it next says so
    merged = bytearray()
    _encoder.encode_into(members, merged)
    return bytes(merged)  # a copy of just its size: what the encoder gives has room to grow
