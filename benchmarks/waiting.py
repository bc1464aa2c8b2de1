"""W9: what the service adds to a call of 500 ms for those who wait for its answer.

50 callers, each of which asks anew as soon as it has its answer, `CALLS` times; they begin one after another within the
500 ms, so that requests come as a steady stream. They ask the model server directly, then `POST /chat`, then
`POST /jobs` and `GET /jobs/{id}?wait`, each from the first byte sent to the last one read. What is added is a call's
time less the median of the direct calls of the same round. One API process, one worker process with 64 slots, RabbitMQ;
the callers and the model server have a process each.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import aiohttp
import uvloop

from benchmarks.contestant import python
from benchmarks.findings import Bar, Figure, Findings, quantile
from benchmarks.ours import Ours
from benchmarks.place import Place, tell
from benchmarks.slow import answering
from tests.e2e.service import PROFILE, Installation

TITLE = "Wait for answers of 500 ms, 50 at once"
SECONDS, CALLERS, CALLS, SLOTS = 0.5, 50, 8, 64
WARM_UP = 2
"""Calls of each caller before the first round: connections, prepared statements, caches."""

MOST_AT_P50, MOST_AT_P99 = 15.0, 50.0
WAYS = ("direct", "chat", "jobs")

MESSAGES = [{"role": "user", "content": "How long does it take?"}]


def run(place: Place, rounds: int) -> Findings:
    with serving(place) as addresses:
        asked(addresses, CALLERS, WARM_UP)
        times = []
        for turn in range(rounds):
            tell(f"W9 round {turn + 1} of {rounds}")
            times.append(asked(addresses, CALLERS, CALLS))
    figures = [Figure("direct", "median", "ms", tuple(median(each["direct"]) for each in times))]
    for way in WAYS:
        added = [added_by(way, each) for each in times]
        figures += [
            Figure(way, f"added, {name}", "ms", tuple(quantile(each, share) for each in added))
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ]
    return Findings(tuple(figures), tuple(bars(figures)), NOTES)


NOTES = (f"{CALLERS} callers, {CALLS} calls each per round and way; aiohttp, connections kept",)


def bars(figures: list[Figure]) -> Iterator[Bar]:
    for figure in figures:
        if figure.contestant != "direct":
            goal = MOST_AT_P50 if figure.measure.endswith("p50") else MOST_AT_P99
            yield Bar(f"{figure.contestant}, {figure.measure}", figure.median, goal, "ms", at_most=True)


def added_by(way: str, times: dict[str, list[float]]) -> list[float]:
    """Milliseconds that each call of this way took longer than a direct one."""
    direct = median(times["direct"])
    return [each - direct for each in times[way]]


@dataclass(frozen=True)
class Addresses:
    api: str
    model: str


@contextmanager
def serving(place: Place) -> Iterator[Addresses]:
    with answering(SECONDS) as url:
        settings = {"AMQP_URL": place.rabbit.url, "LLM_BASE_URL": f"{url}/v1", "WORKER_CLAIM_LIMIT": str(SLOTS)}
        with Installation(place.folder, DATABASE_URL=Ours(place).dsn, LOG_LEVEL="info", **settings) as installation:
            api, _ = installation.serve_and_work()
            yield Addresses(api.url, url)


def asked(addresses: Addresses, callers: int, calls: int) -> dict[str, list[float]]:
    """Milliseconds that each call took, by the way that it was made."""
    command = python("benchmarks.waiting", addresses.api, addresses.model, str(callers), str(calls))
    found: dict[str, list[float]] = json.loads(subprocess.check_output(command))
    return found


async def ask(api: str, model_server: str, callers: int, calls: int) -> dict[str, list[float]]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector) as session:
        ways = _Ways(session, api, model_server)
        return {way: await _all(getattr(ways, way), callers, calls) for way in WAYS}


async def _all(call: Callable[[], Awaitable[None]], callers: int, calls: int) -> list[float]:
    times: list[float] = []

    async def caller(number: int) -> None:
        await asyncio.sleep(SECONDS * number / callers)
        for _ in range(calls):
            began = perf_counter()
            await call()
            times.append((perf_counter() - began) * 1000)

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return times


@dataclass(frozen=True)
class _Ways:
    session: aiohttp.ClientSession
    api: str
    model_server: str

    async def direct(self) -> None:
        body = json.dumps({"model": PROFILE, "messages": MESSAGES, "stream": True})
        await self._said("POST", f"{self.model_server}/v1/chat/completions", body)

    async def chat(self) -> None:
        await self._said("POST", f"{self.api}/chat", json.dumps({"messages": MESSAGES}))

    async def jobs(self) -> None:
        job = {
            "owner_service": "caller",
            "task_type": "chat_completion",
            "model_profile": PROFILE,
            "input": {"messages": MESSAGES},
        }
        stored = json.loads(await self._said("POST", f"{self.api}/api/v1/jobs", json.dumps(job)))
        ended = json.loads(await self._said("GET", f"{self.api}/api/v1/jobs/{stored['id']}?wait=30"))
        assert ended["status"] == "completed", ended

    async def _said(self, method: str, url: str, body: str | None = None) -> bytes:
        headers = {"content-type": "application/json"} if body else None
        async with self.session.request(method, url, data=body, headers=headers) as response:
            said = await response.read()
            assert response.status < 300, said
            return said


if __name__ == "__main__":
    print(json.dumps(uvloop.run(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
