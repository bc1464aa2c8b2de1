"""200 chat calls of two seconds each at once: what is added to those two seconds, and what it takes.

1. The calls alone: one process, the worker's own HTTP client and provider. That is as good as it can get.
2. At the worker: 200 jobs wait, their queue is resumed, one worker process runs them all at once. The time counts from
   the first call's arrival at the model server to the last completion stored.
3. End to end: 200 callers of `POST /chat`, one API process, RabbitMQ, one worker process. The time counts from the
   first request to the last answer.

On a machine that does other things as well only what is measured in one run can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, cast

import aiohttp
import asyncpg
import httpx
import uvloop
from msgspec import Raw

from adapters.embedded.postgres import EmbeddedPostgres
from adapters.providers.client import open_client
from adapters.providers.openai_chat import OpenAIChatProvider
from app.migrating import migrate
from benchmarks.contestant import Worker, processor_time
from domain.chat import parse_chat_input
from tests.e2e.service import Api, Installation, Process
from tests.factories import leased_job
from tests.servers.model_server import EVENTS, stream
from tests.servers.rabbitmq import find_rabbitmq, free_ports

AT_ONCE = 200
SERVICE_TIME = 2.0
QUEUE = "gpu.llm"
PATIENCE = 60.0
CONNECTIONS_CLOSED = 3.0
"""Seconds after which no connection to the model server is left of the round before."""

BODY = json.dumps({"messages": [{"role": "user", "content": "slow"}]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--role", choices=["model", "calls"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    match arguments.role:
        case "model":
            uvloop.run(be_model(arguments.port))
        case "calls":
            print(json.dumps(uvloop.run(call_alone(arguments.port))))
        case _:
            with installation() as bench:
                figures = asyncio.run(bench.measure(arguments.rounds))
            tell(figures)
            if arguments.json:
                arguments.json.write_text(json.dumps(figures, indent=2))


def tell(figures: dict[str, Any]) -> None:
    print(f"{AT_ONCE} chat calls of {SERVICE_TIME:g} s at once, median of {len(figures['worker'])} rounds")
    for name in ("calls alone", "worker", "end to end"):
        rounds = figures[name]
        wall = median(each["wall"] for each in rounds)
        spent = ", ".join(f"{part} {median(each['cpu'][part] for each in rounds):.2f} s" for part in rounds[0]["cpu"])
        print(f"{name:12} {wall:.2f} s, {wall / SERVICE_TIME:.2f} of ideal; processor time: {spent}")
        print(f"{'':12} all had arrived at the model server after {median(each['arrived'] for each in rounds):.2f} s")
    print(f"worker process: {figures['worker_mb']:.0f} MB; load of the machine {os.getloadavg()[0]:.1f}")


class Model(asyncio.Protocol):
    """A model server that costs next to nothing: it answers each call after `SERVICE_TIME`, all at once."""

    arrivals: list[float] = []  # noqa: RUF012  # of all connections

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if not blank or len(body) < int(length or b"0"):
            return
        self._received = b""
        if head.startswith(b"POST"):
            self.arrivals.append(time.monotonic())
            asyncio.get_running_loop().call_later(SERVICE_TIME, self._say, self._answer)
        elif head.startswith(b"GET /arrivals"):
            said, self.arrivals[:] = json.dumps(self.arrivals).encode(), []
            self._say(_response(said, "application/json"))
        else:
            self._say(_response(b'{"object": "list", "data": []}', "application/json"))

    def _say(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def _response(body: bytes, content_type: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def be_model(port: int) -> None:
    answer = _response(b"".join(stream("Done.")), EVENTS)
    await asyncio.get_running_loop().create_server(lambda: Model(answer), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def call_alone(port: int) -> dict[str, Any]:
    """The figures of the calls that one process makes of the model server, the worker's way."""
    async with open_client() as client:
        provider = OpenAIChatProvider(
            client, model="m", base_url=f"http://127.0.0.1:{port}", timeout=timedelta(seconds=PATIENCE)
        )
        job = leased_job()
        request = parse_chat_input(Raw(BODY.encode()))
        await provider.chat(request, job)
        before = time.process_time()
        async with httpx.AsyncClient(trust_env=False) as asking:
            await asking.get(f"http://127.0.0.1:{port}/arrivals")
            await asyncio.gather(*(provider.chat(request, job) for _ in range(AT_ONCE)))
            ended, cpu = time.monotonic(), time.process_time() - before
            arrivals = (await asking.get(f"http://127.0.0.1:{port}/arrivals")).json()
    return {
        "wall": ended - arrivals[0],
        "arrived": arrivals[-1] - arrivals[0],
        "cpu": {"calls": cpu},
    }


@dataclass
class Bench:
    api: Api
    worker: Process
    model: int
    """The port of the model server."""
    dsn: str
    parts: dict[str, int]
    """The processes by what they are."""

    async def measure(self, rounds: int) -> dict[str, Any]:
        figures: dict[str, Any] = {"calls alone": [], "worker": [], "end to end": []}
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(timeout=PATIENCE, limits=limits, trust_env=False) as self.client,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self.callers,
        ):
            await self.end_to_end()  # connections, prepared statements, caches
            for _ in range(rounds):
                figures["calls alone"].append(self.alone())
                figures["worker"].append(await self.at_the_worker())
                figures["end to end"].append(await self.end_to_end())
        return figures | {"worker_mb": Worker(self.worker.begun).memory}

    def alone(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.rush", "--role", "calls", "--port", str(self.model)]
        found: dict[str, Any] = json.loads(subprocess.check_output(command))
        return found

    async def at_the_worker(self) -> dict[str, Any]:
        await self._prepare()
        await self._post(f"/api/v1/queues/{QUEUE}/pause")
        job = {"owner_service": "rush", "task_type": "chat_completion", "model_profile": "scripted"}
        await self._post("/api/v1/jobs/batch", {"defaults": job, "jobs": [{"input": json.loads(BODY)}] * AT_ONCE})
        before = self._spent()
        await self._post(f"/api/v1/queues/{QUEUE}/resume")
        connection = await asyncpg.connect(self.dsn)
        try:
            await asyncio.sleep(SERVICE_TIME)
            while await connection.fetchval(UNFINISHED):  # noqa: ASYNC110  # another process's doing
                await asyncio.sleep(0.01)
        finally:
            await connection.close()
        return await self._figures(before, time.monotonic())

    async def end_to_end(self) -> dict[str, Any]:
        await self._prepare()
        before, began = self._spent(), time.monotonic()
        await asyncio.gather(*(self._chat() for _ in range(AT_ONCE)))
        return await self._figures(before, time.monotonic(), began)

    async def _chat(self) -> None:
        async with self.callers.post(f"{self.api.url}/chat", data=BODY) as response:
            assert response.status == 200, await response.text()
            await response.read()

    async def _prepare(self) -> None:
        await asyncio.sleep(CONNECTIONS_CLOSED)
        await self._arrivals()

    async def _arrivals(self) -> list[float]:
        found: list[float] = (await self.client.get(f"http://127.0.0.1:{self.model}/arrivals")).json()
        return found

    async def _post(self, path: str, body: object = None) -> None:
        (await self.client.post(f"{self.api.url}{path}", json=body)).raise_for_status()

    async def _figures(self, before: dict[str, float], ended: float, began: float | None = None) -> dict[str, Any]:
        spent = self._spent()
        arrivals = await self._arrivals()
        assert len(arrivals) == AT_ONCE, len(arrivals)
        began = began or arrivals[0]
        return {
            "wall": ended - began,
            "arrived": arrivals[-1] - began,
            "cpu": {part: spent[part] - before[part] for part in before},
        }

    def _spent(self) -> dict[str, float]:
        own = time.process_time()
        return {**{part: processor_time(pid) for part, pid in self.parts.items()}, "callers": own}


UNFINISHED = "SELECT count(*) FROM jobs WHERE status <> 'completed'"


@contextmanager
def installation() -> Iterator[Bench]:
    rabbit = find_rabbitmq()
    rabbit.start()
    [port] = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.rush", "--role", "model", "--port", str(port)]
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            EmbeddedPostgres(Path(folder) / "data") as postgres,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as model,
        ):
            assert model.stdout
            model.stdout.readline()
            asyncio.run(migrate(postgres.dsn))
            settings = {
                "DATABASE_URL": postgres.dsn,
                "AMQP_URL": rabbit.url,
                "LLM_BASE_URL": f"http://127.0.0.1:{port}/v1",
                "WORKER_CLAIM_LIMIT": str(AT_ONCE),
                "LOG_LEVEL": "info",
            }
            with Installation(Path(folder), **settings) as processes:
                api, worker = processes.serve_and_work()
                [database] = (Path(folder) / "data").glob("*/postmaster.pid")
                parts = {
                    "API": api.process.popen.pid,
                    "worker": worker.popen.pid,
                    "PostgreSQL": int(database.read_text().split()[0]),
                    "model": model.pid,
                }
                yield Bench(api, worker, port, postgres.dsn, parts)
            assert model.stdin
            model.stdin.close()
    finally:
        rabbit.stop()


if __name__ == "__main__":
    main()
