"""What is in a request of OpenAI's shape, for APIs of another shape."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from domain.chat import ChatRequest
from domain.errors import ErrorCode, RunFailed


class Image(Struct, frozen=True):
    media_type: str
    data: str
    """In base64."""


def data_url(url: str) -> Image | None:
    """The image in an address that holds one; None: it does not."""
    found = re.fullmatch(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w=.-]+)*;base64,([A-Za-z0-9+/=\s]+)", url)
    return Image(found[1].lower(), re.sub(r"\s", "", found[2])) if found else None


def wanted_schema(request: ChatRequest) -> dict[str, Any] | None:
    """The JSON schema that the answer is to fit, where one is given."""
    match request.response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case _:
            return None


def cannot_say(why: str) -> RunFailed:
    """There are no words for the request in an API."""
    return RunFailed(ErrorCode.BAD_INPUT, why)
