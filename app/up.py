"""Everything in one process: the API, a worker and a scheduler, with an embedded PostgreSQL where none is given."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from msgspec.structs import replace

from app.bootstrap import Application, EmbeddedPostgres, build, migrate_if_wanted, rescue_everyone
from app.serve import Api
from app.settings import Settings
from app.worker import STOP_TIMEOUT_MS, start


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The DSN of the configured PostgreSQL, or of an embedded one that lives as long as this context.

    Raises:
        StartupError: the embedded one cannot start.
    """
    if settings.storage.database_url:
        yield settings.database_url
    else:
        with EmbeddedPostgres(settings.storage.data_dir) as postgres:
            yield postgres.dsn


@asynccontextmanager
async def everything(
    settings: Settings, dsn: str, listener: socket.socket, worker_listener: socket.socket
) -> AsyncIterator[Application]:
    """The whole service, from migrated and started to stopped."""
    application = build(_with_a_provider(settings), dsn=dsn, with_worker=True)
    await migrate_if_wanted(application)
    if settings.storage.database_url is None:
        await rescue_everyone(application)
    async with Api(application, listener):
        worker = await asyncio.to_thread(start, application, (), worker_listener)
        try:
            yield application
        finally:
            await asyncio.shield(asyncio.to_thread(worker.stop, STOP_TIMEOUT_MS))
            application.broker.close()


def _with_a_provider(settings: Settings) -> Settings:
    """Where no model is configured, the practice provider answers, and says so."""
    if settings.llm.base_url or settings.ai_provider:
        return settings
    return replace(settings, ai_provider="practice")
