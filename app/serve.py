"""The API process: HTTP, and a scheduler that stands by."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import structlog

from app.bootstrap import Application
from app.http import create_app
from app.keyring import Keyring
from app.server import Server, url_of
from app.signals import stop_requested

log = structlog.get_logger()


async def serve(application: Application, listener: socket.socket) -> None:
    """Answer callers until a signal comes."""
    stop = stop_requested()
    if not application.routes.queues:
        log.warning(
            "no model is configured here: jobs get no queue", hint="set LLM_BASE_URL and LLM_MODEL as for workers"
        )
    async with Api(application, listener):
        log.info("listening", url=url_of(listener))
        await stop.wait()


class Api:
    """HTTP and the standby scheduler, from enter to exit."""

    def __init__(self, application: Application, listener: socket.socket) -> None:
        """
        Raises:
            StartupError: the file of tokens cannot be used any more.
        """
        self._application = application
        self._keyring = Keyring.of(application.settings.http)
        self._listener = listener
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        core = await self._stack.enter_async_context(self._application.core())
        settings = self._application.settings
        app = create_app(core.services, keyring=self._keyring, limits=settings.limits)
        server = Server(app, grace=settings.worker.shutdown_grace)
        scheduler = asyncio.create_task(core.scheduler.run())
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        self._stack.push_async_callback(_stop, server, serving, scheduler)
        self._stack.callback(core.services.watch.dismiss)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def _stop(server: Server, serving: asyncio.Task[None], scheduler: asyncio.Task[None]) -> None:
    server.should_exit = True
    scheduler.cancel()
    await asyncio.gather(serving, scheduler, return_exceptions=True)
