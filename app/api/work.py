"""External workers over HTTP: they claim jobs, keep them by heartbeats, and say how their runs ended."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, post
from litestar.params import RawBody

from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.api.paths import JobIdPath, with_outlook
from app.api.patience import presence_of
from app.wire import examples
from app.wire.jobs import JobView, read_job_id
from app.wire.work import ClaimedJobs, ClaimRequest, Completion, FailedRun, Heartbeat, Release, Renewed
from domain.access import Right

AnyRequest = Request[Any, Any, Any]

WORK = {"right": Right.WORK}


class Working(Controller):
    path = "/jobs"
    tags = ("work",)
    opt = WORK

    @post(
        "/claim",
        operation_id="claim_jobs",
        summary="Claim jobs",
        description=(
            "The most urgent due jobs among those that match, never one job to two workers. With `wait`, the answer "
            "comes as soon as there is one. A job is the worker's until its lease runs out: renew it by heartbeats."
        ),
        status_code=200,
        operation_class=operation(
            Answer(200, examples.CLAIMED, "The jobs, or none."), *refusals(400, 413, 422), body=examples.CLAIM
        ),
    )
    async def claim(self, request: AnyRequest, body: RawBody, services: Injected, caller: Calling) -> ClaimedJobs:
        wanted = ClaimRequest.read(body)
        async with presence_of(request) as worker:
            claim = wanted.claim(services.claims.lease)
            return ClaimedJobs.of(await services.claims.claim(caller, claim, wanted.wait, worker))

    @post(
        "/{job_id:str}/heartbeat",
        operation_id="heartbeat_job",
        summary="Keep a job",
        description=(
            "Renews the lease for as long as was claimed. 409: the job is lost (cancelled, started afresh, or its "
            "lease ran out), so stop the run."
        ),
        status_code=200,
        operation_class=operation(
            Answer(200, examples.RENEWED, "The lease holds on."),
            *refusals(400, 404, 409, 413, 422),
            body=examples.HEARTBEAT,
        ),
    )
    async def heartbeat(self, job_id: JobIdPath, body: RawBody, services: Injected, caller: Calling) -> Renewed:
        heartbeat = Heartbeat.read(body)
        lease = heartbeat.lease(read_job_id(job_id))
        return Renewed.of(lease, await services.lend.report(caller, lease, heartbeat.reported))

    @post(
        "/{job_id:str}/fail",
        operation_id="fail_job",
        summary="Report a failed run",
        description="The job is pending again or failed, as the table of error codes says. The same report again: 200.",
        status_code=200,
        operation_class=operation(
            Answer(200, examples.JOB, "The job."), *refusals(400, 404, 409, 413, 422), body=examples.FAILED_RUN
        ),
    )
    async def fail(self, job_id: JobIdPath, body: RawBody, services: Injected, caller: Calling) -> JobView:
        run = FailedRun.read(body)
        job = await services.lend.fail(caller, run.lease(read_job_id(job_id)), run.failure)
        return await with_outlook(services, job)

    @post(
        "/{job_id:str}/release",
        operation_id="release_job",
        summary="Give a job back",
        description="Unharmed: pending, in its old place, nothing counted.",
        status_code=200,
        operation_class=operation(
            Answer(200, examples.JOB, "The job."), *refusals(400, 404, 409, 413, 422), body=examples.RELEASE
        ),
    )
    async def release(self, job_id: JobIdPath, body: RawBody, services: Injected, caller: Calling) -> JobView:
        job = await services.lend.release(caller, Release.read(body).lease(read_job_id(job_id)))
        return await with_outlook(services, job)


class Completing(Controller):
    """Apart, because its bodies may be larger."""

    path = "/jobs/{job_id:str}/complete"
    tags = ("work",)
    opt = WORK

    @post(
        "/",
        operation_id="complete_job",
        summary="Report a completed run",
        description=(
            "Stores the result as it was sent. The same completion again: 200. A result whose `schema_version` is one "
            "of ours must fit it. With a lease that is lost, nothing changes: 409."
        ),
        status_code=200,
        operation_class=operation(
            Answer(200, examples.JOB, "The job, completed."),
            *refusals(400, 404, 409, 413, 422),
            body=examples.COMPLETION,
        ),
    )
    async def complete(self, job_id: JobIdPath, body: RawBody, services: Injected, caller: Calling) -> JobView:
        completion = Completion.read(body)
        lease = completion.lease(read_job_id(job_id))
        return JobView.whole(await services.lend.complete(caller, lease, bytes(completion.result)))
