"""Steering jobs over HTTP: cancel, start afresh, erase; one by one or by filter."""

from __future__ import annotations

from litestar import Controller, delete, post
from litestar.params import RawBody

from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.api.paths import JobIdPath, with_outlook
from app.wire import examples
from app.wire.jobs import JobView, read_job_id
from app.wire.steer import ErasedView, Erasure, JobsWhere, SteeredView
from domain.access import Right

WHICH = (
    "Jobs that match every filter; names are those of the list of jobs. Many jobs are moved a thousand at a time: "
    "where the call fails midway, those moved stay moved, and the same call goes on. Without a filter: `all: true`. "
)


class Steering(Controller):
    path = "/jobs"
    tags = ("jobs",)
    opt = {"right": Right.SUBMIT}  # noqa: RUF012  # as Litestar declares it

    @post(
        "/{job_id:str}/cancel",
        operation_id="cancel_job",
        summary="Cancel a job",
        description="Pending or running jobs only. Cancelling it again changes nothing.",
        status_code=200,
        operation_class=operation(Answer(200, examples.JOB, "The job, cancelled."), *refusals(404, 409)),
    )
    async def cancel(self, job_id: JobIdPath, services: Injected, caller: Calling) -> JobView:
        return await with_outlook(services, await services.steer.cancel(caller, read_job_id(job_id)))

    @post(
        "/{job_id:str}/retry",
        operation_id="retry_job",
        summary="Start a job afresh",
        description=(
            "Failed, cancelled or running jobs only. Counts, result, error and deadline are reset; the history of its "
            "runs is kept."
        ),
        status_code=200,
        operation_class=operation(Answer(200, examples.JOB, "The job, pending again."), *refusals(404, 409)),
    )
    async def retry(self, job_id: JobIdPath, services: Injected, caller: Calling) -> JobView:
        return await with_outlook(services, await services.steer.retry(caller, read_job_id(job_id)))

    @delete(
        "/{job_id:str}",
        operation_id="erase_job",
        summary="Erase a job",
        description="Final jobs only: the job, its input, its result, its history and its idempotency key are gone.",
        operation_class=operation(Answer(204, None, "It is gone."), *refusals(404, 409)),
    )
    async def erase(self, job_id: JobIdPath, services: Injected, caller: Calling) -> None:
        await services.steer.erase(caller, read_job_id(job_id))

    @post(
        "/cancel",
        operation_id="cancel_jobs",
        summary="Cancel many jobs",
        description=f"{WHICH}Without `status`: pending and running ones.",
        status_code=200,
        operation_class=operation(
            Answer(200, examples.STEERED, "How many."), *refusals(400, 413, 422), body=examples.WHERE
        ),
    )
    async def cancel_all(self, body: RawBody, services: Injected, caller: Calling) -> SteeredView:
        which = JobsWhere.read(body)
        return SteeredView.of(await services.steer.cancel_all(caller, which.where, dry_run=which.dry_run))

    @post(
        "/retry",
        operation_id="retry_jobs",
        summary="Start many jobs afresh",
        description=f"{WHICH}Without `status`: failed and running ones.",
        status_code=200,
        operation_class=operation(
            Answer(200, examples.STEERED, "How many."), *refusals(400, 413, 422), body=examples.WHERE
        ),
    )
    async def retry_all(self, body: RawBody, services: Injected, caller: Calling) -> SteeredView:
        which = JobsWhere.read(body)
        return SteeredView.of(await services.steer.retry_all(caller, which.where, dry_run=which.dry_run))

    @post(
        "/erase",
        operation_id="erase_jobs",
        summary="Erase all jobs about something",
        description="An owner's final jobs of one `owner_ref`. Those that have not ended stay, and are counted.",
        status_code=200,
        operation_class=operation(
            Answer(200, examples.ERASED, "How many."), *refusals(400, 413, 422), body=examples.ERASURE
        ),
    )
    async def erase_all(self, body: RawBody, services: Injected, caller: Calling) -> ErasedView:
        which = Erasure.read(body)
        return ErasedView.of(await services.steer.erase_all(caller, which.owner, which.owner_ref))
