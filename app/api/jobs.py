"""Jobs over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Request, Response, get, post
from litestar.openapi.spec import Parameter as Documented
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import PathParameter, RawBody

from app.api.documents import Answer, operation, refusals
from app.api.injected import Injected
from app.api.patience import while_connected
from app.wire import examples
from app.wire.jobs import JobPage, JobQuery, JobsQuery, JobView, NewJob, read_job_id

AnyRequest = Request[Any, Any, Any]
JobIdPath = Annotated[
    str, PathParameter(description="The job's id.", schema_extra={"format": "uuid", "examples": [str(examples.JOB_ID)]})
]

PREFER = Documented(
    "Prefer",
    "header",
    Schema(type=OpenAPIType.STRING, examples=["wait=30"]),
    description="`wait=SECONDS` is the same as the parameter, which wins over it; more than 60 means 60.",
    required=False,
)


class Jobs(Controller):
    path = "/jobs"
    tags = ("jobs",)

    @post(
        "/",
        operation_id="submit_job",
        summary="Submit a job",
        description="Once this has answered, the job is safe. The body is read as JSON whatever its content type says.",
        operation_class=operation(
            Answer(201, examples.JOB, "The job, stored.", headers=("Location",)),
            *refusals(400, 413, 422),
            body=examples.NEW_JOB,
        ),
    )
    async def submit(self, body: RawBody, services: Injected) -> Response[JobView]:
        job = await services.submit.one(NewJob.read(body).submission())
        return Response(JobView.of(job), status_code=201, headers={"Location": f"/api/v1/jobs/{job.id}"})

    @get(
        "/",
        operation_id="list_jobs",
        summary="List jobs",
        description=(
            "Newest first, without input and result. A filter may be given several times: any of its values. "
            "A parameter that does not exist is refused."
        ),
        operation_class=operation(Answer(200, examples.PAGE, "Some jobs."), *refusals(422), query=JobsQuery),
    )
    async def browse(self, request: AnyRequest, services: Injected) -> JobPage:
        query = JobsQuery.read(request.scope["query_string"])
        page = await services.browse.page(query.where, limit=query.limit, before=query.before)
        return JobPage.of(page, query.where)

    @get(
        "/{job_id:str}",
        operation_id="get_job",
        summary="Get a job, or wait for it",
        description="With `wait`, the answer comes when the job is final or the time is up, whichever is first.",
        operation_class=operation(
            Answer(200, examples.JOB, "The job."), *refusals(404, 422), query=JobQuery, headers=(PREFER,)
        ),
    )
    async def one(self, request: AnyRequest, job_id: JobIdPath, services: Injected) -> JobView:
        wait = JobQuery.read(request.scope["query_string"], request.headers.get("prefer"))
        job = await services.browse.one(read_job_id(job_id))
        if wait and not job.status.final:
            await while_connected(request, services.watch.final(job.id, wait))
            job = await services.browse.one(job.id)
        return JobView.of(job)

    @post(
        "/{job_id:str}/cancel",
        operation_id="cancel_job",
        summary="Cancel a job",
        description="Pending or running jobs only. Cancelling it again changes nothing.",
        status_code=200,
        operation_class=operation(Answer(200, examples.JOB, "The job, cancelled."), *refusals(404, 409)),
    )
    async def cancel(self, job_id: JobIdPath, services: Injected) -> JobView:
        return JobView.of(await services.steer.cancel(read_job_id(job_id)))

    @post(
        "/{job_id:str}/retry",
        operation_id="retry_job",
        summary="Start a job afresh",
        description="Failed, cancelled or running jobs only. Counts, result and error are reset.",
        status_code=200,
        operation_class=operation(Answer(200, examples.JOB, "The job, pending again."), *refusals(404, 409)),
    )
    async def retry(self, job_id: JobIdPath, services: Injected) -> JobView:
        return JobView.of(await services.steer.retry(read_job_id(job_id)))
