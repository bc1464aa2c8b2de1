"""SIGTERM, SIGINT and SIGHUP mean: finish what runs, then leave. A second one means: now."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from queue import SimpleQueue
from types import FrameType
from typing import Any, TypeVar

import uvloop

from domain.errors import ServiceError

T = TypeVar("T")

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

ECHO = 0.5
"""Seconds after the first signal in which another is the same: wrappers pass on what the terminal sent to both."""


class Stopped(BaseException):
    """The process was asked to end before it had started: not a failure."""


class PartDied(ServiceError):
    """A part of the process ended by itself."""


class Stop:
    """Whether the process was asked to end. The main thread makes it, once, before anything that takes time.

    Until `run` or `hold` is called a signal raises `Stopped` in the main thread, wherever it is: what was begun there
    is unwound. A handler of our own is needed from the start: without one, process 1 of a container ignores SIGTERM.
    """

    def __init__(self) -> None:
        self.because: str | None = None
        """The part whose end is the reason, if no signal is."""
        self._signalled_at: float | None = None
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        # Not a threading.Event: its lock may be held by the very thread that the handler interrupts.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._event = asyncio.Event()
        self._heed: Callable[[], object] = _raise_stopped
        for number in STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # else: nohup
                signal.signal(number, self._handle)

    def ask(self, because: str) -> None:
        """End the process in good order, but as failed: this part of it has ended. May be called on any thread."""
        self.because = self.because or because
        self._tell()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this on an event loop, where `asked` and `unless` heed what the process is asked."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            loop = runner.get_loop()
            self._heeded_by(lambda: loop.call_soon_threadsafe(self._event.set))
            try:
                return runner.run(work)
            finally:
                self.hold()

    def hold(self) -> None:
        """From now on a signal is only noted, for `wait` and `run`."""
        self._heed = _note

    def wait(self) -> None:
        """Block the main thread until the process is asked to end."""
        self.hold()
        self._asked.get()

    async def asked(self) -> None:
        """Return when the process is asked to end."""
        await self._event.wait()

    async def unless(self, starting: Awaitable[T]) -> T:
        """What this returns.

        Raises:
            Stopped: the process was asked to end meanwhile; it was cancelled, and has ended.
        """
        start = asyncio.ensure_future(starting)
        asked = asyncio.create_task(self.asked())
        try:
            await asyncio.wait({start, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                start.cancel()
                await asyncio.wait({start})
                raise Stopped
            return start.result()
        finally:
            asked.cancel()

    def verdict(self) -> None:
        """To be called when all is stopped.

        Raises:
            PartDied: that is why.
        """
        if self.because:
            raise PartDied(
                f"{self.because} ended by itself, so the process ends; its supervisor should start it again."
            )

    def _heeded_by(self, heed: Callable[[], object]) -> None:
        self._heed = heed
        if self.because or self._signalled_at is not None:
            heed()

    def _tell(self) -> None:
        self._asked.put(None)
        self._heed()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self._let_go_of_closed_terminals()
        if self._signalled_at is None:
            self._signalled_at = now
            self._tell()
        elif number != signal.SIGHUP and now - self._signalled_at > ECHO:  # a closed terminal sends several
            os._exit(128 + number)

    def _let_go_of_closed_terminals(self) -> None:
        """What cannot be written to them would fail the process when it ends."""
        for stream in self._terminals:
            if not os.isatty(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _raise_stopped() -> None:
    raise Stopped


def _note() -> None:
    """It is in the queue."""
