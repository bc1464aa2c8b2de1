"""What a worker process shows of itself on `WORKER_HTTP_PORT`: open, and only figures."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
import uvloop
from dramatiq import Broker, Middleware, Worker

from actors.runtime import Runtime, WorkerStatus
from app.server import Server, bind
from domain.errors import StartupError

log = structlog.get_logger()

READY_WITHIN = timedelta(seconds=10)
"""A worker whose last heartbeat reached PostgreSQL longer ago is not ready."""


class WorkerEndpoints(Middleware):
    """Starts with the worker and ends with it. Of several processes on one port the first owns it."""

    def __init__(self, runtime: Runtime, *, host: str, port: int, listener: socket.socket | None = None) -> None:
        self._runtime = runtime
        self._address = (host, port)
        self._listener = listener
        self._leaving = threading.Event()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        try:
            listener = self._listener or bind(*self._address, "WORKER_HTTP_PORT")
        except StartupError as error:
            log.info("the worker port is not ours", reason=str(error))
            return
        self._server = server = Server(create_app(self._runtime, self._leaving), grace=timedelta(seconds=1))
        self._thread = threading.Thread(target=_run, args=(server, listener), name="worker-http", daemon=True)
        self._thread.start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._leaving.set()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join()


def _run(server: Server, listener: socket.socket) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listener]))


Answer = tuple[HTTPStatus, bytes]

OK = HTTPStatus.OK, b'{"status":"ok"}'
DOWN = HTTPStatus.SERVICE_UNAVAILABLE, b'{"status":"down"}'
NO_SUCH_PAGE = HTTPStatus.NOT_FOUND, b'{"status":"not found"}'
ONLY_READ = HTTPStatus.METHOD_NOT_ALLOWED, b'{"status":"method not allowed"}'


class Pages:
    """An ASGI application of its own: a framework would take a worker 8 MB, and a fifth of the time to its start."""

    def __init__(self, pages: dict[str, Callable[[], Answer]]) -> None:
        self._pages = pages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        status, body = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, method: str, path: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            return NO_SUCH_PAGE
        return page() if method in {"GET", "HEAD"} else ONLY_READ


async def _live(receive: Any, send: Any) -> None:
    """Nothing is to be done when the server starts or ends."""
    for done in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{done}.complete"})


def create_app(runtime: Runtime, leaving: threading.Event) -> Pages:
    def ready() -> Answer:
        seen = runtime.status().last_beat_at
        is_ready = not leaving.is_set() and seen is not None and datetime.now(UTC) - seen < READY_WITHIN
        return OK if is_ready else DOWN

    return Pages(
        {
            "/healthz": lambda: OK,
            "/readyz": ready,
            "/worker/status": lambda: (HTTPStatus.OK, encode(runtime.status())),
        }
    )


def encode(status: WorkerStatus) -> bytes:
    return msgspec.json.encode(status)
