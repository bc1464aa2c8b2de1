"""What streaming through the service costs: API, RabbitMQ and a worker process before a slow model server.

1. The first token of ten streams, one after another, beyond that of a direct call of the model server.
2. 200 streams at once, of 200 words each: whether each text is whole and in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from adapters.embedded.postgres import EmbeddedPostgres
from app.migrating import migrate
from tests.e2e.service import Installation
from tests.servers.model_server import ModelServer, Reply, Request, after, says
from tests.servers.rabbitmq import find_rabbitmq, free_ports

AT_ONCE = 200
FIRST_TOKEN = 0.2
WORDS = 200
PATIENCE = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        be_model(int(arguments.role))
        return
    with installation() as (api, model):
        figures = asyncio.run(measure(api, model, arguments.streams))
    print(f"first token: {figures['added_ms']:.1f} ms more than directly (median of {arguments.streams})")
    print(f"{AT_ONCE} streams of {WORDS} words: {figures['whole']} whole and in order, in {figures['streams_s']:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


def be_model(port: int) -> None:
    async def behave(request: Request, reply: Reply) -> None:
        kind, _, name = request.last_message.partition(" ")
        match kind:
            case "first":
                await after(FIRST_TOKEN, says("Here it is."))(request, reply)
            case _:
                await after(FIRST_TOKEN, says(" ".join([name] * WORDS), pause=0.02))(request, reply)

    with ModelServer(default=behave, port=port):
        print("ready", flush=True)
        sys.stdin.read()


@contextmanager
def installation() -> Iterator[tuple[str, str]]:
    """The addresses of the API and of the model server."""
    rabbit = find_rabbitmq()
    rabbit.start()
    [port] = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.streaming", "--role", str(port)]
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
                api.process.says("text-listener")
                worker.says("text-publisher")
                yield api.url, f"http://127.0.0.1:{port}"
            assert model.stdin
            model.stdin.close()
    finally:
        rabbit.stop()


async def measure(api: str, model: str, streams: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits, trust_env=False) as client:
        for _ in range(3):  # connections, caches
            await _first(client, f"{api}/chat/stream", {})
            await _first(client, f"{model}/v1/chat/completions", {"stream": True, "model": "m"})
        added = []
        for _ in range(streams):
            direct = await _first(client, f"{model}/v1/chat/completions", {"stream": True, "model": "m"})
            added.append(await _first(client, f"{api}/chat/stream", {}) - direct)
        began = time.monotonic()
        texts = await asyncio.gather(*(_text(client, f"{api}/chat/stream", f"name-{n}") for n in range(AT_ONCE)))
        streams_s = time.monotonic() - began
        whole = sum(text == " ".join([f"name-{n}"] * WORDS) for n, text in enumerate(texts))
    return {
        "added_ms": statistics.median(added) * 1000,
        "all_added_ms": [each * 1000 for each in added],
        "whole": whole,
        "streams_s": streams_s,
    }


async def _first(client: httpx.AsyncClient, url: str, more: dict[str, Any]) -> float:
    """Seconds to the first piece of text."""
    began = time.monotonic()
    first = None
    async with client.stream("POST", url, json=_asked("first") | more) as response:
        async for line in response.aiter_lines():
            if first is None and ('"text":"' in line or '"content": "' in line):
                first = time.monotonic() - began
    assert first is not None, response.status_code
    return first


async def _text(client: httpx.AsyncClient, url: str, name: str) -> str:
    """The text of a stream, if each token stands where the one before it ends."""
    text = ""
    async with client.stream("POST", url, json=_asked(f"long {name}")) as response:
        async for line in response.aiter_lines():
            if line.startswith('data: {"offset"'):
                token = json.loads(line.removeprefix("data: "))
                assert token["offset"] == len(text)
                text += token["text"]
    return text


def _asked(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


if __name__ == "__main__":
    main()
