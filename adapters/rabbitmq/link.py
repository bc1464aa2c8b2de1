"""A thread with a RabbitMQ connection of its own, which is made anew whenever it breaks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from pika import BlockingConnection, URLParameters

from adapters.rabbitmq.connection import AWAY, Tidings, named

log = structlog.get_logger()

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds before a next try: the first after a connection that held for a while, doubling up to the longest.

With jitter: a RabbitMQ that is back is not met by all at once.
"""

HELD = 1.0
"""Seconds that a connection lasts which is no failed try; how long it took to be refused does not count."""


def next_wait(before: float, lasted: float) -> float:
    """Seconds until the next try, when the one after `before` seconds had a connection for `lasted` (0: none)."""
    return FIRST_WAIT if lasted > HELD else min(before * 2, LONGEST_WAIT)


class Link:
    """`start` it once and `stop` it once; a broker that is away ends neither the thread nor the process."""

    def __init__(
        self, name: str, parameters: Sequence[URLParameters], use: Callable[[BlockingConnection], None]
    ) -> None:
        """
        Args:
            use: sets `ready` when it is prepared, and works on its connection until `stopping` is set. When it returns
                before, or raises, it is called again with another connection.
        """
        self.stopping = threading.Event()
        self.ready = threading.Event()
        self._name = name
        self._parameters = named(parameters, name)
        self._use = use
        self._connection: BlockingConnection | None = None
        self._connected_at: float | None = None
        self._tidings = Tidings(name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def request_stop(self) -> None:
        """Wake whoever waits for something to come over the connection, and have the thread end."""
        self.stopping.set()
        if connection := self._connection:
            with suppress(*AWAY):
                connection.add_callback_threadsafe(lambda: None)

    def join(self, timeout: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self.stopping.is_set():
            self._connected_at = None
            try:
                self._once()
            except AWAY as error:
                self._tidings.lost(error)
            except Exception:  # without this thread nothing would be sent or heard any more
                log.exception("broker link failed", link=self._name)
            wait = next_wait(wait, 0.0 if self._connected_at is None else time.monotonic() - self._connected_at)
            self.stopping.wait(wait * (0.5 + random.random()))  # noqa: S311

    def _once(self) -> None:
        connection = self._connection = BlockingConnection(self._parameters)
        self._connected_at = time.monotonic()
        try:
            self._tidings.connected()
            self._use(connection)
        finally:
            self._connection = None
            self.ready.clear()
            with suppress(*AWAY):
                if connection.is_open:
                    connection.close()
