"""Whoever goes away while waiting leaves nothing behind: no waiter, and no claimed job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import uvicorn

from domain.access import ANYBODY
from domain.ports import ExternalClaim
from tests.app.conftest import NEVER, Api, until
from tests.factories import LEASE

WANTED = ExternalClaim(worker_id="outside-1", lease=LEASE)


class Worker:
    """A caller that goes away when a test says so."""

    gone = False

    async def wait(self, waiting: Coroutine[Any, Any, None]) -> None:
        await waiting


@pytest.fixture
async def address(api: Api) -> AsyncIterator[tuple[str, int]]:
    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, ws="none", log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    await serving


async def ask(address: tuple[str, int], body: dict[str, Any]) -> asyncio.StreamWriter:
    content = json.dumps(body).encode()
    _, writer = await asyncio.open_connection(*address)
    head = f"POST /api/v1/jobs/claim HTTP/1.1\r\nHost: test\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    return writer


async def test_nothing_is_claimed_for_a_worker_that_has_gone(api: Api) -> None:
    job_id = await api.submitted()
    worker = Worker()
    worker.gone = True
    assert await api.services.claims.claim(ANYBODY, WANTED, NEVER, worker) == []
    assert await api.status(job_id) == "pending"


async def test_what_was_claimed_while_a_worker_went_away_is_given_back_uncounted(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await api.submitted()
    worker, claim = Worker(), api.store.claim

    async def claim_and_go(wanted: ExternalClaim) -> Any:
        worker.gone = True
        return await claim(wanted)

    monkeypatch.setattr(api.store, "claim", claim_and_go)
    assert await api.services.claims.claim(ANYBODY, WANTED, 0, worker) == []
    job = (await api.client.get(f"/api/v1/jobs/{job_id}")).json()
    assert (job["status"], job["attempts"]) == ("pending", 0)


async def test_a_worker_that_hangs_up_while_it_waits_gets_no_job(api: Api, address: tuple[str, int]) -> None:
    writer = await ask(address, {"worker_id": "outside-1", "wait": 30})
    await until(lambda: api.watch.seeking == 1)
    writer.close()
    await until(lambda: api.watch.seeking == 0)
    job_id = await api.submitted()
    assert await api.status(job_id) == "pending"


async def test_a_caller_that_hangs_up_while_it_waits_for_a_job_leaves_nothing(
    api: Api, address: tuple[str, int]
) -> None:
    job_id = await api.submitted()
    _, writer = await asyncio.open_connection(*address)
    writer.write(f"GET /api/v1/jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await until(lambda: api.watch.waiting == 1)
    writer.close()
    await until(lambda: api.watch.waiting == 0)
