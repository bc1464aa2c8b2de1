"""What each run of a handler writes down, the same in every contestant: whose run, when it began and ended.

One `write` to a file opened for appending: it is whole whatever is killed, and several processes may share the file.
Where jobs do nothing at all, a thread writes ten times a second instead: a call of the system gives up the
interpreter's lock, and with 64 threads waiting for it that costs more than the job.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from pathlib import Path
from threading import Lock, Thread
from typing import NamedTuple

LINE = struct.Struct("<qddq")

VARIABLE = "BENCHMARK_RECORD"
"""Names the file to the processes of a contestant."""


WRITTEN_EVERY = 0.1
"""Seconds, where a thread writes."""


class Entry(NamedTuple):
    number: int
    began: float
    """Seconds since 1970, as `ended`: processes are compared by it."""
    ended: float
    process: int
    """That ran it: its id."""


class Recorder:
    """Writes in a contestant's process."""

    def __init__(self, *, at_once: bool = True) -> None:
        self._file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._kept: deque[bytes] = deque()
        self._at_once = at_once
        self._writing = Lock()

    def write(self, number: int, began: float) -> None:
        line = LINE.pack(number, began, time.time(), os.getpid())
        if self._at_once:
            os.write(self._file, line)
        else:
            self._kept.append(line)
            if not self._writing.locked() and self._writing.acquire(blocking=False):
                # Not before the first run: a fork would have no such thread.
                Thread(target=self._write_on, daemon=True).start()

    def _write_on(self) -> None:
        while True:
            time.sleep(WRITTEN_EVERY)
            if lines := [self._kept.popleft() for _ in range(len(self._kept))]:
                os.write(self._file, b"".join(lines))


def count(file: Path) -> int:
    return file.stat().st_size // LINE.size if file.exists() else 0


def entries(file: Path, *, after: int = 0) -> list[Entry]:
    """In the order of their ends.

    Args:
        after: so many that were written first are left out.
    """
    with file.open("rb") as lines:
        lines.seek(after * LINE.size)
        written = lines.read()
    whole = len(written) // LINE.size * LINE.size
    return sorted((Entry(*fields) for fields in LINE.iter_unpack(written[:whole])), key=lambda each: each.ended)
