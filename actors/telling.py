"""Tells what runs answer while they answer it, to those who read along, and to nobody else.

A run whose job says `"stream": true` tells from its start; any other one once somebody asks. Whoever asks gets all of
its text so far, and then what comes for a while: who goes on reading asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from domain.events import JobEvent
from domain.job import JobId, LeasedJob
from domain.ports import Texts
from domain.texts import TextPiece

LASTS = 30.0
"""Seconds for which a run goes on telling after somebody asked."""

SNAPSHOTS_EVERY = 0.25
"""Seconds between two answers to those who ask: many may ask at once."""

FOR_EVER = float("inf")


class _Input(Struct):
    stream: bool = False


_inputs = msgspec.json.Decoder(_Input)


class Telling:
    """The text of one run, as far as it has come. Called with what comes."""

    def __init__(self, job: LeasedJob, texts: Texts) -> None:
        self._job = job
        self._texts = texts
        self._parts: list[str] = []
        self._length = 0
        self._until = FOR_EVER if _is_streamed(job) else 0.0
        self._told_all_at = 0.0
        self._answering: asyncio.TimerHandle | None = None
        self._told = False

    def __call__(self, text: str) -> None:
        if not text:
            return
        offset = self._length
        self._parts.append(text)
        self._length += len(text)
        if self._until > time.monotonic():
            self._send(offset, text)

    @property
    def bound(self) -> bool:
        """Whether somebody has read of this text who cannot be given another one."""
        return self._told and self._until == FOR_EVER

    def begin(self) -> None:
        """Forget the text so far: a provider that failed said it. Whoever has read it is set right by the result."""
        self._parts, self._length = [], 0

    def asked(self) -> None:
        """Tell all of it so far, once for all who ask at about the same time."""
        now = time.monotonic()
        self._until = max(self._until, now + LASTS)
        if self._answering is None:
            wait = max(0.0, self._told_all_at + SNAPSHOTS_EVERY - now)
            self._answering = asyncio.get_running_loop().call_later(wait, self._tell_all)

    def end(self) -> None:
        if self._answering:
            self._answering.cancel()

    def _tell_all(self) -> None:
        self._answering, self._told_all_at = None, time.monotonic()
        if self._parts:
            self._parts = ["".join(self._parts)]
            self._send(0, self._parts[0])

    def _send(self, offset: int, text: str) -> None:
        self._told = True
        self._texts.send([TextPiece(self._job.id, self._job.number, offset, text)])


@dataclass
class Tellings:
    """Those of all runs of a process."""

    texts: Texts
    _running: dict[JobId, Telling] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def of(self, job: LeasedJob) -> Iterator[Telling]:
        """That of a run that begins now, on the event loop where all of them run."""
        self._loop = asyncio.get_running_loop()
        telling = self._running[job.id] = Telling(job, self.texts)
        try:
            yield telling
        finally:
            telling.end()
            if self._running.get(job.id) is telling:
                del self._running[job.id]

    def heard(self, events: Sequence[JobEvent]) -> None:
        """Somebody reads along; to be given events of the kind `followed`. May be called on any thread."""
        if self._loop is None:
            return
        if asked := [event.job_id for event in events if event.job_id in self._running]:
            with suppress(RuntimeError):  # the loop is closed: nothing runs any more
                self._loop.call_soon_threadsafe(self._asked, asked)

    def _asked(self, job_ids: Sequence[JobId]) -> None:
        for job_id in job_ids:
            if telling := self._running.get(job_id):
                telling.asked()


def _is_streamed(job: LeasedJob) -> bool:
    try:
        return _inputs.decode(job.input).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # what is wrong with it, others say
