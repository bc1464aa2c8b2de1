"""What a worker process shows of itself on `WORKER_HTTP_PORT`: open, and only figures."""

from __future__ import annotations

import asyncio
import socket
import threading
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import msgspec
import structlog
import uvloop
from dramatiq import Broker, Middleware, Worker

from actors.runtime import Runtime, WorkerStatus
from actors.tickets import NotConnected
from app.pages import DOWN, OK, Answer, Pages, always, scraped, seen
from app.scrape import Counters, Page, Scrape, up
from app.server import Server, bind
from domain.errors import StartupError
from domain.usecases.report import Readiness

log = structlog.get_logger()

READY_WITHIN = timedelta(seconds=10)
"""A worker whose last heartbeat reached PostgreSQL longer ago is not ready."""


class WorkerEndpoints(Middleware):
    """Starts with the worker and ends with it. Of several processes on one port the first owns it."""

    def __init__(
        self, runtime: Runtime, counters: Counters, *, host: str, port: int, listener: socket.socket | None = None
    ) -> None:
        self._runtime = runtime
        self._counters = counters
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
        app = create_app(self._runtime, self._leaving, scrape_of(self._runtime, worker, self._counters))
        self._server = server = Server(app, grace=timedelta(seconds=1))
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


def create_app(runtime: Runtime, leaving: threading.Event, scrape: Scrape) -> Pages:
    return Pages(
        {
            "/healthz": always(OK),
            "/readyz": seen(lambda: OK if not leaving.is_set() and _beats(runtime) else DOWN),
            "/worker/status": seen(lambda: Answer(HTTPStatus.OK, encode(runtime.status()))),
            "/metrics": scraped(scrape),
        }
    )


def scrape_of(runtime: Runtime, worker: Worker, counters: Counters) -> Scrape:
    """What the process counts, and what it can use as far as it has noticed: nobody is asked."""

    async def page(accept: str) -> Page:
        readiness = Readiness(storage=_beats(runtime), broker=_is_connected(worker))
        return Page(*counters.page(accept, up(readiness)))

    return page


def _beats(runtime: Runtime) -> bool:
    beaten = runtime.status().last_beat_at
    return beaten is not None and datetime.now(UTC) - beaten < READY_WITHIN


def _is_connected(worker: Worker) -> bool:
    consumers = [thread.consumer for thread in worker.consumers.values()]
    return all(consumer is not None and not isinstance(consumer, NotConnected) for consumer in consumers)


def encode(status: WorkerStatus) -> bytes:
    return msgspec.json.encode(status)
