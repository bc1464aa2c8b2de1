from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import structlog

from adapters.telemetry.context import current, trace_id, understood
from adapters.telemetry.requests import Requests

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def nothing() -> Any:
    """No body comes."""


class Heard:
    """An application that notes what it is called with."""

    def __init__(self) -> None:
        self.fields: Mapping[str, Any] = {}
        self.traceparent: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.fields = structlog.contextvars.get_contextvars()
        self.traceparent = current.get()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b""})


async def ask(**headers: str) -> tuple[Heard, dict[bytes, bytes]]:
    heard, answered = Heard(), {}

    async def send(message: Any) -> None:
        answered.update(dict(message.get("headers", ())))

    given = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    await Requests(heard)({"type": "http", "method": "GET", "path": "/", "headers": given}, nothing, send)
    assert answered.pop(b"x") == b"y"
    return heard, answered


async def test_a_request_gets_a_name_and_the_answer_says_it():
    first, answered = await ask()
    second, _ = await ask()
    assert answered == {b"x-request-id": first.fields["request_id"].encode()}
    assert first.fields["request_id"] != second.fields["request_id"]


async def test_the_name_that_a_caller_gives_is_kept():
    heard, answered = await ask(x_request_id="order-7/try:2")
    assert heard.fields["request_id"] == "order-7/try:2"
    assert answered == {b"x-request-id": b"order-7/try:2"}


@pytest.mark.parametrize("name", ["", "two words", "a" * 129, "line\x85break", 'quote"', "é"])
async def test_what_is_no_name_is_replaced(name: str):
    heard, _ = await ask(x_request_id=name)
    assert heard.fields["request_id"] != name
    assert heard.fields["request_id"].isalnum()


async def test_a_callers_trace_goes_on():
    heard, _ = await ask(traceparent=TRACEPARENT)
    assert heard.traceparent == TRACEPARENT
    assert heard.fields["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


async def test_nothing_of_a_request_is_left_when_it_is_answered():
    await ask(traceparent=TRACEPARENT)
    assert current.get() is None
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + "-more",
        "ff" + TRACEPARENT[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "01" + TRACEPARENT[2:] + "-" + "x" * 500,
    ],
)
def test_a_header_that_is_no_trace_context_is_none(header: str):
    assert understood(header) is None


def test_of_a_later_version_the_part_that_is_known_is_kept():
    assert understood("01" + TRACEPARENT[2:] + "-more") == TRACEPARENT


def test_a_trace_is_found_by_its_id():
    assert trace_id(TRACEPARENT) == "0af7651916cd43dd8448eb211c80319c"
    assert trace_id(None) is None
