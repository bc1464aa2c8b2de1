"""The API process: HTTP, and a scheduler that stands by."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Self

import structlog

from app.api.cut_short import CutShort
from app.bootstrap import Application
from app.http import create_app
from app.keyring import Keyring
from app.parts import Died, Parts
from app.server import Server, url_of
from app.signals import Stop
from app.watch import Watch

log = structlog.get_logger()

DRAIN = 1.0
"""Seconds in which a process that was asked to end still takes requests, and tells each caller to connect anew."""

LAST_REQUESTS = 0.2
"""Seconds in which requests on their way over open connections still come in."""


async def serve(application: Application, listener: socket.socket, stop: Stop) -> None:
    """Answer callers until the process is asked to end."""
    if not application.routes().queues:
        log.warning(
            "no model is configured here: jobs get no queue", hint="set LLM_BASE_URL and LLM_MODEL as for workers"
        )
    async with Api(application, listener, stop.ask) as api:
        log.info("listening", url=url_of(listener))
        await stop.asked()
        api.leave()
        if api.serves:
            await asyncio.sleep(DRAIN)


class Api:
    """HTTP and the standby scheduler, from enter to exit."""

    def __init__(self, application: Application, listener: socket.socket, died: Died) -> None:
        """
        Raises:
            StartupError: the file of tokens cannot be used any more.
        """
        self._application = application
        self._keyring = Keyring.of(application.settings.http)
        self._listener = listener
        self._parts = Parts(died)
        self._stack: AsyncExitStack
        self._watch: Watch
        self._server: Server
        self._serving: asyncio.Task[None]
        self._scheduling: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        settings = self._application.settings
        async with AsyncExitStack() as stack:
            core = await stack.enter_async_context(self._application.core())
            app = create_app(core.services, keyring=self._keyring, limits=settings.limits, scrape=core.scrape)
            self._stack = stack.pop_all()
        self._watch = core.services.watch
        self._server = Server(self._application.observed(CutShort(app)), grace=settings.worker.shutdown_grace)
        self._scheduling = self._parts.start("the scheduler", core.scheduler.run())
        self._serving = self._parts.start("the HTTP server", self._server.serve(sockets=[self._listener]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        # In this order: those who wait are answered, and ask again elsewhere.
        self._server.close_port()
        self._watch.dismiss()
        if self.serves:
            await asyncio.sleep(LAST_REQUESTS)
        self._server.should_exit = True
        await asyncio.wait({self._serving, self._scheduling})
        await self._stack.aclose()

    @property
    def serves(self) -> bool:
        return not self._serving.done()

    def leave(self) -> None:
        """Go on answering, but be ready no more, let callers connect anew, and hand the scheduler's lead over."""
        self._parts.leaving = True
        self._watch.leave()
        self._server.drain()
        self._scheduling.cancel()
