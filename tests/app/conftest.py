from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar

from app.http import create_app
from app.keyring import Keyring
from app.services import Services
from app.watch import Watch
from domain.job import LeasedJob
from domain.routing import ModelKind, Profile, Routes
from domain.usecases.browse import Browse
from domain.usecases.report import Report
from domain.usecases.steer import Steer
from domain.usecases.submit import Submit
from domain.usecases.wake import Wake
from tests.factories import QUEUE, new_claim, new_id
from tests.fakes import FakeClock, FragileStore, RecordingTickets

MAX_INPUT_BYTES = 1024
NEVER = 3600.0

WANTED: dict[str, Any] = {
    "owner_service": "beeline",
    "task_type": "llm_chat",
    "model_profile": "qwen2.5-14b",
    "input": {"user": "Hello"},
}


@dataclass
class Api:
    """The API over a store in memory; its watch looks only when a test calls its tick."""

    app: Litestar
    client: httpx.AsyncClient
    store: FragileStore
    tickets: RecordingTickets
    watch: Watch

    async def submit(self, **changes: Any) -> httpx.Response:
        # Not httpx's own JSON, which cannot write half a surrogate pair.
        return await self.client.post("/api/v1/jobs", content=json.dumps(WANTED | changes))

    async def submitted(self, **changes: Any) -> str:
        response = await self.submit(**changes)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def claim(self) -> LeasedJob:
        [job] = (await self.store.exchange([], new_claim())).claimed
        return job

    async def complete(self, job_id: str, result: bytes = b'{"schema_version":"test.v1"}') -> None:
        job = await self.claim()
        assert str(job.id) == job_id
        await self.store.exchange([job.complete(result)], None)


def build(keyring: Keyring | None = None) -> Api:
    clock, tickets = FakeClock(), RecordingTickets()
    store = FragileStore(clock.now)
    wake = Wake(store, tickets, clock.monotonic)
    routes = Routes([Profile("qwen2.5-14b", ModelKind.CHAT, QUEUE)])
    watch = Watch(store, soonest=NEVER)
    services = Services(
        submit=Submit(store, routes, wake, new_id, MAX_INPUT_BYTES),
        browse=Browse(store),
        steer=Steer(store, wake),
        report=Report(store, tickets),
        watch=watch,
    )
    app = create_app(services, keyring=keyring or Keyring(), max_input_bytes=MAX_INPUT_BYTES)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", app)), base_url="http://test")
    return Api(app, client, store, tickets, watch)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    built = build()
    async with built.client:
        yield built


@pytest.fixture
async def guarded_api() -> AsyncIterator[Api]:
    built = build(Keyring("s3cret-à"))
    async with built.client:
        yield built


async def until(true: Callable[[], bool]) -> None:
    """Let others go on until this holds."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.001)


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document.keys() >= {"type", "title", "detail", "instance"}
    return document


def pointers(response: httpx.Response) -> list[str]:
    return [error["pointer"] for error in problem(response, 422)["errors"]]
