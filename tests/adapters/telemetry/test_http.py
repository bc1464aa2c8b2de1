"""Requests are measured by the template of their path."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from adapters.telemetry.http import Measured
from tests.adapters.telemetry.reading import Figures, metrics, of, read
from tests.fakes import FakeClock

ROUTE = "/api/v1/jobs/{job_id}"


async def nothing() -> Any:
    raise AssertionError


async def request(
    *, query: bytes = b"", headers: Mapping[bytes, bytes] | None = None, answers: bool = True, known: bool = True
) -> Figures:
    """What is counted of a request whose first byte takes a second, and all of it a minute."""
    clock, counted = FakeClock(), metrics()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if known:
            scope["path_template"] = ROUTE
        clock.advance(timedelta(seconds=1))
        if not answers:
            raise ConnectionResetError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        clock.advance(timedelta(minutes=1))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/jobs/0199",
        "query_string": query,
        "headers": list((headers or {}).items()),
    }
    try:
        await Measured(app, counted, monotonic=clock.monotonic)(scope, nothing, send)
    except ConnectionResetError:
        assert not answers
    return read(counted)


async def test_a_request_is_counted_by_its_route_and_timed_to_its_first_byte():
    page = await request()
    assert of(page, "aijobs_http_requests_total", method="GET", route=ROUTE, status="200") == 1
    assert of(page, "aijobs_http_request_seconds_sum", route=ROUTE) == 1


@pytest.mark.parametrize(("query", "headers"), [(b"wait=30", {}), (b"", {b"prefer": b"wait=30"})])
async def test_one_that_asks_to_be_held_is_not_timed(query: bytes, headers: dict[bytes, bytes]):
    page = await request(query=query, headers=headers)
    assert of(page, "aijobs_http_requests_total", method="GET", route=ROUTE, status="200") == 1
    assert of(page, "aijobs_http_request_seconds_count", route=ROUTE) == 0


async def test_one_that_nobody_answered_is_counted_as_such():
    page = await request(answers=False)
    assert of(page, "aijobs_http_requests_total", method="GET", route=ROUTE, status="none") == 1
    assert of(page, "aijobs_http_request_seconds_count", route=ROUTE) == 0


async def test_unknown_paths_are_all_one():
    page = await request(known=False)
    assert of(page, "aijobs_http_requests_total", method="GET", route="unknown", status="200") == 1
