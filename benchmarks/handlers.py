"""What a job does, the same in every contestant: nothing, a wait, or one HTTP call.

An asynchronous and a blocking form: each contestant gets the one that suits it best. The job's number comes with it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp

from benchmarks.record import Recorder

HANDLER, URL, SECONDS = "BENCHMARK_HANDLER", "BENCHMARK_URL", "BENCHMARK_SECONDS"
"""Variables that tell a contestant's process what its jobs do: `nothing`, `wait` or `call`; where to; how long."""

RESULT = "y" * 100
"""What every job gives back where results are kept."""

PAYLOAD = "x" * 180
"""Makes an input of about 200 bytes, together with the job's number."""

Handle = Callable[[int], Coroutine[Any, Any, str]]


def handler() -> Handle:
    """The one that the environment names, for the event loop that first calls it."""
    recorder = Recorder(at_once=os.environ[HANDLER] != "nothing")
    do = {"nothing": _nothing, "wait": _wait, "call": _call()}[os.environ[HANDLER]]

    async def handle(number: int) -> str:
        began = time.time()
        await do()
        recorder.write(number, began)
        return RESULT

    return handle


def blocking_handler() -> Callable[[int], str]:
    """For contestants whose jobs block a thread or a process: nothing or a wait only."""
    recorder = Recorder(at_once=os.environ[HANDLER] != "nothing")
    seconds = 0.0 if os.environ[HANDLER] == "nothing" else float(os.environ[SECONDS])

    def handle(number: int) -> str:
        began = time.time()
        if seconds:
            time.sleep(seconds)
        recorder.write(number, began)
        return RESULT

    return handle


async def _nothing() -> None:
    pass


async def _wait() -> None:
    await asyncio.sleep(float(os.environ[SECONDS]))


def _call() -> Callable[[], Awaitable[None]]:
    session: aiohttp.ClientSession | None = None

    async def call() -> None:
        nonlocal session
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with session.get(os.environ[URL]) as response:
            await response.read()

    return call
