"""What a worker process shows of itself on `WORKER_HTTP_PORT`: open, and only figures."""

from __future__ import annotations

import asyncio
import socket
import threading
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
import uvloop
from dramatiq import Broker, Middleware, Worker
from litestar import Litestar, MediaType, Response, get
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

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


def create_app(runtime: Runtime, leaving: threading.Event) -> Litestar:
    @get("/healthz", operation_id="worker_healthz", sync_to_thread=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", operation_id="worker_readyz", sync_to_thread=False)
    def readyz() -> Response[dict[str, str]]:
        seen = runtime.status().last_beat_at
        ready = not leaving.is_set() and seen is not None and datetime.now(UTC) - seen < READY_WITHIN
        status = HTTP_200_OK if ready else HTTP_503_SERVICE_UNAVAILABLE
        return Response({"status": "ok" if ready else "down"}, status_code=status)

    @get("/worker/status", operation_id="worker_status", sync_to_thread=False)
    def status() -> Response[bytes]:
        return Response(encode(runtime.status()), media_type=MediaType.JSON)

    return Litestar([healthz, readyz, status], openapi_config=None, logging_config=None)


def encode(status: WorkerStatus) -> bytes:
    return msgspec.json.encode(status)
