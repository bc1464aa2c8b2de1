"""What the paths and answers of single jobs share."""

from __future__ import annotations

from typing import Annotated

from litestar.params import PathParameter

from app.services import Services
from app.wire import examples
from app.wire.jobs import JobView
from domain.job import Job

JobIdPath = Annotated[
    str, PathParameter(description="The job's id.", schema_extra={"format": "uuid", "examples": [str(examples.JOB_ID)]})
]


async def with_outlook(services: Services, job: Job) -> JobView:
    """A whole job, with its place in line while it waits."""
    return JobView.whole(job, await services.foresee.outlook(job))
