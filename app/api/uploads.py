"""Uploads over HTTP: streamed in and out, so that no process ever holds a whole one."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, MediaType, Request, Response, delete, get, post
from litestar.openapi.spec import OpenAPIMediaType, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import PathParameter

from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.api.streamed import Streamed
from app.wire import examples
from app.wire.uploads import FILE, FORM, UploadDetails, UploadQuery, UploadView, file_in, read_upload_id
from domain.access import Right
from domain.errors import UploadInUse, UploadNotFound

AnyRequest = Request[Any, Any, Any]

OCTETS = "application/octet-stream"
BINARY = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, min_length=1)
# Wildcards are left out: generators of clients cannot read them.
RECORDING = {
    OCTETS: OpenAPIMediaType(schema=BINARY),
    FORM: OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT, properties={FILE: BINARY}, required=[FILE])),
}

UploadIdPath = Annotated[
    str,
    PathParameter(
        description="The upload's id.", schema_extra={"format": "uuid", "examples": [str(examples.UPLOAD.upload_id)]}
    ),
]


class Uploading(Controller):
    """Apart, because its bodies may be larger than all others."""

    path = "/uploads"
    tags = ("uploads",)

    @post(
        "/",
        operation_id="upload",
        summary="Upload a recording",
        description=(
            "For the `upload_id` of speech jobs of the same owner. The body is the file itself (its type may be "
            "`audio/*` or `video/*` as well), or a form with one file in its field `file`. Kept until its jobs are "
            "final, 24 hours longer where one failed, and 24 hours where no job used it."
        ),
        opt={"right": Right.SUBMIT},
        operation_class=operation(
            Answer(201, examples.UPLOAD, "The upload, stored.", headers=("Location",)),
            *refusals(400, 413, 422),
            content=RECORDING,
            query=UploadQuery,
        ),
    )
    async def upload(self, request: AnyRequest, services: Injected, caller: Calling) -> Response[UploadView]:
        owner = UploadQuery.read(request.scope["query_string"])
        kind, options = request.content_type
        if kind != FORM:
            services.uploads.announced(request.content_length or 0)
        upload = await services.uploads.keep(caller, owner, file_in(request.stream(), kind, options))
        view = UploadView(upload.id, upload.bytes)
        return Response(view, status_code=201, headers={"Location": f"/api/v1/uploads/{upload.id}"})


class Uploaded(Controller):
    path = "/uploads"
    tags = ("uploads",)

    @get(
        "/{upload_id:str}",
        operation_id="get_upload",
        summary="Look at an upload",
        opt={"right": Right.READ},
        operation_class=operation(
            Answer(200, examples.UPLOAD_DETAILS, "What is known of it."), *refusals(UploadNotFound)
        ),
    )
    async def one(self, upload_id: UploadIdPath, services: Injected, caller: Calling) -> UploadDetails:
        return UploadDetails.of(await services.uploads.one(caller, read_upload_id(upload_id)))

    @get(
        "/{upload_id:str}/content",
        operation_id="get_upload_content",
        summary="Get the recording itself",
        description="For external workers, who may do so with the right to work; with the right to read as well.",
        opt={"right": (Right.READ, Right.WORK)},
        media_type=OCTETS,
        operation_class=operation(
            Answer(200, "RIFF...", "The bytes as they came.", media_type=OCTETS), *refusals(UploadNotFound)
        ),
    )
    async def content(self, upload_id: UploadIdPath, services: Injected, caller: Calling) -> Streamed:
        upload = await services.uploads.one(caller, read_upload_id(upload_id))
        # Never shown by a browser as what it pretends to be.
        headers = {
            "Content-Length": str(upload.bytes),
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
        }
        return Streamed(services.uploads.read(upload), media_type=OCTETS, headers=headers)

    @delete(
        "/{upload_id:str}",
        operation_id="delete_upload",
        summary="Remove an upload",
        opt={"right": Right.SUBMIT},
        media_type=MediaType.JSON,
        operation_class=operation(Answer(204, None, "It is gone."), *refusals(UploadNotFound, UploadInUse)),
    )
    async def remove(self, upload_id: UploadIdPath, services: Injected, caller: Calling) -> None:
        await services.uploads.remove(caller, read_upload_id(upload_id))
