"""Where the command begins: what it is made of takes a second to load, and a signal that comes meanwhile counts too."""

from __future__ import annotations

import gc
import os
import signal
from importlib import import_module
from types import FrameType


def main() -> None:
    # Nothing is lost yet. Without a handler the kernel keeps SIGTERM from process 1 of a container.
    signal.signal(signal.SIGTERM, _end_at_once)
    # What is loaded stays: to look for garbage in it again and again takes a tenth of that second.
    gc.disable()
    import_module("app.cli").main()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
