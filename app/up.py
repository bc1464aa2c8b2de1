"""Everything in one process: the API, a worker and a scheduler, with an embedded PostgreSQL where none is given."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog

from app.bootstrap import Application, EmbeddedPostgres, build, migrate_if_wanted, rescue_everyone
from app.parts import Died
from app.providers import with_a_provider
from app.serve import Api
from app.settings import Settings
from app.worker import STOP_TIMEOUT_MS, start

log = structlog.get_logger()

LOOK_EVERY = 1.0
"""Seconds between two looks whether the embedded PostgreSQL still runs."""


def _go_on(part: str) -> None:
    """The log has it."""


@contextmanager
def database(settings: Settings, died: Died = _go_on) -> Iterator[str]:
    """The DSN of the configured PostgreSQL, or of an embedded one that lives as long as this context.

    Args:
        died: told that the embedded one ended by itself.

    Raises:
        StartupError: the embedded one cannot start.
    """
    if settings.storage.database_url:
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.storage.data_dir) as postgres:
        over = threading.Event()
        threading.Thread(target=_watch, args=(postgres, over, died), name="postgres-watch", daemon=True).start()
        try:
            yield postgres.dsn
        finally:
            over.set()


@asynccontextmanager
async def everything(
    settings: Settings, dsn: str, listener: socket.socket, worker_listener: socket.socket, died: Died = _go_on
) -> AsyncIterator[Application]:
    """The whole service, from migrated and started to stopped.

    Args:
        died: told which part ended by itself.
    """
    application = build(await with_a_provider(settings), dsn=dsn, role="up", with_worker=True)
    await migrate_if_wanted(application)
    if settings.storage.database_url is None:
        await rescue_everyone(application)
    async with Api(application, listener, died) as api:
        # A thread cannot be cancelled: who gives up meanwhile has to stop the worker all the same.
        starting = asyncio.create_task(asyncio.to_thread(start, application, (), worker_listener, died))
        try:
            await asyncio.shield(starting)
            yield application
        finally:
            api.leave()
            worker = await starting
            await asyncio.shield(asyncio.to_thread(worker.stop, STOP_TIMEOUT_MS))
            application.broker.close()


def _watch(postgres: EmbeddedPostgres, over: threading.Event, died: Died) -> None:
    while not over.wait(LOOK_EVERY):
        if not postgres.alive() and not over.is_set():
            log.critical("part died", part="the embedded PostgreSQL")
            died("the embedded PostgreSQL")
            return
