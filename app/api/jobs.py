"""Jobs over HTTP: taken in, looked at."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Controller, Request, Response, get, post
from litestar.enums import HttpMethod
from litestar.openapi.spec import Parameter as Documented
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import RawBody

from app.api.auth import Frugal
from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.api.paths import JobIdPath, with_outlook
from app.api.patience import while_connected
from app.api.streamed import Streamed
from app.wire import examples
from app.wire.events import MEDIA_TYPE, Mark
from app.wire.fields import MOST_LABELS
from app.wire.idempotency import HEADER, must_have_no_key
from app.wire.jobs import JobQuery, JobView, read_job_id
from app.wire.lists import LABEL_PATTERN, LONGEST_LABEL, JobPage, JobsQuery, JobsWanted
from app.wire.runs import RunList
from app.wire.submit import BatchView, read_batch, read_job
from domain.access import Right
from domain.errors import TooManyPending

AnyRequest = Request[Any, Any, Any]

PREFER = Documented(
    "Prefer",
    "header",
    Schema(type=OpenAPIType.STRING, examples=["wait=30"]),
    description="`wait=SECONDS` is the same as the parameter, which wins over it; more than 60 means 60.",
    required=False,
)
IDEMPOTENCY_KEY = Documented(
    HEADER,
    "header",
    Schema(type=OpenAPIType.STRING, min_length=1, max_length=255, examples=['"call-4711-summary"']),
    description="The same as the field `idempotency_key`; quoted (RFC 8941) or bare.",
    required=False,
)
LABELS = Documented(
    "labels",
    "query",
    Schema(
        type=OpenAPIType.OBJECT,
        property_names=Schema(pattern=LABEL_PATTERN),
        additional_properties=Schema(type=OpenAPIType.STRING, max_length=LONGEST_LABEL),
        max_properties=MOST_LABELS,
        examples=[{"label.campaign": "spring"}],
    ),
    description="`label.NAME=VALUE`: jobs with this label. Each name must match; several values mean any of them.",
    required=False,
    style="form",
    explode=True,
)
LAST_EVENT_ID = Documented(
    "Last-Event-ID",
    "header",
    Schema(type=OpenAPIType.STRING, examples=["2.1"]),
    description="Go on after this event.",
    required=False,
)
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Jobs(Controller):
    path = "/jobs"
    tags = ("jobs",)

    @Frugal(
        "/",
        http_method=HttpMethod.POST,
        operation_id="submit_job",
        summary="Submit a job",
        description=(
            "Once this has answered, the job is safe. With an idempotency key, the same request again is answered "
            "with the same job, whatever has become of it; another request under the same key is refused. "
            "The body is read as JSON whatever its content type says."
        ),
        opt={"right": Right.SUBMIT},
        operation_class=operation(
            Answer(201, examples.JOB, "The job, stored.", headers=("Location",)),
            Answer(200, examples.JOB, "The job that its key found.", headers=("Location", "Idempotent-Replayed")),
            *refusals(400, 413, 422, TooManyPending),
            body=examples.NEW_JOB,
            parameters=(IDEMPOTENCY_KEY,),
        ),
    )
    async def submit(
        self, request: AnyRequest, body: RawBody, services: Injected, caller: Calling
    ) -> Response[JobView]:
        added = await services.submit.one(caller, read_job(body, request.headers.getall(HEADER, [])))
        view = await with_outlook(services, added.job)
        replayed = {} if added.created else {"Idempotent-Replayed": "true"}
        headers = {"Location": f"/api/v1/jobs/{view.id}"} | replayed
        return Response(view, status_code=201 if added.created else 200, headers=headers)

    @get(
        "/",
        operation_id="list_jobs",
        summary="List jobs",
        description=(
            "Newest first, without input and result. A filter may be given several times: any of its values. "
            "A parameter that does not exist is refused."
        ),
        opt={"right": Right.READ},
        operation_class=operation(
            Answer(200, examples.PAGE, "Some jobs."), *refusals(422), query=JobsQuery, parameters=(LABELS,)
        ),
    )
    async def browse(self, request: AnyRequest, services: Injected, caller: Calling) -> JobPage:
        listing = JobsWanted.read(request.scope["query_string"]).listing
        return JobPage.of(await services.browse.page(caller, listing), listing)

    @get(
        "/{job_id:str}",
        operation_id="get_job",
        summary="Get a job, or wait for it",
        description="With `wait`, the answer comes when the job is final or the time is up, whichever is first.",
        opt={"right": Right.READ},
        operation_class=operation(
            Answer(200, examples.JOB, "The job."), *refusals(404, 422), query=JobQuery, parameters=(PREFER,)
        ),
    )
    async def one(self, request: AnyRequest, job_id: JobIdPath, services: Injected, caller: Calling) -> JobView:
        wait = JobQuery.read(request.scope["query_string"], request.headers.get("prefer"))
        job = await services.browse.one(caller, read_job_id(job_id))
        if wait and not job.status.final:
            await while_connected(request, services.watch.final(job.id, wait))
            job = await services.browse.one(caller, job.id)
        return await with_outlook(services, job)

    @get(
        "/{job_id:str}/runs",
        operation_id="list_runs",
        summary="List a job's runs",
        description="Oldest first, kept over retries. The run that goes on is the last one.",
        opt={"right": Right.READ},
        operation_class=operation(Answer(200, examples.RUNS, "Its runs."), *refusals(404)),
    )
    async def runs(self, job_id: JobIdPath, services: Injected, caller: Calling) -> RunList:
        return RunList.of(await services.browse.runs(caller, read_job_id(job_id)))

    @get(
        "/{job_id:str}/events",
        operation_id="follow_job",
        summary="Follow a job as Server-Sent Events",
        description=(
            "All that has happened to it, then what happens, until it is final: `status` for each change of its "
            "state, `progress` for what its worker reports (the last one only, where several came at once), and "
            "`done`, the job without input and result, with which the stream ends. A comment every 15 s keeps the "
            "connection alive. `Last-Event-ID` goes on where a stream was cut off."
        ),
        opt={"right": Right.READ},
        media_type=MEDIA_TYPE,
        operation_class=operation(
            Answer(200, examples.EVENTS, "What happens to it.", ("Cache-Control",), MEDIA_TYPE),
            Answer(204, None, "It is final, and `Last-Event-ID` says that all of it was told."),
            *refusals(404, 422),
            parameters=(LAST_EVENT_ID,),
        ),
    )
    async def follow(
        self, request: AnyRequest, job_id: JobIdPath, services: Injected, caller: Calling
    ) -> Response[Any]:
        seen = Mark.read(request.headers.get("last-event-id"))
        events = await services.follow.job(caller, read_job_id(job_id), seen)
        if events is None:
            return Response(None, status_code=204)
        return Streamed(events, media_type=MEDIA_TYPE, headers=STREAM_HEADERS)


class Batches(Controller):
    """Apart, because its bodies may be larger."""

    path = "/jobs/batch"
    tags = ("jobs",)

    @post(
        "/",
        operation_id="submit_batch",
        summary="Submit many jobs at once",
        description=(
            "1 to 10,000 jobs, stored in one commit: all of them, or none. What `defaults` say holds for each job "
            "that does not say it itself. Problems are pointed at as `/jobs/17/max_attempts`, the first 20 of them."
        ),
        opt={"right": Right.SUBMIT},
        operation_class=operation(
            Answer(201, examples.BATCH, "The jobs, stored."),
            *refusals(400, 413, 422, TooManyPending),
            body=examples.NEW_BATCH,
        ),
    )
    async def submit(self, request: AnyRequest, body: RawBody, services: Injected, caller: Calling) -> BatchView:
        must_have_no_key(request.headers.getall(HEADER, []))
        # Seconds of work for the largest batch: nobody else shall wait for it.
        jobs = await asyncio.to_thread(read_batch, body)
        return BatchView.of(await services.submit.batch(caller, jobs))
