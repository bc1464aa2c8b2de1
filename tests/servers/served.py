"""The whole service in a thread of its own, as `ai-service up` runs it: for tests that talk to it without asyncio.

with Served(dsn) as served:
    ... served.url ...
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from types import TracebackType

from app import up
from app.server import bind, url_of
from app.settings import from_env

STARTED_WITHIN = 30.0

ENVIRONMENT = {
    "HTTP_HOST": "127.0.0.1",
    "AI_PROVIDER": "practice",
    "SHUTDOWN_GRACE": "1s",
    "LOG_LEVEL": "error",
    "RETRY_DELAY_FAST": "200ms",
    "RETRY_DELAY_SLOW": "200ms",
}


class Served:
    def __init__(self, dsn: str, **settings: str) -> None:
        self._dsn = dsn
        self._settings = from_env(ENVIRONMENT | settings)
        self._listener, self._worker_listener = bind("127.0.0.1", 0, "HTTP_PORT"), bind("127.0.0.1", 0, "HTTP_PORT")
        self.url = url_of(self._listener)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="served", daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        self._started.result(STARTED_WITHIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STARTED_WITHIN)
        self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._started.set_exception(error)
            raise

    async def _serve(self) -> None:
        async with up.everything(self._settings, self._dsn, self._listener, self._worker_listener):
            self._started.set_result(None)
            await self._stop.wait()
