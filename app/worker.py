"""The worker process, under our own command or under Dramatiq's: `dramatiq app.worker:setup -Q gpu.llm`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

import dramatiq
import structlog
from dramatiq import Worker

from app import dumps, logs
from app.bootstrap import Application, build, migrate_if_wanted, require_profiles
from app.settings import from_env
from app.signals import stop_of_thread
from app.worker_endpoints import WorkerEndpoints
from domain.errors import StartupError

log = structlog.get_logger()

STOP_TIMEOUT_MS = 600_000
"""The desks end every run within the grace period; this only bounds what nobody foresaw."""


def setup() -> None:
    """Give Dramatiq's command its broker."""
    dumps.forbid()
    settings = from_env(os.environ)
    logs.set_up(settings.logs)
    application = build(settings)
    require_profiles(application)
    asyncio.run(migrate_if_wanted(application))
    application.broker.add_middleware(
        WorkerEndpoints(application.runtime, host=settings.worker.http_host, port=settings.worker.http_port)
    )
    dramatiq.set_broker(application.broker)


def run(application: Application, queues: Sequence[str], listener: socket.socket) -> None:
    """Work on these queues until a signal comes; block the main thread meanwhile."""
    # First: it may claim jobs before `start` returns.
    stop = stop_of_thread()
    worker = start(application, queues, listener)
    stop.wait()
    worker.stop(STOP_TIMEOUT_MS)
    application.broker.close()


def start(application: Application, queues: Sequence[str], listener: socket.socket) -> Worker:
    """Start working; `Worker.stop` ends it.

    Raises:
        StartupError: a queue is not configured here.
    """
    served = _chosen(application, queues)
    endpoints = WorkerEndpoints(application.runtime, host="", port=0, listener=listener)
    application.broker.add_middleware(endpoints)
    threads = application.settings.worker.claim_limit * len(served)
    worker = Worker(application.broker, queues=served, worker_threads=threads)
    worker.start()
    return worker


def _chosen(application: Application, queues: Sequence[str]) -> set[str]:
    require_profiles(application)
    known = application.routes.queues
    if unknown := [queue for queue in queues if queue not in known]:
        raise StartupError(f"--queues: {unknown[0]} is not a queue of this installation; known: {', '.join(known)}.")
    return set(queues or known)
