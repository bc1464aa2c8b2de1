"""Says every second that a worker process lives, from a thread and a connection of its own.

A busy event loop must not make it look dead, nor a hanging one alive: a beat says that the loop turned lately, or it is
not sent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta

import structlog

from domain.errors import StorageUnavailable
from domain.ports import Presence, WorkerBeat

log = structlog.get_logger()

INTERVAL = 1.0
"""Seconds between two beats. A worker whose lock is gone is dead after two that did not come."""

FORGOTTEN_AFTER = timedelta(hours=1)
"""A worker process not heard of for so long is struck from the list of workers."""

AGAIN = 0.2
"""Seconds to the next try after a beat that failed: a broken connection must not cost a second beat."""

PARTING_TIME = 2.0
"""Seconds that each last word to PostgreSQL may take; it may be there and not answer."""


class Heartbeat:
    def __init__(
        self,
        presence: Callable[[], AbstractAsyncContextManager[Presence]],
        signs: Callable[[], WorkerBeat | None],
        answered: Callable[[frozenset[str]], None],
    ) -> None:
        """
        Args:
            presence: opened on the thread's own event loop.
            signs: what to say; None while the process should not be taken for alive.
            answered: is told which queues are held, whenever a beat has arrived.
        """
        self._presence = presence
        self._signs = signs
        self._answered = answered
        self.tried = False
        """Whether a first beat was sent, or failed."""
        self._misses: str | None = None
        """Why the last beat did."""
        self._stop = threading.Event()
        self._wake: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say good-bye, if PostgreSQL is there, and end."""
        self._stop.set()
        with suppress(RuntimeError):  # its loop has ended already
            self._wake()
        self._thread.join(2 * PARTING_TIME)

    @property
    def alive(self) -> bool:
        """Whether it goes on. May be asked on any thread."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_on())
        except Exception:
            log.exception("heartbeat ended")

    async def _beat_on(self) -> None:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(stopping.set)
        async with self._presence() as presence:
            last = None
            while not self._stop.is_set():
                said = await self._beat(presence)
                self.tried, last = True, said or last
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), INTERVAL if said else AGAIN)
            if last:
                await self._part(presence, last)

    async def _beat(self, presence: Presence) -> WorkerBeat | None:
        if (signs := self._signs()) is None:
            self._missed("the event loop hangs")
            return None
        try:
            self._answered(await presence.beat(signs))
        except StorageUnavailable as error:
            self._missed(str(error))
        except Exception as error:  # without its heartbeat the process would be taken for dead
            self._missed(type(error).__name__)
        else:
            self._misses = None
            return signs
        return None

    def _missed(self, reason: str) -> None:
        """Tell it once: the next try comes soon."""
        if reason != self._misses:
            self._misses = reason
            log.warning("heartbeat missed", reason=reason)

    async def _part(self, presence: Presence, last: WorkerBeat) -> None:
        try:
            async with asyncio.timeout(PARTING_TIME):
                await presence.forget_worker(last.id, FORGOTTEN_AFTER)
        except (StorageUnavailable, TimeoutError) as error:
            log.warning("left without a word", reason=str(error))
