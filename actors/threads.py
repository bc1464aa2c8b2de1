"""Threads for functions that block: a run may be stuck in one for as long as it likes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def in_thread_of_its_own(call: Callable[[], T]) -> asyncio.Future[T]:
    """Not one of a pool: what is stuck in it must keep neither another run nor the end of the process waiting."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()
    threading.Thread(target=copy_context().run, args=(_settle, outcome, call), daemon=True).start()
    return asyncio.wrap_future(outcome)


def _settle(outcome: Future[T], call: Callable[[], T]) -> None:
    try:
        outcome.set_result(call())
    except (StopIteration, SystemExit, KeyboardInterrupt) as error:
        # These mean something to who awaits them: of the first asyncio would never hear, and wait for ever; the others
        # would end the event loop, and with it every run.
        escaped = RuntimeError(f"{type(error).__name__} left the function")
        outcome.set_exception(escaped.with_traceback(error.__traceback__))
    except BaseException as error:
        outcome.set_exception(error)
