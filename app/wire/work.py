"""What external workers send and are answered: claims, and reports on the runs that came of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from app.wire.body import decode
from app.wire.fields import JsonObject, Moment, Name, must_be_object
from app.wire.jobs import JobView, seen
from domain.errors import ErrorCode, Failure, TooLarge
from domain.job import Job, JobId, Lease, LeaseToken
from domain.ports import ExternalClaim

MOST_NAMES = 100
LONGEST_WAIT = 30
SHORTEST_LEASE, LONGEST_LEASE = 5, 86_400
MAX_PROGRESS_BYTES = 64 * 1024

Names = Annotated[list[Name], Meta(min_length=1, max_length=MOST_NAMES)]
Token = Annotated[UUID, Meta(description="As it came with the claimed job.")]


class ClaimRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A worker asking for jobs. Of a list that is left out, anything matches."""

    worker_id: Annotated[Name, Meta(description="The worker's own name; its jobs show it.")]
    task_types: Names | UnsetType = UNSET
    model_profiles: Names | UnsetType = UNSET
    owner_services: Names | UnsetType = UNSET
    queues: Names | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=100, description="How many jobs at most.")] = 1
    lease_timeout: (
        Annotated[
            float,
            Meta(
                ge=SHORTEST_LEASE,
                le=LONGEST_LEASE,
                description="Seconds that a heartbeat lasts. Left out: `WORKER_LEASE_TIMEOUT`.",
            ),
        ]
        | UnsetType
    ) = UNSET
    wait: Annotated[
        float, Meta(ge=0, le=LONGEST_WAIT, description="Seconds to hold the answer while there is no job.")
    ] = 0

    @classmethod
    def read(cls, body: bytes) -> ClaimRequest:
        return decode(_claim, body)

    def claim(self, default_lease: timedelta) -> ExternalClaim:
        return ExternalClaim(
            worker_id=self.worker_id,
            lease=default_lease if self.lease_timeout is UNSET else timedelta(seconds=self.lease_timeout),
            limit=self.limit,
            task_types=_names(self.task_types),
            model_profiles=_names(self.model_profiles),
            owner_services=_names(self.owner_services),
            queues=_names(self.queues),
        )


class ClaimedJob(JobView, kw_only=True, frozen=True):
    """A job that is now the worker's, until it ends it or its lease runs out."""

    lease_token: Annotated[UUID, Meta(description="Send it with whatever is reported on this run.")]

    @classmethod
    def of_claim(cls, job: Job) -> ClaimedJob:
        """The job must be running and whole."""
        if job.lease is None or job.input is None:
            raise ValueError("only a running job has a lease")
        return cls(**seen(job), input=job.input, result=job.result, lease_token=job.lease.token)


class ClaimedJobs(Struct, frozen=True):
    """What a claim was given; nothing is no error."""

    jobs: list[ClaimedJob]

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> ClaimedJobs:
        return cls([ClaimedJob.of_claim(job) for job in jobs])


class Held(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The right to speak for a run."""

    lease_token: Token

    def lease(self, job_id: JobId) -> Lease:
        return Lease(job_id, LeaseToken(self.lease_token))


class Release(Held, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A run that gives its job back unharmed."""

    @classmethod
    def read(cls, body: bytes) -> Release:
        return decode(_release, body)


class Heartbeat(Held, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A run that goes on."""

    progress: (
        Annotated[JsonObject, Meta(description=f"How far it is; at most {MAX_PROGRESS_BYTES} bytes.")] | UnsetType
    ) = UNSET

    @classmethod
    def read(cls, body: bytes) -> Heartbeat:
        """
        Raises:
            UnreadableBody, BadInput, TooLarge.
        """
        heartbeat = decode(_heartbeat, body)
        if (progress := heartbeat.reported) is not None:
            must_be_object(progress, "/progress")
            if (size := len(memoryview(progress))) > MAX_PROGRESS_BYTES:
                raise TooLarge(f"The progress has {size} bytes; at most {MAX_PROGRESS_BYTES} are accepted.")
        return heartbeat

    @property
    def reported(self) -> Raw | None:
        return None if self.progress is UNSET else self.progress


class Renewed(Struct, frozen=True):
    """The lease holds on."""

    job_id: UUID
    lease_expires_at: Moment

    @classmethod
    def of(cls, lease: Lease, expires_at: datetime) -> Renewed:
        return cls(lease.job_id, expires_at)


class Completion(Held, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A run that is done."""

    result: Annotated[
        JsonObject,
        Meta(description="Any object; one whose `schema_version` is ours (`ai.….v1`) must fit it."),
    ]

    @classmethod
    def read(cls, body: bytes) -> Completion:
        """
        Raises:
            UnreadableBody, BadInput.
        """
        completion = decode(_completion, body)
        must_be_object(completion.result, "/result")
        return completion


class FailedRun(Held, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A run that did not succeed; what follows is in the table of error codes."""

    error_code: ErrorCode
    error_message: Annotated[str, Meta(description="For people; of a long one, 2,000 characters are kept.")] = ""
    retry_after: (
        Annotated[
            float,
            Meta(ge=0, le=LONGEST_LEASE, description="Seconds not to try again before; lengthens a delay only."),
        ]
        | UnsetType
    ) = UNSET

    @classmethod
    def read(cls, body: bytes) -> FailedRun:
        return decode(_failed_run, body)

    @property
    def failure(self) -> Failure:
        retry_after = None if self.retry_after is UNSET else timedelta(seconds=self.retry_after)
        return Failure(self.error_code, self.error_message, retry_after)


_claim = msgspec.json.Decoder(ClaimRequest)
_release = msgspec.json.Decoder(Release)
_heartbeat = msgspec.json.Decoder(Heartbeat)
_completion = msgspec.json.Decoder(Completion)
_failed_run = msgspec.json.Decoder(FailedRun)


def _names(names: list[str] | UnsetType) -> tuple[str, ...] | None:
    return None if names is UNSET else tuple(names)
