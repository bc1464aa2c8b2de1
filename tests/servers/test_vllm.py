from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from httpx_aiohttp import HttpxAiohttpClient

from tests.servers.vllm import Vllm

CALL = {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def server():
    with Vllm(capacity=2, waiting_room=1, service_time=0.05) as server:
        yield server


@pytest.fixture
async def caller(server: Vllm) -> AsyncIterator[httpx.AsyncClient]:
    async with HttpxAiohttpClient(base_url=server.http.origin, timeout=10, trust_env=False) as client:
        yield client


async def call(caller: httpx.AsyncClient, **fields: object) -> httpx.Response:
    return await caller.post("/v1/chat/completions", json={**CALL, **fields})


async def gauges(caller: httpx.AsyncClient) -> list[float]:
    """What it tells of running and waiting requests."""
    lines = (await caller.get("/metrics")).text.splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    labels = '{engine="0",model_name="simulated"}'
    return [float(told[f"vllm:num_requests_{name}{labels}"]) for name in ("running", "waiting")]


async def test_it_works_on_so_many_lets_so_many_wait_and_refuses_the_rest(server, caller):
    answers = await asyncio.gather(*[call(caller) for _ in range(10)])
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 7
    assert (server.most_working, server.most_waiting) == (2, 1)
    async with asyncio.timeout(10):  # it counts a call when it has sent the last of it
        while (server.completed, server.refused, len(server.latencies)) != (3, 7, 3):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_refusal_is_told_as_vllm_tells_it(server, caller):
    refused = [answer for answer in await asyncio.gather(*[call(caller) for _ in range(4)]) if answer.is_error]
    assert [answer.json()["error"]["code"] for answer in refused] == [503]


async def test_an_answer_comes_whole_or_as_a_stream(caller):
    whole = await call(caller)
    assert whole.json()["choices"][0]["message"]["content"] == "word word word word word"
    streamed = await call(caller, stream=True)
    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.text.endswith("data: [DONE]\n\n")


async def test_it_tells_how_many_run_and_wait(server, caller):
    server.service_time = 60
    calls = [asyncio.create_task(call(caller)) for _ in range(3)]
    await server.http.until(lambda _: (server.working, server.waiting) == (2, 1))
    assert await gauges(caller) == [2, 1]
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_client_that_hangs_up_frees_its_place(server, caller):
    server.service_time = 60
    calls = [asyncio.create_task(call(caller, stream=True)) for _ in range(3)]
    await server.http.until(lambda _: (server.working, server.waiting) == (2, 1))
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await server.http.until(lambda _: server.hung_up == 3)
    assert await gauges(caller) == [0, 0]


async def test_it_says_that_it_is_well_and_what_it_serves(caller):
    assert (await caller.get("/health")).status_code == 200
    assert [model["id"] for model in (await caller.get("/v1/models")).json()["data"]] == ["simulated"]
