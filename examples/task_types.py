"""Two task types of our own: one asks a chat model, one has a queue of its own and needs no model."""

import hashlib
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct

from app.extend import Job, task_type


class Text(Struct):
    text: Annotated[str, Meta(min_length=1)]


class Keywords(Struct):
    keywords: list[str]


@task_type("keyword_extraction", model="chat", input=Text)
async def keyword_extraction(job: Job[Text]) -> dict[str, object]:
    found = await job.extract(Keywords, system="List the keywords of the text.", user=job.input.text)
    return {"schema_version": "acme.keywords.v1", "keywords": found.keywords}


class File(Struct):
    upload_id: UUID
    algorithm: Literal["sha256", "blake2b"] = "sha256"


@task_type("file_digest", queue="cpu.files", profile="digest", input=File)
async def file_digest(job: Job[File]) -> dict[str, object]:
    async with job.file(job.input.upload_id) as path:
        job.progress(bytes=path.stat().st_size)
        with path.open("rb") as file:
            digest = await job.in_thread(hashlib.file_digest, file, job.input.algorithm)
    return {"schema_version": "acme.file_digest.v1", "digest": digest.hexdigest()}
