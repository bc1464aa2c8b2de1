"""The worker process, under our own command or under Dramatiq's: `dramatiq app.worker:setup -Q gpu.llm`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import dramatiq
import structlog
from dramatiq import Worker

from actors.lease import LeaseMiddleware
from app import dumps, logs
from app.bootstrap import Application, build, migrate_if_wanted, require_profiles
from app.settings import from_env
from app.signals import Stop
from app.watchdog import Watchdog
from app.worker_endpoints import WorkerEndpoints
from domain.errors import StartupError

log = structlog.get_logger()

STOP_TIMEOUT_MS = 600_000
"""The desks end every run within the grace period; this only bounds what nobody foresaw."""


def setup() -> None:
    """Give Dramatiq's command its broker."""
    dumps.forbid()
    with _ended_at_once_by_sigterm():
        settings = from_env(os.environ)
        logs.set_up(settings.logs)
        application = build(settings, role="worker")
        require_profiles(application)
        asyncio.run(migrate_if_wanted(application))
    broker = application.broker
    broker.add_middleware(Watchdog(application.runtime, _end_dramatiqs_worker, exits=True), before=LeaseMiddleware)
    broker.add_middleware(
        WorkerEndpoints(
            application.runtime, application.metrics, host=settings.worker.http_host, port=settings.worker.http_port
        )
    )
    dramatiq.set_broker(broker)


def run(application: Application, queues: Sequence[str], listener: socket.socket, stop: Stop) -> None:
    """Work on these queues until the process is asked to end; block the main thread meanwhile.

    Raises:
        StartupError: a queue is not configured here.
        PartDied: a thread of it ended by itself.
    """
    stop.hold()
    worker = start(application, queues, listener, stop.ask)
    stop.wait()
    worker.stop(STOP_TIMEOUT_MS)
    application.broker.close()
    stop.verdict()


def start(
    application: Application, queues: Sequence[str], listener: socket.socket, died: Callable[[str], None]
) -> Worker:
    """Start working; `Worker.stop` ends it.

    Args:
        died: told which part of the worker ended by itself, after the log was.

    Raises:
        StartupError: a queue is not configured here.
    """
    served = _chosen(application, queues)
    endpoints = WorkerEndpoints(application.runtime, application.metrics, host="", port=0, listener=listener)
    application.broker.add_middleware(Watchdog(application.runtime, died))
    application.broker.add_middleware(endpoints)
    threads = application.settings.worker.claim_limit * len(served)
    worker = Worker(application.broker, queues=served, worker_threads=threads)
    worker.start()
    return worker


def _chosen(application: Application, queues: Sequence[str]) -> set[str]:
    require_profiles(application)
    known = application.routes().queues
    if unknown := [queue for queue in queues if queue not in known]:
        raise StartupError(f"--queues: {unknown[0]} is not a queue of this installation; known: {', '.join(known)}.")
    return set(queues or known)


@contextmanager
def _ended_at_once_by_sigterm() -> Iterator[None]:
    """Dramatiq's own handler has a process that waits for PostgreSQL go on waiting."""
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _end_dramatiqs_worker(part: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
