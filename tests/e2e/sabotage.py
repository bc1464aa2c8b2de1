"""Runs a command one part of which ends by itself a moment after its start: `sabotage.py PART COMMAND...`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from dramatiq import Worker
from dramatiq.worker import ConsumerThread, WorkerThread

from actors.runtime import Runtime
from app import cli
from app.scheduler import Scheduler
from app.server import Server

SOON = 0.5


async def ends(*_: object) -> None:
    await asyncio.sleep(SOON)


async def fails(*_: object) -> None:
    await asyncio.sleep(SOON)
    raise RuntimeError


def turns_no_more(runtime: Runtime, worker: Worker, queues: list[str]) -> int:
    slots = start(runtime, worker, queues)
    assert runtime._loop
    runtime._loop.call_soon_threadsafe(runtime._loop.call_later, SOON, runtime._loop.stop)
    return slots


def returns(thread: object) -> None:
    """At once."""


start: Callable[..., int] = Runtime.start

PARTS: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "the HTTP server": (Server, "main_loop", ends),
    "the scheduler": (Scheduler, "run", fails),
    "the event loop": (Runtime, "start", turns_no_more),
    "the consumer of gpu.llm": (ConsumerThread, "run", returns),
    "a worker thread": (WorkerThread, "run", returns),
}

if __name__ == "__main__":
    part = sys.argv.pop(1)
    setattr(*PARTS[part])
    cli.main()
