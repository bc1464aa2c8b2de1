"""Ends a worker process that has lost a thread: jobs would wait for it for ever, while their leases are renewed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import structlog
from dramatiq import Broker, Middleware, Worker

from actors.runtime import Runtime

log = structlog.get_logger()

INTERVAL = 1.0

LOOP = "the event loop"


class Watchdog(Middleware):
    """Looks after the threads from the worker's start to the beginning of its end."""

    def __init__(self, runtime: Runtime, died: Callable[[str], None], *, exits: bool = False) -> None:
        """
        Args:
            died: has the process end in good order; told which part has ended, after the log was.
            exits: fail the process, once its worker is stopped, where nobody else will.
        """
        self._runtime = runtime
        self._died = died
        self._exits = exits
        self._over = threading.Event()
        self._found: str | None = None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        threading.Thread(target=self._watch, args=(worker,), name="watchdog", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._over.set()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._found and self._exits:
            raise SystemExit(1)

    def _watch(self, worker: Worker) -> None:
        while not self._over.wait(INTERVAL):
            part = next(self._dead(worker), None)
            if part and not self._over.is_set():
                self._found = part
                log.critical("part died", part=part)
                if part == LOOP:  # nothing can be handed back without it; the rescue of a dead process is quick
                    os._exit(1)
                self._died(part)
                return

    def _dead(self, worker: Worker) -> Iterator[str]:
        if not self._runtime.turns:
            yield LOOP
        if not self._runtime.beats:
            yield "the heartbeat"
        if not all(thread.is_alive() for thread in worker.workers):
            yield "a worker thread"
        for queue, thread in worker.consumers.items():
            if not thread.is_alive():
                yield f"the consumer of {queue}"
