"""Uploads: the bytes that come, plain or as a form, and what is told of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from app.wire.body import UnreadableBody
from app.wire.fields import Moment, Name
from app.wire.query import decode_query
from domain.errors import BadInput, Problem, UploadNotFound
from domain.upload import Upload

FILE = "file"
"""The field of a form that holds the file."""

MOST_FIELDS = 16
"""Of a form; all but the file are left unread."""

FORM = "multipart/form-data"
PLAIN = re.compile(r"(audio|video)/.+|application/(octet-stream|ogg)")


class UploadView(Struct, frozen=True):
    """An upload, stored."""

    upload_id: Annotated[UUID, Meta(description="What the `upload_id` of a job's input names.")]
    bytes: int


class UploadDetails(UploadView, frozen=True):
    """What is known of an upload."""

    created_at: Moment

    @classmethod
    def of(cls, upload: Upload) -> UploadDetails:
        return cls(upload.id, upload.bytes, upload.created_at)


class UploadQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Whose upload it is."""

    owner_service: (
        Annotated[Name, Meta(description="Whose jobs can use it. May be left out where the token has an owner.")]
        | UnsetType
    ) = UNSET

    @classmethod
    def read(cls, query_string: bytes) -> str | None:
        owner = decode_query(cls, query_string).owner_service
        return None if owner is UNSET else owner


def read_upload_id(text: str) -> UUID:
    """The id in a path.

    Raises:
        UploadNotFound: no upload can have such an id.
    """
    try:
        return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        raise UploadNotFound from None


def file_in(body: AsyncIterator[bytes], content_type: str, options: dict[str, str]) -> AsyncIterator[bytes]:
    """The file in a request's body, as it comes.

    Args:
        content_type: as the request says; none counts as plain bytes.
        options: its parameters.

    Raises:
        BadInput: it is of another type, or a form without a file.
        UnreadableBody: it is no form, though it says so.
    """
    if content_type == FORM:
        return _file_of_form(body, options.get("boundary", ""))
    if content_type and not PLAIN.fullmatch(content_type):
        raise BadInput(
            [Problem("", f"send the recording's bytes as audio/* or application/octet-stream, or as {FORM}")]
        )
    return body


async def _file_of_form(body: AsyncIterator[bytes], boundary: str) -> AsyncIterator[bytes]:
    if not 0 < len(boundary) <= 200 or not boundary.isascii():
        raise UnreadableBody("The content type names no boundary.")
    found = in_file = False
    try:
        parser = PushMultipartParser(boundary, max_segment_count=MOST_FIELDS, strict=True)
        async for data in body:
            if not data:
                continue
            for event in parser.parse(data):
                if isinstance(event, MultipartSegment):
                    in_file = event.name == FILE
                    if in_file and found:
                        raise BadInput([Problem(f"/{FILE}", "It may be given only once.")])
                    found = found or in_file
                elif event and in_file:
                    yield bytes(event)
        parser.close()
    except ParserLimitReached as error:
        raise UnreadableBody(f"The form is not as it may be: {error}.") from None
    except MultipartError as error:
        raise UnreadableBody(f"The form cannot be read: {error}.") from None
    if not found:
        raise BadInput([Problem(f"/{FILE}", f"The form has no field `{FILE}`.")])
