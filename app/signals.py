"""SIGTERM and SIGINT mean: finish what runs, then leave. A second one means: now."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


def stop_requested() -> asyncio.Event:
    """An event of the running loop that the first signal sets."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    _on_signal(lambda: loop.call_soon_threadsafe(event.set))
    return event


def stop_of_thread() -> threading.Event:
    """An event for the main thread to wait on that the first signal sets."""
    event = threading.Event()
    _on_signal(event.set)
    return event


def _on_signal(first: Callable[[], object]) -> None:
    seen = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if seen.is_set():
            os._exit(128 + number)
        seen.set()
        first()

    for number in STOPPING:
        signal.signal(number, handle)
