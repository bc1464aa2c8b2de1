from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar

from adapters.schemas.apart import Schemas
from app.claims import Claims
from app.converse import Chats
from app.follow import Follow
from app.http import create_app
from app.keyring import Keyring
from app.readers import Readers
from app.services import Services
from app.settings import Limits
from app.watch import Watch
from domain.job import LeasedJob
from domain.policy import Policies
from domain.retry import RetryPolicy
from domain.routing import ModelKind, Profile, Routes
from domain.texts import TextPiece
from domain.usecases.browse import Browse
from domain.usecases.converse import Converse
from domain.usecases.diagnose import Diagnose
from domain.usecases.guard import Guard
from domain.usecases.infra import Infra
from domain.usecases.lend import Lend
from domain.usecases.operate import Operate
from domain.usecases.outlook import Foresee
from domain.usecases.preempt import Preempt
from domain.usecases.providers import Providers
from domain.usecases.report import Report
from domain.usecases.steer import Steer
from domain.usecases.submit import Submit
from domain.usecases.upload import Uploads
from domain.usecases.wake import Wake
from domain.usecases.work import Work
from tests.factories import LEASE, QUEUE, new_claim, new_id
from tests.fakes import (
    FakeClock,
    FakeHealth,
    FragileStore,
    RecordingEvents,
    RecordingTickets,
    ToldFigures,
    ToldInfra,
)

MAX_INPUT_BYTES = 1024
MAX_RESULT_BYTES = 4096
MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_UPLOAD_BYTES = 2 * 1024 * 1024
LIMITS = Limits(
    max_input_bytes=MAX_INPUT_BYTES,
    max_result_bytes=MAX_RESULT_BYTES,
    max_batch_bytes=MAX_BATCH_BYTES,
    max_upload_bytes=MAX_UPLOAD_BYTES,
    max_crashes=3,
    chat_timeout=timedelta(minutes=5),
    circuit_threshold=5,
)
LEASE_TIMEOUT = timedelta(minutes=15)
CHAT_TIMEOUT = timedelta(minutes=5)
NEVER = 3600.0

WANTED: dict[str, Any] = {
    "owner_service": "beeline",
    "task_type": "llm_chat",
    "model_profile": "qwen2.5-14b",
    "input": {"user": "Hello"},
}


@dataclass
class Api:
    """The API over a store in memory; its watch looks only when a test calls its tick, or tells it of an event."""

    app: Litestar
    client: httpx.AsyncClient
    store: FragileStore
    tickets: RecordingTickets
    broker: ToldFigures
    events: RecordingEvents
    watch: Watch
    clock: FakeClock
    services: Services
    file: PolicyFileInMemory
    health: FakeHealth
    infra: ToldInfra
    routes: list[Routes]
    """The last of them is in force."""
    readers: Readers

    async def submit(self, **changes: Any) -> httpx.Response:
        # Not httpx's own JSON, which cannot write half a surrogate pair.
        return await self.client.post("/api/v1/jobs", content=json.dumps(WANTED | changes))

    async def submitted(self, **changes: Any) -> str:
        response = await self.submit(**changes)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def lent(self, **wanted: Any) -> dict[str, Any]:
        """A job that an external worker has just claimed, with its lease token."""
        response = await self.client.post("/api/v1/jobs/claim", json={"worker_id": "outside-1"} | wanted)
        assert response.status_code == 200, response.text
        [job] = response.json()["jobs"]
        return dict(job)

    async def report(self, job: Mapping[str, Any], how: str, **more: Any) -> httpx.Response:
        """What its worker says of a claimed job."""
        body = {"lease_token": job["lease_token"]} | more
        return await self.client.post(f"/api/v1/jobs/{job['id']}/{how}", content=json.dumps(body))

    async def status(self, job_id: str) -> str:
        return str((await self.client.get(f"/api/v1/jobs/{job_id}")).json()["status"])

    async def claim(self) -> LeasedJob:
        [job] = (await self.store.exchange([], new_claim(task_types=("llm_chat", "chat_completion")))).claimed
        return job

    def tell(self, job: LeasedJob, offset: int, text: str) -> None:
        """What its worker says of a running job's text."""
        self.readers.heard([TextPiece(job.id, job.number, offset, text)])

    async def complete(self, job_id: str, result: bytes = b'{"schema_version":"test.v1"}') -> None:
        job = await self.claim()
        assert str(job.id) == job_id
        await self.store.exchange([job.complete(result)], None)


@dataclass
class PolicyFileInMemory:
    """What is configured; a test may change it at any time."""

    policies: Policies = field(default_factory=Policies)

    def read(self) -> Policies:
        return self.policies


def build(keyring: Keyring | None = None, *, routed: bool = True) -> Api:
    clock, tickets, events, file = FakeClock(), RecordingTickets(), RecordingEvents(), PolicyFileInMemory()
    broker = ToldFigures()
    store = FragileStore(clock.now)
    wake = Wake(store, tickets, clock.monotonic)
    profile = Profile("qwen2.5-14b", ModelKind.CHAT, QUEUE, provider="vllm", model="Qwen/Qwen2.5-14B-Instruct")
    routes = [Routes([profile], active=profile.name) if routed else Routes()]
    watch = Watch(store, soonest=NEVER)
    events.listen(watch.heard)
    readers = Readers()
    health = FakeHealth()
    guard = Guard(store.queues, health, threshold=5)
    work = Work(store, events, health, guard, RetryPolicy(), random=lambda: 0.0, lease=LEASE)
    operate = Operate(store.queues, lambda: routes[-1], wake)
    browse, report = Browse(store), Report(store, tickets, broker, operate, clock.now, clock.monotonic)
    lend = Lend(store, work, wake, events, MAX_RESULT_BYTES)
    submit = Submit(
        store,
        lambda: routes[-1],
        wake,
        events,
        Preempt(store, events),
        file.read,
        new_id,
        MAX_INPUT_BYTES,
        Schemas(),
    )
    steer = Steer(store, wake, events)
    converse = Converse(submit, steer, lambda: routes[-1], store.queues, clock.now, circuits_last=0.0)
    told = ToldInfra()
    providers, infra = Providers(lambda: routes[-1], health, operate), Infra(told)
    services = Services(
        submit=submit,
        uploads=Uploads(store.uploads, new_id, MAX_UPLOAD_BYTES),
        browse=browse,
        foresee=Foresee(store, report),
        steer=steer,
        lend=lend,
        claims=Claims(lend, watch, LEASE_TIMEOUT, look_every=NEVER),
        operate=operate,
        report=report,
        follow=Follow(browse, watch, readers, events, keep_alive=NEVER),
        chats=Chats(converse, browse, watch, readers, events, CHAT_TIMEOUT, look_every=0.02),
        watch=watch,
        providers=providers,
        infra=infra,
        diagnose=Diagnose(store, tickets, report, providers, infra, clock.monotonic, patience=0.2),
    )
    app = create_app(services, keyring=keyring or Keyring(), limits=LIMITS)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", app)), base_url="http://test")
    return Api(app, client, store, tickets, broker, events, watch, clock, services, file, health, told, routes, readers)


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
